//! Steps 4 and 5: how a task's refs become final, or go.
//!
//! Refs are dropped in this order: lock the blobs, drop the refs, look in a later statement for those that remain. Two
//! tasks that let go of one blob at the same moment would otherwise each see the ref of the other, and none would say
//! that nothing refers to it any more.

use sqlx::{AnyConnection, Row};

use super::{Fail, SqlCatalog, look::columns, put::over, rows};
use crate::blobs::{BlobError, Digest, OpenTask, Released, TASK_TTL};

const HOLD_TASK: &str = "SELECT closed FROM janitor_blob_task WHERE id = $1 {lock}";

const COUNT_REFS: &str = "SELECT count(*) FROM janitor_blob_ref WHERE task = $1 AND attempt = $2";

const FINALIZE: &str = "UPDATE janitor_blob_ref SET final = 1 WHERE task = $1 AND attempt = $2 AND final = 0";

const FINALIZED: &str = "
UPDATE janitor_blob_task SET
    closed = CASE WHEN closed < $2 THEN $2 ELSE closed END,
    seen_at = CASE WHEN seen_at < {now} THEN {now} ELSE seen_at + 1 END
WHERE id = $1";

/// A task that is not known is over as well: its put may be on the way.
const CLOSE: &str = "
INSERT INTO janitor_blob_task AS t (id, attempt, closed, seen_at) VALUES ($1, $2, $2, {now})
ON CONFLICT (id) DO UPDATE SET
    attempt = CASE WHEN t.attempt < excluded.attempt THEN excluded.attempt ELSE t.attempt END,
    closed = CASE WHEN t.closed < excluded.closed THEN excluded.closed ELSE t.closed END";

const CLOSE_SEEN: &str = "
UPDATE janitor_blob_task SET closed = CASE WHEN closed < $2 THEN $2 ELSE closed END
WHERE id = $1 AND attempt = $2 AND seen_at = $3";

const TOUCH: &str = "
UPDATE janitor_blob_task SET seen_at = CASE WHEN seen_at < {now} THEN {now} ELSE seen_at + 1 END WHERE id = $1";

const HOLD_UNFINISHED: &str = "
SELECT id FROM janitor_blob WHERE id IN
    (SELECT blob_id FROM janitor_blob_ref WHERE task = $1 AND final = 0 AND attempt <= $2)
ORDER BY id {lock}";

const DROP_UNFINISHED: &str =
    "DELETE FROM janitor_blob_ref WHERE task = $1 AND final = 0 AND attempt <= $2 RETURNING blob_id";

const HOLD_DIGEST: &str = "
SELECT id FROM janitor_blob WHERE id IN {of_digest} AND id IN (SELECT blob_id FROM janitor_blob_ref WHERE task = $2)
ORDER BY id {lock}";

const DROP_DIGEST: &str = "
DELETE FROM janitor_blob_ref WHERE task = $2 AND blob_id IN {of_digest}
RETURNING blob_id";

const SET_ZERO: &str = "
UPDATE janitor_blob SET zero_since = {now}
WHERE id IN (SELECT value FROM {list}) AND state = 'live' AND zero_since IS NULL
AND NOT EXISTS (SELECT 1 FROM janitor_blob_ref AS r WHERE r.blob_id = janitor_blob.id)";

const HOLD_ZERO: &str = "
SELECT b.id FROM janitor_blob AS b WHERE b.state = 'live' AND b.zero_since IS NULL
AND NOT EXISTS (SELECT 1 FROM janitor_blob_ref AS r WHERE r.blob_id = b.id) ORDER BY b.id {lock}";

/// A put at the same moment sees the task first, and then this does not take it.
const FORGET_TASKS: &str = "
DELETE FROM janitor_blob_task WHERE seen_at < {now} - $1
AND NOT EXISTS (SELECT 1 FROM janitor_blob_ref AS r WHERE r.task = janitor_blob_task.id)";

impl SqlCatalog {
    pub(super) async fn finalize_in(
        &self,
        connection: &mut AnyConnection,
        task: &str,
        attempt: u32,
    ) -> Result<u64, Fail> {
        let number = i64::from(attempt);
        let nothing = || BlobError::NoRef { task: task.to_owned(), what: format!("in attempt {attempt}") };
        let Some(closed) = self.hold_task(connection, task).await? else { return Err(nothing().into()) };
        if number <= closed {
            return Err(over(task, attempt, closed).into());
        }
        let count = sqlx::query_scalar(self.sql(COUNT_REFS)).bind(task).bind(number);
        let refs: i64 = count.fetch_one(&mut *connection).await?;
        if refs == 0 {
            return Err(nothing().into());
        }
        let finalize = sqlx::query(self.sql(FINALIZE)).bind(task).bind(number);
        let finalized = finalize.execute(&mut *connection).await?.rows_affected();
        sqlx::query(self.sql(FINALIZED)).bind(task).bind(number - 1).execute(&mut *connection).await?;
        self.drop_unfinished(connection, task, number - 1).await?;
        Ok(finalized)
    }

    pub(super) async fn release_in(
        &self,
        connection: &mut AnyConnection,
        task: &str,
        attempt: u32,
    ) -> Result<Released, Fail> {
        let attempt = i64::from(attempt);
        sqlx::query(self.sql(CLOSE)).bind(task).bind(attempt).execute(&mut *connection).await?;
        self.drop_unfinished(connection, task, attempt).await
    }

    pub(super) async fn release_seen_in(
        &self,
        connection: &mut AnyConnection,
        task: &OpenTask,
    ) -> Result<Option<Released>, Fail> {
        let attempt = i64::from(task.attempt);
        let close =
            sqlx::query(self.sql(CLOSE_SEEN)).bind(&task.id).bind(attempt).bind(task.seen_at.timestamp_millis());
        if close.execute(&mut *connection).await?.rows_affected() == 0 {
            return Ok(None);
        }
        self.drop_unfinished(connection, &task.id, attempt).await.map(Some)
    }

    pub(super) async fn touch_in(&self, connection: &mut AnyConnection, task: &str) -> Result<bool, Fail> {
        Ok(sqlx::query(self.sql(TOUCH)).bind(task).execute(connection).await?.rows_affected() > 0)
    }

    pub(super) async fn delete_in(
        &self,
        connection: &mut AnyConnection,
        task: &str,
        digest: Digest,
    ) -> Result<Released, Fail> {
        let text = digest.to_string();
        self.hold_task(connection, task).await?;
        sqlx::query(self.sql(&columns(HOLD_DIGEST))).bind(&text).bind(task).fetch_all(&mut *connection).await?;
        let dropped = sqlx::query_scalar(self.sql(&columns(DROP_DIGEST))).bind(&text).bind(task);
        let dropped: Vec<String> = dropped.fetch_all(&mut *connection).await?;
        if dropped.is_empty() {
            return Err(BlobError::NoRef { task: task.to_owned(), what: format!("of blob {digest}") }.into());
        }
        self.zero(connection, dropped).await
    }

    pub(super) async fn mend_in(&self, connection: &mut AnyConnection) -> Result<u64, Fail> {
        let ttl = i64::try_from(TASK_TTL.as_millis()).unwrap_or(i64::MAX);
        sqlx::query(self.sql(FORGET_TASKS)).bind(ttl).execute(&mut *connection).await?;
        let lost: Vec<String> = sqlx::query_scalar(self.sql(HOLD_ZERO)).fetch_all(&mut *connection).await?;
        Ok(self.zero(connection, lost).await?.blobs)
    }

    /// Keeps everybody else from the task, and answers the highest of its attempts that is over.
    async fn hold_task(&self, connection: &mut AnyConnection, task: &str) -> Result<Option<i64>, Fail> {
        let held = sqlx::query(self.sql(HOLD_TASK)).bind(task).fetch_all(connection).await?;
        Ok(held.first().map(|row| row.try_get(0)).transpose()?)
    }

    /// Drops what the task, which is held, put in `attempt` and lower ones and did not finalize.
    async fn drop_unfinished(
        &self,
        connection: &mut AnyConnection,
        task: &str,
        attempt: i64,
    ) -> Result<Released, Fail> {
        sqlx::query(self.sql(HOLD_UNFINISHED)).bind(task).bind(attempt).fetch_all(&mut *connection).await?;
        let dropped = sqlx::query_scalar(self.sql(DROP_UNFINISHED)).bind(task).bind(attempt);
        let dropped: Vec<String> = dropped.fetch_all(&mut *connection).await?;
        self.zero(connection, dropped).await
    }

    /// Says of those blobs, which are held, that nothing refers to them, where that is so; one for each ref dropped.
    async fn zero(&self, connection: &mut AnyConnection, dropped: Vec<String>) -> Result<Released, Fail> {
        if dropped.is_empty() {
            return Ok(Released::default());
        }
        let refs = rows::number_of(dropped.len());
        let ids = serde_json::Value::from(dropped).to_string();
        let blobs = sqlx::query(self.sql(SET_ZERO)).bind(ids).execute(connection).await?.rows_affected();
        Ok(Released { refs, blobs })
    }
}
