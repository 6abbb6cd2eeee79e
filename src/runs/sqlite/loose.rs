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
    runs::{Cursor, LooseStep, Stamp, StoreError},
};

/// How many rows of a table one step reads.
const WINDOW: i64 = 2_000;

/// The rows of a window that are to go, and the window's last row if there is another window.
type Window = (Vec<i64>, Option<i64>);

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
        let (at, row) = after.map_or((0, i64::MIN), place);
        let Some(table) = tables.get(at) else {
            return Ok(LooseStep { counts: crate::report::Counts::default(), next: None });
        };
        let (rows, last) = match leave {
            None => {
                let mut connection = self.connection().await;
                let found = self.window(&mut connection, table, cutoff, row).await;
                found.map(|(rows, last)| (rows.len() as u64, last)).map_err(|error| self.error(&error))?
            }
            Some((job, fence)) => {
                let mut transaction = self.begin(limit).await?;
                let window = self.sweep_window(&mut transaction.connection, (job, fence), table, cutoff, row).await;
                transaction.end(window).await?
            }
        };
        let mut counts = crate::report::Counts::default();
        counts.add(table.kind, rows);
        let next = match last {
            Some(last) => Some((at, last)),
            None => (at + 1 < tables.len()).then_some((at + 1, i64::MIN)),
        };
        Ok(LooseStep { counts, next: next.map(|(at, row)| Cursor(vec![at.to_string(), row.to_string()])) })
    }

    async fn sweep_window(
        &self,
        connection: &mut SqliteConnection,
        (job, fence): (&str, Fence),
        table: &Table,
        cutoff: DateTime<Utc>,
        row: i64,
    ) -> Result<(u64, Option<i64>), StoreError> {
        self.guard_fence(connection, job, fence).await?;
        let window = async {
            let (rows, last) = self.window(connection, table, cutoff, row).await?;
            Ok((self.delete_rows(connection, table, &rows).await?, last))
        };
        window.await.map_err(|error: sqlx::Error| self.error(&error))
    }

    /// The rows of one window that are to go, and the window's last row if there is another window.
    async fn window(
        &self,
        connection: &mut SqliteConnection,
        table: &Table,
        cutoff: DateTime<Utc>,
        row: i64,
    ) -> Result<Window, sqlx::Error> {
        let Table { name, time, condition, .. } = table;
        // The condition is asked of old rows only: the rest are most of them.
        let text = format!(
            "SELECT t.rowid, CASE typeof(t.{time}) WHEN 'text' THEN t.{time} END, t.{time} < ?2 AND {condition} \
             FROM (SELECT rowid, * FROM {name} WHERE rowid > ?1 ORDER BY rowid LIMIT {WINDOW}) AS t ORDER BY t.rowid"
        );
        // Another offset sorts up to 14 hours off: Rust has the last word on what is old.
        let text_of = |at: DateTime<Utc>| at.format("%Y-%m-%dT%H:%M:%S%.6f").to_string();
        let bound = text_of(cutoff + chrono::TimeDelta::days(1));
        let rows =
            sqlx::query(statement(text)).bind(row).bind(bound).bind(text_of(cutoff)).fetch_all(connection).await?;
        let mut old = Vec::new();
        for row in &rows {
            let may_go: Option<bool> = row.try_get(2)?;
            let stamp = Stamp::read(row.try_get(1).unwrap_or_default());
            if may_go == Some(true) && stamp.instant.is_some_and(|at| at < cutoff) {
                old.push(row.try_get(0)?);
            }
        }
        let is_full = i64::try_from(rows.len()).is_ok_and(|count| count == WINDOW);
        let last = rows.last().filter(|_| is_full).map(|row| row.try_get(0)).transpose()?;
        Ok((old, last))
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
