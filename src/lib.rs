//! Retention and orphan sweeps for task-queue clusters, as an apalis worker.

pub mod beat;
pub mod clock;
pub mod config;
#[cfg(feature = "sqlite")]
pub mod embedded;
mod janitor;
pub mod jobs;
pub mod ledger;
#[cfg(feature = "redis")]
pub mod link;
pub mod lock;
pub mod metrics;
pub mod queue;
pub mod report;
pub mod worker;

pub use janitor::{Ask, Ended, Janitor, Next, UnknownJob};
pub use worker::{handle, run_worker};
