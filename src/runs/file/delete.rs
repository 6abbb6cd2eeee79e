//! Deletes a batch of runs with all that is their own.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    NAME, Shared, State,
    folder::{Folder, SHARE, by_several, file_name},
    index::{LOCK, RUN, Record, parse},
    lock,
    marker::{self, Gone, Planned},
    owned::{Files, JSON, Owned, run_of},
    tokens,
};
use crate::{
    lock::Fence,
    report::Counts,
    runs::{Deleted, Seen, StoreError},
};

/// How long a batch waits in all for runs that others have in their hands: those that are left are kept this time.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// So many bytes of the token index are rewritten for each run that went, so that all of it stays linear.
const TOKENS_PER_RUN: u64 = 512;
/// What is as good as no deadline.
const LONG: Duration = Duration::from_hours(24 * 365);

/// What belongs to runs, as it is counted.
const KINDS: [&str; 5] = ["checkpoints", "steps", "hooks", "events", "cancellation_flags"];

/// What a batch took, and why it left the rest.
#[derive(Debug, Default)]
struct Taken {
    /// In the order of the batch.
    runs: Vec<String>,
    changed: u64,
    held: u64,
}

impl Shared {
    /// Sets the job's fence, and finishes what earlier sweeps left.
    pub(super) fn raise(&self, job: &str, fence: Fence) -> Result<(), StoreError> {
        self.folders.assert_writable()?;
        if self.folders.root.make_folder(marker::HOME)? {
            self.folders.root.sync()?;
        }
        let home = self.home()?;
        marker::raise(&home, job, fence)?;
        let mut state = self.state();
        *state = State { is_real: true, ..State::default() };
        let gone = marker::recover(&home, job, &self.folders.runs)?;
        if gone.is_empty() {
            return Ok(());
        }
        let ids: HashSet<&str> = gone.iter().flat_map(|gone| &gone.runs).map(String::as_str).collect();
        let mut index = self.scan()?;
        for id in &ids {
            index.forget(id);
        }
        let mut owned = Owned::scan(&self.folders, |run| ids.contains(run) || index.stands(run))?;
        let stands = |run: &str| index.stands(run);
        let done = gone.iter().map(|gone| self.finish(gone, &mut owned, stands, &mut Counts::default()));
        let done: Vec<bool> = done.collect();
        drop(ids);
        state.gone = gone.into_iter().zip(done).filter(|(_, done)| *done).map(|(gone, _)| gone).collect();
        state.index = Some(index);
        if let Err(error) = self.flush(&mut state, tokens::WAIT_MAX) {
            tracing::warn!(store = NAME, %error, "the next sweep finishes what an earlier one left");
        }
        *state = State { is_real: true, ..State::default() };
        Ok(())
    }

    pub(super) fn delete(
        &self,
        job: &str,
        fence: Fence,
        runs: &[Seen],
        limit: Duration,
    ) -> Result<Deleted, StoreError> {
        let end = Instant::now() + limit.min(LONG);
        let home = self.home()?;
        marker::guard(&home, job, fence)?;
        let mut state = self.state();
        let state = &mut *state;
        self.ready(state)?;
        let plan = Planned::begin(&home, job, fence)?;
        let taken = match self.fill(&plan, &home, state, runs, end) {
            Ok(taken) => taken,
            Err(error) => {
                self.undo(&plan);
                return Err(error);
            }
        };
        let mut deleted = Deleted { changed: taken.changed, held: taken.held, ..Deleted::default() };
        if taken.runs.is_empty() {
            self.undo(&plan);
            return Ok(deleted);
        }
        let gone = match plan.commit(taken.runs) {
            Ok(gone) => gone,
            Err(error) => {
                self.undo(&plan);
                return Err(error);
            }
        };
        let (index, owned) = state.both();
        for id in &gone.runs {
            index.forget(id);
        }
        deleted.runs.clone_from(&gone.runs);
        deleted.counts.add("runs", gone.runs.len() as u64);
        // What belongs to the runs must not go from the disk before they do.
        if let Err(error) = home.sync() {
            tracing::warn!(store = NAME, %error, "the next sweep deletes what belongs to the runs");
            return Ok(deleted);
        }
        if self.finish(&gone, owned, |run| index.stands(run), &mut deleted.counts) {
            state.gone.push(gone);
        }
        let pending = state.gone.iter().map(|gone| gone.runs.len() as u64).sum::<u64>();
        if pending * TOKENS_PER_RUN >= tokens::size(&self.folders)
            && let Err(error) = self.flush(state, Duration::ZERO)
        {
            tracing::debug!(store = NAME, %error, "the end of the sweep finishes what this batch left");
        }
        Ok(deleted)
    }

    fn undo(&self, plan: &Planned<'_>) {
        if let Err(error) = plan.undo(&self.folders.runs) {
            tracing::warn!(store = NAME, %error, "the next sweep puts back what this batch planned");
        }
    }

    /// Takes the runs of the batch that are still as they were read and hold nothing outside.
    fn fill(
        &self,
        plan: &Planned<'_>,
        home: &Folder,
        state: &mut State,
        runs: &[Seen],
        end: Instant,
    ) -> Result<Taken, StoreError> {
        let (index, _) = state.both();
        let (wait, mut batch) = (Mutex::new(WAIT_MAX), HashSet::new());
        let runs: Vec<&Seen> = runs.iter().filter(|run| batch.insert(run.id.as_str())).collect();
        let asked = by_several(&runs, SHARE, |run| {
            if Instant::now() >= end {
                return Err(StoreError::TimedOut { store: NAME });
            }
            self.take(plan, run, &wait)
        });
        let mut taken = Vec::new();
        for (run, is_taken) in runs.iter().zip(asked) {
            if is_taken? {
                taken.push(run.id.as_str());
            }
        }
        let changed = (runs.len() - taken.len()) as u64;
        // Looked for when the parents are out of everybody's reach: none can be made unseen.
        let is_blind = index.add_new(&self.folders.runs, &self.folders.locks)?.busy > 0;
        let mut left: HashSet<&str> = taken.iter().copied().collect();
        loop {
            let mut held = Vec::new();
            for run in &left {
                let mut outside = index.below(run).filter(|child| !left.contains(child));
                if is_blind
                    || outside
                        .try_fold(false, |found, child| Ok::<_, StoreError>(found || self.is_there(home, child)?))?
                {
                    held.push(*run);
                }
            }
            if held.is_empty() {
                break;
            }
            for run in held {
                plan.put_back(&self.folders.runs, run)?;
                left.remove(run);
            }
        }
        if Instant::now() >= end {
            return Err(StoreError::TimedOut { store: NAME });
        }
        let held = (taken.len() - left.len()) as u64;
        let runs = taken.into_iter().filter(|run| left.contains(run)).map(str::to_owned).collect();
        Ok(Taken { runs, changed, held })
    }

    /// Takes a run where it is as it was read, under its own lock.
    fn take(&self, plan: &Planned<'_>, run: &Seen, wait: &Mutex<Duration>) -> Result<bool, StoreError> {
        let Some(name) = file_name("", &run.id, LOCK) else { return Ok(false) };
        let held = match lock::take(&self.folders.locks, name.clone(), Instant::now())? {
            None => {
                // One waits at a time, and what it waits the others do not.
                let mut wait = wait.lock().unwrap_or_else(PoisonError::into_inner);
                let start = Instant::now();
                let held = lock::take(&self.folders.locks, name, start + *wait)?;
                *wait = wait.saturating_sub(start.elapsed());
                held
            }
            held => held,
        };
        let Some(held) = held else { return Ok(false) };
        let is_as_read = matches!(parse(&self.folders.runs, &run.id)?, Record::Run(now)
            if now.status == run.status && now.updated_at.raw == run.updated_at.raw);
        if is_as_read && plan.take(&self.folders.runs, &run.id)? {
            if !may_be_anothers(&run.id) {
                held.remove()?;
            }
            return Ok(true);
        }
        held.release()?;
        Ok(false)
    }

    /// Whether a run is there, or in the plan of another job.
    fn is_there(&self, home: &Folder, id: &str) -> Result<bool, StoreError> {
        let file = [id, RUN].concat();
        if self.folders.runs.has(&file)? {
            return Ok(true);
        }
        for folder in marker::planned(home)? {
            if folder.has(&file)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Deletes what belongs to the runs, and counts it; `false` where some of it is left for the next sweep.
    fn finish(
        &self,
        gone: &Gone,
        owned: &mut Owned,
        stands: impl Fn(&str) -> bool + Sync,
        counts: &mut Counts,
    ) -> bool {
        let runs: Vec<(String, Files)> = gone.runs.iter().map(|id| (id.clone(), owned.of_run(id))).collect();
        let owned: &Owned = owned;
        let finish = |(id, files): &(String, Files)| {
            let mut went = [0; KINDS.len()];
            let done = self.finish_run(id, files, owned, &stands, &mut went);
            if let Err(error) = &done {
                tracing::warn!(store = NAME, run = %id, %error, "the next sweep deletes what belongs to the run");
            }
            (done.is_ok(), went)
        };
        let done = by_several(&runs, SHARE, finish);
        for (at, kind) in KINDS.iter().enumerate() {
            counts.add(kind, done.iter().map(|(_, went)| went[at]).sum());
        }
        done.iter().all(|(is_done, _)| *is_done)
    }

    /// Each thing's lock goes before it: without the thing nobody would look for its lock.
    fn finish_run(
        &self,
        id: &str,
        files: &Files,
        owned: &Owned,
        stands: impl Fn(&str) -> bool,
        [checkpoints, steps, hooks, events, flags]: &mut [u64; KINDS.len()],
    ) -> Result<(), StoreError> {
        let folders = &self.folders;
        // Somebody has made it again: what is there is its own.
        if self.is_a_runs(id)? {
            return Ok(());
        }
        // Before the steps: a checkpoint may have no other owner than a step.
        for key in &files.checkpoints {
            if owned.is_free(key, &stands) {
                self.remove_lock("checkpoint_", key, "", &stands)?;
                *checkpoints += u64::from(folders.checkpoints.remove(&[key, JSON].concat())?);
            }
        }
        for (folder, stems, count) in [(&folders.steps, &files.steps, steps), (&folders.hooks, &files.hooks, hooks)] {
            for stem in stems {
                if run_of(folder, stem).as_deref() == Some(id) {
                    *count += u64::from(folder.remove(&[stem, JSON].concat())?);
                }
            }
        }
        if let Some(name) = file_name("", id, ".jsonl") {
            let mut lines = Lines::default();
            if folders.events.read_pieces(&name, |piece| lines.add(piece))? {
                self.remove_lock("events_", id, "", &stands)?;
                folders.events.remove(&name)?;
                *events += lines.count();
            }
        }
        if let Some(name) = file_name("", id, ".cancel") {
            *flags += u64::from(folders.runs.remove(&name)?);
        }
        self.remove_lock("", id, "_cancel", &stands)
    }

    /// Removes the lock of what goes, where nobody holds it and no run that stands has one of that name.
    pub(super) fn remove_lock(
        &self,
        before: &str,
        id: &str,
        after: &str,
        stands: impl Fn(&str) -> bool,
    ) -> Result<(), StoreError> {
        let id = [before, id, after].concat();
        let Some(name) = file_name("", &id, LOCK) else { return Ok(()) };
        if stands(&id) { Ok(()) } else { lock::remove(&self.folders.locks, &name) }
    }

    /// Whether a run of this id is there now.
    pub(super) fn is_a_runs(&self, id: &str) -> Result<bool, StoreError> {
        self.folders.runs.has(&[id, RUN].concat())
    }

    /// Takes the runs that went out of the token index, and then forgets them.
    pub(super) fn flush(&self, state: &mut State, wait: Duration) -> Result<(), StoreError> {
        if state.gone.is_empty() {
            return Ok(());
        }
        let home = self.home()?;
        let gone: HashSet<&str> = state.gone.iter().flat_map(|gone| &gone.runs).map(String::as_str).collect();
        let stands = |run: &str| state.index.as_ref().is_some_and(|index| index.stands(run));
        if !tokens::remove(&self.folders, &home, wait, |run| gone.contains(run), stands)? {
            return Err(self.folders.root.failed(tokens::INDEX, rustix::io::Errno::BUSY));
        }
        home.sync()?;
        for gone in &state.gone {
            gone.forget(&home)?;
        }
        state.gone.clear();
        Ok(())
    }
}

/// Whether a run's lock has a name that another lock may have.
fn may_be_anothers(id: &str) -> bool {
    let others = ["events_", "checkpoint_", "hook_", "schedule_", "stream_", "signals_", "sub_"];
    others.iter().any(|other| id.starts_with(other)) || id.ends_with("_cancel") || id == "token_index"
}

/// Counts lines; the last one needs no end.
#[derive(Debug, Default)]
struct Lines {
    ends: u64,
    is_open: bool,
}

impl Lines {
    fn add(&mut self, piece: &[u8]) {
        self.ends += piece.iter().map(|byte| u64::from(*byte == b'\n')).sum::<u64>();
        self.is_open = piece.last().map_or(self.is_open, |last| *last != b'\n');
    }

    fn count(&self) -> u64 {
        self.ends + u64::from(self.is_open)
    }
}
