//! What is not runs: signals, acknowledgements, subscriptions and schedules, by the job's own cutoff.
//!
//! No index leads to the first three, so the whole table is read once, some pages a step. Signals go at once. What depends on other things,
//! an acknowledgement on its signal and a checkpoint on the subscriptions of its step, waits until all of them were seen.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use futures::future::try_join_all;

use super::{
    DynamoStore, RUNS_MAX,
    keys::{self, DATA, Item, STATUS_INDEX, key, key_of, text, text_of},
    scan::Filter,
    transact::{Deletion, Outcome},
};
use crate::{
    lock::Fence,
    report::Counts,
    runs::{Cursor, LooseStep, Stamp, StoreError},
};

/// How long a step reads pages.
const STEP_MAX: Duration = Duration::from_secs(1);
/// How many of what waited go in a step.
const WAITING_MAX: usize = 1_000;
const FILTER: Filter = Filter {
    condition: "begins_with(PK, :signals) OR begins_with(PK, :acks) OR begins_with(PK, :subs)",
    values: &[(":signals", "STREAM_RUN#"), (":acks", "SIGACK#"), (":subs", "STREAMSUB#")],
    attributes: &[
        "PK",
        "SK",
        "signal_id",
        "stream_id",
        "signal_type",
        "published_at",
        "acknowledged_at",
        "step_run_id",
        "status",
        "created_at",
    ],
};

/// What a scan has found so far.
#[derive(Debug, Default)]
pub(super) struct LooseState {
    /// Which scan this is: a cursor of another one starts anew.
    scan: u64,
    hasher: RandomState,
    /// The signals that stay, as hashes.
    signals: HashSet<u64>,
    /// The steps that a subscription which stays belongs to, as hashes.
    readers: HashSet<u64>,
    /// Old acknowledgements with their signals.
    acknowledgements: Vec<(String, Deletion)>,
    /// Old subscriptions that have ended, by step.
    subscriptions: BTreeMap<String, Vec<Deletion>>,
}

impl LooseState {
    fn restart(&mut self) {
        *self = Self { scan: self.scan + 1, ..Self::default() };
    }

    fn hash(&self, word: &str) -> u64 {
        self.hasher.hash_one(word)
    }
}

/// A step in hand.
struct Step<'a> {
    cutoff: DateTime<Utc>,
    /// Who deletes; without it things are only counted.
    leave: Option<(&'a str, Fence)>,
    counts: Counts,
}

impl Step<'_> {
    fn is_old(&self, item: &Item, time: &str) -> bool {
        let stamp = Stamp::read(text_of(item, time).map(str::to_owned));
        stamp.instant.is_some_and(|at| at < self.cutoff)
    }
}

/// A subscription that has not ended.
struct Reader {
    step: String,
    /// None: an unreadable list of types may name any.
    kinds: Option<Vec<serde_json::Value>>,
}

fn deletion(item: &Item, attributes: &[&'static str]) -> Deletion {
    let (partition, sort) = key_of(item);
    Deletion {
        key: key(partition, sort),
        seen: attributes.iter().map(|name| (*name, item.get(*name).cloned())).collect(),
    }
}

impl DynamoStore {
    pub(super) async fn loose_step(
        &self,
        cutoff: DateTime<Utc>,
        after: Option<&Cursor>,
        leave: Option<(&str, Fence)>,
        limit: Duration,
    ) -> Result<LooseStep, StoreError> {
        if let Some(holder) = leave {
            self.guard_fence(holder).await?;
        }
        let mut state = self.loose.lock().await;
        let mut step = Step { cutoff, leave, counts: Counts::default() };
        let is_ours = |scan: &String| scan.parse() == Ok(state.scan);
        let next = match after.map(|cursor| cursor.0.as_slice()) {
            Some([scan]) if is_ours(scan) => self.settle(&mut step, &mut state).await?,
            Some([scan, partition, sort]) if is_ours(scan) => {
                let behind = key(partition.as_str(), sort.as_str());
                self.read_on(&mut step, &mut state, Some(behind), limit).await?
            }
            _ => {
                state.restart();
                self.read_on(&mut step, &mut state, None, limit).await?
            }
        };
        Ok(LooseStep { counts: step.counts, next })
    }

    /// Reads pages of the table for some time.
    async fn read_on(
        &self,
        step: &mut Step<'_>,
        state: &mut LooseState,
        mut behind: Option<Item>,
        limit: Duration,
    ) -> Result<Option<Cursor>, StoreError> {
        let until = Instant::now() + limit.min(STEP_MAX);
        loop {
            let (items, next) = self.scan_page(&FILTER, None, behind).await?;
            let mut old = Vec::new();
            for item in items {
                self.sort(step, state, item, &mut old);
            }
            self.take_signals(step, state, &old).await?;
            let Some(next) = next else { return Ok(Some(Cursor(vec![state.scan.to_string()]))) };
            if Instant::now() >= until {
                let (partition, sort) = key_of(&next);
                return Ok(Some(Cursor(vec![state.scan.to_string(), partition, sort])));
            }
            behind = Some(next);
        }
    }

    /// Notes what an item means for others; old signals are put to `old`.
    fn sort(&self, step: &Step<'_>, state: &mut LooseState, item: Item, old: &mut Vec<Item>) {
        let word = |name| text_of(&item, name).unwrap_or_default();
        let (partition, sort) = key_of(&item);
        if partition.starts_with("STREAM_RUN#") && sort.starts_with("SIGNAL#") {
            if step.is_old(&item, "published_at") {
                old.push(item);
            } else {
                state.signals.insert(state.hash(word("signal_id")));
            }
        } else if partition.starts_with("SIGACK#") {
            if step.is_old(&item, "acknowledged_at") {
                let signal = word("signal_id").to_owned();
                state.acknowledgements.push((signal, deletion(&item, &["acknowledged_at"])));
            }
        } else if partition.starts_with("STREAMSUB#") {
            if self.is_ended(&item) && step.is_old(&item, "created_at") {
                let gone = deletion(&item, &["status", "created_at"]);
                state.subscriptions.entry(word("step_run_id").to_owned()).or_default().push(gone);
            } else {
                state.readers.insert(state.hash(word("step_run_id")));
            }
        }
    }

    fn is_ended(&self, subscription: &Item) -> bool {
        text_of(subscription, "status").is_some_and(|status| self.layout.ended_subscriptions.contains(&status))
    }

    /// Deletes those of the old signals that no subscription has still to read.
    async fn take_signals(&self, step: &mut Step<'_>, state: &mut LooseState, old: &[Item]) -> Result<(), StoreError> {
        let unread = self.unread(old).await?;
        let (stay, go): (Vec<&Item>, Vec<&Item>) =
            old.iter().partition(|signal| unread.contains(text_of(signal, "signal_id").unwrap_or_default()));
        let deletions: Vec<Deletion> = go.iter().map(|item| deletion(item, &["signal_id", "published_at"])).collect();
        let gone = self.take(step, &deletions).await?;
        step.counts.add("signals", gone.iter().filter(|gone| **gone).count() as u64);
        let changed = go.into_iter().zip(gone).filter(|(_, gone)| !gone).map(|(signal, _)| signal);
        for signal in stay.into_iter().chain(changed) {
            state.signals.insert(state.hash(text_of(signal, "signal_id").unwrap_or_default()));
        }
        Ok(())
    }

    /// Which of these signals a subscription that has not ended has still to read.
    async fn unread(&self, signals: &[Item]) -> Result<HashSet<String>, StoreError> {
        let streams: HashSet<&str> = signals.iter().filter_map(|signal| text_of(signal, "stream_id")).collect();
        let readers = try_join_all(streams.iter().map(|stream| self.readers(stream))).await?;
        let readers: HashMap<&str, Vec<Reader>> = streams.into_iter().zip(readers).collect();
        let mut waits: Vec<(&str, Item)> = Vec::new();
        for signal in signals {
            let word = |name| text_of(signal, name).unwrap_or_default();
            let (id, kind) = (word("signal_id"), word("signal_type"));
            let of_stream = readers.get(word("stream_id")).into_iter().flatten();
            let reads = |reader: &&Reader| reader.kinds.as_ref().is_none_or(|kinds| kinds.iter().any(|of| of == kind));
            waits.extend(of_stream.filter(reads).map(|reader| (id, acknowledgement(id, &reader.step))));
        }
        let read = self.read_items(waits.iter().map(|(_, key)| key.clone()).collect(), &["PK", "SK"]).await?;
        let read: HashSet<(String, String)> = read.iter().map(key_of).collect();
        let is_unread = waits.into_iter().filter(|(_, key)| !read.contains(&key_of(key)));
        Ok(is_unread.map(|(id, _)| id.to_owned()).collect())
    }

    /// The subscriptions of a stream that have not ended.
    async fn readers(&self, stream: &str) -> Result<Vec<Reader>, StoreError> {
        let (expression, names) = keys::projection(&["step_run_id", "signal_types", "status"]);
        let query = self.client.query().consistent_read(true).projection_expression(expression);
        let query = query
            .set_expression_attribute_names(Some(names))
            .key_condition_expression("PK = :stream")
            .expression_attribute_values(":stream", text(format!("STREAMSUB#{stream}")));
        let mut found = self.query_all(query).await?;
        found.retain(|item| !self.is_ended(item));
        let reader = |item: &Item| Reader {
            step: text_of(item, "step_run_id").unwrap_or_default().to_owned(),
            kinds: text_of(item, "signal_types").and_then(|kinds| serde_json::from_str(kinds).ok()),
        };
        Ok(found.iter().map(reader).collect())
    }

    /// Deletes some of what waited for the end of the scan; last the schedules.
    async fn settle(&self, step: &mut Step<'_>, state: &mut LooseState) -> Result<Option<Cursor>, StoreError> {
        let more = Some(Cursor(vec![state.scan.to_string()]));
        if !state.acknowledgements.is_empty() {
            let count = state.acknowledgements.len().min(WAITING_MAX);
            let some: Vec<(String, Deletion)> = state.acknowledgements.drain(..count).collect();
            // Without its acknowledgement a signal that stays would be delivered again.
            let is_free = |signal: &str| !state.signals.contains(&state.hash(signal));
            let free: Vec<Deletion> =
                some.into_iter().filter(|(signal, _)| is_free(signal)).map(|(_, deletion)| deletion).collect();
            let gone = self.take(step, &free).await?;
            step.counts.add("acknowledgements", gone.iter().filter(|gone| **gone).count() as u64);
            return Ok(more);
        }
        if !state.subscriptions.is_empty() {
            let last = state.subscriptions.keys().nth(WAITING_MAX).cloned();
            let rest = last.map(|last| state.subscriptions.split_off(&last)).unwrap_or_default();
            let some = std::mem::replace(&mut state.subscriptions, rest);
            for (reader, subscriptions) in some {
                let stays = state.readers.contains(&state.hash(&reader));
                self.take_subscriptions(step, &reader, &subscriptions, stays).await?;
            }
            return Ok(more);
        }
        for status in self.layout.deleted_schedules {
            self.take_schedules(step, status).await?;
        }
        state.restart();
        Ok(None)
    }

    /// Deletes the ended subscriptions of one step, with what it saved where none of its subscriptions stays.
    async fn take_subscriptions(
        &self,
        step: &mut Step<'_>,
        reader: &str,
        subscriptions: &[Deletion],
        stays: bool,
    ) -> Result<(), StoreError> {
        let mut taken = 0;
        for some in subscriptions.chunks(RUNS_MAX - 1) {
            let is_last = taken + some.len() == subscriptions.len();
            let point = Deletion { key: key(format!("CHECKPOINT#{reader}"), DATA), seen: Vec::new() };
            let all: Vec<&Deletion> = some.iter().chain((is_last && !stays).then_some(&point)).collect();
            if let Some(holder) = step.leave
                && self.transact(holder, None, &all).await? != Outcome::Gone
            {
                // One is in use again: the step keeps all, until the next sweep has looked.
                break;
            }
            taken += some.len();
        }
        step.counts.add("subscriptions", taken as u64);
        Ok(())
    }

    async fn take_schedules(&self, step: &mut Step<'_>, status: &str) -> Result<(), StoreError> {
        let (expression, names) = keys::projection(&["PK", "SK", "status", "updated_at"]);
        let query = self.client.query().index_name(STATUS_INDEX).projection_expression(expression);
        let query = query
            .set_expression_attribute_names(Some(names))
            .key_condition_expression("GSI1PK = :schedules AND begins_with(GSI1SK, :status)")
            .expression_attribute_values(":schedules", text("SCHEDULES"))
            .expression_attribute_values(":status", text(format!("{status}#")));
        let found = self.query_all(query).await?;
        // PyWorkflow notes when it deleted a schedule as the time of its last update.
        let old =
            found.iter().filter(|item| text_of(item, "status") == Some(status) && step.is_old(item, "updated_at"));
        let deletions: Vec<Deletion> = old.map(|item| deletion(item, &["status", "updated_at"])).collect();
        let gone = self.take(step, &deletions).await?;
        step.counts.add("schedules", gone.iter().filter(|gone| **gone).count() as u64);
        Ok(())
    }

    /// Deletes what is as it was read; answers for each whether it went, or would.
    async fn take(&self, step: &Step<'_>, deletions: &[Deletion]) -> Result<Vec<bool>, StoreError> {
        let mut gone = vec![true; deletions.len()];
        let Some(holder) = step.leave else { return Ok(gone) };
        for start in (0..deletions.len()).step_by(RUNS_MAX) {
            let end = deletions.len().min(start + RUNS_MAX);
            loop {
                let places: Vec<usize> = (start..end).filter(|at| gone[*at]).collect();
                if places.is_empty() {
                    break;
                }
                let some: Vec<&Deletion> = places.iter().map(|at| &deletions[*at]).collect();
                match self.transact(holder, None, &some).await? {
                    Outcome::Gone => break,
                    // Each round takes out one at least.
                    Outcome::Refused(refused) => refused.into_iter().for_each(|at| gone[places[at]] = false),
                }
            }
        }
        Ok(gone)
    }
}

fn acknowledgement(signal: &str, step: &str) -> Item {
    key(format!("SIGACK#{signal}"), format!("STEP#{step}"))
}
