//! What is not runs: signals, acknowledgements, subscriptions and schedules, by the job's own cutoff.
//!
//! Each step reads one window of a table by its primary key, decides in Rust, and deletes in the same transaction: rows by
//! key, on condition that they still are old. A step is short however large the table is.

mod readers;
mod rows;

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use sqlx::mysql::MySqlRow;

use self::readers::Signal;
use super::{
    Fail, MysqlStore,
    delete::guard_fence,
    marks, portions,
    read::{select, stamp},
    session::{Transaction, is_worth_a_try, text},
};
use crate::{
    lock::Fence,
    report::Counts,
    runs::{Cursor, LooseStep},
};

/// How many rows of a table one step reads.
const WINDOW: usize = 1_000;

/// What decides whether an old row may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    /// A signal: has everybody read it that reads it?
    Unread,
    /// An acknowledgement: is its signal gone?
    SignalGone,
    /// A subscription: has it ended?
    Ended,
    /// A schedule: is it deleted?
    DeletedSchedule,
}

/// A table that is swept by time.
#[derive(Clone, Copy, Debug)]
struct Table {
    name: &'static str,
    kind: &'static str,
    /// Its primary key.
    key: &'static [&'static str],
    /// When a row's age begins.
    time: &'static str,
    /// Two more columns that the decision needs.
    more: [&'static str; 2],
    question: Question,
    /// The tables without which nothing can be decided.
    needs: &'static [&'static str],
}

const STREAMS: &[&str] = &["signals", "signal_acknowledgments", "stream_subscriptions"];

/// The tables in the order that they are swept in: an acknowledgement goes after its signal.
const TABLES: [Table; 4] = [
    Table {
        name: "signals",
        kind: "signals",
        key: &["stream_id", "stream_run_id", "sequence"],
        time: "published_at",
        more: ["signal_id", "signal_type"],
        question: Question::Unread,
        needs: STREAMS,
    },
    Table {
        name: "signal_acknowledgments",
        kind: "acknowledgements",
        key: &["signal_id", "step_run_id"],
        time: "acknowledged_at",
        more: ["signal_id", "step_run_id"],
        question: Question::SignalGone,
        needs: STREAMS,
    },
    Table {
        name: "stream_subscriptions",
        kind: "subscriptions",
        key: &["stream_id", "step_run_id"],
        time: "created_at",
        more: ["status", "step_run_id"],
        question: Question::Ended,
        needs: &["stream_subscriptions"],
    },
    Table {
        name: "schedules",
        kind: "schedules",
        key: &["schedule_id"],
        time: "deleted_at",
        more: ["status", "schedule_id"],
        question: Question::DeletedSchedule,
        needs: &["schedules"],
    },
];

/// A row of a window.
#[derive(Clone, Debug)]
struct Row {
    key: Vec<String>,
    is_old: bool,
    more: [Option<String>; 2],
}

/// Where a step is.
struct Place {
    table: usize,
    /// The key of the last row that was read.
    after: Vec<String>,
}

impl Place {
    fn of(cursor: Option<&Cursor>) -> Self {
        let Some(Cursor(parts)) = cursor else { return Self { table: 0, after: Vec::new() } };
        let table = parts.first().and_then(|at| at.parse().ok()).unwrap_or(TABLES.len());
        Self { table, after: parts.iter().skip(1).cloned().collect() }
    }
}

impl MysqlStore {
    pub(super) async fn loose_step(
        &self,
        cutoff: DateTime<Utc>,
        after: Option<&Cursor>,
        leave: Option<(&str, Fence)>,
        limit: Duration,
    ) -> Result<LooseStep, Fail> {
        let (until, mut tries) = (Instant::now() + limit, 0);
        loop {
            let mut transaction = self.begin(until).await?;
            let step = self.windows(&mut transaction, cutoff, Place::of(after), leave).await;
            match self.end(transaction, step).await {
                Err(fail) if is_worth_a_try(&fail, &mut tries).await => {}
                answer => return answer,
            }
        }
    }

    /// The windows of one step: small tables share a step, and so a transaction.
    async fn windows(
        &self,
        transaction: &mut Transaction,
        cutoff: DateTime<Utc>,
        mut place: Place,
        leave: Option<(&str, Fence)>,
    ) -> Result<LooseStep, Fail> {
        if let Some((job, fence)) = leave {
            guard_fence(transaction, job, fence).await?;
        }
        let (mut counts, mut room) = (Counts::default(), WINDOW);
        while let Some(table) = TABLES.get(place.table).filter(|_| room > 0) {
            let has_all = table.needs.iter().all(|name| self.schema.has(name));
            let rows =
                if has_all { self.window(transaction, table, cutoff, &place.after, room).await? } else { Vec::new() };
            let old: Vec<&Row> = rows.iter().filter(|row| row.is_old).collect();
            let goes = self.goes(transaction, table, old, cutoff, leave.is_some()).await?;
            let count = if leave.is_some() {
                self.delete_rows(transaction, table, &goes, cutoff).await?
            } else {
                goes.len() as u64
            };
            counts.add(table.kind, count);
            room -= rows.len();
            place = match rows.last() {
                Some(last) if room == 0 => Place { table: place.table, after: last.key.clone() },
                _ => Place { table: place.table + 1, after: Vec::new() },
            };
        }
        let next = (place.table < TABLES.len()).then(|| Cursor([vec![place.table.to_string()], place.after].concat()));
        Ok(LooseStep { counts, next })
    }

    /// The next `limit` rows of a table.
    async fn window(
        &self,
        transaction: &mut Transaction,
        table: &Table,
        cutoff: DateTime<Utc>,
        after: &[String],
        limit: usize,
    ) -> Result<Vec<Row>, Fail> {
        let Table { name, key, time, more: [one, other], .. } = table;
        let keys = key.iter().map(|column| format!("CAST(t.{column} AS CHAR)")).collect::<Vec<_>>().join(", ");
        let order = key.iter().map(|column| format!("t.{column}")).collect::<Vec<_>>().join(", ");
        let beyond = if after.is_empty() { "true".to_owned() } else { beyond(key) };
        let query = format!(
            "SELECT CAST(t.{time} AS CHAR), t.{one}, t.{other}, {keys} FROM {name} AS t FORCE INDEX (PRIMARY) \
             WHERE {beyond} ORDER BY {order} LIMIT {limit}"
        );
        // `a > ?`, `a = ? AND b > ?`, and so on.
        let values: Vec<&str> = (0..after.len()).flat_map(|at| &after[..=at]).map(String::as_str).collect();
        let rows = select(transaction.go_on()?, query, &values).await?;
        let row = |row: &MySqlRow| Row {
            key: (0..key.len()).map(|at| text(row, 3 + at).unwrap_or_default()).collect(),
            is_old: stamp(text(row, 0)).instant.is_some_and(|at| at < cutoff),
            more: [text(row, 1), text(row, 2)],
        };
        Ok(rows.iter().map(row).collect())
    }

    /// Those of the old rows that may go.
    async fn goes<'a>(
        &self,
        transaction: &mut Transaction,
        table: &Table,
        mut old: Vec<&'a Row>,
        cutoff: DateTime<Utc>,
        is_real: bool,
    ) -> Result<Vec<&'a Row>, Fail> {
        let is_among = |words: &[&str], row: &Row| row.more[0].as_deref().is_some_and(|word| words.contains(&word));
        match table.question {
            Question::Unread => {
                let signals: Vec<Signal<'_>> = old.iter().map(|row| Signal::of(row)).collect();
                let unread = self.unread(transaction.go_on()?, &signals).await?;
                let mut unread = unread.iter();
                old.retain(|_| !unread.next().copied().unwrap_or(true));
            }
            Question::SignalGone => {
                let stay = self.signals_that_stay(transaction, &old, cutoff, is_real).await?;
                old.retain(|row| !stay.contains(&row.key[0]));
            }
            Question::Ended => old.retain(|row| is_among(self.layout.ended_subscriptions, row)),
            Question::DeletedSchedule => old.retain(|row| is_among(self.layout.deleted_schedules, row)),
        }
        Ok(old)
    }

    /// The ids, as the acknowledgements write them, of the signals that are there. A plan has to guess which ones stay.
    async fn signals_that_stay(
        &self,
        transaction: &mut Transaction,
        acknowledgements: &[&Row],
        cutoff: DateTime<Utc>,
        is_real: bool,
    ) -> Result<HashSet<String>, Fail> {
        let mut ids: Vec<&str> = acknowledgements.iter().map(|row| row.key[0].as_str()).collect();
        ids.dedup();
        let mut stay = HashSet::new();
        for portion in portions(&ids) {
            // The acknowledgements' own text, by the server's comparison: what compares equal may be meant.
            let query = format!(
                "SELECT DISTINCT a.signal_id, s.stream_id, s.signal_id, s.signal_type, CAST(s.published_at AS CHAR) \
                 FROM signal_acknowledgments AS a STRAIGHT_JOIN signals AS s ON s.signal_id = a.signal_id WHERE a.signal_id IN ({})",
                marks(portion.len())
            );
            let rows = select(transaction.go_on()?, query, &portion).await?;
            let columns = |at| rows.iter().map(|row| text(row, at).unwrap_or_default()).collect::<Vec<String>>();
            let [theirs, streams, ids, kinds] = [0, 1, 2, 3].map(columns);
            let signals: Vec<Signal<'_>> = (0..rows.len())
                .map(|at| Signal { stream: &streams[at], id: &ids[at], kind: Some(&kinds[at]) })
                .collect();
            let unread =
                if is_real { vec![true; rows.len()] } else { self.unread(transaction.go_on()?, &signals).await? };
            for (at, id) in theirs.into_iter().enumerate() {
                let is_old = stamp(text(&rows[at], 4)).instant.is_some_and(|at| at < cutoff);
                if !is_old || unread[at] {
                    stay.insert(id);
                }
            }
        }
        Ok(stay)
    }
}

/// The condition that a key is beyond another one, in a form that the index answers.
fn beyond(key: &[&str]) -> String {
    let one = |at: usize| {
        let same = key[..at].iter().map(|column| format!("t.{column} = ?"));
        format!("({})", same.chain([format!("t.{} > ?", key[at])]).collect::<Vec<_>>().join(" AND "))
    };
    format!("({})", (0..key.len()).map(one).collect::<Vec<_>>().join(" OR "))
}
