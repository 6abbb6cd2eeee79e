//! What is only read: each is one statement, which sees one moment.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::{AnyConnection, Error, any::AnyRow};

use super::{
    Fail, Filter, SqlCatalog,
    rows::{self, BLOB, REF, TASK},
};
use crate::blobs::{Blob, BlobId, Digest, OpenTask, Ref, Totals};

const NOW: &str = "SELECT {now}";

/// The ids of all blobs of a digest, live or not. Those that are not are few, and are looked through by the indexes that have
/// nothing else in them: another index by digest would make each sweep write half as much again.
pub(super) const OF_DIGEST: &str = "
(SELECT id FROM janitor_blob WHERE digest = $1 AND state = 'live'
    UNION ALL SELECT id FROM janitor_blob WHERE digest = $1 AND state = 'pending' AND touched_at >= 0
    UNION ALL SELECT id FROM janitor_blob WHERE digest = $1 AND state = 'deleting' AND next_at >= 0)";

const BLOBS: &str = "
SELECT {blob} FROM janitor_blob AS b WHERE b.id IN {of_digest}
ORDER BY CASE b.state WHEN 'live' THEN 0 ELSE 1 END, b.created_at, b.id";

const REFS: &str = "
SELECT {ref} FROM janitor_blob AS b JOIN janitor_blob_ref AS r ON r.blob_id = b.id
LEFT JOIN janitor_blob_task AS t ON t.id = r.task
WHERE b.id IN {of_digest} ORDER BY r.created_at, r.task, r.attempt, r.name, r.blob_id LIMIT $2";

/// Refs in the order of their key, behind one; `{which}` is what a filter adds.
const LIST: &str = "
SELECT {ref} FROM janitor_blob_ref AS r JOIN janitor_blob AS b ON b.id = r.blob_id
LEFT JOIN janitor_blob_task AS t ON t.id = r.task
WHERE (r.task, r.attempt, r.name, r.blob_id) > ($1, $2, $3, $4){which}
ORDER BY r.task, r.attempt, r.name, r.blob_id LIMIT $5";

const OPEN_TASK: &str = "
SELECT {task} FROM janitor_blob_task AS t
WHERE t.id = $1 AND EXISTS (SELECT 1 FROM janitor_blob_ref AS r WHERE r.task = t.id AND r.final = 0)";

const OPEN_TASKS: &str = "
SELECT {task} FROM
    (SELECT DISTINCT task FROM janitor_blob_ref WHERE final = 0 AND task > $1 ORDER BY task LIMIT $2) AS o
JOIN janitor_blob_task AS t ON t.id = o.task ORDER BY t.id";

/// A live blob without `zero_since` is one that something refers to.
const TOTALS: &str = "
SELECT CAST(coalesce(sum(CASE WHEN state = 'pending' THEN 1 ELSE 0 END), 0) AS BIGINT) AS pending,
    CAST(coalesce(sum(CASE WHEN state = 'live' THEN 1 ELSE 0 END), 0) AS BIGINT) AS live,
    CAST(coalesce(sum(CASE WHEN state = 'live' AND zero_since IS NULL THEN 1 ELSE 0 END), 0) AS BIGINT) AS referenced,
    CAST(coalesce(sum(CASE WHEN state = 'deleting' THEN 1 ELSE 0 END), 0) AS BIGINT) AS deleting,
    CAST(coalesce(sum(size), 0) AS BIGINT) AS bytes
FROM janitor_blob";

const KNOWN: &str = "SELECT b.id FROM janitor_blob AS b WHERE b.id IN (SELECT value FROM {list})";

const LIVE: &str = "
SELECT {blob} FROM janitor_blob AS b
WHERE b.state = 'live' AND b.digest > $1 AND b.digest < $2 AND b.created_at < $3 ORDER BY b.digest LIMIT $4";

const INVENTORY_AT: &str = "SELECT value FROM janitor_blob_meta WHERE key = 'inventory_at'";

const SET_INVENTORY: &str = "
INSERT INTO janitor_blob_meta (key, value) VALUES ('inventory_at', $1)
ON CONFLICT (key) DO UPDATE SET value = excluded.value";

impl SqlCatalog {
    pub(super) async fn read_now(&self) -> Result<DateTime<Utc>, Error> {
        rows::time(sqlx::query_scalar(self.sql(NOW)).fetch_one(&self.pool).await?)
    }

    pub(super) async fn read_blobs(&self, digest: Digest) -> Result<Vec<Blob>, Error> {
        let found = sqlx::query(self.sql(&columns(BLOBS))).bind(digest.to_string()).fetch_all(&self.pool).await?;
        found.iter().map(rows::blob).collect()
    }

    pub(super) async fn read_refs(&self, digest: Digest, limit: usize) -> Result<Vec<Ref>, Error> {
        let read = sqlx::query(self.sql(&columns(REFS))).bind(digest.to_string()).bind(rows::limit(limit));
        read.fetch_all(&self.pool).await?.iter().map(rows::reference).collect()
    }

    pub(super) async fn read_list(
        &self,
        filter: &Filter,
        after: Option<&Ref>,
        limit: usize,
    ) -> Result<Vec<Ref>, Error> {
        let which = match (&filter.task, &filter.run) {
            (None, None) => "",
            (Some(_), None) => " AND r.task = $6",
            (None, Some(_)) => " AND t.run = $6",
            (Some(_), Some(_)) => " AND r.task = $6 AND t.run = $7",
        };
        let (task, attempt, name, blob) = after.map_or_else(Default::default, |after| {
            (after.tag.task.as_str(), i64::from(after.tag.attempt), after.tag.name.as_str(), after.blob.to_string())
        });
        let text = columns(LIST).replace("{which}", which);
        let read = sqlx::query(self.sql(&text)).bind(task).bind(attempt).bind(name).bind(blob);
        let read = [&filter.task, &filter.run]
            .into_iter()
            .flatten()
            .fold(read.bind(rows::limit(limit)), sqlx::query::Query::bind);
        read.fetch_all(&self.pool).await?.iter().map(rows::reference).collect()
    }

    pub(super) async fn read_open_task(&self, task: &str) -> Result<Option<OpenTask>, Error> {
        let found = sqlx::query(self.sql(&columns(OPEN_TASK))).bind(task).fetch_all(&self.pool).await?;
        found.first().map(rows::open_task).transpose()
    }

    pub(super) async fn read_open_tasks(&self, after: Option<&str>, limit: usize) -> Result<Vec<OpenTask>, Error> {
        // No task's id is empty.
        let read = sqlx::query(self.sql(&columns(OPEN_TASKS))).bind(after.unwrap_or("")).bind(rows::limit(limit));
        read.fetch_all(&self.pool).await?.iter().map(rows::open_task).collect()
    }

    pub(super) async fn read_totals(&self) -> Result<Totals, Error> {
        let row = sqlx::query(self.sql(TOTALS)).fetch_one(&self.pool).await?;
        rows::totals(&row)
    }

    pub(super) async fn read_known(&self, ids: &str) -> Result<HashSet<BlobId>, Error> {
        let found = sqlx::query(self.sql(KNOWN)).bind(ids).fetch_all(&self.pool).await?;
        found.iter().map(id).collect()
    }

    pub(super) async fn read_live(
        &self,
        shard: u8,
        before: DateTime<Utc>,
        after: Option<Digest>,
        limit: usize,
    ) -> Result<Vec<Blob>, Error> {
        // Digests of a shard are longer than its two digits, and smaller than the two with what follows `f`.
        let first = format!("{shard:02x}");
        let after = after.map_or_else(|| first.clone(), |after| after.to_string().max(first.clone()));
        let read = sqlx::query(self.sql(&columns(LIVE))).bind(after).bind(format!("{first}g"));
        let read = read.bind(before.timestamp_millis()).bind(rows::limit(limit));
        read.fetch_all(&self.pool).await?.iter().map(rows::blob).collect()
    }

    pub(super) async fn read_inventory_at(&self) -> Result<Option<DateTime<Utc>>, Error> {
        let stored: Option<String> = sqlx::query_scalar(INVENTORY_AT).fetch_optional(&self.pool).await?;
        let Some(stored) = stored else { return Ok(None) };
        let millis = stored.parse().map_err(|_| rows::unreadable("inventory_at", &stored))?;
        rows::time(millis).map(Some)
    }

    pub(super) async fn set_inventory_in(&self, connection: &mut AnyConnection, at: DateTime<Utc>) -> Result<(), Fail> {
        sqlx::query(SET_INVENTORY).bind(at.timestamp_millis().to_string()).execute(connection).await?;
        Ok(())
    }
}

/// The statement with the columns of what it reads.
pub(super) fn columns(text: &str) -> String {
    text.replace("{blob}", BLOB).replace("{ref}", REF).replace("{task}", TASK).replace("{of_digest}", OF_DIGEST)
}

/// The id that a row is of.
pub(super) fn id(row: &AnyRow) -> Result<BlobId, Error> {
    rows::parsed(row, "id")
}
