//! A lock in the SQLite file of the embedded mode, shared by the processes of one host.
//!
//! Each operation is one statement, which SQLite executes under its write lock: there is no moment between asking and
//! taking. Leases are measured by the wall clock, since the processes share no other.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{Sqlite, SqlitePool, query::QueryScalar, sqlite::SqliteArguments};

use super::{Fence, Lock, LockError, LockKey, Token, check_above, next_fence, ttl_millis};
use crate::{clock::Clock, embedded};

/// The table: a row per key that was ever locked. Without a token it is free, and remembers its last fence.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS lock (
    key TEXT PRIMARY KEY,
    token TEXT,
    until_ms INTEGER NOT NULL,
    fence INTEGER NOT NULL
)";

const ACQUIRE: &str = "
INSERT INTO lock (key, token, until_ms, fence) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (key) DO UPDATE SET token = ?2, until_ms = ?3, fence = max(fence + 1, ?4)
WHERE token IS NULL OR until_ms <= ?5
RETURNING fence";

const RENEW: &str = "UPDATE lock SET until_ms = ?3 WHERE key = ?1 AND token = ?2 AND until_ms > ?4 RETURNING 1";

const RAISE: &str = "
UPDATE lock SET fence = max(fence + 1, ?3) WHERE key = ?1 AND token = ?2 AND until_ms > ?4
RETURNING fence";

const RELEASE: &str = "UPDATE lock SET token = NULL WHERE key = ?1 AND token = ?2 AND until_ms > ?3 RETURNING 1";

const UNLOCK: &str = "UPDATE lock SET token = NULL WHERE key = ?1 AND token IS NOT NULL AND until_ms > ?2 RETURNING 1";

const HELD_FOR: &str = "SELECT until_ms - ?2 FROM lock WHERE key = ?1 AND token IS NOT NULL AND until_ms > ?2";

/// A lock in a SQLite file that [`embedded::open`] opened.
///
/// ```
/// use std::{sync::Arc, time::Duration};
/// use apalis_janitor::{clock::SystemClock, embedded, lock::{Lock, LockKey, Token, sqlite::SqliteLock}};
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let folder = tempfile::tempdir().unwrap();
/// let lock = SqliteLock::new(embedded::open(folder.path()).await.unwrap(), Arc::new(SystemClock));
/// let fence = lock.acquire(&LockKey::job("demo"), &Token::random(), Duration::from_secs(30)).await.unwrap();
/// assert!(fence.is_some());
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct SqliteLock {
    pool: SqlitePool,
    clock: Arc<dyn Clock>,
}

type Ask<'q> = QueryScalar<'q, Sqlite, i64, SqliteArguments>;

impl SqliteLock {
    /// A lock in the file of `pool`, with leases and fences by `clock`.
    #[must_use]
    pub fn new(pool: SqlitePool, clock: Arc<dyn Clock>) -> Self {
        Self { pool, clock }
    }

    async fn ask(&self, ask: Ask<'_>) -> Result<Option<i64>, LockError> {
        // All rows, though there is one at most: a statement that is left after a row commits unseen, or fails unseen.
        Ok(ask.fetch_all(&self.pool).await.map_err(LockError::unavailable)?.pop())
    }
}

/// When a lease that starts at `now` ends.
fn until(now: DateTime<Utc>, ttl: Duration) -> i64 {
    now.timestamp_millis().saturating_add(ttl_millis(ttl))
}

fn fence(stored: i64) -> Fence {
    Fence::new(stored.unsigned_abs())
}

/// The fence after `above`, as SQLite counts.
fn least_fence(above: u64, now: DateTime<Utc>) -> i64 {
    i64::try_from(next_fence(above, now)).expect("neither a raise nor a clock reaches 2^63")
}

#[async_trait]
impl Lock for SqliteLock {
    async fn acquire(&self, key: &LockKey, token: &Token, ttl: Duration) -> Result<Option<Fence>, LockError> {
        let now = self.clock.now();
        let ask = sqlx::query_scalar(ACQUIRE).bind(key.as_str()).bind(token.as_str()).bind(until(now, ttl));
        Ok(self.ask(ask.bind(least_fence(0, now)).bind(now.timestamp_millis())).await?.map(fence))
    }

    async fn renew(&self, key: &LockKey, token: &Token, ttl: Duration) -> Result<bool, LockError> {
        let now = self.clock.now();
        let ask = sqlx::query_scalar(RENEW).bind(key.as_str()).bind(token.as_str()).bind(until(now, ttl));
        Ok(self.ask(ask.bind(now.timestamp_millis())).await?.is_some())
    }

    async fn raise(&self, key: &LockKey, token: &Token, above: u64) -> Result<Option<Fence>, LockError> {
        check_above(above)?;
        let now = self.clock.now();
        let ask = sqlx::query_scalar(RAISE).bind(key.as_str()).bind(token.as_str()).bind(least_fence(above, now));
        Ok(self.ask(ask.bind(now.timestamp_millis())).await?.map(fence))
    }

    async fn release(&self, key: &LockKey, token: &Token) -> Result<bool, LockError> {
        let ask = sqlx::query_scalar(RELEASE).bind(key.as_str()).bind(token.as_str());
        Ok(self.ask(ask.bind(self.clock.now().timestamp_millis())).await?.is_some())
    }

    async fn unlock(&self, key: &LockKey) -> Result<bool, LockError> {
        let ask = sqlx::query_scalar(UNLOCK).bind(key.as_str());
        Ok(self.ask(ask.bind(self.clock.now().timestamp_millis())).await?.is_some())
    }

    async fn held_for(&self, key: &LockKey) -> Result<Option<Duration>, LockError> {
        let ask = sqlx::query_scalar(HELD_FOR).bind(key.as_str());
        let left = self.ask(ask.bind(self.clock.now().timestamp_millis())).await?;
        Ok(left.map(|millis| Duration::from_millis(millis.unsigned_abs())))
    }

    fn again(&self) -> Arc<dyn Lock> {
        Arc::new(Self { pool: embedded::again(&self.pool), clock: self.clock.clone() })
    }
}
