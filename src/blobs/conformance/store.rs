//! What a [`BlobStore`] promises over any catalog and any objects: [`blob_store_conformance!`](crate::blob_store_conformance)
//! writes one test per case.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a suite fails by panicking")]

mod sweeps;

use std::{collections::BTreeSet, pin::pin, sync::Arc};

use async_trait::async_trait;
use chrono::TimeDelta;
use futures::{StreamExt, TryStreamExt, future::join_all, task::noop_waker_ref};
use tokio::io::AsyncReadExt;

pub use sweeps::*;

use super::{
    broken::{Broken, ReadsThenFails, Way},
    objects::{all, bytes, digest},
};
use crate::{
    blobs::{
        Blob, BlobError, BlobStore, Digest, Key, Released, State, Tag, Totals,
        catalog::{Cutoffs, Filter, memory::MemoryCatalog},
        store::Put,
    },
    clock::SystemClock,
};

/// Sizes around a piece, and one of several parts.
const SIZES: [usize; 5] = [0, 1, (1 << 20) - 1, (1 << 20) + 1, 40 << 20];
/// How many put the same bytes at once.
const WRITERS: u32 = 8;
/// The most blobs that a step of a sweep takes.
const BATCH: usize = 1_000;
/// Later than anything that a case has done.
const SOON: TimeDelta = TimeDelta::minutes(1);

/// One store, empty at first, and what may happen to its objects.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The store, opened anew.
    async fn open(&self) -> BlobStore;

    /// Puts other bytes under the key of an object.
    async fn damage(&self, key: &Key, bytes: &[u8]);
}

/// Writes one `#[tokio::test]` for each promise of the suite, in a module of the given name.
///
/// The expression is a future of a [`Subject`](crate::blobs::conformance::store::Subject).
#[macro_export]
macro_rules! blob_store_conformance {
    ($answer:ident, $subject:expr) => {
        $crate::blob_store_conformance! { @cases $answer, $subject;
            reads_back_what_was_put_of_any_size
            stores_the_same_bytes_once
            stores_one_blob_of_many_puts_at_once
            knows_what_was_put
            finds_no_blob_that_nobody_put
            fails_at_the_end_of_bytes_that_are_others
            fails_where_the_bytes_are_gone
            keeps_nothing_of_a_content_that_fails
            keeps_nothing_of_a_put_that_is_dropped
            reads_nothing_for_a_tag_that_is_refused
            gives_up_what_could_not_be_uploaded
            begins_again_where_a_sweeper_took_its_blob
            ends_where_sweepers_take_each_of_its_blobs
            sweeps_what_was_released_and_nothing_else
            keeps_what_another_task_refers_to
            finalizes_a_retry_and_drops_the_attempt_before
            puts_nothing_for_an_attempt_that_is_over
            puts_new_bytes_beside_a_late_sweeper
            belongs_to_one_catalog
        }
    };
    (@cases $answer:ident, $subject:expr; $($case:ident)*) => {
        mod $answer {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $case() {
                    $crate::blobs::conformance::store::$case(&$subject.await).await;
                }
            )*
        }
    };
}

async fn put(store: &BlobStore, bytes: &[u8], task: &str) -> Put {
    store.put(bytes, &Tag::of(task)).await.unwrap()
}

async fn get(store: &BlobStore, digest: Digest) -> Vec<u8> {
    store.get(digest).await.unwrap().try_collect::<Vec<_>>().await.unwrap().concat()
}

async fn is_gone(store: &BlobStore, digest: Digest) -> bool {
    matches!(store.get(digest).await, Err(BlobError::NotFound(missing)) if missing == digest)
}

fn key(put: &Put) -> Key {
    Key { digest: put.digest, id: put.id }
}

async fn live(store: &BlobStore, digest: Digest) -> Blob {
    let blobs = store.catalog().blobs(digest).await.unwrap();
    blobs.into_iter().find(|blob| blob.state == State::Live).unwrap()
}

fn spooled(store: &BlobStore) -> usize {
    std::fs::read_dir(store.objects().spool()).unwrap().count()
}

/// Cutoffs that let everything go that may go at all.
async fn everything(store: &BlobStore) -> Cutoffs {
    let soon = store.catalog().now().await.unwrap() + SOON;
    Cutoffs { unreferenced: soon, pending: soon, retry: soon }
}

/// Takes whatever is due, with no grace, and answers how many blobs went. Nobody may be writing meanwhile.
pub async fn sweep(store: &BlobStore) -> u64 {
    let keys = claim(store).await;
    delete(store, &keys).await
}

async fn claim(store: &BlobStore) -> Vec<Key> {
    let cutoffs = everything(store).await;
    let due = store.catalog().due(cutoffs, None, BATCH).await.unwrap();
    let claimed = store.catalog().claim(&due, cutoffs).await.unwrap();
    due.iter().filter(|blob| claimed.contains(&blob.id)).map(Blob::key).collect()
}

async fn delete(store: &BlobStore, keys: &[Key]) -> u64 {
    for deleted in store.objects().delete(keys).await {
        deleted.unwrap();
    }
    let ids = keys.iter().map(|key| key.id).collect::<Vec<_>>();
    store.catalog().forget(&ids).await.unwrap()
}

/// See the name.
pub async fn reads_back_what_was_put_of_any_size(subject: &impl Subject) {
    let store = subject.open().await;
    for size in SIZES {
        let bytes = bytes(1, size);
        let put = put(&store, &bytes, "render").await;
        assert_eq!((put.digest, put.size, put.is_shared), (digest(&bytes), size as u64, false));
    }
    assert_eq!(store.finalize("render", 1).await.unwrap(), SIZES.len() as u64);
    drop(store);
    let store = subject.open().await;
    assert_eq!(sweep(&store).await, 0);
    for size in SIZES {
        let bytes = bytes(1, size);
        assert!(get(&store, digest(&bytes)).await == bytes, "{size} bytes came back as others");
        store.verify(&live(&store, digest(&bytes)).await).await.unwrap();
    }
    assert_eq!(spooled(&store), 0);
}

/// See the name.
pub async fn stores_the_same_bytes_once(subject: &impl Subject) {
    let store = subject.open().await;
    let first = put(&store, b"same", "one").await;
    let second = put(&store, b"same", "two").await;
    assert_eq!(second, Put { is_shared: true, ..first });
    assert_eq!(all(&**store.objects()).await, BTreeSet::from([key(&first).path()]));
}

/// See the name.
pub async fn stores_one_blob_of_many_puts_at_once(subject: &impl Subject) {
    let store = subject.open().await;
    let bytes = bytes(2, 300_000);
    let tasks = (0..WRITERS).map(|task| format!("task-{task}")).collect::<Vec<_>>();
    join_all(tasks.iter().map(|task| put(&store, &bytes, task))).await;
    for task in &tasks {
        assert_eq!(store.finalize(task, 1).await.unwrap(), 1);
    }
    sweep(&store).await;
    let stat = store.stat(digest(&bytes)).await.unwrap();
    assert_eq!((stat.blobs.len(), stat.refs.len()), (1, tasks.len()));
    assert_eq!(all(&**store.objects()).await, BTreeSet::from([stat.blobs[0].key().path()]));
    assert!(get(&store, digest(&bytes)).await == bytes, "other bytes");
}

/// See the name.
pub async fn knows_what_was_put(subject: &impl Subject) {
    let store = subject.open().await;
    let tag = Tag {
        run: Some("run-7".to_owned()),
        attempt: 3,
        name: "frames/0001.png".to_owned(),
        content_type: Some("image/png".to_owned()),
        ..Tag::of("render")
    };
    let put = store.put(&b"a frame"[..], &tag).await.unwrap();
    let stat = store.stat(put.digest).await.unwrap();
    assert_eq!((stat.blobs.len(), stat.refs.len()), (1, 1));
    assert_eq!((stat.blobs[0].id, stat.blobs[0].size, stat.blobs[0].state), (put.id, 7, State::Live));
    assert_eq!((&stat.refs[0].tag, stat.refs[0].blob, stat.refs[0].is_final), (&tag, put.id, false));
    let of = |task: &str| Filter { task: Some(task.to_owned()), run: None };
    assert_eq!(store.list(&of("render"), None, 10).await.unwrap(), stat.refs);
    assert_eq!(store.list(&of("other"), None, 10).await.unwrap(), []);
    assert!(store.touch("render").await.unwrap() && !store.touch("other").await.unwrap());
    assert_eq!(store.delete("render", put.digest).await.unwrap(), Released { refs: 1, blobs: 1 });
    assert_eq!(store.list(&Filter::default(), None, 10).await.unwrap(), []);
}

/// See the name.
pub async fn finds_no_blob_that_nobody_put(subject: &impl Subject) {
    let store = subject.open().await;
    assert!(is_gone(&store, digest(b"never")).await);
    assert_eq!(store.stat(digest(b"never")).await.unwrap().blobs, []);
}

/// See the name.
pub async fn fails_at_the_end_of_bytes_that_are_others(subject: &impl Subject) {
    let store = subject.open().await;
    let good = bytes(3, (2 << 20) + 5);
    let put = put(&store, &good, "render").await;
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let (short, long) = (&good[..good.len() - 1], [good.as_slice(), b"x"].concat());
    for bad in [flipped.as_slice(), short, &long, b""] {
        subject.damage(&key(&put), bad).await;
        let mut items = store.get(put.digest).await.unwrap().collect::<Vec<_>>().await;
        let last = items.pop().unwrap().unwrap_err();
        assert!(matches!(last, BlobError::Damaged { digest, .. } if digest == put.digest), "{last:?}");
        assert!(items.into_iter().map(Result::unwrap).collect::<Vec<_>>().concat() == bad, "all bytes come before it");
        let verified = store.verify(&live(&store, put.digest).await).await;
        assert!(matches!(verified, Err(BlobError::Damaged { .. })), "{verified:?}");
    }
    subject.damage(&key(&put), &good).await;
    assert!(get(&store, put.digest).await == good, "whole again");
}

/// See the name.
pub async fn fails_where_the_bytes_are_gone(subject: &impl Subject) {
    let store = subject.open().await;
    let put = put(&store, b"gone", "render").await;
    store.objects().delete(&[key(&put)]).await.remove(0).unwrap();
    let got = store.get(put.digest).await.map(|_| ());
    assert!(matches!(got, Err(BlobError::Damaged { digest, .. }) if digest == put.digest), "{got:?}");
    let verified = store.verify(&live(&store, put.digest).await).await;
    assert!(matches!(verified, Err(BlobError::Damaged { .. })), "{verified:?}");
}

async fn holds_nothing(store: &BlobStore) {
    assert_eq!(store.catalog().totals().await.unwrap(), Totals::default());
    assert_eq!(store.list(&Filter::default(), None, 10).await.unwrap(), []);
    assert_eq!((all(&**store.objects()).await, spooled(store)), (BTreeSet::new(), 0));
}

/// See the name.
pub async fn keeps_nothing_of_a_content_that_fails(subject: &impl Subject) {
    let store = subject.open().await;
    for size in [0, 5, 3 << 20] {
        let bytes = bytes(4, size);
        let error = store.put(bytes.chain(ReadsThenFails), &Tag::of("render")).await.unwrap_err();
        assert_eq!(error.to_string(), "the content: read");
        holds_nothing(&store).await;
    }
}

/// See the name.
pub async fn keeps_nothing_of_a_put_that_is_dropped(subject: &impl Subject) {
    let store = subject.open().await;
    let (mut sends, receives) = tokio::io::duplex(64);
    tokio::io::AsyncWriteExt::write_all(&mut sends, b"a beginning").await.unwrap();
    {
        let tag = Tag::of("render");
        let mut put = pin!(store.put(receives, &tag));
        while spooled(&store) == 0 {
            let poll = put.as_mut().poll(&mut std::task::Context::from_waker(noop_waker_ref()));
            assert!(poll.is_pending(), "the content has no end");
            tokio::task::yield_now().await;
        }
    }
    holds_nothing(&store).await;
}

/// See the name.
pub async fn reads_nothing_for_a_tag_that_is_refused(subject: &impl Subject) {
    let store = subject.open().await;
    let tag = Tag { name: "../up".to_owned(), ..Tag::of("render") };
    let error = store.put(ReadsThenFails, &tag).await.unwrap_err();
    assert!(matches!(error, BlobError::Invalid(_)), "{error:?}");
    holds_nothing(&store).await;
}

async fn broken(store: &BlobStore, way: Way) -> (BlobStore, Arc<Broken>) {
    let broken = Arc::new(Broken::new(Arc::clone(store.objects()), way));
    (BlobStore::over(Arc::clone(store.catalog()), broken.clone()).await.unwrap(), broken)
}

/// See the name.
pub async fn gives_up_what_could_not_be_uploaded(subject: &impl Subject) {
    let store = subject.open().await;
    let (fails, broken) = broken(&store, Way::Fails).await;
    let error = fails.put(&b"bytes"[..], &Tag::of("render")).await.unwrap_err();
    assert!(matches!(error, BlobError::Unavailable { what: "store", .. }), "{error:?}");
    assert_eq!(broken.uploads(), 1);
    assert!(is_gone(&store, digest(b"bytes")).await);
    let blobs = store.catalog().blobs(digest(b"bytes")).await.unwrap();
    assert_eq!(blobs.iter().map(|blob| blob.state).collect::<Vec<_>>(), [State::Deleting]);
    assert_eq!(sweep(&store).await, 1);
    holds_nothing(&store).await;
    assert!(!put(&store, b"bytes", "render").await.is_shared, "the same put may succeed later");
}

/// See the name.
pub async fn begins_again_where_a_sweeper_took_its_blob(subject: &impl Subject) {
    let store = subject.open().await;
    let (fenced, broken) = broken(&store, Way::Fenced(Arc::clone(store.catalog()), 1)).await;
    let put = fenced.put(&b"bytes"[..], &Tag::of("render")).await.unwrap();
    assert_eq!((broken.uploads(), put.is_shared), (2, false));
    assert_eq!(store.finalize("render", 1).await.unwrap(), 1);
    assert_eq!(sweep(&store).await, 1);
    assert_eq!(get(&store, put.digest).await, b"bytes");
    assert_eq!(all(&**store.objects()).await, BTreeSet::from([key(&put).path()]));
}

/// See the name.
pub async fn ends_where_sweepers_take_each_of_its_blobs(subject: &impl Subject) {
    let store = subject.open().await;
    let (fenced, broken) = broken(&store, Way::Fenced(Arc::clone(store.catalog()), u32::MAX)).await;
    let error = fenced.put(&b"bytes"[..], &Tag::of("render")).await.unwrap_err();
    assert!(matches!(error, BlobError::Unavailable { what: "put", .. }), "{error:?}");
    assert_eq!(broken.uploads(), 5);
    assert_eq!(sweep(&store).await, 5);
    holds_nothing(&store).await;
}

/// See the name.
pub async fn belongs_to_one_catalog(subject: &impl Subject) {
    let store = subject.open().await;
    let other = Arc::new(MemoryCatalog::new(Arc::new(SystemClock)));
    let early = BlobStore::over(other.clone(), Arc::clone(store.objects())).await.unwrap();
    put(&store, b"bytes", "render").await;
    let late = early.put(&b"bytes"[..], &Tag::of("render")).await.map(|_| ());
    let anew = BlobStore::over(other, Arc::clone(store.objects())).await.map(|_| ());
    for refused in [late, anew] {
        let Err(BlobError::Refused(text)) = refused else { panic!("{refused:?}") };
        assert!(text.contains("belongs to another catalog") && text.contains(store.objects().name()), "{text}");
    }
    assert_eq!(early.catalog().totals().await.unwrap(), Totals::default());
}
