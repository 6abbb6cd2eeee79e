//! A write-through cache: what is published is at the remote, and its local file goes; what is fetched comes back.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use futures::TryStreamExt;
use rustix::fs::{self, AtFlags, Mode, OFlags};

use super::{Switch, blocking, is_protected};
use crate::{
    blobs::{BlobError, Remote, remote::Proof},
    clock::{Clock, SystemClock},
    config::DiskConfig,
    host::{Fate, Kind, Root, RootError, look, shown, unlink},
};

/// The folder of a job of kind `disk`, as a cache of its remote.
pub struct Cache {
    root: Root,
    remote: Option<Remote>,
    config: DiskConfig,
    switch: Switch,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("root", &self.root).field("remote", &self.remote).finish_non_exhaustive()
    }
}

/// What became of the local file of what was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It is at the remote, and the local file is gone.
    Moved,
    /// It is at the remote, and the local file stays: it is protected, was written meanwhile, or the job is switched off.
    Copied,
    /// There is no remote: the local file stays.
    Kept,
}

/// Why something was not published or fetched. The local file is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The folder cannot be worked in.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The remote did not do it.
    #[error(transparent)]
    Remote(#[from] BlobError),
    /// The local file could not be read or written.
    #[error("{}: {what}", shown(path))]
    Local {
        /// The file, below the root.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// What came to the remote is not what was sent.
    #[error("{remote}: {key:?} is not what was sent: the local file stays")]
    Unproven {
        /// The remote.
        remote: String,
        /// The key.
        key: String,
    },
    /// There is nothing to fetch.
    #[error("there is no {key:?} at {remote}")]
    NotFound {
        /// The remote, or what is said in its place.
        remote: String,
        /// The key.
        key: String,
    },
}

impl Cache {
    /// Opens the folder and the remote of a job. Nothing local is deleted while `switch` says no.
    ///
    /// # Errors
    /// [`CacheError::Root`] where the folder must not be worked in, [`CacheError::Remote`] where the remote's URL is no good.
    pub async fn open(config: DiskConfig, switch: Switch) -> Result<Self, CacheError> {
        let path = config.root.clone();
        let root = blocking(move || Root::open(&path)).await?;
        let remote = config.remote.as_ref().map(|remote| Remote::open(&remote.objects, remote.verify)).transpose()?;
        Ok(Self { root, remote, config, switch })
    }

    /// Uploads the file `below` the root, has it proven, and deletes it.
    ///
    /// # Errors
    /// Where any of it fails: the local file stays.
    pub async fn publish(&self, below: &Path, key: &str) -> Result<Published, CacheError> {
        let local = |what| move |source| CacheError::Local { path: below.to_owned(), what, source };
        let (root, path) = (self.root.clone(), below.to_owned());
        let seen = blocking(move || look(&root, &path)).await.map_err(local("cannot be looked at"))?;
        let seen = seen.filter(|entry| entry.seen.kind == Kind::File);
        let seen = seen.ok_or_else(|| local("is not there, or no regular file")(io::ErrorKind::NotFound.into()))?;
        let Some(remote) = &self.remote else { return Ok(Published::Kept) };
        let (size, root, path) = (seen.seen.size_bytes, self.root.clone(), below.to_owned());
        let open = move || Ok(File::from(root.open_at(&path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?));
        let file = open().map_err(local("cannot be read"))?;
        remote.put(key, file, size).await?;
        if remote.prove(key, size, open).await? != Proof::Proven {
            return Err(CacheError::Unproven { remote: remote.name().to_owned(), key: key.to_owned() });
        }
        if is_protected(&self.config, below) || !(self.switch)() {
            return Ok(Published::Copied);
        }
        // What was written while it was on its way is another file than the one at the remote.
        let root = self.root.clone();
        let fates = blocking(move || unlink(&root, &[seen])).await;
        match fates.into_iter().next() {
            Some(Fate::Gone { .. } | Fate::Absent) => Ok(Published::Moved),
            Some(Fate::Failed(source)) => Err(local("cannot be deleted")(source)),
            Some(Fate::Changed) | None => Ok(Published::Copied),
        }
    }

    /// Brings what is at the remote under `key` to the file `below` the root, which appears whole or not at all.
    ///
    /// # Errors
    /// [`CacheError::NotFound`] where there is nothing under the key or no remote.
    pub async fn fetch(&self, key: &str, below: &Path) -> Result<u64, CacheError> {
        let not_found = |remote: &str| CacheError::NotFound { remote: remote.to_owned(), key: key.to_owned() };
        let Some(remote) = &self.remote else { return Err(not_found("any remote: the job has none")) };
        let Some(mut bytes) = remote.read(key).await? else { return Err(not_found(remote.name())) };
        let local = |what| move |source| CacheError::Local { path: below.to_owned(), what, source };
        // What a crash leaves of it is a temporary that a sweep knows.
        let millis = SystemClock.now().timestamp_millis();
        let mut name = below.as_os_str().to_owned();
        name.push(format!(".tmp.{millis}"));
        let temporary = PathBuf::from(name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
        let mut file = File::from(self.root.open_at(&temporary, flags, mode).map_err(local("cannot be written"))?);
        let mut size = 0;
        let fetched = async {
            while let Some(piece) = bytes.try_next().await? {
                size += piece.len() as u64;
                file = blocking(move || file.write_all(&piece).map(|()| file))
                    .await
                    .map_err(local("cannot be written"))?;
            }
            let (root, from, to) = (self.root.clone(), temporary.clone(), below.to_owned());
            blocking(move || {
                file.sync_all()?;
                let ((folder, from), to) = (root.parent_of(&from)?, to.file_name().unwrap_or_default());
                fs::renameat(&folder, from, &folder, to)?;
                File::from(folder).sync_all()
            })
            .await
            .map_err(local("cannot be written"))?;
            Ok(size)
        };
        let fetched = fetched.await;
        if fetched.is_err()
            && let Ok((folder, name)) = self.root.parent_of(&temporary)
        {
            let _ = fs::unlinkat(folder, name, AtFlags::empty());
        }
        fetched
    }
}
