//! What every answer to [`Lock`] promises, as tests that each answer runs: see [`lock_conformance!`](crate::lock_conformance).

// A test fails by a panic.
#![allow(clippy::missing_panics_doc)]

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::Utc;

use super::{Fence, Lock, LockError, LockKey, RAISE_MAX, Token};

/// A ttl that does not lapse while a test runs.
const LONG: Duration = Duration::from_mins(1);
/// A ttl that is waited for.
const SHORT: Duration = Duration::from_millis(40);
/// How long a lapse may take to be seen.
const DEADLINE: Duration = Duration::from_secs(10);
/// How far the lock's clock and the test's may differ.
const SKEW_MILLIS: u64 = 60_000;
/// How many contend for a lock.
const TAKERS: usize = 16;

/// Writes one `#[tokio::test]` for each promise of the suite, in a module of the given name.
///
/// The expression is a future of the lock and of whatever must live as long as it, such as a server.
///
/// ```
/// use std::sync::Arc;
/// use apalis_janitor::{lock::memory::MemoryLock, lock_conformance};
///
/// lock_conformance!(memory, async { (Arc::new(MemoryLock::default()), ()) });
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! lock_conformance {
    ($answer:ident, $make:expr) => {
        $crate::lock_conformance! { @cases $answer, $make;
            grants_one_holder_among_many_takers
            never_has_two_holders_at_once
            is_not_granted_twice_to_one_token
            keeps_the_locks_of_two_keys_apart
            is_free_after_its_release
            is_free_after_its_ttl
            lasts_as_long_as_it_is_renewed
            refuses_a_holder_whose_lease_has_lapsed
            refuses_a_holder_whose_lock_somebody_else_took
            refuses_a_foreign_token
            gives_growing_fences
            gives_fences_by_its_clock
            raises_a_fence_above_any_that_a_store_has_seen
            refuses_to_raise_above_what_it_can_count
            takes_a_lock_from_its_holder
            tells_how_long_a_lock_is_held
            is_the_same_lock_for_another_runtime
        }
    };
    (@cases $answer:ident, $make:expr; $($case:ident)+) => {
        mod $answer {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let (lock, _kept) = $make.await;
                    $crate::lock::conformance::$case(lock).await;
                }
            )+
        }
    };
}

/// Of many that ask at once, one gets the lock.
pub async fn grants_one_holder_among_many_takers(lock: Arc<dyn Lock>) {
    let key = key();
    let takers = (0..TAKERS).map(|_| {
        let (lock, key) = (lock.clone(), key.clone());
        tokio::spawn(async move { lock.acquire(&key, &Token::random(), LONG).await.expect("an answer") })
    });
    let granted = futures::future::join_all(takers).await;
    let granted = granted.into_iter().filter_map(|fence| fence.expect("no panic")).count();
    assert_eq!(granted, 1, "so many of {TAKERS} takers got the lock");
}

/// Holders follow each other, each with a greater fence, and never overlap.
pub async fn never_has_two_holders_at_once(lock: Arc<dyn Lock>) {
    let (key, inside) = (key(), Arc::new(AtomicUsize::new(0)));
    let takers = (0..TAKERS).map(|_| {
        let (lock, key, inside) = (lock.clone(), key.clone(), inside.clone());
        tokio::spawn(async move {
            let token = Token::random();
            let fence =
                eventually("a turn", || async { lock.acquire(&key, &token, LONG).await.expect("an answer") }).await;
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "somebody else was inside");
            tokio::task::yield_now().await;
            inside.fetch_sub(1, Ordering::SeqCst);
            assert!(lock.release(&key, &token).await.expect("an answer"), "the lock was not ours at its release");
            fence
        })
    });
    let fences = futures::future::join_all(takers).await;
    let mut fences: Vec<Fence> = fences.into_iter().map(|fence| fence.expect("no panic")).collect();
    fences.sort_unstable();
    fences.dedup();
    assert_eq!(fences.len(), TAKERS, "two holders had the same fence");
}

/// A holder that asks again is refused like anybody.
pub async fn is_not_granted_twice_to_one_token(lock: Arc<dyn Lock>) {
    let (key, token) = (key(), Token::random());
    take(&*lock, &key, &token, LONG).await;
    assert_eq!(lock.acquire(&key, &token, LONG).await.expect("an answer"), None);
}

/// Two keys have nothing to do with each other.
pub async fn keeps_the_locks_of_two_keys_apart(lock: Arc<dyn Lock>) {
    let (one, other, token) = (key(), key(), Token::random());
    take(&*lock, &one, &token, LONG).await;
    take(&*lock, &other, &token, LONG).await;
    assert!(lock.release(&one, &token).await.expect("an answer"));
    assert!(lock.held_for(&other).await.expect("an answer").is_some());
}

/// A lock that was given back is free, and giving it back again changes nothing.
pub async fn is_free_after_its_release(lock: Arc<dyn Lock>) {
    let (key, token, next) = (key(), Token::random(), Token::random());
    take(&*lock, &key, &token, LONG).await;
    assert!(lock.release(&key, &token).await.expect("an answer"));
    assert_eq!(lock.held_for(&key).await.expect("an answer"), None);
    take(&*lock, &key, &next, LONG).await;
    assert!(!lock.release(&key, &token).await.expect("an answer"));
    assert!(lock.renew(&key, &next, LONG).await.expect("an answer"));
}

/// A lock that nobody renews becomes free by itself.
pub async fn is_free_after_its_ttl(lock: Arc<dyn Lock>) {
    let key = key();
    take(&*lock, &key, &Token::random(), SHORT).await;
    eventually("the lapse", || async { lock.acquire(&key, &Token::random(), LONG).await.expect("an answer") }).await;
}

/// A renewal counts from when it is made.
pub async fn lasts_as_long_as_it_is_renewed(lock: Arc<dyn Lock>) {
    let (key, token) = (key(), Token::random());
    take(&*lock, &key, &token, LONG / 2).await;
    assert!(lock.renew(&key, &token, LONG).await.expect("an answer"));
    let left = lock.held_for(&key).await.expect("an answer").expect("the lock is held");
    assert!(left > LONG / 2 && left <= LONG, "{left:?} left");
}

/// A lapsed lease does not come back, even where nobody took the lock meanwhile.
pub async fn refuses_a_holder_whose_lease_has_lapsed(lock: Arc<dyn Lock>) {
    let (key, token) = (key(), Token::random());
    take(&*lock, &key, &token, SHORT).await;
    lapse(&*lock, &key).await;
    refuses(&*lock, &key, &token).await;
    assert_eq!(lock.held_for(&key).await.expect("an answer"), None);
}

/// Who comes back too late cannot touch the lock of the next holder.
pub async fn refuses_a_holder_whose_lock_somebody_else_took(lock: Arc<dyn Lock>) {
    let (key, late, next) = (key(), Token::random(), Token::random());
    take(&*lock, &key, &late, SHORT).await;
    lapse(&*lock, &key).await;
    take(&*lock, &key, &next, LONG).await;
    refuses(&*lock, &key, &late).await;
    assert!(lock.renew(&key, &next, LONG).await.expect("an answer"), "the next holder lost its lock");
}

/// Only who took a lock may renew, raise or release it; a lock that was never taken is nobody's.
pub async fn refuses_a_foreign_token(lock: Arc<dyn Lock>) {
    let (key, token) = (key(), Token::random());
    refuses(&*lock, &key, &Token::random()).await;
    take(&*lock, &key, &token, LONG).await;
    refuses(&*lock, &key, &Token::random()).await;
    assert!(lock.release(&key, &token).await.expect("an answer"), "the holder lost its lock");
}

/// A fence is greater than every one before it, however the lock became free.
pub async fn gives_growing_fences(lock: Arc<dyn Lock>) {
    let (key, token) = (key(), Token::random());
    let mut fences = vec![take(&*lock, &key, &token, LONG).await];
    lock.release(&key, &token).await.expect("an answer");
    fences.push(take(&*lock, &key, &token, LONG).await);
    lock.unlock(&key).await.expect("an answer");
    fences.push(take(&*lock, &key, &token, SHORT).await);
    lapse(&*lock, &key).await;
    fences.push(take(&*lock, &key, &token, LONG).await);
    fences.push(lock.raise(&key, &token, 0).await.expect("an answer").expect("the lock is ours"));
    assert!(fences.is_sorted_by(|one, next| one < next), "{fences:?}");
}

/// A lock that has no memory of its fences starts at its clock, in milliseconds.
pub async fn gives_fences_by_its_clock(lock: Arc<dyn Lock>) {
    let fence = take(&*lock, &key(), &Token::random(), LONG).await.get();
    let now = u64::try_from(Utc::now().timestamp_millis()).expect("a time after 1970");
    assert!(fence.abs_diff(now) < SKEW_MILLIS, "fence {fence}, clock {now}");
}

/// A raised fence is above what was asked, and so are all after it.
pub async fn raises_a_fence_above_any_that_a_store_has_seen(lock: Arc<dyn Lock>) {
    let (key, token) = (key(), Token::random());
    let first = take(&*lock, &key, &token, LONG).await;
    let seen = first.get() + 1_000_000_000;
    let raised = lock.raise(&key, &token, seen).await.expect("an answer").expect("the lock is ours");
    assert_eq!(raised.get(), seen + 1);
    let again = lock.raise(&key, &token, first.get()).await.expect("an answer").expect("the lock is ours");
    assert_eq!(again.get(), seen + 2);
    lock.release(&key, &token).await.expect("an answer");
    assert_eq!(take(&*lock, &key, &Token::random(), LONG).await.get(), seen + 3);
}

/// A number that no lock can have given is refused, and the last fence stays as it is.
pub async fn refuses_to_raise_above_what_it_can_count(lock: Arc<dyn Lock>) {
    let (key, token) = (key(), Token::random());
    take(&*lock, &key, &token, LONG).await;
    let most = lock.raise(&key, &token, RAISE_MAX - 1).await.expect("an answer").expect("the lock is ours");
    assert_eq!(most.get(), RAISE_MAX);
    for above in [RAISE_MAX, u64::MAX] {
        let refused = lock.raise(&key, &token, above).await;
        assert!(matches!(refused, Err(LockError::Ceiling(number)) if number == above), "{refused:?}");
    }
    lock.release(&key, &token).await.expect("an answer");
    assert_eq!(take(&*lock, &key, &token, LONG).await.get(), RAISE_MAX + 1);
}

/// `unlock` takes the lock from whoever holds it, and says whether somebody did.
pub async fn takes_a_lock_from_its_holder(lock: Arc<dyn Lock>) {
    let (key, token) = (key(), Token::random());
    assert!(!lock.unlock(&key).await.expect("an answer"), "it was free from the start");
    take(&*lock, &key, &token, LONG).await;
    assert!(lock.unlock(&key).await.expect("an answer"));
    refuses(&*lock, &key, &token).await;
    assert!(!lock.unlock(&key).await.expect("an answer"), "it was free already");
    take(&*lock, &key, &token, SHORT).await;
    lapse(&*lock, &key).await;
    assert!(!lock.unlock(&key).await.expect("an answer"), "it had lapsed");
}

/// `held_for` is what is left of the lease.
pub async fn tells_how_long_a_lock_is_held(lock: Arc<dyn Lock>) {
    let (key, token) = (key(), Token::random());
    assert_eq!(lock.held_for(&key).await.expect("an answer"), None);
    take(&*lock, &key, &token, LONG).await;
    let left = lock.held_for(&key).await.expect("an answer").expect("the lock is held");
    assert!(left > LONG / 2 && left <= LONG, "{left:?} left of {LONG:?}");
    lock.release(&key, &token).await.expect("an answer");
    assert_eq!(lock.held_for(&key).await.expect("an answer"), None);
}

/// `again` gives the same lock, which works where the first one's runtime does nothing.
pub async fn is_the_same_lock_for_another_runtime(lock: Arc<dyn Lock>) {
    let (key, token) = (key(), Token::random());
    take(&*lock, &key, &token, LONG).await;
    let (again, asked) = (lock.again(), key.clone());
    let other = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            assert_eq!(again.acquire(&asked, &Token::random(), LONG).await.expect("an answer"), None);
            again.release(&asked, &token).await.expect("an answer")
        })
    });
    // Joined in the way: this runtime's thread is blocked meanwhile.
    assert!(other.join().expect("no panic"), "the other runtime's lock did not know the holder");
    assert_eq!(lock.held_for(&key).await.expect("an answer"), None);
}

/// A key that no other test has.
fn key() -> LockKey {
    LockKey::job(&format!("job-{}", Token::random().as_str()))
}

async fn take(lock: &dyn Lock, key: &LockKey, token: &Token, ttl: Duration) -> Fence {
    lock.acquire(key, token, ttl).await.expect("an answer").expect("a free lock")
}

/// Waits until nobody holds the lock.
async fn lapse(lock: &dyn Lock, key: &LockKey) {
    eventually("the lapse", || async { lock.held_for(key).await.expect("an answer").is_none().then_some(()) }).await;
}

/// Nothing that a holder may do is done for `token`.
async fn refuses(lock: &dyn Lock, key: &LockKey, token: &Token) {
    assert!(!lock.renew(key, token, LONG).await.expect("an answer"), "renewed");
    assert_eq!(lock.raise(key, token, 1).await.expect("an answer"), None, "raised");
    assert!(!lock.release(key, token).await.expect("an answer"), "released");
}

/// Asks until there is an answer.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what} did not come within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
