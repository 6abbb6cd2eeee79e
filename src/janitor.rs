//! The one place where every way in ends: a beat's tick, a manual request, `janitor run` and a user's own worker.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::{
    clock::{Clock, SystemClock},
    config::Config,
    jobs::{Narrow, Watch},
    ledger::Ledger,
    lock::Lock,
    queue::{Enqueued, Queue, QueueError, Request},
    report::{Mode, Report},
};

/// The configured jobs with their queue, lock and ledger. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Janitor(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    config: Config,
    queue: Arc<dyn Queue>,
    lock: Arc<dyn Lock>,
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
}

/// One execution that is asked for.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// The job, the mode and the tick.
    pub request: &'a Request,
    /// Which delivery of the request this is, from 1. Above 1 the lock is waited for: the dead worker's may outlive its lease.
    pub attempt: u32,
    /// What narrows it.
    pub narrow: Narrow,
    /// Who sees what happens.
    pub watch: &'a dyn Watch,
    /// Cancelled: stop after the batch in hand.
    pub stop: &'a CancellationToken,
}

/// What is to become of the request after an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is settled: this report is final.
    Settle,
    /// The job could not run (store unreachable, a failed precondition): deliver it again, after a pause.
    Retry,
    /// It was stopped on the way: hand it back, another worker goes on.
    HandBack,
}

/// One execution that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What it did.
    pub report: Report,
    /// What is to become of the request.
    pub next: Next,
}

/// No job of that name is configured here.
#[derive(Debug, thiserror::Error)]
#[error("no job named {name:?} in the configuration; it has {known}")]
pub struct UnknownJob {
    /// The name that was asked for.
    pub name: String,
    /// The names that there are.
    pub known: String,
}

impl Janitor {
    /// A janitor over these parts, which a test may choose.
    #[must_use]
    pub fn over(
        config: Config,
        queue: Arc<dyn Queue>,
        lock: Arc<dyn Lock>,
        ledger: Arc<dyn Ledger>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self(Arc::new(Parts { config, queue, lock, ledger, clock }))
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The queue.
    #[must_use]
    pub fn queue(&self) -> &Arc<dyn Queue> {
        &self.0.queue
    }

    /// The lock.
    #[must_use]
    pub fn lock(&self) -> &Arc<dyn Lock> {
        &self.0.lock
    }

    /// The ledger.
    #[must_use]
    pub fn ledger(&self) -> &Arc<dyn Ledger> {
        &self.0.ledger
    }

    /// The clock.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    /// Executes a job, here and now. It is neither settled nor recorded: that is the caller's.
    pub async fn execute(&self, ask: Ask<'_>) -> Result<Ended, UnknownJob> {
        let _ = (ask, SystemClock);
        Err(UnknownJob { name: String::new(), known: String::new() })
    }

    /// Puts a request for `job` on the queue.
    pub async fn enqueue(&self, job: &str, mode: Mode) -> Result<Enqueued, QueueError> {
        self.queue().enqueue(&Request { job: job.to_owned(), mode, tick: None }, None).await
    }
}
