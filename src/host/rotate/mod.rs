//! Rotation of an event log: the live file keeps its last lines, and no line that arrives meanwhile is lost.
//!
//! # The protocol
//! 1. The last lines are copied to a new file, durably, with owner, group, mode and extended attributes.
//! 2. A write lease on the new file: whoever opens it from now on waits.
//! 3. The two files exchange their names. Who opens the log waits; who had it open writes on to the old file.
//! 4. What reaches the old file is appended to the new one, until a read lease on the old file is granted: nobody holds it
//!    to write. That may take [`HELD_MAX`]; then the old file stays, and the next sweep goes on with it.
//! 5. The leases are given back, and the old file is deleted, or becomes the newest generation without the lines that
//!    the live file kept, so that all generations and the live file one after the other are the whole log.
//!
//! Until step 4 only whole lines are copied: who is in the middle of one writes its other half to the old file, and the two
//! go to the new one together.
//!
//! # After a crash
//! The old file's name says its inode and how far it was copied, so the next rotation knows what was done and finishes
//! it, whether the log is due or not. Nothing is lost; a line that was being appended when the crash came may be there
//! twice.
//!
//! # A holder that stays
//! What it writes reaches the old file, and each sweep appends it to the live file, whole lines only, behind what others
//! wrote there meanwhile: its own lines stay in their order. The disk gets back at once what of the old file was dropped or
//! is in the live file, though the file is held: who reads it by a file that was open before sees zeros there. With
//! generations the dropped lines stay in it. When the holder lets go the old file ends as in step 5: a generation of it is
//! then newer by its number than what its lines are.
//!
//! # What it cannot do
//! - Without leases (we neither own the file nor have `CAP_LEASE`, or its filesystem has none) lines that arrive during
//!   the rotation may change places, half a line may be parted from its other half, and that nobody holds the old file is
//!   guessed: it goes with the first sweep that finds nothing new in it. [`How::Fallback`] and a note say so.
//! - A process that opens the log with `O_NONBLOCK` is refused for the moment in which others wait.
//! - Who reads the log by an open file (`tail -f`) stays on the old one, as with any rotation; `tail -F` does not.
//! - A log with a second name (a hard link) is refused: deleting one of two names frees nothing.

mod attributes;
mod faults;
mod folder;
mod generations;
mod name;
mod old;
mod rotation;
mod swap;
mod tail;
#[cfg(test)]
mod tests;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use self::{faults::Faults, folder::Folder, rotation::Rotation};
use super::{Root, lease, shown};
use crate::report::Mode;

/// How long a rotation waits for those that hold the old file. Others that open the log wait as long.
pub const HELD_MAX: Duration = Duration::from_secs(5);

/// A log that grows at its end, line by line.
pub struct EventLog<'a> {
    /// Where it is, below the root.
    pub path: &'a Path,
    /// Above so many bytes it is rotated.
    pub max_size: u64,
    /// How many of its last lines stay in it.
    pub keep_lines: u64,
    /// How many files of dropped lines are kept; 0: none.
    pub generations: u32,
    /// Whether a path below the root must not be changed.
    pub is_protected: &'a dyn Fn(&Path) -> bool,
}

impl fmt::Debug for EventLog<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLog").field("path", &self.path).finish_non_exhaustive()
    }
}

/// How a log was rotated, or why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It is not there, or not above its size, or has no more lines than it keeps.
    NotDue,
    /// Another rotation in the same folder is under way.
    Busy,
    /// It would be rotated: this was a dry run.
    Planned,
    /// By leases and an exchange: no line was lost, and their order is kept.
    Lease,
    /// Without: a note says what cannot be promised.
    Fallback,
}

/// What came of a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// How many lines the live file lost.
    pub lines_dropped: u64,
    /// How many bytes those lines have.
    pub bytes_dropped: u64,
    /// How many bytes came free; those of a dry run are those that would go.
    pub bytes_freed: u64,
    /// How it was done.
    pub how: How,
    /// What a reader of the report should know.
    pub notes: Vec<String>,
}

/// Why a log was not rotated, or not to the end; the next rotation goes on with what there is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotateError {
    /// A rule forbids it.
    #[error("{}: {why}", shown(path))]
    Refused {
        /// The file, below the root.
        path: PathBuf,
        /// The rule.
        why: &'static str,
    },
    /// The system did not do it.
    #[error("{}: cannot be rotated", shown(path))]
    Failed {
        /// The file, below the root.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Rotates a log that is above its size, and finishes what earlier rotations left.
///
/// Waits for those that hold the old file until `deadline` and no longer than [`HELD_MAX`].
///
/// # Errors
/// [`RotateError::Refused`] where it is a symbolic link or no file, has a second name, or is protected, or one of the
/// names of its generations is.
///
/// ```
/// use std::time::{Duration, Instant};
/// use apalis_janitor::{host::{Root, rotate::{EventLog, How, rotate}}, report::Mode};
///
/// let folder = tempfile::tempdir().unwrap();
/// std::fs::write(folder.path().join("events.jsonl"), "{}\n".repeat(100)).unwrap();
/// let root = Root::open(folder.path()).unwrap();
/// let log = EventLog {
///     path: "events.jsonl".as_ref(),
///     max_size: 200,
///     keep_lines: 10,
///     generations: 0,
///     is_protected: &|_| false,
/// };
/// let rotated = rotate(&root, &log, Mode::Apply, Instant::now() + Duration::from_secs(5)).unwrap();
/// assert_eq!((rotated.how, rotated.lines_dropped, rotated.bytes_freed), (How::Lease, 90, 270));
/// assert_eq!(std::fs::read_to_string(folder.path().join("events.jsonl")).unwrap(), "{}\n".repeat(10));
/// ```
pub fn rotate(root: &Root, log: &EventLog<'_>, mode: Mode, deadline: Instant) -> Result<Rotated, RotateError> {
    rotate_over(root, log, mode, deadline, Faults::default())
}

fn rotate_over(
    root: &Root,
    log: &EventLog<'_>,
    mode: Mode,
    deadline: Instant,
    faults: Faults,
) -> Result<Rotated, RotateError> {
    let failed = |source| RotateError::Failed { path: log.path.to_owned(), source };
    let (folder, name) = match Folder::of(root, log.path, faults) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Rotated::new(How::NotDue)),
        Err(error) => return Err(failed(error)),
    };
    let rotation = Rotation { folder: &folder, name, log, end: deadline.min(Instant::now() + HELD_MAX), deadline };
    rotation.refuse_protected()?;
    match mode {
        Mode::DryRun => rotation.plan(),
        Mode::Apply if !folder.lock().map_err(failed)? => Ok(Rotated::new(How::Busy)),
        Mode::Apply => rotation.apply(),
    }
}

impl Rotated {
    const fn new(how: How) -> Self {
        Self { lines_dropped: 0, bytes_dropped: 0, bytes_freed: 0, how, notes: Vec::new() }
    }
}
