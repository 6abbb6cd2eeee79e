//! A ledger in the SQLite file of the embedded mode.

use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{SqliteConnection, SqlitePool};

use super::{
    Backoff, Ledger, LedgerError, REPORTS_MAX, due_millis, from_millis, is_success, read_instant, read_reports,
};
use crate::report::Report;

/// The tables. Reports are in the order in which they were recorded, which is that of their row ids.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS report (
    id TEXT PRIMARY KEY,
    job TEXT NOT NULL,
    at TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS report_job ON report (job);
CREATE TABLE IF NOT EXISTS success (
    job TEXT PRIMARY KEY,
    at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS pause (
    job TEXT PRIMARY KEY
);
CREATE TABLE IF NOT EXISTS backoff (
    job TEXT NOT NULL,
    item TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    next_at INTEGER NOT NULL, -- milliseconds since 1970
    PRIMARY KEY (job, item)
);
";

const INSERT_REPORT: &str = "INSERT INTO report (id, job, at, body) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO NOTHING";

const TRIM_REPORTS: &str = "
DELETE FROM report WHERE job = ?1 AND rowid <=
    (SELECT rowid FROM report WHERE job = ?1 ORDER BY rowid DESC LIMIT 1 OFFSET ?2)";

const UPSERT_SUCCESS: &str = "INSERT INTO success (job, at) VALUES (?1, ?2) ON CONFLICT (job) DO UPDATE SET at = ?2";

const SELECT_REPORTS: &str = "SELECT body FROM report WHERE job = ? ORDER BY rowid DESC LIMIT ?";

const SELECT_SUCCESS: &str = "SELECT at FROM success WHERE job = ?";

const INSERT_PAUSE: &str = "INSERT INTO pause (job) VALUES (?) ON CONFLICT (job) DO NOTHING";

const DELETE_PAUSE: &str = "DELETE FROM pause WHERE job = ?";

const SELECT_PAUSE: &str = "SELECT count(*) FROM pause WHERE job = ?";

const UPSERT_BACKOFF: &str = "
INSERT INTO backoff (job, item, attempts, next_at) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (job, item) DO UPDATE SET attempts = ?3, next_at = ?4";

const DELETE_BACKOFF: &str = "DELETE FROM backoff WHERE job = ? AND item = ?";

const SELECT_BACKOFFS: &str = "SELECT item, attempts, next_at FROM backoff WHERE job = ?";

/// A ledger in a SQLite file that [`embedded::open`](crate::embedded::open) opened.
///
/// ```
/// use apalis_janitor::{embedded, ledger::{Ledger, sqlite::SqliteLedger}};
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let folder = tempfile::tempdir().unwrap();
/// let ledger = SqliteLedger::new(embedded::open(folder.path()).await.unwrap());
/// assert!(ledger.pause("demo").await.unwrap());
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct SqliteLedger {
    pool: SqlitePool,
}

impl SqliteLedger {
    /// A ledger in the file of `pool`.
    #[must_use]
    pub const fn new(pool: SqlitePool) -> Self {
        Self { pool }
    }
}

/// Records a report within a transaction of the caller, who may settle its request in the same one.
pub(crate) async fn record(transaction: &mut SqliteConnection, report: &Report) -> Result<(), sqlx::Error> {
    let body = serde_json::to_string(report).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let at = report.started_at.to_rfc3339();
    let insert = sqlx::query(INSERT_REPORT).bind(&report.id).bind(&report.job).bind(&at).bind(body);
    if insert.execute(&mut *transaction).await?.rows_affected() == 0 {
        return Ok(());
    }
    sqlx::query(TRIM_REPORTS).bind(&report.job).bind(count(REPORTS_MAX)).execute(&mut *transaction).await?;
    if is_success(report) {
        sqlx::query(UPSERT_SUCCESS).bind(&report.job).bind(&at).execute(&mut *transaction).await?;
    }
    Ok(())
}

/// A limit as SQLite takes it.
fn count(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// The error of an operation that was `what`.
fn not(what: &'static str) -> impl Fn(sqlx::Error) -> LedgerError {
    move |error| LedgerError::new(what, error)
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn record(&self, report: &Report) -> Result<(), LedgerError> {
        let recorded = async {
            let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
            record(&mut transaction, report).await?;
            transaction.commit().await
        };
        recorded.await.map_err(not("report not recorded"))
    }

    async fn reports(&self, job: &str, limit: usize) -> Result<Vec<Report>, LedgerError> {
        let ask = sqlx::query_scalar(SELECT_REPORTS).bind(job).bind(count(limit));
        Ok(read_reports(job, &ask.fetch_all(&self.pool).await.map_err(not("reports not read"))?))
    }

    async fn last_success(&self, job: &str) -> Result<Option<DateTime<Utc>>, LedgerError> {
        let ask = sqlx::query_scalar(SELECT_SUCCESS).bind(job).fetch_optional(&self.pool).await;
        let stored: Option<String> = ask.map_err(not("last success not read"))?;
        stored.as_deref().map(read_instant).transpose()
    }

    async fn pause(&self, job: &str) -> Result<bool, LedgerError> {
        let done = sqlx::query(INSERT_PAUSE).bind(job).execute(&self.pool).await;
        Ok(done.map_err(not("job not paused"))?.rows_affected() > 0)
    }

    async fn resume(&self, job: &str) -> Result<bool, LedgerError> {
        let done = sqlx::query(DELETE_PAUSE).bind(job).execute(&self.pool).await;
        Ok(done.map_err(not("job not resumed"))?.rows_affected() > 0)
    }

    async fn is_paused(&self, job: &str) -> Result<bool, LedgerError> {
        let paused: Result<i64, _> = sqlx::query_scalar(SELECT_PAUSE).bind(job).fetch_one(&self.pool).await;
        Ok(paused.map_err(not("pause not read"))? > 0)
    }

    async fn put_backoff(&self, job: &str, item: &str, backoff: &Backoff) -> Result<(), LedgerError> {
        let put = sqlx::query(UPSERT_BACKOFF).bind(job).bind(item).bind(backoff.attempts);
        let done = put.bind(due_millis(backoff.next_at)).execute(&self.pool).await;
        done.map(drop).map_err(not("back-off not recorded"))
    }

    async fn clear_backoff(&self, job: &str, item: &str) -> Result<(), LedgerError> {
        let done = sqlx::query(DELETE_BACKOFF).bind(job).bind(item).execute(&self.pool).await;
        done.map(drop).map_err(not("back-off not cleared"))
    }

    async fn backoffs(&self, job: &str) -> Result<BTreeMap<String, Backoff>, LedgerError> {
        let ask = sqlx::query_as(SELECT_BACKOFFS).bind(job).fetch_all(&self.pool).await;
        let stored: Vec<(String, u32, i64)> = ask.map_err(not("back-offs not read"))?;
        let read = |(item, attempts, due)| Ok((item, Backoff { attempts, next_at: from_millis(due)? }));
        stored.into_iter().map(read).collect()
    }
}
