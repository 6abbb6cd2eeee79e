//! Deletes runs, each by itself, each so that a crash at any moment leaves it whole or for the next sweep to finish.
//!
//! 1. Compare the runs with what was seen, and look for children that are not in the batch.
//! 2. Write markers with what the index entries of the runs need.
//! 3. Delete each run's row on condition that its status and its last update are as seen; children before parents. What
//!    was revived meanwhile keeps everything.
//! 4. Delete what belonged to the runs that went.
//! 5. Drop the markers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use scylla::value::CqlTimestamp;

use super::{
    CassandraStore, NAME,
    cql::{Failed, Work, all},
    marker::Marked,
    read::Run,
};
use crate::{
    lock::Fence,
    report::Counts,
    runs::{Deleted, Seen, StoreError},
};

/// What went in a call that then ran out of time: it is told with the next call that names it.
#[derive(Debug, Default)]
pub(super) struct Unreported {
    runs: HashSet<String>,
    counts: Counts,
}

/// What came of the delete of one run's row.
enum Outcome {
    Gone,
    Changed,
    /// There was no time to try.
    Untried,
    /// The answer did not come: it may have gone.
    Unknown(Failed),
}

/// What came of the deletes of the rows of a batch.
#[derive(Default)]
struct Rows {
    gone: BTreeSet<String>,
    /// Whether the time was up before all had been tried.
    is_cut: bool,
    /// Why it is not known of one whether it went.
    unknown: Option<Failed>,
}

/// The runs of a batch that may still go.
struct Batch {
    still: HashMap<String, Run>,
    changed: u64,
    held: u64,
}

impl CassandraStore {
    pub(super) async fn delete_batch(
        &self,
        job: &str,
        fence: Fence,
        runs: &[Seen],
        limit: Duration,
    ) -> Result<Deleted, StoreError> {
        let until = Instant::now() + limit;
        self.guard_fence(job, fence).await?;
        let reported = {
            let unreported = self.unreported();
            runs.iter().filter(|run| unreported.runs.contains(&run.id)).map(|run| run.id.clone()).collect()
        };
        let mut batch = self.still(runs, &reported).await.map_err(Failed::error_before_any_change)?;
        let gone = if batch.still.is_empty() {
            BTreeSet::new()
        } else {
            self.delete_marked(job, fence, &mut batch, until).await?
        };
        Ok(self.deleted(runs, &reported, &gone, &batch))
    }

    fn unreported(&self) -> MutexGuard<'_, Unreported> {
        self.unreported.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deleted(&self, runs: &[Seen], reported: &HashSet<String>, gone: &BTreeSet<String>, batch: &Batch) -> Deleted {
        let mut unreported = self.unreported();
        let mut deleted = Deleted { changed: batch.changed, held: batch.held, ..Deleted::default() };
        deleted.counts = std::mem::take(&mut unreported.counts);
        let kinds = self.layout.owned.iter().map(|(_, kind)| *kind).chain(["runs", "checkpoints"]);
        for kind in kinds {
            deleted.counts.add(kind, 0);
        }
        unreported.runs.retain(|run| !reported.contains(run) && !gone.contains(run));
        let mut named = HashSet::new();
        let went = runs.iter().filter(|run| reported.contains(&run.id) || gone.contains(&run.id));
        deleted.runs = went.filter(|run| named.insert(run.id.as_str())).map(|run| run.id.clone()).collect();
        deleted
    }

    /// The runs that are as they were seen and have no child outside, nor anything below them that has.
    async fn still(&self, runs: &[Seen], reported: &HashSet<String>) -> Result<Batch, Failed> {
        let seen: BTreeMap<&str, &Seen> =
            runs.iter().filter(|run| !reported.contains(&run.id)).map(|run| (run.id.as_str(), run)).collect();
        let rows = self.read_runs(seen.keys().copied()).await?;
        let as_seen = rows.into_iter().filter(|run| seen.get(run.id.as_str()).is_some_and(|seen| run.is_as(seen)));
        let still: HashMap<String, Run> = as_seen.map(|run| (run.id.clone(), run)).collect();
        let mut batch = Batch { changed: (seen.len() - still.len()) as u64, held: 0, still };
        let entries = self.all_entries_of(&batch.still.keys().map(String::as_str).collect()).await?;
        let outside = entries.into_iter().filter(|(_, _, child)| !batch.still.contains_key(child)).collect();
        for child in self.children_of(outside).await? {
            batch.hold_above(child.parent);
        }
        Ok(batch)
    }

    /// Steps 2 to 5. Answers which runs went.
    async fn delete_marked(
        &self,
        job: &str,
        fence: Fence,
        batch: &mut Batch,
        until: Instant,
    ) -> Result<BTreeSet<String>, StoreError> {
        let marked = self.marked(&batch.still).await.map_err(Failed::error_before_any_change)?;
        if Instant::now() >= until {
            return Err(StoreError::TimedOut { store: NAME });
        }
        let markers = self.mark(job, &marked).await.map_err(Failed::error_before_any_change)?;
        // As late as possible, for nothing but time lies between this and the deletes.
        if let Err(error) = self.guard_fence(job, fence).await {
            self.unmark(&markers).await?;
            return Err(error);
        }
        let Rows { gone, is_cut, unknown } = self.delete_rows(batch, until).await.map_err(Failed::error)?;
        let of_gone: Vec<Marked> = marked.into_iter().filter(|run| gone.contains(&run.id)).collect();
        let finished = async {
            let counts = self.take(&of_gone).await?;
            // Of what may yet have gone the marker is all that is known.
            if unknown.is_none() {
                self.unmark(&markers).await?;
            }
            Ok::<Counts, Failed>(counts)
        };
        let mut counts = finished.await.map_err(|failed| interrupted(failed, gone.len()))?;
        counts.add("runs", gone.len() as u64);
        for run in &gone {
            self.places.forget(run);
        }
        let mut unreported = self.unreported();
        unreported.counts.merge(&counts);
        unreported.runs.extend(gone.iter().cloned());
        drop(unreported);
        match unknown {
            Some(failed) => Err(interrupted(failed, gone.len())),
            None if is_cut => Err(StoreError::TimedOut { store: NAME }),
            None => Ok(gone),
        }
    }

    /// Step 3, the lowest level first.
    async fn delete_rows(&self, batch: &mut Batch, until: Instant) -> Result<Rows, Failed> {
        let mut rows = Rows::default();
        for level in batch.levels() {
            let mut deletes: Vec<Work<'_, (Run, Outcome)>> = Vec::new();
            for run in level.iter().filter_map(|id| batch.still.get(id).cloned()) {
                deletes.push(Box::pin(async move {
                    let outcome = self.delete_row(&run, until).await;
                    Ok((run, outcome))
                }));
            }
            for (run, outcome) in all(deletes).await? {
                match outcome {
                    Outcome::Gone => {
                        rows.gone.insert(run.id);
                    }
                    Outcome::Changed => {
                        batch.still.remove(&run.id);
                        batch.changed += 1;
                        batch.hold_above(run.parent);
                    }
                    Outcome::Untried => rows.is_cut = true,
                    Outcome::Unknown(failed) => rows.unknown = Some(failed),
                }
            }
            if rows.is_cut || rows.unknown.is_some() {
                break;
            }
        }
        Ok(rows)
    }

    async fn delete_row(&self, run: &Run, until: Instant) -> Outcome {
        if Instant::now() >= until {
            return Outcome::Untried;
        }
        let text = "DELETE FROM workflow_runs WHERE run_id = ? IF status = ? AND updated_at = ?";
        let values = (&run.id, &run.status, run.updated_at.map(CqlTimestamp));
        match self.cql.apply(text, values).await {
            Ok(true) => Outcome::Gone,
            Ok(false) => Outcome::Changed,
            Err(failed) => {
                // Nobody knows whether it went: ask, which also settles what is under way.
                let text = "SELECT run_id FROM workflow_runs WHERE run_id = ?";
                match self.cql.read_agreed::<(String,)>(text, (&run.id,)).await {
                    Ok(None) => Outcome::Gone,
                    Ok(Some(_)) | Err(_) => Outcome::Unknown(failed),
                }
            }
        }
    }

    /// The runs with where their index entries are.
    async fn marked(&self, still: &HashMap<String, Run>) -> Result<Vec<Marked>, Failed> {
        let mut lookups: Vec<Work<'_, Marked>> = Vec::new();
        for run in still.values() {
            lookups.push(Box::pin(async move {
                let entries = self.entries_of_run(run).await?;
                Ok(Marked::new(run, entries))
            }));
        }
        all(lookups).await
    }
}

/// The error of a batch that was not finished. What it has begun is marked.
fn interrupted(failed: Failed, gone: usize) -> StoreError {
    let (Failed::Slow(what) | Failed::Forbidden(what) | Failed::Other(what)) = failed;
    let more =
        if gone > 0 { format!(" ({gone} runs of the batch went; the next run finishes them)") } else { String::new() };
    StoreError::unavailable(NAME, format!("{what}{more}"))
}

impl Batch {
    /// Takes out a run that something below holds, and what is above it.
    fn hold_above(&mut self, parent: Option<String>) {
        let mut above = parent;
        // Each round takes one out: the batch's size bounds them.
        while let Some(run) = above.and_then(|id| self.still.remove(&id)) {
            self.held += 1;
            above = run.parent;
        }
    }

    /// The runs by their depth below others of the batch, the deepest first.
    fn levels(&self) -> Vec<Vec<String>> {
        let mut levels: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for run in self.still.values() {
            let (mut depth, mut above) = (0, run.parent.as_ref());
            // A cycle of parents is as long as the batch at most.
            while let Some(parent) = above.and_then(|id| self.still.get(id))
                && depth < self.still.len()
            {
                depth += 1;
                above = parent.parent.as_ref();
            }
            levels.entry(depth).or_default().push(run.id.clone());
        }
        levels.into_values().rev().collect()
    }
}
