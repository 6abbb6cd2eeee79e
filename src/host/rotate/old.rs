//! A file that was the live one: what it has and the live one lacks goes there, until nobody writes to it.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{
    folder::{self, Folder, READ},
    lease::{Asked, Kind, Lease},
    name::{self, Named, Next, Progress},
    tail,
};

/// How often it is asked whether a file is still held.
pub(super) const ASK_EVERY: Duration = Duration::from_millis(1);
/// How long a file must be held by nobody. Between the moments that a process finds a name and that it has the file open
/// it does not count as a holder; it runs in the kernel then, for microseconds.
const SETTLE: Duration = Duration::from_millis(10);

/// A file that was the live one, open to read.
#[derive(Debug)]
pub(super) struct Old {
    pub file: Arc<File>,
    pub name: OsString,
    pub progress: Progress,
}

/// Whether anybody holds a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holders {
    /// Nobody, and all that it has is in the live file.
    None,
    /// Somebody who may write to it.
    Some,
    /// There are no leases here, so it cannot be known.
    Unknown,
}

impl Old {
    /// How many bytes it has.
    pub(super) fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Whether all that it has is in the live file.
    pub(super) fn is_served(&self) -> io::Result<bool> {
        Ok(self.size()? <= self.progress.copied)
    }

    /// Writes down how far it is.
    pub(super) fn note(&mut self, folder: &Folder, log: &OsStr, progress: Progress) -> io::Result<()> {
        let name = name::of_progress(log, progress);
        if name != self.name {
            folder.rename(&self.name, &name)?;
            (self.name, self.progress) = (name, progress);
        }
        Ok(())
    }

    /// Appends what it has up to `to`, and is not there yet, to the live file.
    fn bring(&mut self, folder: &Folder, log: &OsStr, live: &File, to: u64) -> io::Result<()> {
        if to <= self.progress.copied {
            return Ok(());
        }
        let at = Next::At(live.metadata()?.len());
        self.note(folder, log, Progress { next: at, ..self.progress })?;
        folder.append(live, &self.file, self.progress.copied, to)?;
        self.note(folder, log, Progress { copied: to, next: Next::Open, ..self.progress })
    }

    /// Brings its whole lines to the live file, and when nobody holds it all it has; waits for that until `end`.
    ///
    /// The caller keeps others from opening the live file meanwhile.
    pub(super) fn drain(&mut self, folder: &Folder, log: &OsStr, live: &File, end: Instant) -> io::Result<Holders> {
        loop {
            // The rest of a line that somebody is in the middle of must not be parted from it.
            let whole = tail::end_of_lines(&self.file, self.progress.copied, self.size()?.max(self.progress.copied))?;
            self.bring(folder, log, live, whole)?;
            if folder.faults.has_no_leases() {
                return Ok(Holders::Unknown);
            }
            match Lease::ask(&self.file, Kind::Read) {
                Ok(Asked::Granted(lease)) => {
                    self.bring(folder, log, live, self.size()?)?;
                    live.sync_data()?;
                    thread::sleep(SETTLE);
                    if lease.is_unchallenged() && self.is_served()? {
                        return Ok(Holders::None);
                    }
                }
                Ok(Asked::InUse) => {}
                Err(_) => return Ok(Holders::Unknown),
            }
            if Instant::now() >= end {
                return Ok(Holders::Some);
            }
            thread::sleep(ASK_EVERY);
        }
    }

    /// The same for a file of an earlier sweep, which does not wait; without leases it is taken for held as long as
    /// it grows from one sweep to the next.
    pub(super) fn drain_late(&mut self, folder: &Folder, log: &OsStr, live: &File) -> io::Result<Holders> {
        let (was_served, copied) = (self.is_served()?, self.progress.copied);
        if !was_served {
            end_line(folder, live)?;
        }
        let mut holders = self.drain(folder, log, live, Instant::now())?;
        if holders == Holders::Unknown {
            self.bring(folder, log, live, self.size()?)?;
            holders = if was_served { Holders::None } else { Holders::Unknown };
        }
        if self.progress.copied > copied {
            end_line(folder, live)?;
        }
        live.sync_data()?;
        Ok(holders)
    }

    /// Gives the disk back what a file that somebody still holds has up to `copied`: all of that is in the live file, or
    /// was dropped. With generations kept, what was dropped stays. Answers how many bytes came free.
    pub(super) fn punch(&self, folder: &Folder, keeps_dropped: bool) -> io::Result<u64> {
        let from = if keeps_dropped { self.progress.start } else { 0 };
        let Some(file) = folder.open(&self.name, folder::APPEND)? else { return Ok(0) };
        folder.punch(&file, from, self.progress.copied)
    }
}

/// Ends the line that a file ends in the middle of: what comes next is another's.
fn end_line(folder: &Folder, live: &File) -> io::Result<()> {
    if folder::is_amid_line(live)? { folder.append_bytes(live, b"\n") } else { Ok(()) }
}

/// What earlier sweeps left behind.
#[derive(Debug, Default)]
pub(super) struct Left {
    pub olds: Vec<Old>,
    pub notes: Vec<String>,
}

/// Finds what earlier sweeps left behind, removes copies that never became the live file, and finds out how far an
/// interrupted one came. `live` is none where nothing has the log's name.
pub(super) fn recover(folder: &Folder, log: &OsStr, live: Option<&File>) -> io::Result<Left> {
    let (mut left, mut copies) = (Left::default(), Vec::new());
    let live_inode = live.map(File::metadata).transpose()?.map(|metadata| metadata.ino());
    for name in folder.names(log)? {
        let Some(named) = name::parse(log, &name) else { continue };
        let Some(file) = folder.open(&name, READ)? else { continue };
        let metadata = file.metadata()?;
        match named {
            Named::New(inode) => copies.push((name, inode)),
            Named::Rotating(_) if !metadata.is_file() => left.notes.push(unknown(folder, &name)),
            // The second name of the live file, from a crash before its copy took the first.
            Named::Rotating(progress) if progress.inode == metadata.ino() && live_inode == Some(metadata.ino()) => {
                folder.unlink(&name)?;
            }
            Named::Rotating(progress) if progress.inode == metadata.ino() => {
                let mut old = Old { file: Arc::new(file), name, progress };
                resume(&mut old, folder, log, live)?;
                left.olds.push(old);
            }
            Named::Rotating(progress) => copies.push((name, progress.inode)),
        }
    }
    for (name, inode) in copies {
        let has_original = live_inode == Some(inode) || left.olds.iter().any(|old| old.progress.inode == inode);
        if has_original {
            folder.unlink(&name)?;
        } else {
            left.notes.push(unknown(folder, &name));
        }
    }
    Ok(left)
}

fn unknown(folder: &Folder, name: &OsStr) -> String {
    format!(
        "{}: looks like a part of a rotation whose log is gone; kept: remove it if it is of no use",
        crate::host::shown(&folder.below(name))
    )
}

/// Finds out how much of what was being appended when a sweep ended is there: whole lines only.
fn resume(old: &mut Old, folder: &Folder, log: &OsStr, live: Option<&File>) -> io::Result<()> {
    let Next::At(at) = old.progress.next else { return Ok(()) };
    let (from, to) = (old.progress.copied, old.size()?);
    let there = match live {
        Some(live) if from < to => from + tail::common(&old.file, from, to, live, at)?,
        Some(_) | None => from,
    };
    let copied = tail::end_of_lines(&old.file, from, there)?;
    old.note(folder, log, Progress { copied, next: Next::Open, ..old.progress })
}
