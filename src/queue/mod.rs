//! Requests on their way from a beat, a command or a program to a worker.
//!
//! Delivery is at least once. A delivery is a lease of `visibility`, extended while its job runs; a worker that dies
//! lets it lapse, and another worker gets the request with the next delivery number. After `max_deliveries` the request
//! ends on the dead list with its reason. Settling a request and recording its final report are one step of the store,
//! so a request has one final report.

pub mod backend;
#[cfg(feature = "test-util")]
pub mod conformance;
#[cfg(any(feature = "redis", feature = "sqlite", test))]
mod entry;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "sqlite")]
pub mod sqlite;

use std::{fmt::Debug, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::report::{Mode, Report};

/// A wish that a job run. It names the job, the mode and the tick, and nothing else: what to delete, where and how old
/// is said by the worker's own configuration.
///
/// ```
/// use apalis_janitor::{queue::Request, report::Mode};
/// let request = Request { job: "old-runs".to_owned(), mode: Mode::DryRun, tick: None };
/// assert_eq!(serde_json::to_value(&request).unwrap()["mode"], "dry_run");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Request {
    /// The job's name.
    pub job: String,
    /// Whether anything may be deleted.
    pub mode: Mode,
    /// The scheduled instant, or none where somebody asked by hand.
    #[serde(default)]
    pub tick: Option<DateTime<Utc>>,
}

/// How far ahead of the store's clock a tick may be.
pub const AHEAD_MAX: Duration = Duration::from_mins(1);

/// The most entries of the dead list; beyond it the oldest go.
pub const DEAD_MAX: usize = 10_000;

/// What became of a request that was enqueued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// It waits under this id.
    New(String),
    /// A request for the same job and mode (or of the same key) waits already, under this id.
    Merged(String),
}

/// What became of a tick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ticked {
    /// It waits under this id.
    New(String),
    /// It is not after the job's last tick: somebody else enqueued it, or a later one.
    Old,
    /// It is more than a minute ahead of the store's clock.
    Ahead,
}

/// One delivery of a request to one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The request's id on the queue.
    pub id: String,
    /// What is asked for.
    pub request: Request,
    /// Which delivery this is, from 1.
    pub number: u32,
}

/// What a worker that asked for work got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A request to run.
    Run(Delivery),
    /// A request that was delivered `max_deliveries` times and never settled: bury it, do not run it.
    Exhausted {
        /// The last delivery, which was lost.
        delivery: Delivery,
        /// The consumer that had it.
        last: String,
    },
    /// An entry that is no request: bury it. The text says why.
    Unreadable {
        /// The entry's id.
        id: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The next one is a last delivery, which runs alone: come back with nothing else in hand.
    Later,
    /// Nothing came within the time that a claim waits.
    Empty,
}

/// One entry of the dead list.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Dead {
    /// The id that the request had on the queue.
    pub id: String,
    /// Why it ended here.
    pub reason: String,
    /// How often it was delivered.
    pub deliveries: u32,
    /// When it ended here.
    pub at: DateTime<Utc>,
    /// The entry's fields, as they were written: 32 at most, each cut to 256 bytes.
    pub fields: Vec<(String, String)>,
}

/// How much is on the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Requests that no worker has.
    pub waiting: u64,
    /// Requests that a worker has, or had until it died, and those that wait for another try.
    pub running: u64,
    /// Entries of the dead list.
    pub dead: u64,
}

/// How a queue behaves; from `[worker]` in the configuration.
#[derive(Clone, Copy, Debug)]
pub struct QueueOptions {
    /// How long a delivery lasts without being extended.
    pub visibility: Duration,
    /// After how many deliveries a request is dead.
    pub max_deliveries: u32,
    /// The most requests that may wait; one more is refused, none is ever trimmed.
    pub backlog_max: u64,
}

/// Why a queue did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The queue's store did not answer.
    #[error("queue: unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The backlog limit is reached.
    #[error("queue: full, {0} requests wait")]
    Full(u64),
    /// No worker could read the request. The text says what is wrong with it.
    #[error("queue: {0}")]
    Invalid(String),
}

impl QueueError {
    /// The store did not answer, because of `source`.
    pub fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable(source.into())
    }
}

/// A queue of requests. Each answer keeps the promises of the suite in `queue::conformance`.
///
/// `me` is a consumer's name, unique for each start of a worker. A claim may be dropped only with its consumer: what it was
/// just given would be lost until the visibility ends. What settles a delivery (`finish`, `retry`,
/// `hand_back`, `bury`) answers `false` where the delivery is no longer `me`'s, and then changes nothing.
#[async_trait]
pub trait Queue: Send + Sync + Debug {
    /// How it behaves.
    fn options(&self) -> QueueOptions;

    /// Puts a request by hand (its tick is not kept) on the queue, or merges it with one for the same job and mode (with
    /// `key`: of the same key) that is still waiting; without a key that is looked for among the newest 10,000 at least.
    /// Ticks and manual requests never merge with each other. The job's name and the key have 200 bytes at most, and no
    /// control character.
    async fn enqueue(&self, request: &Request, key: Option<&str>) -> Result<Enqueued, QueueError>;

    /// Enqueues `request`, which has a tick, if that is after the job's last tick and at most a minute ahead of the
    /// store's clock; one step of the store, so any number of beats enqueue a tick once.
    async fn tick(&self, request: &Request) -> Result<Ticked, QueueError>;

    /// The job's last tick; `None` where it was never seen.
    async fn last_tick(&self, job: &str) -> Result<Option<DateTime<Utc>>, QueueError>;

    /// The job's last tick. One that was never seen gets `now`, or the store's clock where that is earlier, as its last
    /// tick: it starts from now, even where this host's clock is ahead.
    async fn start(&self, job: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, QueueError>;

    /// The next request, or what else there is to do; waits a bounded time for one. `busy` says that `me` runs something.
    async fn claim(&self, me: &str, busy: bool) -> Result<Claim, QueueError>;

    /// Extends the deliveries `ids`; answers those that are not `me`'s any more.
    async fn touch(&self, me: &str, ids: &[String]) -> Result<Vec<String>, QueueError>;

    /// Settles a delivery: its request is gone, its report is in the ledger.
    async fn finish(&self, me: &str, id: &str, report: &Report) -> Result<bool, QueueError>;

    /// As [`finish`](Self::finish), and then a claim that does not wait. Where the two are one step of the store, a worker
    /// that is busy saves a round trip with each request. A store may always answer [`Claim::Empty`]: the next claim tells.
    /// Like a claim it may be dropped only with its consumer.
    async fn finish_then_claim(&self, me: &str, id: &str, report: &Report) -> Result<(bool, Claim), QueueError> {
        Ok((self.finish(me, id, report).await?, Claim::Empty))
    }

    /// Gives a delivery that failed back, to be had again after `pause` (at most the visibility).
    async fn retry(&self, me: &str, id: &str, pause: Duration) -> Result<bool, QueueError>;

    /// Gives a delivery that did not run back at once, as if it had not been made.
    async fn hand_back(&self, me: &str, id: &str) -> Result<bool, QueueError>;

    /// Moves a delivery to the dead list, and records its report if there is one.
    async fn bury(&self, me: &str, id: &str, reason: &str, report: Option<&Report>) -> Result<bool, QueueError>;

    /// Forgets the consumer `me`, unless it still has deliveries.
    async fn leave(&self, me: &str) -> Result<(), QueueError>;

    /// Whether a request is still on the queue: it waits, or a worker has it. Once it is settled its report is there.
    async fn has(&self, id: &str) -> Result<bool, QueueError>;

    /// Up to `limit` entries of the dead list, newest first.
    async fn dead(&self, limit: usize) -> Result<Vec<Dead>, QueueError>;

    /// Puts a dead request back on the queue with no delivery counted; `false` where there is none of that id. It counts
    /// as asked for by hand from then on, so that no newer tick takes its place.
    async fn dead_retry(&self, id: &str) -> Result<bool, QueueError>;

    /// Forgets a dead request; `false` where there is none of that id.
    async fn dead_drop(&self, id: &str) -> Result<bool, QueueError>;

    /// How much is on the queue.
    async fn stats(&self) -> Result<Stats, QueueError>;

    /// The same queue over connections that share nothing with this one's, for a runtime of its own.
    fn again(&self) -> std::sync::Arc<dyn Queue>;

    /// The queue of one host's own jobs, in the same store; `None` where there is one host, and one queue for all.
    fn of_host(&self, host: &str) -> Option<std::sync::Arc<dyn Queue>>;
}
