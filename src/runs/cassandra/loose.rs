//! What is not runs: signals, acknowledgements, subscriptions and schedules, by the job's own cutoff.
//!
//! Each step reads one page of a table, in the order of the server's tokens, and decides in Rust. No index leads from an
//! acknowledgement to its signal, or from a step to its subscriptions: those that stay are noted while their table is read.

use std::{
    collections::{HashMap, HashSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::PoisonError,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use scylla::{response::PagingState, value::CqlTimestamp};

use super::{
    CassandraStore, NAME,
    cql::{Failed, Work, all},
    stamp,
};
use crate::{
    lock::Fence,
    report::Counts,
    runs::{Cursor, LooseStep, StoreError},
};

/// How many rows of a table one step reads.
const WINDOW: i32 = 1_000;
/// How many ids are noted at most: beyond, what they would decide stays.
const NOTED_MAX: usize = 1_000_000;

/// The passes over the tables, in order.
const SIGNALS: usize = 0;
const ACKNOWLEDGEMENTS: usize = 1;
/// Notes the steps of subscriptions that stay.
const SUBSCRIBERS: usize = 2;
const SUBSCRIPTIONS: usize = 3;
const SCHEDULES: usize = 4;
const PASSES: usize = 5;

/// What stays, as hashes: where two are the same, something stays that might go.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Which walk it is of: another one may have begun since.
    walk: u64,
    staying: HashSet<u64>,
    is_full: bool,
}

impl Survey {
    fn note(&mut self, walk: u64, id: &str) {
        if self.walk != walk {
            return;
        }
        if self.staying.len() < NOTED_MAX {
            self.staying.insert(hash(id));
        } else {
            self.is_full = true;
        }
    }

    fn begin(&mut self) -> u64 {
        *self = Self { walk: self.walk + 1, ..Self::default() };
        self.walk
    }

    fn stays(&self, walk: u64, id: &str) -> bool {
        self.walk != walk || self.is_full || self.staying.contains(&hash(id))
    }
}

fn hash(id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

/// Who reads a stream: the steps, each with the types that it reads.
type Readers = Vec<(String, String)>;

/// One step's page: how many go of which kind, the deletes, and where the pass goes on.
struct Window<'a> {
    kind: &'static str,
    count: usize,
    deletes: Vec<Work<'a, ()>>,
    next: Option<PagingState>,
}

impl CassandraStore {
    pub(super) async fn loose_step(
        &self,
        cutoff: DateTime<Utc>,
        after: Option<&Cursor>,
        leave: Option<(&str, Fence)>,
        limit: Duration,
    ) -> Result<LooseStep, StoreError> {
        let until = Instant::now() + limit;
        if let Some((job, fence)) = leave {
            self.guard_fence(job, fence).await?;
        }
        let (pass, from, mut walk) = after.map_or_else(|| (SIGNALS, PagingState::start(), 0), place);
        if from == PagingState::start() && (pass == SIGNALS || pass == SUBSCRIBERS) {
            walk = self.with_survey(Survey::begin);
        }
        let window = match pass {
            SIGNALS => self.signals(cutoff, from, walk).await?,
            ACKNOWLEDGEMENTS => self.acknowledgements(cutoff, from, walk).await?,
            SUBSCRIBERS => self.subscribers(cutoff, from, walk).await?,
            SUBSCRIPTIONS => self.subscriptions(cutoff, from, walk).await?,
            _ => self.schedules(cutoff, from).await?,
        };
        if leave.is_some() && !window.deletes.is_empty() {
            if Instant::now() >= until {
                return Err(StoreError::TimedOut { store: NAME });
            }
            all(window.deletes).await?;
        }
        let counts = Counts::from_iter([(window.kind, window.count as u64)]);
        let next = match window.next {
            Some(state) => Some(cursor(pass, &state, walk)),
            None if pass + 1 < PASSES => Some(cursor(pass + 1, &PagingState::start(), walk)),
            None => None,
        };
        Ok(LooseStep { counts, next })
    }

    fn with_survey<T>(&self, change: impl FnOnce(&mut Survey) -> T) -> T {
        change(&mut self.survey.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Signals that no subscription has still to read.
    async fn signals(&self, cutoff: DateTime<Utc>, from: PagingState, walk: u64) -> Result<Window<'_>, Failed> {
        type Columns = (String, String, i32, Option<String>, Option<String>, Option<CqlTimestamp>);
        let text = "SELECT stream_id, stream_run_id, sequence, signal_id, signal_type, published_at FROM signals";
        let (rows, next): (Vec<Columns>, _) = self.cql.page(text, (), WINDOW, from).await?;
        let streams: HashSet<&str> =
            rows.iter().filter(|row| is_old(row.5, cutoff)).map(|row| row.0.as_str()).collect();
        let readers = self.readers(streams).await?;
        let mut deletes: Vec<Work<'_, ()>> = Vec::new();
        for (stream, run, sequence, signal, kind, at) in rows {
            let goes =
                is_old(at, cutoff) && !self.is_unread(signal.as_deref(), kind.as_deref(), readers.get(&stream)).await?;
            if goes {
                let text = "DELETE FROM signals WHERE stream_id = ? AND stream_run_id = ? AND sequence = ?";
                deletes.push(Box::pin(async move { self.cql.write(text, (stream, run, sequence)).await }));
            } else if let Some(signal) = signal {
                self.with_survey(|survey| survey.note(walk, &signal));
            }
        }
        Ok(Window { kind: "signals", count: deletes.len(), deletes, next })
    }

    /// By stream, who has not ended: the step and the types that it reads.
    async fn readers(&self, streams: HashSet<&str>) -> Result<HashMap<String, Readers>, Failed> {
        type Columns = (String, Option<String>, Option<String>);
        let streams: Vec<String> = streams.into_iter().map(str::to_owned).collect();
        let mut reads: Vec<Work<'_, (String, Readers)>> = Vec::new();
        for stream in streams {
            reads.push(Box::pin(async move {
                let text = "SELECT step_run_id, signal_types, status FROM stream_subscriptions WHERE stream_id = ?";
                let rows: Vec<Columns> = self.cql.read(text, (&stream,)).await?;
                let alive = rows.into_iter().filter(|(_, _, status)| !self.has_ended(status.as_deref()));
                Ok((stream, alive.map(|(step, kinds, _)| (step, kinds.unwrap_or_default())).collect()))
            }));
        }
        Ok(all(reads).await?.into_iter().collect())
    }

    fn has_ended(&self, status: Option<&str>) -> bool {
        status.is_some_and(|status| self.layout.ended_subscriptions.contains(&status))
    }

    /// Whether one of `readers` reads signals of this kind and has not acknowledged this one.
    async fn is_unread(
        &self,
        signal: Option<&str>,
        kind: Option<&str>,
        readers: Option<&Readers>,
    ) -> Result<bool, Failed> {
        let waiting: Vec<&str> = readers
            .into_iter()
            .flatten()
            .filter(|(_, kinds)| reads(kinds, kind))
            .map(|(step, _)| step.as_str())
            .collect();
        let Some(signal) = signal.filter(|_| !waiting.is_empty()) else { return Ok(!waiting.is_empty()) };
        let text = "SELECT step_run_id FROM signal_acknowledgments WHERE signal_id = ?";
        let have_read: Vec<(String,)> = self.cql.read(text, (signal,)).await?;
        Ok(!waiting.iter().all(|step| have_read.iter().any(|(reader,)| reader == step)))
    }

    /// Acknowledgements of signals that are gone: without its acknowledgement a signal that stays would be delivered again.
    async fn acknowledgements(
        &self,
        cutoff: DateTime<Utc>,
        from: PagingState,
        walk: u64,
    ) -> Result<Window<'_>, Failed> {
        let text = "SELECT signal_id, step_run_id, acknowledged_at FROM signal_acknowledgments";
        let (rows, next): (Vec<(String, String, Option<CqlTimestamp>)>, _) =
            self.cql.page(text, (), WINDOW, from).await?;
        let goes = |(signal, _, at): &(String, String, Option<CqlTimestamp>)| {
            is_old(*at, cutoff) && !self.with_survey(|survey| survey.stays(walk, signal))
        };
        let deletes: Vec<Work<'_, ()>> =
            rows.into_iter().filter(goes).map(|(signal, step, _)| self.forget(signal, step)).collect();
        Ok(Window { kind: "acknowledgements", count: deletes.len(), deletes, next })
    }

    fn forget(&self, signal: String, step: String) -> Work<'_, ()> {
        let text = "DELETE FROM signal_acknowledgments WHERE signal_id = ? AND step_run_id = ?";
        Box::pin(async move { self.cql.write(text, (signal, step)).await })
    }

    /// Notes the steps of subscriptions that stay.
    async fn subscribers(&self, cutoff: DateTime<Utc>, from: PagingState, walk: u64) -> Result<Window<'_>, Failed> {
        let (rows, next) = self.subscription_rows(from).await?;
        for (_, step, status, at) in rows {
            if !(self.has_ended(status.as_deref()) && is_old(at, cutoff)) {
                self.with_survey(|survey| survey.note(walk, &step));
            }
        }
        Ok(Window { kind: "subscriptions", count: 0, deletes: Vec::new(), next })
    }

    async fn subscription_rows(
        &self,
        from: PagingState,
    ) -> Result<(Vec<(String, String, Option<String>, Option<CqlTimestamp>)>, Option<PagingState>), Failed> {
        let text = "SELECT stream_id, step_run_id, status, created_at FROM stream_subscriptions";
        self.cql.page(text, (), WINDOW, from).await
    }

    /// Subscriptions that have ended. What a step has saved goes with the last one of the step.
    async fn subscriptions(&self, cutoff: DateTime<Utc>, from: PagingState, walk: u64) -> Result<Window<'_>, Failed> {
        let (rows, next) = self.subscription_rows(from).await?;
        let mut deletes: Vec<Work<'_, ()>> = Vec::new();
        for (stream, step, status, at) in rows {
            let Some(status) = status.filter(|status| self.has_ended(Some(status)) && is_old(at, cutoff)) else {
                continue;
            };
            let is_last = !self.with_survey(|survey| survey.stays(walk, &step));
            deletes.push(Box::pin(async move {
                // It may have been registered again meanwhile: then it keeps what it has saved.
                let text = "DELETE FROM stream_subscriptions WHERE stream_id = ? AND step_run_id = ? IF status = ?";
                if self.cql.apply(text, (stream, &step, status)).await? && is_last {
                    self.cql.write("DELETE FROM checkpoints WHERE step_run_id = ?", (&step,)).await?;
                }
                Ok(())
            }));
        }
        Ok(Window { kind: "subscriptions", count: deletes.len(), deletes, next })
    }

    /// Schedules that were deleted, with their index entries.
    async fn schedules(&self, cutoff: DateTime<Utc>, from: PagingState) -> Result<Window<'_>, Failed> {
        type Columns = (String, Option<String>, Option<String>, Option<CqlTimestamp>, Option<CqlTimestamp>);
        let text = "SELECT schedule_id, workflow_name, status, updated_at, next_run_time FROM schedules";
        let (rows, next): (Vec<Columns>, _) = self.cql.page(text, (), WINDOW, from).await?;
        let mut deletes: Vec<Work<'_, ()>> = Vec::new();
        for (schedule, workflow, status, at, next_run) in rows {
            let is_deleted = status.as_deref().is_some_and(|status| self.layout.deleted_schedules.contains(&status));
            if is_deleted && is_old(at, cutoff) {
                deletes.push(Box::pin(self.delete_schedule(schedule, workflow, status, at, next_run)));
            }
        }
        Ok(Window { kind: "schedules", count: deletes.len(), deletes, next })
    }

    async fn delete_schedule(
        &self,
        schedule: String,
        workflow: Option<String>,
        status: Option<String>,
        at: Option<CqlTimestamp>,
        next_run: Option<CqlTimestamp>,
    ) -> Result<(), Failed> {
        // It may be active again: an entry that leads nowhere does less harm than a schedule that nothing leads to.
        let text = "DELETE FROM schedules WHERE schedule_id = ? IF status = ? AND updated_at = ?";
        if !self.cql.apply(text, (&schedule, &status, at)).await? {
            return Ok(());
        }
        if let Some(workflow) = workflow {
            let text = "DELETE FROM schedules_by_workflow WHERE workflow_name = ? AND schedule_id = ?";
            self.cql.write(text, (workflow, &schedule)).await?;
        }
        if let Some(status) = &status {
            let text = "DELETE FROM schedules_by_status WHERE status = ? AND schedule_id = ?";
            self.cql.write(text, (status, &schedule)).await?;
        }
        let hour = next_run.and_then(|at| stamp(Some(at)).instant).map(|at| at.format("%Y-%m-%d-%H").to_string());
        if let Some((hour, next_run)) = hour.zip(next_run) {
            let text = "DELETE FROM due_schedules WHERE hour_bucket = ? AND next_run_time = ? AND schedule_id = ?";
            self.cql.write(text, (hour, next_run, &schedule)).await?;
        }
        Ok(())
    }
}

fn is_old(at: Option<CqlTimestamp>, cutoff: DateTime<Utc>) -> bool {
    stamp(at).instant.is_some_and(|at| at < cutoff)
}

/// Whether a list of types names `kind`. An unreadable one may name any.
fn reads(kinds: &str, kind: Option<&str>) -> bool {
    serde_json::from_str::<Vec<serde_json::Value>>(kinds)
        .map_or(true, |kinds| kinds.iter().any(|of| of.as_str() == kind && kind.is_some()))
}

fn cursor(pass: usize, state: &PagingState, walk: u64) -> Cursor {
    let bytes = state.as_bytes_slice().map(|bytes| bytes.to_vec()).unwrap_or_default();
    let digits = bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    Cursor(vec![pass.to_string(), digits, walk.to_string()])
}

fn place(cursor: &Cursor) -> (usize, PagingState, u64) {
    let part = |at: usize| cursor.0.get(at).map_or("", String::as_str);
    let bytes: Vec<u8> = part(1)
        .as_bytes()
        .chunks(2)
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    let state = if bytes.is_empty() { PagingState::start() } else { PagingState::new_from_raw_bytes(bytes) };
    (part(0).parse().unwrap_or(SCHEDULES), state, part(2).parse().unwrap_or(0))
}
