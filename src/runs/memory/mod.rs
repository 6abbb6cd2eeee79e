//! Runs in memory, for tests: it forgets with the process, and a page of it reads everything.

mod state;

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use self::state::{State, is_old};
use super::{
    Cursor, Deleted, Findings, LooseStep, Page, RunStore, Seen, Stamp, StoreError,
    layout::{Layout, PYWORKFLOW},
};
use crate::lock::Fence;

const NAME: &str = "memory";

/// A run as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// Its id.
    pub id: String,
    /// Its status.
    pub status: String,
    /// The name of its workflow.
    pub workflow: String,
    /// When it was made, as text in ISO 8601.
    pub created_at: Option<String>,
    /// When it was last written, likewise.
    pub updated_at: Option<String>,
    /// The run that it was started by.
    pub parent: Option<String>,
    /// The run that it goes on from.
    pub continued_from: Option<String>,
}

/// One thing in a store of runs, with what retention looks at. Times are text in ISO 8601.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thing {
    /// A run.
    Run(Run),
    /// What names the run that it belongs to.
    Owned {
        /// `events`, `steps`, `hooks` or `cancellation_flags`.
        kind: String,
        /// The run.
        run: String,
        /// What tells it from the others of its kind; a flag has none.
        id: String,
    },
    /// What a step has saved.
    Checkpoint {
        /// `<run>:<step>`, or another text of the step's own.
        key: String,
    },
    /// A signal on a stream.
    Signal {
        /// Its id.
        id: String,
        /// The stream.
        stream: String,
        /// Its type.
        kind: String,
        /// When it was published.
        at: Option<String>,
    },
    /// A step has read a signal.
    Acknowledgement {
        /// The signal's id.
        signal: String,
        /// The step.
        step_run: String,
        /// When.
        at: Option<String>,
    },
    /// A step reads a stream.
    Subscription {
        /// The stream.
        stream: String,
        /// The step.
        step_run: String,
        /// A JSON array of signal types.
        kinds: String,
        /// Its status.
        status: String,
        /// When it was made.
        at: Option<String>,
    },
    /// A schedule.
    Schedule {
        /// Its id.
        id: String,
        /// Its status.
        status: String,
        /// When it was deleted.
        deleted_at: Option<String>,
    },
}

/// A store of runs that is kept in memory. A clone is the same store.
///
/// ```
/// use apalis_janitor::runs::memory::{MemoryStore, Run, Thing};
/// let store = MemoryStore::default();
/// store.put(Thing::Run(Run { id: "run_1".to_owned(), ..Run::default() }));
/// assert_eq!(store.things().len(), 1);
/// ```
#[derive(Clone, Debug)]
pub struct MemoryStore {
    layout: &'static Layout,
    state: Arc<Mutex<State>>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self { layout: &PYWORKFLOW, state: Arc::default() }
    }
}

impl MemoryStore {
    /// Adds a thing; a run takes the place of the one of its id.
    pub fn put(&self, thing: Thing) {
        let mut state = self.state();
        match thing {
            Thing::Run(run) => {
                state.runs.insert(run.id.clone(), run);
            }
            Thing::Owned { kind, run, id } => {
                state.owned.entry(run).or_default().insert((kind, id));
            }
            Thing::Checkpoint { key } => {
                state.checkpoints.insert(key);
            }
            loose @ (Thing::Signal { .. }
            | Thing::Acknowledgement { .. }
            | Thing::Subscription { .. }
            | Thing::Schedule { .. }) => {
                state.loose.insert(loose);
            }
        }
    }

    /// Removes a run with what names it, and leaves the rest.
    pub fn remove(&self, run: &str) {
        let mut state = self.state();
        state.runs.remove(run);
        state.owned.remove(run);
    }

    /// Everything that is there.
    #[must_use]
    pub fn things(&self) -> BTreeSet<Thing> {
        let state = self.state();
        let owned = state.owned.iter().flat_map(|(run, things)| {
            things.iter().map(|(kind, id)| Thing::Owned { kind: kind.clone(), run: run.clone(), id: id.clone() })
        });
        let checkpoints = state.checkpoints.iter().map(|key| Thing::Checkpoint { key: key.clone() });
        let runs = state.runs.values().cloned().map(Thing::Run);
        runs.chain(owned).chain(checkpoints).chain(state.loose.iter().cloned()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Changes are made on a copy that replaces the whole: a panic elsewhere cannot leave half of one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A change by the holder of `fence` that happens wholly and within `limit`, or not at all.
    fn change<T>(
        &self,
        (job, fence): (&str, Fence),
        limit: Duration,
        change: impl FnOnce(&mut State) -> T,
    ) -> Result<T, StoreError> {
        let start = Instant::now();
        let mut state = self.state();
        let highest = state.fences.get(job).copied().unwrap_or(0);
        if highest != fence.get() {
            return Err(StoreError::Fenced { store: NAME, fence, highest });
        }
        let mut changed = state.clone();
        let answer = change(&mut changed);
        if start.elapsed() >= limit {
            return Err(StoreError::TimedOut { store: NAME });
        }
        *state = changed;
        Ok(answer)
    }
}

fn seen(run: &Run) -> Seen {
    Seen {
        id: run.id.clone(),
        status: run.status.clone(),
        updated_at: Stamp::read(run.updated_at.clone()),
        created_at: Stamp::read(run.created_at.clone()),
        workflow: run.workflow.clone(),
        parent: run.parent.clone(),
    }
}

/// The first `limit` of `runs`, which are in the order of `key`, beyond `after`.
fn page_of<'a>(runs: Vec<&'a Run>, key: impl Fn(&'a Run) -> [&'a str; 2], limit: usize) -> Page {
    let next = runs.get(limit.saturating_sub(1)).filter(|_| runs.len() >= limit);
    let next = next.map(|last| Cursor(key(last).map(str::to_owned).to_vec()));
    Page { runs: runs.into_iter().take(limit).map(seen).collect(), next }
}

fn by_creation(run: &Run) -> [&str; 2] {
    [run.created_at.as_deref().unwrap_or_default(), &run.id]
}

fn by_parent(run: &Run) -> [&str; 2] {
    [run.parent.as_deref().unwrap_or_default(), &run.id]
}

fn place(cursor: &Cursor) -> [&str; 2] {
    let part = |at: usize| cursor.0.get(at).map_or("", String::as_str);
    [part(0), part(1)]
}

#[async_trait]
impl RunStore for MemoryStore {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn now(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        Ok(None)
    }

    async fn page(&self, before: DateTime<Utc>, after: Option<&Cursor>, limit: usize) -> Result<Page, StoreError> {
        let state = self.state();
        let is_before = |run: &&Run| is_old(run.created_at.as_ref(), before);
        let is_beyond = |run: &&Run| after.is_none_or(|cursor| by_creation(run) < place(cursor));
        let mut runs: Vec<&Run> = state.runs.values().filter(is_before).filter(is_beyond).collect();
        runs.sort_unstable_by(|one, other| by_creation(other).cmp(&by_creation(one)));
        Ok(page_of(runs, by_creation, limit))
    }

    async fn unpaged(&self, limit: usize) -> Result<u64, StoreError> {
        let state = self.state();
        let is_unreadable = |run: &&Run| Stamp::read(run.created_at.clone()).instant.is_none();
        Ok(state.runs.values().filter(is_unreadable).take(limit).count() as u64)
    }

    async fn children(&self, parents: &[String], after: Option<&Cursor>, limit: usize) -> Result<Page, StoreError> {
        let state = self.state();
        let parents: HashSet<&String> = parents.iter().collect();
        let is_below = |run: &&Run| run.parent.as_ref().is_some_and(|parent| parents.contains(parent));
        let is_beyond = |run: &&Run| after.is_none_or(|cursor| by_parent(run) > place(cursor));
        let mut runs: Vec<&Run> = state.runs.values().filter(is_below).filter(is_beyond).collect();
        runs.sort_unstable_by(|one, other| by_parent(one).cmp(&by_parent(other)));
        Ok(page_of(runs, by_parent, limit))
    }

    async fn find(&self, ids: &[String]) -> Result<Vec<Seen>, StoreError> {
        let state = self.state();
        let ids: HashSet<&String> = ids.iter().collect();
        Ok(state.runs.values().filter(|run| ids.contains(&run.id)).map(seen).collect())
    }

    async fn raise(&self, job: &str, fence: Fence) -> Result<(), StoreError> {
        let mut state = self.state();
        let highest = state.fences.entry(job.to_owned()).or_default();
        if fence.get() <= *highest {
            return Err(StoreError::Fenced { store: NAME, fence, highest: *highest });
        }
        *highest = fence.get();
        Ok(())
    }

    async fn delete(&self, job: &str, fence: Fence, runs: &[Seen], limit: Duration) -> Result<Deleted, StoreError> {
        self.change((job, fence), limit, |state| state.delete(runs, self.layout))
    }

    async fn loose(
        &self,
        cutoff: DateTime<Utc>,
        _after: Option<&Cursor>,
        leave: Option<(&str, Fence)>,
        limit: Duration,
    ) -> Result<LooseStep, StoreError> {
        let counts = match leave {
            None => self.state().clone().sweep(cutoff, self.layout),
            Some(holder) => self.change(holder, limit, |state| state.sweep(cutoff, self.layout))?,
        };
        Ok(LooseStep { counts, next: None })
    }

    async fn check(&self) -> Result<Findings, StoreError> {
        Ok(Findings { facts: vec![format!("{NAME}: empty at every start")], warnings: Vec::new() })
    }
}
