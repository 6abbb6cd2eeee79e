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
    job.prepare(leave, tally).await?;
    let mut walk = Walk {
        leave,
        limits,
        watch,
        stop,
        start: Instant::now(),
        buffer: Vec::new(),
        admitted: 0,
        suspects: 0,
        planned: 0,
        deleted: 0,
        failed: 0,
        held: Duration::ZERO,
        pause_until: Instant::now(),
    };
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
    /// What the job named and nothing has been done with; the first ones are planned, the others exceed the limit.
    buffer: Vec<I>,
    admitted: usize,
    /// How many of the first ones were refused together: one of them at least is refused by itself too.
    suspects: usize,
    planned: u64,
    deleted: u64,
    failed: u64,
    /// How long others have been kept out since the last pause.
    held: Duration,
    /// No batch begins before this.
    pause_until: Instant,
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

    /// How many more may be planned. What failed does not count, or it would take the place of others in every execution.
    fn room(&self) -> u64 {
        self.limits.items.map_or(u64::MAX, |most| most.saturating_sub(self.planned - self.failed))
    }

    async fn items<J: Job<Item = I>>(&mut self, job: &mut J, tally: &mut Tally) -> Result<Stopped, JobError> {
        let mut is_last = false;
        loop {
            while !is_last && self.wants_more() {
                if let Some(stopped) = self.stopped() {
                    return Ok(stopped);
                }
                let limit = self.limits.pace.size().saturating_sub(self.admitted).clamp(PAGE, PAGE_MAX);
                match job.plan(self.leave, limit, tally).await? {
                    Some(mut items) => self.buffer.append(&mut items),
                    None => is_last = true,
                }
                self.admit::<J>(tally);
            }
            if let Some(stopped) = self.empty(job, is_last, tally).await? {
                return Ok(stopped);
            }
            if self.room() == 0 && !self.buffer.is_empty() {
                return Ok(Stopped::ByItems);
            }
            if is_last {
                return Ok(Stopped::AtTheEnd);
            }
        }
    }

    /// Whether to plan on: until a batch is full, or, at the limit, until it is known whether more is left.
    fn wants_more(&self) -> bool {
        if self.room() == 0 { self.buffer.is_empty() } else { self.admitted < self.limits.pace.size() }
    }

    /// Plans as much of what the job named as the limit allows.
    fn admit<J: Job<Item = I>>(&mut self, tally: &mut Tally) {
        let more = usize::try_from(self.room()).unwrap_or(usize::MAX).min(self.buffer.len() - self.admitted);
        self.planned += more as u64;
        tally.planned.add(J::UNIT, more as u64);
        match self.leave {
            Leave::DryRun => self.buffer.drain(..more).for_each(|item| self.watch.item(&J::id(&item))),
            Leave::Apply(_) => self.admitted += more,
        }
        self.watch.progress(self.planned, self.deleted);
    }

    /// Deletes what is planned: batches of full size, and where no more will come what is left over.
    async fn empty<J: Job<Item = I>>(
        &mut self,
        job: &mut J,
        is_last: bool,
        tally: &mut Tally,
    ) -> Result<Option<Stopped>, JobError> {
        let Leave::Apply(held) = self.leave else { return Ok(None) };
        while self.admitted >= self.limits.pace.size() || self.admitted > 0 && (is_last || self.room() == 0) {
            self.pause().await;
            if let Some(stopped) = self.stopped() {
                return Ok(Some(stopped));
            }
            let size = self.batch_size();
            let (fence, began, trust) = (held.fence()?, Instant::now(), held.remaining());
            // One item that is larger than any batch gets all the time there is, or it would never go.
            let limit = if size == 1 { trust } else { self.limits.pace.limit(trust) };
            let done = job.execute(fence, &self.buffer[..size], limit, tally).await;
            let took = began.elapsed();
            match done {
                Ok(gone) => {
                    tally.batches += 1;
                    self.suspects = self.suspects.saturating_sub(size);
                    self.deleted += gone.len() as u64;
                    for id in &gone {
                        self.watch.item(id);
                    }
                    self.limits.pace.lasted(size, took);
                    self.settle::<J>(size, tally);
                }
                Err(JobError::Store(StoreError::TimedOut { .. })) if size > 1 => {
                    tracing::debug!(size, ?took, ?limit, "batch rolled back, it took too long");
                    // The last batch may be far smaller than a full one: only one that is smaller still may do.
                    while self.limits.pace.size() >= size {
                        self.limits.pace.timed_out();
                    }
                }
                Err(JobError::Store(StoreError::Refused { .. })) if size > 1 => self.suspects = size,
                Err(JobError::Store(error @ (StoreError::TimedOut { .. } | StoreError::Refused { .. }))) => {
                    tally.fail(&J::id(&self.buffer[0]), &error);
                    self.failed += 1;
                    self.suspects = 0;
                    self.settle::<J>(1, tally);
                }
                Err(error) => return Err(error),
            }
            self.set_pause(took);
        }
        Ok(None)
    }

    /// How many of what is planned go into the next batch: of refused ones half, until the one is found.
    fn batch_size(&self) -> usize {
        let most = self.limits.pace.size().min(self.admitted);
        if self.suspects == 0 { most } else { most.min(self.suspects / 2).max(1) }
    }

    /// Drops what has been dealt with.
    fn settle<J: Job<Item = I>>(&mut self, count: usize, tally: &mut Tally) {
        self.buffer.drain(..count);
        self.admitted -= count;
        self.admit::<J>(tally);
    }

    /// Sets a pause in which other writers get in, once they have been kept out for some time: many small batches count
    /// as one. Planning goes on in it.
    fn set_pause(&mut self, took: Duration) {
        self.held += took;
        if self.limits.pace.is_long(self.held) {
            self.pause_until = Instant::now() + Pace::pause(std::mem::take(&mut self.held), self.limits.pause);
        }
    }

    /// Waits for the end of the pause, or until it is asked to stop.
    async fn pause(&self) {
        tokio::select! { () = tokio::time::sleep_until(self.pause_until.into()) => {} () = self.stop.cancelled() => {} }
    }

    async fn rest<J: Job<Item = I>>(&mut self, job: &mut J, tally: &mut Tally) -> Result<Stopped, JobError> {
        loop {
            self.pause().await;
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
            self.set_pause(began.elapsed());
        }
    }
}

#[cfg(test)]
mod tests;
