//! What every answer to [`Objects`] promises: [`objects_conformance!`](crate::objects_conformance) writes one test per case.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a suite fails by panicking")]

use std::{collections::BTreeSet, io::Write, sync::Arc};

use async_trait::async_trait;
use chrono::{TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use crate::blobs::{
    BlobError, BlobId, Digest, Key, Objects,
    objects::{Found, Spooled},
};

/// Sizes around a piece, and one above what is put with one request.
const SIZES: [usize; 6] = [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 20 << 20];
/// Both sides of what is put with one request.
const SMALL_AND_LARGE: [usize; 2] = [3, 20 << 20];
/// How far the clock of whoever stores the objects may be from ours.
const SKEW: TimeDelta = TimeDelta::minutes(5);
/// The most that a page of a list has.
const PAGE: usize = 1_000;

/// One answer with its own empty objects, and what others do to them.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The objects, opened anew.
    async fn open(&self) -> Result<Arc<dyn Objects>, BlobError>;

    /// Writes something under a path from the root, as somebody else would.
    async fn plant(&self, path: &str, bytes: &[u8]);

    /// Makes the object under this key one that cannot be deleted.
    async fn hold(&self, key: &Key);

    /// The end of a [`hold`](Self::hold).
    async fn let_go(&self, key: &Key);
}

/// Writes one `#[tokio::test]` for each promise of the suite, in a module of the given name.
///
/// The expression is a future of a [`Subject`](crate::blobs::conformance::objects::Subject).
#[macro_export]
macro_rules! objects_conformance {
    ($answer:ident, $subject:expr) => {
        $crate::objects_conformance! { @cases $answer, $subject;
            reads_back_what_was_stored_of_any_size
            stores_the_same_bytes_under_another_key
            stores_nothing_under_a_key_that_has_an_object
            stores_one_of_many_at_once_under_one_key
            stores_nothing_where_the_spool_lacks_bytes
            answers_none_for_what_is_not_there
            deletes_what_is_there_and_what_is_not
            deletes_nothing_where_nothing_is_asked
            deletes_the_others_where_one_cannot_be_deleted
            lists_one_shard_with_foreign_names
            lists_in_pages
            is_marked_once_and_for_all
            is_marked_once_by_many
            refuses_a_place_with_other_things_in_it
            refuses_objects_that_have_lost_their_marker
            cleans_old_spooled_files_only
        }
    };
    (@cases $answer:ident, $subject:expr; $($case:ident)*) => {
        mod $answer {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $case() {
                    $crate::blobs::conformance::objects::$case(&$subject.await).await;
                }
            )*
        }
    };
}

/// Bytes that look like no others of the same length.
#[must_use]
pub fn bytes(seed: u8, size: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..size).map(|_| next()).collect()
}

/// The SHA-256 of bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> Digest {
    Digest::new(Sha256::digest(bytes).into())
}

async fn marked(subject: &impl Subject) -> Arc<dyn Objects> {
    let objects = subject.open().await.unwrap();
    assert_eq!(objects.mark("a-catalog").await.unwrap(), "a-catalog");
    objects
}

fn spooled(objects: &dyn Objects, bytes: &[u8]) -> Spooled {
    let mut file = NamedTempFile::new_in(objects.spool()).unwrap();
    file.write_all(bytes).unwrap();
    Spooled { file, digest: digest(bytes), size: bytes.len() as u64 }
}

fn key(digest: Digest) -> Key {
    Key { digest, id: BlobId::new() }
}

async fn store(objects: &dyn Objects, bytes: &[u8]) -> Key {
    let spooled = spooled(objects, bytes);
    let key = key(spooled.digest);
    objects.upload(&spooled, &key).await.unwrap();
    key
}

async fn read(objects: &dyn Objects, key: &Key) -> Option<Vec<u8>> {
    let pieces = objects.read(key).await.unwrap()?.try_collect::<Vec<_>>().await.unwrap();
    Some(pieces.concat())
}

async fn list(objects: &dyn Objects, shard: u8) -> Vec<Vec<Found>> {
    objects.list(shard).try_collect().await.unwrap()
}

/// Everything that is listed in any shard.
pub async fn all(objects: &dyn Objects) -> BTreeSet<String> {
    let shards = futures::stream::iter(0..=u8::MAX).flat_map(|shard| objects.list(shard));
    let pages = shards.try_collect::<Vec<_>>().await.unwrap();
    pages.into_iter().flatten().map(|found| found.path).collect()
}

/// See the name.
pub async fn reads_back_what_was_stored_of_any_size(subject: &impl Subject) {
    let objects = marked(subject).await;
    let mut keys = Vec::new();
    for size in SIZES {
        keys.push((size, store(&*objects, &bytes(1, size)).await));
    }
    let again = subject.open().await.unwrap();
    for (size, key) in keys {
        assert!(read(&*again, &key).await.unwrap() == bytes(1, size), "{size} bytes came back as others");
        assert_eq!(again.size(&key).await.unwrap(), Some(size as u64));
    }
    let left = std::fs::read_dir(objects.spool()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), Vec::<std::ffi::OsString>::new(), "the spool keeps nothing");
}

/// See the name.
pub async fn stores_the_same_bytes_under_another_key(subject: &impl Subject) {
    let objects = marked(subject).await;
    for size in SMALL_AND_LARGE {
        let bytes = bytes(2, size);
        let spooled = spooled(&*objects, &bytes);
        let keys = [key(spooled.digest), key(spooled.digest)];
        for key in &keys {
            objects.upload(&spooled, key).await.unwrap();
        }
        objects.delete(&keys[..1]).await.remove(0).unwrap();
        assert_eq!(read(&*objects, &keys[0]).await, None);
        assert!(read(&*objects, &keys[1]).await.unwrap() == bytes, "the second has all");
    }
}

/// See the name.
pub async fn stores_nothing_under_a_key_that_has_an_object(subject: &impl Subject) {
    let objects = marked(subject).await;
    for size in SMALL_AND_LARGE {
        let first = bytes(3, size);
        let key = store(&*objects, &first).await;
        let error = objects.upload(&spooled(&*objects, &bytes(4, size)), &key).await.unwrap_err();
        let BlobError::Unavailable { source, .. } = error else { panic!("{error:?}") };
        assert!(source.to_string().contains(&key.to_string()), "{source} does not name {key}");
        assert!(read(&*objects, &key).await.unwrap() == first, "the first was written over");
    }
}

/// See the name.
pub async fn stores_one_of_many_at_once_under_one_key(subject: &impl Subject) {
    let objects = marked(subject).await;
    let key = key(digest(b"any"));
    let all = (0..8).map(|seed| spooled(&*objects, &bytes(seed, 5_000))).collect::<Vec<_>>();
    let stored = futures::future::join_all(all.iter().map(|spooled| objects.upload(spooled, &key))).await;
    let winners = (0..8).filter(|seed| stored[usize::from(*seed)].is_ok()).collect::<Vec<_>>();
    assert_eq!(winners.len(), 1, "{stored:?}");
    assert_eq!(read(&*objects, &key).await.unwrap(), bytes(winners[0], 5_000));
}

/// See the name.
pub async fn stores_nothing_where_the_spool_lacks_bytes(subject: &impl Subject) {
    let objects = marked(subject).await;
    for size in SMALL_AND_LARGE {
        let mut spooled = spooled(&*objects, &bytes(5, size));
        spooled.size += 1;
        let key = key(spooled.digest);
        objects.upload(&spooled, &key).await.unwrap_err();
        assert_eq!((objects.size(&key).await.unwrap(), read(&*objects, &key).await), (None, None));
        assert_eq!(list(&*objects, key.digest.shard()).await.concat(), []);
    }
}

/// See the name.
pub async fn answers_none_for_what_is_not_there(subject: &impl Subject) {
    let objects = marked(subject).await;
    let there = store(&*objects, b"there").await;
    // One in a shard that nothing is in, one beside an object.
    for absent in [key(digest(b"absent")), key(there.digest)] {
        assert_eq!((objects.size(&absent).await.unwrap(), read(&*objects, &absent).await), (None, None));
    }
}

/// See the name.
pub async fn deletes_what_is_there_and_what_is_not(subject: &impl Subject) {
    let objects = marked(subject).await;
    let (goes, stays) = (store(&*objects, b"goes").await, store(&*objects, b"stays").await);
    let mut keys = (0..2 * PAGE).map(|_| key(goes.digest)).collect::<Vec<_>>();
    keys.insert(PAGE + 7, goes);
    for _ in 0..2 {
        let deleted = objects.delete(&keys).await;
        assert_eq!(deleted.len(), keys.len());
        for deleted in deleted {
            deleted.unwrap();
        }
        assert_eq!((objects.size(&goes).await.unwrap(), objects.size(&stays).await.unwrap()), (None, Some(5)));
    }
}

/// See the name.
pub async fn deletes_nothing_where_nothing_is_asked(subject: &impl Subject) {
    let objects = marked(subject).await;
    let stays = store(&*objects, b"stays").await;
    assert!(objects.delete(&[]).await.is_empty());
    assert_eq!(objects.size(&stays).await.unwrap(), Some(5));
}

/// See the name.
pub async fn deletes_the_others_where_one_cannot_be_deleted(subject: &impl Subject) {
    let objects = marked(subject).await;
    let mut keys = Vec::new();
    for seed in 0..5 {
        keys.push(store(&*objects, &[seed]).await);
    }
    subject.hold(&keys[2]).await;
    let deleted = objects.delete(&keys).await;
    subject.let_go(&keys[2]).await;
    let is_deleted = deleted.iter().map(Result::is_ok).collect::<Vec<_>>();
    assert_eq!(is_deleted, [true, true, false, true, true], "{deleted:?}");
    for (at, key) in keys.iter().enumerate() {
        assert_eq!(objects.size(key).await.unwrap().is_some(), at == 2);
    }
    for deleted in objects.delete(&keys).await {
        deleted.unwrap();
    }
    assert_eq!(objects.size(&keys[2]).await.unwrap(), None);
}

/// See the name.
pub async fn lists_one_shard_with_foreign_names(subject: &impl Subject) {
    let objects = marked(subject).await;
    let ours = store(&*objects, b"ours").await;
    let shard = ours.digest.shard();
    let other = key(Digest::new([shard.wrapping_add(1); 32]));
    let foreign = [format!("{shard:02x}/notes.txt"), format!("{shard:02x}/{ours}#1")];
    for path in foreign.iter().chain([&other.path()]) {
        subject.plant(path, b"foreign").await;
    }
    let found = list(&*objects, shard).await.concat();
    let seen = found.iter().map(|it| (it.path.clone(), it.key, it.size)).collect::<BTreeSet<_>>();
    let mut expected = foreign.into_iter().map(|path| (path, None, 7)).collect::<BTreeSet<_>>();
    expected.insert((ours.path(), Some(ours), 4));
    assert_eq!(seen, expected);
    assert!(found.iter().all(|it| (it.modified - Utc::now()).abs() < SKEW), "{found:?}");
    let next = list(&*objects, shard.wrapping_add(1)).await.concat();
    assert_eq!(next.iter().map(|it| it.key).collect::<Vec<_>>(), [Some(other)]);
    assert_eq!(list(&*objects, shard.wrapping_add(2)).await.concat(), []);
}

/// See the name.
pub async fn lists_in_pages(subject: &impl Subject) {
    let objects = marked(subject).await;
    let keys = (0..=PAGE).map(|_| key(Digest::new([7; 32]))).collect::<BTreeSet<_>>();
    for key in &keys {
        subject.plant(&key.path(), b"x").await;
    }
    let pages = list(&*objects, 7).await;
    assert!(pages.len() > 1 && pages.iter().all(|page| page.len() <= PAGE), "{} pages", pages.len());
    let found = pages.concat().iter().map(|found| found.key.unwrap()).collect::<Vec<_>>();
    assert_eq!(found.len(), keys.len(), "none is shown twice");
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), keys);
}

/// See the name.
pub async fn is_marked_once_and_for_all(subject: &impl Subject) {
    let objects = subject.open().await.unwrap();
    assert_eq!(objects.identity().await.unwrap(), None);
    assert_eq!(objects.mark("first").await.unwrap(), "first");
    assert_eq!(objects.mark("second").await.unwrap(), "first");
    store(&*objects, b"something").await;
    let again = subject.open().await.unwrap();
    assert_eq!(again.identity().await.unwrap().as_deref(), Some("first"));
    assert_eq!(again.mark("third").await.unwrap(), "first");
}

/// See the name.
pub async fn is_marked_once_by_many(subject: &impl Subject) {
    let objects = subject.open().await.unwrap();
    let names = (0..8).map(|name| name.to_string()).collect::<Vec<_>>();
    let marks = futures::future::join_all(names.iter().map(|name| objects.mark(name))).await;
    let marks = marks.into_iter().map(Result::unwrap).collect::<BTreeSet<_>>();
    assert_eq!(marks.len(), 1, "{marks:?}");
    assert_eq!(objects.identity().await.unwrap(), marks.first().cloned());
}

/// See the name.
pub async fn refuses_a_place_with_other_things_in_it(subject: &impl Subject) {
    subject.plant("holiday.jpg", b"not ours").await;
    let refused = match subject.open().await {
        Ok(objects) => {
            let marked = objects.mark("a-catalog").await;
            assert!(matches!(marked, Err(BlobError::Refused(_))), "{marked:?}");
            objects.identity().await.map(|_| ())
        }
        Err(error) => Err(error),
    };
    let Err(BlobError::Refused(text)) = refused else { panic!("{refused:?}") };
    assert!(text.contains("is no blob store") && text.contains("holiday.jpg"), "{text}");
}

/// See the name.
pub async fn refuses_objects_that_have_lost_their_marker(subject: &impl Subject) {
    subject.plant(&key(digest(b"whose")).path(), b"whose").await;
    let refused = match subject.open().await {
        Ok(objects) => objects.mark("a-catalog").await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(matches!(refused, Err(BlobError::Refused(_))), "{refused:?}");
}

/// See the name.
pub async fn cleans_old_spooled_files_only(subject: &impl Subject) {
    let objects = marked(subject).await;
    let (old, young) = (".janitor-spool-old", ".janitor-spool-young");
    let write = |name: &str, age: u64| {
        let file = std::fs::File::create(objects.spool().join(name)).unwrap();
        file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(age)).unwrap();
    };
    write(old, 7_200);
    write(young, 60);
    write("somebody-elses", 7_200);
    let before = Utc::now() - TimeDelta::hours(1);
    let names = || {
        let names = std::fs::read_dir(objects.spool()).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect::<BTreeSet<_>>()
    };
    assert_eq!((objects.clean(before, false).await.unwrap(), names().len()), (1, 3));
    assert_eq!(objects.clean(before, true).await.unwrap(), 1);
    assert_eq!(names(), BTreeSet::from([young.to_owned(), "somebody-elses".to_owned()]));
    assert_eq!(objects.clean(before, true).await.unwrap(), 0);
}
