//! A file as it was seen: what a later look is compared with.

use std::{fmt::Debug, os::fd::AsFd};

use chrono::{DateTime, Utc};
use rustix::{
    fs::{self, AtFlags, FileType, Statx, StatxAttributes, StatxFlags},
    io::Errno,
    path::Arg,
};

/// What a disk's block is counted in, whatever its own blocks are.
const BLOCK: u64 = 512;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A symbolic link itself.
    Link,
    /// A folder. A walk enters it, and does not show it.
    Folder,
    /// A pipe, a socket or a device.
    Other,
}

/// When a file was last written, to the nanosecond. The past sorts first.
///
/// ```
/// use apalis_janitor::host::Modified;
/// use chrono::DateTime;
///
/// let cutoff = Modified::from(DateTime::from_timestamp(1_000, 0).unwrap());
/// assert!(Modified { secs: 999, nanos: 999_999_999 } < cutoff);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Modified {
    /// Since 1970, and before it where negative.
    pub secs: i64,
    /// Beyond the second.
    pub nanos: u32,
}

impl From<DateTime<Utc>> for Modified {
    fn from(at: DateTime<Utc>) -> Self {
        Self { secs: at.timestamp(), nanos: at.timestamp_subsec_nanos() }
    }
}

/// A file as it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it is.
    pub kind: Kind,
    /// How long it is.
    pub size_bytes: u64,
    /// How much of the disk it takes.
    pub allocated_bytes: u64,
    /// When it was last written.
    pub modified: Modified,
    /// The number of its filesystem.
    pub dev: u64,
    /// Its number in the filesystem.
    pub ino: u64,
    /// How many names it has.
    pub nlink: u32,
}

impl Seen {
    /// Looks at what has that name in a folder; `None` where nothing has, or where something is mounted over it.
    pub(super) fn look(folder: impl AsFd, name: impl Arg) -> Result<Option<Self>, Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        match fs::statx(folder, name, flags, StatxFlags::BASIC_STATS) {
            Ok(told) if told.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) => Ok(None),
            Ok(told) => Ok(Some(Self::of(&told))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn of(told: &Statx) -> Self {
        let kind = match FileType::from_raw_mode(told.stx_mode.into()) {
            FileType::RegularFile => Kind::File,
            FileType::Symlink => Kind::Link,
            FileType::Directory => Kind::Folder,
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => Kind::Other,
        };
        Self {
            kind,
            size_bytes: told.stx_size,
            allocated_bytes: told.stx_blocks.saturating_mul(BLOCK),
            modified: Modified { secs: told.stx_mtime.tv_sec, nanos: told.stx_mtime.tv_nsec },
            dev: fs::makedev(told.stx_dev_major, told.stx_dev_minor),
            ino: told.stx_ino,
            nlink: told.stx_nlink,
        }
    }

    /// Whether it is the same file, and not written since. Another name that it got or lost is no matter.
    #[must_use]
    pub fn is_still(&self, now: &Self) -> bool {
        let told = |seen: &Self| (seen.kind, seen.dev, seen.ino, seen.modified, seen.size_bytes);
        told(self) == told(now)
    }

    /// How much of the disk comes free when this name goes: nothing while the file has another one.
    #[must_use]
    pub const fn frees_bytes(&self) -> u64 {
        if self.nlink > 1 { 0 } else { self.allocated_bytes }
    }
}
