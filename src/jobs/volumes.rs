//! Removes the volumes of closed threads, and marks the threads, so that nobody tries again.
//!
//! A sweep looks at the engine once: one list of volumes, one of containers. What goes is settled there, so that a dry run
//! names the same; each volume's row is held, and the engine asked again by the removal itself. Closed threads whose volume
//! is not listed are marked, a page of rows at a time.

mod batch;
mod decide;
mod removal;

#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    collections::HashSet,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

use self::batch::Unsettled;
pub use self::{
    decide::{Found, Verdict},
    removal::{Fate, Known, ThreadVolumes, named},
};
use super::{Job, JobError, Leave, Narrow, Tally};
use crate::{config::VolumesConfig, lock::Fence};

/// How many rows of closed threads are compared with one look at the engine.
const PAGE: usize = 10_000;
/// How many volumes of each lane go in one batch: in a longer one fewer lanes wait for the last of them, and who asks the
/// sweep to stop waits longer.
const LANE: usize = 16;
/// How many volumes without a thread are named in the log.
const NAMED_MAX: usize = 10;

/// One execution of a job of kind `volumes`.
#[derive(Debug)]
pub struct Volumes {
    parts: ThreadVolumes,
    narrow: Narrow,
    /// What goes and was not planned yet, the one that has been due the longest last.
    due: Vec<Found>,
    /// The threads whose volumes the engine listed when it was last looked at.
    listed: HashSet<String>,
    /// The last of the rows that have been compared with that; none before the first and after the last page.
    after: Option<String>,
    /// Why the rest is not tried.
    ended: Option<JobError>,
}

impl Volumes {
    /// An execution on these volumes.
    #[must_use]
    pub fn new(parts: ThreadVolumes, narrow: Narrow) -> Self {
        Self { parts, narrow, due: Vec::new(), listed: HashSet::new(), after: None, ended: None }
    }

    /// How many go in one batch.
    #[must_use]
    pub const fn batch_max(config: &VolumesConfig) -> usize {
        config.concurrency.get() * LANE
    }

    /// The next page of closed threads without a mark.
    async fn page(&mut self) -> Result<Vec<String>, JobError> {
        // Nobody knows how old a volume is that is not there.
        if self.narrow.before.is_some() {
            return Ok(Vec::new());
        }
        let page = self.parts.marks.unmarked(self.after.as_deref(), PAGE).await?;
        self.after = page.last().filter(|_| page.len() == PAGE).cloned();
        Ok(page)
    }

    /// Marks those of a page whose volume is not listed. They were closed before the engine was looked at.
    async fn mark_absent(&self, page: Vec<String>, leave: Leave<'_>, tally: &mut Tally) -> Result<(), JobError> {
        let pattern = &self.parts.config.volume;
        // What no volume can be named after may have one by another name.
        let (fit, unfit): (Vec<_>, Vec<_>) = page.into_iter().partition(|thread| pattern.volume(thread).is_ok());
        if !unfit.is_empty() {
            tally.kept.add("unfit", unfit.len() as u64);
        }
        let absent: Vec<String> = fit.into_iter().filter(|thread| !self.listed.contains(thread)).collect();
        tally.planned.add("absent", absent.len() as u64);
        if let Leave::Apply(held) = leave {
            held.fence()?;
            tally.deleted.add("absent", self.parts.marks.mark(&absent).await?);
        }
        Ok(())
    }

    /// Decides on each volume, and counts what stays.
    fn decide(&mut self, found: Vec<Found>, now: DateTime<Utc>, tally: &mut Tally) -> HashSet<String> {
        for kind in ["open", "referenced", "unknown"] {
            tally.kept.add(kind, 0);
        }
        let (mut with_backoff, mut unknown) = (HashSet::new(), Vec::new());
        self.listed = found.iter().map(|found| found.thread.clone()).collect();
        for found in found {
            let verdict = found.verdict(&self.parts.config, self.narrow.before, now);
            if verdict.keeps_backoff() {
                with_backoff.insert(found.thread.clone());
            }
            if let Some(why) = verdict.kept_as() {
                tally.kept.add(why, 1);
            }
            match verdict {
                Verdict::Goes => self.due.push(found),
                Verdict::Unknown => unknown.push(found),
                Verdict::Open | Verdict::Unlabelled | Verdict::Referenced | Verdict::Newer | Verdict::Waiting(_) => {}
            }
        }
        if !unknown.is_empty() {
            let some: Vec<_> = unknown.iter().take(NAMED_MAX).map(|found| found.volume.name.as_str()).collect();
            tracing::info!(job = self.parts.key, volumes = unknown.len(), some = %some.join(" "), "no thread has them");
        }
        self.due.sort_by_cached_key(|found| std::cmp::Reverse((found.due_at(), found.volume.name.clone())));
        with_backoff
    }

    /// Counts what became of one, and answers whether it went by this.
    fn count(&mut self, found: &Found, fate: Result<Option<Fate>, Unsettled>, tally: &mut Tally) -> bool {
        let is_gone = match fate {
            Ok(None) => {
                self.ended.get_or_insert(JobError::Slow);
                false
            }
            Ok(Some(fate)) => {
                match fate {
                    Fate::Absent => tally.deleted.add("absent", 1),
                    Fate::Referenced(_) => tally.kept.add("referenced", 1),
                    Fate::Open | Fate::Unknown | Fate::Unlabelled | Fate::Changed | Fate::Off(_) => {
                        tally.kept.add("changed", 1);
                    }
                    Fate::Removed | Fate::Settled => {}
                }
                fate == Fate::Removed
            }
            Err(unsettled) => {
                let (ends, Unsettled { is_gone, error }) = (unsettled.ends_the_sweep(), unsettled);
                tally.fail(found.volume.name.as_str(), &error);
                if ends && !matches!(self.ended, Some(JobError::Engine(_) | JobError::Marks(_))) {
                    self.ended = Some(error);
                }
                is_gone
            }
        };
        tally.deleted.add(Self::UNIT, u64::from(is_gone));
        is_gone
    }
}

impl Job for Volumes {
    type Item = Found;

    const UNIT: &'static str = "volumes";

    fn id(item: &Found) -> Cow<'_, str> {
        Cow::Borrowed(item.volume.name.as_str())
    }

    async fn prepare(&mut self, leave: Leave<'_>, tally: &mut Tally) -> Result<(), JobError> {
        self.parts.marks.prepare().await?;
        let backoffs = self.parts.ledger.backoffs(&self.parts.key).await?;
        // Rows first: a thread that is closed only after the engine was looked at may have a volume that it did not list.
        let page = self.page().await?;
        let found = self.parts.found(&backoffs, |_| true).await?;
        let with_backoff = self.decide(found, self.parts.clock.now(), tally);
        if let Leave::Apply(held) = leave {
            held.fence()?;
            for thread in backoffs.keys().filter(|thread| !with_backoff.contains(*thread)) {
                self.parts.forget(thread).await;
            }
        }
        // At once, and not at the end: a sweep that reaches its limit marks them too.
        self.mark_absent(page, leave, tally).await
    }

    async fn plan(&mut self, _: Leave<'_>, limit: usize, _: &mut Tally) -> Result<Option<Vec<Found>>, JobError> {
        let rest = self.due.len().saturating_sub(limit);
        let page: Vec<Found> = self.due.drain(rest..).rev().collect();
        Ok((!page.is_empty()).then_some(page))
    }

    async fn execute(
        &mut self,
        _: Fence,
        items: &[Found],
        limit: Duration,
        tally: &mut Tally,
    ) -> Result<Vec<String>, JobError> {
        if let Some(error) = self.ended.take() {
            return Err(error);
        }
        let settled = self.parts.remove_found(items, Instant::now() + limit).await;
        let mut gone = Vec::with_capacity(settled.len());
        for (found, fate) in settled {
            if self.count(found, fate, tally) {
                gone.push(Self::id(found).into_owned());
            }
        }
        Ok(gone)
    }

    async fn rest(&mut self, leave: Leave<'_>, _: Duration, tally: &mut Tally) -> Result<bool, JobError> {
        if let Some(error) = self.ended.take() {
            return Err(error);
        }
        if self.after.is_none() {
            return Ok(false);
        }
        let page = self.page().await?;
        let pattern = &self.parts.config.volume;
        let volumes = self.parts.engine.volumes().await?;
        self.listed = volumes.iter().filter_map(|volume| pattern.thread(&volume.name)).map(str::to_owned).collect();
        self.mark_absent(page, leave, tally).await?;
        Ok(self.after.is_some())
    }
}
