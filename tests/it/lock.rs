//! The answers to the lock seam, against real servers and files.

use std::{sync::Arc, time::Duration};

use apalis_janitor::{
    clock::{SystemClock, TestClock},
    embedded,
    link::Link,
    lock::{Lock, LockError, LockKey, Token, memory::MemoryLock, redis::RedisLock, sqlite::SqliteLock},
    lock_conformance,
};
use chrono::{DateTime, TimeDelta};
use tempfile::TempDir;

use crate::redis::RedisServer;

const TTL: Duration = Duration::from_mins(1);

lock_conformance!(memory, async { (Arc::new(MemoryLock::default()), ()) });
lock_conformance!(redis, over_redis());
lock_conformance!(cluster, over_cluster());
lock_conformance!(least_privileges, over_least());
lock_conformance!(sqlite, over_sqlite());

async fn over_redis() -> (Arc<dyn Lock>, RedisServer) {
    let server = RedisServer::start().await;
    (Arc::new(RedisLock::new(link(&server))), server)
}

async fn over_least() -> (Arc<dyn Lock>, RedisServer) {
    let server = RedisServer::start_with_least().await;
    (Arc::new(RedisLock::new(link(&server))), server)
}

async fn over_cluster() -> (Arc<dyn Lock>, RedisServer) {
    let server = RedisServer::start_cluster().await;
    (Arc::new(RedisLock::new(link(&server))), server)
}

async fn over_sqlite() -> (Arc<dyn Lock>, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pool = embedded::open(folder.path()).await.expect("a new file");
    (Arc::new(SqliteLock::new(pool, Arc::new(SystemClock))), folder)
}

fn link(server: &RedisServer) -> Link {
    Link::new(&server.url(), "janitor").expect("a valid URL")
}

async fn take(lock: &dyn Lock, key: &LockKey) -> (Token, u64) {
    let token = Token::random();
    let fence = lock.acquire(key, &token, TTL).await.expect("an answer").expect("a free lock");
    (token, fence.get())
}

#[tokio::test]
async fn a_redis_lock_is_a_key_of_the_contract_and_gone_when_free() {
    let (lock, server) = over_redis().await;
    let key = LockKey::job("old-runs");
    let (token, fence) = take(&*lock, &key).await;
    assert_eq!(server.cli(&["GET", "{janitor}:lock:old-runs"]).await, token.as_str());
    assert_eq!(server.cli(&["GET", "{janitor}:fence:old-runs"]).await, fence.to_string());
    lock.release(&key, &token).await.expect("an answer");
    assert_eq!(server.cli(&["KEYS", "*"]).await, "{janitor}:fence:old-runs");
}

#[tokio::test]
async fn a_redis_lock_gives_growing_fences_after_a_flush_and_after_a_restart_without_data() {
    let (lock, mut server) = over_redis().await;
    let key = LockKey::job("old-runs");
    let (token, first) = take(&*lock, &key).await;
    server.cli(&["FLUSHALL"]).await;
    assert!(!lock.renew(&key, &token, TTL).await.expect("an answer"), "the flushed lock was still ours");
    let (_, second) = take(&*lock, &key).await;
    server.restart().await;
    let (_, third) = take(&*lock, &key).await;
    assert!(first < second && second < third, "{first} {second} {third}");
}

#[tokio::test]
async fn a_redis_that_is_down_never_says_that_a_lock_is_free() {
    let (lock, mut server) = over_redis().await;
    let key = LockKey::job("old-runs");
    let (token, _) = take(&*lock, &key).await;
    server.stop().await;
    assert!(matches!(lock.acquire(&key, &Token::random(), TTL).await, Err(LockError::Unavailable(_))));
    assert!(matches!(lock.renew(&key, &token, TTL).await, Err(LockError::Unavailable(_))));
    assert!(matches!(lock.raise(&key, &token, 1).await, Err(LockError::Unavailable(_))));
    assert!(matches!(lock.release(&key, &token).await, Err(LockError::Unavailable(_))));
    assert!(matches!(lock.unlock(&key).await, Err(LockError::Unavailable(_))));
    assert!(matches!(lock.held_for(&key).await, Err(LockError::Unavailable(_))));
}

#[tokio::test]
async fn a_last_fence_that_cannot_be_read_takes_no_redis_lock() {
    let (lock, server) = over_redis().await;
    let key = LockKey::job("old-runs");
    server.cli(&["SET", "{janitor}:fence:old-runs", "many"]).await;
    assert!(matches!(lock.acquire(&key, &Token::random(), TTL).await, Err(LockError::Unavailable(_))));
    assert_eq!(lock.held_for(&key).await.expect("an answer"), None);
}

#[tokio::test]
async fn a_redis_lock_that_somebody_made_by_hand_holds_for_ever() {
    let (lock, server) = over_redis().await;
    let key = LockKey::job("old-runs");
    server.cli(&["SET", "{janitor}:lock:old-runs", "me"]).await;
    assert_eq!(lock.acquire(&key, &Token::random(), TTL).await.expect("an answer"), None);
    assert_eq!(lock.held_for(&key).await.expect("an answer"), Some(Duration::MAX));
}

#[tokio::test]
async fn a_sqlite_lock_is_kept_by_the_file_and_not_by_the_process() {
    let (lock, folder) = over_sqlite().await;
    let key = LockKey::job("old-runs");
    let (token, first) = take(&*lock, &key).await;
    drop(lock);
    let pool = embedded::open(folder.path()).await.expect("the same file");
    let lock = SqliteLock::new(pool, Arc::new(SystemClock));
    assert_eq!(lock.acquire(&key, &Token::random(), TTL).await.expect("an answer"), None);
    assert!(lock.release(&key, &token).await.expect("an answer"));
    let (_, second) = take(&lock, &key).await;
    assert!(first < second, "{first} {second}");
}

#[tokio::test]
async fn a_sqlite_lock_is_free_at_its_end_and_not_a_millisecond_before() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pool = embedded::open(folder.path()).await.expect("a new file");
    let start = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
    let clock = Arc::new(TestClock::at(start));
    let (lock, key) = (SqliteLock::new(pool, clock.clone()), LockKey::job("old-runs"));
    let (token, first) = take(&lock, &key).await;
    assert_eq!(first, u64::try_from(start.timestamp_millis()).expect("a time after 1970"));
    clock.set(start + TTL - TimeDelta::milliseconds(1));
    assert_eq!(lock.held_for(&key).await.expect("an answer"), Some(Duration::from_millis(1)));
    assert_eq!(lock.acquire(&key, &Token::random(), TTL).await.expect("an answer"), None);
    clock.set(start + TTL);
    assert!(!lock.renew(&key, &token, TTL).await.expect("an answer"));
    take(&lock, &key).await;
}

#[tokio::test]
async fn a_sqlite_lock_keeps_its_holder_and_its_growing_fences_when_the_clock_is_set_back() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pool = embedded::open(folder.path()).await.expect("a new file");
    let start = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
    let clock = Arc::new(TestClock::at(start));
    let (lock, key) = (SqliteLock::new(pool, clock.clone()), LockKey::job("old-runs"));
    let (token, first) = take(&lock, &key).await;
    clock.set(start - TimeDelta::hours(1));
    assert_eq!(lock.acquire(&key, &Token::random(), TTL).await.expect("an answer"), None);
    assert!(lock.renew(&key, &token, TTL).await.expect("an answer"));
    assert_eq!(lock.held_for(&key).await.expect("an answer"), Some(TTL));
    lock.release(&key, &token).await.expect("an answer");
    let (_, second) = take(&lock, &key).await;
    assert_eq!(second, first + 1);
}
