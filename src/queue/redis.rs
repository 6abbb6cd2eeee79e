//! The queue as a Redis stream with one consumer group; each change is one script.
//!
//! Any program can append `job` and `mode`. An entry stays on the stream until it is settled; who has it, since when and
//! how often it was delivered is in the group's pending list, so a crash and an error count alike. A delivery that is
//! given back stays there too, under the consumer `given-back`, and grows stale when it is due.

mod entries;
mod scripts;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use redis::{AsyncCommands, FromRedisValue, RedisError, Script, ScriptInvocation, aio::MultiplexedConnection};

use self::{
    entries::{Fields, dead_entry, delivered},
    scripts::{BACK, CLAIM, DEAD, ENQUEUE, FORGET, SETTLE, START, STATS, TICK, TOUCH},
};
use super::{
    AHEAD_MAX, Claim, DEAD_MAX, Dead, Enqueued, Queue, QueueError, QueueOptions, Request, Stats, Ticked,
    entry::{check, rfc3339},
};
use crate::{
    ledger::REPORTS_MAX,
    link::Link,
    report::{Mode, Outcome, Report},
};

/// The consumer group of all workers.
const GROUP: &str = "workers";
/// A claim waits at most this long, or a sixth of the visibility where that is shorter.
const BLOCK_MAX: Duration = Duration::from_secs(1);
/// The shortest wait of a claim.
const BLOCK_MIN: Duration = Duration::from_millis(50);
/// A consumer that has said nothing for so long, and has nothing, is forgotten.
const SILENT_MAX: Duration = Duration::from_mins(10);
/// Merge keys whose entries were deleted by hand go after so long without a new one.
const MERGE_TTL: Duration = Duration::from_hours(30 * 24);

/// The queue `default` of a namespace, or that of a host. Needs Redis 6.2 or newer.
#[derive(Clone, Debug)]
pub struct RedisQueue {
    link: Link,
    /// `default`, or `host:<host>`.
    name: String,
    /// The hash of its jobs' last ticks.
    ticks: String,
    options: QueueOptions,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Connections on which nobody waits just now. A blocking read needs one of its own, and a settling saves a round trip.
    readers: Mutex<Vec<Reader>>,
    /// Before this, nobody looks for stale deliveries again.
    next_check: Mutex<Option<Instant>>,
    /// Before this, nobody looks for silent consumers again.
    next_forget: Mutex<Option<Instant>>,
}

struct Reader(MultiplexedConnection);

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

impl RedisQueue {
    /// The queue behind `link`; nothing connects before it is used.
    #[must_use]
    pub fn new(link: Link, options: QueueOptions) -> Self {
        let ticks = link.key("ticks");
        Self { link, name: "default".to_owned(), ticks, options, shared: Arc::default() }
    }

    /// The queue of a host, behind the same link.
    #[must_use]
    pub fn at_host(&self, host: &str) -> Self {
        let (name, ticks) = (format!("host:{host}"), self.link.key(&format!("ticks@{host}")));
        Self { link: self.link.clone(), name, ticks, options: self.options, shared: Arc::default() }
    }

    fn stream(&self) -> String {
        self.link.key(&format!("queue:{}", self.name))
    }

    fn dead_key(&self) -> String {
        self.link.key(&format!("queue:{}:dead", self.name))
    }

    /// A script with the keys and the argument that all of them begin with.
    fn script(&self, script: &'static Script) -> ScriptInvocation<'static> {
        let mut invocation = script.key(self.stream());
        invocation.key(self.link.key(&format!("queue:{}:merge", self.name))).arg(GROUP);
        invocation
    }

    async fn call<T: FromRedisValue>(&self, invocation: &ScriptInvocation<'_>) -> Result<T, QueueError> {
        self.link.invoke(invocation).await.map_err(QueueError::unavailable)
    }

    fn block(&self) -> Duration {
        (self.options.visibility / 6).clamp(BLOCK_MIN, BLOCK_MAX)
    }

    async fn reader(&self) -> Result<Reader, RedisError> {
        let idle = lock(&self.shared.readers).pop();
        match idle {
            Some(reader) => Ok(reader),
            None => self.link.dedicated(self.block()).await.map(Reader),
        }
    }

    /// Works on a connection of its own. Unlike a pooled one it is not asked first whether it is still good, which is as long
    /// as the work: for callers that try again.
    async fn on_reader<T>(
        &self,
        work: impl AsyncFnOnce(&mut Reader) -> Result<T, RedisError>,
    ) -> Result<T, QueueError> {
        let answered = async {
            let mut reader = self.reader().await?;
            let answer = work(&mut reader).await?;
            lock(&self.shared.readers).push(reader);
            Ok(answer)
        };
        answered.await.map_err(|error: RedisError| {
            // What is wrong with one is likely wrong with the others.
            lock(&self.shared.readers).clear();
            QueueError::unavailable(error)
        })
    }

    /// Says once in a while that it is time, and sets when it is the next time.
    fn is_time(at: &Mutex<Option<Instant>>, every: Duration) -> bool {
        let mut next = lock(at);
        let due = is_due(*next);
        if due {
            *next = Some(Instant::now() + every);
        }
        due
    }

    async fn claim_on(&self, reader: &mut Reader, me: &str, busy: bool) -> Result<Claim, RedisError> {
        if Self::is_time(&self.shared.next_check, self.block()) {
            let claim = self.claim_stale(reader, me, busy).await?;
            if claim != Claim::Empty {
                // Where there is one, there may be more.
                *lock(&self.shared.next_check) = None;
                return Ok(claim);
            }
        }
        self.read_new(reader, me).await
    }

    async fn claim_stale(&self, reader: &mut Reader, me: &str, busy: bool) -> Result<Claim, RedisError> {
        let mut script = self.script(&CLAIM);
        script.arg(me).arg(millis(self.options.visibility)).arg(self.options.max_deliveries).arg(i32::from(busy));
        let (kind, id, number, last, fields): (String, String, u32, String, Fields) =
            script.invoke_async(&mut reader.0).await?;
        Ok(match kind.as_str() {
            "run" => delivered(id, &fields, number),
            "exhausted" => match delivered(id, &fields, number) {
                Claim::Run(delivery) => Claim::Exhausted { delivery, last },
                unreadable => unreadable,
            },
            "later" => Claim::Later,
            _ => Claim::Empty,
        })
    }

    async fn read_new(&self, reader: &mut Reader, me: &str) -> Result<Claim, RedisError> {
        type Reply = Option<Vec<(String, Vec<(String, Fields)>)>>;
        let reply: Result<Reply, RedisError> = redis::cmd("XREADGROUP")
            .arg(&["GROUP", GROUP, me, "COUNT", "1", "BLOCK"])
            .arg(millis(self.block()))
            .arg("STREAMS")
            .arg(self.stream())
            .arg(">")
            .query_async(&mut reader.0)
            .await;
        match reply {
            Ok(streams) => {
                let entry = streams.and_then(|mut streams| streams.pop()?.1.pop());
                Ok(entry.map_or(Claim::Empty, |(id, fields)| delivered(id, &fields, 1)))
            }
            // The stream was flushed meanwhile: the next check makes its group again.
            Err(error) if is_group_missing(&error) => {
                *lock(&self.shared.next_check) = None;
                Ok(Claim::Empty)
            }
            Err(error) => Err(error),
        }
    }

    /// Settles; with `next` it brings the next request, too.
    async fn settle(
        &self,
        me: &str,
        id: &str,
        reason: &str,
        report: Option<&Report>,
        next: bool,
    ) -> Result<(bool, Claim), QueueError> {
        let body = report.map(serde_json::to_string).transpose().map_err(QueueError::unavailable)?.unwrap_or_default();
        let job = report.map_or("", |report| report.job.as_str());
        let success = report.filter(|report| report.outcome == Outcome::Done && report.mode == Mode::Apply);
        let mut script = self.script(&SETTLE);
        script.key(self.dead_key()).key(self.link.key(&format!("reports:{job}"))).key(self.link.key("success"));
        script.arg(me).arg(id).arg(reason).arg(DEAD_MAX).arg(body).arg(REPORTS_MAX).arg(job);
        script.arg(success.map(|report| rfc3339(report.started_at)).unwrap_or_default()).arg(i32::from(next));
        let (is_ours, entry): (bool, Option<(String, Fields)>) =
            self.on_reader(async |reader| script.invoke_async(&mut reader.0).await).await?;
        Ok((is_ours, entry.map_or(Claim::Empty, |(id, fields)| delivered(id, &fields, 1))))
    }

    async fn give_back(&self, me: &str, id: &str, pause: Duration, uncount: bool) -> Result<bool, QueueError> {
        let idle = self.options.visibility.saturating_sub(pause);
        let mut script = self.script(&BACK);
        script.arg(me).arg(id).arg(millis(idle)).arg(i32::from(uncount));
        self.call(&script).await
    }

    async fn take_dead(&self, id: &str, again: bool) -> Result<bool, QueueError> {
        let mut script = self.script(&DEAD);
        script.key(self.dead_key()).arg(id).arg(i32::from(again));
        self.call(&script).await
    }
}

/// An instant as the hash of ticks holds it, in milliseconds.
fn instant(job: &str, millis: i64) -> Result<DateTime<Utc>, QueueError> {
    let at = DateTime::from_timestamp_millis(millis);
    at.ok_or_else(|| QueueError::unavailable(format!("the last tick of {job:?} is no instant: {millis}")))
}

#[async_trait]
impl Queue for RedisQueue {
    fn options(&self) -> QueueOptions {
        self.options
    }

    async fn enqueue(&self, request: &Request, key: Option<&str>) -> Result<Enqueued, QueueError> {
        check(request, key)?;
        let mode = request.mode.as_str();
        let merge = key.map(|key| format!("key:{mode}:{}:{key}", request.job)).unwrap_or_default();
        let mut script = self.script(&ENQUEUE);
        script.arg(self.options.backlog_max).arg(&request.job).arg(mode).arg(merge).arg(millis(MERGE_TTL));
        let (kind, id): (String, String) = self.call(&script).await?;
        match kind.as_str() {
            "new" => Ok(Enqueued::New(id)),
            "merged" => Ok(Enqueued::Merged(id)),
            _ => Err(full(&id)),
        }
    }

    async fn tick(&self, request: &Request) -> Result<Ticked, QueueError> {
        let tick = request.tick.ok_or_else(|| QueueError::unavailable("a request without a tick is no tick"))?;
        let mut script = self.script(&TICK);
        script.key(self.ticks.clone());
        script.arg(self.options.backlog_max).arg(&request.job).arg(request.mode.as_str());
        script.arg(rfc3339(tick)).arg(tick.timestamp_millis()).arg(millis(AHEAD_MAX));
        let (kind, id): (String, String) = self.call(&script).await?;
        match kind.as_str() {
            "new" => Ok(Ticked::New(id)),
            "old" => Ok(Ticked::Old),
            "ahead" => Ok(Ticked::Ahead),
            _ => Err(full(&id)),
        }
    }

    async fn last_tick(&self, job: &str) -> Result<Option<DateTime<Utc>>, QueueError> {
        let mut connection = self.link.get().await.map_err(QueueError::unavailable)?;
        let last = connection.hget(&self.ticks, job).await.map_err(QueueError::unavailable)?;
        Option::<i64>::map(last, |last| instant(job, last)).transpose()
    }

    async fn start(&self, job: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, QueueError> {
        let mut script = self.script(&START);
        script.key(self.ticks.clone()).arg(job).arg(now.timestamp_millis());
        instant(job, self.call(&script).await?)
    }

    async fn claim(&self, me: &str, busy: bool) -> Result<Claim, QueueError> {
        if Self::is_time(&self.shared.next_forget, SILENT_MAX) {
            self.leave("").await?;
        }
        self.on_reader(async |reader| self.claim_on(reader, me, busy).await).await.inspect_err(|_| {
            // After an outage the owners speak first: what looks stale may still run.
            *lock(&self.shared.next_check) = Some(Instant::now() + self.options.visibility / 3);
        })
    }

    async fn touch(&self, me: &str, ids: &[String]) -> Result<Vec<String>, QueueError> {
        let mut script = self.script(&TOUCH);
        script.arg(me).arg(ids);
        self.call(&script).await
    }

    async fn finish(&self, me: &str, id: &str, report: &Report) -> Result<bool, QueueError> {
        self.settle(me, id, "", Some(report), false).await.map(|(is_ours, _)| is_ours)
    }

    async fn finish_then_claim(&self, me: &str, id: &str, report: &Report) -> Result<(bool, Claim), QueueError> {
        // A claim looks for stale deliveries first, when it is time for that.
        let next = !is_due(*lock(&self.shared.next_check));
        self.settle(me, id, "", Some(report), next).await
    }

    async fn retry(&self, me: &str, id: &str, pause: Duration) -> Result<bool, QueueError> {
        self.give_back(me, id, pause, false).await
    }

    async fn hand_back(&self, me: &str, id: &str) -> Result<bool, QueueError> {
        self.give_back(me, id, Duration::ZERO, true).await
    }

    async fn bury(&self, me: &str, id: &str, reason: &str, report: Option<&Report>) -> Result<bool, QueueError> {
        let reason = if reason.is_empty() { "no reason given" } else { reason };
        self.settle(me, id, reason, report, false).await.map(|(is_ours, _)| is_ours)
    }

    async fn leave(&self, me: &str) -> Result<(), QueueError> {
        let mut script = self.script(&FORGET);
        script.arg(me).arg(millis(SILENT_MAX));
        self.call(&script).await
    }

    async fn has(&self, id: &str) -> Result<bool, QueueError> {
        let mut connection = self.link.get().await.map_err(QueueError::unavailable)?;
        let entries: Vec<redis::Value> = redis::cmd("XRANGE")
            .arg(self.stream())
            .arg(&[id, id])
            .query_async(&mut connection)
            .await
            .map_err(QueueError::unavailable)?;
        Ok(!entries.is_empty())
    }

    async fn dead(&self, limit: usize) -> Result<Vec<Dead>, QueueError> {
        let mut connection = self.link.get().await.map_err(QueueError::unavailable)?;
        let entries: Vec<(String, Fields)> = redis::cmd("XREVRANGE")
            .arg(self.dead_key())
            .arg(&["+", "-", "COUNT"])
            .arg(limit)
            .query_async(&mut connection)
            .await
            .map_err(QueueError::unavailable)?;
        entries.into_iter().map(|(at, fields)| dead_entry(&at, &fields)).collect()
    }

    async fn dead_retry(&self, id: &str) -> Result<bool, QueueError> {
        self.take_dead(id, true).await
    }

    async fn dead_drop(&self, id: &str) -> Result<bool, QueueError> {
        self.take_dead(id, false).await
    }

    async fn stats(&self) -> Result<Stats, QueueError> {
        let mut script = self.script(&STATS);
        script.key(self.dead_key());
        let (waiting, running, dead) = self.call(&script).await?;
        Ok(Stats { waiting, running, dead })
    }

    fn again(&self) -> Arc<dyn Queue> {
        Arc::new(Self { link: self.link.again(), shared: Arc::default(), ..self.clone() })
    }

    fn of_host(&self, host: &str) -> Option<Arc<dyn Queue>> {
        Some(Arc::new(self.at_host(host)))
    }
}

fn is_due(next: Option<Instant>) -> bool {
    next.is_none_or(|next| Instant::now() >= next)
}

fn full(waiting: &str) -> QueueError {
    QueueError::Full(waiting.parse().unwrap_or_default())
}

/// Redis says NOGROUP, or that there is no such key, depending on its version and on what was lost.
fn is_group_missing(error: &RedisError) -> bool {
    error.code() == Some("NOGROUP") || error.to_string().contains("NOGROUP")
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The guarded values are plain: a panic elsewhere cannot leave them half written.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
