//! Our own tables, and the fence of each job in one of them.
//!
//! The fence is raised by a conditional write, which is safe. A delete can only read it beforehand, agreed on by the
//! replicas: what a holder has sent by then still happens after a newer one has raised the fence. The condition of each
//! run's delete holds all the same, so that a stale holder can delete what was due anyway, and nothing else.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{CassandraStore, NAME, cql::Failed};
use crate::{lock::Fence, runs::StoreError};

pub(super) const FENCES: &str = "janitor_fence";
pub(super) const MARKERS: &str = "janitor_marker";

/// The statements that make our tables. A marker that comes back from the dead does no harm, so that what is left of
/// markers need not be kept for days.
pub(super) const CREATE: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS janitor_fence (job text PRIMARY KEY, fence bigint)",
    "CREATE TABLE IF NOT EXISTS janitor_marker (id text PRIMARY KEY, job text, made_at timestamp, runs text) \
     WITH gc_grace_seconds = 10800",
];

/// Whether our tables are there.
#[derive(Debug)]
pub(super) struct Own(AtomicBool);

impl Own {
    pub(super) const fn new(are_there: bool) -> Self {
        Self(AtomicBool::new(are_there))
    }

    pub(super) fn are_there(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl CassandraStore {
    /// Sets the job's fence, which must grow; makes our tables.
    pub(super) async fn raise_fence(&self, job: &str, fence: Fence) -> Result<(), StoreError> {
        self.make_tables().await?;
        let number = i64::try_from(fence.get()).unwrap_or(i64::MAX);
        let raise = "UPDATE janitor_fence SET fence = ? WHERE job = ? IF fence < ?";
        let first = "INSERT INTO janitor_fence (job, fence) VALUES (?, ?) IF NOT EXISTS";
        if self.cql.apply(first, (job, number)).await? || self.cql.apply(raise, (number, job, number)).await? {
            return Ok(());
        }
        Err(StoreError::Fenced { store: NAME, fence, highest: self.seen_fence(job).await? })
    }

    async fn make_tables(&self) -> Result<(), StoreError> {
        if self.own.are_there() {
            return Ok(());
        }
        for text in CREATE {
            self.cql.define(text).await.map_err(|failed| match failed {
                // Say what the tables are, so that their absence can be mended by hand.
                Failed::Forbidden(what) => StoreError::unavailable(
                    NAME,
                    format!("{what} (a real run needs tables of its own: {})", CREATE.join("; ")),
                ),
                other => other.error(),
            })?;
        }
        self.own.0.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Refuses a fence that is not the one that the store has seen last.
    pub(super) async fn guard_fence(&self, job: &str, fence: Fence) -> Result<(), StoreError> {
        let highest = self.seen_fence(job).await?;
        if highest == fence.get() { Ok(()) } else { Err(StoreError::Fenced { store: NAME, fence, highest }) }
    }

    /// The highest fence that the store has seen of `job`; 0 where it has seen none.
    async fn seen_fence(&self, job: &str) -> Result<u64, StoreError> {
        if !self.own.are_there() {
            return Ok(0);
        }
        let text = "SELECT fence FROM janitor_fence WHERE job = ?";
        let row: Option<(Option<i64>,)> = self.cql.read_agreed(text, (job,)).await?;
        Ok(row.and_then(|(fence,)| u64::try_from(fence?).ok()).unwrap_or(0))
    }
}
