//! Pages of runs and of their children.

use chrono::{DateTime, Utc};
use sqlx::{Row, postgres::PgRow};

use super::{PostgresStore, stamp::Micros, statement};
use crate::runs::{Cursor, Page, Seen, StoreError};

/// A run as [`seen`] reads it.
const COLUMNS: &str = "r.run_id, r.status, r.workflow_name, r.created_at, r.updated_at, r.parent_run_id";

impl PostgresStore {
    pub(super) async fn read_clock(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        let now: Micros = self.read(sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&self.pool)).await?;
        Ok(now.instant())
    }

    /// Pages downwards by (`created_at`, `run_id`), which is an index.
    pub(super) async fn read_page(
        &self,
        before: DateTime<Utc>,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let text = format!(
            "SELECT {COLUMNS} FROM {} AS r WHERE (r.created_at, r.run_id) < ($1, $2) \
             ORDER BY r.created_at DESC, r.run_id DESC LIMIT $3",
            self.layout.runs
        );
        // No id is less than the empty one.
        let (created_at, id) = after.and_then(place).unwrap_or((Micros::of(before), ""));
        let query = sqlx::query(statement(text)).bind(created_at).bind(id).bind(row_limit(limit));
        let rows = self.read(query.fetch_all(&self.pool)).await?;
        self.page_of(&rows, limit, |row| Ok([row.try_get::<Micros, _>(3)?.0.to_string(), row.try_get(0)?]))
    }

    /// Counts the runs whose creation is NULL, or later than everything.
    pub(super) async fn count_unpaged(&self, limit: usize) -> Result<u64, StoreError> {
        let one = |condition: &str| {
            format!("(SELECT 1 FROM {} AS r WHERE r.created_at {condition} LIMIT $1)", self.layout.runs)
        };
        let text = format!("SELECT count(*) FROM ({} UNION ALL {} LIMIT $1) AS u", one("IS NULL"), one("= 'infinity'"));
        let query = sqlx::query_scalar(statement(text)).bind(row_limit(limit));
        let count: i64 = self.read(query.fetch_one(&self.pool)).await?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Looks runs up by id, which is the primary key.
    pub(super) async fn read_runs(&self, ids: &[String]) -> Result<Vec<Seen>, StoreError> {
        let text = format!("SELECT {COLUMNS} FROM {} AS r WHERE r.run_id = ANY($1)", self.layout.runs);
        let rows = self.read(sqlx::query(statement(text)).bind(ids).fetch_all(&self.pool)).await?;
        rows.iter().map(|row| seen(row).map_err(|error| self.error(&error))).collect()
    }

    /// Pages by (parent, id), of which the parent is an index.
    pub(super) async fn read_children(
        &self,
        parents: &[String],
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let text = format!(
            "SELECT {COLUMNS} FROM {} AS r WHERE r.parent_run_id = ANY($1) \
             AND ($2::text IS NULL OR (r.parent_run_id, r.run_id) > ($2, $3)) ORDER BY r.parent_run_id, r.run_id LIMIT $4",
            self.layout.runs
        );
        let part = |at: usize| after.and_then(|cursor| cursor.0.get(at)).map(String::as_str);
        let query = sqlx::query(statement(text)).bind(parents).bind(part(0)).bind(part(1)).bind(row_limit(limit));
        let rows = self.read(query.fetch_all(&self.pool)).await?;
        self.page_of(&rows, limit, |row| Ok([row.try_get(5)?, row.try_get(0)?]))
    }

    fn page_of(
        &self,
        rows: &[PgRow],
        limit: usize,
        place: impl Fn(&PgRow) -> Result<[String; 2], sqlx::Error>,
    ) -> Result<Page, StoreError> {
        let page = || {
            let last = rows.last().filter(|_| rows.len() == limit);
            let next = last.map(|row| Ok::<_, sqlx::Error>(Cursor(place(row)?.to_vec()))).transpose()?;
            Ok(Page { runs: rows.iter().map(seen).collect::<Result<_, _>>()?, next })
        };
        page().map_err(|error| self.error(&error))
    }
}

/// A place in a page by creation.
fn place(cursor: &Cursor) -> Option<(Micros, &str)> {
    Some((Micros::parse(cursor.0.first()?)?, cursor.0.get(1)?.as_str()))
}

fn row_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn seen(row: &PgRow) -> Result<Seen, sqlx::Error> {
    Ok(Seen {
        id: row.try_get(0)?,
        status: row.try_get(1)?,
        workflow: row.try_get(2)?,
        created_at: Micros::stamp(row.try_get(3)?),
        updated_at: Micros::stamp(row.try_get(4)?),
        parent: row.try_get(5)?,
    })
}
