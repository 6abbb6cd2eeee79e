//! The folder `.janitor` in the store: the fences, and the runs that a batch takes.
//!
//! A batch moves its runs into a folder `<job>~<fence>~<number>.planned` and, when all of them may go, renames that to
//! `.gone`: this one rename deletes them together and is the mark that what belongs to them has to go. Filesystems with a
//! journal keep the order of such changes over a power cut too. What is planned is moved back after an error or a crash. A newer holder takes a stale one's planned folder away by renaming it, and then
//! the stale one's own rename fails, however long it was asleep before it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use rustix::{
    fs::{self, FlockOperation, Mode, OFlags},
    io::Errno,
};

use super::{NAME, folder::Folder, index::RUN, lock};
use crate::{lock::Fence, runs::StoreError};

/// The folder's name.
pub(super) const HOME: &str = ".janitor";
const PLANNED: &str = ".planned";
/// A planned folder that is being moved back.
const UNDONE: &str = ".undone";
const GONE: &str = ".gone";
/// An empty folder for the next plan, which needs no more room then: a full disk is what a sweep is for.
const SPARE: &str = "spare";
/// The longest that a fence in another's hands is waited for.
const FENCE_WAIT_MAX: Duration = Duration::from_secs(5);
/// Digits of the largest fence: one is written over the other, which a full disk allows too.
const DIGITS: usize = 20;

/// A job's name as a part of a file's.
fn encoded(job: &str) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
    job.bytes()
        .map(|byte| if is_plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") })
        .collect()
}

fn fence_name(job: &str) -> String {
    format!("{}.fence", encoded(job))
}

/// The highest fence of `job`; 0 where there is none yet.
fn highest(home: &Folder, job: &str) -> Result<u64, StoreError> {
    let name = fence_name(job);
    let text = home.read(&name)?.unwrap_or_default();
    let number = || std::str::from_utf8(&text).ok()?.parse().ok();
    match number() {
        Some(number) => Ok(number),
        None if text.is_empty() => Ok(0),
        None => {
            let what = format!("{}/{name}: is no fence; remove it where no sweep runs", home.path().display());
            Err(StoreError::Schema { store: NAME, what })
        }
    }
}

/// Refuses a fence that is not the one that the store has seen last.
pub(super) fn guard(home: &Folder, job: &str, fence: Fence) -> Result<(), StoreError> {
    let highest = highest(home, job)?;
    if highest == fence.get() { Ok(()) } else { Err(StoreError::Fenced { store: NAME, fence, highest }) }
}

/// Sets the job's fence, which must grow.
pub(super) fn raise(home: &Folder, job: &str, fence: Fence) -> Result<(), StoreError> {
    let name = fence_name(job);
    let Some(_held) = lock::take(home, format!("{name}.lock"), Instant::now() + FENCE_WAIT_MAX)? else {
        return Err(home.failed(&name, Errno::BUSY));
    };
    let highest = highest(home, job)?;
    if fence.get() <= highest {
        return Err(StoreError::Fenced { store: NAME, fence, highest });
    }
    let failed = |error| home.failed(&name, error);
    home.faults().pass().map_err(failed)?;
    let write = || {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(home.handle()?, &name, flags, Mode::RUSR | Mode::WUSR)?;
        let text = format!("{:0DIGITS$}", fence.get());
        if rustix::io::pwrite(&file, text.as_bytes(), 0)? < text.len() {
            return Err(Errno::NOSPC);
        }
        fs::fsync(&file)
    };
    write().map_err(failed)?;
    home.sync()
}

/// The runs that a batch has taken and not deleted yet.
#[derive(Debug)]
pub(super) struct Planned<'a> {
    home: &'a Folder,
    stem: String,
    folder: Folder,
    job: &'a str,
    fence: Fence,
}

/// The runs that a batch has deleted, whose belongings may still be there.
#[derive(Debug)]
pub(super) struct Gone {
    /// The name of the folder in `.janitor`.
    pub(super) name: String,
    /// Their ids.
    pub(super) runs: Vec<String>,
}

impl<'a> Planned<'a> {
    /// Makes an empty plan, and refuses a stale fence.
    pub(super) fn begin(home: &'a Folder, job: &'a str, fence: Fence) -> Result<Self, StoreError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let stem = format!("{}~{}~{number}", encoded(job), fence.get());
            let name = [&stem, PLANNED].concat();
            if !home.move_unless_taken(SPARE, home, &name)? && !home.make_folder(&name)? {
                continue;
            }
            let folder = home.below(&name)?;
            // Other jobs leave alone what is locked. A spare one may still be locked by who left it, who may be frozen: it is
            // not waited for.
            match folder.handle().and_then(|handle| fs::flock(handle, FlockOperation::NonBlockingLockExclusive)) {
                Ok(()) => {}
                Err(Errno::NOENT) => continue,
                Err(Errno::WOULDBLOCK) => {
                    home.remove_folder(&name)?;
                    continue;
                }
                Err(error) => return Err(folder.failed("", error)),
            }
            // One of them may have taken it away before it was locked.
            if home.has(&name)? {
                let this = Self { home, stem, folder, job, fence };
                // Asked when the folder is there: who raises the fence later sees the folder and takes it away.
                return match guard(home, job, fence) {
                    Ok(()) => Ok(this),
                    Err(error) => home.remove_folder(&name).and(Err(error)),
                };
            }
        }
    }

    fn name(&self) -> String {
        [&self.stem, PLANNED].concat()
    }

    /// Takes a run away from the others; `false` where it is not there.
    pub(super) fn take(&self, runs: &Folder, id: &str) -> Result<bool, StoreError> {
        let file = [id, RUN].concat();
        // By name, not by handle: where the plan was taken away there is nothing to move to.
        if runs.move_to(&file, self.home, &[&self.name(), "/", &file].concat())? {
            return Ok(true);
        }
        if self.home.has(&self.name())? { Ok(false) } else { Err(self.taken_away()?) }
    }

    /// Puts a run back.
    pub(super) fn put_back(&self, runs: &Folder, id: &str) -> Result<(), StoreError> {
        let file = [id, RUN].concat();
        self.folder.move_unless_taken(&file, runs, &file).map(drop)
    }

    /// Deletes what was taken. After an error nothing has been.
    pub(super) fn commit(&self, ids: Vec<String>) -> Result<Gone, StoreError> {
        let gone = Gone { name: [&self.stem, GONE].concat(), runs: ids };
        if !self.home.move_to(&self.name(), self.home, &gone.name)? {
            return Err(self.taken_away()?);
        }
        Ok(gone)
    }

    /// Puts everything back. Where that fails, the next sweep does it.
    pub(super) fn undo(&self, runs: &Folder) -> Result<(), StoreError> {
        put_back_all(self.home, &self.name(), runs)
    }

    fn taken_away(&self) -> Result<StoreError, StoreError> {
        let highest = highest(self.home, self.job)?;
        Ok(StoreError::Fenced { store: NAME, fence: self.fence, highest })
    }
}

/// Moves all runs of a folder in `.janitor` back, and removes it. A run that stands again stays as it is.
fn put_back_all(home: &Folder, name: &str, runs: &Folder) -> Result<(), StoreError> {
    let folder = home.below(name)?;
    if !folder.is_there() {
        return Ok(());
    }
    for id in folder.stems(RUN)? {
        let file = [&id, RUN].concat();
        if !folder.move_unless_taken(&file, runs, &file)? {
            folder.remove(&file)?;
        }
    }
    runs.sync()?;
    home.remove_folder(name)
}

/// Moves back what sweeps have planned that are dead or, of `job`, have a lower fence. Answers what batches have deleted
/// whose belongings may still be there.
pub(super) fn recover(home: &Folder, job: &str, runs: &Folder) -> Result<Vec<Gone>, StoreError> {
    let (own, mut gone) = (format!("{}~", encoded(job)), Vec::new());
    for name in home.stems("")? {
        if let Some(stem) = name.strip_suffix(PLANNED) {
            let folder = home.below(&name)?;
            let lock = |handle: &_| fs::flock(handle, FlockOperation::NonBlockingLockExclusive);
            if !name.starts_with(&own) && folder.handle().map_or(true, |handle| lock(handle).is_err()) {
                continue;
            }
            let undone = [stem, UNDONE].concat();
            if home.move_to(&name, home, &undone)? {
                put_back_all(home, &undone, runs)?;
            }
        } else if name.ends_with(UNDONE) {
            put_back_all(home, &name, runs)?;
        } else if name.ends_with(GONE) {
            let ids = home.below(&name)?.stems(RUN)?;
            gone.push(Gone { name, runs: ids });
        }
    }
    Ok(gone)
}

/// The folders whose runs are on their way back, or may be.
pub(super) fn planned(home: &Folder) -> Result<Vec<Folder>, StoreError> {
    let mut folders = Vec::new();
    for name in home.stems("")? {
        if name.ends_with(PLANNED) || name.ends_with(UNDONE) {
            folders.push(home.below(&name)?);
        }
    }
    Ok(folders)
}

/// How many batches have left belongings behind.
pub(super) fn unfinished(home: &Folder) -> Result<usize, StoreError> {
    Ok(home.stems(GONE)?.len())
}

impl Gone {
    /// Removes the mark: nothing that belongs to its runs is left.
    pub(super) fn forget(&self, home: &Folder) -> Result<(), StoreError> {
        let folder = home.below(&self.name)?;
        for id in &self.runs {
            folder.remove(&[id, RUN].concat())?;
        }
        let is_empty = folder.stems("")?.is_empty();
        if is_empty && home.move_unless_taken(&self.name, home, SPARE)? {
            Ok(())
        } else {
            home.remove_folder(&self.name)
        }
    }
}
