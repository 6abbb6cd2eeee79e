//! Keeps a host's folder from filling its disk: event logs, media, and what crashes left.
//!
//! A sweep goes by steps, each on its own: what fails in one is reported, and the next one runs. Logs are rotated first, so
//! that the room they give back is there before media is looked at. Then go leaked temporaries, media that a remote is
//! proven to have, and, while the disk is too full, more of the media: the oldest first.

pub mod cache;
mod gone;
mod logs;
mod media;
mod oldest;
mod pages;
mod pressure;

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

use self::{pages::Pages, pressure::Pressure};
use super::{Job, JobError, Leave, Narrow, Tally};
use crate::{
    blobs::Remote,
    config::DiskConfig,
    host::{
        Entry, Fate, Modified, Root, RootError,
        references::{self, ReferenceError, Referenced, References, Source},
        shown, temporaries, unlink,
    },
    lock::Fence,
    report::chain,
};

/// Where a sweep keeps what it needs itself: below the root.
const HOME: &str = ".janitor";
/// The most files of one batch: the kill switch is read before each.
pub const BATCH_MAX: usize = 2_000;

impl From<RootError> for JobError {
    fn from(error: RootError) -> Self {
        match error {
            RootError::Refused { .. } | RootError::Absent { .. } => Self::Refused(error.to_string()),
            error => Self::Disk(Box::new(error)),
        }
    }
}

/// Says whether the job may still go on; asked before each batch.
pub type Switch = Arc<dyn Fn() -> bool + Send + Sync>;

/// A file that would go.
#[derive(Clone, Debug)]
pub struct Doomed {
    entry: Entry<'static>,
    bond: Bond,
}

/// What is between a file and those who refer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bond {
    /// Nothing that matters.
    None,
    /// Nobody referred to it when it was planned: that is asked again before it goes.
    Unreferenced,
    /// References to it become null.
    Nulled,
}

/// What is looked for next.
#[derive(Debug)]
enum Step {
    Temporaries,
    Age,
    Pressure,
    Over,
}

/// One execution of a job of kind `disk`.
pub struct Disk {
    config: Arc<DiskConfig>,
    narrow: Narrow,
    now: DateTime<Utc>,
    switch: Switch,
    sources: Arc<[Source]>,
    /// Opened by [`prepare`](Job::prepare).
    root: Option<Root>,
    remote: Option<Remote>,
    /// How many questions in a row it gave no answer to.
    unanswered: usize,
    step: Step,
    pages: Option<Pages>,
    /// What refers to media, as it was when the present step began.
    references: Option<References>,
    pressure: Option<Pressure>,
    /// What the disk gets back by what is planned and has not gone.
    pending_bytes: u64,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("root", &self.config.root).field("step", &self.step).finish_non_exhaustive()
    }
}

impl Disk {
    /// An execution at `now`, which ends when `switch` says no.
    #[must_use]
    pub fn new(config: DiskConfig, now: DateTime<Utc>, narrow: Narrow, switch: Switch) -> Self {
        let source = |references: &crate::config::ReferencesConfig| Source {
            path: references.path.clone(),
            fields: references.fields.clone(),
        };
        Self {
            sources: config.references.iter().map(source).collect(),
            config: Arc::new(config),
            narrow,
            now,
            switch,
            root: None,
            remote: None,
            unanswered: 0,
            step: Step::Temporaries,
            pages: None,
            references: None,
            pressure: None,
            pending_bytes: 0,
        }
    }

    /// How many go in one batch: a second's worth at most, where a rate is set.
    #[must_use]
    pub fn batch_max(config: &DiskConfig) -> usize {
        config.rate_limit.map_or(BATCH_MAX, |rate| usize::try_from(rate.get()).unwrap_or(BATCH_MAX).min(BATCH_MAX))
    }

    fn root(&self) -> Root {
        self.root.clone().expect("an execution begins with `prepare`")
    }

    /// The moment before which a file must have been written to be `age` old.
    fn before(&self, age: Duration) -> Modified {
        let cutoff = chrono::TimeDelta::from_std(age).ok().and_then(|age| self.now.checked_sub_signed(age));
        let cutoff = cutoff.unwrap_or(DateTime::<Utc>::MIN_UTC);
        Modified::from(self.narrow.before.map_or(cutoff, |before| before.min(cutoff)))
    }

    /// Whether a file may go at all.
    fn is_free(config: &DiskConfig, path: &Path) -> bool {
        let is_named = |named: &Path| path == named;
        let is_log = |log: &crate::config::EventLogConfig| {
            let (Some(name), Some(log_name)) = (path.file_name(), log.path.file_name()) else { return true };
            // The log with its generations, and what a rotation of it has not finished.
            path.parent() == log.path.parent() && name.as_encoded_bytes().starts_with(log_name.as_encoded_bytes())
        };
        !(is_protected(config, path)
            || path.starts_with(HOME)
            || config.references.iter().any(|references| is_named(&references.path))
            || config.event_logs.iter().any(is_log))
    }

    /// The next files of the present step; none where the step is over.
    async fn next(&mut self, limit: usize, tally: &mut Tally) -> Result<Option<Vec<Doomed>>, JobError> {
        match self.step {
            Step::Temporaries => Ok(self.next_temporaries(limit, tally).await),
            Step::Age => self.next_aged(limit, tally).await,
            Step::Pressure => Ok(self.next_pressed(limit, tally).await),
            Step::Over => Ok(None),
        }
    }

    async fn next_temporaries(&mut self, limit: usize, tally: &mut Tally) -> Option<Vec<Doomed>> {
        if self.pages.is_none() {
            let (config, now, before) = (Arc::clone(&self.config), self.now, self.before(Duration::ZERO));
            let is_wanted = move |entry: &Entry<'_>| {
                entry.seen.modified < before && is_leaked(entry, now) && Self::is_free(&config, &entry.path)
            };
            self.pages = Some(Pages::of(&self.root(), vec![PathBuf::new()], is_wanted));
        }
        let found = self.pages.as_mut()?.next(limit).await;
        self.or_end(found, tally).await.map(|files| files.into_iter().map(Doomed::alone).collect())
    }

    /// The page, or the end of the walk with what it could not read.
    async fn or_end(&mut self, page: Vec<Entry<'static>>, tally: &mut Tally) -> Option<Vec<Entry<'static>>> {
        if !page.is_empty() {
            return Some(page);
        }
        if let Some(pages) = self.pages.take() {
            pages.end(tally).await;
        }
        None
    }

    /// Deletes what still is as it was seen.
    async fn unlink(&self, doomed: &[&Doomed], tally: &mut Tally) -> Result<Vec<String>, JobError> {
        let (root, files) = (self.root(), doomed.iter().map(|doomed| doomed.entry.clone()).collect::<Vec<_>>());
        let fates = blocking(move || unlink(&root, &files)).await;
        let mut gone = Vec::new();
        for (doomed, fate) in doomed.iter().zip(fates) {
            let item = shown(&doomed.entry.path);
            match fate {
                Fate::Gone { freed_bytes } => {
                    tally.bytes_freed += freed_bytes;
                    gone.push(item);
                }
                Fate::Absent => {}
                Fate::Changed => tally.kept.add("changed", 1),
                Fate::Failed(error) => tally.fail(&item, &error),
            }
        }
        tally.deleted.add(Self::UNIT, gone.len() as u64);
        Ok(gone)
    }

    /// Those that nobody refers to now, either.
    async fn still_unreferenced<'d>(&self, doomed: Vec<&'d Doomed>, tally: &mut Tally) -> Vec<&'d Doomed> {
        let references = self.read_references(tally).await;
        let (free, held): (Vec<&Doomed>, Vec<&Doomed>) =
            doomed.into_iter().partition(|doomed| references.referenced(&doomed.entry.path) == Referenced::No);
        tally.kept.add("referenced", held.len() as u64);
        free
    }

    /// Makes the references to these files null, deletes them, and looks for references once more.
    async fn unlink_nulled(&self, doomed: &[&Doomed], tally: &mut Tally) -> Result<Vec<String>, JobError> {
        let paths: Vec<PathBuf> = doomed.iter().map(|doomed| doomed.entry.path.to_path_buf()).collect();
        let root = self.root();
        let remembered = {
            let (root, paths) = (root.clone(), paths.clone());
            blocking(move || gone::remember(&root, &paths)).await
        };
        if let Err(error) = remembered {
            // Without its name written down a reference that comes back would stay: the files stay instead.
            tally.fail(HOME, &error);
            tally.kept.add("referenced", doomed.len() as u64);
            return Ok(Vec::new());
        }
        let nulled = self.null(paths.clone(), tally).await;
        let (free, held): (Vec<&Doomed>, Vec<&Doomed>) =
            doomed.iter().partition(|doomed| nulled.may_go(&doomed.entry.path));
        tally.kept.add("referenced", held.len() as u64);
        let gone = self.unlink(&free, tally).await?;
        let again = free.iter().map(|doomed| doomed.entry.path.to_path_buf()).collect();
        self.null(again, tally).await;
        Ok(gone)
    }

    async fn null(&self, paths: Vec<PathBuf>, tally: &mut Tally) -> references::Nulled {
        let (root, sources) = (self.root(), Arc::clone(&self.sources));
        let nulled = blocking(move || references::null(&root, &sources, &paths, Path::new(HOME))).await;
        tally.deleted.add("references", nulled.references);
        tell_once(&nulled.failures, tally);
        nulled
    }

    /// Waits until the batch has lasted as long as the rate wants it to.
    async fn keep_to_rate(&self, began: Instant, count: usize) {
        if let Some(rate) = self.config.rate_limit {
            #[expect(clippy::cast_precision_loss, reason = "a batch is small, and a rate need not be exact")]
            let least = Duration::from_secs_f64(count as f64 / rate.get() as f64);
            tokio::time::sleep_until((began + least).into()).await;
        }
    }
}

/// Reports what could not be done with references, but for what stands in the report already: each batch meets it anew.
fn tell_once(errors: &[ReferenceError], tally: &mut Tally) {
    for error in errors {
        let text = chain(error);
        if !tally.failures.iter().any(|failure| failure.error == text) {
            tally.fail("references", error);
        }
    }
}

impl Doomed {
    /// One that nothing refers to.
    fn alone(entry: Entry<'static>) -> Self {
        Self { entry, bond: Bond::None }
    }
}

/// Whether it is a temporary that its writer has left.
fn is_leaked(entry: &Entry<'_>, now: DateTime<Utc>) -> bool {
    let modified = DateTime::from_timestamp(entry.seen.modified.secs, entry.seen.modified.nanos);
    let name = entry.path.file_name().unwrap_or_default();
    modified.is_some_and(|modified| temporaries::is_leaked(name, modified, now))
}

/// Whether a pattern names the path or its last part.
fn is_protected(config: &DiskConfig, path: &Path) -> bool {
    let (whole, name) = (path.to_string_lossy(), path.file_name().unwrap_or_default().to_string_lossy());
    config.protect.iter().any(|pattern| pattern.matches(&whole) || pattern.matches(&name))
}

impl Job for Disk {
    type Item = Doomed;

    const UNIT: &'static str = "files";

    fn id(item: &Doomed) -> Cow<'_, str> {
        Cow::Owned(shown(&item.entry.path))
    }

    async fn prepare(&mut self, leave: Leave<'_>, tally: &mut Tally) -> Result<(), JobError> {
        let path = self.config.root.clone();
        let root = blocking(move || Root::open(&path)).await?;
        self.root = Some(root);
        if let Some(remote) = &self.config.remote {
            self.remote = Some(Remote::open(&remote.objects, remote.verify)?);
        }
        if let Leave::Apply(held) = leave {
            held.fence()?;
            self.null_again(tally).await;
        }
        self.rotate(leave, tally).await
    }

    async fn plan(&mut self, _: Leave<'_>, limit: usize, tally: &mut Tally) -> Result<Option<Vec<Doomed>>, JobError> {
        loop {
            if let Some(page) = self.next(limit, tally).await? {
                self.pending_bytes += page.iter().map(|doomed| doomed.entry.seen.frees_bytes()).sum::<u64>();
                return Ok(Some(page));
            }
            self.pages = None;
            self.step = match self.step {
                Step::Temporaries => Step::Age,
                Step::Age => Step::Pressure,
                Step::Pressure | Step::Over => {
                    self.step = Step::Over;
                    return Ok(None);
                }
            };
        }
    }

    async fn execute(
        &mut self,
        _: Fence,
        items: &[Doomed],
        _: Duration,
        tally: &mut Tally,
    ) -> Result<Vec<String>, JobError> {
        if !(self.switch)() {
            return Err(JobError::Off);
        }
        let began = Instant::now();
        let bound = |bond| items.iter().filter(move |doomed| doomed.bond == bond);
        let mut alone: Vec<&Doomed> = bound(Bond::None).collect();
        let (unreferenced, nulled): (Vec<&Doomed>, Vec<&Doomed>) =
            (bound(Bond::Unreferenced).collect(), bound(Bond::Nulled).collect());
        if !unreferenced.is_empty() {
            alone.append(&mut self.still_unreferenced(unreferenced, tally).await);
        }
        let mut gone = if alone.is_empty() { Vec::new() } else { self.unlink(&alone, tally).await? };
        if !nulled.is_empty() {
            gone.append(&mut self.unlink_nulled(&nulled, tally).await?);
        }
        let pending = items.iter().map(|doomed| doomed.entry.seen.frees_bytes()).sum::<u64>();
        self.pending_bytes = self.pending_bytes.saturating_sub(pending);
        self.keep_to_rate(began, items.len()).await;
        Ok(gone)
    }

    async fn rest(&mut self, leave: Leave<'_>, _: Duration, tally: &mut Tally) -> Result<bool, JobError> {
        if self.is_remote_silent() {
            tally.fail("remote", &media::Silent);
        }
        self.look_again(leave, tally).await;
        Ok(false)
    }
}

/// Runs what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
