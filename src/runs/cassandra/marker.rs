//! What is written before a run goes, so that what belongs to it goes after any crash.

use std::collections::HashSet;

use scylla::value::CqlTimestamp;
use serde::{Deserialize, Serialize};

use super::{
    CassandraStore, NAME,
    cql::{Failed, Work, all},
    places::Entry,
    read::Run,
};
use crate::runs::StoreError;

/// How many runs one marker names.
const RUNS_MAX: usize = 200;
/// From this age on a marker is finished by any job: its own may be gone.
const FOREIGN_MILLIS: i64 = 24 * 60 * 60 * 1_000;

/// What the index entries of a run need that is no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marked {
    pub(super) id: String,
    pub(super) created_at: Option<i64>,
    pub(super) workflow: Option<String>,
    pub(super) parent: Option<String>,
    pub(super) idempotency_key: Option<String>,
    pub(super) entries: Vec<Entry>,
}

impl Marked {
    pub(super) fn new(run: &Run, entries: Vec<Entry>) -> Self {
        Self {
            id: run.id.clone(),
            created_at: run.created_at,
            workflow: run.workflow.clone(),
            parent: run.parent.clone(),
            idempotency_key: run.idempotency_key.clone(),
            entries,
        }
    }
}

/// The ids of markers that were written together.
#[derive(Debug)]
pub(super) struct Markers(Vec<String>);

impl CassandraStore {
    /// Writes down which runs are to go.
    pub(super) async fn mark(&self, job: &str, runs: &[Marked]) -> Result<Markers, Failed> {
        let text = "INSERT INTO janitor_marker (id, job, made_at, runs) VALUES (?, ?, toTimestamp(now()), ?)";
        let mut ids = Vec::new();
        for chunk in runs.chunks(RUNS_MAX) {
            let id = ulid::Ulid::generate().to_string();
            let json = serde_json::to_string(chunk).map_err(|error| Failed::Other(error.to_string()))?;
            self.cql.write(text, (&id, job, json)).await?;
            ids.push(id);
        }
        Ok(Markers(ids))
    }

    /// Drops markers: all that they name is gone, or stays.
    pub(super) async fn unmark(&self, markers: &Markers) -> Result<(), Failed> {
        for id in &markers.0 {
            self.cql.write("DELETE FROM janitor_marker WHERE id = ?", (id,)).await?;
        }
        Ok(())
    }

    /// Finishes what an earlier holder of the job has begun: the rest of runs that are gone goes; those that still stand
    /// keep everything.
    pub(super) async fn finish_markers(&self, job: &str) -> Result<(), StoreError> {
        type Columns = (String, Option<String>, Option<CqlTimestamp>, Option<String>, Option<CqlTimestamp>);
        let text = "SELECT id, job, made_at, runs, toTimestamp(now()) FROM janitor_marker";
        let rows: Vec<Columns> = self.cql.read(text, ()).await?;
        for (id, of_job, made_at, runs, now) in rows {
            let age = now.zip(made_at).map_or(0, |(now, made_at)| now.0 - made_at.0);
            if of_job.as_deref() != Some(job) && age < FOREIGN_MILLIS {
                continue;
            }
            let Ok(runs) = serde_json::from_str::<Vec<Marked>>(runs.as_deref().unwrap_or_default()) else {
                // It was written by another version, or by hand: nobody knows what it is for.
                tracing::warn!(store = NAME, marker = id, "a marker cannot be read and stays");
                continue;
            };
            let standing = self.standing(&runs).await?;
            let gone: Vec<Marked> = runs.into_iter().filter(|run| !standing.contains(&run.id)).collect();
            let counts = self.take(&gone).await?;
            tracing::info!(store = NAME, runs = gone.len(), %counts, "finished what was begun before");
            self.unmark(&Markers(vec![id])).await?;
        }
        Ok(())
    }

    /// Which of these runs are there, as the replicas agree.
    pub(super) async fn standing(&self, runs: &[Marked]) -> Result<HashSet<String>, Failed> {
        let text = "SELECT run_id FROM workflow_runs WHERE run_id = ?";
        let mut reads: Vec<Work<'_, Option<(String,)>>> = Vec::new();
        for run in runs {
            reads.push(Box::pin(self.cql.read_agreed(text, (&run.id,))));
        }
        Ok(all(reads).await?.into_iter().flatten().map(|(id,)| id).collect())
    }
}
