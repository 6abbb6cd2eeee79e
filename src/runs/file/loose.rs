//! What is not runs: signals, acknowledgements, subscriptions and schedules, by the job's own cutoff.
//!
//! A step looks at one kind of them. What PyWorkflow writes under a lock is decided again under that lock.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

use super::{
    Shared,
    folder::{Folder, file_name},
    index::LOCK,
    json::{self, NotText},
    lock, marker,
    owned::{JSON, beginnings},
};
use crate::{
    lock::Fence,
    report::Counts,
    runs::{Cursor, LooseStep, Stamp, StoreError},
};

/// How long a file in another's hands is waited for; then it is kept this time.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// The most that a step may last where no lock sets a limit.
const STEP_MAX: Duration = Duration::from_hours(1);
/// The kinds in the order that they are swept in: an acknowledgement goes after its signal.
const KINDS: [&str; 4] = ["signals", "acknowledgements", "subscriptions", "schedules"];

/// The fields of a small file as text; none where it cannot be read.
fn texts<const N: usize>(text: &[u8], keys: [&str; N]) -> Option<[Option<String>; N]> {
    let found = json::fields(text, keys)?.map(json::text);
    found.iter().all(Result::is_ok).then(|| found.map(Result::<_, NotText>::unwrap_or_default))
}

fn read<const N: usize>(folder: &Folder, stem: &str, keys: [&str; N]) -> Option<[Option<String>; N]> {
    texts(&folder.read(&[stem, JSON].concat()).ok()??, keys)
}

/// A subscription that has not ended.
struct Reader {
    step_run: String,
    /// The types that it reads; none where any may be meant.
    kinds: Option<Vec<serde_json::Value>>,
}

/// Who still reads what.
#[derive(Default)]
struct Readers {
    by_stream: HashMap<String, Vec<Reader>>,
    /// Signal and step.
    read: HashSet<(String, String)>,
}

impl Readers {
    fn reads(&self, stream: &str, kind: &str, signal: &str) -> bool {
        self.by_stream.get(stream).into_iter().flatten().any(|reader| {
            let is_of_kind = reader.kinds.as_ref().is_none_or(|kinds| kinds.iter().any(|of| of == kind));
            is_of_kind && !self.read.contains(&(signal.to_owned(), reader.step_run.clone()))
        })
    }
}

/// One step in hand.
struct Sweep<'a> {
    shared: &'a Shared,
    cutoff: DateTime<Utc>,
    leave: Option<(Folder, String, Fence)>,
    end: Instant,
    count: u64,
}

impl Shared {
    pub(super) fn loose(
        &self,
        cutoff: DateTime<Utc>,
        after: Option<&Cursor>,
        leave: Option<(String, Fence)>,
        limit: Duration,
    ) -> Result<LooseStep, StoreError> {
        let leave = match leave {
            Some((job, fence)) => {
                let home = self.home()?;
                marker::guard(&home, &job, fence)?;
                Some((home, job, fence))
            }
            None => None,
        };
        let place = after.map(|cursor| &cursor.0[..]);
        let (kind, last) = match place {
            Some([kind, last]) => (kind.as_str(), Some(last.as_str())),
            _ => (KINDS[0], None),
        };
        let mut sweep = Sweep { shared: self, cutoff, leave, end: Instant::now() + limit.min(STEP_MAX), count: 0 };
        let stopped = match kind {
            "signals" => sweep.signals(last)?,
            "acknowledgements" => sweep.acknowledgements(last)?,
            "subscriptions" => sweep.subscriptions(last)?,
            _ => sweep.schedules(last)?,
        };
        let counts = Counts::from_iter([(kind, sweep.count)]);
        let next = KINDS.iter().skip_while(|known| **known != kind).nth(1);
        let next = stopped.map(|last| (kind, last)).or(next.map(|next| (*next, String::new())));
        Ok(LooseStep { counts, next: next.map(|(kind, last)| Cursor(vec![kind.to_owned(), last])) })
    }

    fn readers(&self) -> Result<Readers, StoreError> {
        let mut readers = Readers::default();
        for stem in self.folders.subscriptions.stems(JSON)? {
            let text = self.folders.subscriptions.read(&[&stem, JSON].concat())?.unwrap_or_default();
            let found = texts(&text, ["stream_id", "step_run_id", "status"]);
            let Some([Some(stream), Some(step_run), status]) = found else {
                // What cannot be read may wait for anything on any stream that its name may mean.
                for stream in beginnings(&stem, "__") {
                    let reader = Reader { step_run: String::new(), kinds: None };
                    readers.by_stream.entry(stream.to_owned()).or_default().push(reader);
                }
                continue;
            };
            if !self.layout.ended_subscriptions.contains(&status.unwrap_or_default().as_str()) {
                let kinds =
                    json::fields(&text, ["signal_types"]).and_then(|[kinds]| serde_json::from_slice(kinds?).ok());
                readers.by_stream.entry(stream).or_default().push(Reader { step_run, kinds });
            }
        }
        for stem in self.folders.acknowledgments.stems(JSON)? {
            let found = read(&self.folders.acknowledgments, &stem, ["signal_id", "step_run_id"]);
            if let Some([Some(signal), Some(step_run)]) = found {
                readers.read.insert((signal, step_run));
            }
        }
        Ok(readers)
    }
}

impl Sweep<'_> {
    fn is_old(&self, at: Option<String>) -> bool {
        Stamp::read(at).instant.is_some_and(|at| at < self.cutoff)
    }

    /// Asks `each` of the files behind `last`; answers the last one that was asked where the time is up.
    fn each(
        &mut self,
        folder: &Folder,
        last: Option<&str>,
        mut each: impl FnMut(&mut Self, &str) -> Result<(), StoreError>,
    ) -> Result<Option<String>, StoreError> {
        let stems = folder.stems(JSON)?;
        let start = stems.partition_point(|stem| last.is_some_and(|last| !last.is_empty() && stem.as_str() <= last));
        for stem in &stems[start..] {
            if let Some((home, job, fence)) = &self.leave {
                marker::guard(home, job, *fence)?;
            }
            each(self, stem)?;
            if Instant::now() >= self.end {
                return Ok(Some(stem.clone()));
            }
        }
        Ok(None)
    }

    /// Does `work` under the lock, where nobody else has it.
    fn locked(
        &self,
        before: &str,
        id: &str,
        work: impl FnOnce(lock::Held<'_>) -> Result<bool, StoreError>,
    ) -> Result<bool, StoreError> {
        let Some(name) = file_name(before, id, LOCK) else { return Ok(false) };
        let held = lock::take(&self.shared.folders.locks, name, Instant::now() + WAIT_MAX)?;
        held.map_or(Ok(false), work)
    }

    /// The signals of the list that stay, as they are written, and how many go; none where it is no list.
    fn split<'a>(&self, text: &'a [u8], readers: &Readers) -> Option<(Vec<&'a [u8]>, u64)> {
        let items = json::items(text)?;
        let goes = |item: &[u8]| {
            let found = texts(item, ["signal_id", "stream_id", "signal_type", "published_at"]);
            let Some([Some(signal), Some(stream), Some(kind), at]) = found else { return false };
            self.is_old(at) && !readers.reads(&stream, &kind, &signal)
        };
        let all = items.len();
        let stays: Vec<&[u8]> = items.into_iter().filter(|item| !goes(item)).collect();
        let gone = (all - stays.len()) as u64;
        Some((stays, gone))
    }

    fn signals(&mut self, last: Option<&str>) -> Result<Option<String>, StoreError> {
        let (shared, readers) = (self.shared, self.shared.readers()?);
        let folder = &shared.folders.signals;
        self.each(folder, last, |this, stream| {
            let name = [stream, JSON].concat();
            let text = folder.read(&name)?.unwrap_or_default();
            let mut gone = this.split(&text, &readers).map_or(0, |(_, gone)| gone);
            if let Some((home, ..)) = this.leave.as_ref().filter(|_| gone > 0) {
                gone = 0;
                this.locked("signals_", stream, |held| {
                    let text = folder.read(&name)?.unwrap_or_default();
                    if let Some((stays, count)) = this.split(&text, &readers).filter(|(_, count)| *count > 0) {
                        // An empty list stays: who reads it without a lock has just seen that it is there.
                        let stay = stays.join(&b",\n  "[..]);
                        let ends: [&[u8]; 2] = if stays.is_empty() { [b"[", b"]"] } else { [b"[\n  ", b"\n]"] };
                        folder.replace(&name, &[ends[0], &stay, ends[1]].concat(), home)?;
                        gone = count;
                    }
                    held.release().map(|()| true)
                })?;
            }
            this.count += gone;
            Ok(())
        })
    }

    fn acknowledgements(&mut self, last: Option<&str>) -> Result<Option<String>, StoreError> {
        let shared = self.shared;
        // A plan has to guess which signals stay.
        let readers = if self.leave.is_none() { Some(shared.readers()?) } else { None };
        let mut signals = HashSet::new();
        for stream in shared.folders.signals.stems(JSON)? {
            let text = shared.folders.signals.read(&[&stream, JSON].concat())?.unwrap_or_default();
            let stays = match &readers {
                Some(readers) => self.split(&text, readers).map(|(stays, _)| stays),
                None => json::items(&text),
            };
            let of = |item: &&[u8]| texts(item, ["signal_id"]).and_then(|[signal]| signal);
            // A list that cannot be read may have any signal.
            let Some(stays) = stays else { return Ok(None) };
            signals.extend(stays.iter().filter_map(of));
        }
        let folder = &shared.folders.acknowledgments;
        self.each(folder, last, |this, stem| {
            let found = read(folder, stem, ["signal_id", "acknowledged_at"]);
            let Some([Some(signal), at]) = found else { return Ok(()) };
            if this.is_old(at) && !signals.contains(&signal) {
                let is_gone = this.leave.is_none() || folder.remove(&[stem, JSON].concat())?;
                this.count += u64::from(is_gone);
            }
            Ok(())
        })
    }

    fn subscriptions(&mut self, last: Option<&str>) -> Result<Option<String>, StoreError> {
        let shared = self.shared;
        let folder = &shared.folders.subscriptions;
        let mut of_step: HashMap<String, u64> = HashMap::new();
        let mut of_lock: HashMap<String, u64> = HashMap::new();
        for stem in folder.stems(JSON)? {
            for stream in beginnings(&stem, "__") {
                *of_lock.entry(format!("{stream}_{}", &stem[stream.len() + 2..])).or_default() += 1;
            }
            // What cannot be read may be of any step that its name may mean.
            match read(folder, &stem, ["step_run_id"]) {
                Some([Some(step_run)]) => *of_step.entry(step_run).or_default() += 1,
                _ => beginnings(&stem, "__")
                    .for_each(|stream| *of_step.entry(stem[stream.len() + 2..].to_owned()).or_default() += 1),
            }
        }
        self.each(folder, last, |this, stem| {
            let name = [stem, JSON].concat();
            let goes = |this: &Self| {
                let [stream, step_run, status, at] =
                    read(folder, stem, ["stream_id", "step_run_id", "status", "created_at"])?;
                let is_ended = shared.layout.ended_subscriptions.contains(&status?.as_str());
                (is_ended && this.is_old(at)).then_some((stream?, step_run?))
            };
            let Some((stream, step_run)) = goes(this) else { return Ok(()) };
            let id = format!("{stream}_{step_run}");
            let is_gone = this.leave.is_none()
                || this.locked("sub_", &id, |held| {
                    if goes(this).is_none() {
                        return held.release().map(|()| false);
                    }
                    // Before the subscription: nothing else says whose it is.
                    if of_step.get(&step_run) == Some(&1) && !step_run.contains('/') {
                        shared.remove_lock("checkpoint_", &step_run, "", |id| shared.is_a_runs(id).unwrap_or(true))?;
                        shared.folders.checkpoints.remove(&[&step_run, JSON].concat())?;
                    }
                    // Another's lock may have the name: stream `a` and step `b_c`, or stream `a_b` and step `c`.
                    if of_lock.get(&id) == Some(&1) && !shared.is_a_runs(&["sub_", &id].concat())? {
                        held.remove()?;
                    }
                    folder.remove(&name)
                })?;
            if is_gone {
                this.count += 1;
                of_step.entry(step_run).and_modify(|left| *left -= 1);
            }
            Ok(())
        })
    }

    fn schedules(&mut self, last: Option<&str>) -> Result<Option<String>, StoreError> {
        let shared = self.shared;
        let folder = &shared.folders.schedules;
        self.each(folder, last, |this, stem| {
            let goes = |this: &Self| {
                let [status, deleted_at, updated_at] = read(folder, stem, ["status", "deleted_at", "updated_at"])?;
                let is_deleted = shared.layout.deleted_schedules.contains(&status?.as_str());
                Some(is_deleted && this.is_old(deleted_at.or(updated_at))).filter(|goes| *goes)
            };
            if goes(this).is_none() {
                return Ok(());
            }
            let is_gone = this.leave.is_none()
                || this.locked("schedule_", stem, |held| {
                    if goes(this).is_none() {
                        return held.release().map(|()| false);
                    }
                    if !shared.is_a_runs(&["schedule_", stem].concat())? {
                        held.remove()?;
                    }
                    folder.remove(&[stem, JSON].concat())
                })?;
            this.count += u64::from(is_gone);
            Ok(())
        })
    }
}
