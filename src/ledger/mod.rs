//! What is remembered between executions: reports, pauses, and the back-off of single items.

#[cfg(feature = "test-util")]
pub mod conformance;
pub mod memory;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "sqlite")]
pub mod sqlite;

use std::fmt::Debug;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::report::{Mode, Outcome, Report};

/// The most reports that are kept of one job; older ones go.
pub const REPORTS_MAX: usize = 1_000;

/// The ledger did not answer, or holds what cannot be read.
///
/// ```
/// use apalis_janitor::ledger::LedgerError;
/// assert_eq!(LedgerError::new("report not recorded", "disk full").to_string(), "ledger: report not recorded");
/// ```
#[derive(Debug, thiserror::Error)]
#[error("ledger: {what}")]
pub struct LedgerError {
    what: &'static str,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl LedgerError {
    /// `what` went wrong, because of `source`.
    pub fn new(what: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { what, source: source.into() }
    }
}

/// When an item that failed may be tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// How often it has failed in a row.
    pub attempts: u32,
    /// Not before this instant.
    pub next_at: DateTime<Utc>,
}

/// Whether a report is one of those that [`Ledger::last_success`] tells of.
pub(crate) fn is_success(report: &Report) -> bool {
    report.outcome == Outcome::Done && report.mode == Mode::Apply
}

/// The first whole millisecond that is not before `at`: nothing may be due too early.
fn due_millis(at: DateTime<Utc>) -> i64 {
    at.timestamp_millis() + i64::from(!at.timestamp_subsec_nanos().is_multiple_of(1_000_000))
}

fn from_millis(millis: i64) -> Result<DateTime<Utc>, LedgerError> {
    DateTime::from_timestamp_millis(millis)
        .ok_or_else(|| LedgerError::new("unreadable back-off", format!("{millis} ms are no instant")))
}

/// An instant as the SQL and Redis ledgers keep it.
#[cfg(any(feature = "redis", feature = "sqlite"))]
fn read_instant(text: &str) -> Result<DateTime<Utc>, LedgerError> {
    let instant = DateTime::parse_from_rfc3339(text)
        .map_err(|error| LedgerError::new("unreadable last success", format!("{text:?}: {error}")))?;
    Ok(instant.to_utc())
}

/// The reports that can be read. One that cannot must not hide the others for ever: it is named in the log.
#[cfg(any(feature = "redis", feature = "sqlite"))]
fn read_reports(job: &str, stored: &[String]) -> Vec<Report> {
    let read = |text: &String| {
        serde_json::from_str(text)
            .inspect_err(|error| {
                let start: String = text.chars().take(80).collect();
                tracing::warn!(job, %error, report = start, "ledger: unreadable report left out");
            })
            .ok()
    };
    stored.iter().filter_map(read).collect()
}

/// What is remembered between executions. Each answer keeps the promises of the suite in `ledger::conformance`.
#[async_trait]
pub trait Ledger: Send + Sync + Debug {
    /// Remembers a report. The same id twice is one report: the first.
    async fn record(&self, report: &Report) -> Result<(), LedgerError>;

    /// The `limit` newest reports of `job`, newest first. One that cannot be read is left out, and named in the log.
    async fn reports(&self, job: &str, limit: usize) -> Result<Vec<Report>, LedgerError>;

    /// When the execution of `job` began that last ended `done` in mode apply; kept even when its report has gone.
    async fn last_success(&self, job: &str) -> Result<Option<DateTime<Utc>>, LedgerError>;

    /// Pauses `job`; `false` where it was paused already.
    async fn pause(&self, job: &str) -> Result<bool, LedgerError>;

    /// Ends the pause of `job`; `false` where it was not paused.
    async fn resume(&self, job: &str) -> Result<bool, LedgerError>;

    /// Whether `job` is paused.
    async fn is_paused(&self, job: &str) -> Result<bool, LedgerError>;

    /// Remembers that `item` of `job` failed and is not due before `backoff.next_at`, which is kept to the
    /// millisecond, rounded up.
    async fn put_backoff(&self, job: &str, item: &str, backoff: &Backoff) -> Result<(), LedgerError>;

    /// Forgets the back-off of `item`.
    async fn clear_backoff(&self, job: &str, item: &str) -> Result<(), LedgerError>;

    /// The back-off of `item`, if it has one.
    async fn backoff(&self, job: &str, item: &str) -> Result<Option<Backoff>, LedgerError>;

    /// Up to `limit` items of `job` that are due at `now`, the longest due first, those of one instant by name.
    async fn due(&self, job: &str, now: DateTime<Utc>, limit: usize) -> Result<Vec<String>, LedgerError>;
}
