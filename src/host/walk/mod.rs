//! What lies below some folders of a root, by two threads, in as much memory for a million files as for ten.

mod queue;
#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    ffi::{CStr, OsStr},
    io,
    ops::ControlFlow,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use rustix::{
    fs::{self, FileType, Mode, OFlags, RawDir, Stat},
    io::Errno,
};

use self::queue::Queue;
use super::{Failures, Kind, Root, Seen};

/// How many threads walk. On a disk they wait for each other from the third on.
const THREADS: usize = 2;
/// How many folders one thread has open at most; those below wait in a list.
const OPEN_MAX: usize = 64;
/// How much of a folder is read in one go.
const PIECE: usize = 32 * 1024;
/// After so many entries a folder is looked for again: it may have been moved out of the root.
const CHECKED_EVERY: u64 = 64;
/// How `du` counts what a folder itself takes.
const BLOCK: u64 = 512;
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// A file below a root, as a walk saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its path below the root.
    pub path: Cow<'a, Path>,
    /// What it was.
    pub seen: Seen,
}

impl Entry<'_> {
    /// The same, to keep.
    #[must_use]
    pub fn into_owned(self) -> Entry<'static> {
        Entry { path: Cow::Owned(self.path.into_owned()), seen: self.seen }
    }
}

/// What came of a walk.
#[derive(Debug, Default)]
pub struct Walked {
    /// How many folders were read.
    pub folders: u64,
    /// How much of the disk these take, without what is in them.
    pub folder_bytes: u64,
    /// How many files were shown.
    pub files: u64,
    /// What could not be read. The rest was.
    pub failures: Failures,
    /// Whether the visitor stopped it.
    pub is_stopped: bool,
}

/// What a walk found, with the folder that it is in.
pub(super) struct Found<'a> {
    pub(super) entry: Entry<'a>,
    pub(super) folder: BorrowedFd<'a>,
    pub(super) name: &'a CStr,
}

type Visit<'a> = &'a (dyn Fn(Found<'_>) -> ControlFlow<()> + Sync);

/// Shows `visit` each file below the folders `below` of a root, in no order, until it breaks.
///
/// What is no folder counts as a file, symbolic links too. They are never followed, and other filesystems not entered. What
/// vanishes meanwhile is passed over; what appears may be shown or not. `visit` is called by two threads at once.
///
/// # Panics
/// Where `visit` panics.
///
/// ```
/// use std::{ops::ControlFlow, sync::atomic::{AtomicU64, Ordering}};
/// use apalis_janitor::host::{Root, walk};
///
/// let folder = tempfile::tempdir().unwrap();
/// std::fs::create_dir(folder.path().join("images")).unwrap();
/// std::fs::write(folder.path().join("images/a.png"), "png").unwrap();
///
/// let bytes = AtomicU64::new(0);
/// let walked = walk(&Root::open(folder.path()).unwrap(), &["images".into()], &|entry| {
///     bytes.fetch_add(entry.seen.size_bytes, Ordering::Relaxed);
///     ControlFlow::Continue(())
/// });
/// assert_eq!((walked.files, walked.folders, bytes.into_inner()), (1, 1, 3));
/// ```
pub fn walk(root: &Root, below: &[PathBuf], visit: &(dyn Fn(&Entry<'_>) -> ControlFlow<()> + Sync)) -> Walked {
    each(root, below, &|found| visit(&found.entry))
}

/// The same, with the folder of each.
pub(super) fn each(root: &Root, below: &[PathBuf], visit: Visit<'_>) -> Walked {
    let walk = Walk {
        root,
        visit,
        queue: Queue::default(),
        folders: AtomicU64::default(),
        folder_bytes: AtomicU64::default(),
        files: AtomicU64::default(),
        failures: Mutex::default(),
    };
    for folder in outermost(below) {
        walk.start(&folder);
    }
    thread::scope(|scope| {
        for _ in 1..THREADS {
            // Where no thread is to be had, this one does it alone.
            let _ = thread::Builder::new().spawn_scoped(scope, || walk.work());
        }
        walk.work();
    });
    Walked {
        folders: walk.folders.into_inner(),
        folder_bytes: walk.folder_bytes.into_inner(),
        files: walk.files.into_inner(),
        is_stopped: walk.queue.is_stopped(),
        failures: walk.failures.into_inner().expect("nothing panics while it holds the failures"),
    }
}

/// The folders, each once, without those that lie in another one of them.
fn outermost(below: &[PathBuf]) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = below.iter().map(|path| plain(path)).collect();
    // What begins with another path comes after it.
    folders.sort_unstable();
    folders.dedup_by(|later, kept| later.starts_with(&*kept));
    folders
}

/// The path without `.` in it. What leads up stays, and is refused when it is opened.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

struct Walk<'a> {
    root: &'a Root,
    visit: Visit<'a>,
    queue: Queue,
    folders: AtomicU64,
    folder_bytes: AtomicU64,
    files: AtomicU64,
    failures: Mutex<Failures>,
}

impl Walk<'_> {
    /// Begins with a folder that was named, of which more must be said than of one that was found.
    fn start(&self, path: &Path) {
        match self.root.open_at(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
            Ok(_) => drop(self.queue.push(path, true)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.fail(path, &named(error)),
        }
    }

    fn work(&self) {
        while let Some(mut turn) = self.queue.next() {
            self.folder(&mut turn.path, 1);
        }
    }

    /// Reads one folder, and those in it that cannot be left to another thread; `open` are open with it.
    fn folder(&self, path: &mut PathBuf, open: usize) {
        let Some((folder, own)) = self.open(path) else { return };
        let mut piece = Vec::with_capacity(PIECE);
        let mut entries = RawDir::new(&folder, piece.spare_capacity_mut());
        let mut count = 0;
        while !self.queue.is_stopped()
            && let Some(entry) = entries.next()
        {
            let entry = match entry {
                Ok(entry) => entry,
                // The folder itself was deleted.
                Err(Errno::NOENT) => return,
                Err(error) => return self.fail(path, &error.into()),
            };
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            count += 1;
            if count % CHECKED_EVERY == 0 && !self.is_at(path, &own) {
                return;
            }
            path.push(OsStr::from_bytes(name.to_bytes()));
            match entry.file_type() {
                FileType::Directory => self.below(path, open),
                _ => self.other(&folder, name, path, open),
            }
            path.pop();
        }
    }

    /// Opens a folder; `None` where it is none of this filesystem, or no longer.
    fn open(&self, path: &Path) -> Option<(OwnedFd, Stat)> {
        let opened = self.root.open_at(path, FOLDER, Mode::empty());
        let opened = opened.and_then(|folder| fs::fstat(&folder).map(|own| (folder, own)).map_err(io::Error::from));
        match opened {
            // A part of some filesystems has a number of its own, and is no mount.
            Ok((_, own)) if own.st_dev != self.root.dev() => None,
            Ok((folder, own)) => {
                self.folders.fetch_add(1, Ordering::Relaxed);
                let blocks = u64::try_from(own.st_blocks).unwrap_or(0);
                self.folder_bytes.fetch_add(blocks.saturating_mul(BLOCK), Ordering::Relaxed);
                Some((folder, own))
            }
            Err(error) if is_elsewhere(&error) => None,
            Err(error) => {
                self.fail(path, &error);
                None
            }
        }
    }

    /// Whether the open folder is still the one at its path.
    fn is_at(&self, path: &Path, own: &Stat) -> bool {
        let there = self.root.open_at(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).and_then(|there| {
            let there = fs::fstat(there)?;
            Ok((there.st_dev, there.st_ino))
        });
        there.is_ok_and(|there| there == (own.st_dev, own.st_ino))
    }

    /// A folder in a folder: left to the other thread where that has little to do.
    fn below(&self, path: &mut PathBuf, open: usize) {
        if !self.queue.push(path, open >= OPEN_MAX) {
            self.folder(path, open + 1);
        }
    }

    /// What is no folder as far as its folder says; some filesystems do not say.
    fn other(&self, folder: &OwnedFd, name: &CStr, path: &mut PathBuf, open: usize) {
        match Seen::look(folder, name) {
            Ok(None) => {}
            Ok(Some(seen)) if seen.kind == Kind::Folder => self.below(path, open),
            Ok(Some(seen)) => {
                self.files.fetch_add(1, Ordering::Relaxed);
                let entry = Entry { path: Cow::Borrowed(path.as_path()), seen };
                if (self.visit)(Found { entry, folder: folder.as_fd(), name }).is_break() {
                    self.queue.stop();
                }
            }
            Err(error) => self.fail(path, &error.into()),
        }
    }

    fn fail(&self, path: &Path, error: &io::Error) {
        self.failures.lock().expect("nothing panics while it holds the failures").add(path, error);
    }
}

/// Why a folder that was named is not entered.
fn named(error: io::Error) -> io::Error {
    match Errno::from_io_error(&error) {
        Some(Errno::NOTDIR) => io::Error::other("is no folder"),
        Some(Errno::LOOP) => io::Error::other("is a symbolic link: name the folder that it leads to"),
        Some(Errno::XDEV) => io::Error::other("is another filesystem: name it as the root of a job of its own"),
        Some(_) | None => error,
    }
}

/// Whether what was found as a folder is gone, became something else, or is a mount.
fn is_elsewhere(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV))
}
