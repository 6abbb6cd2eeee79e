//! Steps 6 and 7.

use std::{sync::Arc, time::Duration};

use super::{
    MINUTE, SIZE, Subject, all_due, at_once, blob, claim_all, cutoffs, digest, names, orphan, put, tag, upload,
};
use crate::blobs::{
    BlobError, BlobId, State, TASK_TTL, Tag, Totals,
    catalog::{Begun, Cutoffs},
};

/// At the cutoff a blob stays, one millisecond later it goes; each stage by its own cutoff.
pub async fn finds_due_what_is_older_than_the_cutoffs_only(subject: Arc<dyn Subject>) {
    let kept = put(&*subject, digest(1), &tag("a", "x")).await;
    let pending = upload(&*subject, digest(2), &tag("a", "x")).await;
    let live = orphan(&*subject, digest(3)).await;
    let touched_at = blob(&*subject, digest(2), pending).await.touched_at;
    let zero_since = blob(&*subject, digest(3), live).await.zero_since.expect("nothing refers to it");
    let millisecond = Duration::from_millis(1);
    let none = cutoffs(touched_at.min(zero_since) - MINUTE);
    for (cutoffs, expected) in [
        (Cutoffs { pending: touched_at, unreferenced: zero_since, ..none }, vec![]),
        (Cutoffs { pending: touched_at + millisecond, ..none }, vec![pending]),
        (Cutoffs { unreferenced: zero_since + millisecond, ..none }, vec![live]),
        (cutoffs(zero_since + MINUTE), vec![pending, live]),
    ] {
        let due = subject.due(cutoffs, None, 10).await.expect("read");
        assert_eq!(due.iter().map(|blob| blob.id).collect::<Vec<_>>(), expected, "{cutoffs:?}");
        let count = |id| expected.iter().filter(|due| **due == id).count() as u64;
        let bytes = SIZE * u64::try_from(expected.len()).expect("few");
        let counted = Totals { pending: count(pending), live: count(live), bytes, ..Totals::default() };
        assert_eq!(subject.count_due(cutoffs).await.expect("counted"), counted);
        let all: Vec<_> = [
            subject.blobs(digest(1)).await.expect("read"),
            subject.blobs(digest(2)).await.expect("read"),
            subject.blobs(digest(3)).await.expect("read"),
        ]
        .concat();
        if expected.is_empty() {
            assert_eq!(subject.claim(&all, cutoffs).await.expect("claimed"), []);
        }
    }
    assert_eq!(blob(&*subject, digest(1), kept).await.state, State::Live);
}

/// Pages of any size are one list: what was claimed, what is pending, what is live, each by age.
pub async fn pages_through_what_is_due_by_stage_and_age(subject: Arc<dyn Subject>) {
    let mut expected = Vec::new();
    for number in 0..4 {
        expected.push(upload(&*subject, digest(number), &tag("p", "")).await);
        if number % 2 == 0 {
            subject.advance(MINUTE);
        }
    }
    assert_eq!(claim_all(&*subject).await.len(), 4);
    // One claim may go on for longer than a millisecond: their times are read.
    let mut claimed = Vec::new();
    for (number, id) in (0..).zip(expected) {
        claimed.push((blob(&*subject, digest(number), id).await.next_at, id));
    }
    claimed.sort();
    let mut expected: Vec<BlobId> = claimed.into_iter().map(|(_, id)| id).collect();
    for number in 10..14 {
        expected.push(upload(&*subject, digest(number), &tag("p", "")).await);
        subject.advance(MINUTE);
    }
    for number in 20..24 {
        expected.push(orphan(&*subject, digest(number)).await);
        subject.advance(MINUTE);
    }
    put(&*subject, digest(30), &tag("kept", "")).await;
    let cutoffs = all_due(&*subject).await;
    for limit in 1..=13 {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = subject.due(cutoffs, after.as_ref(), limit).await.expect("read");
            assert!(page.len() == limit.min(expected.len() - found.len()), "{} of {limit}", page.len());
            found.extend(page.iter().map(|blob| blob.id));
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
        }
        assert_eq!(found, expected, "in pages of {limit}");
    }
}

/// What has changed since it was read is asked again.
pub async fn claims_only_what_the_cutoffs_still_allow(subject: Arc<dyn Subject>) {
    let touched = upload(&*subject, digest(1), &tag("a", "x")).await;
    let referred = orphan(&*subject, digest(2)).await;
    let put_off = orphan(&*subject, digest(3)).await;
    let due = orphan(&*subject, digest(4)).await;
    let live = put(&*subject, digest(5), &tag("a", "x")).await;
    let cutoffs = all_due(&*subject).await;
    let page = subject.due(cutoffs, None, 10).await.expect("read");
    assert_eq!(page.len(), 4);
    subject.advance(MINUTE);
    assert!(subject.touch_pending(touched, &tag("a", "x")).await.expect("touched"));
    subject.begin(digest(2), SIZE, &tag("b", "x")).await.expect("begun");
    let third = subject.blobs(digest(3)).await.expect("read");
    assert_eq!(subject.claim(&third, cutoffs).await.expect("claimed"), [put_off]);
    subject.put_off(&[(put_off, "busy".to_owned())]).await.expect("put off");
    let all = [page, subject.blobs(digest(5)).await.expect("read")].concat();
    assert_eq!(subject.claim(&all, cutoffs).await.expect("claimed"), [due]);
    for (number, id, state) in [(1, touched, State::Pending), (2, referred, State::Live), (5, live, State::Live)] {
        assert_eq!(blob(&*subject, digest(number), id).await.state, state);
    }
}

/// A blob that is put after a sweep has read it stays, and so it does where its ref has gone again since.
pub async fn claims_nothing_that_was_put_again(subject: Arc<dyn Subject>) {
    let id = orphan(&*subject, digest(1)).await;
    let cutoffs = all_due(&*subject).await;
    let page = subject.due(cutoffs, None, 10).await.expect("read");
    subject.advance(MINUTE);
    assert_eq!(subject.begin(digest(1), SIZE, &tag("b", "x")).await.expect("begun"), Begun::Shared(id));
    assert_eq!(subject.claim(&page, cutoffs).await.expect("claimed"), []);
    subject.release("b", 1).await.expect("released");
    assert_eq!(subject.claim(&page, cutoffs).await.expect("claimed"), [], "its grace begins anew");
}

/// Nothing leads back from a claim: the same bytes are a new blob.
pub async fn puts_anew_what_was_claimed(subject: Arc<dyn Subject>) {
    let old = orphan(&*subject, digest(1)).await;
    assert_eq!(claim_all(&*subject).await, [old]);
    let new = put(&*subject, digest(1), &tag("b", "x")).await;
    subject.finalize("b", 1).await.expect("finalized");
    assert_ne!(old, new);
    subject.put_off(&[(old, "late".to_owned())]).await.expect("put off");
    assert_eq!(subject.forget(&[old]).await.expect("forgotten"), 1);
    assert_eq!(blob(&*subject, digest(1), new).await.state, State::Live);
    assert_eq!(names(&*subject, "b").await, [("x".to_owned(), true)]);
}

/// Sweepers that claim the same page at the same moment share it out.
pub async fn claims_each_blob_once_by_many_at_the_same_moment(subject: Arc<dyn Subject>) {
    let mut expected = Vec::new();
    for number in 0..20 {
        expected.push(orphan(&*subject, digest(number)).await);
    }
    let cutoffs = all_due(&*subject).await;
    let page = Arc::new(subject.due(cutoffs, None, 100).await.expect("read"));
    subject.advance(MINUTE);
    let claimed = at_once(&subject, 4, |subject, _| {
        let page = Arc::clone(&page);
        Box::pin(async move { subject.claim(&page, cutoffs).await.expect("claimed") })
    })
    .await;
    let mut claimed = claimed.concat();
    claimed.sort();
    expected.sort();
    assert_eq!(claimed, expected);
}

/// What was claimed and not forgotten is due at once, for whoever comes.
pub async fn claims_again_what_a_crash_left(subject: Arc<dyn Subject>) {
    let id = orphan(&*subject, digest(1)).await;
    for _ in 0..2 {
        assert_eq!(claim_all(&*subject).await, [id]);
    }
    assert_eq!(blob(&*subject, digest(1), id).await.attempts, 0);
}

/// Forgetting what is not claimed would lose it.
pub async fn forgets_claimed_blobs_only(subject: Arc<dyn Subject>) {
    let live = put(&*subject, digest(1), &tag("a", "x")).await;
    let gone = orphan(&*subject, digest(2)).await;
    assert_eq!(claim_all(&*subject).await, [gone]);
    let unclaimed = orphan(&*subject, digest(3)).await;
    let pending = upload(&*subject, digest(4), &tag("a", "x")).await;
    let all = [live, gone, unclaimed, pending, BlobId::new()];
    assert_eq!(subject.forget(&all).await.expect("forgotten"), 1);
    assert_eq!(subject.forget(&all).await.expect("forgotten"), 0);
    assert_eq!(subject.forget(&[]).await.expect("forgotten"), 0);
    assert_eq!(subject.totals().await.expect("counted").blobs(), 3);
}

/// A minute, two, four and so on, and a day at most; meanwhile it is not due. What is not claimed is not put off.
pub async fn puts_off_longer_each_time(subject: Arc<dyn Subject>) {
    let id = orphan(&*subject, digest(1)).await;
    let live = put(&*subject, digest(2), &tag("a", "x")).await;
    let minutes = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 1_440, 1_440];
    for (failed, minutes) in (1..).zip(minutes) {
        assert_eq!(claim_all(&*subject).await, [id], "before failure {failed}");
        let before = subject.now().await.expect("read");
        let why = format!("no {failed}\0 \u{1F9F9}");
        subject.put_off(&[(id, why.clone()), (live, why)]).await.expect("put off");
        let put_off = blob(&*subject, digest(1), id).await;
        assert_eq!((put_off.attempts, put_off.error), (failed, Some(format!("no {failed} \u{1F9F9}"))));
        let gap = put_off.next_at.expect("a time") - before;
        assert!((0..1_000).contains(&(gap.num_milliseconds() - minutes * 60_000)), "failure {failed}: {gap}");
        subject.advance(Duration::from_secs(u64::try_from(minutes).expect("positive") * 60 - 30));
        assert_eq!(claim_all(&*subject).await, [], "failure {failed}");
        subject.advance(Duration::from_secs(30));
    }
    let untouched = blob(&*subject, digest(2), live).await;
    assert_eq!((untouched.attempts, untouched.next_at, untouched.error), (0, None, None));
    subject.put_off(&[]).await.expect("nothing to do");
}

/// A task is remembered as long as it holds something, and for a time after it was last seen.
pub async fn forgets_a_task_that_holds_nothing(subject: Arc<dyn Subject>) {
    put(&*subject, digest(1), &tag("holds", "x")).await;
    put(&*subject, digest(2), &tag("failed", "x")).await;
    for task in ["holds", "failed"] {
        subject.release(task, 1).await.expect("released");
    }
    put(&*subject, digest(3), &Tag { attempt: 2, ..tag("holds", "x") }).await;
    for (by, is_known) in [(TASK_TTL.saturating_sub(MINUTE), true), (2 * MINUTE, false)] {
        subject.advance(by);
        subject.mend().await.expect("mended");
        for (task, is_over) in [("holds", true), ("failed", is_known)] {
            let again = subject.begin(digest(1), SIZE, &tag(task, "y")).await;
            assert_eq!(matches!(again, Err(BlobError::Closed { .. })), is_over, "{task}: {again:?}");
        }
    }
}

/// Where nothing is amiss there is nothing to mend: neither what is referred to nor what is due is touched.
pub async fn mends_nothing_where_nothing_is_amiss(subject: Arc<dyn Subject>) {
    let kept = put(&*subject, digest(1), &tag("a", "x")).await;
    let due = orphan(&*subject, digest(2)).await;
    let pending = upload(&*subject, digest(3), &tag("a", "y")).await;
    let before = [blob(&*subject, digest(1), kept).await, blob(&*subject, digest(2), due).await];
    subject.advance(MINUTE);
    assert_eq!(subject.mend().await.expect("mended"), 0);
    assert_eq!([blob(&*subject, digest(1), kept).await, blob(&*subject, digest(2), due).await], before);
    assert_eq!(blob(&*subject, digest(3), pending).await.zero_since, None);
}
