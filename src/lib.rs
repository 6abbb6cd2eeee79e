//! Retention and orphan sweeps for task-queue clusters, as an apalis worker.

pub mod beat;
pub mod clock;
pub mod config;
mod connect;
#[cfg(feature = "sqlite")]
pub mod embedded;
mod execute;
mod janitor;
pub mod jobs;
pub mod ledger;
#[cfg(feature = "redis")]
pub mod link;
pub mod lock;
pub mod metrics;
pub mod queue;
pub mod report;
pub mod runs;
pub mod worker;

pub use connect::ConnectError;
pub use execute::{Ask, Ended, Next};
pub use janitor::{Janitor, RunError, UnknownJob};
pub use worker::{handle, run_worker};
