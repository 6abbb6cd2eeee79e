//! A folder of the store, by handle: names below it are literal, and symbolic links are never followed.

use std::{
    io,
    num::NonZero,
    os::fd::OwnedFd,
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use rustix::{
    fs::{self, Access, AtFlags, Dir, FileType, Mode, OFlags, RenameFlags},
    io::Errno,
};

use super::{NAME, faults::Faults};
use crate::runs::StoreError;

/// The longest name of a file.
const NAME_MAX: usize = 255;
/// The most bytes of a file that are read whole: what is larger is cut short, and so is no JSON.
const FILE_MAX: usize = 256 << 20;
/// How many bytes one read asks for at first; most files are smaller.
const READ_SIZE: usize = 16 * 1024;
/// The most threads that work on files.
const THREADS_MAX: usize = 4;
/// How many files are worth a thread.
pub(super) const SHARE: usize = 50;

/// An open folder; one that is not there is empty.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    handle: Option<OwnedFd>,
    faults: Arc<Faults>,
}

/// The name of a file: none where the id cannot be a part of one.
pub(super) fn file_name(before: &str, id: &str, after: &str) -> Option<String> {
    let is_name = !id.contains(['/', '\0']) && before.len() + id.len() + after.len() <= NAME_MAX;
    is_name.then(|| [before, id, after].concat())
}

impl Folder {
    /// Opens the store's own folder, which may be a link to it.
    pub(super) fn root(path: &Path, faults: Arc<Faults>) -> Result<Self, StoreError> {
        let handle = fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let this = Self { path: path.to_owned(), handle: None, faults };
        let handle = handle.map_err(|error| this.failed("", error))?;
        Ok(Self { handle: Some(handle), ..this })
    }

    /// Opens a folder in this one.
    pub(super) fn below(&self, name: &str) -> Result<Self, StoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = self.absent_as_none(name, |handle| fs::openat(handle, name, flags, Mode::empty()))?;
        Ok(Self { path: self.path.join(name), handle, faults: Arc::clone(&self.faults) })
    }

    /// What the folder's name is in messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) const fn is_there(&self) -> bool {
        self.handle.is_some()
    }

    pub(super) fn handle(&self) -> Result<&OwnedFd, Errno> {
        self.handle.as_ref().ok_or(Errno::NOENT)
    }

    /// An error of the file `name`, or of the folder where that is empty.
    pub(super) fn failed(&self, name: &str, error: Errno) -> StoreError {
        let path = if name.is_empty() { self.path.clone() } else { self.path.join(name) };
        StoreError::unavailable(NAME, format!("{}: {}", path.display(), io::Error::from(error)))
    }

    fn absent_as_none<T>(
        &self,
        name: &str,
        act: impl FnOnce(&OwnedFd) -> Result<T, Errno>,
    ) -> Result<Option<T>, StoreError> {
        match self.handle().and_then(act) {
            Ok(done) => Ok(Some(done)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.failed(name, error)),
        }
    }

    /// A change of the disk; `None` where what it is about is not there.
    fn change<T>(&self, name: &str, act: impl FnOnce(&OwnedFd) -> Result<T, Errno>) -> Result<Option<T>, StoreError> {
        self.faults.pass().map_err(|error| self.failed(name, error))?;
        self.absent_as_none(name, act)
    }

    /// Shows each name in the folder with the number of its inode, in no order.
    pub(super) fn each_name(&self, mut show: impl FnMut(&str, u64)) -> Result<(), StoreError> {
        let Some(entries) = self.absent_as_none("", |handle| Dir::read_from(handle))? else { return Ok(()) };
        for entry in entries {
            let entry = entry.map_err(|error| self.failed("", error))?;
            // PyWorkflow writes names in UTF-8: another one is not its own.
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name != "." && name != ".." {
                show(name, entry.ino());
            }
        }
        Ok(())
    }

    /// The names that end in `suffix`, without it, in alphabetical order.
    pub(super) fn stems(&self, suffix: &str) -> Result<Vec<String>, StoreError> {
        let mut stems = Vec::new();
        self.each_name(|name, _| stems.extend(name.strip_suffix(suffix).map(str::to_owned)))?;
        stems.sort_unstable();
        Ok(stems)
    }

    pub(super) fn has(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.absent_as_none(name, |handle| fs::statat(handle, name, AtFlags::SYMLINK_NOFOLLOW))?.is_some())
    }

    /// How many bytes a file has; 0 where it is not there.
    pub(super) fn size(&self, name: &str) -> u64 {
        let stat = self.handle().and_then(|handle| fs::statat(handle, name, AtFlags::SYMLINK_NOFOLLOW));
        stat.ok().and_then(|stat| u64::try_from(stat.st_size).ok()).unwrap_or(0)
    }

    /// The number of the filesystem's kind.
    pub(super) fn filesystem(&self) -> Option<u32> {
        let stat = fs::fstatfs(self.handle().ok()?).ok()?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the numbers have 32 bits")]
        Some(stat.f_type as u32)
    }

    /// Refuses a folder that cannot be written.
    pub(super) fn assert_writable(&self) -> Result<(), StoreError> {
        let access = |handle: &OwnedFd| fs::accessat(handle, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS);
        self.absent_as_none("", access).map(drop)
    }

    /// Reads a file in pieces; `false` where it is not there. A link, or what is no file, reads as empty.
    pub(super) fn read_pieces(&self, name: &str, mut take: impl FnMut(&[u8])) -> Result<bool, StoreError> {
        // A pipe would block.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match self.handle().and_then(|handle| fs::openat(handle, name, flags, Mode::empty())) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(false),
            Err(Errno::LOOP | Errno::NXIO) => return Ok(true),
            Err(error) => return Err(self.failed(name, error)),
        };
        let mut buffer = [0; READ_SIZE];
        loop {
            let count = match rustix::io::read(&file, &mut buffer) {
                Ok(count) => count,
                Err(Errno::ISDIR) => return Ok(true),
                Err(error) => return Err(self.failed(name, error)),
            };
            take(&buffer[..count]);
            // A file is read short only at its end.
            if count < READ_SIZE {
                return Ok(true);
            }
        }
    }

    /// Reads a file, [`FILE_MAX`] of it at most; `None` where it is not there.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let mut text = Vec::new();
        let take = |piece: &[u8]| text.extend_from_slice(&piece[..piece.len().min(FILE_MAX - text.len())]);
        Ok(self.read_pieces(name, take)?.then_some(text))
    }

    /// Removes a file, or a link; `false` where it was not there.
    pub(super) fn remove(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.change(name, |handle| fs::unlinkat(handle, name, AtFlags::empty()))?.is_some())
    }

    /// Removes an empty folder.
    pub(super) fn remove_folder(&self, name: &str) -> Result<(), StoreError> {
        self.change(name, |handle| fs::unlinkat(handle, name, AtFlags::REMOVEDIR)).map(drop)
    }

    /// Makes a folder; `false` where something has the name.
    pub(super) fn make_folder(&self, name: &str) -> Result<bool, StoreError> {
        self.faults.pass().map_err(|error| self.failed(name, error))?;
        match self.handle().and_then(|handle| fs::mkdirat(handle, name, Mode::RWXU)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(self.failed(name, error)),
        }
    }

    /// Gives a file another folder and name, in place of what has that; `false` where one of the two is not there.
    pub(super) fn move_to(&self, name: &str, folder: &Self, to: &str) -> Result<bool, StoreError> {
        Ok(self.change(name, |from| fs::renameat(from, name, folder.handle()?, to))?.is_some())
    }

    /// The same where nothing has that name; `false` also where something has it.
    pub(super) fn move_unless_taken(&self, name: &str, folder: &Self, to: &str) -> Result<bool, StoreError> {
        self.faults.pass().map_err(|error| self.failed(name, error))?;
        let moved =
            self.handle().and_then(|from| fs::renameat_with(from, name, folder.handle()?, to, RenameFlags::NOREPLACE));
        match moved {
            Ok(()) => Ok(true),
            Err(Errno::EXIST | Errno::NOENT) => Ok(false),
            // Some network filesystems cannot.
            Err(Errno::INVAL | Errno::NOSYS) => Ok(!folder.has(to)? && self.move_to(name, folder, to)?),
            Err(error) => Err(self.failed(name, error)),
        }
    }

    /// Puts `text` in place of a file, wholly or not at all, by way of `folder`, which is on the same filesystem. The file
    /// keeps its owner and mode, or stays as it is.
    pub(super) fn replace(&self, name: &str, text: &[u8], folder: &Self) -> Result<(), StoreError> {
        let temporary = "replacement";
        folder.remove(temporary)?;
        let failed = |error| self.failed(name, error);
        self.faults.pass().map_err(failed)?;
        let write = || {
            let old = fs::statat(self.handle()?, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(old.st_mode) != FileType::RegularFile {
                return Err(Errno::INVAL);
            }
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = fs::openat(folder.handle()?, temporary, flags, Mode::RUSR | Mode::WUSR)?;
            let new = fs::fstat(&file)?;
            if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid) {
                let owner = (fs::Uid::from_raw(old.st_uid), fs::Gid::from_raw(old.st_gid));
                fs::fchown(&file, Some(owner.0), Some(owner.1))?;
            }
            fs::fchmod(&file, Mode::from_raw_mode(old.st_mode))?;
            let mut rest = text;
            while !rest.is_empty() {
                rest = &rest[rustix::io::write(&file, rest)?..];
            }
            fs::fsync(&file)
        };
        write().map_err(failed)?;
        folder.move_to(temporary, self, name).map(drop)
    }

    /// Makes what was done in the folder last.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.absent_as_none("", |handle| fs::fsync(handle)).map(drop)
    }

    pub(super) fn faults(&self) -> &Faults {
        &self.faults
    }
}

/// Does `work` for each of `items`, in their order, by several threads where each has at least `share` of them.
pub(super) fn by_several<I: Sync, T: Send>(items: &[I], share: usize, work: impl Fn(&I) -> T + Sync) -> Vec<T> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
    let share = items.len().div_ceil(threads).max(share);
    if items.len() <= share {
        return items.iter().map(work).collect();
    }
    thread::scope(|scope| {
        let work = &work;
        let parts = items.chunks(share).map(|part| scope.spawn(move || part.iter().map(work).collect::<Vec<T>>()));
        let threads: Vec<_> = parts.collect();
        let done = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        done.flatten().collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_any_size_is_read_up_to_a_limit() {
        let temp = tempfile::tempdir().unwrap();
        let large = std::fs::File::create(temp.path().join("large")).unwrap();
        large.set_len(FILE_MAX as u64 + 100_000).unwrap();
        let folder = Folder::root(temp.path(), Arc::new(Faults::default())).unwrap();
        assert_eq!(folder.read("large").unwrap().unwrap().len(), FILE_MAX);
    }
}
