//! Objects in a local folder.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::{StreamExt, stream, stream::BoxStream};

use super::{Bytes, Found, Objects, Spooled};
use crate::blobs::{
    BlobError, Key,
    spool::{self, blocking, unless_absent},
};

/// The file in the root that names the catalog.
const MARKER: &str = "janitor-store";
/// The folder in the root for streams that have not come to their end.
const SPOOL: &str = "tmp";
/// What may lie in the root of a folder that is not marked: our spool, and what a new disk has.
const NEW_ROOT: [&str; 2] = [SPOOL, "lost+found"];
/// How many bytes are read in one go.
const PIECE: usize = 1 << 20;
/// The most objects in a page.
const PAGE: usize = 1_000;
/// How many threads unlink what one delete names.
const UNLINKING: usize = 4;

/// Objects as files `aa/<sha256>.<id>` below a root, beside `tmp`, the spool, and `janitor-store`, which names the catalog.
///
/// What is deleted is not synced: after a power cut it may be there again, and an inventory finds it. Files are
/// readable by their owner only: all programs that use a folder run as one user.
///
/// ```
/// use apalis_janitor::blobs::objects::{Objects, folder::Folder};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # let temp = tempfile::tempdir().unwrap();
/// let objects = Folder::open(temp.path().join("blobs")).await?;
/// assert_eq!(objects.identity().await?, None);
/// # Ok::<_, apalis_janitor::blobs::BlobError>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Folder {
    name: String,
    root: Arc<PathBuf>,
    spool: PathBuf,
    /// For each shard, whether this process has seen its folder durable.
    durable: Arc<[AtomicBool; 256]>,
}

impl Folder {
    /// The objects below `root`, which is made where it is missing.
    ///
    /// # Errors
    /// [`BlobError::Refused`] where it is no folder, or one with other things in it.
    pub async fn open(root: impl Into<PathBuf>) -> Result<Self, BlobError> {
        let root = root.into();
        let name = format!("file://{}", root.display());
        let spool = root.join(SPOOL);
        let durable = Arc::new([const { AtomicBool::new(false) }; 256]);
        let this = Self { name, root: Arc::new(root), spool, durable };
        let root = Arc::clone(&this.root);
        blocking(move || make(&root)).await.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => this.refused("it is no folder"),
            _ => this.failed("make the folder", error),
        })?;
        // Nothing is made in a folder that is somebody else's.
        this.identity().await?;
        let spool = this.spool.clone();
        blocking(move || make(&spool)).await.map_err(|error| this.failed("make the spool", error))?;
        Ok(this)
    }

    fn failed(&self, what: &'static str, error: io::Error) -> BlobError {
        BlobError::unavailable(&self.name, what, error)
    }

    fn refused(&self, why: &str) -> BlobError {
        BlobError::Refused(format!("{}: is no blob store: {why}", self.name))
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.path())
    }

    fn unlink(&self, key: &Key) -> io::Result<()> {
        unless_absent(fs::remove_file(self.path(key))).map(drop).map_err(|error| named(&error, key))
    }

    /// Puts the file under the key, synced but for the folder that its name is in.
    fn link(&self, file: &File, path: &Path, size: u64, key: &Key) -> io::Result<()> {
        if file.metadata()?.len() != size {
            return Err(io::Error::other(format!("{} is not whole in the spool", path.display())));
        }
        file.sync_all()?;
        let target = self.path(key);
        let linked = match fs::hard_link(path, &target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make(parent(&target))?;
                fs::hard_link(path, &target)
            }
            linked => linked,
        };
        let stored = match linked {
            Err(error) if has_no_links(&error) => copy(path, &self.spool, &target),
            linked => linked,
        };
        stored.map_err(|error| named(&error, key))?;
        match fs::symlink_metadata(&target)?.len() {
            found if found == size => Ok(()),
            found => Err(io::Error::other(format!("{key} has {found} bytes in place of {size}"))),
        }
    }

    fn sync_names(&self, key: &Key) -> io::Result<()> {
        sync_folder(parent(&self.path(key)))?;
        // Another process may have made the shard's folder and not synced it yet.
        let durable = &self.durable[usize::from(key.digest.shard())];
        if !durable.load(Ordering::Acquire) {
            sync_folder(&self.root)?;
            durable.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// One page of what lies in a shard's folder.
    fn page(&self, shard: u8, names: &[std::ffi::OsString]) -> io::Result<Vec<Found>> {
        let mut page = Vec::with_capacity(names.len());
        for name in names {
            let path = format!("{shard:02x}/{}", name.to_string_lossy());
            // A sweeper may have deleted it meanwhile.
            let file = self.root.join(format!("{shard:02x}")).join(name);
            let Some(metadata) = unless_absent(fs::symlink_metadata(file))? else { continue };
            // A folder or a link is nothing that we have made.
            let key = Key::of_path(&path).filter(|_| metadata.is_file());
            page.push(Found { path, key, size: metadata.len(), modified: metadata.modified()?.into() });
        }
        Ok(page)
    }
}

#[async_trait]
impl Objects for Folder {
    fn name(&self) -> &str {
        &self.name
    }

    fn spool(&self) -> &Path {
        &self.spool
    }

    /// The spooled file becomes the object.
    fn is_spool_durable(&self) -> bool {
        true
    }

    async fn identity(&self) -> Result<Option<String>, BlobError> {
        let root = Arc::clone(&self.root);
        let looked = blocking(move || {
            let marker = || unless_absent(fs::read_to_string(root.join(MARKER)));
            if let Some(text) = marker()? {
                return Ok((Some(text), None));
            }
            let other = other_thing(&root)?;
            // Another process may have marked it between the two looks.
            Ok(if other.is_some() { (marker()?, other) } else { (None, None) })
        });
        match looked.await.map_err(|error| self.failed("read the marker", error))? {
            (Some(text), _) if text.trim().is_empty() => Err(self.refused(&format!("its {MARKER} is empty"))),
            (Some(text), _) => Ok(Some(text.trim().to_owned())),
            (None, Some(other)) => Err(self.refused(&format!("it has {other} in it and no {MARKER}"))),
            (None, None) => Ok(None),
        }
    }

    async fn mark(&self, identity: &str) -> Result<String, BlobError> {
        if let Some(theirs) = self.identity().await? {
            return Ok(theirs);
        }
        let (root, spool, text) = (Arc::clone(&self.root), self.spool.clone(), format!("{identity}\n"));
        let marked = blocking(move || {
            let mut file = spool::new_file(&spool)?;
            file.write_all(text.as_bytes())?;
            file.as_file().sync_all()?;
            match file.persist_noclobber(root.join(MARKER)).map_err(|error| error.error) {
                // Another process was first.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                marked => drop(marked?),
            }
            sync_folder(&root)?;
            fs::read_to_string(root.join(MARKER))
        });
        let text = marked.await.map_err(|error| self.failed("mark", error))?;
        Ok(text.trim().to_owned())
    }

    async fn upload(&self, spooled: &Spooled, key: &Key) -> Result<(), BlobError> {
        let file = spooled.file.as_file().try_clone().map_err(|error| self.failed("store", error))?;
        let (this, path, size, key) = (self.clone(), spooled.file.path().to_owned(), spooled.size, *key);
        let stored = blocking(move || {
            this.link(&file, &path, size, &key)?;
            this.sync_names(&key)
        });
        stored.await.map_err(|error| self.failed("store", error))
    }

    async fn read(&self, key: &Key) -> Result<Option<Bytes>, BlobError> {
        let path = self.path(key);
        let opened = blocking(move || unless_absent(File::open(path))).await;
        let Some(file) = opened.map_err(|error| self.failed("read", error))? else { return Ok(None) };
        Ok(Some(pieces(file, self.name.clone())))
    }

    async fn size(&self, key: &Key) -> Result<Option<u64>, BlobError> {
        let path = self.path(key);
        let found = blocking(move || unless_absent(fs::symlink_metadata(path))).await;
        Ok(found.map_err(|error| self.failed("look for", error))?.map(|metadata| metadata.len()))
    }

    async fn delete(&self, keys: &[Key]) -> Vec<Result<(), BlobError>> {
        let part = keys.len().div_ceil(UNLINKING).max(1);
        let unlink = |keys: &[Key]| {
            let (this, keys) = (self.clone(), keys.to_vec());
            blocking(move || Ok(keys.iter().map(|key| this.unlink(key)).collect::<Vec<_>>()))
        };
        let parts = futures::future::join_all(keys.chunks(part).map(unlink)).await;
        let answers = parts.into_iter().zip(keys.chunks(part)).flat_map(|(answers, keys)| {
            answers.unwrap_or_else(|error| {
                let text = error.to_string();
                keys.iter().map(|_| Err(io::Error::other(text.clone()))).collect()
            })
        });
        answers.map(|answer| answer.map_err(|error| self.failed("delete", error))).collect()
    }

    fn list(&self, shard: u8) -> BoxStream<'_, Result<Vec<Found>, BlobError>> {
        let failed = |error| self.failed("list", error);
        let pages = stream::once(async move {
            let folder = self.root.join(format!("{shard:02x}"));
            let names = blocking(move || names(&folder)).await.map_err(failed)?;
            let pages = names.chunks(PAGE).map(<[_]>::to_vec).collect::<Vec<_>>();
            let page = move |names: Vec<_>| async move {
                let this = self.clone();
                blocking(move || this.page(shard, &names)).await.map_err(failed)
            };
            Ok::<_, BlobError>(stream::iter(pages).then(page))
        });
        futures::TryStreamExt::try_flatten(pages).boxed()
    }

    async fn clean(&self, before: DateTime<Utc>, leave: bool) -> Result<u64, BlobError> {
        let spool = self.spool.clone();
        blocking(move || spool::clean(&spool, before, leave))
            .await
            .map_err(|error| self.failed("clean the spool", error))
    }
}

/// Something in the root that a new store does not have.
fn other_thing(root: &Path) -> io::Result<Option<String>> {
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name();
        if !NEW_ROOT.iter().any(|new| name == *new) {
            return Ok(Some(format!("{:?}", name.to_string_lossy())));
        }
    }
    Ok(None)
}

/// What lies in a shard's folder, by name.
fn names(folder: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let Some(entries) = unless_absent(fs::read_dir(folder))? else { return Ok(Vec::new()) };
    let mut names = entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

/// Makes a folder and those above it, durably.
fn make(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Ok(()) => sync_folder(parent(folder)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && folder.parent().is_some() => {
            make(parent(folder))?;
            make(folder)
        }
        Err(error) => Err(error),
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Whether the file system lacks hard links.
fn has_no_links(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let lacks = [Errno::PERM, Errno::NOTSUP, Errno::OPNOTSUPP, Errno::MLINK, Errno::XDEV, Errno::NOSYS];
    error.raw_os_error().is_some_and(|code| lacks.iter().any(|lack| lack.raw_os_error() == code))
}

/// What a hard link does, where there are none: create-only, and never visible in part.
fn copy(from: &Path, spool: &Path, target: &Path) -> io::Result<()> {
    let mut file = spool::new_file(spool)?;
    io::copy(&mut File::open(from)?, &mut file)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(target).map(drop).map_err(|error| error.error)
}

fn named(error: &io::Error, key: &Key) -> io::Error {
    io::Error::new(error.kind(), format!("{key}: {error}"))
}

/// The bytes of a file, from where it stands; `name` is what an error names.
pub(in crate::blobs) fn pieces(file: File, name: String) -> Bytes {
    let pieces = stream::try_unfold((file, name), |(file, name)| async move {
        match blocking(move || piece(file)).await {
            Ok(Some((piece, file))) => Ok(Some((piece, (file, name)))),
            Ok(None) => Ok(None),
            Err(error) => Err(BlobError::unavailable(name, "read", error)),
        }
    });
    pieces.boxed()
}

fn piece(mut file: File) -> io::Result<Option<(bytes::Bytes, File)>> {
    let mut piece = Vec::with_capacity(PIECE);
    let read = (&mut file).take(PIECE as u64).read_to_end(&mut piece)?;
    Ok((read > 0).then(|| (piece.into(), file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_create_only_and_leaves_nothing_in_the_spool() {
        let temp = tempfile::tempdir().unwrap();
        let (spool, from, target) = (temp.path().join("tmp"), temp.path().join("from"), temp.path().join("to"));
        fs::create_dir(&spool).unwrap();
        fs::write(&from, "bytes").unwrap();
        copy(&from, &spool, &target).unwrap();
        fs::write(&from, "other").unwrap();
        assert_eq!(copy(&from, &spool, &target).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!((fs::read_to_string(&target).unwrap(), names(&spool).unwrap()), ("bytes".to_owned(), Vec::new()));
    }

    #[test]
    fn a_folder_is_made_with_those_above_it() {
        let temp = tempfile::tempdir().unwrap();
        let deep = temp.path().join("a/b/c");
        make(&deep).unwrap();
        make(&deep).unwrap();
        assert!(deep.is_dir());
        let file = temp.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(make(&file).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(make(&file.join("x")).unwrap_err().kind(), io::ErrorKind::NotADirectory);
    }
}
