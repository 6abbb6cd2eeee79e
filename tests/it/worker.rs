//! The worker: what becomes of requests that cannot run here, and how it ends.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use apalis_core::{
    backend::{TaskSink, memory::MemoryStorage},
    monitor::Monitor,
    worker::{builder::WorkerBuilder, context::WorkerContext},
};
use apalis_janitor::{
    Janitor,
    clock::SystemClock,
    config::{Config, WorkerConfig},
    handle,
    ledger::{Ledger, memory::MemoryLedger},
    link::Link,
    lock::memory::MemoryLock,
    queue::{Claim, Queue, QueueOptions, Request, Stats, Ticked, redis::RedisQueue},
    report::{Mode, Outcome, Report},
    run_worker,
};
use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::redis::RedisServer;

/// How long a test waits for what must come.
const COMES_MAX: Duration = Duration::from_secs(20);

/// A janitor that knows no job.
struct World {
    server: RedisServer,
    queue: Arc<dyn Queue>,
    ledger: Arc<MemoryLedger>,
    janitor: Janitor,
}

impl World {
    async fn start() -> Self {
        let server = RedisServer::start().await;
        let visibility = Duration::from_millis(500);
        let options = QueueOptions { visibility, max_deliveries: 2, backlog_max: 100 };
        let queue: Arc<dyn Queue> = Arc::new(RedisQueue::new(Link::new(&server.url(), "janitor").unwrap(), options));
        let worker = WorkerConfig {
            concurrency: 2,
            lock_ttl: Duration::from_secs(30),
            visibility,
            max_deliveries: 2,
            drain: Duration::from_secs(5),
            host: "h1".to_owned(),
        };
        let config = Config {
            path: None,
            data_dir: PathBuf::from("."),
            redis: None,
            worker,
            metrics: None,
            blobs: BTreeMap::new(),
            jobs: BTreeMap::new(),
            warnings: Vec::new(),
        };
        let ledger = Arc::new(MemoryLedger::default());
        let janitor = Janitor::over(
            config,
            queue.clone(),
            Arc::new(MemoryLock::default()),
            ledger.clone(),
            Arc::new(SystemClock),
        );
        Self { server, queue, ledger, janitor }
    }

    async fn until_stats(&self, expected: Stats) {
        let deadline = Instant::now() + COMES_MAX;
        while self.queue.stats().await.unwrap() != expected {
            assert!(Instant::now() < deadline, "{expected:?} did not come");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The reports on the queue's own store, newest first.
    async fn reports(&self, job: &str) -> Vec<Report> {
        let bodies = self.server.cli(&["LRANGE", &format!("{{janitor}}:reports:{job}"), "0", "-1"]).await;
        bodies.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[tokio::test]
async fn ends_at_once_when_it_is_told_to_while_idle() {
    let world = World::start().await;
    let stop = CancellationToken::new();
    let worker = tokio::spawn(run_worker(world.janitor.clone(), "w", stop.clone()));
    let deadline = Instant::now() + COMES_MAX;
    while !world.server.cli(&["CLIENT", "LIST"]).await.contains("cmd=xreadgroup") {
        assert!(Instant::now() < deadline, "it asks for work");
    }
    let stopped = Instant::now();
    stop.cancel();
    timeout(COMES_MAX, worker).await.unwrap().unwrap().unwrap();
    assert!(stopped.elapsed() < Duration::from_secs(2), "{:?}", stopped.elapsed());
    let consumers = world.server.cli(&["XINFO", "CONSUMERS", "{janitor}:queue:default", "workers"]).await;
    assert_eq!(consumers, "", "it left");
}

#[tokio::test]
async fn returns_where_it_was_stopped_before_it_began() {
    let world = World::start().await;
    let stop = CancellationToken::new();
    stop.cancel();
    timeout(COMES_MAX, run_worker(world.janitor.clone(), "w", stop)).await.unwrap().unwrap();
}

#[tokio::test]
async fn gives_a_job_that_it_does_not_know_back_until_it_is_dead() {
    let world = World::start().await;
    world.janitor.enqueue("unheard-of", Mode::Apply).await.unwrap();
    let stop = CancellationToken::new();
    let worker = tokio::spawn(run_worker(world.janitor.clone(), "w", stop.clone()));
    world.until_stats(Stats { waiting: 0, running: 0, dead: 1 }).await;
    let reports = world.reports("unheard-of").await;
    assert_eq!(reports.len(), 1);
    assert_eq!((reports[0].outcome, reports[0].attempt, reports[0].host.as_str()), (Outcome::Failed, 2, "h1"));
    assert_eq!(world.ledger.reports("unheard-of", 10).await.unwrap(), [], "the settling recorded it");
    stop.cancel();
    worker.await.unwrap().unwrap();
}

#[tokio::test]
async fn skips_a_tick_that_a_newer_one_has_overtaken() {
    let world = World::start().await;
    let earlier = DateTime::from_timestamp(Utc::now().timestamp() - 60, 0).unwrap();
    for at in [earlier, earlier + TimeDelta::seconds(30)] {
        let tick = Request { job: "a".to_owned(), mode: Mode::Apply, tick: Some(at) };
        assert!(matches!(world.queue.tick(&tick).await.unwrap(), Ticked::New(_)));
    }
    let stop = CancellationToken::new();
    let worker = tokio::spawn(run_worker(world.janitor.clone(), "w", stop.clone()));
    // The newer one goes its own way: the job is unknown.
    world.until_stats(Stats { waiting: 0, running: 0, dead: 1 }).await;
    let skipped = world.reports("a").await.pop().unwrap();
    assert_eq!((skipped.outcome, skipped.reason.as_deref()), (Outcome::Skipped, Some("superseded")));
    assert_eq!((skipped.tick, skipped.attempt), (Some(earlier), 1));
    stop.cancel();
    worker.await.unwrap().unwrap();
}

#[tokio::test]
async fn buries_what_was_lost_too_often_with_a_failed_report() {
    let world = World::start().await;
    world.janitor.enqueue("a", Mode::Apply).await.unwrap();
    for number in 1..=2 {
        let deadline = Instant::now() + COMES_MAX;
        while !matches!(world.queue.claim("gone", false).await.unwrap(), Claim::Run(delivery) if delivery.number == number)
        {
            assert!(Instant::now() < deadline, "delivery {number} did not come");
        }
    }
    let stop = CancellationToken::new();
    let worker = tokio::spawn(run_worker(world.janitor.clone(), "w", stop.clone()));
    world.until_stats(Stats { waiting: 0, running: 0, dead: 1 }).await;
    let reports = world.reports("a").await;
    assert_eq!((reports.len(), reports[0].outcome, reports[0].attempt), (1, Outcome::Failed, 2));
    assert_eq!(reports[0].reason.as_deref(), Some("lost 2 times, last by gone"));
    stop.cancel();
    worker.await.unwrap().unwrap();
}

#[tokio::test]
async fn runs_in_a_monitor_of_the_users_own() {
    let world = World::start().await;
    world.janitor.enqueue("unheard-of", Mode::Apply).await.unwrap();
    let janitor = world.janitor.clone();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let monitor = Monitor::new().register(move |_| janitor.worker("w"));
    let running = tokio::spawn(monitor.run_with_signal(async {
        let _ = stopped.await;
        Ok(())
    }));
    world.until_stats(Stats { waiting: 0, running: 0, dead: 1 }).await;
    stop.send(()).unwrap();
    timeout(COMES_MAX, running).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn records_reports_itself_on_a_foreign_backend() {
    let world = World::start().await;
    let mut storage = MemoryStorage::new();
    storage.push(Request { job: "unheard-of".to_owned(), mode: Mode::DryRun, tick: None }).await.unwrap();
    let context = WorkerContext::new("w");
    let worker = WorkerBuilder::new(&context).backend(storage).data(world.janitor.clone()).build(handle);
    let running = tokio::spawn(worker.run());
    let deadline = Instant::now() + COMES_MAX;
    while world.ledger.reports("unheard-of", 1).await.unwrap().is_empty() {
        assert!(Instant::now() < deadline, "no report came");
        sleep(Duration::from_millis(20)).await;
    }
    context.stop().unwrap();
    timeout(COMES_MAX, running).await.unwrap().unwrap().unwrap();
    let reports = world.ledger.reports("unheard-of", 10).await.unwrap();
    assert_eq!((reports.len(), reports[0].outcome, reports[0].attempt), (1, Outcome::Failed, 1));
    assert_eq!((reports[0].mode, reports[0].job.as_str()), (Mode::DryRun, "unheard-of"));
}
