//! What every queue promises, as a suite: `queue_conformance!` writes one test per case for one answer.
//!
//! ```ignore
//! apalis_janitor::queue_conformance!(redis, RedisWorld::start().await);
//! ```

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a suite fails by panicking")]

mod delivery;
mod request;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use tokio::time::Instant;

pub use delivery::*;
pub use request::*;

use super::{Claim, Delivery, Enqueued, Queue, QueueOptions, Request};
use crate::report::{Mode, Outcome, Report};

/// How long a case waits for what must come.
const COMES_MAX: Duration = Duration::from_secs(10);
/// A visibility that does not end during a case.
const LONG: Duration = Duration::from_mins(1);
/// A visibility that a case outlasts.
const SHORT: Duration = Duration::from_millis(400);

/// One answer's own empty store.
#[async_trait]
pub trait World: Send + Sync {
    /// Its queue. Each call is another process of the same cluster.
    fn queue(&self, options: QueueOptions) -> Arc<dyn Queue>;

    /// Appends an entry as a program without this library would.
    async fn append(&self, fields: &[(&str, &str)]);

    /// The reports of `job` as they are stored, newest first.
    async fn reports(&self, job: &str) -> Vec<Report>;

    /// When `job` last succeeded, as it is stored.
    async fn success(&self, job: &str) -> Option<DateTime<Utc>>;
}

/// Writes one test per case for the queue of a [`World`], which the expression makes.
#[macro_export]
macro_rules! queue_conformance {
    ($answer:ident, $world:expr) => {
        $crate::queue_conformance!($answer, $world;
            merges_a_request_that_waits
            merges_by_key
            refuses_a_name_that_could_not_be_read_again
            does_not_merge_after_delivery
            does_not_merge_ticks_with_requests
            reads_what_any_program_appends
            delivers_in_order_and_each_once
            wakes_a_claim_that_waits
            gives_a_lost_delivery_to_another
            keeps_a_delivery_that_is_touched
            refuses_a_consumer_that_lost_its_delivery
            reports_an_exhausted_delivery
            gives_a_last_delivery_only_to_an_idle_worker
            delivers_again_after_the_pause
            does_not_count_what_is_handed_back
            buries_what_cannot_be_read_and_goes_on
            refuses_above_the_backlog_limit
            takes_a_tick_once_among_many
            refuses_ticks_that_are_old_or_ahead
            starts_a_new_job_from_now
            starts_a_new_job_by_the_earlier_clock
            records_one_report_with_the_settling
            may_bring_the_next_with_the_settling
            has_a_request_until_it_is_settled
            remembers_the_last_success
            lists_retries_and_drops_the_dead
            counts_what_waits_runs_and_is_dead
            keeps_deliveries_when_a_consumer_leaves
        );
    };
    ($answer:ident, $world:expr; $($case:ident)*) => {
        mod $answer {
            #[allow(unused_imports, reason = "the expression decides what it needs")]
            use super::*;
            $(
                #[tokio::test]
                async fn $case() {
                    $crate::queue::conformance::$case(&$world).await;
                }
            )*
        }
    };
}

/// Reads an entry's fields, as every answer does; the error says what is wrong with them.
#[cfg(any(feature = "redis", feature = "sqlite"))]
pub fn read(fields: &[(String, String)]) -> Result<Request, String> {
    Request::read(fields)
}

fn options(visibility: Duration) -> QueueOptions {
    QueueOptions { visibility, max_deliveries: 3, backlog_max: 100 }
}

/// A request by hand.
fn request(job: &str, mode: Mode) -> Request {
    Request { job: job.to_owned(), mode, tick: None }
}

fn tick_at(job: &str, at: DateTime<Utc>) -> Request {
    Request { job: job.to_owned(), mode: Mode::Apply, tick: Some(at) }
}

/// The store's clock, to the second; the stores of a test share this machine's.
fn now() -> DateTime<Utc> {
    Utc::now().duration_trunc(TimeDelta::seconds(1)).expect("a second divides the epoch")
}

/// A report with `id`, of a job that was `done`.
#[must_use]
pub fn report(id: &str, job: &str, outcome: Outcome) -> Report {
    Report {
        id: id.to_owned(),
        host: "test".to_owned(),
        fence: Some(7),
        seconds: 0.5,
        ..Report::new(job, "retention", Mode::Apply, outcome, now())
    }
}

async fn enqueue(queue: &dyn Queue, job: &str) -> String {
    match queue.enqueue(&request(job, Mode::Apply), None).await.unwrap() {
        Enqueued::New(id) => id,
        Enqueued::Merged(id) => panic!("merged with {id}"),
    }
}

/// What comes next, however long that takes.
async fn next(queue: &dyn Queue, me: &str) -> Claim {
    next_while(queue, me, false).await
}

async fn next_while(queue: &dyn Queue, me: &str, busy: bool) -> Claim {
    let deadline = Instant::now() + COMES_MAX;
    loop {
        match queue.claim(me, busy).await.unwrap() {
            Claim::Empty => assert!(Instant::now() < deadline, "nothing came"),
            claim => return claim,
        }
    }
}

async fn run(queue: &dyn Queue, me: &str) -> Delivery {
    match next(queue, me).await {
        Claim::Run(delivery) => delivery,
        claim => panic!("{claim:?}"),
    }
}
