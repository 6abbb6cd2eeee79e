//! What is known of volumes, and their removal: for the sweep, and for who asks for one by hand.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{
    batch::{Batch, Settled},
    decide::{Found, Verdict},
};
use crate::{
    clock::Clock,
    config::{VolumeName, VolumesConfig},
    jobs::JobError,
    ledger::{Backoff, Ledger},
    report::chain,
    volumes::{Engine, Look, Marks, Thread, User},
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

impl ThreadVolumes {
    /// Every listed volume of the pattern, by name.
    pub async fn all(&self) -> Result<Vec<Found>, JobError> {
        let backoffs = self.ledger.backoffs(&self.key).await?;
        self.found(&backoffs, |_| true).await
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
        let found = self.found(&backoffs, |listed| *listed == volume).await?.pop();
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
                let settled = self.remove_found(std::slice::from_ref(&found), until).await;
                let fate = settled.into_iter().next().map_or(Ok(None), |(_, fate)| fate);
                Ok(fate.map_err(|unsettled| unsettled.error)?.unwrap_or(Fate::Changed))
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

    /// Removes volumes that may go, and remembers when to try those again that could not be removed.
    pub(super) async fn remove_found<'f>(&self, found: &'f [Found], until: Instant) -> Vec<Settled<'f>> {
        let settled = Batch::new(self, until).remove(found).await;
        for (found, fate) in &settled {
            match fate {
                Ok(Some(Fate::Removed | Fate::Absent | Fate::Settled)) if found.backoff.is_some() => {
                    self.forget(&found.thread).await;
                }
                Ok(Some(Fate::Referenced(_))) | Err(_) => self.put_off(found).await,
                Ok(_) => {}
            }
        }
        settled
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

    /// The volumes of the pattern that the engine lists and that are wanted, each with what is known of it, by name.
    pub(super) async fn found(
        &self,
        backoffs: &BTreeMap<String, Backoff>,
        is_wanted: impl Fn(&VolumeName) -> bool + Send,
    ) -> Result<Vec<Found>, JobError> {
        // Containers take an engine the longest: the rows are read meanwhile.
        let with_rows = async {
            let mut volumes = self.engine.volumes().await?;
            volumes.retain(|volume| is_wanted(&volume.name) && self.config.volume.thread(&volume.name).is_some());
            volumes.sort_unstable_by(|one, other| one.name.cmp(&other.name));
            let threads = volumes.iter().filter_map(|volume| self.config.volume.thread(&volume.name));
            let threads: Vec<String> = threads.map(str::to_owned).collect();
            let rows = self.marks.threads(&threads).await?;
            Ok((volumes, threads, rows))
        };
        let containers = async { Ok::<_, JobError>(self.engine.containers().await?) };
        let ((volumes, threads, rows), containers) = futures::try_join!(with_rows, containers)?;
        let Look { volumes, mut users } = Look::of(volumes, containers);
        let found = volumes.into_iter().zip(threads).map(|(volume, thread)| Found {
            row: rows.get(&thread).copied(),
            users: users.remove(&volume.name).unwrap_or_default(),
            backoff: backoffs.get(&thread).cloned(),
            thread,
            volume,
        });
        Ok(found.collect())
    }

    pub(super) async fn row(&self, thread: &str) -> Result<Option<Thread>, JobError> {
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
