//! The apalis worker: one handler for every job, which looks the job up in this worker's own configuration by name.

use std::{pin::pin, sync::Arc, time::Duration};

use apalis_core::{
    error::{BoxDynError, WorkerError},
    layers::{Identity, Stack},
    task::{Task, attempt::Attempt, data::Data},
    worker::{Worker, builder::WorkerBuilder, context::WorkerContext},
};
use futures::future::BoxFuture;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::{
    Ask, Ended, Janitor, Next,
    beat::run_host_beat,
    config::JobKind,
    jobs::Narrow,
    queue::{
        Request,
        backend::{Blank, Lease, QueueBackend, Unsettled},
    },
    report::{Outcome, Report, chain},
};

/// How often a running job's worker is asked whether it stops, which apalis does not announce.
const LOOK: Duration = Duration::from_millis(250);
/// How long a worker that has stopped waits for what it hands back.
const HAND_BACK_MAX: Duration = Duration::from_secs(5);

/// Runs what a request asks for, on any apalis backend.
///
/// On this crate's own backend the report is recorded as the request is settled, in one step. On any other one it is
/// recorded here, for every attempt, and a job that could not run is an error for that backend's retries.
///
/// ```no_run
/// use apalis_core::{backend::memory::MemoryStorage, worker::builder::WorkerBuilder};
/// # async fn example(janitor: apalis_janitor::Janitor) {
/// let worker = WorkerBuilder::new("w1").backend(MemoryStorage::new()).data(janitor).build(apalis_janitor::handle);
/// worker.run().await.unwrap();
/// # }
/// ```
///
/// # Errors
/// [`Unsettled`], where the job could not run or was stopped.
pub async fn handle(
    request: Request,
    janitor: Data<Janitor>,
    attempt: Attempt,
    worker: WorkerContext,
    lease: Option<Data<Arc<Lease>>>,
) -> Result<Report, BoxDynError> {
    let attempt = u32::try_from(attempt.current()).unwrap_or(u32::MAX).max(1);
    let Ended { report, next } = run(&janitor, &request, attempt, &worker).await;
    let is_settled_by_layer = lease.is_some();
    if !is_settled_by_layer && next != Next::HandBack {
        // The job is done: failing now would only do it again.
        if let Err(error) = janitor.ledger().record(&report).await {
            tracing::error!(job = report.job, id = report.id, error = %chain(&error), "report not recorded");
        }
        report.log();
    }
    match next {
        Next::Settle => Ok(report),
        Next::Retry => Err(Unsettled::Retry(Box::new(report)).into()),
        Next::HandBack => Err(Unsettled::HandBack.into()),
    }
}

/// Runs the job, unless a newer tick has taken its place, and stops it after the batch in hand when the worker stops.
async fn run(janitor: &Janitor, request: &Request, attempt: u32, worker: &WorkerContext) -> Ended {
    if attempt == 1 && is_superseded(janitor, request).await {
        let report = not_run(janitor, request, attempt, Outcome::Skipped, "superseded");
        return Ended { report, next: Next::Settle };
    }
    let stop = CancellationToken::new();
    let ask = Ask { request, attempt, narrow: Narrow::default(), watch: &(), stop: &stop };
    let mut execution = pin!(janitor.execute(ask));
    let ended = loop {
        tokio::select! {
            ended = &mut execution => break ended,
            () = time::sleep(LOOK), if !stop.is_cancelled() => {
                if worker.is_shutting_down() {
                    stop.cancel();
                }
            }
        }
    };
    // Another worker may have the newer file, so it goes back.
    ended.unwrap_or_else(|unknown| Ended {
        report: not_run(janitor, request, attempt, Outcome::Failed, &unknown.to_string()),
        next: Next::Retry,
    })
}

/// Whether the request's tick is older than the job's last one.
async fn is_superseded(janitor: &Janitor, request: &Request) -> bool {
    let Some(tick) = request.tick else { return false };
    let job = janitor.config().jobs.get(&request.job);
    let asked = job.map_or_else(|| janitor.clone(), |job| janitor.for_job(job));
    match asked.queue().last_tick(&request.job).await {
        Ok(last) => last.is_some_and(|last| tick < last),
        Err(error) => {
            // Running once more than needed does no harm.
            tracing::warn!(job = request.job, error = %chain(&error), "last tick unknown");
            false
        }
    }
}

/// The report of a request that did not run.
fn not_run(janitor: &Janitor, request: &Request, attempt: u32, outcome: Outcome, reason: &str) -> Report {
    let job = janitor.config().jobs.get(&request.job);
    let kind = job.map_or("unknown", |job| JobKind::as_str(&job.kind));
    Report {
        attempt,
        reason: Some(reason.to_owned()),
        tick: request.tick,
        host: janitor.config().worker.host.clone(),
        ..Report::new(&request.job, kind, request.mode, outcome, janitor.clock().now())
    }
}

/// An apalis worker of this crate, for `Monitor::register`.
pub type JanitorWorker<S> = Worker<Request, QueueBackend, S, Stack<Data<Janitor>, Identity>>;

impl Janitor {
    /// An apalis worker that runs this janitor's requests, for the user's own `Monitor`.
    ///
    /// ```no_run
    /// # async fn example(janitor: apalis_janitor::Janitor) {
    /// let monitor = apalis_core::monitor::Monitor::new().register(move |_| janitor.worker("w1"));
    /// monitor.run().await.unwrap();
    /// # }
    /// ```
    pub fn worker(
        &self,
        name: &str,
    ) -> JanitorWorker<
        impl Service<
            Task<Request>,
            Response = Report,
            Error = BoxDynError,
            Future = BoxFuture<'static, Result<Report, BoxDynError>>,
        >
        + Send
        + 'static
        + use<>,
    > {
        WorkerBuilder::new(name).backend(self.backend()).data(self.clone()).build(handle)
    }

    /// This janitor's requests, as an apalis backend.
    #[must_use]
    pub fn backend(&self) -> QueueBackend {
        let janitor = self.clone();
        let blank: Blank =
            Arc::new(move |request, attempt| not_run(&janitor, request, attempt, Outcome::Failed, "not run"));
        QueueBackend::new(self.queue().clone(), self.config().worker.concurrency, blank)
    }
}

/// Runs a worker until `stop`, and then gracefully: it takes no more, jobs end with the batch in hand within
/// `worker.drain`, and what is unfinished is handed back.
///
/// Where this host has jobs of its own it ticks them, and takes them from the host's own queue, too.
///
/// # Errors
/// Where the worker ended by itself, which nothing that a store does can bring about.
pub async fn run_worker(janitor: Janitor, name: &str, stop: CancellationToken) -> Result<(), WorkerError> {
    let of_host = janitor.of_own_host();
    let all = stop.child_token();
    let ticked = run_host_beat(of_host.clone().unwrap_or_else(|| janitor.clone()), all.clone());
    let of_host = async {
        match &of_host {
            // Two workers of one name would be one consumer to whoever reads the log.
            Some(of_host) => take(of_host.clone(), &format!("{name}@host"), all.clone()).await,
            None => Ok(()),
        }
    };
    let taken = async {
        let ended = take(janitor.clone(), name, all.clone()).await;
        all.cancel();
        ended
    };
    let (taken, of_host, ()) = tokio::join!(taken, of_host, ticked);
    taken.and(of_host)
}

/// Takes from one queue.
async fn take(janitor: Janitor, name: &str, stop: CancellationToken) -> Result<(), WorkerError> {
    let drain = janitor.config().worker.drain;
    let context = WorkerContext::new(name);
    let backend = janitor.backend();
    let open = backend.open();
    let worker = WorkerBuilder::new(&context).backend(backend).data(janitor).build(handle);
    let mut running = Box::pin(worker.run());
    tracing::info!(worker = name, "worker started");
    let ended = tokio::select! {
        ended = &mut running => Some(ended),
        () = stop.cancelled() => match context.stop() {
            Ok(()) => time::timeout(drain, &mut running).await.ok(),
            // It has not started yet: there is nothing to drain.
            Err(_) => Some(Ok(())),
        },
    };
    if ended.is_none() {
        tracing::warn!(?drain, "jobs still run after the drain time, their requests are handed back");
    }
    // Dropped, jobs that still run hand their requests back.
    drop(running);
    open.close();
    if time::timeout(HAND_BACK_MAX, open.wait()).await.is_err() {
        tracing::warn!("requests not handed back in time, they will lapse");
    }
    tracing::info!(worker = name, "worker stopped");
    ended.unwrap_or(Ok(()))
}
