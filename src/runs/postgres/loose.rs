//! What is not runs: signals, acknowledgements, subscriptions and schedules, by the job's own cutoff.
//!
//! Each step reads a window of a table in the order of its primary key, decides in Rust, and deletes in the same
//! transaction. A step is short however large the table is.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row, postgres::PgRow};

use super::{PostgresStore, errors::is_refused, signals::Signal, stamp::Micros, statement, work::Work};
use crate::{
    lock::Fence,
    report::Counts,
    runs::{Cursor, LooseStep, StoreError},
};

/// How many rows one step reads.
const WINDOW: usize = 2_000;

/// A table that is swept by time.
struct Table {
    name: &'static str,
    kind: &'static str,
    /// Its primary key: columns with their types.
    key: &'static [(&'static str, &'static str)],
    /// When a row's age begins.
    time: &'static str,
    /// Which old rows may go, as far as the row itself says.
    condition: String,
    /// Columns that the rest of the decision goes by.
    more: &'static [&'static str],
}

/// An old row.
struct Old {
    key: Vec<String>,
    more: Vec<Option<String>>,
}

impl Old {
    fn more(&self, at: usize) -> String {
        self.more.get(at).cloned().flatten().unwrap_or_default()
    }
}

/// How a step is to look.
#[derive(Clone, Copy)]
struct Look {
    cutoff: Micros,
    is_real: bool,
}

const TEXT: &str = "text";

impl PostgresStore {
    /// The tables in the order that they are swept in: an acknowledgement goes after its signal.
    fn loose_tables(&self) -> Vec<Table> {
        let among = |column: &str, words: &[&str]| {
            format!("t.{column} IN ({})", words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(", "))
        };
        let tables = [
            Table {
                name: "signals",
                kind: "signals",
                key: &[("stream_id", TEXT), ("stream_run_id", TEXT), ("sequence", "integer")],
                time: "published_at",
                condition: "true".to_owned(),
                more: &["signal_id", "stream_id", "signal_type"],
            },
            Table {
                name: "signal_acknowledgments",
                kind: "acknowledgements",
                key: &[("signal_id", TEXT), ("step_run_id", TEXT)],
                time: "acknowledged_at",
                condition: "true".to_owned(),
                more: &["signal_id"],
            },
            Table {
                name: "stream_subscriptions",
                kind: "subscriptions",
                key: &[("stream_id", TEXT), ("step_run_id", TEXT)],
                time: "created_at",
                condition: among("status", self.layout.ended_subscriptions),
                more: &["step_run_id"],
            },
            Table {
                name: "scheduled_signals",
                kind: "scheduled_signals",
                key: &[("id", TEXT)],
                time: "created_at",
                condition: "t.delivered".to_owned(),
                more: &[],
            },
            Table {
                name: "schedules",
                kind: "schedules",
                key: &[("schedule_id", TEXT)],
                time: "deleted_at",
                condition: among("status", self.layout.deleted_schedules),
                more: &[],
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
        let look = Look { cutoff: Micros::of(cutoff), is_real: leave.is_some() };
        let mut work = Work::begin(self, Instant::now() + limit).await?;
        let step = async {
            if let Some(holder) = leave {
                self.guard_fence(&mut work, holder).await?;
            }
            self.windows(&mut work, after, look).await
        };
        let step = step.await;
        // Where nothing went there is nothing that a commit would have to bring to the disk.
        let has_changed = look.is_real && step.as_ref().is_ok_and(|step| step.counts.iter().next().is_some());
        if has_changed {
            work.commit().await?;
        } else {
            work.roll_back().await;
        }
        step
    }

    /// The windows of one step: small tables share a step, and so a transaction.
    async fn windows(&self, work: &mut Work<'_>, after: Option<&Cursor>, look: Look) -> Result<LooseStep, StoreError> {
        let tables = self.loose_tables();
        let (mut at, mut place) = after.map_or((0, Vec::new()), place_of);
        let (mut counts, mut room) = (Counts::default(), WINDOW);
        while let Some(table) = tables.get(at).filter(|_| room > 0) {
            let (old, read, last) = window(work, table, look.cutoff, &place, room).await?;
            let goes = self.decide(work, table, old, look).await?;
            let count =
                if look.is_real { self.delete_old(work, table, look.cutoff, &goes).await? } else { goes.len() as u64 };
            if count > 0 {
                counts.add(table.kind, count);
            }
            room = room.saturating_sub(read);
            (at, place) = if room == 0 { (at, last) } else { (at + 1, Vec::new()) };
        }
        let next = (at < tables.len()).then(|| Cursor([vec![at.to_string()], place].concat()));
        Ok(LooseStep { counts, next })
    }

    /// Those of the old rows of a table that nothing else needs.
    async fn decide(
        &self,
        work: &mut Work<'_>,
        table: &Table,
        mut old: Vec<Old>,
        look: Look,
    ) -> Result<Vec<Old>, StoreError> {
        if old.is_empty() {
            return Ok(old);
        }
        match table.name {
            "signals" => {
                let signals: Vec<Signal> =
                    old.iter().map(|row| Signal { id: row.more(0), stream: row.more(1), kind: row.more(2) }).collect();
                let unread = self.unread(work, &signals).await?;
                old.retain(|row| !unread.contains(&row.more(0)));
            }
            "signal_acknowledgments" => {
                let ids: Vec<String> = old.iter().map(|row| row.more(0)).collect();
                let stay = self.staying(work, &ids, look).await?;
                old.retain(|row| !stay.contains(&row.more(0)));
            }
            _ => {}
        }
        Ok(old)
    }

    /// Those of the signals with these ids that are there: without its acknowledgement a signal would be delivered again.
    /// A plan has to tell which ones would stay.
    async fn staying(&self, work: &mut Work<'_>, ids: &[String], look: Look) -> Result<HashSet<String>, StoreError> {
        let text = "SELECT signal_id, stream_id, signal_type, coalesce(published_at < $2, false) FROM signals WHERE signal_id = ANY($1)";
        let query = sqlx::query_as(text).bind(ids).bind(look.cutoff);
        let rows: Vec<(String, String, String, bool)> =
            work.run(async |connection| query.fetch_all(connection).await).await?;
        let (mut stay, mut old) = (HashSet::new(), Vec::new());
        for (id, stream, kind, is_old) in rows {
            if is_old && !look.is_real {
                old.push(Signal { id, stream, kind });
            } else {
                stay.insert(id);
            }
        }
        stay.extend(self.unread(work, &old).await?);
        Ok(stay)
    }

    /// Deletes rows, but for those that the owner holds; answers how many went.
    async fn delete_old(
        &self,
        work: &mut Work<'_>,
        table: &Table,
        cutoff: Micros,
        rows: &[Old],
    ) -> Result<u64, StoreError> {
        if rows.is_empty() {
            return Ok(0);
        }
        if let Some(gone) = self.try_rows(work, table, cutoff, rows).await? {
            return Ok(gone);
        }
        let mut gone = 0;
        for row in rows {
            gone += self.try_rows(work, table, cutoff, std::slice::from_ref(row)).await?.unwrap_or(0);
        }
        let held = rows.len() as u64 - gone;
        tracing::warn!(store = self.name, table = table.name, held, "the owner holds rows that were to go");
        Ok(gone)
    }

    /// Deletes rows together; `None` where something of the owner's refuses, and then nothing has changed.
    async fn try_rows(
        &self,
        work: &mut Work<'_>,
        table: &Table,
        cutoff: Micros,
        rows: &[Old],
    ) -> Result<Option<u64>, StoreError> {
        let has_along = table.name == "stream_subscriptions" && self.tables.has("checkpoints");
        let tried = work.try_run(async |connection| {
            sqlx::raw_sql("SAVEPOINT rows").execute(&mut *connection).await?;
            if has_along {
                delete_along(connection, rows).await?;
            }
            let gone = delete_together(connection, table, cutoff, rows).await?;
            sqlx::raw_sql("SET CONSTRAINTS ALL IMMEDIATE; RELEASE SAVEPOINT rows").execute(connection).await?;
            Ok(gone)
        });
        match tried.await? {
            Err(error) if is_refused(&error) => {
                let undo = "ROLLBACK TO SAVEPOINT rows; RELEASE SAVEPOINT rows";
                work.run(async |connection| sqlx::raw_sql(undo).execute(connection).await).await?;
                Ok(None)
            }
            answer => answer.map(Some).map_err(|error| self.error(&error)),
        }
    }
}

/// Reads the next `limit` rows of a table; answers the old ones, how many it read, and the key of the last.
async fn window(
    work: &mut Work<'_>,
    table: &Table,
    cutoff: Micros,
    place: &[String],
    limit: usize,
) -> Result<(Vec<Old>, usize, Vec<String>), StoreError> {
    let columns =
        |cast: &str| table.key.iter().map(|(name, _)| format!("t.{name}{cast}")).collect::<Vec<_>>().join(", ");
    let more: String = table.more.iter().map(|name| format!(", t.{name}::text")).collect::<Vec<_>>().concat();
    let beyond = if place.is_empty() {
        "true".to_owned()
    } else {
        let values: Vec<String> =
            table.key.iter().enumerate().map(|(at, (_, kind))| format!("${}::text::{kind}", at + 3)).collect();
        format!("({}) > ({})", columns(""), values.join(", "))
    };
    let text = format!(
        "SELECT coalesce(t.{} < $1 AND {}, false), {}{more} FROM {} AS t WHERE {beyond} ORDER BY {} LIMIT $2",
        table.time,
        table.condition,
        columns("::text"),
        table.name,
        columns("")
    );
    let mut query = sqlx::query(statement(text)).bind(cutoff).bind(i64::try_from(limit).unwrap_or(i64::MAX));
    for part in place {
        query = query.bind(part);
    }
    let keys = table.key.len();
    let key = |row: &PgRow| (1..=keys).map(|at| row.try_get(at)).collect::<Result<Vec<String>, _>>();
    work.run(async |connection| {
        let rows = query.fetch_all(connection).await?;
        let mut old = Vec::new();
        for row in &rows {
            if row.try_get(0)? {
                let more = (0..table.more.len()).map(|at| row.try_get(1 + keys + at)).collect::<Result<_, _>>()?;
                old.push(Old { key: key(row)?, more });
            }
        }
        let last = rows.last().map(key).transpose()?.unwrap_or_default();
        Ok((old, rows.len(), last))
    })
    .await
}

async fn delete_together(
    connection: &mut PgConnection,
    table: &Table,
    cutoff: Micros,
    rows: &[Old],
) -> Result<u64, sqlx::Error> {
    let (mut arrays, mut names, mut same) = (Vec::new(), Vec::new(), Vec::new());
    for (at, (name, kind)) in table.key.iter().enumerate() {
        arrays.push(format!("${}::text[]", at + 2));
        names.push(format!("k{at}"));
        same.push(format!("t.{name} = b.k{at}::{kind}"));
    }
    let text = format!(
        "DELETE FROM {} AS t USING unnest({}) AS b ({}) WHERE {} AND t.{} < $1 AND {}",
        table.name,
        arrays.join(", "),
        names.join(", "),
        same.join(" AND "),
        table.time,
        table.condition
    );
    let mut query = sqlx::query(statement(text)).bind(cutoff);
    for at in 0..table.key.len() {
        query = query.bind(rows.iter().map(|row| row.key[at].as_str()).collect::<Vec<_>>());
    }
    Ok(query.execute(connection).await?.rows_affected())
}

/// Deletes what the steps of ended subscriptions have saved, but for steps that read another stream too.
async fn delete_along(connection: &mut PgConnection, rows: &[Old]) -> Result<(), sqlx::Error> {
    let (streams, steps): (Vec<&str>, Vec<&str>) =
        rows.iter().map(|row| (row.key[0].as_str(), row.key[1].as_str())).unzip();
    let going: HashSet<(&str, &str)> = streams.into_iter().zip(steps.iter().copied()).collect();
    let text = "SELECT stream_id, step_run_id FROM stream_subscriptions WHERE step_run_id = ANY($1)";
    let all: Vec<(String, String)> = sqlx::query_as(text).bind(&steps).fetch_all(&mut *connection).await?;
    let stay: HashSet<&str> =
        all.iter().filter(|(stream, step)| !going.contains(&(stream, step))).map(|(_, step)| step.as_str()).collect();
    let keys: Vec<&str> = steps.iter().copied().filter(|step| !stay.contains(step)).collect();
    let text = "DELETE FROM checkpoints WHERE step_run_id = ANY($1)";
    sqlx::query(text).bind(keys).execute(connection).await.map(drop)
}

/// A place in the tables: which one, and the key of the last row that was read.
fn place_of(cursor: &Cursor) -> (usize, Vec<String>) {
    let at = cursor.0.first().and_then(|at| at.parse().ok()).unwrap_or(usize::MAX);
    (at, cursor.0.get(1..).unwrap_or_default().to_vec())
}
