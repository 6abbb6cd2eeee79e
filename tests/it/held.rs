//! Work under a lock: it is given back however the work ends, and trusted no longer than it is ours.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use apalis_janitor::{
    clock::SystemClock,
    embedded,
    link::Link,
    lock::{
        self, Fence, Held, Lock, LockError, LockKey, Token, memory::MemoryLock, redis::RedisLock, sqlite::SqliteLock,
    },
};
use async_trait::async_trait;
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::redis::{RedisOptions, RedisServer};

/// A lease that does not lapse while a test runs.
const LONG: Duration = Duration::from_mins(1);
/// The shortest that a configuration may have.
const SHORT: Duration = Duration::from_secs(1);
/// How long anything that a test waits for may take.
const DEADLINE: Duration = Duration::from_secs(20);

fn key() -> LockKey {
    LockKey::job("old-runs")
}

/// Every answer, with what must live as long.
struct Answers {
    locks: [Arc<dyn Lock>; 3],
    _kept: (RedisServer, TempDir),
}

async fn answers() -> Answers {
    let (server, folder) = (RedisServer::start().await, tempfile::tempdir().expect("a temporary folder"));
    let pool = embedded::open(folder.path()).await.expect("a new file");
    let sqlite = SqliteLock::new(pool, Arc::new(SystemClock));
    let locks: [Arc<dyn Lock>; 3] = [Arc::new(MemoryLock::default()), over(&server), Arc::new(sqlite)];
    Answers { locks, _kept: (server, folder) }
}

fn over(server: &RedisServer) -> Arc<dyn Lock> {
    Arc::new(RedisLock::new(Link::new(&server.url(), "janitor").expect("a valid URL")))
}

async fn is_free(lock: &dyn Lock) -> bool {
    lock.held_for(&key()).await.expect("an answer").is_none()
}

async fn within<T>(what: &str, wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{what} did not come within {DEADLINE:?}"))
}

/// Holds the lock in a task of its own until that is aborted.
async fn hold(lock: &Arc<dyn Lock>, ttl: Duration) -> (Held, tokio::task::JoinHandle<()>) {
    let (lock, (tell, told)) = (lock.clone(), oneshot::channel());
    let task = tokio::spawn(async move {
        let work = |held| async move {
            tell.send(held).expect("the test listens");
            std::future::pending::<()>().await;
        };
        lock::with(lock, &key(), ttl, work).await.expect("an answer");
    });
    (within("the lock", told).await.expect("the lock was free"), task)
}

#[tokio::test]
async fn gives_the_lock_back_on_success_and_on_an_error() {
    for lock in answers().await.locks {
        for value in [Ok(1), Err("no")] {
            let work = |held: Held| async move { held.fence().map(|_| value).expect("a lock that was just taken") };
            assert_eq!(lock::with(lock.clone(), &key(), LONG, work).await.expect("an answer"), Some(value));
            assert!(is_free(&*lock).await, "{lock:?} after {value:?}");
        }
    }
}

#[tokio::test]
async fn gives_the_lock_back_on_a_panic_and_lets_it_through() {
    for lock in answers().await.locks {
        let asked = lock.clone();
        let work = |held: Held| async move { assert!(held.fence().is_err(), "on purpose") };
        let task = tokio::spawn(async move { lock::with(asked, &key(), LONG, work).await.map(|_| ()) });
        assert!(task.await.expect_err("a panic").is_panic());
        assert!(is_free(&*lock).await, "{lock:?}");
    }
}

#[tokio::test]
async fn gives_the_lock_back_when_the_work_is_dropped() {
    for lock in answers().await.locks {
        let (held, task) = hold(&lock, LONG).await;
        task.abort();
        assert!(task.await.expect_err("an abort").is_cancelled());
        assert!(is_free(&*lock).await, "{lock:?}");
        assert!(held.fence().is_err(), "{lock:?}");
    }
}

#[test]
fn gives_the_lock_back_when_the_runtime_ends() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("one");
    let (of_the_test, of_the_work) = (runtime(), runtime());
    let server = of_the_test.block_on(RedisServer::start());
    let (held, _task) = of_the_work.block_on(async { hold(&over(&server), LONG).await });
    assert!(held.fence().is_ok());
    drop(of_the_work);
    assert!(of_the_test.block_on(is_free(&*over(&server))));
}

#[tokio::test]
async fn a_busy_lock_runs_nothing() {
    for lock in answers().await.locks {
        let token = Token::random();
        lock.acquire(&key(), &token, LONG).await.expect("an answer").expect("a free lock");
        let ran = AtomicUsize::new(0);
        let work = |_| async { ran.fetch_add(1, Ordering::SeqCst) };
        assert_eq!(lock::with(lock.clone(), &key(), LONG, work).await.expect("an answer"), None);
        assert_eq!(ran.load(Ordering::SeqCst), 0);
        assert!(lock.release(&key(), &token).await.expect("an answer"), "{lock:?}: the holder lost its lock");
    }
}

#[tokio::test]
async fn a_lock_that_was_given_back_is_trusted_no_more() {
    let lock = Arc::new(MemoryLock::default());
    let held = lock::with(lock, &key(), LONG, |held| async { held }).await.expect("an answer").expect("a free lock");
    assert!(matches!(held.fence(), Err(LockError::Lost(_))));
    assert_eq!(held.remaining(), Duration::ZERO);
    within("the end of the trust", held.lost()).await;
    assert!(matches!(held.raise(1).await, Err(LockError::Lost(_))));
}

/// The only thread of the runtime is blocked for longer than the ttl.
#[tokio::test]
async fn a_job_that_blocks_every_thread_keeps_its_lock() {
    for lock in answers().await.locks {
        let asked = lock.clone();
        let work = |held: Held| async move {
            let start = Instant::now();
            while start.elapsed() < SHORT * 2 {
                std::thread::sleep(SHORT / 50);
            }
            (held.fence().is_ok(), asked.acquire(&key(), &Token::random(), LONG).await.expect("an answer"))
        };
        let ended = lock::with(lock.clone(), &key(), SHORT, work).await.expect("an answer");
        assert_eq!(ended, Some((true, None)), "{lock:?}");
    }
}

#[tokio::test]
async fn a_lock_that_somebody_else_took_is_lost_at_the_next_renewal() {
    for lock in answers().await.locks {
        let (held, task) = hold(&lock, SHORT).await;
        let before = held.fence().expect("a lock that was just taken");
        assert!(lock.unlock(&key()).await.expect("an answer"));
        let next = Token::random();
        let after = lock.acquire(&key(), &next, LONG).await.expect("an answer").expect("a free lock");
        assert!(before < after);
        within("the loss", held.lost()).await;
        assert!(matches!(held.fence(), Err(LockError::Lost(fence)) if fence == before), "{lock:?}");
        assert_eq!(held.remaining(), Duration::ZERO);
        task.abort();
        assert!(task.await.expect_err("an abort").is_cancelled());
        assert!(lock.renew(&key(), &next, LONG).await.expect("an answer"), "{lock:?}: the next holder lost its lock");
    }
}

#[tokio::test]
async fn a_raised_fence_is_the_one_that_is_held() {
    for lock in answers().await.locks {
        let work = |held: Held| async move {
            let seen = held.fence().expect("a lock that was just taken").get() + 1_000_000_000;
            let raised = held.raise(seen).await.expect("our own lock");
            assert_eq!((raised, raised.get()), (held.fence().expect("our own lock"), seen + 1));
        };
        lock::with(lock, &key(), LONG, work).await.expect("an answer").expect("a free lock");
    }
}

#[tokio::test]
async fn the_trust_ends_before_the_lease_where_redis_freezes_or_goes() {
    for frozen in [true, false] {
        let mut server = RedisServer::start().await;
        let lock = over(&server);
        let (held, task) = hold(&lock, SHORT * 3).await;
        if frozen {
            server.freeze();
        } else {
            server.stop().await;
        }
        // No renewal begins after this, so no lease lasts longer than this and the ttl.
        let last = Instant::now();
        within("the end of the trust", held.lost()).await;
        assert!(last.elapsed() < SHORT * 3, "frozen {frozen}: trusted for {:?}", last.elapsed());
        assert!(held.fence().is_err());
        if frozen {
            server.thaw();
            assert!(held.fence().is_err(), "the trust came back");
        }
        task.abort();
        assert!(task.await.expect_err("an abort").is_cancelled());
    }
}

#[tokio::test]
async fn a_short_outage_of_redis_costs_no_lock() {
    let mut server = RedisServer::start_with(RedisOptions { append_only: true, ..RedisOptions::default() }).await;
    let ttl = SHORT * 3;
    let lock = over(&server);
    let (held, task) = hold(&lock, ttl).await;
    let start = Instant::now();
    let before = held.fence().expect("a lock that was just taken");
    server.restart().await;
    // Trusted past the first lease's end: so it was renewed after the outage.
    while start.elapsed() < ttl {
        assert_eq!(held.fence().expect("a lock that is renewed"), before);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    task.abort();
    assert!(task.await.expect_err("an abort").is_cancelled());
    assert!(is_free(&*lock).await);
}

#[tokio::test]
async fn an_unreachable_redis_is_an_error_and_runs_nothing() {
    let mut server = RedisServer::start().await;
    let lock = over(&server);
    server.stop().await;
    let ended = lock::with(lock, &key(), LONG, |_| async { panic!("it ran") }).await;
    assert!(matches!(ended, Err(LockError::Unavailable(_))), "{:?}", ended.map(|_: Option<()>| ()));
}

/// A lock that grants and then loses its answer, or that never renews.
#[derive(Clone, Debug, Default)]
struct Faulty {
    inner: MemoryLock,
    mute: bool,
    renewals: Arc<AtomicUsize>,
}

#[async_trait]
impl Lock for Faulty {
    async fn acquire(&self, key: &LockKey, token: &Token, ttl: Duration) -> Result<Option<Fence>, LockError> {
        let granted = self.inner.acquire(key, token, ttl).await;
        if self.mute {
            std::future::pending::<()>().await;
        }
        granted
    }

    async fn renew(&self, _: &LockKey, _: &Token, _: Duration) -> Result<bool, LockError> {
        self.renewals.fetch_add(1, Ordering::SeqCst);
        Err(LockError::unavailable("on purpose"))
    }

    async fn raise(&self, key: &LockKey, token: &Token, above: u64) -> Result<Option<Fence>, LockError> {
        self.inner.raise(key, token, above).await
    }

    async fn release(&self, key: &LockKey, token: &Token) -> Result<bool, LockError> {
        self.inner.release(key, token).await
    }

    async fn unlock(&self, key: &LockKey) -> Result<bool, LockError> {
        self.inner.unlock(key).await
    }

    async fn held_for(&self, key: &LockKey) -> Result<Option<Duration>, LockError> {
        self.inner.held_for(key).await
    }

    fn again(&self) -> Arc<dyn Lock> {
        Arc::new(self.clone())
    }
}

#[tokio::test]
async fn who_is_dropped_while_asking_gives_back_what_was_granted() {
    let lock = Faulty { mute: true, ..Faulty::default() };
    let asked: Arc<dyn Lock> = Arc::new(lock.clone());
    let task = tokio::spawn(async move { lock::with(asked, &key(), LONG, |_| async {}).await.map(|_| ()) });
    within("the grant", async {
        while is_free(&lock).await {
            tokio::task::yield_now().await;
        }
    })
    .await;
    task.abort();
    assert!(task.await.expect_err("an abort").is_cancelled());
    assert!(is_free(&lock).await);
}

#[tokio::test]
async fn a_lock_that_cannot_be_renewed_is_lost_after_a_few_tries() {
    let lock = Faulty::default();
    let asked: Arc<dyn Lock> = Arc::new(lock.clone());
    let (held, _task) = hold(&asked, SHORT).await;
    within("the end of the trust", held.lost()).await;
    let tries = lock.renewals.load(Ordering::SeqCst);
    assert!((2..=10).contains(&tries), "{tries} tries");
    assert!(!is_free(&lock).await, "the trust outlived the lease");
}
