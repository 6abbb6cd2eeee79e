//! The queue of the embedded mode, in one `SQLite` file; each change is one immediate transaction.
//!
//! A row without a consumer waits. Else `due` is when the delivery lapses, or, given back, when it may be had again.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, Utc};
use sqlx::{Row, Sqlite, SqliteConnection, SqlitePool, Transaction, sqlite::SqliteRow};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use super::{
    AHEAD_MAX, Claim, DEAD_MAX, Dead, Delivery, Enqueued, Queue, QueueError, QueueOptions, Request, Stats, Ticked,
    entry::{check, rfc3339},
};
use crate::{
    clock::Clock,
    embedded,
    ledger::REPORTS_MAX,
    report::{Mode, Outcome, Report},
};

/// The tables.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS request (
    id INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL, mode TEXT NOT NULL, tick TEXT, merge_key TEXT,
    consumer TEXT, number INTEGER NOT NULL DEFAULT 0, due INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS request_due ON request (consumer, due);
CREATE TABLE IF NOT EXISTS dead (
    id INTEGER PRIMARY KEY, job TEXT NOT NULL, mode TEXT NOT NULL, tick TEXT, reason TEXT NOT NULL,
    number INTEGER NOT NULL, at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS tick (job TEXT PRIMARY KEY, last INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS report (id TEXT PRIMARY KEY, job TEXT NOT NULL, at TEXT NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS success (job TEXT PRIMARY KEY, at TEXT NOT NULL);
";

/// A claim waits at most this long, or a sixth of the visibility where that is shorter: a lease counts from its beginning.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// How often a claim looks for what another process enqueued.
const POLL: Duration = Duration::from_millis(250);

/// The queue in the file of `embedded::open`.
#[derive(Clone)]
pub struct SqliteQueue {
    pool: SqlitePool,
    options: QueueOptions,
    clock: Arc<dyn Clock>,
    /// Wakes the claims of this process.
    enqueued: Arc<Notify>,
}

impl fmt::Debug for SqliteQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteQueue").field("options", &self.options).finish_non_exhaustive()
    }
}

impl From<sqlx::Error> for QueueError {
    fn from(error: sqlx::Error) -> Self {
        Self::unavailable(error)
    }
}

impl SqliteQueue {
    /// The queue in the file behind `pool`, which has the tables of [`SCHEMA`].
    #[must_use]
    pub fn new(pool: SqlitePool, options: QueueOptions, clock: Arc<dyn Clock>) -> Self {
        Self { pool, options, clock, enqueued: Arc::default() }
    }

    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, QueueError> {
        Ok(self.pool.begin_with("BEGIN IMMEDIATE").await?)
    }

    fn now_ms(&self) -> i64 {
        self.clock.now().timestamp_millis()
    }

    /// Commits what was appended, and wakes the claims of this process.
    async fn commit_new(&self, transaction: Transaction<'static, Sqlite>) -> Result<(), QueueError> {
        transaction.commit().await?;
        self.enqueued.notify_waiters();
        Ok(())
    }

    async fn refuse_when_full(&self, connection: &mut SqliteConnection) -> Result<(), QueueError> {
        let waiting = count(connection, "SELECT COUNT(*) FROM request WHERE consumer IS NULL").await?;
        if waiting >= self.options.backlog_max { Err(QueueError::Full(waiting)) } else { Ok(()) }
    }

    /// Takes what is due, else what waits longest; `None` where there is neither.
    async fn take(&self, me: &str, busy: bool) -> Result<Option<Claim>, QueueError> {
        let now = self.now_ms();
        // Reading first: an idle worker should not keep others from writing.
        let anything = "SELECT EXISTS (SELECT 1 FROM request WHERE consumer IS NULL OR due <= ?)";
        if !sqlx::query_scalar(anything).bind(now).fetch_one(&self.pool).await? {
            return Ok(None);
        }
        let mut transaction = self.begin().await?;
        let stale = "SELECT * FROM request WHERE consumer IS NOT NULL AND due <= ? ORDER BY due, id LIMIT 1";
        let waiting = "SELECT * FROM request WHERE consumer IS NULL ORDER BY id LIMIT 1";
        let mut row = sqlx::query(stale).bind(now).fetch_optional(&mut *transaction).await?;
        if row.is_none() {
            row = sqlx::query(waiting).fetch_optional(&mut *transaction).await?;
        }
        let Some(row) = row else { return Ok(None) };
        let (id, number): (i64, u32) = (row.try_get("id")?, row.try_get("number")?);
        let max = self.options.max_deliveries;
        if number > 0 && number < max && number + 1 == max && busy {
            return Ok(Some(Claim::Later));
        }
        let exhausted = number >= max;
        let number = if exhausted { number } else { number + 1 };
        let last: Option<String> = row.try_get("consumer")?;
        let take = "UPDATE request SET consumer = ?, number = ?, due = ? WHERE id = ?";
        let due = now.saturating_add(millis(self.options.visibility));
        sqlx::query(take).bind(me).bind(number).bind(due).bind(id).execute(&mut *transaction).await?;
        transaction.commit().await?;
        let id = id.to_string();
        Ok(Some(match Request::read(&fields(&row)?) {
            Err(reason) => Claim::Unreadable { id, reason },
            Ok(request) if exhausted => {
                Claim::Exhausted { delivery: Delivery { id, request, number }, last: last.unwrap_or_default() }
            }
            Ok(request) => Claim::Run(Delivery { id, request, number }),
        }))
    }

    /// Changes what `me` has by `statement`, which binds `value`, the id and `me`.
    async fn change(&self, statement: &'static str, value: i64, me: &str, id: &str) -> Result<bool, QueueError> {
        let changed = sqlx::query(statement).bind(value).bind(number_of(id)).bind(me).execute(&self.pool).await?;
        Ok(changed.rows_affected() == 1)
    }

    async fn settle(
        &self,
        me: &str,
        id: &str,
        reason: Option<&str>,
        report: Option<&Report>,
    ) -> Result<bool, QueueError> {
        let mut transaction = self.begin().await?;
        let mine = "SELECT * FROM request WHERE id = ? AND consumer = ?";
        let row = sqlx::query(mine).bind(number_of(id)).bind(me).fetch_optional(&mut *transaction).await?;
        let Some(row) = row else { return is_recorded(&mut transaction, report).await };
        if let Some(reason) = reason {
            bury(&mut transaction, &row, reason, self.now_ms()).await?;
        }
        if let Some(report) = report {
            record(&mut transaction, report).await?;
        }
        sqlx::query("DELETE FROM request WHERE id = ?").bind(number_of(id)).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(true)
    }
}

#[async_trait]
impl Queue for SqliteQueue {
    fn options(&self) -> QueueOptions {
        self.options
    }

    async fn enqueue(&self, request: &Request, key: Option<&str>) -> Result<Enqueued, QueueError> {
        check(request, key)?;
        let mut transaction = self.begin().await?;
        let waits = "SELECT id FROM request WHERE consumer IS NULL AND tick IS NULL AND job = ?1 AND mode = ?2
            AND (?3 IS NULL OR merge_key = ?3) ORDER BY id LIMIT 1";
        let mode = request.mode.as_str();
        let waiting: Option<i64> =
            sqlx::query_scalar(waits).bind(&request.job).bind(mode).bind(key).fetch_optional(&mut *transaction).await?;
        if let Some(id) = waiting {
            return Ok(Enqueued::Merged(id.to_string()));
        }
        self.refuse_when_full(&mut transaction).await?;
        let append = "INSERT INTO request (job, mode, merge_key) VALUES (?, ?, ?)";
        let added = sqlx::query(append).bind(&request.job).bind(mode).bind(key).execute(&mut *transaction).await?;
        self.commit_new(transaction).await?;
        Ok(Enqueued::New(added.last_insert_rowid().to_string()))
    }

    async fn tick(&self, request: &Request) -> Result<Ticked, QueueError> {
        let tick = request.tick.ok_or_else(|| QueueError::unavailable("a request without a tick is no tick"))?;
        let mut transaction = self.begin().await?;
        let last: Option<i64> = sqlx::query_scalar("SELECT last FROM tick WHERE job = ?")
            .bind(&request.job)
            .fetch_optional(&mut *transaction)
            .await?;
        if last.is_some_and(|last| tick.timestamp_millis() <= last) {
            return Ok(Ticked::Old);
        }
        if tick > self.clock.now() + AHEAD_MAX {
            return Ok(Ticked::Ahead);
        }
        self.refuse_when_full(&mut transaction).await?;
        let set = "INSERT INTO tick (job, last) VALUES (?1, ?2) ON CONFLICT (job) DO UPDATE SET last = ?2";
        sqlx::query(set).bind(&request.job).bind(tick.timestamp_millis()).execute(&mut *transaction).await?;
        let added = sqlx::query("INSERT INTO request (job, mode, tick) VALUES (?, ?, ?)")
            .bind(&request.job)
            .bind(request.mode.as_str())
            .bind(rfc3339(tick))
            .execute(&mut *transaction)
            .await?;
        self.commit_new(transaction).await?;
        Ok(Ticked::New(added.last_insert_rowid().to_string()))
    }

    async fn last_tick(&self, job: &str) -> Result<Option<DateTime<Utc>>, QueueError> {
        let last =
            sqlx::query_scalar("SELECT last FROM tick WHERE job = ?").bind(job).fetch_optional(&self.pool).await?;
        last.map(instant).transpose()
    }

    async fn start(&self, job: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, QueueError> {
        let now = now.min(self.clock.now());
        let first =
            "INSERT INTO tick (job, last) VALUES (?, ?) ON CONFLICT (job) DO UPDATE SET last = last RETURNING last";
        let last = sqlx::query_scalar(first).bind(job).bind(now.timestamp_millis()).fetch_one(&self.pool).await?;
        instant(last)
    }

    async fn claim(&self, me: &str, busy: bool) -> Result<Claim, QueueError> {
        let wait = (self.options.visibility / 6).min(WAIT_MAX);
        let until = Instant::now() + wait;
        loop {
            // Listening before looking: what is enqueued in between is not missed.
            let mut enqueued = std::pin::pin!(self.enqueued.notified());
            enqueued.as_mut().enable();
            if let Some(claim) = self.take(me, busy).await? {
                return Ok(claim);
            }
            if Instant::now() >= until {
                return Ok(Claim::Empty);
            }
            // Running out is no error: another process may have enqueued something.
            let _ = timeout(POLL.min(wait), enqueued).await;
        }
    }

    async fn touch(&self, me: &str, ids: &[String]) -> Result<Vec<String>, QueueError> {
        let due = self.now_ms().saturating_add(millis(self.options.visibility));
        let mut lost = Vec::new();
        for id in ids {
            if !self.change("UPDATE request SET due = ? WHERE id = ? AND consumer = ?", due, me, id).await? {
                lost.push(id.clone());
            }
        }
        Ok(lost)
    }

    async fn finish(&self, me: &str, id: &str, report: &Report) -> Result<bool, QueueError> {
        self.settle(me, id, None, Some(report)).await
    }

    async fn retry(&self, me: &str, id: &str, pause: Duration) -> Result<bool, QueueError> {
        let back = "UPDATE request SET consumer = 'given-back', due = ? WHERE id = ? AND consumer = ?";
        let pause = pause.min(self.options.visibility);
        self.change(back, self.now_ms().saturating_add(millis(pause)), me, id).await
    }

    async fn hand_back(&self, me: &str, id: &str) -> Result<bool, QueueError> {
        let back =
            "UPDATE request SET consumer = 'given-back', number = number - 1, due = ? WHERE id = ? AND consumer = ?";
        let handed = self.change(back, self.now_ms(), me, id).await?;
        self.enqueued.notify_waiters();
        Ok(handed)
    }

    async fn bury(&self, me: &str, id: &str, reason: &str, report: Option<&Report>) -> Result<bool, QueueError> {
        self.settle(me, id, Some(reason), report).await
    }

    /// Does nothing: a consumer is no more than its name in the rows that it has.
    async fn leave(&self, _me: &str) -> Result<(), QueueError> {
        Ok(())
    }

    async fn has(&self, id: &str) -> Result<bool, QueueError> {
        let has = "SELECT EXISTS (SELECT 1 FROM request WHERE id = ?)";
        Ok(sqlx::query_scalar(has).bind(number_of(id)).fetch_one(&self.pool).await?)
    }

    async fn dead(&self, limit: usize) -> Result<Vec<Dead>, QueueError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let newest = "SELECT * FROM dead ORDER BY at DESC, id DESC LIMIT ?";
        let rows = sqlx::query(newest).bind(limit).fetch_all(&self.pool).await?;
        rows.iter().map(dead_entry).collect()
    }

    async fn dead_retry(&self, id: &str) -> Result<bool, QueueError> {
        let mut transaction = self.begin().await?;
        // Without its tick no newer tick can take the request's place.
        let again = "INSERT INTO request (job, mode) SELECT job, mode FROM dead WHERE id = ?";
        let added = sqlx::query(again).bind(number_of(id)).execute(&mut *transaction).await?;
        sqlx::query("DELETE FROM dead WHERE id = ?").bind(number_of(id)).execute(&mut *transaction).await?;
        self.commit_new(transaction).await?;
        Ok(added.rows_affected() == 1)
    }

    async fn dead_drop(&self, id: &str) -> Result<bool, QueueError> {
        let dropped = sqlx::query("DELETE FROM dead WHERE id = ?").bind(number_of(id)).execute(&self.pool).await?;
        Ok(dropped.rows_affected() == 1)
    }

    async fn stats(&self) -> Result<Stats, QueueError> {
        let mut connection = self.pool.acquire().await?;
        Ok(Stats {
            waiting: count(&mut connection, "SELECT COUNT(*) FROM request WHERE consumer IS NULL").await?,
            running: count(&mut connection, "SELECT COUNT(*) FROM request WHERE consumer IS NOT NULL").await?,
            dead: count(&mut connection, "SELECT COUNT(*) FROM dead").await?,
        })
    }

    fn again(&self) -> Arc<dyn Queue> {
        Arc::new(Self { pool: embedded::again(&self.pool), ..self.clone() })
    }

    fn of_host(&self, _: &str) -> Option<Arc<dyn Queue>> {
        None
    }
}

/// Puts a row of `request` on the dead list, and keeps that short.
async fn bury(connection: &mut SqliteConnection, row: &SqliteRow, reason: &str, now: i64) -> Result<(), QueueError> {
    let bury = "INSERT OR REPLACE INTO dead (id, job, mode, tick, number, reason, at)
        SELECT id, job, mode, tick, number, ?, ? FROM request WHERE id = ?";
    let id: i64 = row.try_get("id")?;
    sqlx::query(bury).bind(reason).bind(now).bind(id).execute(&mut *connection).await?;
    let trim = "DELETE FROM dead WHERE id IN (SELECT id FROM dead ORDER BY at DESC, id DESC LIMIT -1 OFFSET ?)";
    sqlx::query(trim).bind(i64::try_from(DEAD_MAX).unwrap_or(i64::MAX)).execute(connection).await?;
    Ok(())
}

/// Puts a report into the ledger's tables, and keeps the newest of its job only.
async fn record(connection: &mut SqliteConnection, report: &Report) -> Result<(), QueueError> {
    let body = serde_json::to_string(report).map_err(QueueError::unavailable)?;
    let at = report.started_at.to_rfc3339_opts(SecondsFormat::Micros, true);
    let add = "INSERT OR IGNORE INTO report (id, job, at, body) VALUES (?, ?, ?, ?)";
    sqlx::query(add).bind(&report.id).bind(&report.job).bind(&at).bind(body).execute(&mut *connection).await?;
    let trim = "DELETE FROM report WHERE id IN
        (SELECT id FROM report WHERE job = ? ORDER BY rowid DESC LIMIT -1 OFFSET ?)";
    let kept = i64::try_from(REPORTS_MAX).unwrap_or(i64::MAX);
    sqlx::query(trim).bind(&report.job).bind(kept).execute(&mut *connection).await?;
    if report.outcome == Outcome::Done && report.mode == Mode::Apply {
        let success = "INSERT INTO success (job, at) VALUES (?1, ?2) ON CONFLICT (job) DO UPDATE SET at = ?2";
        sqlx::query(success).bind(&report.job).bind(&at).execute(connection).await?;
    }
    Ok(())
}

/// The same settling sent twice, because the first answer got lost, is still a success.
async fn is_recorded(connection: &mut SqliteConnection, report: Option<&Report>) -> Result<bool, QueueError> {
    let Some(report) = report else { return Ok(false) };
    let there = "SELECT EXISTS (SELECT 1 FROM report WHERE id = ?)";
    Ok(sqlx::query_scalar(there).bind(&report.id).fetch_one(connection).await?)
}

async fn count(connection: &mut SqliteConnection, statement: &'static str) -> Result<u64, QueueError> {
    let count: i64 = sqlx::query_scalar(statement).fetch_one(connection).await?;
    Ok(count.unsigned_abs())
}

/// A row's fields as a program would have written them.
fn fields(row: &SqliteRow) -> Result<Vec<(String, String)>, QueueError> {
    let mut fields =
        vec![("job".to_owned(), row.try_get("job")?), ("mode".to_owned(), row.try_get::<String, _>("mode")?)];
    if let Some(tick) = row.try_get("tick")? {
        fields.push(("tick".to_owned(), tick));
    }
    Ok(fields)
}

fn dead_entry(row: &SqliteRow) -> Result<Dead, QueueError> {
    Ok(Dead {
        id: row.try_get::<i64, _>("id")?.to_string(),
        reason: row.try_get("reason")?,
        deliveries: row.try_get("number")?,
        at: instant(row.try_get("at")?)?,
        fields: fields(row)?,
    })
}

fn instant(millis: i64) -> Result<DateTime<Utc>, QueueError> {
    DateTime::from_timestamp_millis(millis).ok_or_else(|| QueueError::unavailable(format!("{millis} is no instant")))
}

/// The row of an id; an id that is no number is no row's.
fn number_of(id: &str) -> i64 {
    id.parse().unwrap_or(-1)
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}
