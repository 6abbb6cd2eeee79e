//! Jobs: fetch a page, decide, act, until everything is seen or a limit comes first.

pub mod disk;
pub mod families;
pub mod orphans;
pub mod pace;
pub mod retention;
pub mod volumes;
mod walk;

use std::{borrow::Cow, future::Future, time::Duration};

use chrono::{DateTime, Utc};

use crate::{
    blobs::BlobError,
    ledger::LedgerError,
    lock::{Fence, Held, LockError},
    report::{Counts, FAILURES_MAX, Failure, chain, short},
    runs::StoreError,
    volumes::{EngineError, MarksError},
};

pub use walk::{Limits, Stopped, walk};

/// Sees what an execution plans and deletes, as it happens.
pub trait Watch: Send + Sync {
    /// A thing was planned (dry run) or is deleted for good (apply).
    fn item(&self, _id: &str) {}

    /// So many things have been planned and deleted since the start.
    fn progress(&self, _planned: u64, _deleted: u64) {}
}

/// Sees nothing.
impl Watch for () {}

/// What one execution may narrow or be allowed, beside what the configuration says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Narrow {
    /// Only what is older than this instant too: a cutoff can become earlier, never later.
    pub before: Option<DateTime<Utc>>,
    /// More may go than the fuse of a job lets pass.
    pub allow_mass_delete: bool,
    /// Objects and catalog are compared, though the time for it has not come.
    pub inventory: bool,
}

/// What an execution may do. To delete is to hold the lock; there is no third way.
#[derive(Clone, Copy, Debug)]
pub enum Leave<'a> {
    /// Plan only.
    DryRun,
    /// Plan and delete, while the lock is trusted.
    Apply(&'a Held),
}

/// Why a job ended before its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// A store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A blob store did not do it.
    #[error(transparent)]
    Blobs(BlobError),
    /// The folder of this host cannot be worked in.
    #[error(transparent)]
    Disk(Box<crate::host::RootError>),
    /// A container engine did not do it.
    #[error(transparent)]
    Engine(Box<EngineError>),
    /// A table of threads did not do it.
    #[error(transparent)]
    Marks(Box<MarksError>),
    /// The ledger did not answer.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// What is left would take longer than the lock is sure to be held.
    #[error("the target is slow: the rest is left for the next time")]
    Slow,
    /// The job was switched off on the way.
    #[error("switched off on the way")]
    Off,
    /// The lock was lost.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A guard said no.
    #[error("{0}")]
    Refused(String),
}

impl From<BlobError> for JobError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Refused(why) => Self::Refused(why),
            error => Self::Blobs(error),
        }
    }
}

impl From<EngineError> for JobError {
    fn from(error: EngineError) -> Self {
        Self::Engine(Box::new(error))
    }
}

impl From<MarksError> for JobError {
    fn from(error: MarksError) -> Self {
        Self::Marks(Box::new(error))
    }
}

/// What a job counts on its way; it becomes the report.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// What was planned.
    pub planned: Counts,
    /// What was deleted.
    pub deleted: Counts,
    /// What stayed, by reason.
    pub kept: Counts,
    /// How many bytes came free.
    pub bytes_freed: u64,
    /// How many batches were executed.
    pub batches: u64,
    /// What could not be deleted, [`FAILURES_MAX`] at most.
    pub failures: Vec<Failure>,
    /// How many could not be deleted.
    pub failed: u64,
}

impl Tally {
    /// Counts an item that could not be deleted.
    pub fn fail(&mut self, item: &str, error: &dyn std::error::Error) {
        self.failed += 1;
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(Failure { item: short(item.to_owned()), error: chain(error) });
        }
    }
}

/// A kind of upkeep: say what would go, then make it go.
///
/// A dry run is a run that stops after `plan`.
pub trait Job: Send {
    /// One thing that would go.
    type Item: Send + Sync;

    /// The word that counts and progress use for the items, such as `runs`.
    const UNIT: &'static str;

    /// The name that a list shows.
    fn id(item: &Self::Item) -> Cow<'_, str>;

    /// Guards: whether the target may be touched at all, and under which fence.
    fn prepare(&mut self, leave: Leave<'_>, tally: &mut Tally) -> impl Future<Output = Result<(), JobError>> + Send;

    /// The next things that may go, having looked at about `limit`; `None` after the last. Never writes.
    fn plan(
        &mut self,
        leave: Leave<'_>,
        limit: usize,
        tally: &mut Tally,
    ) -> impl Future<Output = Result<Option<Vec<Self::Item>>, JobError>> + Send;

    /// Deletes `items` that still are as they were planned, within `limit`; answers the names of those that went.
    fn execute(
        &mut self,
        fence: Fence,
        items: &[Self::Item],
        limit: Duration,
        tally: &mut Tally,
    ) -> impl Future<Output = Result<Vec<String>, JobError>> + Send;

    /// A step of what is counted but not listed; `false` after the last.
    fn rest(
        &mut self,
        leave: Leave<'_>,
        limit: Duration,
        tally: &mut Tally,
    ) -> impl Future<Output = Result<bool, JobError>> + Send;
}
