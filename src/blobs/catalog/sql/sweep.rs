//! Steps 6 and 7: what a sweep reads, claims and forgets.

use sqlx::{AnyConnection, Error};

use super::{
    Cutoffs, Fail, SqlCatalog,
    look::columns,
    rows::{self, BLOB},
};
use crate::blobs::{Blob, BlobId, State, Totals};

/// The pages of each stage are read from an index that has nothing else in it: what they cost does not grow with what stays.
const DUE_DELETING: &str = "
SELECT {blob} FROM janitor_blob AS b
WHERE b.state = 'deleting' AND b.next_at <= $1 AND (b.next_at, b.id) > ($2, $3) ORDER BY b.next_at, b.id LIMIT $4";
const DUE_PENDING: &str = "
SELECT {blob} FROM janitor_blob AS b
WHERE b.state = 'pending' AND b.touched_at < $1 AND (b.touched_at, b.id) > ($2, $3)
ORDER BY b.touched_at, b.id LIMIT $4";
const DUE_LIVE: &str = "
SELECT {blob} FROM janitor_blob AS b
WHERE b.state = 'live' AND b.zero_since < $1 AND (b.zero_since, b.id) > ($2, $3) ORDER BY b.zero_since, b.id LIMIT $4";

const COUNT_DUE: &str = "
SELECT CAST(sum(d.pending) AS BIGINT) AS pending, CAST(sum(d.live) AS BIGINT) AS live, CAST(0 AS BIGINT) AS referenced,
    CAST(sum(d.deleting) AS BIGINT) AS deleting, CAST(sum(d.bytes) AS BIGINT) AS bytes
FROM (
    SELECT count(*) AS deleting, 0 AS pending, 0 AS live, coalesce(sum(size), 0) AS bytes
    FROM janitor_blob WHERE state = 'deleting' AND next_at <= $1
    UNION ALL
    SELECT 0, count(*), 0, coalesce(sum(size), 0) FROM janitor_blob WHERE state = 'pending' AND touched_at < $2
    UNION ALL
    SELECT 0, 0, count(*), coalesce(sum(size), 0) FROM janitor_blob WHERE state = 'live' AND zero_since < $3
) AS d";

/// What may be claimed: asked again of each blob at the moment that it is taken. Its frame is in the dialect.
const MAY_CLAIM: &str = "
b.state = 'deleting' AND b.next_at <= $2
OR b.state = 'pending' AND b.touched_at < $3
OR b.state = 'live' AND b.zero_since < $4
    AND NOT EXISTS (SELECT 1 FROM janitor_blob_ref AS r WHERE r.blob_id = b.id)";

/// Claims what is held.
const CLAIM: &str = "
UPDATE janitor_blob SET state = 'deleting', next_at = {now} WHERE id IN (SELECT value FROM {list})";

const FORGET: &str = "
DELETE FROM janitor_blob WHERE id IN (
    SELECT b.id FROM janitor_blob AS b WHERE b.id IN (SELECT value FROM {list}) AND b.state = 'deleting'
    ORDER BY b.id {lock}
)";

/// 1 min × 2ⁿ, which from the eleventh on is more than the day that is the most.
const PUT_OFF: &str = "
UPDATE janitor_blob SET
    attempts = attempts + 1,
    next_at = {now} + CASE WHEN attempts > 10 THEN 86400000 ELSE 60000 * (CAST(1 AS BIGINT) << CAST(attempts AS INTEGER)) END,
    error = f.error
FROM (SELECT value ->> 0 AS id, value ->> 1 AS error FROM {rows}) AS f
WHERE janitor_blob.id = f.id AND janitor_blob.state = 'deleting'";

/// What a sweep takes, in the order in which it takes it.
#[derive(Clone, Copy)]
enum Stage {
    Deleting,
    Pending,
    Live,
}

impl Stage {
    const ALL: [Self; 3] = [Self::Deleting, Self::Pending, Self::Live];

    const fn state(self) -> State {
        match self {
            Self::Deleting => State::Deleting,
            Self::Pending => State::Pending,
            Self::Live => State::Live,
        }
    }

    const fn page(self) -> &'static str {
        match self {
            Self::Deleting => DUE_DELETING,
            Self::Pending => DUE_PENDING,
            Self::Live => DUE_LIVE,
        }
    }

    const fn cutoff(self, cutoffs: Cutoffs) -> i64 {
        match self {
            Self::Deleting => cutoffs.retry.timestamp_millis(),
            Self::Pending => cutoffs.pending.timestamp_millis(),
            Self::Live => cutoffs.unreferenced.timestamp_millis(),
        }
    }

    /// Where `blob` stands in the order of this stage.
    fn position(self, blob: &Blob) -> i64 {
        let time = match self {
            Self::Deleting => blob.next_at,
            Self::Pending => Some(blob.touched_at),
            Self::Live => blob.zero_since,
        };
        time.map_or(i64::MIN, |time| time.timestamp_millis())
    }
}

impl SqlCatalog {
    pub(super) async fn read_due(
        &self,
        cutoffs: Cutoffs,
        after: Option<&Blob>,
        limit: usize,
    ) -> Result<Vec<Blob>, Error> {
        let mut due = Vec::new();
        let first = Stage::ALL.iter().position(|stage| after.is_some_and(|after| after.state == stage.state()));
        for stage in &Stage::ALL[first.unwrap_or(0)..] {
            let after = after.filter(|after| after.state == stage.state());
            let read = sqlx::query_scalar(self.sql(&self.dialect.packed(BLOB, &columns(stage.page()))))
                .bind(stage.cutoff(cutoffs))
                .bind(after.map_or(i64::MIN, |after| stage.position(after)))
                .bind(after.map_or_else(String::new, |after| after.id.to_string()))
                .bind(rows::limit(limit - due.len()));
            let packed: String = read.fetch_one(&self.pool).await?;
            due.append(&mut rows::unpacked(&packed)?);
            if due.len() >= limit {
                break;
            }
        }
        Ok(due)
    }

    pub(super) async fn read_count_due(&self, cutoffs: Cutoffs) -> Result<Totals, Error> {
        let count =
            Stage::ALL.iter().fold(sqlx::query(self.sql(COUNT_DUE)), |count, stage| count.bind(stage.cutoff(cutoffs)));
        let row = count.fetch_one(&self.pool).await?;
        rows::totals(&row)
    }

    pub(super) async fn claim_in(
        &self,
        connection: &mut AnyConnection,
        ids: &str,
        cutoffs: Cutoffs,
    ) -> Result<Vec<BlobId>, Fail> {
        let hold = sqlx::query_scalar(self.sql(&self.dialect.hold_claimable().replace("{may}", MAY_CLAIM))).bind(ids);
        let hold = Stage::ALL.iter().fold(hold, |hold, stage| hold.bind(stage.cutoff(cutoffs)));
        let claimable: String = hold.fetch_one(&mut *connection).await?;
        sqlx::query(self.sql(CLAIM)).bind(&claimable).execute(connection).await?;
        Ok(rows::ids(&claimable)?)
    }

    pub(super) async fn forget_in(&self, connection: &mut AnyConnection, ids: &str) -> Result<u64, Fail> {
        Ok(sqlx::query(self.sql(FORGET)).bind(ids).execute(connection).await?.rows_affected())
    }

    pub(super) async fn put_off_in(&self, connection: &mut AnyConnection, failed: &str) -> Result<(), Fail> {
        sqlx::query(self.sql(PUT_OFF)).bind(failed).execute(connection).await?;
        Ok(())
    }

    /// How the database carries out what a sweep asks for each page, a line for each step.
    #[cfg(feature = "test-util")]
    pub async fn plans(&self) -> Result<Vec<String>, crate::blobs::BlobError> {
        use sqlx::Row;

        let mut lines = Vec::new();
        for stage in Stage::ALL {
            let text = format!("{}{}", self.dialect.explain(), columns(stage.page()));
            let explain = sqlx::query(self.sql(&text)).bind(0_i64).bind(i64::MIN).bind("").bind(1_000_i64);
            let plan = explain.fetch_all(&self.pool).await;
            let plan =
                plan.map_err(|error| crate::blobs::BlobError::unavailable(&self.name, "plan not read", error))?;
            // What SQLite tells is in the last of its columns, and Postgres has only one.
            lines.extend(plan.iter().filter_map(|row| row.try_get::<String, _>(row.len() - 1).ok()));
        }
        Ok(lines)
    }
}
