//! Steps 4 and 5.

use std::sync::Arc;

use super::{
    MINUTE, SIZE, Subject, at_attempt, at_once, blob, claim_all, digest, is_closed, names, orphan, put, tag, upload,
};
use crate::blobs::{
    BlobError, Catalog, Released, State, Tag,
    catalog::{Begun, Filter},
};

/// An attempt that was released is over, and so are those before it.
pub async fn refuses_an_attempt_that_was_released(subject: Arc<dyn Subject>) {
    let tag = at_attempt(2, &tag("a", "x"));
    put(&*subject, digest(1), &tag).await;
    assert_eq!(subject.release("a", 2).await.expect("released"), Released { refs: 1, blobs: 1 });
    assert_eq!(subject.release("a", 2).await.expect("released"), Released::default());
    is_closed(subject.begin(digest(1), SIZE, &tag).await, 2);
    is_closed(subject.begin(digest(1), SIZE, &at_attempt(1, &tag)).await, 2);
    is_closed(subject.finalize("a", 2).await, 2);
    assert_eq!(subject.release("a", 1).await.expect("released"), Released::default());
    is_closed(subject.begin(digest(1), SIZE, &tag).await, 2);
    assert_eq!(subject.refs(digest(1), 10).await.expect("read"), []);
}

/// A put that was on its way when its attempt was released leaves no ref; its blob is to be deleted.
pub async fn refuses_to_commit_what_was_released_meanwhile(subject: Arc<dyn Subject>) {
    let id = upload(&*subject, digest(1), &tag("a", "x")).await;
    assert_eq!(subject.release("a", 1).await.expect("released"), Released::default());
    is_closed(subject.commit(id, digest(1), &tag("a", "x")).await, 1);
    assert_eq!(blob(&*subject, digest(1), id).await.state, State::Deleting);
    assert_eq!(names(&*subject, "a").await, []);
    assert_eq!(claim_all(&*subject).await, [id]);
}

/// Who is released before it put anything cannot put any more.
pub async fn knows_a_release_before_the_first_put(subject: Arc<dyn Subject>) {
    assert_eq!(subject.release("a", 3).await.expect("released"), Released::default());
    is_closed(subject.begin(digest(1), SIZE, &at_attempt(3, &tag("a", "x"))).await, 3);
    put(&*subject, digest(1), &at_attempt(4, &tag("a", "x"))).await;
}

/// A retry puts with a higher attempt, which the release of the lower one does nothing to.
pub async fn takes_a_retry_after_a_release(subject: Arc<dyn Subject>) {
    let tag = tag("a", "x");
    let id = put(&*subject, digest(1), &tag).await;
    let retried = subject.begin(digest(1), SIZE, &at_attempt(2, &tag)).await.expect("begun");
    assert_eq!(retried, Begun::Shared(id));
    assert_eq!(subject.release("a", 1).await.expect("released"), Released { refs: 1, blobs: 0 });
    assert_eq!(subject.open_task("a").await.expect("read").expect("it is open").attempt, 2);
    assert_eq!(subject.finalize("a", 2).await.expect("finalized"), 1);
    assert_eq!(subject.open_task("a").await.expect("read"), None);
    assert_eq!(blob(&*subject, digest(1), id).await.zero_since, None);
}

/// Finalizing again finds nothing to do and is no error.
pub async fn makes_refs_final_once(subject: Arc<dyn Subject>) {
    put(&*subject, digest(1), &tag("a", "x")).await;
    put(&*subject, digest(2), &tag("a", "y")).await;
    put(&*subject, digest(3), &tag("b", "z")).await;
    assert_eq!(subject.finalize("a", 1).await.expect("finalized"), 2);
    assert_eq!(subject.finalize("a", 1).await.expect("finalized"), 0);
    assert_eq!(names(&*subject, "a").await, [("x".to_owned(), true), ("y".to_owned(), true)]);
    assert_eq!(names(&*subject, "b").await, [("z".to_owned(), false)]);
}

/// What lower attempts put and the last one did not goes; what is final stays.
pub async fn releases_lower_attempts_when_one_is_finalized(subject: Arc<dyn Subject>) {
    let tag = tag("a", "x");
    let lost = put(&*subject, digest(1), &tag).await;
    let kept = put(&*subject, digest(2), &at_attempt(2, &tag)).await;
    assert_eq!(subject.finalize("a", 2).await.expect("finalized"), 1);
    assert!(blob(&*subject, digest(1), lost).await.zero_since.is_some());
    assert_eq!(blob(&*subject, digest(2), kept).await.zero_since, None);
    is_closed(subject.begin(digest(3), SIZE, &tag).await, 1);
    assert!(matches!(subject.begin(digest(3), SIZE, &at_attempt(2, &tag)).await, Ok(Begun::Upload(_))));
}

/// An attempt that put nothing has nothing to finalize.
pub async fn refuses_to_finalize_what_is_not_there_or_over(subject: Arc<dyn Subject>) {
    assert!(matches!(subject.finalize("a", 1).await, Err(BlobError::NoRef { .. })));
    put(&*subject, digest(1), &tag("a", "x")).await;
    let error = subject.finalize("a", 2).await.expect_err("it put nothing");
    assert_eq!(error.to_string(), "task \"a\" has put nothing in attempt 2");
    assert_eq!(names(&*subject, "a").await, [("x".to_owned(), false)], "nothing was released by that");
    subject.release("a", 1).await.expect("released");
    is_closed(subject.finalize("a", 1).await, 1);
}

/// A release that comes after the end was written drops nothing.
pub async fn never_drops_a_final_ref_by_a_release(subject: Arc<dyn Subject>) {
    let id = put(&*subject, digest(1), &tag("a", "x")).await;
    subject.finalize("a", 1).await.expect("finalized");
    assert_eq!(subject.release("a", 9).await.expect("released"), Released::default());
    assert_eq!(names(&*subject, "a").await, [("x".to_owned(), true)]);
    assert_eq!(blob(&*subject, digest(1), id).await.zero_since, None);
    assert_eq!(claim_all(&*subject).await, []);
}

/// The time is that of the last ref's going; a put takes it away.
pub async fn sets_zero_since_when_the_last_ref_goes(subject: Arc<dyn Subject>) {
    let id = put(&*subject, digest(1), &tag("a", "x")).await;
    subject.begin(digest(1), SIZE, &tag("b", "x")).await.expect("begun");
    assert_eq!(subject.release("a", 1).await.expect("released"), Released { refs: 1, blobs: 0 });
    assert_eq!(blob(&*subject, digest(1), id).await.zero_since, None);
    subject.advance(MINUTE);
    let before = subject.now().await.expect("read");
    assert_eq!(subject.release("b", 1).await.expect("released"), Released { refs: 1, blobs: 1 });
    let since = blob(&*subject, digest(1), id).await.zero_since.expect("nothing refers to it");
    assert!(before <= since && since <= subject.now().await.expect("read"), "{before} {since}");
    assert_eq!(subject.begin(digest(1), SIZE, &tag("c", "x")).await.expect("begun"), Begun::Shared(id));
    assert_eq!(blob(&*subject, digest(1), id).await.zero_since, None);
}

/// One of the two says that nothing refers to the blob any more.
pub async fn releases_two_refs_to_one_blob_at_the_same_moment(subject: Arc<dyn Subject>) {
    for round in 0..10 {
        let digest = digest(round);
        let task = |number: usize| format!("t{round}-{number}");
        let id = put(&*subject, digest, &Tag::of(task(0))).await;
        subject.begin(digest, SIZE, &Tag::of(task(1))).await.expect("begun");
        let released = at_once(&subject, 2, |subject, number| {
            let task = task(number);
            Box::pin(async move { subject.release(&task, 1).await.expect("released") })
        })
        .await;
        assert_eq!(
            released.iter().map(|one| (one.refs, one.blobs)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1)),
            (2, 1)
        );
        assert!(blob(&*subject, digest, id).await.zero_since.is_some());
    }
}

/// A task that a sweep read is released only if it has not been seen since, even in the same millisecond.
pub async fn releases_a_seen_task_only_unchanged(subject: Arc<dyn Subject>) {
    let tag = tag("a", "x");
    put(&*subject, digest(1), &tag).await;
    for touched in [true, false] {
        let seen = subject.open_task("a").await.expect("read").expect("it is open");
        if touched {
            assert!(subject.touch("a").await.expect("touched"));
        } else {
            subject.begin(digest(1), SIZE, &at_attempt(2, &tag)).await.expect("begun");
        }
        assert_eq!(subject.release_seen(&seen).await.expect("an answer"), None);
        assert!(matches!(subject.begin(digest(1), SIZE, &tag).await, Ok(Begun::Shared(_))), "it is not over");
    }
    let seen = subject.open_task("a").await.expect("read").expect("it is open");
    assert_eq!(seen.attempt, 2);
    let released = subject.release_seen(&seen).await.expect("an answer");
    assert_eq!(released, Some(Released { refs: 2, blobs: 1 }));
    is_closed(subject.begin(digest(1), SIZE, &at_attempt(2, &tag)).await, 2);
    assert!(!subject.touch("nobody").await.expect("an answer"));
}

/// All refs of that task to that digest go, final ones too, and no others.
pub async fn deletes_the_refs_of_one_task(subject: Arc<dyn Subject>) {
    let id = put(&*subject, digest(1), &tag("a", "x")).await;
    put(&*subject, digest(2), &tag("a", "kept")).await;
    subject.begin(digest(1), SIZE, &tag("a", "y")).await.expect("begun");
    subject.finalize("a", 1).await.expect("finalized");
    subject.begin(digest(1), SIZE, &tag("b", "z")).await.expect("begun");
    assert_eq!(subject.delete("a", digest(1)).await.expect("deleted"), Released { refs: 2, blobs: 0 });
    assert_eq!(names(&*subject, "a").await, [("kept".to_owned(), true)]);
    assert!(matches!(subject.delete("a", digest(1)).await, Err(BlobError::NoRef { .. })));
    assert!(matches!(subject.delete("nobody", digest(1)).await, Err(BlobError::NoRef { .. })));
    assert_eq!(subject.delete("b", digest(1)).await.expect("deleted"), Released { refs: 1, blobs: 1 });
    assert_eq!(claim_all(&*subject).await, [id]);
}

/// Tasks with something that is not final, each once, in pages.
pub async fn lists_open_tasks_by_id(subject: Arc<dyn Subject>) {
    for task in ["b", "a", "C", "d"] {
        let tag = Tag { run: Some(format!("run-{task}")), ..tag(task, "x") };
        put(&*subject, digest(task.as_bytes()[0]), &tag).await;
        subject
            .begin(digest(task.as_bytes()[0]), SIZE, &Tag { name: "y".to_owned(), run: None, ..tag })
            .await
            .expect("begun");
    }
    subject.finalize("d", 1).await.expect("finalized");
    upload(&*subject, digest(9), &tag("pending", "")).await;
    orphan(&*subject, digest(10)).await;
    let first = subject.open_tasks(None, 2).await.expect("read");
    assert_eq!(first.iter().map(|task| task.id.as_str()).collect::<Vec<_>>(), ["C", "a"]);
    let rest = subject.open_tasks(Some("a"), 2).await.expect("read");
    assert_eq!(
        rest.iter().map(|task| (task.id.as_str(), task.run.as_deref())).collect::<Vec<_>>(),
        [("b", Some("run-b"))]
    );
    assert_eq!(subject.open_task("b").await.expect("read").as_ref(), rest.first());
    for not_open in ["d", "pending", "nobody"] {
        assert_eq!(subject.open_task(not_open).await.expect("read"), None, "{not_open}");
    }
    let catalog: &dyn Catalog = &*subject;
    assert_eq!(
        catalog.list(&Filter { task: None, run: Some("run-a".to_owned()) }, None, 9).await.expect("read").len(),
        2
    );
}
