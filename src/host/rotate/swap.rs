//! A copy of the log's last lines takes the log's name, and the file that had it another.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    sync::Arc,
};

use super::{
    attributes,
    folder::{APPEND, Folder},
    lease::{self, Asked, Kind, Lease},
    name::{self, Next, Progress},
    old::Old,
    tail,
};

/// How often it is caught up with writers before the exchange; what is left then is brought afterwards.
const ROUNDS_MAX: u32 = 16;

/// The file that has the log's name now.
#[derive(Debug)]
pub(super) struct Live {
    pub file: Arc<File>,
    /// While it is ours, whoever opens the file waits.
    pub lease: Option<Lease>,
}

/// What an exchange left.
#[derive(Debug)]
pub(super) struct Swapped {
    pub live: Live,
    pub old: Old,
    /// The log's name was never without a file, or with a second one.
    pub is_atomic: bool,
    /// Extended attributes that the new file lacks.
    pub lost: Vec<String>,
}

/// The copy, before it has the log's name.
#[derive(Debug)]
struct Copy {
    file: Arc<File>,
    lease: Option<Lease>,
    name: OsString,
    progress: Progress,
    lost: Vec<String>,
}

/// What has the log's name in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// The copy, in one step.
    AtOnce,
    /// The copy, after a moment in which nothing had it.
    AfterGap,
    /// What a writer made in that moment: it stays, and gets all that the copy has.
    ByWriter,
}

/// Gives the log's name to a copy of `old` from `start` on. Until it has the name everything is as it was after an error.
pub(super) fn swap(folder: &Folder, log: &OsStr, old: &Arc<File>, start: u64) -> io::Result<Swapped> {
    let inode = old.metadata()?.ino();
    let progress = Progress { inode, start, copied: start, next: Next::At(0) };
    let name = name::of_progress(log, progress);
    let file = Arc::new(folder.create(&name)?);
    let mut copy = Copy { lease: lease_new(folder, old, &file), file, name, progress, lost: Vec::new() };
    let exchanged = copy.fill(folder, log, old).and_then(|()| copy.exchange(folder, log, old));
    if exchanged.is_err() && is_named(folder, log, inode).unwrap_or(false) {
        // Whatever has one of its names and is not the old file is the copy.
        for name in [&copy.name, &name::of_new(log, inode)] {
            if !is_named(folder, name, inode).unwrap_or(true) {
                let _ = folder.unlink(name);
            }
        }
    }
    let taken = exchanged?;
    let (live, progress) = match taken {
        Taken::AtOnce | Taken::AfterGap => (Live { file: copy.file, lease: copy.lease }, copy.progress),
        Taken::ByWriter => {
            let none = || io::Error::new(io::ErrorKind::NotFound, "was removed while it was rotated");
            let file = Arc::new(folder.open(log, APPEND)?.ok_or_else(none)?);
            (Live { file, lease: None }, Progress { copied: start, next: Next::Open, ..copy.progress })
        }
    };
    let is_atomic = taken == Taken::AtOnce;
    let name = name::of_progress(log, progress);
    Ok(Swapped { live, old: Old { file: Arc::clone(old), name, progress }, is_atomic, lost: copy.lost })
}

/// A lease on the new file, where one on the old one is possible, too.
fn lease_new(folder: &Folder, old: &File, new: &Arc<File>) -> Option<Lease> {
    if folder.faults.has_no_leases() || !lease::is_possible(old) {
        return None;
    }
    match Lease::ask(new, Kind::Write) {
        Ok(Asked::Granted(lease)) => Some(lease),
        Ok(Asked::InUse) | Err(_) => None,
    }
}

fn is_named(folder: &Folder, name: &OsStr, inode: u64) -> io::Result<bool> {
    Ok(folder.stat(name)?.is_some_and(|stat| stat.st_ino == inode))
}

impl Copy {
    /// Copies whole lines, durably, and what the old file is besides its bytes.
    fn fill(&mut self, folder: &Folder, log: &OsStr, old: &File) -> io::Result<()> {
        self.catch_up(folder, old)?;
        self.lost = attributes::keep(old, &self.file)?;
        self.file.sync_all()?;
        // Meanwhile more has come.
        self.catch_up(folder, old)?;
        let next = Next::At(self.progress.copied - self.progress.start);
        self.progress = Progress { next, ..self.progress };
        let name = name::of_progress(log, self.progress);
        if name != self.name {
            folder.rename(&self.name, &name)?;
            self.name = name;
        }
        Ok(())
    }

    fn catch_up(&mut self, folder: &Folder, old: &File) -> io::Result<()> {
        for _ in 0..ROUNDS_MAX {
            let (copied, size) = (self.progress.copied, old.metadata()?.len());
            if size < copied {
                return Err(io::Error::other("was cut while it was rotated: rotate it by one program only"));
            }
            let end = tail::end_of_lines(old, copied, size)?;
            if end == copied {
                break;
            }
            folder.append(&self.file, old, copied, end)?;
            self.progress.copied = end;
        }
        Ok(())
    }

    /// Takes the log's name, which must still be the old file's.
    fn exchange(&mut self, folder: &Folder, log: &OsStr, old: &File) -> io::Result<Taken> {
        let inode = self.progress.inode;
        let replaced = || io::Error::other("was replaced while it was rotated: the next sweep looks again");
        if !is_named(folder, log, inode)? {
            return Err(replaced());
        }
        if folder.exchange(log, &self.name)? {
            if is_named(folder, &self.name, inode)? {
                return Ok(Taken::AtOnce);
            }
            // Another program gave the name to another file at the last moment: it has it back.
            folder.exchange(log, &self.name)?;
            return Err(replaced());
        }
        let new = name::of_new(log, inode);
        let name = std::mem::replace(&mut self.name, new.clone());
        folder.rename(&name, &new)?;
        if folder.link(log, &name)? {
            if !is_named(folder, &name, inode)? || !is_named(folder, log, inode)? {
                folder.unlink(&name)?;
                return Err(replaced());
            }
            folder.replace(&new, log)?;
            self.name = name;
            return Ok(Taken::AtOnce);
        }
        // For a moment nothing has the name.
        let all = Progress { copied: self.progress.start, next: Next::Open, ..self.progress };
        let whole = name::of_progress(log, all);
        folder.rename(log, &whole)?;
        match folder.rename(&new, log) {
            Ok(()) => {
                let mut moved = Old { file: Arc::new(old.try_clone()?), name: whole, progress: all };
                moved.note(folder, log, self.progress)?;
                Ok(Taken::AfterGap)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                folder.unlink(&new)?;
                Ok(Taken::ByWriter)
            }
            Err(error) => Err(error),
        }
    }
}
