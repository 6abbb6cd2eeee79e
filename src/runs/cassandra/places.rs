//! Which partitions of the index by status there are, and in which of them a run was found.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use scylla::value::CqlTimestamp;

use super::{CassandraStore, cql::Failed, day, read::Run};

/// The statuses of runs that have not ended.
const ALIVE: [&str; 3] = ["pending", "running", "suspended"];
/// How many runs are remembered: more than the pages that wait for their batch.
const RUNS_MAX: usize = 50_000;

/// A partition of the index by status.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub(super) struct Place {
    pub(super) status: String,
    /// The day that the run was made on.
    pub(super) day: String,
}

/// When a run was made, and which: how the entries of a partition sort.
pub(super) type Key = (i64, String);

/// An entry of the index by status.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Entry {
    #[serde(flatten)]
    pub(super) place: Place,
    /// The entry right before it, the next later one, where a page has read both.
    #[serde(skip)]
    pub(super) before: Option<Key>,
    /// When it was written, in microseconds; none where nobody knows, or that is not in the past.
    #[serde(skip)]
    pub(super) written_at: Option<i64>,
}

/// The partitions of the index.
#[derive(Debug)]
pub(super) struct Days {
    /// When they were read, in microseconds of the server's clock.
    pub(super) read_at: i64,
    /// The statuses of each day.
    pub(super) statuses: BTreeMap<String, BTreeSet<String>>,
}

/// The status and the last update of a run: as long as they stay the same, so do its entries.
type Written = (Option<String>, Option<i64>);

fn written(run: &Run) -> Written {
    (run.status.clone(), run.updated_at)
}

/// What pages have found out, for the deletes that follow them.
#[derive(Debug, Default)]
pub(super) struct Places {
    days: Mutex<Option<Arc<Days>>>,
    of_runs: Mutex<HashMap<String, (Written, Vec<Entry>)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Places {
    pub(super) fn days(&self) -> Option<Arc<Days>> {
        lock(&self.days).clone()
    }

    pub(super) fn set_days(&self, days: Arc<Days>) {
        *lock(&self.days) = Some(days);
    }

    /// Remembers where a run was found.
    pub(super) fn add(&self, run: &Run, entries: Vec<Entry>) {
        let mut of_runs = lock(&self.of_runs);
        if of_runs.len() >= RUNS_MAX {
            // They are looked up again where they are needed.
            of_runs.clear();
        }
        of_runs.insert(run.id.clone(), (written(run), entries));
    }

    /// Where a run was found; none where no page has shown it as it is.
    fn of(&self, run: &Run) -> Option<Vec<Entry>> {
        let of_runs = lock(&self.of_runs);
        of_runs.get(&run.id).filter(|(as_of, _)| *as_of == written(run)).map(|(_, entries)| entries.clone())
    }

    pub(super) fn forget(&self, run: &str) {
        lock(&self.of_runs).remove(run);
    }
}

impl CassandraStore {
    /// The entries that the index by status has of a run.
    pub(super) async fn entries_of_run(&self, run: &Run) -> Result<Vec<Entry>, Failed> {
        match self.places.of(run) {
            Some(entries) => Ok(entries),
            None => self.look_up(run).await,
        }
    }

    /// Where the index by status has a run that no page has shown: under any status, on the day that it was made or, where
    /// that day is not one of UTC, beside it.
    async fn look_up(&self, run: &Run) -> Result<Vec<Entry>, Failed> {
        const DAY: i64 = 24 * 60 * 60 * 1_000;
        let Some(at) = run.created_at else { return Ok(Vec::new()) };
        let days = self.days(false).await?;
        let known = self.layout.terminal.iter().chain(&ALIVE).map(|status| (*status).to_owned());
        let statuses: BTreeSet<String> =
            known.chain(days.statuses.values().flatten().cloned()).chain(run.status.clone()).collect();
        let statuses: Vec<&String> = statuses.iter().collect();
        let text = "SELECT status, date_bucket FROM runs_by_status \
                    WHERE status IN ? AND date_bucket IN ? AND created_at = ? AND run_id = ?";
        for days in [vec![at], vec![at.saturating_sub(DAY), at.saturating_add(DAY)]] {
            let days: Vec<String> = days.into_iter().filter_map(day).collect();
            let found: Vec<(String, String)> =
                self.cql.read(text, (&statuses, days, CqlTimestamp(at), &run.id)).await?;
            if !found.is_empty() {
                let entry = |(status, day)| Entry { place: Place { status, day }, before: None, written_at: None };
                return Ok(found.into_iter().map(entry).collect());
            }
        }
        Ok(Vec::new())
    }
}
