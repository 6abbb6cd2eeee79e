//! The store of blobs, over each catalog and each kind of objects.

use std::{
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use apalis_janitor::{
    blob_store_conformance,
    blobs::{
        BlobError, BlobStore, Catalog, Key, Objects, Tag,
        catalog::memory::MemoryCatalog,
        conformance::{objects::bytes, store::Subject},
        objects::{self, Found, Spooled, folder::Folder},
    },
    clock::SystemClock,
};
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use futures::{TryStreamExt, stream::BoxStream};
use tempfile::TempDir;

use crate::blob_home::{Bytes, Home, Who};

blob_store_conformance!(sqlite_and_folder, Home::new(Who::Sqlite, Bytes::Folder));
blob_store_conformance!(sqlite_and_s3, Home::new(Who::Sqlite, Bytes::S3));
blob_store_conformance!(postgres_and_folder, Home::new(Who::Postgres, Bytes::Folder));
blob_store_conformance!(postgres_and_s3, Home::new(Who::Postgres, Bytes::S3));

#[async_trait]
impl Subject for Home {
    async fn open(&self) -> BlobStore {
        self.over(self.catalog().await).await
    }

    async fn damage(&self, key: &Key, bytes: &[u8]) {
        std::fs::write(self.root().join(key.path()), bytes).unwrap();
    }
}

fn memory() -> Arc<dyn Catalog> {
    Arc::new(MemoryCatalog::new(Arc::new(SystemClock)))
}

/// Objects whose upload ends once the catalog has heard of its writer again.
#[derive(Debug)]
struct Slow {
    inner: Folder,
    catalog: Arc<MemoryCatalog>,
    heard_at: Mutex<Vec<DateTime<Utc>>>,
}

#[async_trait]
impl Objects for Slow {
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
        let pending = async || self.catalog.blobs(key.digest).await.map(|blobs| blobs[0].touched_at);
        let first = pending().await?;
        // Paused time may pass within a millisecond of the catalog's clock.
        self.catalog.advance(Duration::from_millis(1));
        spooled.file.as_file().set_modified(std::time::UNIX_EPOCH).unwrap();
        while pending().await? == first {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.heard_at.lock().unwrap().push(spooled.file.as_file().metadata().unwrap().modified().unwrap().into());
        self.inner.upload(spooled, key).await
    }

    async fn read(&self, key: &Key) -> Result<Option<objects::Bytes>, BlobError> {
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

#[tokio::test(start_paused = true)]
async fn a_writer_says_that_it_is_alive_while_it_uploads() {
    let temp = tempfile::tempdir().unwrap();
    let catalog = Arc::new(MemoryCatalog::new(Arc::new(SystemClock)));
    let inner = Folder::open(temp.path()).await.unwrap();
    let slow = Arc::new(Slow { inner, catalog: catalog.clone(), heard_at: Mutex::default() });
    let store = BlobStore::over(catalog, slow.clone()).await.unwrap();
    let begin = tokio::time::Instant::now();
    store.put(&b"bytes"[..], &Tag::of("slow")).await.unwrap();
    assert!((60..65).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    let touched = slow.heard_at.lock().unwrap()[0];
    assert!((touched - Utc::now()).abs() < TimeDelta::minutes(1), "the spooled file is of {touched}");
}

#[tokio::test(start_paused = true)]
async fn a_writer_says_that_it_is_alive_while_its_content_is_silent() {
    let temp = tempfile::tempdir().unwrap();
    let objects = Arc::new(Folder::open(temp.path()).await.unwrap());
    let store = BlobStore::over(memory(), objects.clone()).await.unwrap();
    let (mut sends, receives) = tokio::io::duplex(64);
    let tag = Tag::of("slow");
    let send = async {
        let spooled = loop {
            let file = std::fs::read_dir(objects.spool()).unwrap().next();
            if let Some(file) = file {
                break file.unwrap().path();
            }
            tokio::task::yield_now().await;
        };
        // The threads of the put wait for its content: time does not pass by itself.
        let file = std::fs::File::options().write(true).open(&spooled).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        let before = Utc::now() - TimeDelta::minutes(1);
        // The put may not have got as far as to wait.
        while DateTime::<Utc>::from(file.metadata().unwrap().modified().unwrap()) < before {
            tokio::time::advance(Duration::from_secs(30)).await;
        }
        assert_eq!(objects.clean(before, true).await.unwrap(), 0, "it is in use");
        tokio::io::AsyncWriteExt::write_all(&mut sends, b"bytes").await.unwrap();
        drop(sends);
    };
    let (put, ()) = tokio::join!(store.put(receives, &tag), send);
    assert_eq!(put.unwrap().size, 5);
}

/// A disk of a few MiB. It goes when this is dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(folder.path()).status();
        assert!(mounted.is_ok_and(|status| status.success()), "this test needs root: it mounts a small disk");
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_leaves_nothing() {
    let disk = SmallDisk::mount("size=8m");
    let objects = Arc::new(Folder::open(disk.0.path().join("blobs")).await.unwrap());
    let store = BlobStore::over(memory(), objects.clone()).await.unwrap();
    let small = bytes(1, 1 << 20);
    let before = store.put(small.as_slice(), &Tag::of("before")).await.unwrap();
    let error = store.put(bytes(2, 20 << 20).as_slice(), &Tag::of("large")).await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(error.to_string(), format!("{}: spool", objects.name()));
    assert!(source.contains("No space left on device"), "{source}");
    assert_eq!(std::fs::read_dir(objects.spool()).unwrap().count(), 0);
    assert_eq!(store.catalog().totals().await.unwrap().blobs(), 1);
    store.put(bytes(3, 1 << 20).as_slice(), &Tag::of("after")).await.unwrap();
    let got = store.get(before.digest).await.unwrap().try_collect::<Vec<_>>().await.unwrap().concat();
    assert!(got == small, "what was there is whole");
}
