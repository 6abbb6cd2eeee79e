//! Why references could not be read, or did not become null.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{document::SIZE_MAX, tokens::DEPTH_MAX};

/// What is wrong with a JSON file, whose `path` is below the root. It is as it was, but for nulls that were written before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// It is not there. What it would name is not known.
    #[error("{}: is not there: make it, or correct its name in `references`", path.display())]
    Missing {
        /// Where it would be.
        path: PathBuf,
    },
    /// It is a folder or the like.
    #[error("{}: is no regular file, and is left alone", path.display())]
    NoFile {
        /// Where it is.
        path: PathBuf,
    },
    /// It has too many bytes to be read.
    #[error("{}: has more than {SIZE_MAX} bytes, and is left alone: split it, or take it out of `references`", path.display())]
    Large {
        /// Where it is.
        path: PathBuf,
    },
    /// Its objects and arrays nest too deep to be read.
    #[error("{}: nests deeper than {DEPTH_MAX}, and is left alone", path.display())]
    Deep {
        /// Where it is.
        path: PathBuf,
    },
    /// It is no JSON document, or not all of it is there.
    #[error("{}: is no whole JSON document, and is left alone: mend it, or take it out of `references`", path.display())]
    Malformed {
        /// Where it is.
        path: PathBuf,
        /// Where it ceases to be JSON.
        source: serde_json::Error,
    },
    /// It cannot be opened or read. A symbolic link is not followed.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// Where it is.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It names files that are to go, but cannot be written.
    #[error("{}: cannot be written, so what it names stays: give the janitor the right to write it", path.display())]
    Write {
        /// Where it is.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It names files that are to go, but no backup of it could be made.
    #[error("{}: no backup could be made in {}, so what it names stays", path.display(), folder.display())]
    Backup {
        /// Where it is.
        path: PathBuf,
        /// Where the backup would be.
        folder: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others changed it again and again meanwhile.
    #[error("{}: was changed again and again, so what it names stays until the next sweep", path.display())]
    Unsteady {
        /// Where it is.
        path: PathBuf,
    },
}

impl ReferenceError {
    /// The file, below the root.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Missing { path }
            | Self::NoFile { path }
            | Self::Large { path }
            | Self::Deep { path }
            | Self::Malformed { path, .. }
            | Self::Read { path, .. }
            | Self::Write { path, .. }
            | Self::Backup { path, .. }
            | Self::Unsteady { path } => path,
        }
    }
}
