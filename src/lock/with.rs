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

/// The share of the ttl by which trust ends before the lease does: clocks of two machines tick at slightly different speeds.
const MARGIN: u32 = 10;

/// A lock that is held, for as long as it can be trusted.
#[derive(Clone, Debug)]
pub struct Held {
    lock: Arc<dyn Lock>,
    key: LockKey,
    token: Token,
    trust: Arc<Mutex<Trust>>,
    lost: CancellationToken,
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
    /// [`LockError::Lost`] once the lease was lost, or could not be renewed in time.
    pub fn fence(&self) -> Result<Fence, LockError> {
        let trust = self.trust();
        if self.lost.is_cancelled() || Instant::now() >= trust.until {
            Err(LockError::Lost(trust.fence))
        } else {
            Ok(trust.fence)
        }
    }

    /// How long the lock is trusted without another renewal: no statement may last longer. Zero once it is lost.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        if self.lost.is_cancelled() {
            Duration::ZERO
        } else {
            self.trust().until.saturating_duration_since(Instant::now())
        }
    }

    /// Resolves when the lock is lost.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// A fence above `above`, for a store that has seen a higher one than ours: Redis was flushed, or a clock was set back.
    ///
    /// # Errors
    /// [`LockError::Lost`] where the lock is not ours any more.
    pub async fn raise(&self, above: u64) -> Result<Fence, LockError> {
        let fence = self.fence()?;
        let raised = self.lock.raise(&self.key, &self.token, above).await?.ok_or(LockError::Lost(fence))?;
        self.trust().fence = raised;
        Ok(raised)
    }

    fn trust(&self) -> MutexGuard<'_, Trust> {
        // The guarded values are plain: a panic elsewhere cannot leave them half written.
        self.trust.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews every third of `ttl` until `done`, and says so when the lease is lost.
    async fn keep(&self, lock: &dyn Lock, ttl: Duration, done: &CancellationToken) {
        let mut pause = ttl / 3;
        loop {
            tokio::select! { () = tokio::time::sleep(pause) => {} () = done.cancelled() => return }
            let asked = Instant::now();
            let left = self.remaining();
            let renewed = tokio::select! {
                renewed = tokio::time::timeout(left, lock.renew(&self.key, &self.token, ttl)) => renewed,
                () = done.cancelled() => return,
            };
            match renewed {
                Ok(Ok(true)) => {
                    self.trust().until = trusted_until(asked, ttl);
                    pause = ttl / 3;
                }
                Ok(Ok(false)) | Err(_) => break,
                Ok(Err(error)) => {
                    tracing::warn!(lock = self.key.as_str(), error = %crate::report::chain(&error), "lock not renewed, trying again");
                    pause = (ttl / 10).min(self.remaining());
                }
            }
        }
        tracing::error!(lock = self.key.as_str(), "lock lost");
        self.lost.cancel();
    }
}

fn trusted_until(asked: Instant, ttl: Duration) -> Instant {
    asked + ttl - ttl / MARGIN
}

/// Gives the lock back when it is dropped, on a thread of its own: the runtime may be gone or blocked.
#[derive(Debug)]
struct Release {
    held: Option<Held>,
    done: CancellationToken,
}

impl Release {
    async fn now(mut self) {
        self.done.cancel();
        if let Some(held) = self.held.take() {
            give_back(&*held.lock, &held).await;
        }
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        self.done.cancel();
        let Some(held) = self.held.take() else { return };
        // Joined, so that a process which ends right afterwards has given the lock back.
        let released =
            on_own_thread("janitor-release", move || async move { give_back(&*held.lock.again(), &held).await });
        if let Ok(thread) = released {
            let _ = thread.join();
        }
    }
}

async fn give_back(lock: &dyn Lock, held: &Held) {
    match lock.release(&held.key, &held.token).await {
        Ok(true) => {}
        Ok(false) => tracing::warn!(lock = held.key.as_str(), "lock was not ours any more when it was given back"),
        Err(error) => {
            tracing::warn!(lock = held.key.as_str(), error = %crate::report::chain(&error), "lock not given back, it will lapse");
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
            Ok(runtime) => runtime.block_on(work()),
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
/// let lock = Arc::new(MemoryLock::default());
/// let answer = lock::with(lock, &LockKey::job("demo"), Duration::from_secs(30), |held| async move { held.fence().is_ok() });
/// assert_eq!(answer.await.unwrap(), Some(true));
/// # });
/// ```
///
/// # Errors
/// [`LockError::Unavailable`] where the lock's service does not answer: then nothing ran.
pub async fn with<T, W, F>(lock: Arc<dyn Lock>, key: &LockKey, ttl: Duration, work: W) -> Result<Option<T>, LockError>
where
    W: FnOnce(Held) -> F,
    F: Future<Output = T>,
{
    let (token, asked) = (Token::random(), Instant::now());
    let Some(fence) = lock.acquire(key, &token, ttl).await? else { return Ok(None) };
    let trust = Arc::new(Mutex::new(Trust { fence, until: trusted_until(asked, ttl) }));
    let held = Held { lock, key: key.clone(), token, trust, lost: CancellationToken::new() };
    let done = CancellationToken::new();
    let release = Release { held: Some(held.clone()), done: done.clone() };
    let keeper = held.clone();
    on_own_thread("janitor-lock", move || async move { keeper.keep(&*keeper.lock.again(), ttl, &done).await })
        .map_err(LockError::unavailable)?;
    let outcome = AssertUnwindSafe(work(held)).catch_unwind().await;
    release.now().await;
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
