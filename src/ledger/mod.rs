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

use crate::report::Report;

/// The most reports that are kept of one job; older ones go.
pub const REPORTS_MAX: usize = 1_000;

/// The ledger did not answer, or holds what cannot be read.
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

/// What is remembered between executions. Each answer keeps the promises of the suite in `ledger::conformance`.
#[async_trait]
pub trait Ledger: Send + Sync + Debug {
    /// Remembers a report. The same id twice is one report.
    async fn record(&self, report: &Report) -> Result<(), LedgerError>;

    /// The `limit` newest reports of `job`, newest first.
    async fn reports(&self, job: &str, limit: usize) -> Result<Vec<Report>, LedgerError>;

    /// When `job` last ended `done` in mode apply; kept even when its report has gone.
    async fn last_success(&self, job: &str) -> Result<Option<DateTime<Utc>>, LedgerError>;

    /// Pauses `job`; `false` where it was paused already.
    async fn pause(&self, job: &str) -> Result<bool, LedgerError>;

    /// Ends the pause of `job`; `false` where it was not paused.
    async fn resume(&self, job: &str) -> Result<bool, LedgerError>;

    /// Whether `job` is paused.
    async fn is_paused(&self, job: &str) -> Result<bool, LedgerError>;

    /// Remembers that `item` of `job` failed and is not due before `backoff.next_at`.
    async fn put_backoff(&self, job: &str, item: &str, backoff: &Backoff) -> Result<(), LedgerError>;

    /// Forgets the back-off of `item`.
    async fn clear_backoff(&self, job: &str, item: &str) -> Result<(), LedgerError>;

    /// The back-off of `item`, if it has one.
    async fn backoff(&self, job: &str, item: &str) -> Result<Option<Backoff>, LedgerError>;

    /// Up to `limit` items of `job` that are due at `now`, the longest due first.
    async fn due(&self, job: &str, now: DateTime<Utc>, limit: usize) -> Result<Vec<String>, LedgerError>;
}
