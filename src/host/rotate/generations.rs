//! What was dropped from the log, kept for a while: `<log>.1`, and compressed one rotation later `<log>.2.gz` and on.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, BufWriter, Write},
    os::unix::fs::{FileExt, MetadataExt},
    sync::Arc,
    time::Instant,
};

use flate2::{Compression, write::GzEncoder};
use rustix::fs::{FileType, Stat};

use super::{
    attributes,
    folder::{APPEND, Folder, READ},
    lease::{Asked, Kind, Lease},
    name,
    old::Old,
    tail,
};

/// The most generations that are looked for.
pub(super) const GENERATIONS_MAX: u32 = 1_000;

/// The generations of a log, of which `count` are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Generations<'a> {
    pub folder: &'a Folder,
    pub log: &'a OsStr,
    pub count: u32,
}

impl Generations<'_> {
    /// All names that generations may have.
    pub(super) fn names(self) -> impl Iterator<Item = OsString> {
        let log = self.log.to_owned();
        (1..=self.count.min(GENERATIONS_MAX))
            .flat_map(move |number| [false, true].map(|is_compressed| name::of_generation(&log, number, is_compressed)))
    }

    /// Makes the newest generation of an old file that nobody holds: what it has before the kept lines. Answers how many
    /// bytes came free.
    pub(super) fn take(self, old: &Old) -> io::Result<u64> {
        let (folder, first) = (self.folder, name::of_generation(self.log, 1, false));
        let freed = self.make_room()?;
        let metadata = old.file.metadata()?;
        // Another name of it, such as a backup's, would lose the lines, too.
        if metadata.len() > old.progress.start && metadata.nlink() == 1 {
            let none = || io::Error::new(io::ErrorKind::NotFound, "was removed while it was rotated");
            let file = folder.open(&old.name, APPEND)?.ok_or_else(none)?;
            folder.truncate(&file, old.progress.start)?;
            file.sync_all()?;
        }
        folder.rename(&old.name, &first)?;
        folder.sync()?;
        Ok(freed)
    }

    /// Makes the name of the newest one free; the oldest goes where all are there. Answers how many bytes came free.
    fn make_room(self) -> io::Result<u64> {
        let mut freed = 0;
        let count = self.count.min(GENERATIONS_MAX);
        // A gap is there where a sweep ended in the middle of this.
        let mut gap = 1;
        while gap <= count && self.stat(gap)?.is_some() {
            gap += 1;
        }
        if gap > count {
            // One too many, and what an earlier configuration kept.
            let mut extra = count;
            while extra <= GENERATIONS_MAX && self.stat(extra)?.is_some() {
                freed += self.remove(extra)?;
                extra += 1;
            }
            gap = count;
        }
        for number in (1..gap).rev() {
            for is_compressed in [false, true] {
                let [from, to] =
                    [number, number + 1].map(|number| name::of_generation(self.log, number, is_compressed));
                if self.folder.stat(&from)?.is_some() {
                    self.folder.rename(&from, &to)?;
                }
            }
        }
        Ok(freed)
    }

    fn remove(self, number: u32) -> io::Result<u64> {
        let mut freed = 0;
        for is_compressed in [false, true] {
            let name = name::of_generation(self.log, number, is_compressed);
            if let Some(stat) = self.folder.stat(&name)? {
                self.folder.unlink(&name)?;
                freed += size(&stat);
            }
        }
        Ok(freed)
    }

    fn stat(self, number: u32) -> io::Result<Option<Stat>> {
        let plain = self.folder.stat(&name::of_generation(self.log, number, false))?;
        Ok(plain.or(self.folder.stat(&name::of_generation(self.log, number, true))?))
    }

    /// Compresses all but the newest one, until `end`; those that somebody writes to stay as they are. Answers how many
    /// bytes came free.
    pub(super) fn compress(self, end: Instant) -> io::Result<u64> {
        let (folder, temporary) = (self.folder, name::of_compressing(self.log));
        folder.unlink(&temporary)?;
        let mut freed = 0;
        for number in 2..=self.count.min(GENERATIONS_MAX) {
            let [plain, packed] =
                [false, true].map(|is_compressed| name::of_generation(self.log, number, is_compressed));
            let Some(stat) = folder.stat(&plain)? else {
                if folder.stat(&packed)?.is_none() {
                    break;
                }
                continue;
            };
            if Instant::now() >= end {
                break;
            }
            if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                freed += self.compress_one(&plain, &packed, &temporary)?;
            }
        }
        Ok(freed)
    }

    fn compress_one(self, plain: &OsStr, packed: &OsStr, temporary: &OsStr) -> io::Result<u64> {
        let folder = self.folder;
        let Some(file) = folder.open(plain, READ)? else { return Ok(0) };
        let file = Arc::new(file);
        let lease = match Lease::ask(&file, Kind::Read) {
            Ok(Asked::Granted(lease)) => Some(lease),
            Ok(Asked::InUse) => return Ok(0),
            // Without leases an age of one rotation must do.
            Err(_) => None,
        };
        let size = file.metadata()?.len();
        if !is_packed(folder, packed, size)? {
            let target = folder.create(temporary)?;
            folder.faults.pass()?;
            pack(&file, &target, size)?;
            attributes::keep(&file, &target)?;
            target.sync_all()?;
            folder.replace(temporary, packed)?;
            folder.sync()?;
        }
        // Somebody waits to write to it: it stays, and is compressed anew.
        if lease.is_some_and(|lease| !lease.is_unchallenged()) || file.metadata()?.len() != size {
            folder.unlink(packed)?;
            return Ok(0);
        }
        folder.unlink(plain)?;
        Ok(size.saturating_sub(folder.stat(packed)?.map_or(0, |stat| self::size(&stat))))
    }
}

/// Whether the file is what the first `size` bytes were compressed to before a crash: its last bytes say how many they were.
fn is_packed(folder: &Folder, name: &OsStr, size: u64) -> io::Result<bool> {
    let Some(file) = folder.open(name, READ)? else { return Ok(false) };
    let length = file.metadata()?.len();
    let mut told = [0; 4];
    let Some(at) = length.checked_sub(told.len() as u64) else { return Ok(false) };
    file.read_exact_at(&mut told, at)?;
    Ok(u64::from(u32::from_le_bytes(told)) == size % (1 << 32))
}

/// Compresses the first `size` bytes.
fn pack(file: &File, target: &File, size: u64) -> io::Result<()> {
    let mut encoder = GzEncoder::new(BufWriter::with_capacity(tail::PIECE, target), Compression::default());
    let (mut at, mut piece) = (0, vec![0; tail::PIECE]);
    while at < size {
        let piece = tail::fill(file, &mut piece, at, size)?;
        encoder.write_all(piece)?;
        at += piece.len() as u64;
    }
    encoder.finish()?.flush()
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}
