//! The folder that the log is in, by handle, and each change of it.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, fs::FileExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, Dir, FallocateFlags, FlockOperation, Mode, OFlags, RenameFlags, ResolveFlags, Stat},
    io::Errno,
};

use super::{faults::Faults, tail};
use crate::host::Root;

/// How names in the folder are opened: no link is followed, and nothing is opened that is mounted over one.
const LITERAL: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_XDEV)
    .union(ResolveFlags::NO_MAGICLINKS);
/// How a log is opened to be read: a named pipe would block.
pub(super) const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
/// How a log is opened to be appended to.
pub(super) const APPEND: OFlags = OFlags::RDWR.union(OFlags::APPEND).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder {
    handle: OwnedFd,
    /// Its path below the root.
    path: PathBuf,
    pub faults: Faults,
}

impl Folder {
    /// The folder that holds `below`, and its last name there.
    pub(super) fn of<'a>(root: &Root, below: &'a Path, faults: Faults) -> io::Result<(Self, &'a OsStr)> {
        let (handle, name) = root.parent_of(below)?;
        let path = below.parent().unwrap_or(Path::new("")).to_owned();
        Ok((Self { handle, path, faults }, name))
    }

    /// The path below the root of a name in it.
    pub(super) fn below(&self, name: &OsStr) -> PathBuf {
        self.path.join(name)
    }

    /// Keeps other rotations out until the folder is dropped; `false` where one is in it.
    pub(super) fn lock(&self) -> io::Result<bool> {
        match fs::flock(&self.handle, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Ok(false),
            // A network filesystem locks only what is open to write, and the lock of the host's job is above this one.
            Ok(()) | Err(Errno::BADF | Errno::NOLCK | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// What has the name; none where nothing has it.
    pub(super) fn stat(&self, name: &OsStr) -> io::Result<Option<Stat>> {
        absent_as_none(fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW))
    }

    /// Opens a file; none where nothing has the name.
    pub(super) fn open(&self, name: &OsStr, flags: OFlags) -> io::Result<Option<File>> {
        let file = fs::openat2(&self.handle, name, flags | OFlags::CLOEXEC, Mode::empty(), LITERAL);
        Ok(absent_as_none(file)?.map(File::from))
    }

    /// Makes a file that only we may open, to be appended to.
    pub(super) fn create(&self, name: &OsStr) -> io::Result<File> {
        self.faults.pass()?;
        let flags = APPEND | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        Ok(fs::openat2(&self.handle, name, flags, Mode::RUSR | Mode::WUSR, LITERAL)?.into())
    }

    /// The names that begin with `start`.
    pub(super) fn names(&self, start: &OsStr) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.handle)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name.starts_with(start.as_bytes()) {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Gives a file another name, which nothing has.
    pub(super) fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        self.faults.pass()?;
        match fs::renameat_with(&self.handle, from, &self.handle, to, RenameFlags::NOREPLACE) {
            // Some network filesystems cannot. Nobody else makes such names.
            Err(Errno::INVAL | Errno::NOSYS) if self.stat(to)?.is_none() => {
                Ok(fs::renameat(&self.handle, from, &self.handle, to)?)
            }
            renamed => Ok(renamed?),
        }
    }

    /// Gives a file the name of another, which loses it.
    pub(super) fn replace(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        self.faults.pass()?;
        Ok(fs::renameat(&self.handle, from, &self.handle, to)?)
    }

    /// Exchanges two names; `false` where the filesystem cannot.
    pub(super) fn exchange(&self, a: &OsStr, b: &OsStr) -> io::Result<bool> {
        self.faults.pass()?;
        if self.faults.has_no_exchange() {
            return Ok(false);
        }
        match fs::renameat_with(&self.handle, a, &self.handle, b, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(true),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a file one more name; `false` where the filesystem cannot.
    pub(super) fn link(&self, from: &OsStr, to: &OsStr) -> io::Result<bool> {
        self.faults.pass()?;
        if self.faults.has_no_links() {
            return Ok(false);
        }
        match fs::linkat(&self.handle, from, &self.handle, to, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP | Errno::MLINK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a name; it need not be there.
    pub(super) fn unlink(&self, name: &OsStr) -> io::Result<()> {
        self.faults.pass()?;
        absent_as_none(fs::unlinkat(&self.handle, name, AtFlags::empty())).map(drop)
    }

    /// Makes the names last.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(fs::fsync(&self.handle)?)
    }

    /// Appends `from` to `to` of one file to another.
    pub(super) fn append(&self, onto: &File, source: &File, from: u64, to: u64) -> io::Result<()> {
        let (mut at, mut piece) = (from, vec![0; tail::PIECE]);
        while at < to {
            let piece = tail::fill(source, &mut piece, at, to)?;
            self.append_bytes(onto, piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Appends bytes to a file that is open to append.
    pub(super) fn append_bytes(&self, mut onto: &File, bytes: &[u8]) -> io::Result<()> {
        self.faults.pass()?;
        io::Write::write_all(&mut onto, bytes)
    }

    /// Cuts a file.
    pub(super) fn truncate(&self, file: &File, size: u64) -> io::Result<()> {
        self.faults.pass()?;
        file.set_len(size)
    }

    /// Gives the disk back what is between `from` and `to`; a filesystem that cannot does nothing. Answers how many bytes
    /// came free.
    pub(super) fn punch(&self, file: &File, from: u64, to: u64) -> io::Result<u64> {
        self.faults.pass()?;
        let allocated = || fs::fstat(file).map(|stat| u64::try_from(stat.st_blocks).unwrap_or(0) * 512);
        let before = allocated()?;
        match fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, from, to.saturating_sub(from))
        {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(before.saturating_sub(allocated()?)),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether the file ends in the middle of a line.
pub(super) fn is_amid_line(file: &File) -> io::Result<bool> {
    let size = file.metadata()?.len();
    let mut last = [b'\n'];
    if size > 0 {
        file.read_exact_at(&mut last, size - 1)?;
    }
    Ok(last[0] != b'\n')
}

fn absent_as_none<T>(done: Result<T, Errno>) -> io::Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
