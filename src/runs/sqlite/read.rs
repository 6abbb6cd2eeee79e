//! Pages of runs and of their children.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{Row, sqlite::SqliteRow};

use super::{SqliteStore, json, statement};
use crate::runs::{Cursor, Page, Seen, Stamp, StoreError};

/// A run as [`seen`] reads it: bytes, because SQLite's text may be anything, then whether id and time are text.
const COLUMNS: &str = "CAST(r.run_id AS BLOB), CAST(r.status AS BLOB), CAST(r.workflow_name AS BLOB), \
                       CASE typeof(r.created_at) WHEN 'text' THEN CAST(r.created_at AS BLOB) END, \
                       CASE typeof(r.updated_at) WHEN 'text' THEN CAST(r.updated_at AS BLOB) END, CAST(r.parent_run_id AS BLOB)";

impl SqliteStore {
    /// Pages downwards by (`created_at`, `run_id`), which is an index. Times of another offset sort up to 14 hours off, for
    /// which the bound is a day later than asked for. Text is paged; what is not text is counted by [`count_unpaged`](Self::count_unpaged).
    pub(super) async fn read_page(
        &self,
        before: DateTime<Utc>,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let table = self.layout.runs;
        let text = format!(
            "SELECT {COLUMNS} FROM {table} AS r WHERE r.created_at >= '' AND typeof(r.run_id) = 'text' \
             AND (r.created_at, r.run_id) < (CAST(? AS TEXT), CAST(? AS TEXT)) ORDER BY r.created_at DESC, r.run_id DESC LIMIT ?"
        );
        let bound = before.checked_add_signed(TimeDelta::days(1)).unwrap_or(before);
        let start = Cursor(vec![bound.format("%Y-%m-%dT%H:%M:%S%.6f").to_string(), String::new()]);
        let bytes: Vec<Vec<u8>> = after.unwrap_or(&start).0.iter().map(|part| decode(part)).collect();
        let [created_at, id] = <[Vec<u8>; 2]>::try_from(bytes).expect("cursors of pages are made here, of two parts");
        let mut connection = self.connection().await;
        let rows = sqlx::query(statement(text))
            .bind(created_at)
            .bind(id)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *connection)
            .await
            .map_err(|error| self.error(&error))?;
        let next = rows
            .last()
            .filter(|_| rows.len() == limit)
            .map(|row| Cursor(vec![encode(&bytes_of(row, 3)), encode(&bytes_of(row, 0))]));
        Ok(Page { runs: rows.iter().map(seen).collect(), next })
    }

    /// Counts the runs whose creation is NULL, a number, or text that sorts above every date.
    pub(super) async fn count_unpaged(&self, limit: usize) -> Result<u64, StoreError> {
        let table = self.layout.runs;
        let one = |condition: &str| format!("SELECT 1 FROM (SELECT 1 FROM {table} WHERE {condition} LIMIT ?1)");
        let text = format!(
            "SELECT count(*) FROM ({} UNION ALL {} UNION ALL {} LIMIT ?1)",
            one("created_at IS NULL"),
            one("created_at < ''"),
            one("created_at >= ':'")
        );
        let mut connection = self.connection().await;
        let count: i64 = sqlx::query_scalar(statement(text))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_one(&mut *connection)
            .await
            .map_err(|error| self.error(&error))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Looks runs up by id, which is the primary key.
    pub(super) async fn read_runs(&self, ids: &[String]) -> Result<Vec<Seen>, StoreError> {
        let table = self.layout.runs;
        let text = format!("SELECT {COLUMNS} FROM {table} AS r WHERE r.run_id IN (SELECT value FROM json_each(?))");
        let mut connection = self.connection().await;
        let rows = sqlx::query(statement(text))
            .bind(json(ids.iter().map(String::as_str)))
            .fetch_all(&mut *connection)
            .await
            .map_err(|error| self.error(&error))?;
        Ok(rows.iter().map(seen).collect())
    }

    /// Pages by (parent, the row's number), which is the parent index.
    pub(super) async fn read_children(
        &self,
        parents: &[String],
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let table = self.layout.runs;
        let text = format!(
            "SELECT {COLUMNS}, r.rowid, r.parent_run_id FROM {table} AS r WHERE r.parent_run_id IN (SELECT value FROM json_each(?)) \
             AND (r.parent_run_id, r.rowid) > (?, ?) ORDER BY r.parent_run_id, r.rowid LIMIT ?"
        );
        let (parent, row) = after
            .and_then(|cursor| Some((cursor.0.first()?.as_str(), cursor.0.get(1)?.parse().ok()?)))
            .unwrap_or(("", i64::MIN));
        let mut connection = self.connection().await;
        let rows = sqlx::query(statement(text))
            .bind(json(parents.iter().map(String::as_str)))
            .bind(parent)
            .bind(row)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *connection)
            .await
            .map_err(|error| self.error(&error))?;
        let next = rows
            .last()
            .filter(|_| rows.len() == limit)
            .map(|row| Cursor(vec![row.get(7), row.get::<i64, _>(6).to_string()]));
        Ok(Page { runs: rows.iter().map(seen).collect(), next })
    }
}

fn bytes_of(row: &SqliteRow, column: usize) -> Vec<u8> {
    row.try_get::<Option<Vec<u8>>, _>(column).ok().flatten().unwrap_or_default()
}

fn text_of(row: &SqliteRow, column: usize) -> Option<Result<String, String>> {
    let bytes = row.try_get::<Option<Vec<u8>>, _>(column).ok().flatten()?;
    Some(String::from_utf8(bytes).map_err(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

fn seen(row: &SqliteRow) -> Seen {
    let text = |column| text_of(row, column).map(|text| text.unwrap_or_else(|lossy| lossy));
    let id = text_of(row, 0).unwrap_or_else(|| Err(String::new()));
    let mut created_at = Stamp::read(text(3));
    if id.is_err() {
        // It cannot be named in a delete, so it must not look eligible.
        created_at.instant = None;
    }
    Seen {
        id: id.unwrap_or_else(|lossy| lossy),
        status: text(1).unwrap_or_default(),
        workflow: text(2).unwrap_or_default(),
        updated_at: Stamp::read(text(4)),
        created_at,
        parent: text(5),
    }
}

/// A cursor is text, what a column holds may not be: text stays, other bytes become hexadecimal digits.
fn encode(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with('\0') => text.to_owned(),
        _ => bytes.iter().fold("\0".to_owned(), |text, byte| format!("{text}{byte:02x}")),
    }
}

fn decode(part: &str) -> Vec<u8> {
    match part.strip_prefix('\0') {
        None => part.as_bytes().to_vec(),
        Some(digits) => digits
            .as_bytes()
            .chunks(2)
            .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_keeps_every_byte() {
        for bytes in [&b"run_1"[..], b"", b"\0", b"\xff\xfe", b"\0ab", "ü".as_bytes()] {
            assert_eq!(decode(&encode(bytes)), bytes);
        }
    }
}
