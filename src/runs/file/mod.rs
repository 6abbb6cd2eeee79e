//! Runs in a folder of JSON files that PyWorkflow owns and goes on writing.
//!
//! Nothing holds several files together there, so a batch is a folder of its own that one rename deletes: see `marker`.
//! What PyWorkflow writes under one of its lock files is changed under the same one. Readers of its own that list all
//! runs while some go may meet a file that has just gone, as they may with its own cleaner.
//!
//! A folder has no clock: the times in it are its writers' own.

mod check;
mod delete;
mod faults;
mod folder;
mod index;
mod json;
mod lock;
mod loose;
mod marker;
mod owned;
mod tokens;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::runtime::RuntimeFlavor;

use self::{
    faults::Faults,
    folder::Folder,
    index::{Index, Record},
    marker::Gone,
    owned::Owned,
};
use super::{Cursor, Deleted, Findings, LooseStep, Page, RunStore, Seen, StoreError, layout::Layout};
use crate::lock::Fence;

const NAME: &str = "file";

/// A folder of PyWorkflow's file storage.
///
/// ```
/// use apalis_janitor::runs::{RunStore, file::FileStore, layout::PYWORKFLOW};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # let folder = tempfile::tempdir().unwrap();
/// for name in ["runs", ".locks"] {
///     std::fs::create_dir(folder.path().join(name)).unwrap();
/// }
/// let store = FileStore::open(folder.path(), &PYWORKFLOW).await?;
/// assert!(store.find(&["run_1".to_owned()]).await?.is_empty());
/// # Ok::<_, apalis_janitor::runs::StoreError>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct FileStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    layout: &'static Layout,
    folders: Folders,
    state: Mutex<State>,
}

/// What a sweep has found and done so far.
#[derive(Debug, Default)]
struct State {
    index: Option<Index>,
    owned: Option<Owned>,
    /// What went, but for its tokens.
    gone: Vec<Gone>,
    /// Whether a fence was raised, so that runs are going to be deleted.
    is_real: bool,
}

impl State {
    /// The two of them, once they are ready.
    fn both(&mut self) -> (&mut Index, &mut Owned) {
        (self.index.get_or_insert_default(), self.owned.get_or_insert_default())
    }
}

/// The folders of a store. Older stores lack some.
#[derive(Debug)]
struct Folders {
    root: Folder,
    runs: Folder,
    events: Folder,
    steps: Folder,
    hooks: Folder,
    checkpoints: Folder,
    schedules: Folder,
    signals: Folder,
    subscriptions: Folder,
    acknowledgments: Folder,
    locks: Folder,
}

impl Folders {
    fn open(path: &Path, layout: &Layout) -> Result<Self, StoreError> {
        let root = Folder::root(path, Arc::new(Faults::default()))?;
        let below = |name| root.below(name);
        let this = Self {
            runs: below("runs")?,
            events: below("events")?,
            steps: below("steps")?,
            hooks: below("hooks")?,
            checkpoints: below("checkpoints")?,
            schedules: below("schedules")?,
            signals: below("signals")?,
            subscriptions: below("subscriptions")?,
            acknowledgments: below("acknowledgments")?,
            locks: below(".locks")?,
            root,
        };
        for folder in [&this.runs, &this.locks] {
            if !folder.is_there() {
                let what =
                    format!("{}: no such folder: not a store of layout {:?}", folder.path().display(), layout.name);
                return Err(StoreError::Schema { store: NAME, what });
            }
        }
        Ok(this)
    }

    fn all(&self) -> [&Folder; 11] {
        let Self {
            root,
            runs,
            events,
            steps,
            hooks,
            checkpoints,
            schedules,
            signals,
            subscriptions,
            acknowledgments,
            locks,
        } = self;
        [root, runs, events, steps, hooks, checkpoints, schedules, signals, subscriptions, acknowledgments, locks]
    }

    fn assert_writable(&self) -> Result<(), StoreError> {
        self.all().into_iter().try_for_each(Folder::assert_writable)
    }
}

impl FileStore {
    /// Opens the folder at `path`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where it cannot be read, [`StoreError::Schema`] where it is no store.
    pub async fn open(path: &Path, layout: &'static Layout) -> Result<Self, StoreError> {
        let path = path.to_owned();
        let folders = blocking(move || Folders::open(&path, layout)).await?;
        Ok(Self(Arc::new(Shared { layout, folders, state: Mutex::default() })))
    }

    /// Lets so many more changes of the disk succeed and fails each one after them, as if the process had been killed.
    #[cfg(feature = "test-util")]
    pub fn allow(&self, changes: Option<u64>) {
        self.0.folders.root.faults().allow(changes);
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        // On the spot where that is possible: what is dropped in the middle would go on and be told to nobody.
        if tokio::runtime::Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread {
            return tokio::task::block_in_place(|| work(&self.0));
        }
        let shared = Arc::clone(&self.0);
        blocking(move || work(&shared)).await
    }
}

/// Does what blocks on a thread of its own. It goes on where nobody waits for it any more.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(StoreError::unavailable(NAME, error)),
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned: PoisonError<_>| {
            let mut state = poisoned.into_inner();
            // What is half done there is on the disk too.
            *state = State::default();
            state
        })
    }

    /// The folder `.janitor`, which is there after the first real run.
    fn home(&self) -> Result<Folder, StoreError> {
        self.folders.root.below(marker::HOME)
    }

    /// Reads all runs, those among them that a dead sweep has planned.
    fn scan(&self) -> Result<Index, StoreError> {
        let planned = marker::planned(&self.home()?)?;
        Index::scan([&self.folders.runs].into_iter().chain(&planned), &self.folders.locks)
    }

    /// Begins a new sweep: what an earlier one has read may be old.
    fn begin(&self) -> Result<(), StoreError> {
        let mut state = self.state();
        (state.index, state.owned) = (None, None);
        // Not within a batch, whose time is short.
        if state.is_real { self.ready(&mut state) } else { Ok(()) }
    }

    /// Reads what a delete needs, once in a sweep.
    fn ready(&self, state: &mut State) -> Result<(), StoreError> {
        let index = match &state.index {
            Some(index) => index,
            None => state.index.insert(self.scan()?),
        };
        if state.owned.is_none() {
            state.owned = Some(Owned::scan(&self.folders, |run| index.stands(run))?);
        }
        Ok(())
    }

    fn with_index<T>(&self, work: impl FnOnce(&Index) -> T) -> Result<T, StoreError> {
        let mut state = self.state();
        Ok(work(match &state.index {
            Some(index) => index,
            None => state.index.insert(self.scan()?),
        }))
    }

    fn find(&self, ids: &[String]) -> Result<Vec<Seen>, StoreError> {
        let mut ids: Vec<&String> = ids.iter().collect();
        ids.sort_unstable();
        ids.dedup();
        let mut found = Vec::new();
        for id in ids.into_iter().filter(|id| folder::file_name("", id, index::RUN).is_some()) {
            let mut record = index::read(&self.folders.runs, &self.folders.locks, id)?;
            if matches!(record, Record::Absent) {
                // It may come back from where a batch has put it.
                for folder in marker::planned(&self.home()?)? {
                    if let now @ Record::Run(_) = index::parse(&folder, id)? {
                        record = now;
                    }
                }
            }
            if let Record::Run(run) = record {
                found.push(run);
            }
        }
        Ok(found)
    }
}

#[async_trait]
impl RunStore for FileStore {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn now(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        Ok(None)
    }

    async fn page(&self, before: DateTime<Utc>, after: Option<&Cursor>, limit: usize) -> Result<Page, StoreError> {
        let after = after.cloned();
        let page = move |shared: &Shared| {
            if after.is_none() {
                shared.begin()?;
            }
            shared.with_index(|index| index.page(before, after.as_ref(), limit))
        };
        self.with(page).await
    }

    async fn unpaged(&self, limit: usize) -> Result<u64, StoreError> {
        self.with(move |shared| shared.with_index(|index| index.unpaged().min(limit as u64))).await
    }

    async fn children(&self, parents: &[String], after: Option<&Cursor>, limit: usize) -> Result<Page, StoreError> {
        let (parents, after) = (parents.to_vec(), after.cloned());
        self.with(move |shared| shared.with_index(|index| index.children(&parents, after.as_ref(), limit))).await
    }

    async fn find(&self, ids: &[String]) -> Result<Vec<Seen>, StoreError> {
        let ids = ids.to_vec();
        self.with(move |shared| shared.find(&ids)).await
    }

    async fn raise(&self, job: &str, fence: Fence) -> Result<(), StoreError> {
        let job = job.to_owned();
        self.with(move |shared| shared.raise(&job, fence)).await
    }

    async fn delete(&self, job: &str, fence: Fence, runs: &[Seen], limit: Duration) -> Result<Deleted, StoreError> {
        let (job, runs) = (job.to_owned(), runs.to_vec());
        self.with(move |shared| shared.delete(&job, fence, &runs, limit)).await
    }

    async fn loose(
        &self,
        cutoff: DateTime<Utc>,
        after: Option<&Cursor>,
        leave: Option<(&str, Fence)>,
        limit: Duration,
    ) -> Result<LooseStep, StoreError> {
        let (after, leave) = (after.cloned(), leave.map(|(job, fence)| (job.to_owned(), fence)));
        self.with(move |shared| shared.loose(cutoff, after.as_ref(), leave, limit)).await
    }

    async fn rest(&self) {
        let flushed = self.with(|shared| {
            let mut state = std::mem::take(&mut *shared.state());
            shared.flush(&mut state, tokens::WAIT_MAX)
        });
        if let Err(error) = flushed.await {
            tracing::warn!(store = NAME, %error, "the next sweep finishes what this one left");
        }
    }

    async fn check(&self) -> Result<Findings, StoreError> {
        self.with(Shared::findings).await
    }
}
