//! Runs work under a lock that is renewed while it runs and given back however it ends.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use futures::FutureExt;
use tokio_util::sync::CancellationToken;

use super::{Fence, Lock, LockError, LockKey, Token};
use crate::report::chain;

/// How many tenths of the ttl are trusted: the clocks of two machines tick at slightly different speeds.
const TRUSTED_TENTHS: u32 = 9;

/// How long a lock is tried to be given back; after that it lapses.
const RELEASE_MAX: Duration = Duration::from_secs(5);

/// A lock that is held, for as long as it can be trusted.
#[derive(Clone, Debug)]
pub struct Held {
    lease: Lease,
    trust: Arc<Mutex<Trust>>,
}

/// What was asked of which lock by whom, and whether that is over.
#[derive(Clone, Debug)]
struct Lease {
    lock: Arc<dyn Lock>,
    key: LockKey,
    token: Token,
    over: CancellationToken,
}

#[derive(Debug)]
struct Trust {
    fence: Fence,
    until: Instant,
}

impl Held {
    /// The fence, while the lock is trusted. Ask again before each batch.
    ///
    /// # Errors
    /// [`LockError::Lost`] once the lease was lost or given back, or could not be renewed in time.
    pub fn fence(&self) -> Result<Fence, LockError> {
        let trust = self.trust();
        if self.lease.over.is_cancelled() || Instant::now() >= trust.until {
            Err(LockError::Lost(trust.fence))
        } else {
            Ok(trust.fence)
        }
    }

    /// How long the lock is trusted without another renewal: no statement may last longer. Zero once it is lost.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        if self.lease.over.is_cancelled() {
            Duration::ZERO
        } else {
            self.trust().until.saturating_duration_since(Instant::now())
        }
    }

    /// Resolves when the lock is lost, or was given back.
    pub async fn lost(&self) {
        self.lease.over.cancelled().await;
    }

    /// A fence above `above`, for a store that has seen a higher one than ours: Redis was flushed, or a clock was set back.
    ///
    /// # Errors
    /// [`LockError::Lost`] where the lock is not ours any more.
    pub async fn raise(&self, above: u64) -> Result<Fence, LockError> {
        let fence = self.fence()?;
        let Lease { lock, key, token, .. } = &self.lease;
        let raised = lock.raise(key, token, above).await?.ok_or(LockError::Lost(fence))?;
        {
            // Two that raise at once: the greater one is the last that the lock gave.
            let mut trust = self.trust();
            trust.fence = trust.fence.max(raised);
        }
        // The answer may have come after the trust had ended.
        self.fence()
    }

    fn trust(&self) -> MutexGuard<'_, Trust> {
        // The guarded values are plain: a panic elsewhere cannot leave them half written.
        self.trust.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews every third of `ttl` until the lease is over, or can be trusted no longer.
    async fn keep(&self, lock: &dyn Lock, ttl: Duration) {
        let Lease { key, token, over, .. } = &self.lease;
        let mut pause = ttl / 3;
        loop {
            // Biased: once the lock is being given back, a refusal to renew it says nothing.
            tokio::select! {
                biased;
                () = over.cancelled() => return,
                () = tokio::time::sleep(pause.min(self.remaining())) => {}
            }
            let asked = Instant::now();
            let left = self.remaining();
            if left.is_zero() {
                break;
            }
            let renewed = tokio::select! {
                biased;
                () = over.cancelled() => return,
                renewed = tokio::time::timeout(left, lock.renew(key, token, ttl)) => renewed,
            };
            match renewed {
                Ok(Ok(true)) => {
                    self.trust().until = trusted_until(asked, ttl);
                    pause = ttl / 3;
                }
                Ok(Ok(false)) | Err(_) => break,
                Ok(Err(error)) => {
                    tracing::warn!(lock = key.as_str(), error = %chain(&error), "lock not renewed, trying again");
                    pause = ttl / 10;
                }
            }
        }
        tracing::error!(lock = key.as_str(), "lock lost");
    }
}

fn trusted_until(asked: Instant, ttl: Duration) -> Instant {
    asked + ttl / 10 * TRUSTED_TENTHS
}

/// Gives the lock back when it is dropped, on a thread of its own: the runtime may be gone or blocked.
#[derive(Debug)]
struct Release(Option<Lease>);

impl Release {
    async fn now(mut self) {
        if let Some(lease) = &self.0 {
            lease.over.cancel();
            lease.give_back(&*lease.lock).await;
        }
        // Only now: where the wait is dropped on the way, the drop gives it back.
        self.0 = None;
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        let Some(lease) = self.0.take() else { return };
        lease.over.cancel();
        // Joined, so that a process which ends right afterwards has given the lock back.
        let released =
            on_own_thread("janitor-release", move || async move { lease.give_back(&*lease.lock.again()).await });
        if let Ok(thread) = released {
            let _ = thread.join();
        }
    }
}

impl Lease {
    async fn give_back(&self, lock: &dyn Lock) {
        let key = self.key.as_str();
        match tokio::time::timeout(RELEASE_MAX, lock.release(&self.key, &self.token)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => tracing::info!(lock = key, "lock was not ours any more when it was given back"),
            Ok(Err(error)) => {
                tracing::warn!(lock = key, error = %chain(&error), "lock not given back, it will lapse");
            }
            Err(_) => tracing::warn!(lock = key, "lock not given back in time, it will lapse"),
        }
    }
}

/// Starts a thread with a runtime of its own, which nothing in the caller's runtime can starve.
fn on_own_thread<F: Future<Output = ()>>(
    name: &str,
    work: impl FnOnce() -> F + Send + 'static,
) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                runtime.block_on(work());
                // Not to wait for what may hang, such as the resolution of a name.
                runtime.shutdown_background();
            }
            Err(error) => tracing::error!(%error, "no runtime for the lock"),
        }
    })
}

/// Runs `work` under the lock, or answers `None` where somebody else holds it.
///
/// The lock is renewed every third of `ttl`, and given back when `work` returns, fails, panics or is dropped. Work asks
/// [`Held::fence`] before each batch and stops where that fails.
///
/// ```
/// use std::{sync::Arc, time::Duration};
/// use apalis_janitor::lock::{self, LockKey, memory::MemoryLock};
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let (lock, key, ttl) = (Arc::new(MemoryLock::default()), LockKey::job("demo"), Duration::from_secs(30));
/// let answer = lock::with(lock, &key, ttl, |held| async move { held.fence().is_ok() }).await;
/// assert_eq!(answer.unwrap(), Some(true));
/// # });
/// ```
///
/// # Errors
/// [`LockError::Unavailable`] where the lock's service does not answer: then nothing ran.
///
/// # Panics
/// Where `work` panics, after the lock was given back.
pub async fn with<T, W, F>(lock: Arc<dyn Lock>, key: &LockKey, ttl: Duration, work: W) -> Result<Option<T>, LockError>
where
    W: FnOnce(Held) -> F,
    F: Future<Output = T>,
{
    let lease = Lease { lock, key: key.clone(), token: Token::random(), over: CancellationToken::new() };
    // From here on: who is dropped while it asks may have been granted the lock.
    let mut release = Release(Some(lease.clone()));
    let asked = Instant::now();
    let granted = lease.lock.acquire(key, &lease.token, ttl).await;
    let Ok(Some(fence)) = granted else {
        // Nothing to give back, or nobody who would take it: what a lost answer granted lapses.
        release.0 = None;
        return granted.map(|_| None);
    };
    let trust = Arc::new(Mutex::new(Trust { fence, until: trusted_until(asked, ttl) }));
    let held = Held { lease, trust };
    let keeper = held.clone();
    // The guard ends the trust however the thread ends, and even where it never ran.
    let over = held.lease.over.clone().drop_guard();
    on_own_thread("janitor-lock", move || async move {
        let _over = over;
        keeper.keep(&*keeper.lease.lock.again(), ttl).await;
    })
    .map_err(LockError::unavailable)?;
    let outcome = AssertUnwindSafe(work(held)).catch_unwind().await;
    release.now().await;
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
