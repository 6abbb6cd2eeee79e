//! Deletes a batch of runs with all that is their own, in one short transaction.
//!
//! The joins are CROSS JOINs, which SQLite never turns around: the batch is small, what it is joined with is not.

use std::{collections::HashSet, time::Duration};

use sqlx::{Row, SqliteConnection};

use super::{FENCE_TABLE, NAME, SqliteStore, statement};
use crate::{
    lock::Fence,
    runs::{Deleted, Seen, StoreError},
};

/// The runs of the batch in hand; it lives in memory, with the connection.
pub(super) const BATCH_TABLE: &str =
    "CREATE TEMP TABLE batch (run_id TEXT PRIMARY KEY, status TEXT, updated_at TEXT) WITHOUT ROWID";
/// How long making the fence's table and raising it may take.
const RAISE_MAX: Duration = Duration::from_secs(5);

impl SqliteStore {
    /// Sets the job's fence, which must grow; makes the table that remembers it.
    pub(super) async fn raise_fence(&self, job: &str, fence: Fence) -> Result<(), StoreError> {
        let number = i64::try_from(fence.get()).unwrap_or(i64::MAX);
        let mut transaction = self.begin(RAISE_MAX).await?;
        let connection = &mut *transaction.connection;
        let highest = async {
            sqlx::query(FENCE_TABLE).execute(&mut *connection).await?;
            let text = "INSERT INTO janitor_fence (job, fence) VALUES (?1, ?2) ON CONFLICT (job) DO UPDATE SET fence = ?2 WHERE fence < ?2";
            let raised = sqlx::query(text).bind(job).bind(number).execute(&mut *connection).await?.rows_affected();
            if raised == 1 { Ok(None) } else { seen_fence(connection, job).await.map(Some) }
        };
        let highest = highest.await.map_err(|error| self.error(&error));
        match transaction.end(highest).await? {
            None => Ok(()),
            Some(highest) => Err(StoreError::Fenced { store: NAME, fence, highest }),
        }
    }

    pub(super) async fn delete_batch(
        &self,
        job: &str,
        fence: Fence,
        runs: &[Seen],
        limit: Duration,
    ) -> Result<Deleted, StoreError> {
        let mut transaction = self.begin(limit).await?;
        let deleted = self.delete_fenced(&mut transaction.connection, job, fence, runs).await;
        transaction.end(deleted).await
    }

    async fn delete_fenced(
        &self,
        connection: &mut SqliteConnection,
        job: &str,
        fence: Fence,
        runs: &[Seen],
    ) -> Result<Deleted, StoreError> {
        self.guard_fence(connection, job, fence).await?;
        self.delete_in(connection, runs).await.map_err(|error| self.error(&error))
    }

    /// Refuses a fence that is not the one that the store has seen last.
    pub(super) async fn guard_fence(
        &self,
        connection: &mut SqliteConnection,
        job: &str,
        fence: Fence,
    ) -> Result<(), StoreError> {
        let highest = seen_fence(connection, job).await.map_err(|error| self.error(&error))?;
        if highest == fence.get() { Ok(()) } else { Err(StoreError::Fenced { store: NAME, fence, highest }) }
    }

    async fn delete_in(&self, connection: &mut SqliteConnection, runs: &[Seen]) -> Result<Deleted, sqlx::Error> {
        let row = |run: &Seen| serde_json::json!([run.id.as_str(), run.status.as_str(), run.updated_at.raw.as_deref()]);
        let batch: serde_json::Value = runs.iter().map(row).collect();
        sqlx::query("DELETE FROM temp.batch").execute(&mut *connection).await?;
        sqlx::query("INSERT INTO temp.batch SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?) WHERE true ON CONFLICT DO NOTHING")
            .bind(batch.to_string())
            .execute(&mut *connection)
            .await?;
        let changed = self.drop_changed(connection).await?;
        let held = self.drop_held(connection).await?;
        let mut deleted = Deleted { changed, held, ..Deleted::default() };
        self.delete_checkpoints(connection, &mut deleted).await?;
        for (table, kind) in self.layout.owned.iter().filter(|(table, _)| self.tables.has(table)) {
            let text = format!("DELETE FROM {table} WHERE run_id IN (SELECT run_id FROM temp.batch)");
            deleted.counts.add(kind, sqlx::query(statement(text)).execute(&mut *connection).await?.rows_affected());
        }
        let text = format!("DELETE FROM {} WHERE run_id IN (SELECT run_id FROM temp.batch)", self.layout.runs);
        deleted.counts.add("runs", sqlx::query(statement(text)).execute(&mut *connection).await?.rows_affected());
        let mut gone: HashSet<String> = sqlx::query_scalar("SELECT run_id FROM temp.batch")
            .fetch_all(&mut *connection)
            .await?
            .into_iter()
            .collect();
        deleted.runs = runs.iter().filter(|run| gone.remove(&run.id)).map(|run| run.id.clone()).collect();
        Ok(deleted)
    }

    /// Takes out of the batch what is not as it was read: revived, gone, or written since.
    async fn drop_changed(&self, connection: &mut SqliteConnection) -> Result<u64, sqlx::Error> {
        let text = format!(
            "DELETE FROM temp.batch WHERE run_id IN (SELECT b.run_id FROM temp.batch AS b LEFT JOIN {} AS r ON r.run_id = b.run_id \
             WHERE r.run_id IS NULL OR r.status IS NOT b.status OR r.updated_at IS NOT b.updated_at)",
            self.layout.runs
        );
        Ok(sqlx::query(statement(text)).execute(connection).await?.rows_affected())
    }

    /// Takes out of the batch what has a child outside, and whatever that holds in turn, until nothing is taken out.
    async fn drop_held(&self, connection: &mut SqliteConnection) -> Result<u64, sqlx::Error> {
        let text = format!(
            "DELETE FROM temp.batch WHERE run_id IN (SELECT c.parent_run_id FROM temp.batch AS b CROSS JOIN {} AS c ON c.parent_run_id = b.run_id \
             WHERE NOT EXISTS (SELECT 1 FROM temp.batch AS k WHERE k.run_id = c.run_id))",
            self.layout.runs
        );
        let mut held = 0;
        loop {
            let more = sqlx::query(statement(text.clone())).execute(&mut *connection).await?.rows_affected();
            held += more;
            // Each round takes out one at least: the batch's size bounds them.
            if more == 0 {
                return Ok(held);
            }
        }
    }

    /// Deletes the checkpoints of the batch: those keyed `run:step`, and those keyed by the id of a step that is a row of
    /// the run's own. Keys that a run which stays might mean too stay.
    async fn delete_checkpoints(
        &self,
        connection: &mut SqliteConnection,
        deleted: &mut Deleted,
    ) -> Result<(), sqlx::Error> {
        if !self.tables.has("checkpoints") {
            return Ok(());
        }
        let mut found = "SELECT p.step_run_id, b.run_id FROM temp.batch AS b CROSS JOIN checkpoints AS p \
                     ON p.step_run_id >= b.run_id || ':' AND p.step_run_id < b.run_id || ';'"
            .to_owned();
        if self.tables.has("steps") {
            found.push_str(
                " WHERE NOT EXISTS (SELECT 1 FROM steps AS s WHERE s.step_id = p.step_run_id AND s.run_id NOT IN (SELECT run_id FROM temp.batch)) \
                 UNION ALL SELECT p.step_run_id, b.run_id FROM temp.batch AS b CROSS JOIN steps AS s ON s.run_id = b.run_id \
                 CROSS JOIN checkpoints AS p ON p.step_run_id = s.step_id",
            );
        }
        let mut keys = Vec::new();
        for row in sqlx::query(statement(found)).fetch_all(&mut *connection).await? {
            // A key that is no text is nobody's.
            let (Ok(key), Ok(run)) = (row.try_get::<String, _>(0), row.try_get::<String, _>(1)) else { continue };
            if self.is_of_one_run(connection, &key, &run).await? {
                keys.push(key);
            }
        }
        let text = "DELETE FROM checkpoints WHERE step_run_id IN (SELECT value FROM json_each(?))";
        let gone = sqlx::query(text)
            .bind(super::json(keys.iter().map(String::as_str)))
            .execute(connection)
            .await?
            .rows_affected();
        deleted.counts.add("checkpoints", gone);
        Ok(())
    }

    /// Whether no other run that stays could own the checkpoint `key`: with a colon in a run's id or a step's, `a:b:c` may be
    /// step `b:c` of run `a` or step `c` of run `a:b`.
    async fn is_of_one_run(
        &self,
        connection: &mut SqliteConnection,
        key: &str,
        run: &str,
    ) -> Result<bool, sqlx::Error> {
        let others: Vec<&str> =
            key.match_indices(':').map(|(at, _)| &key[..at]).filter(|prefix| *prefix != run).collect();
        if others.is_empty() {
            return Ok(true);
        }
        let text = format!(
            "SELECT count(*) FROM {} AS r WHERE r.run_id IN (SELECT value FROM json_each(?)) \
             AND NOT EXISTS (SELECT 1 FROM temp.batch AS b WHERE b.run_id = r.run_id)",
            self.layout.runs
        );
        let stay: i64 =
            sqlx::query_scalar(statement(text)).bind(super::json(others.into_iter())).fetch_one(connection).await?;
        Ok(stay == 0)
    }
}

/// The highest fence that the store has seen of `job`; 0 where it has seen none.
async fn seen_fence(connection: &mut SqliteConnection, job: &str) -> Result<u64, sqlx::Error> {
    let fence: Option<i64> = sqlx::query_scalar("SELECT fence FROM janitor_fence WHERE job = ?")
        .bind(job)
        .fetch_optional(connection)
        .await?;
    Ok(fence.and_then(|fence| u64::try_from(fence).ok()).unwrap_or(0))
}
