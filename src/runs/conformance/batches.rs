//! What one delete takes, and what it leaves.

use std::time::Duration;

use super::{
    Fence, JOB, LONG, Run, RunStore, StoreError, Subject, Thing, below, cutoff, delete, event, expired, left, put_all,
    running, seen, text,
};

/// A run that was revived, or only touched, keeps everything; the others of its batch go.
pub async fn leaves_a_run_that_was_written_since_it_was_read(subject: &dyn Subject) {
    let store = subject.store();
    put_all(subject, ["revived", "touched", "retimed", "untimed", "as read"].map(expired)).await;
    for run in ["revived", "touched", "as read"] {
        subject.put(event(run)).await;
    }
    let batch = seen(&*store, &["revived", "touched", "retimed", "untimed", "as read"]).await;
    let written = [
        running(expired("revived")),
        Run { updated_at: Some(text(cutoff())), ..expired("touched") },
        // The same instant in other words is another write.
        Run { updated_at: Some("2026-10-11T03:00:00.000000+00:00".to_owned()), ..expired("retimed") },
        Run { updated_at: None, ..expired("untimed") },
    ];
    // Unless the store knows one word for each instant: then nothing was changed.
    let stored = |run: &Run| subject.stored(Thing::Run(run.clone()));
    let is_same = stored(&written[2]) == stored(&expired("retimed"));
    put_all(subject, written).await;
    let goes = |thing: &Thing| is_of(thing, "as read") || is_same && is_of(thing, "retimed");
    let expected: Vec<Thing> = subject.things().await.into_iter().filter(|thing| !goes(thing)).collect();
    let deleted = delete(&*store, 1, &batch).await;
    let gone: &[&str] = if is_same { &["retimed", "as read"] } else { &["as read"] };
    assert_eq!((deleted.runs.iter().map(String::as_str).collect::<Vec<_>>().as_slice(), deleted.held), (gone, 0));
    assert_eq!(deleted.changed, 5 - gone.len() as u64);
    assert_eq!(subject.things().await.into_iter().collect::<Vec<_>>(), expected);
}

fn is_of(thing: &Thing, id: &str) -> bool {
    matches!(thing, Thing::Run(run) if run.id == id) || matches!(thing, Thing::Owned { run, .. } if run == id)
}

/// A run that somebody else deleted is not an error.
pub async fn leaves_a_run_that_is_gone_since_it_was_read(subject: &dyn Subject) {
    let store = subject.store();
    put_all(subject, ["gone", "there"].map(expired)).await;
    let batch = seen(&*store, &["gone", "there"]).await;
    subject.remove("gone").await;
    let deleted = delete(&*store, 1, &batch).await;
    assert_eq!((deleted.runs, deleted.changed), (vec!["there".to_owned()], 1));
    assert_eq!(left(subject).await, [""; 0]);
}

/// A child that nobody saw when the batch was planned holds its parent, and that one its own.
pub async fn leaves_a_run_that_has_a_new_child(subject: &dyn Subject) {
    let store = subject.store();
    put_all(
        subject,
        [expired("root"), below("root", expired("middle")), below("root", expired("other")), expired("z")],
    )
    .await;
    subject.put(event("middle")).await;
    let batch = seen(&*store, &["other", "middle", "root", "z"]).await;
    // Whether it has ended is not asked: it is not in the batch.
    put_all(subject, [below("middle", expired("new"))]).await;
    let deleted = delete(&*store, 1, &batch).await;
    assert_eq!((deleted.runs, deleted.changed, deleted.held), (vec!["other".to_owned(), "z".to_owned()], 0, 2));
    assert_eq!(left(subject).await, ["middle", "new", "root"]);
    assert!(subject.things().await.contains(&event("middle")));
}

/// What changed at the bottom of a family keeps all that is above it.
pub async fn leaves_every_run_above_one_that_changed(subject: &dyn Subject) {
    let store = subject.store();
    let ids: Vec<String> = (0..20).map(|at| format!("run {at:02}")).collect();
    put_all(subject, [expired(&*ids[0])]).await;
    put_all(subject, ids.windows(2).map(|pair| below(&pair[0], expired(&*pair[1])))).await;
    let names: Vec<&str> = ids.iter().map(String::as_str).collect();
    let batch = seen(&*store, &names).await;
    put_all(subject, [running(below("run 14", expired("run 15")))]).await;
    let deleted = delete(&*store, 1, &batch).await;
    assert_eq!((deleted.runs, deleted.changed, deleted.held), (ids[16..].to_vec(), 1, 15));
    assert_eq!(left(subject).await, ids[..16]);
}

/// In one batch the order of parents and children means nothing.
pub async fn deletes_a_family_in_any_order(subject: &dyn Subject) {
    let store = subject.store();
    for (at, order) in
        [["root", "child", "leaf"], ["leaf", "child", "root"], ["child", "root", "leaf"]].iter().enumerate()
    {
        put_all(subject, [expired("root"), below("root", expired("child")), below("child", expired("leaf"))]).await;
        let batch = seen(&*store, order).await;
        let deleted = delete(&*store, 1 + at as u64, &batch).await;
        assert_eq!((deleted.runs, deleted.counts.get("runs")), (order.map(str::to_owned).to_vec(), 3));
        assert_eq!(left(subject).await, [""; 0]);
    }
}

/// The same batch again, or a run twice in a batch, does nothing more.
pub async fn deletes_twice_without_harm(subject: &dyn Subject) {
    let store = subject.store();
    put_all(subject, ["goes", "stays"].map(expired)).await;
    let batch = seen(&*store, &["goes", "goes"]).await;
    let deleted = delete(&*store, 1, &batch).await;
    assert_eq!((deleted.runs, deleted.counts.get("runs"), deleted.changed), (vec!["goes".to_owned()], 1, 0));
    let again = delete(&*store, 2, &batch).await;
    assert_eq!((again.runs, again.counts.get("runs"), again.changed), (Vec::new(), 0, 1));
    let nothing = delete(&*store, 3, &[]).await;
    assert_eq!((nothing.runs, nothing.changed, nothing.held), (Vec::new(), 0, 0));
    assert_eq!(left(subject).await, ["stays"]);
}

/// What has no time left changes nothing and says so, and the next one works.
pub async fn deletes_nothing_past_its_time_limit(subject: &dyn Subject) {
    let store = subject.store();
    put_all(subject, ["one", "two"].map(expired)).await;
    subject.put(event("one")).await;
    let (batch, before, fence) = (seen(&*store, &["one", "two"]).await, subject.things().await, Fence::for_test(1));
    store.raise(JOB, fence).await.unwrap();
    let error = store.delete(JOB, fence, &batch, Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, StoreError::TimedOut { .. }), "{error}");
    assert_eq!(subject.things().await, before);
    assert_eq!(store.delete(JOB, fence, &batch, LONG).await.unwrap().runs, ["one", "two"]);
    assert!(subject.things().await.is_empty());
}

/// A holder that lost the lock to a newer one deletes nothing, and neither does one that never raised its fence.
pub async fn refuses_a_stale_fence(subject: &dyn Subject) {
    let store = subject.store();
    put_all(subject, ["one"].map(expired)).await;
    let (batch, before) = (seen(&*store, &["one"]).await, subject.things().await);
    store.raise(JOB, Fence::for_test(7)).await.unwrap();
    store.raise(JOB, Fence::for_test(9)).await.unwrap();
    for wrong in [7, 8, 10] {
        let error = store.delete(JOB, Fence::for_test(wrong), &batch, LONG).await.unwrap_err();
        assert!(matches!(error, StoreError::Fenced { fence, highest: 9, .. } if fence.get() == wrong), "{error}");
    }
    assert_eq!(subject.things().await, before);
    assert_eq!(store.delete(JOB, Fence::for_test(9), &batch, LONG).await.unwrap().runs, ["one"]);
}

/// A fence that the store has seen, or a lower one, is refused and changes nothing.
pub async fn raises_a_fence_only_upwards(subject: &dyn Subject) {
    let store = subject.store();
    store.raise(JOB, Fence::for_test(1_763_672_400_123)).await.unwrap();
    for low in [1, 1_763_672_400_122, 1_763_672_400_123] {
        let error = store.raise(JOB, Fence::for_test(low)).await.unwrap_err();
        assert!(matches!(error, StoreError::Fenced { highest: 1_763_672_400_123, .. }), "{error}");
    }
    store.raise(JOB, Fence::for_test(1_763_672_400_124)).await.unwrap();
}

/// Two jobs on one store have nothing to do with each other's fences.
pub async fn keeps_the_fences_of_two_jobs_apart(subject: &dyn Subject) {
    let store: &dyn RunStore = &*subject.store();
    put_all(subject, ["one"].map(expired)).await;
    store.raise(JOB, Fence::for_test(9)).await.unwrap();
    store.raise("another", Fence::for_test(3)).await.unwrap();
    let batch = seen(store, &["one"]).await;
    let error = store.delete("another", Fence::for_test(9), &batch, LONG).await.unwrap_err();
    assert!(matches!(error, StoreError::Fenced { highest: 3, .. }), "{error}");
    assert_eq!(store.delete("another", Fence::for_test(3), &batch, LONG).await.unwrap().runs, ["one"]);
}
