//! Which tasks have failed, without having said so.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    blobs::{Catalog, OpenTask, PENDING_TTL, catalog::Filter},
    jobs::JobError,
    runs::{RunStore, Seen, StoreError, layout::PYWORKFLOW},
};

/// How many refs are counted at once.
const PAGE: usize = 1_000;

/// What is known of a task's run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It has not ended: its tasks may still go on.
    Alive,
    /// It failed or was cancelled.
    Failed,
    /// It ended in another way, or nobody was asked.
    Unknown,
    /// The store has no such run.
    Gone,
}

/// Judges tasks by the store of their runs, where there is one, and by how long they were silent.
#[derive(Debug)]
pub(super) struct Failed {
    runs: Option<Arc<dyn RunStore>>,
    abandoned_after: Duration,
}

impl Failed {
    pub(super) fn new(runs: Option<Arc<dyn RunStore>>, abandoned_after: Duration) -> Self {
        Self { runs, abandoned_after }
    }

    /// Refuses to go by a store without any run: each task would count as one whose run is gone.
    pub(super) async fn guard(&self, now: DateTime<Utc>) -> Result<(), JobError> {
        let Some(runs) = &self.runs else { return Ok(()) };
        let page = runs.page(now + TimeDelta::days(1), None, 1).await?;
        if page.runs.is_empty() && runs.unpaged(1).await? == 0 {
            let name = runs.name();
            return Err(JobError::Refused(format!("{name}: the store of runs has none: is it the right one?")));
        }
        Ok(())
    }

    /// Those of `tasks` that have failed by `now`, the catalog's time.
    pub(super) async fn among(&self, tasks: Vec<OpenTask>, now: DateTime<Utc>) -> Result<Vec<OpenTask>, StoreError> {
        let seen = self.seen(&tasks).await?;
        let has_failed = |task: &OpenTask| self.has_failed(task, self.fate(task, &seen), now);
        Ok(tasks.into_iter().filter(has_failed).collect())
    }

    async fn seen(&self, tasks: &[OpenTask]) -> Result<HashMap<String, Seen>, StoreError> {
        let Some(runs) = &self.runs else { return Ok(HashMap::new()) };
        let ids: HashSet<&String> = tasks.iter().filter_map(|task| task.run.as_ref()).collect();
        let ids: Vec<String> = ids.into_iter().cloned().collect();
        Ok(runs.find(&ids).await?.into_iter().map(|run| (run.id.clone(), run)).collect())
    }

    fn fate(&self, task: &OpenTask, seen: &HashMap<String, Seen>) -> Fate {
        let (Some(_), Some(run)) = (&self.runs, &task.run) else { return Fate::Unknown };
        match seen.get(run).map(|run| run.status.as_str()) {
            None => Fate::Gone,
            Some(status) if PYWORKFLOW.failed.contains(&status) => Fate::Failed,
            Some(status) if PYWORKFLOW.terminal.contains(&status) => Fate::Unknown,
            // A status that nobody knows may be one of the living.
            Some(_) => Fate::Alive,
        }
    }

    fn has_failed(&self, task: &OpenTask, fate: Fate, now: DateTime<Utc>) -> bool {
        let silent = (now - task.seen_at).to_std().unwrap_or_default();
        match fate {
            Fate::Alive => false,
            Fate::Failed => true,
            Fate::Unknown => silent > self.abandoned_after,
            // A task may put something before its run has been written.
            Fate::Gone => silent > self.abandoned_after.min(PENDING_TTL),
        }
    }

    /// How many refs releasing `task` would drop.
    pub(super) async fn count_refs(&self, catalog: &dyn Catalog, task: &OpenTask) -> Result<u64, JobError> {
        let filter = Filter { task: Some(task.id.clone()), run: None };
        let (mut count, mut after) = (0, None);
        loop {
            let page = catalog.list(&filter, after.as_ref(), PAGE).await?;
            count += page.iter().filter(|entry| !entry.is_final).count() as u64;
            if page.len() < PAGE {
                return Ok(count);
            }
            after = page.into_iter().last();
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;
    use crate::runs::{Stamp, memory::MemoryStore};

    const DAY: Duration = Duration::from_hours(24);

    fn at(minutes: i64) -> DateTime<Utc> {
        Utc.with_ymd_and_hms(2026, 11, 20, 3, 0, 0).unwrap() + TimeDelta::minutes(minutes)
    }

    fn judge(status: Option<&str>, silent: Duration) -> bool {
        let failed = Failed::new(Some(Arc::new(MemoryStore::default())), DAY);
        let task = OpenTask { id: "t".to_owned(), run: Some("r".to_owned()), attempt: 1, seen_at: at(0) };
        let run = |status: &str| Seen {
            id: "r".to_owned(),
            status: status.to_owned(),
            updated_at: Stamp::default(),
            created_at: Stamp::default(),
            workflow: String::new(),
            parent: None,
        };
        let seen: HashMap<_, _> = status.map(|status| ("r".to_owned(), run(status))).into_iter().collect();
        failed.has_failed(&task, failed.fate(&task, &seen), at(0) + silent)
    }

    #[test]
    fn a_task_of_a_run_that_goes_on_never_fails() {
        for status in ["running", "pending", "suspended", "what is this", ""] {
            assert!(!judge(Some(status), 1_000 * DAY), "{status}");
        }
    }

    #[test]
    fn a_task_of_a_run_that_failed_has_failed() {
        assert!(judge(Some("failed"), Duration::ZERO) && judge(Some("cancelled"), Duration::ZERO));
    }

    #[test]
    fn a_task_of_a_run_that_ended_otherwise_fails_by_its_silence() {
        for status in ["completed", "interrupted", "continued_as_new"] {
            assert!(!judge(Some(status), DAY) && judge(Some(status), DAY + Duration::from_millis(1)), "{status}");
        }
    }

    #[test]
    fn a_task_whose_run_is_gone_gets_the_time_that_a_writer_has() {
        assert!(!judge(None, PENDING_TTL) && judge(None, PENDING_TTL + Duration::from_millis(1)));
    }

    #[test]
    fn without_a_store_of_runs_silence_decides() {
        let failed = Failed::new(None, DAY);
        let task = OpenTask { id: "t".to_owned(), run: Some("r".to_owned()), attempt: 1, seen_at: at(0) };
        assert_eq!(failed.fate(&task, &HashMap::new()), Fate::Unknown);
        // A clock that went back makes nobody silent.
        assert!(!failed.has_failed(&task, Fate::Unknown, at(-60)));
    }
}
