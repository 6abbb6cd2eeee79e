//! Steps 1 to 3.

use std::sync::Arc;

use super::{MINUTE, SIZE, Subject, all_due, at_once, blob, claim_all, digest, names, put, tag, upload};
use crate::blobs::{
    BlobError, BlobId, State, Tag,
    catalog::{Begun, Committed, Filter},
};

/// What is live is shared; the ref is added with that.
pub async fn uploads_what_is_not_there_and_shares_what_is(subject: Arc<dyn Subject>) {
    let id = upload(&*subject, digest(1), &tag("a", "x")).await;
    let pending = blob(&*subject, digest(1), id).await;
    assert_eq!((pending.state, pending.size, pending.zero_since), (State::Pending, SIZE, None));
    assert_eq!(names(&*subject, "a").await, [], "there is no ref before the bytes are");
    let done = subject.commit(id, digest(1), &tag("a", "x")).await.expect("committed");
    assert_eq!((done, blob(&*subject, digest(1), id).await.state), (Committed::Live, State::Live));
    let again = subject.begin(digest(1), SIZE, &tag("b", "y")).await.expect("begun");
    assert_eq!(again, Begun::Shared(id));
    assert_eq!(names(&*subject, "b").await, [("y".to_owned(), false)]);
}

/// What is pending is nothing to rely on: its writer may never end.
pub async fn uploads_again_while_another_writer_is_pending(subject: Arc<dyn Subject>) {
    let first = upload(&*subject, digest(1), &tag("a", "")).await;
    let second = upload(&*subject, digest(1), &tag("b", "")).await;
    assert_ne!(first, second);
}

/// The second of two writers shares the blob of the first; its own is to be deleted at once.
pub async fn lets_one_of_two_writers_win_and_shares_it(subject: Arc<dyn Subject>) {
    let first = upload(&*subject, digest(1), &tag("a", "")).await;
    let second = upload(&*subject, digest(1), &tag("b", "")).await;
    assert_eq!(subject.commit(second, digest(1), &tag("b", "")).await.expect("committed"), Committed::Live);
    assert_eq!(subject.commit(first, digest(1), &tag("a", "")).await.expect("committed"), Committed::Shared(second));
    assert_eq!(blob(&*subject, digest(1), first).await.state, State::Deleting);
    let refs = subject.refs(digest(1), 10).await.expect("read");
    assert!(refs.len() == 2 && refs.iter().all(|one| one.blob == second), "{refs:?}");
    let due = subject.due(all_due(&*subject).await, None, 10).await.expect("read");
    assert_eq!(due.iter().map(|blob| blob.id).collect::<Vec<_>>(), [first]);
}

/// Of writers that commit at the same moment one wins, and each has its ref to that one.
pub async fn lets_one_of_many_writers_win_at_the_same_moment(subject: Arc<dyn Subject>) {
    const WRITERS: usize = 6;
    for round in 0..5 {
        let digest = digest(round);
        let ids: Arc<Vec<BlobId>> = Arc::new(
            futures::future::join_all((0..WRITERS).map(|number| {
                let subject = &subject;
                async move { upload(&**subject, digest, &tag(&format!("t{number}"), "")).await }
            }))
            .await,
        );
        let done = at_once(&subject, WRITERS, |subject, number| {
            let id = ids[number];
            Box::pin(
                async move { subject.commit(id, digest, &tag(&format!("t{number}"), "")).await.expect("committed") },
            )
        })
        .await;
        let winner = ids[done.iter().position(|done| *done == Committed::Live).expect("one is live")];
        let losers = done.iter().filter(|done| **done == Committed::Shared(winner)).count();
        assert_eq!(losers, WRITERS - 1, "{done:?}");
        let refs = subject.refs(digest, 100).await.expect("read");
        assert!(refs.len() == WRITERS && refs.iter().all(|one| one.blob == winner), "{refs:?}");
    }
}

/// A blob that a sweeper took for abandoned never becomes live, and its writer is told to begin again.
pub async fn fences_a_writer_whose_blob_was_claimed(subject: Arc<dyn Subject>) {
    let id = upload(&*subject, digest(1), &tag("a", "x")).await;
    assert_eq!(claim_all(&*subject).await, [id]);
    assert!(!subject.touch_pending(id, &tag("a", "x")).await.expect("an answer"));
    assert_eq!(subject.commit(id, digest(1), &tag("a", "x")).await.expect("an answer"), Committed::Fenced);
    assert_eq!(blob(&*subject, digest(1), id).await.state, State::Deleting);
    assert_eq!(subject.forget(&[id]).await.expect("forgotten"), 1);
    assert_eq!(subject.commit(id, digest(1), &tag("a", "x")).await.expect("an answer"), Committed::Fenced);
    assert_eq!(names(&*subject, "a").await, []);
    put(&*subject, digest(1), &tag("a", "x")).await;
}

/// A commit whose answer was lost may be made again.
pub async fn commits_twice_without_harm(subject: Arc<dyn Subject>) {
    let id = put(&*subject, digest(1), &tag("a", "x")).await;
    assert_eq!(subject.commit(id, digest(1), &tag("a", "x")).await.expect("an answer"), Committed::Live);
    assert_eq!(names(&*subject, "a").await.len(), 1);
}

/// Giving up leads a pending blob to its deletion and does nothing to a live one.
pub async fn gives_up_what_is_pending_only(subject: Arc<dyn Subject>) {
    let live = put(&*subject, digest(1), &tag("a", "")).await;
    let pending = upload(&*subject, digest(2), &tag("a", "")).await;
    for id in [live, pending, pending, BlobId::new()] {
        subject.give_up(id).await.expect("given up");
    }
    assert_eq!(blob(&*subject, digest(1), live).await.state, State::Live);
    assert_eq!(blob(&*subject, digest(2), pending).await.state, State::Deleting);
    assert_eq!(claim_all(&*subject).await, [pending]);
}

/// The same put again is the same ref, and a final one stays final; another name is another ref.
pub async fn keeps_one_ref_of_the_same_put(subject: Arc<dyn Subject>) {
    let one = tag("a", "x");
    let id = put(&*subject, digest(1), &one).await;
    assert_eq!(subject.finalize("a", 1).await.expect("finalized"), 1);
    assert_eq!(subject.begin(digest(1), SIZE, &one).await.expect("begun"), Begun::Shared(id));
    assert_eq!(names(&*subject, "a").await, [("x".to_owned(), true)]);
    assert_eq!(subject.begin(digest(1), SIZE, &tag("a", "y")).await.expect("begun"), Begun::Shared(id));
    assert_eq!(names(&*subject, "a").await, [("x".to_owned(), true), ("y".to_owned(), false)]);
}

/// Nothing is written for a tag that cannot be put.
pub async fn refuses_a_tag_that_breaks_a_rule(subject: Arc<dyn Subject>) {
    let wrong = Tag { attempt: 0, ..Tag::of("a") };
    assert!(matches!(subject.begin(digest(1), SIZE, &wrong).await, Err(BlobError::Invalid(_))));
    assert!(matches!(subject.begin(digest(1), u64::MAX, &Tag::of("a")).await, Err(BlobError::Invalid(_))));
    assert_eq!(subject.totals().await.expect("counted").blobs(), 0);
    assert_eq!(subject.list(&Filter::default(), None, 10).await.expect("read"), []);
}

/// A touch keeps both the pending blob and its task from being taken for abandoned.
pub async fn sees_a_writer_alive_that_touches(subject: Arc<dyn Subject>) {
    let (kept, touching) = (tag("a", "kept"), tag("a", "slow"));
    put(&*subject, digest(1), &kept).await;
    let id = upload(&*subject, digest(2), &touching).await;
    let before = subject.open_task("a").await.expect("read").expect("it is open");
    subject.advance(MINUTE);
    assert!(subject.touch_pending(id, &touching).await.expect("touched"));
    let after = subject.open_task("a").await.expect("read").expect("it is open");
    // Who is seen twice in a millisecond is a millisecond ahead.
    assert!(after.seen_at > before.seen_at + MINUTE / 2, "{after:?}");
    let touched = blob(&*subject, digest(2), id).await;
    assert!(touched.touched_at >= touched.created_at + MINUTE, "{touched:?}");
    assert!(!subject.touch_pending(BlobId::new(), &touching).await.expect("an answer"));
}
