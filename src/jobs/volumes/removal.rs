//! Removes one volume: for the sweep, and for who asks for one by hand.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::decide::{Found, Verdict};
use crate::{
    clock::Clock,
    config::{VolumeName, VolumesConfig},
    jobs::JobError,
    ledger::{Backoff, Ledger},
    report::chain,
    volumes::{Engine, Look, Marks, Removal, Thread, User},
};

/// How often a row is asked for that somebody else has in hand.
const LOOK: Duration = Duration::from_millis(50);

/// The volumes of a job's threads: the engine that has them, the marks and the back-offs.
#[derive(Clone, Debug)]
pub struct ThreadVolumes {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// The rows of the threads.
    pub marks: Arc<dyn Marks>,
    /// Where back-offs are kept,
    pub ledger: Arc<dyn Ledger>,
    /// under this name.
    pub key: String,
    /// The clock that back-offs go by.
    pub clock: Arc<dyn Clock>,
    /// The job's rules.
    pub config: VolumesConfig,
}

/// What is known of one thread's volume.
#[derive(Clone, Debug)]
pub struct Known {
    /// The name that it has, or would have.
    pub volume: VolumeName,
    /// The thread's row; none: no thread has this id.
    pub row: Option<Thread>,
    /// The volume, where the engine lists it.
    pub found: Option<Found>,
}

/// What became of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is gone, and its thread is marked.
    Removed,
    /// It was gone before, and its thread is marked now.
    Absent,
    /// It was gone before, and nothing is left to mark.
    Settled,
    /// It stays: a container refers to it, as this says.
    Referenced(String),
    /// It stays: its thread is open.
    Open,
    /// It stays: no thread has its id.
    Unknown,
    /// It stays: it has not the label that it would need.
    Unlabelled,
    /// It stays: its thread was opened meanwhile, or somebody else has the row in hand.
    Changed,
    /// It stays: the job is switched off, as this says.
    Off(&'static str),
}

/// Why it is not known what becomes of a volume.
#[derive(Debug)]
pub(super) struct Unsettled {
    /// The engine has removed it; what is missing is the mark.
    pub is_gone: bool,
    /// Why.
    pub error: JobError,
}

impl Unsettled {
    fn before(error: impl Into<JobError>) -> Self {
        Self { is_gone: false, error: error.into() }
    }
}

impl ThreadVolumes {
    /// Every listed volume of the pattern, by name.
    pub async fn all(&self) -> Result<Vec<Found>, JobError> {
        let backoffs = self.ledger.backoffs(&self.key).await?;
        self.found(self.engine.look().await?, &backoffs).await
    }

    /// What is known of one thread's volume.
    ///
    /// # Errors
    /// [`JobError::Refused`] where no volume can be named after `thread`.
    pub async fn of(&self, thread: &str) -> Result<Known, JobError> {
        let rule = |rule| JobError::Refused(format!("thread {thread:?}: {rule}"));
        let volume = self.config.volume.volume(thread).map_err(rule)?;
        self.marks.prepare().await?;
        let backoffs = self.ledger.backoffs(&self.key).await?;
        // The row first: a volume that is not listed afterwards is not there, whatever is made later.
        let row = self.row(thread).await?;
        let mut look = self.engine.look().await?;
        look.volumes.retain(|listed| listed.name == volume);
        let found = self.found(look, &backoffs).await?.pop();
        Ok(Known { volume, row: found.as_ref().map_or(row, |found| found.row), found })
    }

    /// Removes one thread's volume by the same rules as a sweep; it needs no lock, and is tried though it failed before.
    ///
    /// # Errors
    /// [`JobError`], where the engine, the database or the ledger did not do it: nothing is marked that was not proven.
    pub async fn remove(&self, thread: &str) -> Result<Fate, JobError> {
        let began = tokio::time::Instant::now();
        loop {
            let known = self.of(thread).await?;
            let fate = self.settle(thread, known).await?;
            // Who has the row in hand is most likely removing this very volume.
            if fate != Fate::Changed || began.elapsed() >= self.config.engine_timeout {
                return Ok(fate);
            }
            sleep(LOOK).await;
        }
    }

    async fn settle(&self, thread: &str, known: Known) -> Result<Fate, JobError> {
        let Some(found) = known.found else { return self.settle_absent(thread, known.row).await };
        match found.verdict(&self.config, None, self.clock.now()) {
            Verdict::Goes | Verdict::Waiting(_) | Verdict::Newer => {
                let until = Instant::now() + self.config.engine_timeout;
                let fate = self.remove_found(&found, until).await.map_err(|unsettled| unsettled.error)?;
                Ok(fate.unwrap_or(Fate::Changed))
            }
            Verdict::Open => Ok(Fate::Open),
            Verdict::Unknown => Ok(Fate::Unknown),
            Verdict::Unlabelled => Ok(Fate::Unlabelled),
            Verdict::Referenced => Ok(Fate::Referenced(named(&found.users))),
        }
    }

    async fn settle_absent(&self, thread: &str, row: Option<Thread>) -> Result<Fate, JobError> {
        match row {
            None => Ok(Fate::Unknown),
            Some(Thread { is_closed: false, .. }) => Ok(Fate::Open),
            Some(Thread { is_marked: true, .. }) => Ok(Fate::Settled),
            Some(_) => {
                let marked = self.marks.mark(&[thread.to_owned()]).await?;
                self.forget(thread).await;
                Ok(if marked > 0 { Fate::Absent } else { Fate::Changed })
            }
        }
    }

    /// Removes a volume that may go, and remembers when to try again where that fails; `None` where there was no time left
    /// before `until`, and nothing was done.
    pub(super) async fn remove_found(&self, found: &Found, until: Instant) -> Result<Option<Fate>, Unsettled> {
        let fate = match found.row {
            Some(_) => self.remove_held(found, until).await,
            None => self.remove_unknown(found, until).await,
        };
        match &fate {
            Ok(Some(Fate::Removed | Fate::Absent | Fate::Settled)) if found.backoff.is_some() => {
                self.forget(&found.thread).await;
            }
            Ok(Some(Fate::Referenced(_))) | Err(_) => self.put_off(found).await,
            Ok(_) => {}
        }
        fate
    }

    async fn remove_held(&self, found: &Found, until: Instant) -> Result<Option<Fate>, Unsettled> {
        if self.limit(until).is_none() {
            return Ok(None);
        }
        let hold = self.marks.hold(&found.thread).await.map_err(Unsettled::before)?;
        let Some(hold) = hold else { return Ok(Some(Fate::Changed)) };
        let is_gone = match self.ask(found, until).await? {
            None => return Ok(None),
            Some(Removal::Removed) => true,
            Some(Removal::NotFound) => false,
            Some(Removal::Referenced(why)) => return Ok(Some(Fate::Referenced(why))),
        };
        match hold.mark().await {
            Ok(_) if is_gone => Ok(Some(Fate::Removed)),
            Ok(true) => Ok(Some(Fate::Absent)),
            Ok(false) => Ok(Some(Fate::Settled)),
            Err(error) => Err(Unsettled { is_gone, error: error.into() }),
        }
    }

    /// There is no row to hold: that there still is none is all that can be asked.
    async fn remove_unknown(&self, found: &Found, until: Instant) -> Result<Option<Fate>, Unsettled> {
        if self.row(&found.thread).await.map_err(Unsettled::before)?.is_some() {
            return Ok(Some(Fate::Changed));
        }
        Ok(self.ask(found, until).await?.map(|removal| match removal {
            Removal::Removed => Fate::Removed,
            Removal::NotFound => Fate::Settled,
            Removal::Referenced(why) => Fate::Referenced(why),
        }))
    }

    /// Asks the engine for the removal, unless no time is left.
    async fn ask(&self, found: &Found, until: Instant) -> Result<Option<Removal>, Unsettled> {
        match self.limit(until) {
            None => Ok(None),
            Some(limit) => self.engine.remove(&found.volume.name, limit).await.map(Some).map_err(Unsettled::before),
        }
    }

    /// How long the engine has for a removal that must be over at `until`.
    fn limit(&self, until: Instant) -> Option<Duration> {
        let left = until.saturating_duration_since(Instant::now()).min(self.config.engine_timeout);
        (!left.is_zero()).then_some(left)
    }

    async fn put_off(&self, found: &Found) {
        let backoff = Backoff::after(found.backoff.as_ref(), self.clock.now());
        if let Err(error) = self.ledger.put_backoff(&self.key, &found.thread, &backoff).await {
            // Tried again too early, it does no harm.
            tracing::warn!(job = self.key, volume = %found.volume.name, error = %chain(&error), "back-off not kept");
        }
    }

    /// Forgets a back-off. One that stays is forgotten by the next sweep.
    pub(super) async fn forget(&self, thread: &str) {
        if let Err(error) = self.ledger.clear_backoff(&self.key, thread).await {
            tracing::warn!(job = self.key, thread, error = %chain(&error), "back-off not forgotten");
        }
    }

    /// The volumes of the pattern among those that the engine lists, each with what is known of it, by name.
    pub(super) async fn found(&self, look: Look, backoffs: &BTreeMap<String, Backoff>) -> Result<Vec<Found>, JobError> {
        let Look { volumes, mut users } = look;
        let of_pattern = volumes.into_iter().filter_map(|volume| {
            let thread = self.config.volume.thread(&volume.name)?.to_owned();
            Some((thread, volume))
        });
        let mut listed: Vec<_> = of_pattern.collect();
        listed.sort_unstable_by(|(_, one), (_, other)| one.name.cmp(&other.name));
        let ids: Vec<String> = listed.iter().map(|(thread, _)| thread.clone()).collect();
        let rows = self.marks.threads(&ids).await?;
        let found = listed.into_iter().map(|(thread, volume)| Found {
            row: rows.get(&thread).copied(),
            users: users.remove(&volume.name).unwrap_or_default(),
            backoff: backoffs.get(&thread).cloned(),
            thread,
            volume,
        });
        Ok(found.collect())
    }

    async fn row(&self, thread: &str) -> Result<Option<Thread>, JobError> {
        Ok(self.marks.threads(&[thread.to_owned()]).await?.remove(thread))
    }
}

/// Containers as a sentence has them.
#[must_use]
pub fn named(users: &[User]) -> String {
    let shown = users.iter().map(|User { id, name, state }| {
        let short: String = id.chars().take(12).collect();
        format!("container {} ({short}, {state})", if name.is_empty() { "-" } else { name })
    });
    shown.collect::<Vec<_>>().join(", ")
}
