//! A lock for one process, which forgets with it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;

use super::{Fence, Lock, LockError, LockKey, Token, next_fence};
use crate::clock::{Clock, SystemClock};

/// A lock that is kept in memory. A clone is the same lock.
///
/// ```
/// use std::time::Duration;
/// use apalis_janitor::lock::{Lock, LockKey, Token, memory::MemoryLock};
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let (lock, key, ttl) = (MemoryLock::default(), LockKey::job("demo"), Duration::from_secs(30));
/// assert!(lock.acquire(&key, &Token::random(), ttl).await.unwrap().is_some());
/// assert!(lock.acquire(&key, &Token::random(), ttl).await.unwrap().is_none());
/// # });
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryLock(Arc<Mutex<HashMap<LockKey, Entry>>>);

#[derive(Debug, Default)]
struct Entry {
    last: u64,
    lease: Option<Lease>,
}

#[derive(Debug)]
struct Lease {
    token: Token,
    until: Instant,
}

impl Entry {
    /// The lease, unless it has lapsed.
    fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref().filter(|lease| Instant::now() < lease.until)
    }

    fn is_held_by(&self, token: &Token) -> bool {
        self.lease().is_some_and(|lease| lease.token == *token)
    }

    fn next(&mut self, above: u64) -> Fence {
        self.last = next_fence(self.last.max(above), SystemClock.now());
        Fence::new(self.last)
    }
}

impl MemoryLock {
    fn entries(&self) -> MutexGuard<'_, HashMap<LockKey, Entry>> {
        // The guarded values are plain: a panic elsewhere cannot leave them half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Lock for MemoryLock {
    async fn acquire(&self, key: &LockKey, token: &Token, ttl: Duration) -> Result<Option<Fence>, LockError> {
        let mut entries = self.entries();
        let entry = entries.entry(key.clone()).or_default();
        if entry.lease().is_some() {
            return Ok(None);
        }
        entry.lease = Some(Lease { token: token.clone(), until: Instant::now() + ttl });
        Ok(Some(entry.next(0)))
    }

    async fn renew(&self, key: &LockKey, token: &Token, ttl: Duration) -> Result<bool, LockError> {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(key).filter(|entry| entry.is_held_by(token)) else { return Ok(false) };
        entry.lease = Some(Lease { token: token.clone(), until: Instant::now() + ttl });
        Ok(true)
    }

    async fn raise(&self, key: &LockKey, token: &Token, above: u64) -> Result<Option<Fence>, LockError> {
        super::check_above(above)?;
        let mut entries = self.entries();
        let ours = entries.get_mut(key).filter(|entry| entry.is_held_by(token));
        Ok(ours.map(|entry| entry.next(above)))
    }

    async fn release(&self, key: &LockKey, token: &Token) -> Result<bool, LockError> {
        let mut entries = self.entries();
        let ours = entries.get_mut(key).filter(|entry| entry.is_held_by(token));
        Ok(ours.is_some_and(|entry| entry.lease.take().is_some()))
    }

    async fn unlock(&self, key: &LockKey) -> Result<bool, LockError> {
        let mut entries = self.entries();
        let held = entries.get_mut(key).filter(|entry| entry.lease().is_some());
        Ok(held.is_some_and(|entry| entry.lease.take().is_some()))
    }

    async fn held_for(&self, key: &LockKey) -> Result<Option<Duration>, LockError> {
        let entries = self.entries();
        let lease = entries.get(key).and_then(Entry::lease);
        Ok(lease.map(|lease| lease.until.saturating_duration_since(Instant::now())))
    }

    fn again(&self) -> Arc<dyn Lock> {
        Arc::new(self.clone())
    }
}
