//! One rotation: what is due, and what earlier ones left.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::fs::FileType;

use super::{
    EventLog, How, RotateError, Rotated, attributes,
    folder::{APPEND, Folder, READ},
    generations::Generations,
    lease::{self, Asked, Kind, Lease},
    old::{self, ASK_EVERY, Holders, Old},
    swap::{self, Live},
    tail,
};
use crate::host::shown;

/// How long it is tried to have a live file alone that need not be rotated.
const ALONE_MAX: Duration = Duration::from_millis(100);
const UNSURE: &str = "rotated without leases (the janitor neither owns the file nor has CAP_LEASE, or the filesystem has \
                      none) or without an exchange: lines that came meanwhile may be out of order, or half of one apart";
const HELD: &str = "a process still writes to the old file: its lines come with the next sweeps, and the file goes when the \
                    process opens the log anew";
const GUESSED: &str =
    "kept until a sweep finds nothing new in it, since without leases nobody can tell who still writes to it";

/// A log in its folder.
pub(super) struct Rotation<'a> {
    pub folder: &'a Folder,
    /// Its name in the folder.
    pub name: &'a OsStr,
    pub log: &'a EventLog<'a>,
    /// How long holders are waited for.
    pub end: Instant,
    /// When no other generation is begun to be compressed.
    pub deadline: Instant,
}

/// An old file after what it had was brought.
struct Drained {
    old: Old,
    holders: Holders,
    /// An earlier sweep's.
    is_late: bool,
}

/// The live file, and where in it begins what it keeps: 0 where it keeps all.
struct Found {
    file: Arc<File>,
    start: u64,
}

impl Rotation<'_> {
    fn failed(&self, source: io::Error) -> RotateError {
        RotateError::Failed { path: self.log.path.to_owned(), source }
    }

    const fn generations(&self) -> Generations<'_> {
        Generations { folder: self.folder, log: self.name, count: self.log.generations }
    }

    pub(super) fn refuse_protected(&self) -> Result<(), RotateError> {
        let own = std::iter::once(self.log.path.to_owned());
        let generations = self.generations().names().map(|name| self.folder.below(&name));
        for path in own.chain(generations) {
            if (self.log.is_protected)(&path) {
                let why = "is protected, so the log is not rotated: take it out of `protect` or out of `event_logs`";
                return Err(RotateError::Refused { path, why });
            }
        }
        Ok(())
    }

    /// Opens the live file; none where nothing has its name.
    fn find(&self, notes: &mut Vec<String>) -> Result<Option<Found>, RotateError> {
        let refused = |why| Err(RotateError::Refused { path: self.log.path.to_owned(), why });
        let looked = self.folder.stat(self.name).map_err(|error| self.failed(error))?;
        let Some(found) = looked else { return Ok(None) };
        match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => {}
            FileType::Symlink => return refused("is a symbolic link: name the file that it leads to"),
            _ => return refused("is no regular file: name one in `event_logs`"),
        }
        let mut find = || {
            let Some(file) = self.folder.open(self.name, READ)? else { return Ok(None) };
            let size = file.metadata()?.len();
            let mut start = 0;
            if size > self.log.max_size {
                start = tail::start_of_tail(&file, size, self.log.keep_lines)?;
                if start == 0 {
                    let path = shown(self.log.path);
                    notes.push(format!("{path}: is above `max_size`, but has no more lines than `keep_lines`"));
                }
            }
            Ok(Some(Found { file: Arc::new(file), start }))
        };
        find().map_err(|error| self.failed(error))
    }

    /// What a rotation would do now.
    pub(super) fn plan(&self) -> Result<Rotated, RotateError> {
        let mut rotated = Rotated::new(How::NotDue);
        if let Some(found) = self.find(&mut rotated.notes)?.filter(|found| found.start > 0) {
            self.refuse_linked(&found)?;
            rotated.how = How::Planned;
            rotated.count(&found).map_err(|error| self.failed(error))?;
            rotated.bytes_freed = if self.log.generations == 0 { found.start } else { 0 };
        }
        Ok(rotated)
    }

    fn refuse_linked(&self, found: &Found) -> Result<(), RotateError> {
        let metadata = found.file.metadata().map_err(|error| self.failed(error))?;
        if metadata.nlink() < 2 {
            return Ok(());
        }
        let why = "has a second name (a hard link), so rotating it would free nothing: remove the other name";
        Err(RotateError::Refused { path: self.log.path.to_owned(), why })
    }

    /// Rotates, and finishes what was left. The folder must be locked.
    pub(super) fn apply(&self) -> Result<Rotated, RotateError> {
        let mut rotated = Rotated::new(How::NotDue);
        let found = self.find(&mut rotated.notes)?;
        let live = found.as_ref().map(|found| found.file.as_ref());
        let left = old::recover(self.folder, self.name, live).map_err(|error| self.failed(error))?;
        rotated.notes.extend(left.notes);
        let due = found.as_ref().filter(|found| found.start > 0);
        if let Some(found) = due {
            self.refuse_linked(found)?;
        }
        if due.is_some() || !left.olds.is_empty() {
            self.work(found.as_ref(), left.olds, &mut rotated).map_err(|error| self.failed(error))?;
        }
        if self.log.generations > 1 {
            let freed = self.generations().compress(self.deadline).map_err(|error| self.failed(error))?;
            rotated.bytes_freed += freed;
        }
        Ok(rotated)
    }

    /// Gets a live file that nobody else appends to, brings all that old files have there, and ends those that nobody
    /// holds.
    fn work(&self, found: Option<&Found>, lates: Vec<Old>, rotated: &mut Rotated) -> io::Result<()> {
        let (live, fresh) = match found {
            None => (self.remake(&lates)?, None),
            Some(found) => match self.alone(found)? {
                Some(live) => (live, None),
                None => self.swap(found, rotated)?,
            },
        };
        let mut olds = Vec::with_capacity(lates.len() + 1);
        for mut old in lates {
            match old.drain_late(self.folder, self.name, &live.file) {
                Ok(holders) => olds.push(Drained { old, holders, is_late: true }),
                // The others need not wait for it.
                Err(error) => rotated.notes.push(format!("{}: {error}", shown(&self.folder.below(&old.name)))),
            }
        }
        if let Some(mut old) = fresh {
            let holders = old.drain(self.folder, self.name, &live.file, self.end)?;
            live.file.sync_data()?;
            olds.push(Drained { old, holders, is_late: false });
        }
        if live.lease.is_some_and(|lease| !lease.give_back()) {
            let path = shown(self.log.path);
            rotated.notes.push(format!("{path}: the kernel took the lease away: late lines may be out of order"));
        }
        self.folder.sync()?;
        olds.iter().try_for_each(|drained| self.end(drained, rotated))
    }

    /// The live file, when it need not be rotated and nobody else has it open; others that open it wait. Without leases
    /// others may append to it, too.
    fn alone(&self, found: &Found) -> io::Result<Option<Live>> {
        if found.start > 0 {
            return Ok(None);
        }
        let Some(file) = self.folder.open(self.name, APPEND)? else { return Ok(None) };
        let file = Arc::new(file);
        if self.folder.faults.has_no_leases() || !lease::is_possible(&file) {
            return Ok(Some(Live { file, lease: None }));
        }
        let end = self.end.min(Instant::now() + ALONE_MAX);
        loop {
            match Lease::ask(&file, Kind::Write) {
                Ok(Asked::Granted(lease)) => return Ok(Some(Live { file, lease: Some(lease) })),
                Ok(Asked::InUse) if Instant::now() < end => thread::sleep(ASK_EVERY),
                // Somebody has it open, and may be in the middle of a line: he keeps it, and the log gets a new file.
                Ok(Asked::InUse) => return Ok(None),
                Err(_) => return Ok(Some(Live { file, lease: None })),
            }
        }
    }

    /// Makes a live file where there is none, but lines for it.
    fn remake(&self, lates: &[Old]) -> io::Result<Live> {
        let file = self.folder.create(self.name)?;
        if let Some(old) = lates.first() {
            attributes::keep(&old.file, &file)?;
        }
        Ok(Live { file: Arc::new(file), lease: None })
    }

    /// Puts the copy in the live file's place.
    fn swap(&self, found: &Found, rotated: &mut Rotated) -> io::Result<(Live, Option<Old>)> {
        let path = shown(self.log.path);
        rotated.count(found)?;
        let swapped = swap::swap(self.folder, self.name, &found.file, found.start)?;
        let is_sure = swapped.live.lease.is_some() && swapped.is_atomic;
        if found.start > 0 {
            rotated.how = if is_sure { How::Lease } else { How::Fallback };
        }
        if !is_sure {
            rotated.notes.push(format!("{path}: {UNSURE}"));
        }
        if !swapped.lost.is_empty() {
            rotated.notes.push(format!("{path}: extended attributes that were not kept: {}", swapped.lost.join(", ")));
        }
        Ok((swapped.live, Some(swapped.old)))
    }

    /// Deletes an old file that nobody holds, or makes a generation of it.
    fn end(&self, drained: &Drained, rotated: &mut Rotated) -> io::Result<()> {
        let Drained { old, holders, is_late } = drained;
        let path = shown(&self.folder.below(&old.name));
        match holders {
            // Somebody who found its name before the exchange may have come after all.
            Holders::None if old.is_served()? => {
                rotated.bytes_freed += if self.log.generations == 0 || old.progress.start == 0 {
                    let allocated = old.file.metadata()?.blocks() * 512;
                    self.folder.unlink(&old.name)?;
                    old.progress.start.min(allocated)
                } else {
                    self.generations().take(old)?
                };
            }
            Holders::None | Holders::Some => {
                if *is_late {
                    rotated.bytes_freed += old.punch(self.folder, self.log.generations > 0)?;
                }
                rotated.notes.push(format!("{path}: {HELD}"));
            }
            Holders::Unknown => rotated.notes.push(format!("{path}: {GUESSED}")),
        }
        Ok(())
    }
}

impl Rotated {
    /// Counts what a rotation drops.
    fn count(&mut self, found: &Found) -> io::Result<()> {
        self.lines_dropped = tail::count_lines(&found.file, found.start)?;
        self.bytes_dropped = found.start;
        Ok(())
    }
}
