//! Deletes what belonged to runs that are gone.
//!
//! An index entry goes only where it names one of these runs: ids of steps and hooks repeat across runs, and the last
//! writer has the entry. What is found by means of steps, hooks and events goes before them, so that it can be found
//! again after a crash. Events, steps and hooks are one partition each per run: one tombstone, however many rows.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use scylla::value::CqlTimestamp;

use super::{
    CassandraStore,
    cql::{Failed, Work, all, is_key},
    day,
    marker::Marked,
    places::Place,
    ranges::{Range, ranges},
    read::Run,
};
use crate::report::Counts;

/// How many keys one delete names.
const DELETED_MAX: usize = 16;

/// What was found of the runs.
#[derive(Default)]
struct Found {
    /// By run, the ids of its steps that are rows.
    steps: BTreeMap<String, BTreeSet<String>>,
    /// By run, the ids of steps that its events name.
    named: BTreeMap<String, BTreeSet<String>>,
    /// By run, the ids of its hooks and their tokens.
    hooks: BTreeMap<String, Vec<(String, Option<String>)>>,
    /// How many events each run has.
    events: BTreeMap<String, u64>,
    flags: BTreeSet<String>,
}

#[derive(serde::Deserialize)]
struct OfStep {
    step_id: Option<String>,
}

/// The step that an event is of.
fn step_of(data: &str) -> Option<String> {
    // Most events are of none, and reading JSON takes longer than looking.
    if !data.contains("\"step_id\"") {
        return None;
    }
    serde_json::from_str::<OfStep>(data).ok()?.step_id
}

impl CassandraStore {
    /// Deletes all that is the own of `runs`, whose rows are gone; answers how much of each kind there was.
    pub(super) async fn take(&self, runs: &[Marked]) -> Result<Counts, Failed> {
        if runs.is_empty() {
            return Ok(Counts::default());
        }
        let gone: BTreeSet<&str> = runs.iter().map(|run| run.id.as_str()).collect();
        let found = self.find_owned(&gone).await?;
        let (entries, checkpoints) =
            tokio::try_join!(self.entries(runs, &gone, &found), self.checkpoints(&gone, &found))?;
        let mut counts = Counts::default();
        counts.add("checkpoints", checkpoints.len() as u64);
        counts.add("events", found.events.values().sum());
        counts.add("steps", found.steps.values().map(|steps| steps.len() as u64).sum());
        counts.add("hooks", found.hooks.values().map(|hooks| hooks.len() as u64).sum());
        counts.add("cancellation_flags", found.flags.len() as u64);
        let checkpoints = self.rows("DELETE FROM checkpoints WHERE step_run_id IN ?", &checkpoints);
        all(entries.into_iter().chain(checkpoints).collect()).await?;
        let partitions = [
            ("DELETE FROM events WHERE run_id IN ?", found.events.into_keys().collect::<Vec<_>>()),
            ("DELETE FROM steps WHERE run_id IN ?", found.steps.into_keys().collect()),
            ("DELETE FROM hooks WHERE run_id IN ?", found.hooks.into_keys().collect()),
            ("DELETE FROM cancellation_flags WHERE run_id IN ?", found.flags.into_iter().collect()),
        ];
        all(partitions.into_iter().flat_map(|(text, keys)| self.rows(text, &keys)).collect()).await?;
        Ok(counts)
    }

    /// The deletes of what has these keys, some at a time.
    fn rows(&self, text: &'static str, keys: &[String]) -> Vec<Work<'_, ()>> {
        let mut deletes: Vec<Work<'_, ()>> = Vec::new();
        for chunk in keys.chunks(DELETED_MAX) {
            let chunk = chunk.to_vec();
            deletes.push(Box::pin(async move { self.cql.write(text, (chunk,)).await }));
        }
        deletes
    }

    async fn find_owned(&self, gone: &BTreeSet<&str>) -> Result<Found, Failed> {
        let (steps, hooks, events, flags) = tokio::try_join!(
            self.cql.read_keys::<(String, String)>("SELECT run_id, step_id FROM steps WHERE run_id IN ?", gone),
            self.cql.read_keys::<(String, String, Option<String>)>(
                "SELECT run_id, hook_id, \"token\" FROM hooks WHERE run_id IN ?",
                gone
            ),
            self.cql.read_keys::<(String, Option<String>)>("SELECT run_id, data FROM events WHERE run_id IN ?", gone),
            self.cql.read_keys::<(String,)>("SELECT run_id FROM cancellation_flags WHERE run_id IN ?", gone),
        )?;
        let mut found = Found { flags: flags.into_iter().map(|(run,)| run).collect(), ..Found::default() };
        for (run, step) in steps {
            found.steps.entry(run).or_default().insert(step);
        }
        for (run, hook, token) in hooks {
            found.hooks.entry(run).or_default().push((hook, token));
        }
        for (run, data) in events {
            if let Some(step) = data.as_deref().and_then(step_of) {
                found.named.entry(run.clone()).or_default().insert(step);
            }
            *found.events.entry(run).or_default() += 1;
        }
        Ok(found)
    }

    /// The deletes of the entries that the index tables have of the runs.
    async fn entries<'a>(
        &'a self,
        runs: &[Marked],
        gone: &BTreeSet<&str>,
        found: &Found,
    ) -> Result<Vec<Work<'a, ()>>, Failed> {
        let steps = found.steps.values().flatten().map(String::as_str).collect();
        let hooks = found.hooks.values().flatten().map(|(hook, _)| hook.as_str()).collect();
        let tokens = found.hooks.values().flatten().filter_map(|(_, token)| token.as_deref()).collect();
        let keys = runs.iter().filter_map(|run| run.idempotency_key.as_deref()).collect();
        let (steps, hooks, tokens, keys) = tokio::try_join!(
            self.owned("SELECT step_id, run_id FROM steps_by_id WHERE step_id IN ?", &steps, gone),
            self.owned("SELECT hook_id, run_id FROM hooks_by_id WHERE hook_id IN ?", &hooks, gone),
            self.owned("SELECT \"token\", run_id FROM hooks_by_token WHERE \"token\" IN ?", &tokens, gone),
            self.owned(
                "SELECT idempotency_key, run_id FROM runs_by_idempotency_key WHERE idempotency_key IN ?",
                &keys,
                gone
            ),
        )?;
        let by_key = [
            ("DELETE FROM steps_by_id WHERE step_id IN ?", steps),
            ("DELETE FROM hooks_by_id WHERE hook_id IN ?", hooks),
            ("DELETE FROM hooks_by_token WHERE \"token\" IN ?", tokens),
            ("DELETE FROM runs_by_idempotency_key WHERE idempotency_key IN ?", keys),
        ];
        let by_key = by_key.into_iter().flat_map(|(text, keys)| self.rows(text, &keys));
        let by_status = ranges(runs).into_iter().map(|range| self.range(range));
        Ok(by_key.chain(by_status).chain(runs.iter().flat_map(|run| self.by_time(run))).collect())
    }

    /// Those of these keys whose entry names one of the runs.
    async fn owned(
        &self,
        text: &'static str,
        keys: &BTreeSet<&str>,
        gone: &BTreeSet<&str>,
    ) -> Result<Vec<String>, Failed> {
        let rows: Vec<(String, Option<String>)> = self.cql.read_keys(text, keys).await?;
        let is_theirs = |run: &Option<String>| run.as_deref().is_some_and(|run| gone.contains(run));
        Ok(rows.into_iter().filter(|(_, run)| is_theirs(run)).map(|(key, _)| key).collect())
    }

    /// The delete of entries of the index by status that stand beside each other: one tombstone, however many they are.
    fn range(&self, range: Range) -> Work<'_, ()> {
        let Range { place: Place { status, day }, latest: (last, last_run), earliest: (first, first_run), written_at } =
            range;
        let (last, first) = (CqlTimestamp(last), CqlTimestamp(first));
        Box::pin(async move {
            let Some(written_at) = written_at else {
                let text =
                    "DELETE FROM runs_by_status WHERE status = ? AND date_bucket = ? AND created_at = ? AND run_id = ?";
                return self.cql.write(text, (status, day, last, last_run)).await;
            };
            // What was written later, by a run that came to this status since, stays.
            let text = "DELETE FROM runs_by_status USING TIMESTAMP ? WHERE status = ? AND date_bucket = ? \
                        AND (created_at, run_id) >= (?, ?) AND (created_at, run_id) <= (?, ?)";
            let values = (written_at, status, day, first, first_run, last, last_run);
            self.cql.write(text, values).await
        })
    }

    /// The deletes of a run's entries in the other indexes whose keys hold its id.
    fn by_time<'a>(&'a self, run: &Marked) -> Vec<Work<'a, ()>> {
        let Some(created_at) = run.created_at else { return Vec::new() };
        let at = CqlTimestamp(created_at);
        let mut deletes: Vec<Work<'a, ()>> = Vec::new();
        // Both were written with the same day.
        let day = run.entries.first().map(|entry| entry.place.day.clone()).or_else(|| day(created_at));
        if let Some((workflow, day)) = run.workflow.clone().zip(day) {
            let text = "DELETE FROM runs_by_workflow WHERE workflow_name = ? AND date_bucket = ? AND created_at = ? AND run_id = ?";
            let id = run.id.clone();
            deletes.push(Box::pin(async move { self.cql.write(text, (workflow, day, at, id)).await }));
        }
        if let Some(parent) = run.parent.clone().filter(|parent| is_key(parent)) {
            let text = "DELETE FROM runs_by_parent WHERE parent_run_id = ? AND created_at = ? AND run_id = ?";
            let id = run.id.clone();
            deletes.push(Box::pin(async move { self.cql.write(text, (parent, at, id)).await }));
        }
        deletes
    }

    /// The keys of the checkpoints of the runs: `run:step`, and the bare id of a step that is a row of the run's own. Keys
    /// that a run which stands might mean too stay.
    async fn checkpoints(&self, gone: &BTreeSet<&str>, found: &Found) -> Result<Vec<String>, Failed> {
        let mut candidates: BTreeSet<String> = found.steps.values().flatten().cloned().collect();
        for (run, steps) in found.steps.iter().chain(&found.named) {
            candidates.extend(steps.iter().map(|step| format!("{run}:{step}")));
        }
        let candidates = candidates.iter().map(String::as_str).collect();
        let text = "SELECT step_run_id FROM checkpoints WHERE step_run_id IN ?";
        let there: Vec<(String,)> = self.cql.read_keys(text, &candidates).await?;
        let there: Vec<String> = there.into_iter().map(|(key,)| key).collect();
        if there.is_empty() {
            return Ok(there);
        }
        let keys: BTreeSet<&str> = there.iter().map(String::as_str).collect();
        let text = "SELECT step_id, run_id FROM steps_by_id WHERE step_id IN ?";
        let owners: Vec<(String, Option<String>)> = self.cql.read_keys(text, &keys).await?;
        let owners: HashMap<&str, &str> =
            owners.iter().filter_map(|(step, run)| Some((step.as_str(), run.as_deref()?))).collect();
        let meant = |key: &'_ str| -> Vec<String> {
            let by_key = key.match_indices(':').map(|(at, _)| &key[..at]);
            let others = by_key.chain(owners.get(key).copied()).filter(|run| !gone.contains(*run));
            others.map(str::to_owned).collect()
        };
        let others: Vec<String> = there.iter().flat_map(|key| meant(key)).collect();
        let standing: Vec<Run> = self.read_runs(others.iter().map(String::as_str)).await?;
        let standing: HashSet<String> = standing.into_iter().map(|run| run.id).collect();
        let stays = |key: &str| meant(key).iter().any(|run| standing.contains(run));
        Ok(there.iter().filter(|key| !stays(key)).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_step_of_an_event() {
        assert_eq!(step_of("{\"i\": 1, \"step_id\": \"a:b\"}").as_deref(), Some("a:b"));
        for data in
            ["", "{}", "{\"step_id\": null}", "{\"pad\": \"\\\"step_id\\\"\"}", "\"step_id\"", "{\"step_id\": 1}"]
        {
            assert_eq!(step_of(data), None, "{data}");
        }
    }
}
