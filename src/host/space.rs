//! How full the disk of a root is, and what of that nobody can see.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use rustix::fs::fstatvfs;

use super::Root;

/// Where the system lists its processes.
const PROCESSES: &str = "/proc";
/// How the system marks an open file that has no name any more.
const DELETED: &[u8] = b" (deleted)";
/// What a block of `st_blocks` is counted in.
const BLOCK: u64 = 512;
/// How many deleted files are named, the largest of them.
const NAMED_MAX: usize = 100;

/// How much room a filesystem has for whoever is not its superuser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What is used and what is available, without what is reserved.
    pub total_bytes: u64,
    /// What can still be written.
    pub available_bytes: u64,
}

impl Space {
    /// Looks at the filesystem of a root.
    ///
    /// # Errors
    /// Where the filesystem does not answer, or does not know its size.
    pub fn of(root: &Root) -> io::Result<Self> {
        let told = fstatvfs(root.handle())?;
        let reserved = told.f_bfree.saturating_sub(told.f_bavail);
        let total = told.f_blocks.saturating_sub(reserved);
        if total == 0 {
            return Err(io::Error::other("the filesystem does not say how large it is"));
        }
        Ok(Self {
            total_bytes: total.saturating_mul(told.f_frsize),
            available_bytes: told.f_bavail.min(total).saturating_mul(told.f_frsize),
        })
    }

    /// The share that is used, from 0 to 1, as `df` shows it.
    ///
    /// What is reserved for the superuser is left out: to a service it is never there. Counted as used, a large reserve
    /// would keep the share above every mark, however much is deleted.
    ///
    /// ```
    /// use apalis_janitor::host::Space;
    /// let space = Space { total_bytes: 1_000, available_bytes: 300 };
    /// assert_eq!(space.used_share(), 0.7);
    /// ```
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more digits")]
    pub fn used_share(self) -> f64 {
        1.0 - self.available_bytes as f64 / self.total_bytes as f64
    }

    /// How many bytes must come free before no more than `share` is used.
    ///
    /// ```
    /// use apalis_janitor::host::Space;
    /// let space = Space { total_bytes: 1_000, available_bytes: 300 };
    /// assert_eq!(space.excess_bytes(0.5), 200);
    /// assert_eq!(space.excess_bytes(0.9), 0);
    /// ```
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is a mark, and the next look at the filesystem is what counts"
    )]
    pub fn excess_bytes(self, share: f64) -> u64 {
        let free = ((1.0 - share) * self.total_bytes as f64).ceil() as u64;
        free.saturating_sub(self.available_bytes)
    }
}

/// A file without a name that a process holds open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldFile {
    /// Where it was, as the system tells it.
    pub path: PathBuf,
    /// How much of the disk it takes until it is closed.
    pub allocated_bytes: u64,
    /// One of the processes that hold it.
    pub pid: u32,
}

/// The files of a root's filesystem that were deleted and take their room until they are closed.
///
/// ```
/// use apalis_janitor::host::{Held, Root};
///
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("a.log");
/// let file = std::fs::File::create(&path).unwrap();
/// std::fs::remove_file(&path).unwrap();
/// let held = Held::of(&Root::open(folder.path()).unwrap()).unwrap();
/// assert!(held.count > 0 && held.files.iter().any(|held| held.pid == std::process::id()));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The largest of them, at most a hundred.
    pub files: Vec<HeldFile>,
    /// How many there are.
    pub count: usize,
    /// How much of the disk all of them take.
    pub allocated_bytes: u64,
    /// How many processes could not be asked, for want of rights.
    pub unasked: usize,
}

impl Held {
    /// Asks each process of this host for what it holds open on the filesystem of `root`.
    ///
    /// It sees what the user that it runs as may see, in its own namespace of processes; and not what is only mapped.
    ///
    /// # Errors
    /// Where the processes cannot be listed.
    pub fn of(root: &Root) -> io::Result<Self> {
        let mut held = Self::default();
        let mut found = HashMap::new();
        for process in fs::read_dir(PROCESSES)? {
            let process = process?;
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            match fs::read_dir(process.path().join("fd")) {
                Ok(open) => {
                    let open = open.flatten().filter_map(|open| deleted(root, pid, &open.path()));
                    found.extend(open);
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => held.unasked += 1,
                // It ended meanwhile.
                Err(_) => {}
            }
        }
        held.count = found.len();
        held.allocated_bytes = found.values().map(|file| file.allocated_bytes).sum();
        held.files = found.into_values().collect();
        held.files.sort_by(|one, other| {
            other.allocated_bytes.cmp(&one.allocated_bytes).then_with(|| one.path.cmp(&other.path))
        });
        held.files.truncate(NAMED_MAX);
        Ok(held)
    }
}

/// The file behind a process's open one, by its filesystem and inode, where it is a deleted one on the root's filesystem.
fn deleted(root: &Root, pid: u32, open: &Path) -> Option<((u64, u64), HeldFile)> {
    let told = fs::read_link(open).ok()?;
    let path = told.as_os_str().as_bytes().strip_suffix(DELETED)?;
    let file = fs::metadata(open).ok()?;
    let path = PathBuf::from(OsStr::from_bytes(path));
    let is_ours = file.is_file() && file.nlink() == 0 && (file.dev() == root.dev() || path.starts_with(root.path()));
    let allocated_bytes = file.blocks().saturating_mul(BLOCK);
    is_ours.then_some(((file.dev(), file.ino()), HeldFile { path, allocated_bytes, pid }))
}
