//! Beats over real queues: each tick once, whatever happens to the beats and to the queue.

use std::{collections::BTreeSet, future::Future, sync::Arc, time::Duration};

use apalis_janitor::{
    Janitor,
    beat::run_beat,
    clock::SystemClock,
    config::Config,
    embedded,
    ledger::{Ledger, memory::MemoryLedger},
    link::Link,
    lock::memory::MemoryLock,
    queue::{Claim, Queue, QueueOptions, Request, redis::RedisQueue, sqlite::SqliteQueue},
    report::Mode,
};
use chrono::{DateTime, Timelike, Utc};
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::redis::{RedisOptions, RedisServer};

/// How long a case waits for what must come.
const COMES_MAX: Duration = Duration::from_secs(20);

const OPTIONS: QueueOptions =
    QueueOptions { visibility: Duration::from_mins(1), max_deliveries: 3, backlog_max: 10_000 };

/// A janitor whose jobs `names` tick every second.
fn janitor(queue: &Arc<dyn Queue>, ledger: &Arc<MemoryLedger>, names: &[&str]) -> Janitor {
    let job = |name| format!("[jobs.{name}]\nkind = \"retention\"\nschedule = \"every 1s\"\nstore = \"memory:\"\n");
    let text: String = names.iter().map(job).collect();
    let config = Config::parse_with(&text, "janitor.toml".as_ref(), &|_| None).unwrap();
    Janitor::over(config, queue.clone(), Arc::new(MemoryLock::default()), ledger.clone(), Arc::new(SystemClock))
}

async fn comes<F: Future<Output = bool>>(what: &str, mut is_there: impl FnMut() -> F) {
    let waited = tokio::time::timeout(COMES_MAX, async {
        while !is_there().await {
            sleep(Duration::from_millis(50)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} did not come"));
}

/// The ticks of `job` on the queue, which are claimed.
async fn ticks(queue: &dyn Queue, job: &str) -> Vec<DateTime<Utc>> {
    let mut ticks = Vec::new();
    while queue.stats().await.unwrap().waiting > 0 {
        if let Claim::Run(delivery) = queue.claim("reader", false).await.unwrap() {
            let Request { job: name, mode, tick } = delivery.request;
            assert_eq!(mode, Mode::Apply);
            ticks.extend(tick.filter(|_| name == job));
        }
    }
    ticks
}

async fn waiting(queue: &Arc<dyn Queue>) -> u64 {
    queue.stats().await.unwrap().waiting
}

async fn five_beats_enqueue_each_tick_once(queue: Arc<dyn Queue>) {
    let ledger = Arc::new(MemoryLedger::default());
    let stop = CancellationToken::new();
    let mut beats = JoinSet::new();
    for _ in 0..5 {
        beats.spawn(run_beat(janitor(&queue, &ledger, &["second"]), stop.clone()));
    }
    comes("the fourth tick", || async { waiting(&queue).await >= 4 }).await;
    // One dies without a word, another one starts: nobody notices.
    beats.abort_all();
    let after = waiting(&queue).await;
    beats.spawn(run_beat(janitor(&queue, &ledger, &["second"]), stop.clone()));
    comes("two more ticks", || async { waiting(&queue).await >= after + 2 }).await;
    stop.cancel();
    while beats.join_next().await.is_some() {}
    let ticks = ticks(&*queue, "second").await;
    assert!(ticks.iter().all(|tick| tick.nanosecond() == 0));
    assert_eq!(ticks.iter().collect::<BTreeSet<_>>().len(), ticks.len(), "{ticks:?}");
    assert!(ticks.is_sorted());
}

#[tokio::test]
async fn five_beats_enqueue_each_tick_once_on_redis() {
    let server = RedisServer::start().await;
    five_beats_enqueue_each_tick_once(Arc::new(RedisQueue::new(Link::new(&server.url(), "j").unwrap(), OPTIONS))).await;
}

#[tokio::test]
async fn five_beats_enqueue_each_tick_once_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let pool = embedded::open(folder.path()).await.unwrap();
    five_beats_enqueue_each_tick_once(Arc::new(SqliteQueue::new(pool, OPTIONS, Arc::new(SystemClock)))).await;
}

#[tokio::test]
async fn a_paused_job_is_not_enqueued_and_goes_on_after_its_pause() {
    let folder = tempfile::tempdir().unwrap();
    let pool = embedded::open(folder.path()).await.unwrap();
    let queue: Arc<dyn Queue> = Arc::new(SqliteQueue::new(pool, OPTIONS, Arc::new(SystemClock)));
    let ledger = Arc::new(MemoryLedger::default());
    ledger.pause("paused").await.unwrap();
    let stop = CancellationToken::new();
    let beat = tokio::spawn(run_beat(janitor(&queue, &ledger, &["other", "paused"]), stop.clone()));
    comes("two ticks of the other", || async { waiting(&queue).await >= 2 }).await;
    assert!(ticks(&*queue, "paused").await.is_empty());
    let resumed = Utc::now();
    ledger.resume("paused").await.unwrap();
    comes("ticks of both", || async { waiting(&queue).await >= 3 }).await;
    stop.cancel();
    beat.await.unwrap();
    let ticks = ticks(&*queue, "paused").await;
    assert!(!ticks.is_empty());
    assert!(ticks.iter().all(|tick| *tick > resumed - chrono::TimeDelta::seconds(2)), "{ticks:?} after {resumed}");
}

#[tokio::test]
async fn a_beat_outlives_its_redis_and_makes_up_one_tick() {
    let mut server = RedisServer::start_with(RedisOptions { append_only: true, ..RedisOptions::default() }).await;
    let queue: Arc<dyn Queue> = Arc::new(RedisQueue::new(Link::new(&server.url(), "j").unwrap(), OPTIONS));
    let ledger = Arc::new(MemoryLedger::default());
    let stop = CancellationToken::new();
    let beat = tokio::spawn(run_beat(janitor(&queue, &ledger, &["second"]), stop.clone()));
    comes("the first tick", || async { waiting(&queue).await >= 1 }).await;
    server.stop().await;
    // Long enough for ticks to be missed, and for the beat to have met the outage.
    let down = Utc::now();
    comes("three seconds", || async move { (Utc::now() - down).num_seconds() >= 3 }).await;
    server.restart().await;
    let before = waiting(&queue).await;
    comes("a tick after the outage", || async { waiting(&queue).await > before }).await;
    stop.cancel();
    beat.await.unwrap();
    let ticks = ticks(&*queue, "second").await;
    assert_eq!(ticks.iter().collect::<BTreeSet<_>>().len(), ticks.len());
    let missed = ticks.iter().filter(|tick| **tick > down && **tick < down + chrono::TimeDelta::seconds(2)).count();
    assert_eq!(missed, 0, "a flood: {ticks:?} after an outage from {down}");
}
