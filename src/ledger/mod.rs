//! What is remembered between executions: reports, pauses, and the back-off of single items.

#[cfg(feature = "test-util")]
pub mod conformance;
pub mod memory;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "sqlite")]
pub mod sqlite;

use std::{collections::BTreeMap, fmt::Debug};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};

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

/// How long an item waits after its first failure; each one more doubles it.
const GAP_MIN: TimeDelta = TimeDelta::minutes(1);
/// The longest that it waits.
const GAP_MAX: TimeDelta = TimeDelta::hours(1);

impl Backoff {
    /// The back-off after one more failure, at `now`: 1 min, 2 min, 4 min and so on, up to 1 h.
    ///
    /// ```
    /// use apalis_janitor::ledger::Backoff;
    /// use chrono::{DateTime, TimeDelta};
    /// let first = Backoff::after(None, DateTime::UNIX_EPOCH);
    /// let second = Backoff::after(Some(&first), first.next_at);
    /// assert_eq!((second.attempts, second.next_at), (2, first.next_at + TimeDelta::minutes(2)));
    /// ```
    #[must_use]
    pub fn after(previous: Option<&Self>, now: DateTime<Utc>) -> Self {
        let failed = previous.map_or(0, |previous| previous.attempts);
        // From the seventh failure on it is the most.
        let gap = (GAP_MIN * (1 << failed.min(6))).min(GAP_MAX);
        Self { attempts: failed.saturating_add(1), next_at: now + gap }
    }
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

    /// The items of `job` that failed, each with its back-off.
    async fn backoffs(&self, job: &str) -> Result<BTreeMap<String, Backoff>, LedgerError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_that_fails_again_waits_twice_as_long_up_to_an_hour() {
        let now = DateTime::UNIX_EPOCH;
        let mut last: Option<Backoff> = None;
        for (attempts, minutes) in (1..).zip([1, 2, 4, 8, 16, 32, 60, 60]) {
            let next = Backoff::after(last.as_ref(), now);
            assert_eq!(next, Backoff { attempts, next_at: now + TimeDelta::minutes(minutes) });
            last = Some(next);
        }
        let most = Backoff { attempts: u32::MAX, next_at: now };
        assert_eq!(Backoff::after(Some(&most), now), Backoff { next_at: now + TimeDelta::hours(1), ..most });
    }
}
