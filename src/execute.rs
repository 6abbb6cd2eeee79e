//! One execution of one job: excuses, lock, sweep, report.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use futures::FutureExt;
use tokio_util::sync::CancellationToken;

use crate::{
    Janitor, UnknownJob,
    config::{DiskConfig, JobConfig, JobKind, OrphansConfig, RetentionConfig, VolumesConfig},
    jobs::{
        Job, JobError, Leave, Limits, Narrow, Stopped, Tally, Watch, disk::Disk, orphans::Orphans, pace::Pace,
        retention::Retention, volumes::Volumes, walk,
    },
    lock::{self, Held, LockError},
    queue::Request,
    report::{Mode, Outcome, Report, chain, short},
    runs::{layout, policy::Policy},
};

/// How often a lock is asked for that a dead worker may have left.
const LOCK_POLL: Duration = Duration::from_millis(250);

/// How long a batch of files should last: the kill switch is read before each.
const FILES_TIME: Duration = Duration::from_secs(2);
/// How long a batch of blobs should last: nobody waits for it.
const BLOBS_TIME: Duration = Duration::from_secs(10);

/// How often a running job asks whether it was paused.
const PAUSE_POLL: Duration = Duration::from_secs(1);

/// One execution that is asked for.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// The job, the mode and the tick.
    pub request: &'a Request,
    /// Which delivery of the request this is, from 1. Above 1 the lock is waited for: the dead worker's may outlive its lease.
    pub attempt: u32,
    /// What narrows it.
    pub narrow: Narrow,
    /// Who sees what happens.
    pub watch: &'a dyn Watch,
    /// Cancelled: stop after the batch in hand.
    pub stop: &'a CancellationToken,
}

impl std::fmt::Debug for Ask<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ask").field("request", self.request).field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

/// What is to become of the request after an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is settled: this report is final.
    Settle,
    /// The job could not run (store unreachable, a failed precondition): deliver it again, after a pause.
    Retry,
    /// It was stopped on the way: hand it back, another worker goes on.
    HandBack,
}

/// One execution that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What it did.
    pub report: Report,
    /// What is to become of the request.
    pub next: Next,
}

/// How an execution ended, before it is a report.
struct End {
    outcome: Outcome,
    reason: Option<String>,
    next: Next,
}

impl End {
    fn new(outcome: Outcome, reason: impl Into<String>, next: Next) -> Self {
        Self { outcome, reason: Some(short(reason.into())), next }
    }

    /// The same end where so many items could not be deleted: what ran with failures has failed.
    fn with_failures(self, failed: u64) -> Self {
        if failed == 0 {
            return self;
        }
        let outcome = match self.outcome {
            Outcome::Done | Outcome::Limited | Outcome::Failed => Outcome::Failed,
            other @ (Outcome::Skipped | Outcome::Busy | Outcome::Refused) => other,
        };
        let reason = self.reason.map(|reason| format!("{reason}; ")).unwrap_or_default();
        Self { outcome, reason: Some(format!("{reason}{failed} could not be deleted")), next: self.next }
    }
}

/// What a job is to do.
#[derive(Clone)]
enum Task<'a> {
    Retention(&'a RetentionConfig, Policy),
    Orphans(&'a OrphansConfig),
    Disk(&'a DiskConfig),
    Volumes(&'a VolumesConfig),
}

/// What an execution gathers for its report.
struct Execution<'a> {
    janitor: &'a Janitor,
    job: &'a JobConfig,
    ask: Ask<'a>,
    started_at: DateTime<Utc>,
    start: Instant,
    fence: Option<u64>,
    cutoff: Option<DateTime<Utc>>,
    is_paused: bool,
    tally: Tally,
}

impl Janitor {
    /// Executes a job, here and now. It is neither settled nor recorded: that is the caller's.
    ///
    /// # Errors
    /// [`UnknownJob`] where no such job is configured. All else that goes wrong is in the report.
    pub async fn execute(&self, ask: Ask<'_>) -> Result<Ended, UnknownJob> {
        let job = self.job(&ask.request.job)?;
        let mut execution = Execution {
            janitor: self,
            job,
            ask,
            started_at: self.clock().now(),
            start: Instant::now(),
            fence: None,
            cutoff: None,
            is_paused: false,
            tally: Tally::default(),
        };
        let end = match AssertUnwindSafe(execution.run()).catch_unwind().await {
            Ok(end) => end,
            Err(panic) => End::new(Outcome::Failed, format!("panic: {}", panic_text(&*panic)), Next::Settle),
        };
        let ended = Ended { next: end.next, report: execution.report(end) };
        self.metrics().observe(&ended.report);
        Ok(ended)
    }
}

impl Execution<'_> {
    async fn run(&mut self) -> End {
        let excuse = match self.ask.request.mode {
            Mode::DryRun => Ok(None),
            Mode::Apply => self.janitor.off(self.job).await,
        };
        match excuse {
            Ok(None) => {}
            Ok(Some(reason)) => return End::new(Outcome::Skipped, reason, Next::Settle),
            Err(error) => return End::new(Outcome::Failed, chain(&error), Next::Retry),
        }
        let task = match &self.job.kind {
            JobKind::Retention(config) => {
                let terminal = layout::PYWORKFLOW.terminal;
                let Some(policy) = Policy::new(config, terminal, self.started_at, self.ask.narrow.before) else {
                    return End::new(Outcome::Skipped, "retention is not configured", Next::Settle);
                };
                self.cutoff = policy.latest_cutoff();
                Task::Retention(config, policy)
            }
            JobKind::Orphans(config) => Task::Orphans(config),
            JobKind::Disk(config) => Task::Disk(config),
            JobKind::Volumes(config) => {
                self.cutoff = self.ask.narrow.before;
                Task::Volumes(config)
            }
        };
        match self.ask.request.mode {
            Mode::DryRun => {
                let swept = self.sweep(task, Leave::DryRun).await;
                self.end(swept)
            }
            Mode::Apply => self.under_lock(task).await,
        }
    }

    async fn under_lock(&mut self, task: Task<'_>) -> End {
        let ttl = self.janitor.config().worker.lock_ttl;
        let lock = Arc::clone(self.janitor.lock());
        let key = self.janitor.lock_key(self.job);
        // The lock of a worker that died may outlive its delivery, but not by more than its ttl.
        let patience = if self.ask.attempt > 1 { ttl + Duration::from_secs(1) } else { Duration::ZERO };
        loop {
            let this = &mut *self;
            let task = task.clone();
            let swept = lock::with(Arc::clone(&lock), &key, ttl, |held| async move {
                this.fence = held.fence().ok().map(lock::Fence::get);
                let swept = AssertUnwindSafe(this.sweep(task, Leave::Apply(&held))).catch_unwind().await;
                this.fence = fence_of(&held).or(this.fence);
                swept
            });
            match swept.await {
                Ok(Some(Ok(swept))) => return self.end(swept),
                // The lock has been given back: what was counted still becomes a report.
                Ok(Some(Err(panic))) => {
                    return End::new(Outcome::Failed, format!("panic: {}", panic_text(&*panic)), Next::Settle);
                }
                Err(error) => return End::new(Outcome::Failed, chain(&error), Next::Retry),
                // Not busy: whoever holds the lock may be dead, and then nobody else finishes what it began.
                Ok(None) if self.start.elapsed() < patience && self.ask.stop.is_cancelled() => {
                    return End::new(Outcome::Limited, "asked to stop", Next::HandBack);
                }
                Ok(None) if self.start.elapsed() < patience => tokio::time::sleep(LOCK_POLL).await,
                Ok(None) => return End::new(Outcome::Busy, "another worker holds the job's lock", Next::Settle),
            }
        }
    }

    async fn sweep(&mut self, task: Task<'_>, leave: Leave<'_>) -> Result<Stopped, JobError> {
        match task {
            Task::Retention(config, policy) => self.sweep_runs(config, policy, leave).await,
            Task::Orphans(config) => self.sweep_blobs(config, leave).await,
            Task::Disk(config) => self.sweep_disk(config, leave).await,
            Task::Volumes(config) => self.sweep_volumes(config, leave).await,
        }
    }

    async fn sweep_runs(
        &mut self,
        config: &RetentionConfig,
        policy: Policy,
        leave: Leave<'_>,
    ) -> Result<Stopped, JobError> {
        let store = self.janitor.store(&self.job.name, config).await?;
        let mut job =
            Retention::new(self.job.name.clone(), Arc::clone(&store), Arc::clone(self.janitor.clock()), policy);
        let limits = Limits {
            pace: Pace::new(config.batch_size.get(), config.batch_time),
            pause: config.batch_pause,
            items: config.run_limit.map(std::num::NonZeroU64::get),
            time: config.time_limit,
        };
        let swept = self.walk(&mut job, leave, limits).await;
        store.rest().await;
        let is_all_gone = self.tally.failed == 0 && matches!((&swept, leave), (Ok(Stopped::AtTheEnd), Leave::Apply(_)));
        self.janitor.metrics().set_oldest_due(&self.job.name, if is_all_gone { None } else { job.oldest_due() });
        swept
    }

    async fn sweep_blobs(&mut self, config: &OrphansConfig, leave: Leave<'_>) -> Result<Stopped, JobError> {
        let store = self.janitor.blobs(&config.blobs).await?;
        let runs = match &config.runs {
            Some((job, retention)) => Some(self.janitor.store(job, retention).await?),
            None => None,
        };
        let mut job = Orphans::new(store, runs, config.clone(), self.ask.narrow);
        let limits = Limits {
            pace: Pace::new(Orphans::batch_max(config), BLOBS_TIME),
            pause: Duration::ZERO,
            items: None,
            time: config.time_limit,
        };
        let swept = self.walk(&mut job, leave, limits).await;
        self.cutoff = job.cutoff();
        swept
    }

    async fn sweep_disk(&mut self, config: &DiskConfig, leave: Leave<'_>) -> Result<Stopped, JobError> {
        let switch = self.janitor.switch(&self.job.name);
        let mut job = Disk::new(config.clone(), self.started_at, self.ask.narrow, switch);
        let limits = Limits {
            pace: Pace::new(Disk::batch_max(config), FILES_TIME),
            pause: Duration::ZERO,
            items: None,
            time: config.time_limit,
        };
        self.walk(&mut job, leave, limits).await
    }

    async fn sweep_volumes(&mut self, config: &VolumesConfig, leave: Leave<'_>) -> Result<Stopped, JobError> {
        let volumes = self.janitor.open_volumes(self.job, config).await?;
        let mut job = Volumes::new(volumes, self.ask.narrow);
        let limits = Limits {
            // Nobody waits for a batch: rows are let go within it.
            pace: Pace::new(Volumes::batch_max(config), Duration::MAX),
            pause: Duration::ZERO,
            items: Some(config.limit.get() as u64),
            time: config.time_limit,
        };
        self.walk(&mut job, leave, limits).await
    }

    /// Walks until the end, a limit, a signal or a pause.
    async fn walk<J: Job>(&mut self, job: &mut J, leave: Leave<'_>, limits: Limits) -> Result<Stopped, JobError> {
        let stop = self.ask.stop.child_token();
        let mut walked = Box::pin(walk(job, leave, limits, self.ask.watch, &stop, &mut self.tally));
        tokio::select! {
            swept = &mut walked => swept,
            () = paused(self.janitor, &self.job.name), if matches!(leave, Leave::Apply(_)) => {
                stop.cancel();
                self.is_paused = true;
                (&mut walked).await
            }
        }
    }

    fn end(&self, swept: Result<Stopped, JobError>) -> End {
        // What has deleted something has run: the next execution goes on where it ended.
        let again = if self.tally.batches == 0 { Next::Retry } else { Next::Settle };
        match swept {
            Ok(Stopped::AtTheEnd) => End { outcome: Outcome::Done, reason: None, next: Next::Settle },
            Ok(Stopped::ByItems) => {
                let is_of_volumes = matches!(self.job.kind, JobKind::Volumes(_));
                let reason = if is_of_volumes { "limit reached" } else { "run_limit reached" };
                End::new(Outcome::Limited, reason, Next::Settle)
            }
            Ok(Stopped::ByTime) => End::new(Outcome::Limited, "time_limit reached", Next::Settle),
            Ok(Stopped::BySignal) if self.is_paused => End::new(Outcome::Limited, "paused on the way", Next::Settle),
            Ok(Stopped::BySignal) => End::new(Outcome::Limited, "asked to stop", Next::HandBack),
            Err(error @ (JobError::Off | JobError::Slow)) => End::new(Outcome::Limited, chain(&error), Next::Settle),
            Err(JobError::Refused(why)) => End::new(Outcome::Refused, why, again),
            Err(JobError::Lock(error @ LockError::Lost(_))) => End::new(Outcome::Failed, chain(&error), Next::Settle),
            Err(error) => End::new(Outcome::Failed, chain(&error), again),
        }
    }

    fn report(self, end: End) -> Report {
        let End { outcome, reason, .. } = end.with_failures(self.tally.failed);
        let Tally { planned, deleted, kept, bytes_freed, batches, failures, .. } = self.tally;
        let Ask { request, attempt, .. } = self.ask;
        Report {
            attempt,
            reason,
            tick: request.tick,
            host: self.janitor.config().worker.host.clone(),
            fence: self.fence,
            seconds: (self.start.elapsed().as_secs_f64() * 1e3).round() / 1e3,
            cutoff: self.cutoff,
            planned,
            deleted,
            kept,
            bytes_freed,
            batches,
            failures,
            ..Report::new(&self.job.name, self.job.kind.as_str(), request.mode, outcome, self.started_at)
        }
    }
}

/// Resolves when the job is paused. A ledger that does not answer has not said so.
async fn paused(janitor: &Janitor, job: &str) {
    loop {
        tokio::time::sleep(PAUSE_POLL).await;
        if matches!(janitor.ledger().is_paused(job).await, Ok(true)) {
            return;
        }
    }
}

fn fence_of(held: &Held) -> Option<u64> {
    held.fence().ok().map(lock::Fence::get)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("of no text")
}
