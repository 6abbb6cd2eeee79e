//! A Redis with a queue in it, and workers in this process whose job does nothing.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use apalis_core::{
    error::{BoxDynError, WorkerError},
    task::data::Data,
    worker::{builder::WorkerBuilder, context::WorkerContext},
};
use apalis_janitor::{
    link::Link,
    queue::{
        Queue, QueueOptions, Request, Stats,
        backend::{Blank, Lease, QueueBackend},
        redis::RedisQueue,
    },
    report::{Mode, Outcome, Report},
};
use chrono::Utc;
use redis::{AsyncConnectionConfig, Client, aio::MultiplexedConnection};
use tokio::{sync::Notify, task::JoinHandle, time::sleep};

use crate::server::RedisServer;

/// The queue of all hosts.
pub const STREAM: &str = "{janitor}:queue:default";
/// The job of the requests that are appended.
pub const JOB: &str = "nothing";
/// How many commands are sent at once where many are.
const AT_ONCE: usize = 1_000;
/// As by default.
const VISIBILITY: Duration = Duration::from_mins(1);

/// A Redis of one's own.
pub struct World {
    pub server: RedisServer,
    pub client: MultiplexedConnection,
}

impl World {
    pub async fn start() -> Self {
        let server = RedisServer::start().await;
        let client = connect(&server).await;
        Self { server, client }
    }

    /// The queue, over connections of its own, as a worker with the default configuration has it.
    pub fn queue(&self) -> Arc<dyn Queue> {
        self.queue_of(100_000)
    }

    /// The queue with another limit of its backlog.
    pub fn queue_of(&self, backlog_max: u64) -> Arc<dyn Queue> {
        let options = QueueOptions { visibility: VISIBILITY, max_deliveries: 3, backlog_max };
        Arc::new(RedisQueue::new(Link::new(&self.server.url(), "janitor").unwrap(), options))
    }

    /// Appends requests as any program can.
    pub async fn append(&mut self, count: usize, mode: Mode) {
        for first in (0..count).step_by(AT_ONCE) {
            let mut pipeline = redis::pipe();
            for _ in first..count.min(first + AT_ONCE) {
                pipeline.cmd("XADD").arg(&[STREAM, "*", "job", JOB, "mode", mode.as_str()]).ignore();
            }
            pipeline.exec_async(&mut self.client).await.unwrap();
        }
    }

    /// How often each command was called until now, by scripts too.
    pub async fn calls(&mut self) -> BTreeMap<String, u64> {
        let told: String = redis::cmd("INFO").arg("commandstats").query_async(&mut self.client).await.unwrap();
        let call = |line: &str| {
            let (name, counts) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), counts.split(',').next()?.parse().ok()?))
        };
        told.lines().filter_map(call).collect()
    }

    /// What the server says about its memory, in MB.
    pub async fn used_mb(&mut self) -> u64 {
        let told: String = redis::cmd("INFO").arg("memory").query_async(&mut self.client).await.unwrap();
        let used = told.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
        used.trim().parse::<u64>().unwrap() >> 20
    }
}

/// How many commands were called from one count to the next.
pub fn called(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> u64 {
    let ours = |calls: &BTreeMap<String, u64>| {
        calls.iter().filter(|(name, _)| name.as_str() != "info").map(|(_, calls)| calls).sum::<u64>()
    };
    ours(after) - ours(before)
}

/// A connection on which an answer may take as long as a read blocks.
pub async fn connect(server: &RedisServer) -> MultiplexedConnection {
    let client = Client::open(server.url()).unwrap();
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(20)));
    client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

/// What is still to come, and the notice that all of it came.
#[derive(Debug, Default)]
pub struct Countdown {
    left: AtomicUsize,
    over: Notify,
}

impl Countdown {
    pub fn of(count: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(count), over: Notify::new() })
    }

    /// One more came.
    pub fn one(&self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.over.notify_one();
        }
    }

    pub fn is_over(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }

    /// Waits until all came.
    pub async fn over(&self) {
        self.over.notified().await;
    }
}

/// A worker in this process.
pub struct Worker {
    context: WorkerContext,
    handle: JoinHandle<Result<(), WorkerError>>,
}

impl Worker {
    /// Calls `job` with each request's id, and reports that it is done.
    pub fn start(
        name: &str,
        queue: Arc<dyn Queue>,
        concurrency: usize,
        job: impl Fn(&str) + Clone + Send + Sync + 'static,
    ) -> Self {
        let blank: Blank = Arc::new(|request, _| done(request));
        let run = move |request: Request, lease: Data<Arc<Lease>>| {
            job(&lease.delivery().id);
            async move { Ok::<_, BoxDynError>(done(&request)) }
        };
        let context = WorkerContext::new(name);
        let worker = WorkerBuilder::new(&context).backend(QueueBackend::new(queue, concurrency, blank)).build(run);
        Self { context, handle: tokio::spawn(worker.run()) }
    }

    pub async fn stop(self) {
        self.context.stop().unwrap();
        self.handle.await.unwrap().unwrap();
    }
}

fn done(request: &Request) -> Report {
    Report::new(&request.job, "nothing", request.mode, Outcome::Done, Utc::now())
}

/// Waits until nothing waits or runs.
pub async fn until_empty(queue: &dyn Queue) {
    while queue.stats().await.unwrap() != Stats::default() {
        sleep(Duration::from_millis(1)).await;
    }
}

/// The share `of` 1 of the spans that are at most as long as the answer.
pub fn percentile(spans: &mut [Duration], of: f64) -> Duration {
    spans.sort_unstable();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length")]
    let at = (spans.len() as f64 * of).ceil() as usize;
    spans[at.clamp(1, spans.len()) - 1]
}

/// Waits until the workers have run all there is and nothing is left, and stops them; how long that took since it `began`.
pub async fn drained(queue: &dyn Queue, left: Arc<Countdown>, workers: Vec<Worker>, began: Instant) -> Duration {
    left.over().await;
    until_empty(queue).await;
    let took = began.elapsed();
    for worker in workers {
        worker.stop().await;
    }
    took
}
