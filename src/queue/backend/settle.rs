//! Runs a job under its lease and settles its request by how the job ended.

use std::{
    any::Any,
    fmt::{self, Display},
    future::{Future, poll_fn},
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use apalis_core::{error::BoxDynError, task::Task};
use futures::{FutureExt, future::BoxFuture};
use tokio::time;
use tower::{Layer, Service};

use super::Lease;
use crate::{
    queue::{Delivery, QueueError, Request},
    report::{Outcome, Report, chain},
};

/// The first pause before a settling is tried again; it doubles up to [`AGAIN_DOUBLINGS`] times.
const AGAIN: Duration = Duration::from_millis(50);
const AGAIN_DOUBLINGS: u32 = 4;
/// The pause before the second delivery; it doubles with each, up to the visibility.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// A job that ended without a final report, for the layer to act on.
#[derive(Debug)]
pub enum Unsettled {
    /// It could not run: deliver it again, after a pause; where that was the last delivery this is the report.
    Retry(Box<Report>),
    /// It was stopped on the way: another worker goes on.
    HandBack,
}

impl Display for Unsettled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry(report) => match &report.reason {
                Some(reason) => write!(f, "{}: {reason}", report.job),
                None => write!(f, "{}: {}", report.job, report.outcome),
            },
            Self::HandBack => f.write_str("stopped, handed back"),
        }
    }
}

impl std::error::Error for Unsettled {}

/// The request went to another worker while its job ran here.
#[derive(Debug, thiserror::Error)]
#[error("lease of request {0} lost")]
pub struct LeaseLost(String);

/// The layer that settles.
#[derive(Clone, Copy, Debug)]
pub struct Settle;

impl<S> Layer<S> for Settle {
    type Service = Settling<S>;

    fn layer(&self, job: S) -> Self::Service {
        Settling(job)
    }
}

/// The service that [`Settle`] makes.
#[derive(Clone, Debug)]
pub struct Settling<S>(S);

impl<S> Service<Task<Request>> for Settling<S>
where
    S: Service<Task<Request>, Response = Report>,
    S::Error: Into<BoxDynError>,
    S::Future: Send + 'static,
{
    type Response = Report;
    type Error = BoxDynError;
    type Future = BoxFuture<'static, Result<Report, BoxDynError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, task: Task<Request>) -> Self::Future {
        let lease = task.ctx().data().get::<Arc<Lease>>().expect("the backend gives each of its tasks a lease").clone();
        let job = AssertUnwindSafe(self.0.call(task)).catch_unwind();
        Box::pin(async move {
            // The job is gone before its request is settled: nothing of it may run beside a next delivery.
            let result = match while_good(&lease, job).await {
                None => {
                    let delivery = lease.delivery();
                    tracing::error!(id = delivery.id, job = delivery.request.job, "lease lost, the job is stopped");
                    lease.over();
                    return Err(LeaseLost(lease.delivery().id.clone()).into());
                }
                Some(Ok(result)) => result.map_err(Into::into),
                Some(Err(panic)) => Err(format!("panicked: {}", panic_text(&*panic)).into()),
            };
            let verdict = verdict(result, &lease);
            settle(&lease, verdict).await
        })
    }
}

/// Runs `job` while the lease is good; `None` where that ended first.
///
/// The lease is looked at before each step, so that a process which was frozen makes no step after it thaws.
async fn while_good<F: Future>(lease: &Lease, job: F) -> Option<F::Output> {
    let (mut job, mut ended) = (pin!(job), pin!(lease.ended()));
    poll_fn(|cx| {
        if !lease.is_good() || ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        job.as_mut().poll(cx).map(Some)
    })
    .await
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it does not say why")
}

/// What is to become of a request.
#[derive(Debug, PartialEq)]
enum Verdict {
    Finish(Box<Report>),
    Retry(Duration, Box<Report>),
    Bury(Box<Report>),
    HandBack,
}

impl Verdict {
    /// How the job ended, where it did.
    const fn report(&self) -> Option<&Report> {
        match self {
            Self::Finish(report) | Self::Retry(_, report) | Self::Bury(report) => Some(report),
            Self::HandBack => None,
        }
    }
}

fn verdict(result: Result<Report, BoxDynError>, lease: &Lease) -> Verdict {
    let (delivery, consumer) = (lease.delivery(), lease.consumer());
    let report = match result.map_err(|error| error.downcast::<Unsettled>().map(|unsettled| *unsettled)) {
        Ok(report) => return Verdict::Finish(of_request(Box::new(report), delivery)),
        Err(Ok(Unsettled::HandBack)) => return Verdict::HandBack,
        Err(Ok(Unsettled::Retry(report))) => report,
        Err(Err(error)) => {
            let blank = (consumer.blank)(&delivery.request, delivery.number);
            Box::new(Report { outcome: Outcome::Failed, reason: Some(chain(&*error)), ..blank })
        }
    };
    let report = of_request(report, delivery);
    if delivery.number >= consumer.options.max_deliveries {
        Verdict::Bury(report)
    } else {
        Verdict::Retry(retry_pause(delivery.number, consumer.options.visibility), report)
    }
}

fn of_request(mut report: Box<Report>, delivery: &Delivery) -> Box<Report> {
    report.request = Some(delivery.id.clone());
    report
}

/// 1 s, 2 s, 4 s and so on, up to the visibility.
fn retry_pause(number: u32, visibility: Duration) -> Duration {
    let doublings = number.saturating_sub(1).min(u32::BITS - 1);
    RETRY_PAUSE.saturating_mul(1 << doublings).min(visibility)
}

/// Settles until the queue answers; its store decides whose the request is.
async fn settle(lease: &Lease, verdict: Verdict) -> Result<Report, BoxDynError> {
    lease.settling();
    let mut errors = 0;
    let is_ours = loop {
        match try_settle(lease, &verdict).await {
            Ok(is_ours) => break is_ours,
            Err(error) => {
                tracing::warn!(id = lease.delivery().id, error = %chain(&error), "request not settled, trying again");
                time::sleep(AGAIN * 2_u32.pow(errors)).await;
                errors = (errors + 1).min(AGAIN_DOUBLINGS);
            }
        }
        // Whoever stops the worker should not wait for a queue that is gone.
        if lease.consumer().worker.is_shutting_down() && !lease.is_good() {
            break false;
        }
    };
    lease.over();
    if !is_ours {
        let delivery = lease.delivery();
        let (id, job, report) = (&delivery.id, &delivery.request.job, verdict.report());
        // No ledger will tell what it deleted.
        let (outcome, deleted) =
            (report.map(|report| report.outcome.as_str()), report.map(|report| report.deleted.to_string()));
        tracing::error!(id, job, outcome, deleted, "request not settled, it is not ours any more");
        return Err(LeaseLost(id.clone()).into());
    }
    match verdict {
        Verdict::Finish(report) => {
            report.log();
            Ok(*report)
        }
        Verdict::Bury(report) => {
            report.log();
            Err(Unsettled::Retry(report).into())
        }
        Verdict::Retry(pause, report) => {
            let reason = report.reason.as_deref().unwrap_or_default();
            tracing::warn!(
                job = report.job,
                attempt = report.attempt,
                ?pause,
                reason,
                "job could not run, again after a pause"
            );
            Err(Unsettled::Retry(report).into())
        }
        Verdict::HandBack => {
            tracing::info!(
                id = lease.delivery().id,
                job = lease.delivery().request.job,
                "job stopped, request handed back"
            );
            Err(Unsettled::HandBack.into())
        }
    }
}

async fn try_settle(lease: &Lease, verdict: &Verdict) -> Result<bool, QueueError> {
    let (consumer, id) = (lease.consumer(), lease.delivery().id.as_str());
    let (queue, me) = (&consumer.queue, consumer.me.as_str());
    match verdict {
        Verdict::Finish(report) if consumer.wants_next() => {
            let asked = Instant::now();
            let (is_ours, next) = queue.finish_then_claim(me, id, report).await?;
            if let Err(error) = consumer.offer(next, asked).await {
                tracing::warn!(error = %chain(&error), "request not handed back, it will lapse");
            }
            Ok(is_ours)
        }
        Verdict::Finish(report) => queue.finish(me, id, report).await,
        Verdict::Retry(pause, _) => queue.retry(me, id, *pause).await,
        Verdict::Bury(report) => {
            let reason = report.reason.as_deref().unwrap_or(report.outcome.as_str());
            queue.bury(me, id, reason, Some(report)).await
        }
        Verdict::HandBack => queue.hand_back(me, id).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_longer_each_time_up_to_the_visibility() {
        let pauses = [1, 2, 3, 4, 99].map(|number| retry_pause(number, Duration::from_secs(5)).as_secs());
        assert_eq!(pauses, [1, 2, 4, 5, 5]);
    }
}
