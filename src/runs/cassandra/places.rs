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

/// The statuses of each day.
pub(super) type Days = BTreeMap<String, BTreeSet<String>>;

/// What pages have found out, for the deletes that follow them.
#[derive(Debug, Default)]
pub(super) struct Places {
    days: Mutex<Option<Arc<Days>>>,
    of_runs: Mutex<HashMap<String, Vec<Place>>>,
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
    pub(super) fn add(&self, run: &str, places: Vec<Place>) {
        let mut of_runs = lock(&self.of_runs);
        if of_runs.len() >= RUNS_MAX {
            // They are looked up again where they are needed.
            of_runs.clear();
        }
        of_runs.insert(run.to_owned(), places);
    }

    /// Where a run was found; none where no page has shown it lately.
    pub(super) fn of(&self, run: &str) -> Option<Vec<Place>> {
        lock(&self.of_runs).get(run).cloned()
    }

    pub(super) fn forget(&self, run: &str) {
        lock(&self.of_runs).remove(run);
    }
}

impl CassandraStore {
    /// Where the index by status has a run that no page has shown: under any status, on the day that it was made or, where
    /// that day is not one of UTC, beside it.
    pub(super) async fn look_up(&self, run: &Run) -> Result<Vec<Place>, Failed> {
        const DAY: i64 = 24 * 60 * 60 * 1_000;
        let Some(at) = run.created_at else { return Ok(Vec::new()) };
        let days = self.days(false).await?;
        let known = self.layout.terminal.iter().chain(&ALIVE).map(|status| (*status).to_owned());
        let statuses: BTreeSet<String> =
            known.chain(days.values().flatten().cloned()).chain(run.status.clone()).collect();
        let statuses: Vec<&String> = statuses.iter().collect();
        let text = "SELECT status, date_bucket FROM runs_by_status \
                    WHERE status IN ? AND date_bucket IN ? AND created_at = ? AND run_id = ?";
        for days in [vec![at], vec![at.saturating_sub(DAY), at.saturating_add(DAY)]] {
            let days: Vec<String> = days.into_iter().filter_map(day).collect();
            let found: Vec<(String, String)> =
                self.cql.read(text, (&statuses, days, CqlTimestamp(at), &run.id)).await?;
            if !found.is_empty() {
                return Ok(found.into_iter().map(|(status, day)| Place { status, day }).collect());
            }
        }
        Ok(Vec::new())
    }
}
