//! A ledger for one process, which forgets with it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{Backoff, Ledger, LedgerError, REPORTS_MAX, due_millis, from_millis, is_success};
use crate::report::Report;

/// A ledger that is kept in memory. A clone is the same ledger.
///
/// ```
/// use apalis_janitor::ledger::{Ledger, memory::MemoryLedger};
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let ledger = MemoryLedger::default();
/// assert!(ledger.pause("demo").await.unwrap());
/// assert!(ledger.is_paused("demo").await.unwrap());
/// # });
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryLedger(Arc<Mutex<Books>>);

#[derive(Debug, Default)]
struct Books {
    /// Newest first.
    reports: BTreeMap<String, VecDeque<Report>>,
    successes: BTreeMap<String, DateTime<Utc>>,
    paused: BTreeSet<String>,
    /// By job, then by item.
    backoffs: BTreeMap<String, BTreeMap<String, Backoff>>,
}

impl MemoryLedger {
    fn books(&self) -> MutexGuard<'_, Books> {
        // Each operation is one step that cannot panic half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn record(&self, report: &Report) -> Result<(), LedgerError> {
        let mut books = self.books();
        let reports = books.reports.entry(report.job.clone()).or_default();
        if reports.iter().any(|known| known.id == report.id) {
            return Ok(());
        }
        reports.push_front(report.clone());
        reports.truncate(REPORTS_MAX);
        if is_success(report) {
            books.successes.insert(report.job.clone(), report.started_at);
        }
        Ok(())
    }

    async fn reports(&self, job: &str, limit: usize) -> Result<Vec<Report>, LedgerError> {
        Ok(self.books().reports.get(job).into_iter().flatten().take(limit).cloned().collect())
    }

    async fn last_success(&self, job: &str) -> Result<Option<DateTime<Utc>>, LedgerError> {
        Ok(self.books().successes.get(job).copied())
    }

    async fn pause(&self, job: &str) -> Result<bool, LedgerError> {
        Ok(self.books().paused.insert(job.to_owned()))
    }

    async fn resume(&self, job: &str) -> Result<bool, LedgerError> {
        Ok(self.books().paused.remove(job))
    }

    async fn is_paused(&self, job: &str) -> Result<bool, LedgerError> {
        Ok(self.books().paused.contains(job))
    }

    async fn put_backoff(&self, job: &str, item: &str, backoff: &Backoff) -> Result<(), LedgerError> {
        let kept = Backoff { attempts: backoff.attempts, next_at: from_millis(due_millis(backoff.next_at))? };
        self.books().backoffs.entry(job.to_owned()).or_default().insert(item.to_owned(), kept);
        Ok(())
    }

    async fn clear_backoff(&self, job: &str, item: &str) -> Result<(), LedgerError> {
        if let Some(of_job) = self.books().backoffs.get_mut(job) {
            of_job.remove(item);
        }
        Ok(())
    }

    async fn backoffs(&self, job: &str) -> Result<BTreeMap<String, Backoff>, LedgerError> {
        Ok(self.books().backoffs.get(job).cloned().unwrap_or_default())
    }
}
