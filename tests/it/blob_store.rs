//! The store of blobs over real folders and a real S3 server.

use std::{path::Path, process::Command, sync::Arc};

use apalis_janitor::{
    blob_store_conformance,
    blobs::{
        BlobStore, Catalog, Key, Objects, Tag,
        catalog::memory::MemoryCatalog,
        conformance::{objects::bytes, store::Subject},
        objects::folder::Folder,
    },
    clock::SystemClock,
};
use async_trait::async_trait;
use futures::TryStreamExt;
use tempfile::TempDir;

use crate::s3::Bucket;

blob_store_conformance!(memory_and_folder, World::in_a_folder(memory()));
blob_store_conformance!(memory_and_s3, World::in_s3(memory()));

/// The parts of a store, which are opened anew each time.
struct World {
    catalog: Arc<dyn Catalog>,
    temp: TempDir,
    bucket: Option<Bucket>,
}

fn memory() -> Arc<dyn Catalog> {
    Arc::new(MemoryCatalog::new(Arc::new(SystemClock)))
}

impl World {
    async fn in_a_folder(catalog: Arc<dyn Catalog>) -> Self {
        Self { catalog, temp: tempfile::tempdir().unwrap(), bucket: None }
    }

    async fn in_s3(catalog: Arc<dyn Catalog>) -> Self {
        Self { catalog, temp: tempfile::tempdir().unwrap(), bucket: Some(Bucket::make().await) }
    }

    fn root(&self) -> &Path {
        self.bucket.as_ref().map_or(self.temp.path(), |bucket| &bucket.folder)
    }
}

#[async_trait]
impl Subject for World {
    async fn open(&self) -> BlobStore {
        let objects: Arc<dyn Objects> = match &self.bucket {
            Some(bucket) => Arc::new(bucket.objects().spool_in(self.temp.path())),
            None => Arc::new(Folder::open(self.temp.path()).await.unwrap()),
        };
        BlobStore::over(Arc::clone(&self.catalog), objects).await.unwrap()
    }

    async fn damage(&self, key: &Key, bytes: &[u8]) {
        std::fs::write(self.root().join(key.path()), bytes).unwrap();
    }
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
