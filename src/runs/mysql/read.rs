//! Pages of runs and of their children.

use std::collections::{BTreeSet, HashSet};

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use sqlx::{MySqlConnection, mysql::MySqlRow};

use super::{
    Fail, MysqlStore, marks, portions,
    session::{bytes, text},
    statement,
};
use crate::runs::{Cursor, Page, Seen, Stamp};

/// A run as [`seen`] reads it.
const COLUMNS: &str =
    "r.run_id, r.status, r.workflow_name, CAST(r.created_at AS CHAR), CAST(r.updated_at AS CHAR), r.parent_run_id";
/// The first instant that the server's manual calls one; below it is the zero date, which means none.
const FIRST_TIME: &str = "1000-01-01 00:00:00";
/// From so many old runs on it is worth to ask whether most are old; more than so many are not counted.
const BACKLOG_MIN: u64 = 5_000;
const BACKLOG_MAX: u64 = 1_000_000;
/// How many runs that are not old may be looked at for each that is.
const NEW_MAX: u64 = 2;
/// The years that a time of the server can be in.
const YEARS: std::ops::RangeInclusive<i32> = 1000..=9999;

impl MysqlStore {
    pub(super) async fn read_clock(&self) -> Result<Option<DateTime<Utc>>, Fail> {
        let mut connection = self.take().await?;
        let row = sqlx::query("SELECT CAST(UTC_TIMESTAMP(6) AS CHAR)").fetch_one(&mut connection).await?;
        self.give_back(connection).await;
        Ok(stamp(text(&row, 0)).instant)
    }

    /// Pages downwards by (`created_at`, `run_id`), which is an index, or, where most of the table is old, by `run_id`: what
    /// belongs to a run is indexed by its id, and runs whose ids are neighbours share the pages that a delete rewrites.
    pub(super) async fn read_page(
        &self,
        before: DateTime<Utc>,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page, Fail> {
        let Some(bound) = bound(before) else { return Ok(Page::default()) };
        let mut connection = self.take().await?;
        let parts = after.map(|Cursor(parts)| parts.iter().map(String::as_str).collect::<Vec<_>>());
        let page = match parts.as_deref() {
            None if self.is_backlog(&mut connection, &bound).await? => {
                self.page_by_id(&mut connection, &bound, None, limit).await?
            }
            None => self.page_by_creation(&mut connection, &bound, None, limit).await?,
            Some([id]) => self.page_by_id(&mut connection, &bound, Some(id), limit).await?,
            Some([at, id]) => self.page_by_creation(&mut connection, at, Some(id), limit).await?,
            Some(_) => unreachable!("cursors of pages are made here, of one part or two"),
        };
        self.give_back(connection).await;
        Ok(page)
    }

    /// Whether so much is old that to look at every run costs little more than to look at the old ones.
    async fn is_backlog(&self, connection: &mut MySqlConnection, bound: &str) -> Result<bool, Fail> {
        let runs = self.layout.runs;
        let hint = self.schema.hint(runs, self.layout.page_index.columns);
        let mut count = async |compare: &str, most: u64| -> Result<u64, Fail> {
            let text = format!(
                "SELECT CAST(count(*) AS CHAR) FROM (SELECT 1 FROM {runs} AS r {hint} WHERE r.created_at {compare} ? LIMIT {most}) AS c"
            );
            let rows = select(connection, text, &[bound]).await?;
            Ok(rows.first().and_then(|row| self::text(row, 0)).and_then(|count| count.parse().ok()).unwrap_or(0))
        };
        let old = count("<", BACKLOG_MAX).await?;
        Ok(old >= BACKLOG_MIN && count(">=", old * NEW_MAX + 1).await? <= old * NEW_MAX)
    }

    async fn page_by_id(
        &self,
        connection: &mut MySqlConnection,
        bound: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, Fail> {
        let runs = self.layout.runs;
        let hint = self.schema.hint(runs, &["run_id"]);
        let beyond = if after.is_some() { "AND r.run_id > ?" } else { "" };
        let text = format!(
            "SELECT {COLUMNS} FROM {runs} AS r {hint} WHERE r.created_at < ? AND r.created_at >= '{FIRST_TIME}' {beyond} \
             ORDER BY r.run_id LIMIT {limit}"
        );
        let values: Vec<&str> = [bound].into_iter().chain(after).collect();
        let rows = select(connection, text, &values).await?;
        let next = rows.last().filter(|_| rows.len() == limit).map(|row| cursor(row, &[0]));
        Ok(Page { runs: rows.iter().map(seen).collect(), next })
    }

    /// The runs that were made before `start`; where `id` is there, and before that one among those made then.
    async fn page_by_creation(
        &self,
        connection: &mut MySqlConnection,
        start: &str,
        id: Option<&str>,
        limit: usize,
    ) -> Result<Page, Fail> {
        let runs = self.layout.runs;
        let hint = self.schema.hint(runs, self.layout.page_index.columns);
        let query = |condition: &str, limit: usize| {
            format!(
                "SELECT {COLUMNS} FROM {runs} AS r {hint} WHERE {condition} ORDER BY r.created_at DESC, r.run_id DESC LIMIT {limit}"
            )
        };
        let mut rows = Vec::new();
        if let Some(id) = id {
            // The rest of the runs that were made at the same instant: as a range of its own the index finds it.
            let text = query("r.created_at = ? AND r.run_id < ?", limit);
            rows = select(connection, text, &[start, id]).await?;
        }
        if rows.len() < limit {
            let text = query(&format!("r.created_at < ? AND r.created_at >= '{FIRST_TIME}'"), limit - rows.len());
            rows.extend(select(connection, text, &[start]).await?);
        }
        let next = rows.last().filter(|_| rows.len() == limit).map(|row| cursor(row, &[3, 0]));
        Ok(Page { runs: rows.iter().map(seen).collect(), next })
    }

    /// Counts the runs whose creation is NULL or the zero date.
    pub(super) async fn count_unpaged(&self, limit: usize) -> Result<u64, Fail> {
        let runs = self.layout.runs;
        // A column that may not be NULL says that its zero dates are: one condition, so that none is counted twice.
        let text = format!(
            "SELECT CAST(count(*) AS CHAR) FROM (SELECT 1 FROM {runs} WHERE created_at IS NULL OR created_at < '{FIRST_TIME}' LIMIT ?) AS u"
        );
        let mut connection = self.take().await?;
        let row = sqlx::query(statement(text)).bind(limit as u64).fetch_one(&mut connection).await?;
        self.give_back(connection).await;
        Ok(self::text(&row, 0).and_then(|count| count.parse().ok()).unwrap_or(0))
    }

    /// Looks runs up by id, which is the primary key.
    pub(super) async fn read_runs(&self, ids: &[String]) -> Result<Vec<Seen>, Fail> {
        let runs = self.layout.runs;
        let wanted: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
        let sorted: Vec<&str> = wanted.iter().copied().collect();
        let hint = self.schema.hint(runs, &["run_id"]);
        let mut found = Vec::new();
        let mut connection = self.take().await?;
        for portion in portions(&sorted) {
            let text = format!("SELECT {COLUMNS} FROM {runs} AS r {hint} WHERE r.run_id IN ({})", marks(portion.len()));
            let rows = select(&mut connection, text, &portion).await?;
            found.extend(rows.iter().map(seen).filter(|run| wanted.contains(run.id.as_str())));
        }
        self.give_back(connection).await;
        Ok(found)
    }

    /// Pages by (parent, run), which is the parent index, one portion of the parents after the other.
    pub(super) async fn read_children(
        &self,
        parents: &[String],
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page, Fail> {
        let sorted: BTreeSet<&str> = parents.iter().map(String::as_str).collect();
        let mut place = after.map(Place::of);
        let mut rest: Vec<&str> =
            sorted.iter().copied().filter(|parent| place.as_ref().is_none_or(|place| *parent >= place.first)).collect();
        let mut page = Page::default();
        let mut connection = self.take().await?;
        while !rest.is_empty() && page.runs.len() < limit {
            // Parents may have been taken out since the last page: a portion is what lies between its first and its last.
            let count = match &place {
                Some(place) => rest.iter().take_while(|parent| **parent <= place.last).count(),
                None => rest.len().min(super::IDS_MAX),
            };
            let later = rest.split_off(count);
            let room = limit - page.runs.len();
            let rows = if rest.is_empty() {
                Vec::new()
            } else {
                self.children_of(&mut connection, &rest, place.as_ref(), room).await?
            };
            if let Some(row) = rows.last().filter(|_| rows.len() == room) {
                let (first, last) = (rest[0].to_owned(), rest[rest.len() - 1].to_owned());
                let Cursor(mut parts) = cursor(row, &[5, 0]);
                parts.extend([first, last]);
                page.next = Some(Cursor(parts));
            }
            for row in &rows {
                page.runs.push(self.below_asked(&mut connection, &sorted, seen(row)).await?);
            }
            rest = later;
            place = None;
        }
        self.give_back(connection).await;
        Ok(page)
    }

    async fn children_of(
        &self,
        connection: &mut MySqlConnection,
        parents: &[&str],
        place: Option<&Place<'_>>,
        limit: usize,
    ) -> Result<Vec<MySqlRow>, Fail> {
        let runs = self.layout.runs;
        let hint = self.schema.hint(runs, self.layout.parent_index.columns);
        let portion = portions(parents).next().unwrap_or_default();
        let beyond =
            if place.is_some() { "AND (r.parent_run_id > ? OR (r.parent_run_id = ? AND r.run_id > ?))" } else { "" };
        let text = format!(
            "SELECT {COLUMNS} FROM {runs} AS r {hint} WHERE r.parent_run_id IN ({}) {beyond} ORDER BY r.parent_run_id, r.run_id LIMIT ?",
            marks(portion.len())
        );
        let mut query = sqlx::query(statement(text));
        for value in portion.iter().copied().chain(place.into_iter().flat_map(|at| [at.parent, at.parent, at.run])) {
            query = query.bind(value.to_owned());
        }
        Ok(query.bind(limit as u64).fetch_all(connection).await?)
    }

    /// A child with its parent as it was asked for. The server's own comparison found it, and a foreign key says that the
    /// run is below that parent whatever the case of the id: so it holds it.
    async fn below_asked(
        &self,
        connection: &mut MySqlConnection,
        asked: &BTreeSet<&str>,
        mut child: Seen,
    ) -> Result<Seen, Fail> {
        let Some(parent) = child.parent.as_deref().filter(|parent| !asked.contains(parent)) else { return Ok(child) };
        let text = format!("SELECT run_id FROM {} WHERE run_id = ?", self.layout.runs);
        let rows = select(connection, text, &[parent]).await?;
        child.parent = rows.first().and_then(|row| self::text(row, 0)).or(child.parent);
        Ok(child)
    }
}

/// Where a page of children ended: the last row, and the portion of parents that it was found in.
struct Place<'a> {
    parent: &'a str,
    run: &'a str,
    first: &'a str,
    last: &'a str,
}

impl<'a> Place<'a> {
    fn of(cursor: &'a Cursor) -> Self {
        let [parent, run, first, last] = cursor.0.as_slice() else {
            unreachable!("cursors of children are made here, of four parts")
        };
        Self { parent, run, first, last }
    }
}

/// Executes a statement with texts for its question marks.
pub(super) async fn select(
    connection: &mut MySqlConnection,
    text: String,
    values: &[&str],
) -> Result<Vec<MySqlRow>, Fail> {
    let mut query = sqlx::query(statement(text));
    for value in values {
        query = query.bind((*value).to_owned());
    }
    Ok(query.fetch_all(connection).await?)
}

fn cursor(row: &MySqlRow, columns: &[usize]) -> Cursor {
    Cursor(columns.iter().map(|column| text(row, *column).unwrap_or_default()).collect())
}

/// The first instant of the server's that is after `before`, as it writes it; none where all are.
fn bound(before: DateTime<Utc>) -> Option<String> {
    let before = before.checked_add_signed(TimeDelta::microseconds(1)).unwrap_or(before);
    if before.year() < *YEARS.start() {
        return None;
    }
    Some(if before.year() > *YEARS.end() { "9999-12-31 23:59:59.999999".to_owned() } else { written(before) })
}

/// An instant as the server writes it.
pub(super) fn written(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S%.6f").to_string()
}

/// The stamp of a time as the server writes it, which is a wall clock in UTC. Its text is ISO 8601, with a fraction where
/// that is not 0, as other stores hold it.
pub(super) fn stamp(written: Option<String>) -> Stamp {
    Stamp::read(written.map(|text| {
        let text = text.strip_suffix(".000000").unwrap_or(&text);
        format!("{}+00:00", text.replacen(' ', "T", 1))
    }))
}

fn seen(row: &MySqlRow) -> Seen {
    let id = bytes(row, 0).map(String::from_utf8);
    let is_text = matches!(id, Some(Ok(_)));
    let mut created_at = stamp(text(row, 3));
    if !is_text {
        // It cannot be named in a delete, so it must not look eligible.
        created_at.instant = None;
    }
    Seen {
        id: text(row, 0).unwrap_or_default(),
        status: text(row, 1).unwrap_or_default(),
        workflow: text(row, 2).unwrap_or_default(),
        updated_at: stamp(text(row, 4)),
        created_at,
        parent: text(row, 5),
    }
}

/// The ids among `rows` that are `wanted`, byte by byte.
pub(super) fn exactly<'a>(rows: &[MySqlRow], column: usize, wanted: &HashSet<&'a str>) -> HashSet<&'a str> {
    rows.iter().filter_map(|row| text(row, column)).filter_map(|id| wanted.get(id.as_str()).copied()).collect()
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    #[test]
    fn reads_the_servers_times_as_instants() {
        let read = |text: &str| stamp(Some(text.to_owned()));
        let whole = read("2026-06-01 00:00:00.000000");
        assert_eq!(whole.raw.as_deref(), Some("2026-06-01T00:00:00+00:00"));
        assert_eq!(whole.instant, Some(Utc.with_ymd_and_hms(2026, 6, 1, 0, 0, 0).unwrap()));
        assert_eq!(read("2026-05-31 23:59:59.999999").raw.as_deref(), Some("2026-05-31T23:59:59.999999+00:00"));
        for text in ["0000-00-00 00:00:00.000000", "2025-02-30 00:00:00", "2025-00-10 00:00:00"] {
            assert_eq!(read(text).instant, None, "{text}");
        }
        assert_eq!(stamp(None), Stamp::default());
    }

    #[test]
    fn pages_begin_after_every_instant_before_the_bound() {
        let at = Utc.with_ymd_and_hms(2026, 6, 1, 0, 0, 0).unwrap();
        assert_eq!(bound(at).unwrap(), "2026-06-01 00:00:00.000001");
        assert_eq!(bound(at + TimeDelta::nanoseconds(1)).unwrap(), "2026-06-01 00:00:00.000001");
        assert_eq!(bound(DateTime::<Utc>::MAX_UTC).unwrap(), "9999-12-31 23:59:59.999999");
        assert_eq!(bound(DateTime::<Utc>::MIN_UTC), None);
    }
}
