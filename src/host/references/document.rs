//! A JSON file as it was read, by the handle that it was read through.

use std::{
    fs::File,
    io::{self, ErrorKind, Read},
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, statat},
    io::Errno,
};

use super::{
    ReferenceError, Source,
    tokens::{self, Token, Unread},
};
use crate::host::{
    Root,
    lease::{Asked, Kind, Lease},
};

/// The largest file that is read, in bytes: 256 MiB.
pub(super) const SIZE_MAX: u64 = 256 << 20;
/// How often a file is read that is not whole, while it changes.
const READS_MAX: u32 = 10;
/// How long one who writes the file in place has to go on with it.
const PAUSE: Duration = Duration::from_millis(10);

/// How often a lease is asked for while others have the file open.
const ASKS_MAX: u32 = 100;
/// So many of these follow each other at once: most readers close the file as soon as they have read it.
const HASTY_ASKS: u32 = 50;
/// How long the others have to close it before it is asked for again.
const ASK_PAUSE: Duration = Duration::from_millis(1);

/// What a document is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    /// To be written too, where that is allowed.
    Write,
}

/// A whole document, with the strings in its named fields.
#[derive(Debug)]
pub(super) struct Document {
    file: Arc<File>,
    /// Why it can only be read.
    refused: Option<io::Error>,
    text: Vec<u8>,
    tokens: Vec<Token>,
}

/// Whether nobody else has a file open.
enum Alone {
    /// Whoever opens it waits until the lease is given back. Without one that cannot be had: others hold the file open all the
    /// time, or the system has no leases.
    Yes(Option<Lease>),
    /// The path has another file by now.
    Late,
}

impl Document {
    /// Reads a file. One that is not whole is read again for as long as it changes.
    pub(super) fn read(root: &Root, source: &Source, access: Access) -> Result<Self, ReferenceError> {
        let mut seen = None;
        for _ in 0..READS_MAX {
            let (file, refused) = open(root, &source.path, access)?;
            let metadata = file.metadata().map_err(|error| unread(&source.path, error))?;
            if !metadata.is_file() {
                return Err(ReferenceError::NoFile { path: source.path.clone() });
            }
            if metadata.len() > SIZE_MAX {
                return Err(ReferenceError::Large { path: source.path.clone() });
            }
            let state = Some((metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()));
            match Self::parse(file, refused, source) {
                Err(ReferenceError::Malformed { .. }) if seen != state => seen = state,
                parsed => return parsed,
            }
            thread::sleep(PAUSE);
        }
        Err(ReferenceError::Unsteady { path: source.path.clone() })
    }

    fn parse(file: File, refused: Option<io::Error>, source: &Source) -> Result<Self, ReferenceError> {
        let path = || source.path.clone();
        let mut text = Vec::new();
        // It may grow meanwhile.
        let size = (&file).take(SIZE_MAX + 1).read_to_end(&mut text).map_err(|error| unread(&source.path, error))?;
        if size as u64 > SIZE_MAX {
            return Err(ReferenceError::Large { path: path() });
        }
        match tokens::scan(&text, &source.fields) {
            Ok(tokens) => Ok(Self { file: Arc::new(file), refused, text, tokens }),
            Err(Unread::Malformed(source)) => Err(ReferenceError::Malformed { path: path(), source }),
            Err(Unread::Deep) => Err(ReferenceError::Deep { path: path() }),
        }
    }

    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    pub(super) fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// Why it cannot be written.
    pub(super) fn take_refused(&mut self) -> Option<io::Error> {
        self.refused.take()
    }

    /// Writes `null` over tokens, with spaces to the same length, up to the first that is no longer there as it was read; answers
    /// over how many. Meanwhile nobody else has the file open, where that can be had, and `is_current` says whether it is worth
    /// waiting for.
    pub(super) fn overwrite(
        &self,
        ranges: &[Range<usize>],
        is_current: impl Fn() -> io::Result<bool>,
    ) -> io::Result<usize> {
        let Alone::Yes(_lease) = self.alone(is_current)? else { return Ok(0) };
        for (done, range) in ranges.iter().enumerate() {
            let (old, at) = (&self.text[range.clone()], range.start as u64);
            let mut now = vec![0; old.len()];
            match self.file.read_exact_at(&mut now, at) {
                Ok(()) if now == old => {}
                Ok(()) => return Ok(done),
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(done),
                Err(error) => return Err(error),
            }
            let mut null = b"null".to_vec();
            null.resize(old.len(), b' ');
            if let Err(error) = self.file.write_all_at(&null, at) {
                // Half of it would be no JSON.
                self.file.write_all_at(old, at)?;
                return Err(error);
            }
        }
        Ok(ranges.len())
    }

    fn alone(&self, is_current: impl Fn() -> io::Result<bool>) -> io::Result<Alone> {
        for ask in 0..ASKS_MAX {
            match Lease::ask(&self.file, Kind::Write) {
                Ok(Asked::Granted(lease)) => return Ok(Alone::Yes(Some(lease))),
                Ok(Asked::InUse) if !is_current()? => return Ok(Alone::Late),
                Ok(Asked::InUse) if ask < HASTY_ASKS => thread::yield_now(),
                Ok(Asked::InUse) => thread::sleep(ASK_PAUSE),
                Err(_) => break,
            }
        }
        Ok(Alone::Yes(None))
    }

    /// Whether the path still has the file that was read; also where it has none at all, which names nothing.
    pub(super) fn is_at(&self, root: &Root, path: &Path) -> io::Result<bool> {
        let own = self.file.metadata()?;
        let found = root
            .parent_of(path)
            .and_then(|(folder, name)| statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from));
        match found {
            Ok(found) => Ok((found.st_dev, found.st_ino) == (own.dev(), own.ino())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Makes what was written last.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn unread(path: &Path, source: io::Error) -> ReferenceError {
    ReferenceError::Read { path: path.to_owned(), source }
}

/// Opens a file; with the reason where it was asked to be written and can only be read.
fn open(root: &Root, path: &Path, access: Access) -> Result<(File, Option<io::Error>), ReferenceError> {
    // A pipe would block.
    let open = |flags| root.open_at(path, flags | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty()).map(File::from);
    let opened = match access {
        Access::Read => open(OFlags::RDONLY).map(|file| (file, None)),
        Access::Write => match open(OFlags::RDWR) {
            Err(error) if is_refused(&error) => open(OFlags::RDONLY).map(|file| (file, Some(error))),
            opened => opened.map(|file| (file, None)),
        },
    };
    opened.map_err(|source| match source.kind() {
        ErrorKind::NotFound => ReferenceError::Missing { path: path.to_owned() },
        ErrorKind::IsADirectory => ReferenceError::NoFile { path: path.to_owned() },
        _ => unread(path, source),
    })
}

fn is_refused(error: &io::Error) -> bool {
    let refusals = [Errno::ACCESS, Errno::PERM, Errno::ROFS, Errno::TXTBSY];
    refusals.iter().any(|refusal| error.raw_os_error() == Some(refusal.raw_os_error()))
}
