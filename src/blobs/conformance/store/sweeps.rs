//! What stays and what goes of the tasks' blobs, beside a sweep.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a suite fails by panicking")]

use std::collections::BTreeSet;

use super::{Subject, all, claim, delete, get, holds_nothing, is_gone, key, put, sweep};
use crate::blobs::{BlobError, Released, Tag, store::Put};

/// See the name.
pub async fn sweeps_what_was_released_and_nothing_else(subject: &impl Subject) {
    let store = subject.open().await;
    let stays = put(&store, b"stays", "good").await;
    let open = put(&store, b"open", "running").await;
    let goes = put(&store, b"goes", "bad").await;
    store.finalize("good", 1).await.unwrap();
    assert_eq!(sweep(&store).await, 0);
    assert_eq!(store.release("bad", 1).await.unwrap(), Released { refs: 1, blobs: 1 });
    assert_eq!(store.release("bad", 1).await.unwrap(), Released::default());
    assert_eq!(get(&store, goes.digest).await, b"goes", "it is there until a sweep");
    assert_eq!((sweep(&store).await, sweep(&store).await), (1, 0));
    assert!(is_gone(&store, goes.digest).await);
    assert_eq!(all(&**store.objects()).await, BTreeSet::from([key(&stays).path(), key(&open).path()]));
    let tag = Tag { attempt: 2, ..Tag::of("bad") };
    let again = store.put(&b"goes"[..], &tag).await.unwrap();
    assert!(again.id != goes.id && !again.is_shared, "{again:?} after {goes:?}");
    assert_eq!(get(&store, goes.digest).await, b"goes");
}

/// See the name.
pub async fn keeps_what_another_task_refers_to(subject: &impl Subject) {
    let store = subject.open().await;
    let first = put(&store, b"shared", "bad").await;
    store.release("bad", 1).await.unwrap();
    let second = put(&store, b"shared", "good").await;
    assert_eq!(second, Put { is_shared: true, ..first });
    assert_eq!(sweep(&store).await, 0);
    assert_eq!(store.finalize("good", 1).await.unwrap(), 1);
    assert_eq!(sweep(&store).await, 0);
    assert_eq!(get(&store, first.digest).await, b"shared");
}

/// See the name.
pub async fn finalizes_a_retry_and_drops_the_attempt_before(subject: &impl Subject) {
    let store = subject.open().await;
    let second = Tag { attempt: 2, ..Tag::of("render") };
    let half = put(&store, b"half of it", "render").await;
    let whole = store.put(&b"all of it"[..], &second).await.unwrap();
    assert_eq!((store.finalize("render", 2).await.unwrap(), sweep(&store).await), (1, 1));
    assert!(is_gone(&store, half.digest).await);
    assert_eq!(get(&store, whole.digest).await, b"all of it");
    let late = store.finalize("render", 1).await;
    assert!(matches!(late, Err(BlobError::Closed { attempt: 1, closed: 1, .. })), "{late:?}");
}

/// See the name.
pub async fn puts_nothing_for_an_attempt_that_is_over(subject: &impl Subject) {
    let store = subject.open().await;
    put(&store, b"before", "render").await;
    store.release("render", 1).await.unwrap();
    let error = store.put(&b"after"[..], &Tag::of("render")).await.unwrap_err();
    assert!(matches!(error, BlobError::Closed { attempt: 1, closed: 1, .. }), "{error:?}");
    assert_eq!(sweep(&store).await, 1);
    holds_nothing(&store).await;
}

/// See the name.
pub async fn puts_new_bytes_beside_a_late_sweeper(subject: &impl Subject) {
    let store = subject.open().await;
    let old = put(&store, b"bytes", "bad").await;
    store.release("bad", 1).await.unwrap();
    let claimed = claim(&store).await;
    assert_eq!(claimed, [key(&old)]);
    let new = put(&store, b"bytes", "good").await;
    store.finalize("good", 1).await.unwrap();
    assert!(new.id != old.id && !new.is_shared, "{new:?} after {old:?}");
    for _ in 0..2 {
        delete(&store, &claimed).await;
        assert_eq!(get(&store, new.digest).await, b"bytes");
    }
    assert_eq!(all(&**store.objects()).await, BTreeSet::from([key(&new).path()]));
}
