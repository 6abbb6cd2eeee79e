//! A ledger in Redis, beside the queue.

use std::{collections::BTreeMap, sync::LazyLock};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use redis::{AsyncCommands, RedisResult, Script};

use super::{
    Backoff, Ledger, LedgerError, REPORTS_MAX, due_millis, from_millis, is_success, read_instant, read_reports,
};
use crate::{link::Link, report::Report};

/// How many of the newest reports are searched for one of the same id: who records twice does it at once.
const TWICE_WITHIN: usize = 100;

/// KEYS: reports, success. ARGV: job, report, how the report begins (with its id), its start if it is a success, else
/// nothing, how many reports stay, how many are searched. Answers whether it was new.
static RECORD: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "
for _, known in ipairs(redis.call('LRANGE', KEYS[1], 0, ARGV[6] - 1)) do
  if string.sub(known, 1, #ARGV[3]) == ARGV[3] then return 0 end
end
redis.call('LPUSH', KEYS[1], ARGV[2])
redis.call('LTRIM', KEYS[1], 0, ARGV[5] - 1)
if ARGV[4] ~= '' then redis.call('HSET', KEYS[2], ARGV[1], ARGV[4]) end
return 1",
    )
});

/// KEYS: due, attempts. ARGV: item, when it is due in milliseconds, attempts.
static PUT_BACKOFF: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])",
    )
});

/// KEYS: due, attempts. ARGV: item.
static CLEAR_BACKOFF: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])",
    )
});

/// KEYS: due, attempts. Answers each item, when it is due and its attempts.
static BACKOFFS: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "
local all, found = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES'), {}
for at = 1, #all, 2 do
  local attempts = redis.call('HGET', KEYS[2], all[at]) or '0'
  found[#found + 1] = {all[at], string.format('%.0f', tonumber(all[at + 1])), attempts}
end
return found",
    )
});

/// A ledger in Redis, shared by all processes with the same namespace.
///
/// Keys: the list `{namespace}:reports:<job>` of JSON, newest first; the hash `{namespace}:success` of instants by job;
/// the set `{namespace}:paused` of jobs; for back-off the sorted set `{namespace}:backoff:<job>` of items by when they
/// are due, in milliseconds, with the hash `{namespace}:attempts:<job>`.
///
/// ```no_run
/// use apalis_janitor::{ledger::{Ledger, redis::RedisLedger}, link::Link};
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let ledger = RedisLedger::new(Link::new("redis://127.0.0.1:6379", "janitor").unwrap());
/// assert!(ledger.pause("demo").await.unwrap());
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct RedisLedger {
    link: Link,
}

impl RedisLedger {
    /// A ledger over `link`; nothing connects before it is used.
    #[must_use]
    pub const fn new(link: Link) -> Self {
        Self { link }
    }

    fn reports_key(&self, job: &str) -> String {
        self.link.key(&format!("reports:{job}"))
    }

    fn success_key(&self) -> String {
        self.link.key("success")
    }

    fn paused_key(&self) -> String {
        self.link.key("paused")
    }

    fn backoff_key(&self, job: &str) -> String {
        self.link.key(&format!("backoff:{job}"))
    }

    /// The error of an operation that was `what`.
    fn not(&self, what: &'static str) -> impl Fn(redis::RedisError) -> LedgerError {
        move |error| LedgerError::new(what, self.link.explain(error))
    }

    /// Runs a script on the two keys of the back-off of `job`.
    async fn on_backoff<T: redis::FromRedisValue>(
        &self,
        script: &Script,
        job: &str,
        arguments: &[&str],
    ) -> RedisResult<T> {
        let mut script = script.prepare_invoke();
        script.key(self.backoff_key(job)).key(self.link.key(&format!("attempts:{job}"))).arg(arguments);
        self.link.invoke(&script).await
    }
}

#[async_trait]
impl Ledger for RedisLedger {
    async fn record(&self, report: &Report) -> Result<(), LedgerError> {
        let unwritable = |error| LedgerError::new("report not recorded", error);
        let body = serde_json::to_string(report).map_err(unwritable)?;
        // The id is a report's first field.
        let start = format!("{{\"id\":{},", serde_json::to_string(&report.id).map_err(unwritable)?);
        let success = if is_success(report) { report.started_at.to_rfc3339() } else { String::new() };
        let mut script = RECORD.prepare_invoke();
        script.key(self.reports_key(&report.job)).key(self.success_key());
        script.arg(&report.job).arg(body).arg(start).arg(success).arg(REPORTS_MAX).arg(TWICE_WITHIN);
        self.link.invoke(&script).await.map_err(self.not("report not recorded"))
    }

    async fn reports(&self, job: &str, limit: usize) -> Result<Vec<Report>, LedgerError> {
        // 0 to -1 would be all of them.
        let Some(last) = limit.min(REPORTS_MAX).checked_sub(1) else { return Ok(Vec::new()) };
        let last = isize::try_from(last).expect("below the most reports that are kept");
        let stored: RedisResult<Vec<String>> =
            async { self.link.get().await?.lrange(self.reports_key(job), 0, last).await }.await;
        Ok(read_reports(job, &stored.map_err(self.not("reports not read"))?))
    }

    async fn last_success(&self, job: &str) -> Result<Option<DateTime<Utc>>, LedgerError> {
        let stored: RedisResult<Option<String>> =
            async { self.link.get().await?.hget(self.success_key(), job).await }.await;
        stored.map_err(self.not("last success not read"))?.as_deref().map(read_instant).transpose()
    }

    async fn pause(&self, job: &str) -> Result<bool, LedgerError> {
        let added: RedisResult<bool> = async { self.link.get().await?.sadd(self.paused_key(), job).await }.await;
        added.map_err(self.not("job not paused"))
    }

    async fn resume(&self, job: &str) -> Result<bool, LedgerError> {
        let removed: RedisResult<bool> = async { self.link.get().await?.srem(self.paused_key(), job).await }.await;
        removed.map_err(self.not("job not resumed"))
    }

    async fn is_paused(&self, job: &str) -> Result<bool, LedgerError> {
        let paused: RedisResult<bool> = async { self.link.get().await?.sismember(self.paused_key(), job).await }.await;
        paused.map_err(self.not("pause not read"))
    }

    async fn put_backoff(&self, job: &str, item: &str, backoff: &Backoff) -> Result<(), LedgerError> {
        let (due, attempts) = (due_millis(backoff.next_at).to_string(), backoff.attempts.to_string());
        self.on_backoff(&PUT_BACKOFF, job, &[item, &due, &attempts]).await.map_err(self.not("back-off not recorded"))
    }

    async fn clear_backoff(&self, job: &str, item: &str) -> Result<(), LedgerError> {
        self.on_backoff(&CLEAR_BACKOFF, job, &[item]).await.map_err(self.not("back-off not cleared"))
    }

    async fn backoffs(&self, job: &str) -> Result<BTreeMap<String, Backoff>, LedgerError> {
        let stored: Vec<(String, i64, u32)> =
            self.on_backoff(&BACKOFFS, job, &[]).await.map_err(self.not("back-offs not read"))?;
        let read = |(item, due, attempts)| Ok((item, Backoff { attempts, next_at: from_millis(due)? }));
        stored.into_iter().map(read).collect()
    }
}
