//! The apalis backend over real queues.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod outages;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use apalis_core::{
    error::{BoxDynError, WorkerError},
    task::attempt::Attempt,
    worker::{builder::WorkerBuilder, context::WorkerContext},
};
use apalis_janitor::{
    clock::SystemClock,
    embedded,
    link::Link,
    queue::{
        Enqueued, Queue, QueueOptions, Request, Stats,
        backend::{Blank, QueueBackend, Unsettled},
        conformance::report,
        redis::RedisQueue,
        sqlite::SqliteQueue,
    },
    report::{Mode, Outcome, Report},
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::redis::RedisServer;

/// How long a test waits for what must come.
const COMES_MAX: Duration = Duration::from_secs(20);

fn options(visibility: Duration) -> QueueOptions {
    QueueOptions { visibility, max_deliveries: 3, backlog_max: 1_000 }
}

fn redis_queue(server: &RedisServer, options: QueueOptions) -> Arc<dyn Queue> {
    Arc::new(RedisQueue::new(Link::new(&server.url(), "janitor").unwrap(), options))
}

fn request(job: &str) -> Request {
    Request { job: job.to_owned(), mode: Mode::Apply, tick: None }
}

async fn enqueue(queue: &dyn Queue, job: &str) {
    assert!(matches!(queue.enqueue(&request(job), None).await.unwrap(), Enqueued::New(_)));
}

fn done(request: &Request, attempt: &Attempt) -> Report {
    let attempt = u32::try_from(attempt.current()).unwrap();
    Report { attempt, ..report(&ulid::Ulid::generate().to_string(), &request.job, Outcome::Done) }
}

fn blank() -> Blank {
    Arc::new(|request, attempt| {
        let id = ulid::Ulid::generate().to_string();
        Report { attempt, ..report(&id, &request.job, Outcome::Failed) }
    })
}

/// A worker that runs in the background.
struct Running {
    context: WorkerContext,
    handle: JoinHandle<Result<(), WorkerError>>,
}

impl Running {
    /// Stops it and waits until it has ended.
    async fn stop(self) {
        self.context.stop().unwrap();
        timeout(COMES_MAX, self.handle).await.expect("it ends").unwrap().unwrap();
    }

    /// Drops it where it stands, as a process that has no more time does.
    async fn drop_now(self) {
        self.handle.abort();
        assert!(self.handle.await.unwrap_err().is_cancelled());
    }
}

/// Runs `job` on the requests of `queue`, `concurrency` at once.
fn start<J, F>(queue: Arc<dyn Queue>, concurrency: usize, job: J) -> Running
where
    J: FnMut(Request, Attempt) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Report, BoxDynError>> + Send + 'static,
{
    let context = WorkerContext::new("w");
    let backend = QueueBackend::new(queue, concurrency, blank());
    let worker = WorkerBuilder::new(&context).backend(backend).build(job);
    Running { context, handle: tokio::spawn(worker.run()) }
}

/// Polls until `probe` answers something.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + COMES_MAX;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn until_stats(queue: &dyn Queue, expected: Stats) {
    until(&format!("{expected:?}"), || async { (queue.stats().await.ok()? == expected).then_some(()) }).await;
}

async fn redis_reports(server: &RedisServer, job: &str) -> Vec<Report> {
    let bodies = server.cli(&["LRANGE", &format!("{{janitor}}:reports:{job}"), "0", "-1"]).await;
    bodies.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn runs_each_request_once_and_records_its_report() {
    let server = RedisServer::start().await;
    let queue = redis_queue(&server, options(Duration::from_mins(1)));
    for n in 0..20 {
        enqueue(&*queue, &format!("job-{n}")).await;
    }
    let worker =
        start(queue.clone(), 2, |request: Request, attempt: Attempt| async move { Ok(done(&request, &attempt)) });
    until_stats(&*queue, Stats::default()).await;
    for n in 0..20 {
        let reports = redis_reports(&server, &format!("job-{n}")).await;
        assert_eq!((reports.len(), reports[0].attempt), (1, 1));
    }
    worker.stop().await;
    assert_eq!(server.cli(&["XINFO", "CONSUMERS", "{janitor}:queue:default", "workers"]).await, "", "it left");
}

/// What a settling brought along as the worker stopped goes back, too: nothing waits for its visibility to end.
#[tokio::test]
async fn keeps_nothing_of_a_long_backlog_when_it_stops() {
    let server = RedisServer::start().await;
    let queue = redis_queue(&server, options(Duration::from_mins(10)));
    let append = "for _ = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'job', 'a', 'mode', 'apply') end";
    server.cli(&["EVAL", append, "1", "{janitor}:queue:default", "900"]).await;
    let run = |request: Request, attempt: Attempt| async move { Ok(done(&request, &attempt)) };
    for left in [700, 500, 300] {
        let worker = start(queue.clone(), 3, run);
        until("some of the backlog", || async { (queue.stats().await.ok()?.waiting < left).then_some(()) }).await;
        worker.stop().await;
    }
    let worker = start(queue.clone(), 3, run);
    until_stats(&*queue, Stats::default()).await;
    worker.stop().await;
    let reports = redis_reports(&server, "a").await;
    assert_eq!((reports.len(), reports.iter().filter(|report| report.attempt > 1).count()), (900, 0));
}

#[tokio::test]
async fn runs_requests_of_the_embedded_queue() {
    let folder = tempfile::tempdir().unwrap();
    let pool = embedded::open(folder.path()).await.unwrap();
    let queue = Arc::new(SqliteQueue::new(pool.clone(), options(Duration::from_mins(1)), Arc::new(SystemClock)));
    let worker =
        start(queue.clone(), 2, |request: Request, attempt: Attempt| async move { Ok(done(&request, &attempt)) });
    for n in 0..20 {
        enqueue(&*queue, &format!("job-{n}")).await;
    }
    until_stats(&*queue, Stats::default()).await;
    let reports: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM report").fetch_one(&pool).await.unwrap();
    assert_eq!(reports, 20);
    worker.stop().await;
}

#[tokio::test]
async fn runs_no_more_at_once_than_it_may() {
    let server = RedisServer::start().await;
    let queue = redis_queue(&server, options(Duration::from_mins(1)));
    for n in 0..6 {
        enqueue(&*queue, &format!("job-{n}")).await;
    }
    let (started, mut starts) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let job = {
        let gate = gate.clone();
        move |request: Request, attempt: Attempt| {
            let (started, gate) = (started.clone(), gate.clone());
            async move {
                started.send(()).unwrap();
                gate.acquire().await.unwrap().forget();
                Ok(done(&request, &attempt))
            }
        }
    };
    let worker = start(queue.clone(), 2, job);
    starts.recv().await.unwrap();
    starts.recv().await.unwrap();
    // The rest waits on the queue, where another worker could have it.
    assert_eq!(queue.stats().await.unwrap(), Stats { waiting: 4, running: 2, dead: 0 });
    gate.add_permits(6);
    until_stats(&*queue, Stats::default()).await;
    worker.stop().await;
}

#[tokio::test]
async fn buries_a_job_that_panics_each_time_and_goes_on() {
    let server = RedisServer::start().await;
    let queue = redis_queue(&server, options(Duration::from_millis(600)));
    enqueue(&*queue, "bad").await;
    enqueue(&*queue, "good").await;
    let runs = Arc::new(AtomicUsize::new(0));
    let counter = runs.clone();
    let worker = start(queue.clone(), 1, move |request: Request, attempt: Attempt| {
        let counter = counter.clone();
        async move {
            if request.job == "bad" {
                counter.fetch_add(1, SeqCst);
                panic!("no such table");
            }
            Ok(done(&request, &attempt))
        }
    });
    until_stats(&*queue, Stats { waiting: 0, running: 0, dead: 1 }).await;
    assert_eq!(runs.load(SeqCst), 3);
    let reports = redis_reports(&server, "bad").await;
    assert_eq!((reports.len(), reports[0].outcome, reports[0].attempt), (1, Outcome::Failed, 3));
    assert_eq!(reports[0].reason.as_deref(), Some("panicked: no such table"));
    assert_eq!(queue.dead(1).await.unwrap()[0].reason, "panicked: no such table");
    assert_eq!(redis_reports(&server, "good").await.len(), 1);
    worker.stop().await;
}

#[tokio::test]
async fn buries_an_entry_that_is_no_request_and_goes_on() {
    let server = RedisServer::start().await;
    let queue = redis_queue(&server, options(Duration::from_mins(1)));
    let worker =
        start(queue.clone(), 1, |request: Request, attempt: Attempt| async move { Ok(done(&request, &attempt)) });
    server.cli(&["XADD", "{janitor}:queue:default", "*", "what", "is this"]).await;
    server.cli(&["XADD", "{janitor}:queue:default", "*", "job", "a", "mode", "apply"]).await;
    until_stats(&*queue, Stats { waiting: 0, running: 0, dead: 1 }).await;
    assert_eq!(redis_reports(&server, "a").await.len(), 1);
    assert_eq!(queue.dead(1).await.unwrap()[0].reason, "the field \"job\" is missing");
    worker.stop().await;
}

#[tokio::test]
async fn hands_back_a_job_that_was_stopped() {
    let server = RedisServer::start().await;
    let queue = redis_queue(&server, options(Duration::from_mins(1)));
    enqueue(&*queue, "a").await;
    let tries = Arc::new(AtomicUsize::new(0));
    let worker = start(queue.clone(), 1, move |request: Request, attempt: Attempt| {
        let tries = tries.clone();
        async move {
            if tries.fetch_add(1, SeqCst) == 0 { Err(Unsettled::HandBack.into()) } else { Ok(done(&request, &attempt)) }
        }
    });
    until_stats(&*queue, Stats::default()).await;
    assert_eq!(redis_reports(&server, "a").await[0].attempt, 1);
    worker.stop().await;
}

#[tokio::test]
async fn runs_a_last_delivery_alone() {
    let server = RedisServer::start().await;
    let visibility = Duration::from_millis(400);
    let queue = redis_queue(&server, options(visibility));
    enqueue(&*queue, "poison").await;
    for _ in 0..2 {
        until("a delivery", || async {
            matches!(queue.claim("gone", false).await.ok()?, apalis_janitor::queue::Claim::Run(_)).then_some(())
        })
        .await;
    }
    for n in 0..4 {
        enqueue(&*queue, &format!("job-{n}")).await;
    }
    let (at_once, beside) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let seen = beside.clone();
    let worker = start(queue.clone(), 3, move |request: Request, attempt: Attempt| {
        let (at_once, beside) = (at_once.clone(), beside.clone());
        async move {
            at_once.fetch_add(1, SeqCst);
            // Longer than another claim takes.
            for _ in 0..10 {
                if request.job == "poison" {
                    beside.lock().unwrap().push(at_once.load(SeqCst));
                }
                sleep(Duration::from_millis(20)).await;
            }
            at_once.fetch_sub(1, SeqCst);
            Ok(done(&request, &attempt))
        }
    });
    until_stats(&*queue, Stats::default()).await;
    assert_eq!(redis_reports(&server, "poison").await[0].attempt, 3);
    assert!(seen.lock().unwrap().iter().all(|at_once| *at_once == 1), "{seen:?}");
    worker.stop().await;
}
