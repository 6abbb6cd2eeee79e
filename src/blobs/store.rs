//! Puts, reads and refers.

use std::{convert::Infallible, sync::Arc};

use futures::{StreamExt, TryStreamExt, stream};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::AsyncRead,
    select,
    sync::OnceCell,
    time::{Instant, interval_at},
};

use super::{
    Blob, BlobError, BlobId, Catalog, Digest, Key, Objects, Ref, Released, State, Tag,
    catalog::{Begun, Committed, Filter},
    objects::{Bytes, Spooled},
    spool::{self, TOUCH_EVERY},
};
use crate::config::BlobsConfig;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use crate::{blobs::objects::folder::Folder, config::ObjectsUrl};

/// How often a put begins, where sweepers take its blob for abandoned.
const TRIES_MAX: usize = 5;
/// How often a live blob is looked for, where its bytes are swept between the looks.
const LOOKS_MAX: usize = 2;
/// The most refs that [`BlobStore::stat`] answers.
pub const STAT_REFS_MAX: usize = 1_000;

/// A catalog and the objects that belong to it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct BlobStore {
    catalog: Arc<dyn Catalog>,
    objects: Arc<dyn Objects>,
    /// Set once the objects are known to be marked as the catalog's.
    is_marked: Arc<OnceCell<()>>,
}

/// What came of putting bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    /// Their SHA-256.
    pub digest: Digest,
    /// How many there are.
    pub size: u64,
    /// The blob that they are in.
    pub id: BlobId,
    /// Whether they were there already.
    pub is_shared: bool,
}

/// What a catalog knows of a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its blobs, the live one first.
    pub blobs: Vec<Blob>,
    /// The first [`STAT_REFS_MAX`] refs to them, the oldest first.
    pub refs: Vec<Ref>,
}

impl BlobStore {
    /// A store over these parts, which must belong together or be new.
    ///
    /// # Errors
    /// [`BlobError::Refused`] where the objects are another catalog's.
    pub async fn over(catalog: Arc<dyn Catalog>, objects: Arc<dyn Objects>) -> Result<Self, BlobError> {
        let this = Self { catalog, objects, is_marked: Arc::default() };
        if let Some(theirs) = this.objects.identity().await? {
            this.compare(&theirs)?;
        }
        Ok(this)
    }

    /// Opens the store that the configuration describes; a folder and a SQLite file are made where they are missing.
    ///
    /// # Errors
    /// [`BlobError::Unavailable`] where a part of it cannot be reached, [`BlobError::Refused`] where they do not belong
    /// together, or a folder has other things in it.
    #[cfg(any(feature = "sqlite", feature = "postgres"))]
    pub async fn open(config: &BlobsConfig) -> Result<Self, BlobError> {
        let objects: Arc<dyn Objects> = match &config.objects {
            ObjectsUrl::Folder(path) => Arc::new(Folder::open(path).await?),
            #[cfg(feature = "s3")]
            url @ ObjectsUrl::S3 { .. } => Arc::new(super::objects::s3::S3::open(url)?),
            #[cfg(not(feature = "s3"))]
            ObjectsUrl::S3 { .. } => return Err(BlobError::without("s3")),
        };
        let catalog = super::catalog::SqlCatalog::open(&config.catalog).await?;
        Self::over(Arc::new(catalog), objects).await
    }

    /// Opens the store that the configuration describes.
    ///
    /// # Errors
    /// Always: no catalog has been compiled in.
    #[cfg(not(any(feature = "sqlite", feature = "postgres")))]
    #[expect(clippy::unused_async, reason = "the same signature as with the features")]
    pub async fn open(_: &BlobsConfig) -> Result<Self, BlobError> {
        Err(BlobError::without("sqlite"))
    }

    /// Who refers to what.
    #[must_use]
    pub fn catalog(&self) -> &Arc<dyn Catalog> {
        &self.catalog
    }

    /// The bytes.
    #[must_use]
    pub fn objects(&self) -> &Arc<dyn Objects> {
        &self.objects
    }

    /// Stores the bytes, where they are not there, and lets the task refer to them. When it answers they are durable.
    ///
    /// Memory does not grow with the content, and nothing can be seen of it before its end. What a put that is dropped
    /// leaves behind is swept.
    ///
    /// # Errors
    /// [`BlobError::Invalid`] for a tag that breaks a rule, [`BlobError::Closed`] where the attempt is over,
    /// [`BlobError::Refused`] where the objects are another catalog's, and [`BlobError::Unavailable`] where the content, the
    /// disk or a server fails: then the same put may succeed later.
    pub async fn put(&self, content: impl AsyncRead + Send + Unpin, tag: &Tag) -> Result<Put, BlobError> {
        tag.check()?;
        let spooled = spool::spool(content, &*self.objects).await?;
        self.is_marked.get_or_try_init(|| self.mark()).await?;
        let Spooled { digest, size, .. } = spooled;
        for _ in 0..TRIES_MAX {
            let id = match self.catalog.begin(digest, size, tag).await? {
                Begun::Shared(id) => return Ok(Put { digest, size, id, is_shared: true }),
                Begun::Upload(id) => id,
            };
            if let Err(error) = self.upload(&spooled, id, tag).await {
                // A sweep does it where this fails too.
                let _ = self.catalog.give_up(id).await;
                return Err(error);
            }
            match self.catalog.commit(id, digest, tag).await? {
                Committed::Live => return Ok(Put { digest, size, id, is_shared: false }),
                Committed::Shared(id) => return Ok(Put { digest, size, id, is_shared: true }),
                // What was uploaded is left to the sweeper: an answer that came late must not cost live bytes.
                Committed::Fenced => {}
            }
        }
        let why = format!("sweepers took the blob for abandoned {TRIES_MAX} times: is a host's clock wrong?");
        Err(BlobError::unavailable(self.catalog.name(), "put", why))
    }

    /// The bytes of a digest, compared with it as they pass: where they are not those the last item is an error.
    ///
    /// # Errors
    /// [`BlobError::NotFound`] where no live blob is, [`BlobError::Damaged`] where it has lost its bytes.
    pub async fn get(&self, digest: Digest) -> Result<Bytes, BlobError> {
        for _ in 0..LOOKS_MAX {
            let blobs = self.catalog.blobs(digest).await?;
            let blob = blobs.into_iter().find(|blob| blob.state == State::Live).ok_or(BlobError::NotFound(digest))?;
            if let Some(bytes) = self.objects.read(&blob.key()).await? {
                return Ok(compared(bytes, blob.digest, blob.size));
            }
        }
        Err(lost(digest))
    }

    /// Reads a live blob and compares it with its digest.
    ///
    /// # Errors
    /// [`BlobError::Damaged`] where it is another or is not there. Whoever finds that asks again whether it still is live.
    pub async fn verify(&self, blob: &Blob) -> Result<(), BlobError> {
        let bytes = self.objects.read(&blob.key()).await?.ok_or_else(|| lost(blob.digest))?;
        compared(bytes, blob.digest, blob.size).try_for_each(async |_| Ok(())).await
    }

    /// What is known of a digest.
    pub async fn stat(&self, digest: Digest) -> Result<Stat, BlobError> {
        let blobs = self.catalog.blobs(digest).await?;
        Ok(Stat { blobs, refs: self.catalog.refs(digest, STAT_REFS_MAX).await? })
    }

    /// Makes final what `task` put in `attempt`, and releases its lower attempts; see [`Catalog::finalize`].
    pub async fn finalize(&self, task: &str, attempt: u32) -> Result<u64, BlobError> {
        self.catalog.finalize(task, attempt).await
    }

    /// The attempt and lower ones have failed; see [`Catalog::release`].
    pub async fn release(&self, task: &str, attempt: u32) -> Result<Released, BlobError> {
        self.catalog.release(task, attempt).await
    }

    /// The task is alive, though it puts nothing; `false` where it is not known.
    pub async fn touch(&self, task: &str) -> Result<bool, BlobError> {
        self.catalog.touch(task).await
    }

    /// Drops all refs of `task` to a digest; see [`Catalog::delete`].
    pub async fn delete(&self, task: &str, digest: Digest) -> Result<Released, BlobError> {
        self.catalog.delete(task, digest).await
    }

    /// Up to `limit` refs, those behind `after`.
    pub async fn list(&self, filter: &Filter, after: Option<&Ref>, limit: usize) -> Result<Vec<Ref>, BlobError> {
        self.catalog.list(filter, after, limit).await
    }

    /// Whether the objects may be written to and deleted from.
    ///
    /// # Errors
    /// [`BlobError::Refused`] where the catalog has blobs among them and they are not marked, as where a volume is not
    /// mounted. Reads the whole catalog then.
    pub async fn guard(&self) -> Result<(), BlobError> {
        if self.objects.identity().await?.is_some() {
            return Ok(());
        }
        let totals = self.catalog.totals().await?;
        match totals.live + totals.deleting {
            0 => Ok(()),
            blobs => Err(BlobError::Refused(format!(
                "{} is empty, and its catalog has {blobs} blobs: is the volume mounted, is it the right bucket?",
                self.objects.name()
            ))),
        }
    }

    async fn mark(&self) -> Result<(), BlobError> {
        self.guard().await?;
        let theirs = self.objects.mark(self.catalog.identity()).await?;
        self.compare(&theirs)
    }

    fn compare(&self, theirs: &str) -> Result<(), BlobError> {
        let (objects, catalog, ours) = (self.objects.name(), self.catalog.name(), self.catalog.identity());
        if theirs == ours {
            return Ok(());
        }
        let what = format!("{objects} belongs to another catalog ({theirs}) than {catalog} ({ours})");
        Err(BlobError::Refused(what))
    }

    /// Step 2. Whether the blob still is ours is said by step 3.
    async fn upload(&self, spooled: &Spooled, id: BlobId, tag: &Tag) -> Result<(), BlobError> {
        let key = Key { digest: spooled.digest, id };
        select! {
            uploaded = self.objects.upload(spooled, &key) => uploaded,
            never = self.stay(spooled, id, tag) => match never {},
        }
    }

    /// Says again and again that this writer is alive.
    async fn stay(&self, spooled: &Spooled, id: BlobId, tag: &Tag) -> Infallible {
        let mut alive = interval_at(Instant::now() + TOUCH_EVERY, TOUCH_EVERY);
        loop {
            alive.tick().await;
            // One that is missed does no harm, and the catalog may be back for the next.
            let _ = spool::touch(&spooled.file);
            let _ = self.catalog.touch_pending(id, tag).await;
        }
    }
}

fn lost(digest: Digest) -> BlobError {
    BlobError::Damaged { digest, what: "its object is not there".to_owned() }
}

/// The bytes, and an error at their end where they are not those of the digest.
fn compared(bytes: Bytes, digest: Digest, size: u64) -> Bytes {
    let start = Some((bytes, Sha256::new(), 0));
    let compared = stream::unfold(start, move |state| async move {
        let (mut bytes, mut hash, mut seen) = state?;
        match bytes.next().await {
            Some(Ok(piece)) => {
                hash.update(&piece);
                seen += piece.len() as u64;
                Some((Ok(piece), Some((bytes, hash, seen))))
            }
            Some(Err(error)) => Some((Err(error), None)),
            None => {
                let found = Digest::new(hash.finalize().into());
                let what = match found == digest {
                    true if seen == size => return None,
                    true => format!("{seen} bytes in place of {size}"),
                    false => format!("its {seen} bytes of {size} hash to {found}"),
                };
                Some((Err(BlobError::Damaged { digest, what }), None))
            }
        }
    });
    compared.boxed()
}
