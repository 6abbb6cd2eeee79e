//! The loop that every job runs in: plan until a batch is full, delete it, pause, go on.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{Job, JobError, Leave, Tally, Watch, pace::Pace};
use crate::runs::StoreError;

/// How many things one page looks at.
const PAGE: usize = 1_000;
/// A larger batch reads larger pages, up to this.
const PAGE_MAX: usize = 10_000;
/// How long a step of what is not listed may last where no lock sets a limit.
const STEP_MAX: Duration = Duration::from_secs(10);

/// What bounds one execution.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The size of batches.
    pub pace: Pace,
    /// The longest pause between batches.
    pub pause: Duration,
    /// The most items; none: no limit.
    pub items: Option<u64>,
    /// After this long no further batch begins.
    pub time: Duration,
}

/// How a walk ended that met no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Everything was seen.
    AtTheEnd,
    /// The most items were planned.
    ByItems,
    /// The time was up.
    ByTime,
    /// It was asked to stop.
    BySignal,
}

/// Runs `job` from its guards to its end, or until a limit comes first.
pub async fn walk<J: Job>(
    job: &mut J,
    leave: Leave<'_>,
    limits: Limits,
    watch: &dyn Watch,
    stop: &CancellationToken,
    tally: &mut Tally,
) -> Result<Stopped, JobError> {
    job.prepare(leave).await?;
    let mut walk =
        Walk { leave, limits, watch, stop, start: Instant::now(), buffer: Vec::new(), planned: 0, deleted: 0 };
    tally.planned.add(J::UNIT, 0);
    if let Leave::Apply(_) = leave {
        tally.deleted.add(J::UNIT, 0);
    }
    let stopped = walk.items(job, tally).await?;
    if stopped == Stopped::AtTheEnd { walk.rest(job, tally).await } else { Ok(stopped) }
}

struct Walk<'a, I> {
    leave: Leave<'a>,
    limits: Limits,
    watch: &'a dyn Watch,
    stop: &'a CancellationToken,
    start: Instant,
    /// Planned, not yet deleted.
    buffer: Vec<I>,
    planned: u64,
    deleted: u64,
}

impl<I: Send + Sync> Walk<'_, I> {
    /// Whether a reason to end has come: asked before each page and each batch.
    fn stopped(&self) -> Option<Stopped> {
        if self.stop.is_cancelled() {
            Some(Stopped::BySignal)
        } else if self.start.elapsed() >= self.limits.time {
            Some(Stopped::ByTime)
        } else {
            None
        }
    }

    async fn items<J: Job<Item = I>>(&mut self, job: &mut J, tally: &mut Tally) -> Result<Stopped, JobError> {
        loop {
            let mut is_last = false;
            while self.buffer.len() < self.limits.pace.size() && !is_last {
                if let Some(stopped) = self.stopped() {
                    return Ok(stopped);
                }
                let limit = (self.limits.pace.size() - self.buffer.len()).clamp(PAGE, PAGE_MAX);
                match job.plan(self.leave, limit, tally).await? {
                    Some(items) => is_last = self.take::<J>(items, tally),
                    None => is_last = true,
                }
            }
            let is_full = self.limits.items.is_some_and(|most| self.planned >= most);
            if let Some(stopped) = self.empty(job, is_last || is_full, tally).await? {
                return Ok(stopped);
            }
            if is_last || is_full {
                return Ok(if is_full { Stopped::ByItems } else { Stopped::AtTheEnd });
            }
        }
    }

    /// Counts what was planned and keeps it for a batch; `true` where that was the last that the limit allows.
    fn take<J: Job<Item = I>>(&mut self, mut items: Vec<I>, tally: &mut Tally) -> bool {
        let room = self.limits.items.map_or(u64::MAX, |most| most - self.planned);
        items.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        self.planned += items.len() as u64;
        tally.planned.add(J::UNIT, items.len() as u64);
        match self.leave {
            Leave::DryRun => items.iter().for_each(|item| self.watch.item(J::id(item))),
            Leave::Apply(_) => self.buffer.append(&mut items),
        }
        self.watch.progress(self.planned, self.deleted);
        self.limits.items.is_some_and(|most| self.planned >= most)
    }

    /// Deletes what is planned: batches of full size, and with `is_last` what is left over.
    async fn empty<J: Job<Item = I>>(
        &mut self,
        job: &mut J,
        is_last: bool,
        tally: &mut Tally,
    ) -> Result<Option<Stopped>, JobError> {
        let Leave::Apply(held) = self.leave else { return Ok(None) };
        while self.buffer.len() >= self.limits.pace.size() || is_last && !self.buffer.is_empty() {
            if let Some(stopped) = self.stopped() {
                return Ok(Some(stopped));
            }
            let size = self.limits.pace.size().min(self.buffer.len());
            let fence = held.fence()?;
            let (began, limit) = (Instant::now(), self.limits.pace.limit(held.remaining()));
            let gone = match job.execute(fence, &self.buffer[..size], limit, tally).await {
                Err(JobError::Store(StoreError::TimedOut { .. })) if size > 1 => {
                    self.limits.pace.timed_out();
                    self.rest_between(began.elapsed()).await;
                    continue;
                }
                answer => answer?,
            };
            let took = began.elapsed();
            tally.batches += 1;
            self.buffer.drain(..size);
            self.deleted += gone.len() as u64;
            for id in &gone {
                self.watch.item(id);
            }
            self.watch.progress(self.planned, self.deleted);
            self.limits.pace.lasted(size, took);
            if !(is_last && self.buffer.is_empty()) {
                self.rest_between(took).await;
            }
        }
        Ok(None)
    }

    /// Lets other writers in.
    async fn rest_between(&self, took: Duration) {
        let pause = Pace::pause(took, self.limits.pause);
        tokio::select! { () = tokio::time::sleep(pause) => {} () = self.stop.cancelled() => {} }
    }

    async fn rest<J: Job<Item = I>>(&self, job: &mut J, tally: &mut Tally) -> Result<Stopped, JobError> {
        loop {
            if let Some(stopped) = self.stopped() {
                return Ok(stopped);
            }
            let (began, limit) = match self.leave {
                Leave::DryRun => (Instant::now(), STEP_MAX),
                Leave::Apply(held) => (Instant::now(), held.remaining()),
            };
            if !job.rest(self.leave, limit, tally).await? {
                return Ok(Stopped::AtTheEnd);
            }
            self.rest_between(began.elapsed()).await;
        }
    }
}
