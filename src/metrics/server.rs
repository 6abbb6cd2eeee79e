//! Serves `/metrics` and `/healthz`.

mod seats;

use std::{
    collections::BTreeMap,
    future::Future,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use chrono::{DateTime, Utc};
use serde_json::json;
use tokio::{net::TcpListener, sync::Mutex};
use tokio_util::sync::CancellationToken;

use self::seats::Seats;
use super::{Metrics, MetricsError};
use crate::{Janitor, queue::Stats, report::chain};

/// How long the queue or the ledger may take before the answer goes without it.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// The last successes are read again after this long for each job: that is ten commands a second at most.
const FRESH_PER_JOB: Duration = Duration::from_millis(100);
/// The most entries of the dead list that are looked at, to tell whose they are.
const DEAD_MAX: usize = 1_000;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A port that is had, and will be served.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

/// What the handlers share.
#[derive(Clone)]
struct Shared {
    janitor: Janitor,
    metrics: Metrics,
    successes: Arc<Mutex<Successes>>,
}

/// When each job last succeeded, as it was read from the ledger.
#[derive(Default)]
struct Successes {
    read: Option<Instant>,
    by_job: BTreeMap<String, DateTime<Utc>>,
}

impl Server {
    /// Takes the port, so that a wrong `listen` is an error at the start.
    pub async fn bind(listen: SocketAddr) -> Result<Self, MetricsError> {
        let cannot = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::AddrInUse => MetricsError::Taken(listen),
            _ => MetricsError::Listen(listen, error),
        };
        let listener = TcpListener::bind(listen).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        Ok(Self { listener, address })
    }

    /// Where it listens; of interest where the port was 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is cancelled.
    pub async fn run(self, janitor: Janitor, metrics: Metrics, stop: CancellationToken) {
        tracing::info!(address = %self.address, "metrics served");
        let shared = Shared { janitor, metrics, successes: Arc::default() };
        let routes = Router::new().route("/metrics", get(scrape)).route("/healthz", get(healthz)).with_state(shared);
        tokio::select! {
            ended = async { axum::serve(Seats::new(self.listener), routes).await } => {
                if let Err(error) = ended {
                    tracing::error!(%error, "metrics are not served any more");
                }
            }
            () = stop.cancelled() => {}
        }
    }
}

/// Never an error: what can be said without the queue is said without it.
async fn scrape(State(shared): State<Shared>) -> impl IntoResponse {
    let (queue, successes) = tokio::join!(shared.stats(), shared.successes());
    shared.metrics.queue(queue.ok());
    for (job, at) in successes {
        shared.metrics.succeeded(&job, at);
    }
    ([(CONTENT_TYPE, OPEN_METRICS)], shared.metrics.text(shared.janitor.clock().now()))
}

async fn healthz(State(shared): State<Shared>) -> impl IntoResponse {
    let queue = shared.stats().await;
    shared.metrics.queue(queue.as_ref().ok().copied());
    let (code, body) = match queue {
        Ok(stats) => (StatusCode::OK, shared.health(stats).await),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, json!({"status": "unavailable", "error": error})),
    };
    (code, [(CONTENT_TYPE, "application/json")], format!("{body}\n"))
}

impl Shared {
    async fn stats(&self) -> Result<Stats, String> {
        in_time(self.janitor.stats()).await
    }

    async fn health(&self, stats: Stats) -> serde_json::Value {
        let (successes, dead) = tokio::join!(self.successes(), self.dead_by_job(stats.dead));
        let jobs: serde_json::Map<_, _> = (self.janitor.config().jobs.keys())
            .map(|job| {
                let entry = json!({
                    "last_success": successes.get(job),
                    "oldest_due": self.metrics.oldest_due(job),
                    "dead": dead.get(job).copied().unwrap_or(0),
                });
                (job.clone(), entry)
            })
            .collect();
        json!({"status": "ok", "queue": stats, "jobs": jobs})
    }

    async fn dead_by_job(&self, dead: u64) -> BTreeMap<String, u64> {
        let mut by_job = BTreeMap::new();
        if dead == 0 {
            return by_job;
        }
        for entry in in_time(self.janitor.dead(DEAD_MAX)).await.unwrap_or_default() {
            if let Some((_, job)) = entry.fields.into_iter().find(|(field, _)| field == "job") {
                *by_job.entry(job).or_default() += 1;
            }
        }
        by_job
    }

    /// When each job last succeeded, on any host; what the ledger said before, where it does not answer.
    async fn successes(&self) -> BTreeMap<String, DateTime<Utc>> {
        let jobs = &self.janitor.config().jobs;
        let fresh = FRESH_PER_JOB * u32::try_from(jobs.len()).unwrap_or(u32::MAX);
        let mut successes = self.successes.lock().await;
        if successes.read.is_some_and(|read| read.elapsed() < fresh) {
            return successes.by_job.clone();
        }
        let read = in_time(async {
            let mut by_job = BTreeMap::new();
            for job in jobs.keys() {
                if let Some(at) = self.janitor.ledger().last_success(job).await? {
                    by_job.insert(job.clone(), at);
                }
            }
            Ok::<_, crate::ledger::LedgerError>(by_job)
        });
        match read.await {
            Ok(by_job) => *successes = Successes { read: Some(Instant::now()), by_job },
            Err(error) => tracing::debug!(error, "last successes not read"),
        }
        successes.by_job.clone()
    }
}

/// The answer, if it comes in time.
async fn in_time<T, E: std::error::Error>(answer: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match tokio::time::timeout(ANSWER_MAX, answer).await {
        Ok(answer) => answer.map_err(|error| chain(&error)),
        Err(_) => Err(format!("no answer within {} s", ANSWER_MAX.as_secs())),
    }
}
