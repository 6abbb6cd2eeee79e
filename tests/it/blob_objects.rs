//! The answers to the seam of a blob store's bytes, on a real folder and a real S3 server.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use apalis_janitor::{
    blobs::{
        BlobError, Key, Objects,
        conformance::objects::Subject,
        objects::{folder::Folder, s3::S3},
    },
    config::ObjectsUrl,
    objects_conformance,
};
use async_trait::async_trait;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use tempfile::TempDir;

use crate::{redis::free_port, s3::Bucket};

objects_conformance!(folder, async { in_a_folder() });
objects_conformance!(s3, in_s3());

struct InFolder {
    temp: TempDir,
}

impl InFolder {
    fn root(&self) -> PathBuf {
        self.temp.path().join("blobs")
    }
}

fn in_a_folder() -> InFolder {
    InFolder { temp: tempfile::tempdir().unwrap() }
}

#[async_trait]
impl Subject for InFolder {
    async fn open(&self) -> Result<Arc<dyn Objects>, BlobError> {
        Ok(Arc::new(Folder::open(self.root()).await?))
    }

    async fn plant(&self, path: &str, bytes: &[u8]) {
        plant(&self.root().join(path), bytes);
    }

    async fn hold(&self, key: &Key) {
        hold(&self.root().join(key.path()), true);
    }

    async fn let_go(&self, key: &Key) {
        hold(&self.root().join(key.path()), false);
    }
}

struct InS3 {
    bucket: Bucket,
    spool: TempDir,
}

async fn in_s3() -> InS3 {
    InS3 { bucket: Bucket::make().await, spool: tempfile::tempdir().unwrap() }
}

#[async_trait]
impl Subject for InS3 {
    async fn open(&self) -> Result<Arc<dyn Objects>, BlobError> {
        Ok(Arc::new(self.bucket.objects().spool_in(self.spool.path())))
    }

    async fn plant(&self, path: &str, bytes: &[u8]) {
        plant(&self.bucket.folder.join(path), bytes);
    }

    async fn hold(&self, key: &Key) {
        hold(&self.bucket.folder.join(key.path()), true);
    }

    async fn let_go(&self, key: &Key) {
        hold(&self.bucket.folder.join(key.path()), false);
    }
}

fn plant(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Makes a file one that nobody can delete, or ends that.
pub fn hold(path: &Path, is_held: bool) {
    let file = std::fs::File::open(path).unwrap();
    let mut flags = ioctl_getflags(&file).unwrap();
    flags.set(IFlags::IMMUTABLE, is_held);
    ioctl_setflags(&file, flags).expect("root may make a file immutable");
}

#[tokio::test]
async fn a_folder_is_made_where_it_is_missing_and_a_file_is_refused() {
    let world = in_a_folder();
    let deep = world.root().join("a/b");
    Folder::open(&deep).await.unwrap();
    assert!(deep.is_dir());
    let file = world.root().join("file");
    std::fs::write(&file, "").unwrap();
    for no_folder in [file.clone(), file.join("below")] {
        let error = Folder::open(&no_folder).await.unwrap_err();
        let text = format!("file://{}: is no blob store: it is no folder", no_folder.display());
        assert!(matches!(&error, BlobError::Refused(refused) if *refused == text), "{error:?}");
    }
}

#[tokio::test]
async fn a_foreign_folder_is_left_as_it_was() {
    let world = in_a_folder();
    plant(&world.root().join("photos/1.jpg"), b"x");
    let error = Folder::open(world.root()).await.unwrap_err().to_string();
    assert!(error.ends_with(r#"is no blob store: it has "photos" in it and no janitor-store"#), "{error}");
    let left = std::fs::read_dir(world.root()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["photos"]);
}

#[tokio::test]
async fn the_root_of_a_new_disk_will_do() {
    let world = in_a_folder();
    std::fs::create_dir_all(world.root().join("lost+found")).unwrap();
    assert_eq!(Folder::open(world.root()).await.unwrap().identity().await.unwrap(), None);
}

#[tokio::test]
async fn a_folder_in_the_place_of_an_object_is_not_ours() {
    let world = in_a_folder();
    let objects = Folder::open(world.root()).await.unwrap();
    let path = format!("07/{}.01ARZ3NDEKTSV4RRFFQ69G5FAV", "07".repeat(32));
    std::fs::create_dir_all(world.root().join(&path)).unwrap();
    let pages = futures::TryStreamExt::try_collect::<Vec<_>>(objects.list(7)).await.unwrap().concat();
    assert_eq!(pages.iter().map(|found| (&found.path, found.key)).collect::<Vec<_>>(), [(&path, None)]);
}

/// The error with all of its causes.
fn whole(error: &dyn std::error::Error) -> String {
    let texts = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string);
    texts.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn wrong_credentials_are_told_at_once_and_without_the_secret() {
    let bucket = Bucket::make().await;
    let begin = std::time::Instant::now();
    let (url, secret) = (&bucket.url, "a-wrong-secret");
    for (key_id, code) in [(bucket.key_id.as_str(), "SignatureDoesNotMatch"), ("nobody", "XAdminUserNotFound")] {
        let error = whole(&S3::with_credentials(url, key_id, secret).unwrap().identity().await.unwrap_err());
        assert!(error.contains(&url.to_string()) && error.contains("127.0.0.1") && error.contains(code), "{error}");
        assert!(!error.contains(secret) && !error.contains(&bucket.secret), "{error}");
    }
    assert!(begin.elapsed().as_secs() < 5, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_dead_server_and_a_missing_bucket_are_told_with_their_url() {
    let bucket = Bucket::make().await;
    let ObjectsUrl::S3 { endpoint, prefix, .. } = bucket.url.clone() else { unreachable!() };
    let url = |bucket: &str, endpoint| ObjectsUrl::S3 {
        bucket: bucket.to_owned(),
        prefix: prefix.clone(),
        endpoint,
        region: None,
    };
    let dead = format!("http://127.0.0.1:{}", free_port());
    for (url, says) in
        [(url("no-such-bucket", endpoint), "NoSuchBucket"), (url("any-bucket", Some(dead)), "Connection refused")]
    {
        let objects = S3::with_credentials(&url, &bucket.key_id, &bucket.secret).unwrap();
        let error = tokio::time::timeout(std::time::Duration::from_secs(30), objects.identity());
        let error = whole(&error.await.expect("an answer soon").unwrap_err());
        assert!(error.contains(&url.to_string()) && error.contains(says), "{error}");
    }
}
