//! Deletes a batch of runs with all that is their own, in a few short transactions at a time.
//!
//! None of them commits before all can. Where a commit fails nevertheless, its runs stay and are counted so: what is told
//! as gone is gone, and an error means that nothing is.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use futures::future::join_all;
use sqlx::Row;

use super::{
    PostgresStore,
    parts::{PARTS_MAX, split},
    stamp::Micros,
    statement,
    work::Work,
};
use crate::{
    lock::Fence,
    report::Counts,
    runs::{Deleted, Seen, StoreError},
};

/// Those of the tables in `$2` whose rows go along with a run, by a foreign key that cascades, and which the server counts
/// then, with how many it has counted before. To delete them beforehand would take as long again: the key looks for them all
/// the same.
const GOING_ALONG: &str = "SELECT name, pg_stat_get_xact_tuples_deleted(to_regclass(name)) FROM unnest($2::text[]) AS name \
     WHERE current_setting('track_counts')::bool AND current_setting('session_replication_role') <> 'replica' AND EXISTS \
    (SELECT 1 FROM pg_constraint AS c WHERE c.contype = 'f' AND c.conrelid = to_regclass(name) AND c.confrelid = to_regclass($1) \
     AND c.confdeltype = 'c' AND c.convalidated AND NOT c.condeferrable \
     AND ARRAY(SELECT a.attname::text FROM pg_attribute AS a WHERE a.attrelid = c.conrelid AND a.attnum = ANY(c.conkey)) = ARRAY['run_id'] \
     AND ARRAY(SELECT a.attname::text FROM pg_attribute AS a WHERE a.attrelid = c.confrelid AND a.attnum = ANY(c.confkey)) = ARRAY['run_id'] \
     AND NOT EXISTS (SELECT 1 FROM pg_trigger AS t WHERE t.tgconstraint = c.oid AND t.tgenabled NOT IN ('O', 'A')))";

/// Why a part was not deleted.
pub(super) enum Fail {
    Store(StoreError),
    /// It has a checkpoint that a run of another part may own.
    Tangled,
}

impl From<StoreError> for Fail {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What a part's transaction has done, and does when it commits.
#[derive(Default)]
pub(super) struct Done {
    pub(super) gone: HashSet<String>,
    pub(super) counts: Counts,
    pub(super) changed: u64,
    pub(super) held: u64,
}

/// A run as it is now, locked.
pub(super) struct Locked {
    pub(super) id: String,
    /// Where its row is.
    place: String,
    parent: Option<String>,
}

impl PostgresStore {
    pub(super) async fn delete_batch(
        &self,
        holder: (&str, Fence),
        runs: &[Seen],
        limit: Duration,
    ) -> Result<Deleted, StoreError> {
        let until = Instant::now() + limit;
        let mut answer = if self.is_distributed {
            self.delete_by_node(holder, &unique(runs), until).await
        } else {
            self.delete_parts(holder, split(runs, PARTS_MAX), until).await
        };
        if let Err(Fail::Tangled) = answer {
            answer = self.delete_parts(holder, split(runs, 1), until).await;
        }
        let parts = match answer {
            Ok(parts) => parts,
            Err(Fail::Store(error)) => return Err(error),
            Err(Fail::Tangled) => unreachable!("one part has no other beside it"),
        };
        let mut deleted = Deleted::default();
        let mut gone = HashSet::new();
        for part in parts {
            deleted.counts.merge(&part.counts);
            deleted.changed += part.changed;
            deleted.held += part.held;
            gone.extend(part.gone);
        }
        deleted.runs = runs.iter().filter(|run| gone.remove(&run.id)).map(|run| run.id.clone()).collect();
        Ok(deleted)
    }

    /// Deletes each part in a transaction of its own.
    async fn delete_parts(
        &self,
        holder: (&str, Fence),
        parts: Vec<Vec<&Seen>>,
        until: Instant,
    ) -> Result<Vec<Done>, Fail> {
        let all: HashSet<&str> = parts.iter().flatten().map(|run| run.id.as_str()).collect();
        let prepared = join_all(parts.into_iter().map(|part| {
            let own: HashSet<&str> = part.iter().map(|run| run.id.as_str()).collect();
            let others = all.difference(&own).copied().collect();
            self.delete_part(holder, part, others, until)
        }));
        let prepared = all_or_none(prepared.await).await?;
        let (works, done): (Vec<Work<'_>>, Vec<Done>) = prepared.into_iter().unzip();
        let committed = join_all(works.into_iter().map(Work::commit)).await;
        settled(done.into_iter().zip(committed))
    }

    /// Deletes a part and leaves it to be committed, or rolls it back.
    async fn delete_part(
        &self,
        holder: (&str, Fence),
        part: Vec<&Seen>,
        others: HashSet<&str>,
        until: Instant,
    ) -> Result<(Work<'_>, Done), Fail> {
        let mut work = Work::begin(self, until).await?;
        match self.delete_in(&mut work, holder, &part, &others).await {
            Ok(done) => Ok((work, done)),
            Err(fail) => {
                work.roll_back().await;
                Err(fail)
            }
        }
    }

    async fn delete_in(
        &self,
        work: &mut Work<'_>,
        holder: (&str, Fence),
        part: &[&Seen],
        others: &HashSet<&str>,
    ) -> Result<Done, Fail> {
        self.guard_fence(work, holder).await?;
        let mut locked = self.lock_as_seen(work, part).await?;
        let changed = (part.len() - locked.len()) as u64;
        let held = self.drop_held(work, &mut locked).await?;
        let gone: Vec<&str> = locked.iter().map(|run| run.id.as_str()).collect();
        let mut counts = Counts::default();
        if self.tables.has("checkpoints") {
            let keys = self.checkpoints_of(work, &gone, others).await?;
            let count =
                if keys.is_empty() { 0 } else { delete_rows(work, "checkpoints", "step_run_id", &keys).await? };
            counts.add("checkpoints", count);
        }
        let along = self.going_along(work).await?;
        let is_along = |table: &str| along.iter().any(|(name, _)| name == table);
        let owned = self.layout.owned.iter().filter(|(table, _)| self.tables.has(table));
        for (table, kind) in owned.clone().filter(|(table, _)| !is_along(table)) {
            counts.add(kind, delete_rows(work, table, "run_id", &gone).await?);
        }
        counts.add("runs", self.delete_runs(work, &locked).await?);
        for (table, count) in deleted_since(work, &along).await? {
            for (_, kind) in owned.clone().filter(|(name, _)| *name == table) {
                counts.add(kind, count);
            }
        }
        work.settle().await?;
        let gone = locked.into_iter().map(|run| run.id).collect();
        Ok(Done { gone, counts, changed, held })
    }

    /// Locks those of `part` that are as they were read. What somebody else has locked is about to change.
    pub(super) async fn lock_as_seen(&self, work: &mut Work<'_>, part: &[&Seen]) -> Result<Vec<Locked>, StoreError> {
        let text = format!(
            "SELECT r.run_id, r.status, r.updated_at, r.parent_run_id, r.ctid::text FROM {} AS r \
             WHERE r.run_id = ANY($1) FOR UPDATE SKIP LOCKED",
            self.layout.runs
        );
        let seen: HashMap<&str, &Seen> = part.iter().map(|run| (run.id.as_str(), *run)).collect();
        let ids: Vec<&str> = part.iter().map(|run| run.id.as_str()).collect();
        let query = sqlx::query(statement(text)).bind(ids);
        work.run(async |connection| {
            let mut locked = Vec::with_capacity(part.len());
            for row in query.fetch_all(connection).await? {
                let (id, status): (String, String) = (row.try_get(0)?, row.try_get(1)?);
                let updated_at = row.try_get::<Option<Micros>, _>(2)?.map(Micros::text);
                if seen.get(id.as_str()).is_some_and(|run| run.status == status && run.updated_at.raw == updated_at) {
                    locked.push(Locked { id, place: row.try_get(4)?, parent: row.try_get(3)? });
                }
            }
            Ok(locked)
        })
        .await
    }

    /// Takes out what has a child outside, and whatever that holds in turn; answers how many. That is a later statement
    /// than the one that locked: a child that came before the lock is seen, and none comes after it.
    async fn drop_held(&self, work: &mut Work<'_>, locked: &mut Vec<Locked>) -> Result<u64, StoreError> {
        let text = format!(
            "SELECT b FROM unnest($1::text[]) AS b WHERE EXISTS \
             (SELECT 1 FROM {} AS c WHERE c.parent_run_id = b AND NOT c.run_id = ANY($1))",
            self.layout.runs
        );
        let ids: Vec<&str> = locked.iter().map(|run| run.id.as_str()).collect();
        let query = sqlx::query_scalar(statement(text)).bind(ids);
        let above = work.run(async |connection| query.fetch_all(connection).await).await?;
        let held = held_by(&*locked, above);
        locked.retain(|run| !held.contains(&run.id));
        Ok(held.len() as u64)
    }

    /// The tables whose rows go with the runs of this transaction, which keeps the foreign keys as they are.
    async fn going_along(&self, work: &mut Work<'_>) -> Result<Vec<(String, i64)>, StoreError> {
        let owned = self.layout.owned.iter().map(|(table, _)| *table).collect::<Vec<_>>();
        let query = sqlx::query_as(GOING_ALONG).bind(self.layout.runs).bind(owned);
        work.run(async |connection| query.fetch_all(connection).await).await
    }

    /// Deletes the rows of the runs themselves, which are where they were locked.
    async fn delete_runs(&self, work: &mut Work<'_>, locked: &[Locked]) -> Result<u64, StoreError> {
        let text = format!(
            "DELETE FROM {} AS r USING unnest($1::text[], $2::text[]) AS b (run_id, place) \
             WHERE r.ctid = b.place::tid AND r.run_id = b.run_id",
            self.layout.runs
        );
        let ids: Vec<&str> = locked.iter().map(|run| run.id.as_str()).collect();
        let places: Vec<&str> = locked.iter().map(|run| run.place.as_str()).collect();
        let query = sqlx::query(statement(text)).bind(ids).bind(places);
        let count = work.run(async |connection| query.execute(connection).await).await?.rows_affected();
        if count == locked.len() as u64 {
            return Ok(count);
        }
        let source = format!("{}: a trigger or a policy keeps {} runs", self.place, locked.len() as u64 - count);
        Err(StoreError::Refused { store: self.name, source: source.into() })
    }
}

/// The runs of `locked` that cannot go because those `above` a child cannot: they and whatever is above them.
pub(super) fn held_by<'l>(locked: impl IntoIterator<Item = &'l Locked>, above: Vec<String>) -> HashSet<String> {
    let parents: HashMap<&str, Option<&String>> =
        locked.into_iter().map(|run| (run.id.as_str(), run.parent.as_ref())).collect();
    let (mut stack, mut held) = (above, HashSet::new());
    while let Some(id) = stack.pop() {
        let parent = parents.get(id.as_str()).copied().flatten();
        if parents.contains_key(id.as_str()) && held.insert(id) {
            stack.extend(parent.cloned());
        }
    }
    held
}

/// The runs, each once.
fn unique(runs: &[Seen]) -> Vec<&Seen> {
    let mut ids = HashSet::new();
    runs.iter().filter(|run| ids.insert(run.id.as_str())).collect()
}

/// What all parts prepared; where one failed, the others are rolled back.
pub(super) async fn all_or_none<T>(parts: Vec<Result<(Work<'_>, T), Fail>>) -> Result<Vec<(Work<'_>, T)>, Fail> {
    let (mut ready, mut worst) = (Vec::new(), None::<Fail>);
    for part in parts {
        match part {
            Ok(part) => ready.push(part),
            Err(fail) if worst.as_ref().is_none_or(|worst| rank(&fail) < rank(worst)) => worst = Some(fail),
            Err(_) => {}
        }
    }
    let Some(worst) = worst else { return Ok(ready) };
    join_all(ready.into_iter().map(|(work, _)| work.roll_back())).await;
    Err(worst)
}

/// What of the parts is done. Some may be where another is not: its runs stay.
pub(super) fn settled(parts: impl Iterator<Item = (Done, Result<(), StoreError>)>) -> Result<Vec<Done>, Fail> {
    let (mut done, mut failed, mut first) = (Vec::new(), 0, None);
    for (part, committed) in parts {
        match committed {
            Ok(()) => done.push(part),
            Err(error) => {
                tracing::warn!(%error, runs = part.gone.len(), "a part of a batch was not committed");
                failed += part.gone.len() as u64;
                first = first.or(Some(error));
            }
        }
    }
    match first {
        Some(error) if done.iter().all(|part| part.gone.is_empty()) => Err(error.into()),
        _ => {
            done.push(Done { changed: failed, ..Done::default() });
            Ok(done)
        }
    }
}

/// What is worse is told first: a batch that timed out may be tried again.
fn rank(fail: &Fail) -> u8 {
    match fail {
        Fail::Store(StoreError::TimedOut { .. } | StoreError::Refused { .. }) => 2,
        Fail::Tangled => 1,
        Fail::Store(_) => 0,
    }
}

/// How many rows of each of the tables this transaction has deleted since it was asked for [`GOING_ALONG`].
async fn deleted_since(work: &mut Work<'_>, before: &[(String, i64)]) -> Result<Vec<(String, u64)>, StoreError> {
    if before.is_empty() {
        return Ok(Vec::new());
    }
    let text = "SELECT b.name, pg_stat_get_xact_tuples_deleted(to_regclass(b.name)) - b.count \
                FROM unnest($1::text[], $2::bigint[]) AS b (name, count)";
    let (names, counts): (Vec<&str>, Vec<i64>) = before.iter().map(|(name, count)| (name.as_str(), *count)).unzip();
    let query = sqlx::query_as::<_, (String, i64)>(text).bind(names).bind(counts);
    let rows = work.run(async |connection| query.fetch_all(connection).await).await?;
    Ok(rows.into_iter().map(|(name, count)| (name, u64::try_from(count).unwrap_or(0))).collect())
}

/// Deletes the rows of `table` whose `column` is among `values`.
pub(super) async fn delete_rows<T>(
    work: &mut Work<'_>,
    table: &str,
    column: &str,
    values: &[T],
) -> Result<u64, StoreError>
where
    for<'q> &'q [T]: sqlx::Encode<'q, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    T: Sync,
{
    if values.is_empty() {
        return Ok(0);
    }
    let text = format!("DELETE FROM {table} WHERE {column} = ANY($1)");
    let query = sqlx::query(statement(text)).bind(values);
    Ok(work.run(async |connection| query.execute(connection).await).await?.rows_affected())
}
