//! A singleton lock: fenced, renewed while held, released on success, error, panic and cancel.
//!
//! # Trust
//! A lease is trusted until (start of the last good renewal + ttl − margin) on a monotonic clock, so a holder stops
//! before anybody else can begin, even where the lock's service cannot be reached. The renewal runs on a thread of its
//! own, with a connection of its own: a job that blocks every thread of the runtime cannot starve it.
//!
//! # Fences
//! Each grant carries a number greater than every one before it. Stores remember the highest they have seen and refuse
//! a lower one, so a holder that was stopped and thawed deletes nothing.

#[cfg(feature = "test-util")]
pub mod conformance;
pub mod memory;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod with;

use std::{
    fmt::{self, Debug, Display},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

pub use with::{Held, with};

/// What one lock protects: a job's name, or `job@host`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LockKey(String);

impl LockKey {
    /// The lock of a job that runs once in a cluster.
    #[must_use]
    pub fn job(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The lock of a job that runs once on each host.
    #[must_use]
    pub fn of_host(job: &str, host: &str) -> Self {
        Self(format!("{job}@{host}"))
    }

    /// The text of the key, without the namespace.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who took a lock: 128 random bits, as hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Token(String);

impl Token {
    /// A token that nobody else has.
    #[must_use]
    pub fn random() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()))
    }

    /// The text that is stored as the lock's value.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Proof that a lock was won; a later holder's fence is always greater.
///
/// Every destructive call takes a `Fence`, and only this module makes one, so nothing can be deleted by code that never
/// took the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fence(u64);

impl Fence {
    /// The number that a store compares.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    pub(in crate::lock) const fn new(number: u64) -> Self {
        Self(number)
    }

    /// A fence with no lock behind it.
    #[cfg(feature = "test-util")]
    #[must_use]
    pub const fn for_test(number: u64) -> Self {
        Self(number)
    }
}

impl Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.0, f)
    }
}

/// Why a lock could not be had or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// The lock's service did not answer. That never means that the lock is free.
    #[error("lock: unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Another worker holds the lock now, or may.
    #[error("lock: lost after fence {0}")]
    Lost(Fence),
    /// A store claims to have seen a fence that no lock can have given.
    #[error("lock: no fence above {0} can be made")]
    Ceiling(u64),
}

impl LockError {
    /// The service did not answer, because of `source`.
    pub fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable(source.into())
    }
}

/// Beyond this no fence is raised: every answer must be able to count on from it (Redis' scripts count exactly to 2^53).
const RAISE_MAX: u64 = 1 << 52;

/// Whether a fence above `above` can be made.
fn check_above(above: u64) -> Result<(), LockError> {
    if above < RAISE_MAX { Ok(()) } else { Err(LockError::Ceiling(above)) }
}

/// The fence after `last`, given the clock: a lock that forgot its last fence still gives a greater one.
fn next_fence(last: u64, now: DateTime<Utc>) -> u64 {
    u64::try_from(now.timestamp_millis()).unwrap_or(0).max(last + 1)
}

/// What a service is told of a ttl: whole milliseconds, never 0.
#[cfg(any(feature = "redis", feature = "sqlite"))]
fn ttl_millis(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX).max(1)
}

/// A service that grants one holder a key. Each answer keeps the promises of the suite in `lock::conformance`.
#[async_trait]
pub trait Lock: Send + Sync + Debug {
    /// Takes the lock for `ttl`, or answers `None` where somebody holds it.
    ///
    /// The fence is `max(last + 1, the service's clock in milliseconds)`, so that it grows even after a flush.
    async fn acquire(&self, key: &LockKey, token: &Token, ttl: Duration) -> Result<Option<Fence>, LockError>;

    /// Makes the lock last `ttl` from now; `false` where it is no longer ours.
    async fn renew(&self, key: &LockKey, token: &Token, ttl: Duration) -> Result<bool, LockError>;

    /// Gives a fence above both `above` and the last one; `None` where the lock is no longer ours.
    ///
    /// # Errors
    /// [`LockError::Ceiling`] where `above` is so great that nothing but a mistake can have written it.
    async fn raise(&self, key: &LockKey, token: &Token, above: u64) -> Result<Option<Fence>, LockError>;

    /// Gives the lock back; `false` where it was no longer ours, and then nothing changes.
    async fn release(&self, key: &LockKey, token: &Token) -> Result<bool, LockError>;

    /// Takes the lock from whoever holds it; `false` where it was free. The fence goes on growing.
    async fn unlock(&self, key: &LockKey) -> Result<bool, LockError>;

    /// How long the present holder's lease still lasts; `None` where the lock is free.
    async fn held_for(&self, key: &LockKey) -> Result<Option<Duration>, LockError>;

    /// The same lock over connections that share nothing with this one's, for a runtime of its own.
    fn again(&self) -> Arc<dyn Lock>;
}
