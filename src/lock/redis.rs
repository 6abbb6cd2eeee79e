//! A lock in Redis: one key per lock, gone when it is free, and one for its last fence. Each operation is one script.
//!
//! A Redis error is never "the lock is free": it is [`LockError::Unavailable`].

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use async_trait::async_trait;
use redis::Script;

use super::{Fence, Lock, LockError, LockKey, Token, check_above, ttl_millis};
use crate::link::Link;

/// KEYS: lock, fence. Gives the fence after the last one and after `above`, and remembers it. The server's clock keeps it
/// growing where Redis was flushed.
const NEXT_FENCE: &str = "
local function next_fence(above)
  local last = tonumber(redis.call('GET', KEYS[2]) or '0')
  if not last then error('the last fence in ' .. KEYS[2] .. ' is not a number') end
  local time = redis.call('TIME')
  local fence = math.max(last + 1, above + 1, time[1] * 1000 + math.floor(time[2] / 1000))
  redis.call('SET', KEYS[2], string.format('%.0f', fence))
  return fence
end
";

/// ARGV: token, ttl in milliseconds. The fence is written first: one that nobody got does no harm, a lock without a
/// fence would.
static ACQUIRE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        "{NEXT_FENCE}
if redis.call('EXISTS', KEYS[1]) == 1 then return false end
local fence = next_fence(0)
redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
return fence"
    ))
});

/// ARGV: token, the fence to be above of.
static RAISE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(&format!(
        "{NEXT_FENCE}
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
return next_fence(tonumber(ARGV[2]))"
    ))
});

/// ARGV: token, ttl in milliseconds.
static RENEW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])",
    )
});

/// ARGV: token.
static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])",
    )
});

static UNLOCK: LazyLock<Script> = LazyLock::new(|| Script::new("return redis.call('DEL', KEYS[1])"));

static HELD_FOR: LazyLock<Script> = LazyLock::new(|| Script::new("return redis.call('PTTL', KEYS[1])"));

/// A lock in Redis, shared by all processes with the same namespace.
///
/// The key `{namespace}:lock:<job>` holds the holder's token and is gone when the lock is free;
/// `{namespace}:fence:<job>` holds the last fence and stays.
///
/// ```no_run
/// use std::time::Duration;
/// use apalis_janitor::{link::Link, lock::{Lock, LockKey, Token, redis::RedisLock}};
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let lock = RedisLock::new(Link::new("redis://127.0.0.1:6379", "janitor").unwrap());
/// let fence = lock.acquire(&LockKey::job("demo"), &Token::random(), Duration::from_secs(30)).await.unwrap();
/// assert!(fence.is_some());
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct RedisLock {
    link: Link,
}

impl RedisLock {
    /// A lock over `link`; nothing connects before it is used.
    #[must_use]
    pub const fn new(link: Link) -> Self {
        Self { link }
    }

    /// Runs a script on the lock's two keys.
    async fn run<T: redis::FromRedisValue>(
        &self,
        script: &Script,
        key: &LockKey,
        arguments: &[&str],
    ) -> Result<T, LockError> {
        let mut script = script.prepare_invoke();
        script.key(self.link.key(&format!("lock:{}", key.as_str())));
        script.key(self.link.key(&format!("fence:{}", key.as_str())));
        script.arg(arguments);
        self.link.invoke(&script).await.map_err(|error| LockError::unavailable(self.link.explain(error)))
    }
}

#[async_trait]
impl Lock for RedisLock {
    async fn acquire(&self, key: &LockKey, token: &Token, ttl: Duration) -> Result<Option<Fence>, LockError> {
        let fence: Option<u64> = self.run(&ACQUIRE, key, &[token.as_str(), &ttl_millis(ttl).to_string()]).await?;
        Ok(fence.map(Fence::new))
    }

    async fn renew(&self, key: &LockKey, token: &Token, ttl: Duration) -> Result<bool, LockError> {
        self.run(&RENEW, key, &[token.as_str(), &ttl_millis(ttl).to_string()]).await
    }

    async fn raise(&self, key: &LockKey, token: &Token, above: u64) -> Result<Option<Fence>, LockError> {
        check_above(above)?;
        let fence: Option<u64> = self.run(&RAISE, key, &[token.as_str(), &above.to_string()]).await?;
        Ok(fence.map(Fence::new))
    }

    async fn release(&self, key: &LockKey, token: &Token) -> Result<bool, LockError> {
        self.run(&RELEASE, key, &[token.as_str()]).await
    }

    async fn unlock(&self, key: &LockKey) -> Result<bool, LockError> {
        self.run(&UNLOCK, key, &[]).await
    }

    async fn held_for(&self, key: &LockKey) -> Result<Option<Duration>, LockError> {
        match self.run::<i64>(&HELD_FOR, key, &[]).await? {
            // PTTL's words: -2 is no key, -1 a key that never expires. We write none such, but one would hold the lock.
            -2 => Ok(None),
            millis => Ok(Some(u64::try_from(millis).map_or(Duration::MAX, Duration::from_millis))),
        }
    }

    fn again(&self) -> Arc<dyn Lock> {
        Arc::new(Self { link: self.link.again() })
    }
}
