//! The apalis backend when something is away: the worker, its runtime, its Redis.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use apalis_core::{error::BoxDynError, task::attempt::Attempt};
use apalis_janitor::{
    queue::{Request, Stats},
    report::Report,
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{sleep, timeout},
};

use super::{COMES_MAX, done, enqueue, options, redis_queue, redis_reports, request, start, until, until_stats};
use crate::redis::{RedisOptions, RedisServer};

#[tokio::test]
async fn hands_back_what_a_dropped_worker_had_at_once_and_uncounted() {
    let server = RedisServer::start().await;
    let queue = redis_queue(&server, options(Duration::from_mins(1)));
    enqueue(&*queue, "a").await;
    let (started, mut starts) = mpsc::unbounded_channel();
    let worker = start(queue.clone(), 1, move |_: Request, _: Attempt| {
        let started = started.clone();
        async move {
            started.send(()).unwrap();
            std::future::pending::<Result<Report, BoxDynError>>().await
        }
    });
    starts.recv().await.unwrap();
    worker.drop_now().await;
    let worker =
        start(queue.clone(), 1, |request: Request, attempt: Attempt| async move { Ok(done(&request, &attempt)) });
    until_stats(&*queue, Stats::default()).await;
    assert_eq!(redis_reports(&server, "a").await[0].attempt, 1);
    worker.stop().await;
}

#[tokio::test]
async fn keeps_a_request_while_its_job_blocks_the_runtime() {
    let server = RedisServer::start().await;
    let visibility = Duration::from_millis(600);
    let queue = redis_queue(&server, options(visibility));
    enqueue(&*queue, "a").await;
    let runs = Arc::new(AtomicUsize::new(0));
    let counter = runs.clone();
    let worker = start(queue.clone(), 1, move |request: Request, attempt: Attempt| {
        let counter = counter.clone();
        async move {
            counter.fetch_add(1, SeqCst);
            // The job's work: it blocks the only thread that this test's runtime has.
            std::thread::sleep(visibility * 3);
            tokio::task::yield_now().await;
            Ok(done(&request, &attempt))
        }
    });
    until_stats(&*queue, Stats::default()).await;
    assert_eq!((runs.load(SeqCst), redis_reports(&server, "a").await.len()), (1, 1));
    worker.stop().await;
}

/// Says that a job was dropped.
struct Dropped(Option<oneshot::Sender<()>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        if let Some(sender) = self.0.take() {
            let _ = sender.send(());
        }
    }
}

#[tokio::test]
async fn stops_a_job_whose_queue_is_silent_for_longer_than_its_lease() {
    let server = RedisServer::start().await;
    let queue = redis_queue(&server, options(Duration::from_millis(600)));
    enqueue(&*queue, "a").await;
    let (started, mut starts) = mpsc::unbounded_channel();
    let (dropped, is_dropped) = oneshot::channel();
    let dropped = Arc::new(Mutex::new(Some(dropped)));
    let worker = start(queue.clone(), 1, move |request: Request, attempt: Attempt| {
        let (started, guard) = (started.clone(), Dropped(dropped.lock().unwrap().take()));
        async move {
            if attempt.current() > 1 {
                return Ok(done(&request, &attempt));
            }
            started.send(()).unwrap();
            std::future::pending::<()>().await;
            drop(guard);
            Err("it cannot come here".into())
        }
    });
    starts.recv().await.unwrap();
    server.freeze();
    timeout(COMES_MAX, is_dropped).await.expect("the job is dropped").unwrap();
    server.thaw();
    until_stats(&*queue, Stats::default()).await;
    assert_eq!(redis_reports(&server, "a").await[0].attempt, 2);
    worker.stop().await;
}

#[tokio::test]
async fn goes_on_after_its_redis_came_back_with_its_file() {
    let mut server = RedisServer::start_with(RedisOptions { append_only: true, ..RedisOptions::default() }).await;
    let queue = redis_queue(&server, options(Duration::from_secs(5)));
    enqueue(&*queue, "a").await;
    let (started, mut starts) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let worker = start(queue.clone(), 1, move |request: Request, attempt: Attempt| {
        let (started, gate) = (started.clone(), gate.clone());
        async move {
            started.send(()).unwrap();
            gate.acquire().await.unwrap().forget();
            Ok(done(&request, &attempt))
        }
    });
    starts.recv().await.unwrap();
    server.stop().await;
    opened.add_permits(9);
    server.restart().await;
    until_stats(&*queue, Stats::default()).await;
    let reports = redis_reports(&server, "a").await;
    assert_eq!((reports.len(), reports[0].attempt), (1, 1), "the job that ended meanwhile is settled, not run again");
    enqueue(&*queue, "b").await;
    until_stats(&*queue, Stats::default()).await;
    assert_eq!(redis_reports(&server, "b").await.len(), 1);
    worker.stop().await;
}

#[tokio::test]
async fn goes_on_after_its_redis_forgot_everything() {
    let mut server = RedisServer::start().await;
    let queue = redis_queue(&server, options(Duration::from_secs(2)));
    let worker =
        start(queue.clone(), 1, |request: Request, attempt: Attempt| async move { Ok(done(&request, &attempt)) });
    enqueue(&*queue, "a").await;
    until_stats(&*queue, Stats::default()).await;
    server.restart().await;
    until("an enqueue", || async { queue.enqueue(&request("b"), None).await.ok() }).await;
    until("b's report", || async { redis_reports(&server, "b").await.pop() }).await;
    server.cli(&["FLUSHALL"]).await;
    server.cli(&["XADD", "{janitor}:queue:default", "*", "job", "c", "mode", "apply"]).await;
    until("c's report", || async { redis_reports(&server, "c").await.pop() }).await;
    worker.stop().await;
}

#[tokio::test]
async fn an_idle_worker_asks_little() {
    let server = RedisServer::start().await;
    let queue = redis_queue(&server, options(Duration::from_mins(1)));
    let worker =
        start(queue.clone(), 2, |request: Request, attempt: Attempt| async move { Ok(done(&request, &attempt)) });
    enqueue(&*queue, "a").await;
    until_stats(&*queue, Stats::default()).await;
    let commands = async || -> u64 {
        let stats = server.cli(&["INFO", "stats"]).await;
        let line =
            stats.lines().find_map(|line| line.trim().strip_prefix("total_commands_processed:").map(str::to_owned));
        line.unwrap().parse().unwrap()
    };
    let before = commands().await;
    sleep(Duration::from_secs(3)).await;
    let asked = commands().await - before;
    assert!(asked <= 30, "{asked} commands in 3 s");
    worker.stop().await;
}
