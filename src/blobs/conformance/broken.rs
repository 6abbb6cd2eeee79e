//! Contents and objects that fail, for the suite of the store.

use std::{
    io,
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use futures::stream::BoxStream;
use tokio::io::{AsyncRead, ReadBuf};

use crate::blobs::{
    BlobError, Catalog, Key, Objects,
    catalog::Cutoffs,
    objects::{Bytes, Found, Spooled},
};

/// A content that fails when it is read.
pub(super) struct ReadsThenFails;

impl AsyncRead for ReadsThenFails {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::Error::other("the line is dead")))
    }
}

/// What goes wrong with an upload.
#[derive(Debug)]
pub(super) enum Way {
    /// Nothing arrives.
    Fails,
    /// A sweeper takes the pending blob meanwhile, this many times.
    Fenced(Arc<dyn Catalog>, u32),
}

/// Objects whose uploads go wrong.
#[derive(Debug)]
pub(super) struct Broken {
    inner: Arc<dyn Objects>,
    way: Way,
    uploads: AtomicU32,
}

impl Broken {
    pub(super) fn new(inner: Arc<dyn Objects>, way: Way) -> Self {
        Self { inner, way, uploads: AtomicU32::new(0) }
    }

    /// How many were tried.
    pub(super) fn uploads(&self) -> u32 {
        self.uploads.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Objects for Broken {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn spool(&self) -> &Path {
        self.inner.spool()
    }

    async fn identity(&self) -> Result<Option<String>, BlobError> {
        self.inner.identity().await
    }

    async fn mark(&self, identity: &str) -> Result<String, BlobError> {
        self.inner.mark(identity).await
    }

    async fn upload(&self, spooled: &Spooled, key: &Key) -> Result<(), BlobError> {
        let before = self.uploads.fetch_add(1, Ordering::SeqCst);
        match &self.way {
            Way::Fails => return Err(BlobError::unavailable(self.name(), "store", "the disk is full")),
            Way::Fenced(catalog, times) if before < *times => {
                let soon = catalog.now().await? + TimeDelta::minutes(1);
                let cutoffs = Cutoffs { unreferenced: soon, pending: soon, retry: soon };
                let due = catalog.due(cutoffs, None, 100).await?;
                catalog.claim(&due, cutoffs).await?;
            }
            Way::Fenced(..) => {}
        }
        self.inner.upload(spooled, key).await
    }

    async fn read(&self, key: &Key) -> Result<Option<Bytes>, BlobError> {
        self.inner.read(key).await
    }

    async fn size(&self, key: &Key) -> Result<Option<u64>, BlobError> {
        self.inner.size(key).await
    }

    async fn delete(&self, keys: &[Key]) -> Vec<Result<(), BlobError>> {
        self.inner.delete(keys).await
    }

    fn list(&self, shard: u8) -> BoxStream<'_, Result<Vec<Found>, BlobError>> {
        self.inner.list(shard)
    }

    async fn clean(&self, before: DateTime<Utc>, leave: bool) -> Result<u64, BlobError> {
        self.inner.clean(before, leave).await
    }
}
