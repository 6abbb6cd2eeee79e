//! Deletes a batch of runs with all that is their own, in a few short transactions that commit together.

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
struct Done {
    gone: HashSet<String>,
    counts: Counts,
    changed: u64,
    held: u64,
}

/// A run as it is now, locked.
struct Locked {
    id: String,
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
        let mut answer = self.delete_parts(holder, split(runs, PARTS_MAX), until).await;
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

    /// Deletes each part in a transaction of its own. None commits before all of them can.
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
        }))
        .await;
        let (mut works, mut done, mut fails) = (Vec::new(), Vec::new(), Vec::new());
        for part in prepared {
            match part {
                Ok((work, part)) => {
                    works.push(work);
                    done.push(part);
                }
                Err(fail) => fails.push(fail),
            }
        }
        if let Some(worst) = fails.into_iter().min_by_key(rank) {
            join_all(works.into_iter().map(Work::roll_back)).await;
            return Err(worst);
        }
        for committed in join_all(works.into_iter().map(Work::commit)).await {
            committed?;
        }
        Ok(done)
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
        for (table, kind) in self.layout.owned.iter().filter(|(table, _)| self.tables.has(table)) {
            counts.add(kind, delete_rows(work, table, "run_id", &gone).await?);
        }
        counts.add("runs", self.delete_runs(work, &locked).await?);
        work.settle().await?;
        let gone = locked.into_iter().map(|run| run.id).collect();
        Ok(Done { gone, counts, changed, held })
    }

    /// Locks those of `part` that are as they were read. What somebody else has locked is about to change.
    async fn lock_as_seen(&self, work: &mut Work<'_>, part: &[&Seen]) -> Result<Vec<Locked>, StoreError> {
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
        let mut stack: Vec<String> = work.run(async |connection| query.fetch_all(connection).await).await?;
        let parents: HashMap<String, Option<String>> =
            locked.iter().map(|run| (run.id.clone(), run.parent.clone())).collect();
        let mut held = HashSet::new();
        while let Some(id) = stack.pop() {
            let parent = parents.get(&id).cloned().flatten();
            if held.insert(id) {
                stack.extend(parent.filter(|parent| parents.contains_key(parent)));
            }
        }
        locked.retain(|run| !held.contains(&run.id));
        Ok(held.len() as u64)
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

/// What is worse is told first: a batch that timed out may be tried again.
fn rank(fail: &Fail) -> u8 {
    match fail {
        Fail::Store(StoreError::TimedOut { .. } | StoreError::Refused { .. }) => 2,
        Fail::Tangled => 1,
        Fail::Store(_) => 0,
    }
}

/// Deletes the rows of `table` whose `column` is among `values`.
async fn delete_rows<T>(work: &mut Work<'_>, table: &str, column: &str, values: &[T]) -> Result<u64, StoreError>
where
    for<'q> &'q [T]: sqlx::Encode<'q, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    T: Sync,
{
    let text = format!("DELETE FROM {table} WHERE {column} = ANY($1)");
    let query = sqlx::query(statement(text)).bind(values);
    Ok(work.run(async |connection| query.execute(connection).await).await?.rows_affected())
}
