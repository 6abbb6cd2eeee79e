//! Steps 1 to 3: how a blob comes to be and gets its refs.
//!
//! Every transaction takes the task's row first and the blobs' rows after it. Whoever adds a ref has written to the blob's
//! row before, so that a claim at the same moment waits for it, or sees a row that has changed.

use sqlx::AnyConnection;

use super::{
    Begun, Committed,
    sql::{Fail, SqlCatalog},
};
use crate::blobs::{BlobError, BlobId, Digest, Tag};

/// Sees a task alive at an attempt that is not over; no row: it is over. The time grows each time, so that who has read it
/// knows whether the task was seen since.
const SEE: &str = "
INSERT INTO janitor_blob_task AS t (id, run, attempt, closed, seen_at) VALUES ($1, $2, $3, 0, {now})
ON CONFLICT (id) DO UPDATE SET
    run = coalesce(excluded.run, t.run),
    attempt = CASE WHEN t.attempt < excluded.attempt THEN excluded.attempt ELSE t.attempt END,
    seen_at = CASE WHEN t.seen_at < {now} THEN {now} ELSE t.seen_at + 1 END
WHERE t.closed < excluded.attempt
RETURNING id";

const READ_CLOSED: &str = "SELECT closed FROM janitor_blob_task WHERE id = $1";

/// The live blob of a digest, held until the transaction ends. The write is what a claim cannot overlook.
const HOLD_LIVE: &str = "UPDATE janitor_blob SET zero_since = NULL WHERE digest = $1 AND state = 'live' RETURNING id";

const ADD_PENDING: &str = "
INSERT INTO janitor_blob (id, digest, size, state, created_at, touched_at) VALUES ($1, $2, $3, 'pending', {now}, {now})";

const ADD_REF: &str = "
INSERT INTO janitor_blob_ref (blob_id, task, attempt, name, content_type, created_at, final)
VALUES ($1, $2, $3, $4, $5, {now}, 0)
ON CONFLICT (task, attempt, name, blob_id) DO NOTHING";

const TOUCH_PENDING: &str = "UPDATE janitor_blob SET touched_at = {now} WHERE id = $1 AND state = 'pending'";

/// A put at the same moment that this does not see makes it break the index of live digests: then it is done again.
const GO_LIVE: &str = "
UPDATE janitor_blob SET state = 'live' WHERE id = $1 AND state = 'pending'
AND NOT EXISTS (SELECT 1 FROM janitor_blob AS o WHERE o.digest = $2 AND o.state = 'live')";

const ABANDON: &str = "UPDATE janitor_blob SET state = 'deleting', next_at = {now} WHERE id = $1 AND state = 'pending'";

const IS_PENDING: &str = "SELECT id FROM janitor_blob WHERE id = $1 AND state = 'pending'";

impl SqlCatalog {
    pub(super) async fn begin_in(
        &self,
        connection: &mut AnyConnection,
        digest: Digest,
        size: i64,
        tag: &Tag,
    ) -> Result<Begun, Fail> {
        if !self.see(connection, tag).await? {
            return Err(self.closed(connection, tag).await?.into());
        }
        if let Some(id) = self.hold_live(connection, digest).await? {
            self.add_ref(connection, id, tag).await?;
            return Ok(Begun::Shared(id));
        }
        let id = BlobId::new();
        let add = sqlx::query(self.sql(ADD_PENDING)).bind(id.to_string()).bind(digest.to_string()).bind(size);
        add.execute(connection).await?;
        Ok(Begun::Upload(id))
    }

    pub(super) async fn touch_pending_in(
        &self,
        connection: &mut AnyConnection,
        id: BlobId,
        tag: &Tag,
    ) -> Result<bool, Fail> {
        // Of an attempt that is over the task is not seen; its commit will be told so.
        self.see(connection, tag).await?;
        let touched = sqlx::query(self.sql(TOUCH_PENDING)).bind(id.to_string()).execute(connection).await?;
        Ok(touched.rows_affected() > 0)
    }

    pub(super) async fn commit_in(
        &self,
        connection: &mut AnyConnection,
        id: BlobId,
        digest: Digest,
        tag: &Tag,
    ) -> Result<Result<Committed, BlobError>, Fail> {
        if !self.see(connection, tag).await? {
            self.abandon(connection, id).await?;
            return Ok(Err(self.closed(connection, tag).await?));
        }
        let go = sqlx::query(self.sql(GO_LIVE)).bind(id.to_string()).bind(digest.to_string());
        if go.execute(&mut *connection).await?.rows_affected() == 1 {
            self.add_ref(connection, id, tag).await?;
            return Ok(Ok(Committed::Live));
        }
        match self.hold_live(connection, digest).await? {
            // The answer to an earlier commit was lost on its way.
            Some(live) if live == id => {
                self.add_ref(connection, id, tag).await?;
                Ok(Ok(Committed::Live))
            }
            Some(live) if self.abandon(connection, id).await? => {
                self.add_ref(connection, live, tag).await?;
                Ok(Ok(Committed::Shared(live)))
            }
            Some(_) => Ok(Ok(Committed::Fenced)),
            None => {
                let pending = sqlx::query(self.sql(IS_PENDING)).bind(id.to_string()).fetch_optional(connection).await?;
                // Pending, and the live one that was in its way has been claimed since: once more, and it goes live.
                if pending.is_some() { Err(Fail::Again) } else { Ok(Ok(Committed::Fenced)) }
            }
        }
    }

    /// The blob is to be deleted, where it is pending.
    pub(super) async fn abandon(&self, connection: &mut AnyConnection, id: BlobId) -> Result<bool, Fail> {
        let done = sqlx::query(self.sql(ABANDON)).bind(id.to_string()).execute(connection).await?;
        Ok(done.rows_affected() > 0)
    }

    /// Sees the task of `tag` alive; `false` where its attempt is over.
    async fn see(&self, connection: &mut AnyConnection, tag: &Tag) -> Result<bool, Fail> {
        let see = sqlx::query(self.sql(SEE)).bind(&tag.task).bind(tag.run.as_ref()).bind(i64::from(tag.attempt));
        Ok(!see.fetch_all(connection).await?.is_empty())
    }

    /// What a writer is told whose attempt is over.
    async fn closed(&self, connection: &mut AnyConnection, tag: &Tag) -> Result<BlobError, Fail> {
        let closed: i64 = sqlx::query_scalar(self.sql(READ_CLOSED)).bind(&tag.task).fetch_one(connection).await?;
        Ok(over(&tag.task, tag.attempt, closed))
    }

    async fn hold_live(&self, connection: &mut AnyConnection, digest: Digest) -> Result<Option<BlobId>, Fail> {
        // All rows, though there is one at most: a statement that is left after a row may not have been carried out.
        let live: Vec<String> =
            sqlx::query_scalar(self.sql(HOLD_LIVE)).bind(digest.to_string()).fetch_all(connection).await?;
        Ok(live.first().map(|id| id.parse()).transpose()?)
    }

    async fn add_ref(&self, connection: &mut AnyConnection, id: BlobId, tag: &Tag) -> Result<(), Fail> {
        let add = sqlx::query(self.sql(ADD_REF)).bind(id.to_string()).bind(&tag.task).bind(i64::from(tag.attempt));
        add.bind(&tag.name).bind(tag.content_type.as_ref()).execute(connection).await?;
        Ok(())
    }
}

/// The attempt is over, up to `closed`.
pub(super) fn over(task: &str, attempt: u32, closed: i64) -> BlobError {
    BlobError::Closed { task: task.to_owned(), attempt, closed: u32::try_from(closed).unwrap_or(u32::MAX) }
}
