//! PyWorkflow's own lock files: flock(2) on an empty file in `.locks`, which stays when it is let go.

use std::{
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{self, FlockOperation, Mode, OFlags},
    io::Errno,
};

use super::folder::Folder;
use crate::runs::StoreError;

/// How often a lock that another holds is asked for. PyWorkflow asks every 50 ms, so it may be the next nevertheless.
const ASK_EVERY: Duration = Duration::from_millis(1);

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub(super) struct Held<'a> {
    folder: &'a Folder,
    name: String,
    _file: OwnedFd,
    is_new: bool,
}

/// How asking for a lock ended.
#[derive(Debug)]
pub(super) enum Asked<'a> {
    /// It is ours.
    Held(Held<'a>),
    /// Another held it all the time.
    Busy,
    /// There is no such lock, so nobody holds it.
    Absent,
}

/// Takes the lock `name`, which is made where it is missing; `None` where another holds it until `end`.
pub(super) fn take(folder: &Folder, name: String, end: Instant) -> Result<Option<Held<'_>>, StoreError> {
    loop {
        match ask(folder, &name, end)? {
            Asked::Held(held) => return Ok(Some(held)),
            Asked::Busy => return Ok(None),
            Asked::Absent => match make(folder, &name) {
                Ok(file) if lock(folder, &name, &file)? => {
                    return Ok(Some(Held { folder, name, _file: file, is_new: true }));
                }
                // Another has made it, or got it first.
                Ok(_) | Err(Errno::EXIST) => {}
                Err(error) => return Err(folder.failed(&name, error)),
            },
        }
    }
}

/// Takes the lock `name` where it is there.
pub(super) fn ask<'a>(folder: &'a Folder, name: &str, end: Instant) -> Result<Asked<'a>, StoreError> {
    loop {
        let file = match open(folder, name, OFlags::empty()) {
            Err(Errno::NOENT) => return Ok(Asked::Absent),
            file => file.map_err(|error| folder.failed(name, error))?,
        };
        if lock(folder, name, &file)? {
            return Ok(Asked::Held(Held { folder, name: name.to_owned(), _file: file, is_new: false }));
        }
        if Instant::now() >= end {
            return Ok(Asked::Busy);
        }
        thread::sleep(ASK_EVERY);
    }
}

/// Removes the lock `name` where nobody holds it.
pub(super) fn remove(folder: &Folder, name: &str) -> Result<(), StoreError> {
    match ask(folder, name, Instant::now())? {
        Asked::Held(held) => held.remove(),
        Asked::Busy | Asked::Absent => Ok(()),
    }
}

/// Whether `file` is locked now, and is still what has the name: who holds a lock may remove its file.
fn lock(folder: &Folder, name: &str, file: &OwnedFd) -> Result<bool, StoreError> {
    match fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(fs::fstat(file).map_err(|error| folder.failed(name, error))?.st_nlink > 0),
        Err(Errno::WOULDBLOCK | Errno::ACCESS) => Ok(false),
        Err(error) => Err(folder.failed(name, error)),
    }
}

fn open(folder: &Folder, name: &str, more: OFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | more;
    fs::openat(folder.handle()?, name, flags, Mode::from_raw_mode(0o666))
}

/// A new lock file, which belongs to whom the folder belongs to: else its owner could not open it.
fn make(folder: &Folder, name: &str) -> Result<OwnedFd, Errno> {
    folder.faults().pass()?;
    let file = open(folder, name, OFlags::CREATE | OFlags::EXCL)?;
    let owner = fs::fstat(folder.handle()?)?;
    if fs::fstat(&file)?.st_uid != owner.st_uid {
        fs::fchown(&file, Some(fs::Uid::from_raw(owner.st_uid)), Some(fs::Gid::from_raw(owner.st_gid)))?;
    }
    Ok(file)
}

impl Held<'_> {
    /// Removes the lock's file. Who has opened it meanwhile sees that it has no name any more and asks again.
    pub(super) fn remove(&self) -> Result<(), StoreError> {
        self.folder.remove(&self.name).map(drop)
    }

    /// Lets go, and leaves no file where there was none.
    pub(super) fn release(self) -> Result<(), StoreError> {
        if self.is_new { self.remove() } else { Ok(()) }
    }
}
