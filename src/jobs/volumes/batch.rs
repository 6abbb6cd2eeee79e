//! Removes volumes, several at once, while the rows of their threads are held.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};

use super::{Fate, Found, ThreadVolumes};
use crate::{
    jobs::JobError,
    volumes::{Hold, MarksError, Removal, Thread},
};

/// How long removals begin under one hold: who wants a row waits for that, and for the removals that have begun.
pub(super) const HOLD: Duration = Duration::from_millis(250);

/// A volume and what became of it; none: no time was left, and nothing was done.
pub(super) type Settled<'f> = (&'f Found, Result<Option<Fate>, Unsettled>);

/// Why it is not known what becomes of a volume.
#[derive(Debug)]
pub(super) struct Unsettled {
    /// The engine has removed it; what is missing is the mark.
    pub is_gone: bool,
    /// Why.
    pub error: JobError,
}

impl Unsettled {
    /// Whether the next volume would fare no better.
    pub(super) fn ends_the_sweep(&self) -> bool {
        match &self.error {
            JobError::Engine(error) => error.ends_the_sweep(),
            JobError::Marks(error) => !matches!(**error, MarksError::Failed { .. }),
            _ => true,
        }
    }
}

/// Removals that must be over at an instant, and of which none begins once one has ended the sweep.
pub(super) struct Batch<'p> {
    parts: &'p ThreadVolumes,
    until: Instant,
    is_over: AtomicBool,
}

impl<'p> Batch<'p> {
    pub(super) const fn new(parts: &'p ThreadVolumes, until: Instant) -> Self {
        Self { parts, until, is_over: AtomicBool::new(false) }
    }

    /// Removes what still may go.
    pub(super) async fn remove<'f>(&self, found: &'f [Found]) -> Vec<Settled<'f>> {
        let (mut rest, unknown): (Vec<_>, Vec<_>) = found.iter().partition(|found| found.row.is_some());
        let mut settled = Vec::with_capacity(found.len());
        while !rest.is_empty() {
            rest = self.remove_held(rest, &mut settled).await;
        }
        let unknown: Vec<_> = unknown.into_iter().map(|found| self.remove_unknown(found)).collect();
        settled.extend(self.at_once(unknown).await);
        settled
    }

    /// Removes what it can under one hold; answers the rest.
    async fn remove_held<'f>(&self, found: Vec<&'f Found>, settled: &mut Vec<Settled<'f>>) -> Vec<&'f Found> {
        if self.limit().is_none() {
            settled.extend(found.into_iter().map(|found| (found, Ok(None))));
            return Vec::new();
        }
        let threads: Vec<String> = found.iter().map(|found| found.thread.clone()).collect();
        let hold = match self.parts.marks.hold(&threads).await {
            Ok(hold) => hold,
            Err(error) => {
                settled.extend(found.into_iter().map(|found| (found, self.fail(false, error.clone()))));
                return Vec::new();
            }
        };
        let begin_until = Instant::now() + HOLD;
        let (own, others): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|found| hold.threads().contains_key(&found.thread));
        settled.extend(others.into_iter().map(|found| (found, Ok(Some(Fate::Changed)))));
        let removals = own.into_iter().map(|found| async move {
            if Instant::now() < begin_until { (found, Some(self.ask(found).await)) } else { (found, None) }
        });
        let (mut gone, mut rest) = (Vec::new(), Vec::new());
        for (found, answer) in self.at_once(removals.collect()).await {
            match answer {
                None => rest.push(found),
                Some(Ok(Some(Removal::Referenced(why)))) => settled.push((found, Ok(Some(Fate::Referenced(why))))),
                Some(Ok(Some(Removal::Removed))) => gone.push((found, true)),
                Some(Ok(Some(Removal::NotFound))) => gone.push((found, false)),
                Some(Ok(None)) => settled.push((found, Ok(None))),
                Some(Err(unsettled)) => settled.push((found, Err(unsettled))),
            }
        }
        if !gone.is_empty() {
            self.mark(hold, gone, settled).await;
        }
        rest
    }

    /// Marks the threads whose volumes are gone, by the removal or before it.
    async fn mark<'f>(&self, hold: Box<dyn Hold>, gone: Vec<(&'f Found, bool)>, settled: &mut Vec<Settled<'f>>) {
        let rows: HashMap<String, Thread> = hold.threads().clone();
        let threads: Vec<String> = gone.iter().map(|(found, _)| found.thread.clone()).collect();
        let marked = hold.mark(&threads).await;
        for (found, is_gone) in gone {
            let marked = match &marked {
                Ok(_) => Ok(!rows[&found.thread].is_marked),
                // One row that the database does not let be marked must not keep the marks from the others.
                Err(MarksError::Failed { .. }) if rows.len() > 1 => self.mark_one(found).await,
                Err(error) => Err(error.clone()),
            };
            let fate = match marked {
                Ok(_) if is_gone => Ok(Some(Fate::Removed)),
                Ok(true) => Ok(Some(Fate::Absent)),
                Ok(false) => Ok(Some(Fate::Settled)),
                Err(error) => self.fail(is_gone, error),
            };
            settled.push((found, fate));
        }
    }

    async fn mark_one(&self, found: &Found) -> Result<bool, MarksError> {
        Ok(self.parts.marks.mark(std::slice::from_ref(&found.thread)).await? > 0)
    }

    /// There is no row to hold: that there still is none is all that can be asked.
    async fn remove_unknown<'f>(&self, found: &'f Found) -> Settled<'f> {
        if self.limit().is_none() {
            return (found, Ok(None));
        }
        match self.parts.row(&found.thread).await {
            Ok(None) => {}
            Ok(Some(_)) => return (found, Ok(Some(Fate::Changed))),
            Err(error) => return (found, self.fail(false, error)),
        }
        let fate = self.ask(found).await.map(|removal| match removal? {
            Removal::Removed => Some(Fate::Removed),
            Removal::NotFound => Some(Fate::Settled),
            Removal::Referenced(why) => Some(Fate::Referenced(why)),
        });
        (found, fate)
    }

    /// Asks the engine for the removal, unless no time is left.
    async fn ask(&self, found: &Found) -> Result<Option<Removal>, Unsettled> {
        let Some(limit) = self.limit() else { return Ok(None) };
        match self.parts.engine.remove(&found.volume.name, limit).await {
            Ok(removal) => Ok(Some(removal)),
            Err(error) => self.fail(false, error),
        }
    }

    /// What these come to, as many at once as the engine is to have.
    async fn at_once<F: Future>(&self, futures: Vec<F>) -> Vec<F::Output> {
        stream::iter(futures).buffer_unordered(self.parts.config.concurrency.get()).collect().await
    }

    /// How long the engine has for a removal; none: none begins any more.
    fn limit(&self) -> Option<Duration> {
        let left = self.until.saturating_duration_since(Instant::now()).min(self.parts.config.engine_timeout);
        (!left.is_zero() && !self.is_over.load(Ordering::Relaxed)).then_some(left)
    }

    fn fail<T>(&self, is_gone: bool, error: impl Into<JobError>) -> Result<T, Unsettled> {
        let unsettled = Unsettled { is_gone, error: error.into() };
        if unsettled.ends_the_sweep() {
            self.is_over.store(true, Ordering::Relaxed);
        }
        Err(unsettled)
    }
}
