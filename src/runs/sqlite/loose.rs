//! What is not runs: signals, acknowledgements, subscriptions and schedules, by the job's own cutoff.
//!
//! Each step reads one window of a table, decides in Rust, and deletes in the same transaction. A step is short however
//! large the table is.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Row, SqliteConnection};

use super::{CONSTRAINT, NAME, SqliteStore, primary_code, statement};
use crate::{
    lock::Fence,
    report::Counts,
    runs::{Cursor, LooseStep, Stamp, StoreError},
};

/// How many rows of a table one step reads.
const WINDOW: i64 = 2_000;

/// What was found in the next rows of a table.
struct Window {
    /// The rows that are to go.
    old: Vec<i64>,
    /// How many rows were read.
    read: i64,
    /// The last row that was read.
    last: i64,
}

/// A table that is swept by time.
struct Table {
    name: &'static str,
    kind: &'static str,
    /// When a row's age begins.
    time: &'static str,
    /// Which rows may go, beside being old.
    condition: String,
    /// A table whose rows of the same key go along: table, its column, ours.
    along: Option<(&'static str, &'static str, &'static str)>,
}

impl SqliteStore {
    /// The tables in the order that they are swept in: an acknowledgement goes after its signal.
    fn loose_tables(&self, is_real: bool) -> Vec<Table> {
        let quoted = |words: &[&str]| words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(", ");
        let ended = quoted(self.layout.ended_subscriptions);
        // An unreadable list of types may name any. A subscription that has not ended still reads what it has not acknowledged.
        let unread = |signal: &str| {
            format!(
                "EXISTS (SELECT 1 FROM stream_subscriptions AS u WHERE u.stream_id = {signal}.stream_id AND coalesce(u.status, '') NOT IN ({ended}) \
             AND (CASE WHEN json_valid(u.signal_types) THEN json_type(u.signal_types) END IS NOT 'array' OR EXISTS (SELECT 1 FROM json_each(u.signal_types) WHERE value = {signal}.signal_type)) \
             AND NOT EXISTS (SELECT 1 FROM signal_acknowledgments AS a WHERE a.signal_id = {signal}.signal_id AND a.step_run_id = u.step_run_id))"
            )
        };
        // Without its acknowledgement a signal that stays would be delivered again. A plan has to guess which ones stay.
        let stays = if is_real { "true".to_owned() } else { format!("(s.published_at >= ?3 OR {})", unread("s")) };
        let tables = [
            Table {
                name: "signals",
                kind: "signals",
                time: "published_at",
                condition: format!("NOT {}", unread("t")),
                along: None,
            },
            Table {
                name: "signal_acknowledgments",
                kind: "acknowledgements",
                time: "acknowledged_at",
                condition: format!(
                    "NOT EXISTS (SELECT 1 FROM signals AS s WHERE s.signal_id = t.signal_id AND {stays})"
                ),
                along: None,
            },
            Table {
                name: "stream_subscriptions",
                kind: "subscriptions",
                time: "created_at",
                condition: format!("t.status IN ({ended})"),
                along: Some(("checkpoints", "step_run_id", "step_run_id")),
            },
            Table {
                name: "schedules",
                kind: "schedules",
                time: "deleted_at",
                condition: format!("t.status IN ({})", quoted(self.layout.deleted_schedules)),
                along: None,
            },
        ];
        let needs = |table: &Table| match table.name {
            "signals" | "signal_acknowledgments" => {
                ["signals", "signal_acknowledgments", "stream_subscriptions"].to_vec()
            }
            name => vec![name],
        };
        tables.into_iter().filter(|table| needs(table).iter().all(|name| self.tables.has(name))).collect()
    }

    pub(super) async fn loose_step(
        &self,
        cutoff: DateTime<Utc>,
        after: Option<&Cursor>,
        leave: Option<(&str, Fence)>,
        limit: Duration,
    ) -> Result<LooseStep, StoreError> {
        let tables = self.loose_tables(leave.is_some());
        let start = after.map_or((0, i64::MIN), place);
        match leave {
            None => {
                let mut connection = self.connection().await;
                let step = self.windows(&mut connection, &tables, start, cutoff, false).await;
                step.map_err(|error| self.error(&error))
            }
            Some((job, fence)) => {
                let mut transaction = self.begin(limit).await?;
                let connection = &mut *transaction.connection;
                let step = async {
                    self.guard_fence(connection, job, fence).await?;
                    let step = self.windows(connection, &tables, start, cutoff, true).await;
                    step.map_err(|error| self.error(&error))
                };
                let step = step.await;
                transaction.end(step).await
            }
        }
    }

    /// The windows of one step: small tables share a step, and so a transaction.
    async fn windows(
        &self,
        connection: &mut SqliteConnection,
        tables: &[Table],
        (mut at, mut row): (usize, i64),
        cutoff: DateTime<Utc>,
        is_real: bool,
    ) -> Result<LooseStep, sqlx::Error> {
        let (mut counts, mut room) = (Counts::default(), WINDOW);
        while let Some(table) = tables.get(at).filter(|_| room > 0) {
            let window = self.window(connection, table, cutoff, row, room).await?;
            let count = if is_real && !window.old.is_empty() {
                self.delete_rows(connection, table, &window.old).await?
            } else {
                window.old.len() as u64
            };
            counts.add(table.kind, count);
            room -= window.read;
            (at, row) = if window.read > 0 && room <= 0 { (at, window.last) } else { (at + 1, i64::MIN) };
        }
        let next = (at < tables.len()).then(|| Cursor(vec![at.to_string(), row.to_string()]));
        Ok(LooseStep { counts, next })
    }

    /// Looks at the next `limit` rows of a table.
    async fn window(
        &self,
        connection: &mut SqliteConnection,
        table: &Table,
        cutoff: DateTime<Utc>,
        row: i64,
        limit: i64,
    ) -> Result<Window, sqlx::Error> {
        let Table { name, time, condition, .. } = table;
        // The condition is asked of old rows only: the rest are most of them.
        let text = format!(
            "SELECT t.rowid, CASE typeof(t.{time}) WHEN 'text' THEN t.{time} END, t.{time} < ?2 AND {condition} \
             FROM (SELECT rowid, * FROM {name} WHERE rowid > ?1 ORDER BY rowid LIMIT ?4) AS t ORDER BY t.rowid"
        );
        // Another offset sorts up to 14 hours off: Rust has the last word on what is old.
        let text_of = |at: DateTime<Utc>| at.format("%Y-%m-%dT%H:%M:%S%.6f").to_string();
        let bound = text_of(cutoff + chrono::TimeDelta::days(1));
        let query = sqlx::query(statement(text)).bind(row).bind(bound).bind(text_of(cutoff)).bind(limit);
        let rows = query.fetch_all(connection).await?;
        let mut old = Vec::new();
        for row in &rows {
            let may_go: Option<bool> = row.try_get(2)?;
            let stamp = Stamp::read(row.try_get(1).unwrap_or_default());
            if may_go == Some(true) && stamp.instant.is_some_and(|at| at < cutoff) {
                old.push(row.try_get(0)?);
            }
        }
        let last = rows.last().map(|row| row.try_get(0)).transpose()?.unwrap_or(row);
        Ok(Window { old, read: i64::try_from(rows.len()).unwrap_or(limit), last })
    }

    /// Deletes rows, but for those that the owner holds; answers how many went.
    async fn delete_rows(
        &self,
        connection: &mut SqliteConnection,
        table: &Table,
        rows: &[i64],
    ) -> Result<u64, sqlx::Error> {
        if self.try_rows(connection, table, rows).await? {
            return Ok(rows.len() as u64);
        }
        let mut gone = 0;
        for row in rows {
            gone += u64::from(self.try_rows(connection, table, &[*row]).await?);
        }
        let held = rows.len() as u64 - gone;
        tracing::warn!(store = NAME, table = table.name, held, "the owner holds rows that were to go");
        Ok(gone)
    }

    /// Deletes rows together; `false` where something of the owner's refuses, and then nothing has changed.
    async fn try_rows(
        &self,
        connection: &mut SqliteConnection,
        table: &Table,
        rows: &[i64],
    ) -> Result<bool, sqlx::Error> {
        sqlx::raw_sql("SAVEPOINT rows").execute(&mut *connection).await?;
        match self.delete_together(connection, table, rows).await {
            Err(error) if primary_code(&error) == Some(CONSTRAINT) => {
                sqlx::raw_sql("ROLLBACK TO rows; RELEASE rows").execute(connection).await?;
                Ok(false)
            }
            answer => {
                answer?;
                sqlx::raw_sql("RELEASE rows").execute(connection).await?;
                Ok(true)
            }
        }
    }

    async fn delete_together(
        &self,
        connection: &mut SqliteConnection,
        table: &Table,
        rows: &[i64],
    ) -> Result<(), sqlx::Error> {
        let numbers = rows.iter().copied().collect::<serde_json::Value>().to_string();
        let name = table.name;
        if let Some((other, theirs, ours)) = table.along
            && self.tables.has(other)
        {
            let text = format!(
                "DELETE FROM {other} WHERE {theirs} IN (SELECT t.{ours} FROM {name} AS t WHERE t.rowid IN (SELECT value FROM json_each(?1)) \
                 AND NOT EXISTS (SELECT 1 FROM {name} AS o WHERE o.{ours} = t.{ours} AND o.rowid NOT IN (SELECT value FROM json_each(?1))))"
            );
            sqlx::query(statement(text)).bind(&numbers).execute(&mut *connection).await?;
        }
        let text = format!("DELETE FROM {name} WHERE rowid IN (SELECT value FROM json_each(?))");
        sqlx::query(statement(text)).bind(&numbers).execute(connection).await?;
        Ok(())
    }
}

fn place(cursor: &Cursor) -> (usize, i64) {
    let part = |at: usize| cursor.0.get(at);
    (
        part(0).and_then(|at| at.parse().ok()).unwrap_or(usize::MAX),
        part(1).and_then(|row| row.parse().ok()).unwrap_or(i64::MAX),
    )
}
