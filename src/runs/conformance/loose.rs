//! What is not runs: signals, acknowledgements, subscriptions and schedules.

use std::collections::BTreeSet;

use super::{Fence, JOB, LONG, StoreError, Subject, Thing, TimeDelta, checkpoint, cutoff, now, old, text};
use crate::report::Counts;

fn signal(id: &str, stream: &str, kind: &str, at: &str) -> Thing {
    Thing::Signal { id: id.to_owned(), stream: stream.to_owned(), kind: kind.to_owned(), at: Some(at.to_owned()) }
}

fn read(signal: &str, step_run: &str) -> Thing {
    Thing::Acknowledgement { signal: signal.to_owned(), step_run: step_run.to_owned(), at: Some(old()) }
}

fn subscription(stream: &str, step_run: &str, kinds: &str, status: &str) -> Thing {
    Thing::Subscription {
        stream: stream.to_owned(),
        step_run: step_run.to_owned(),
        kinds: kinds.to_owned(),
        status: status.to_owned(),
        at: Some(old()),
    }
}

fn schedule(id: &str, status: &str, deleted_at: Option<String>) -> Thing {
    Thing::Schedule { id: id.to_owned(), status: status.to_owned(), deleted_at }
}

/// All steps; 0 as `fence` only counts.
async fn sweep_loose(subject: &dyn Subject, fence: u64) -> Counts {
    let (store, fence) = (subject.store(), Fence::for_test(fence));
    let leave = (fence.get() > 0).then_some((JOB, fence));
    if leave.is_some() {
        store.raise(JOB, fence).await.unwrap();
    }
    let (mut counts, mut after) = (Counts::default(), None);
    for _ in 0..100 {
        let step = store.loose(cutoff(), after.as_ref(), leave, LONG).await.unwrap();
        counts.merge(&step.counts);
        after = step.next;
        if after.is_none() {
            return counts;
        }
    }
    panic!("steps go on after 100");
}

/// Puts `goes` and `stays`, sweeps, and sees that these stay.
async fn leaves(subject: &dyn Subject, goes: Vec<Thing>, stays: Vec<Thing>) {
    let all = goes.len() + stays.len();
    for thing in goes.into_iter().chain(stays.iter().cloned()) {
        subject.put(thing).await;
    }
    assert_eq!(subject.things().await.len(), all, "the things of the case are not apart");
    sweep_loose(subject, 1).await;
    let stays = stays.into_iter().map(|thing| subject.stored(thing)).collect::<BTreeSet<_>>();
    let left = subject.things().await;
    let too_much: Vec<&Thing> = stays.difference(&left).collect();
    let too_little: Vec<&Thing> = left.difference(&stays).collect();
    assert!(too_much.is_empty() && too_little.is_empty(), "took {too_much:?} and left {too_little:?}");
}

/// As long as a subscription that has not ended has not acknowledged a signal of its types, the signal stays.
pub async fn keeps_a_signal_that_is_still_to_be_read(subject: &dyn Subject) {
    let mut stays = Vec::new();
    let kinds = ["[\"paid\"]", "[\"sent\", \"paid\"]", "not JSON", "", "{\"paid\": true}", "\"paid\"", "null"];
    for (at, kinds) in kinds.into_iter().enumerate() {
        for status in ["waiting", "suspended", "some new status"] {
            let stream = format!("stream {at} {status}");
            stays.push(signal(&format!("signal of {stream}"), &stream, "paid", &old()));
            stays.push(subscription(&stream, &format!("step of {stream}"), kinds, status));
        }
    }
    // One of two has read it.
    stays.push(signal("half read", "shared", "paid", &old()));
    stays.push(subscription("shared", "reader", "[\"paid\"]", "waiting"));
    stays.push(subscription("shared", "sleeper", "[\"paid\"]", "suspended"));
    stays.push(read("half read", "reader"));
    leaves(subject, Vec::new(), stays).await;
}

/// A signal goes where no subscription has still to read it: none is there, or of other types, or ended, or all have.
pub async fn takes_a_signal_that_nobody_waits_for(subject: &dyn Subject) {
    let goes = vec![
        signal("nobody", "nobody", "paid", &old()),
        signal("other type", "other type", "paid", &old()),
        signal("no type", "no type", "paid", &old()),
        signal("ended", "ended", "paid", &old()),
        subscription("ended", "ended", "[\"paid\"]", "completed"),
        signal("read", "read", "paid", &old()),
        read("read", "reader"),
    ];
    let stays = vec![
        subscription("other type", "other type", "[\"sent\", \"PAID\", 1, null]", "waiting"),
        subscription("no type", "no type", "[]", "waiting"),
        subscription("read", "reader", "[\"paid\"]", "waiting"),
    ];
    leaves(subject, goes, stays).await;
}

/// Without its acknowledgement a signal would be delivered again.
pub async fn keeps_an_acknowledgement_as_long_as_its_signal(subject: &dyn Subject) {
    let stays = vec![
        signal("new", "stream", "paid", &text(cutoff())),
        read("new", "reader"),
        signal("unread", "stream", "sent", &old()),
        subscription("stream", "sleeper", "[\"sent\"]", "waiting"),
        read("unread", "reader"),
    ];
    let goes = vec![signal("old", "stream", "paid", &old()), read("old", "reader"), read("gone before", "reader")];
    leaves(subject, goes, stays).await;
}

/// A subscription that has ended goes, and what its step saved goes with the last subscription of the step.
pub async fn takes_an_ended_subscription_with_its_checkpoint(subject: &dyn Subject) {
    let goes = vec![
        subscription("stream", "completed", "[]", "completed"),
        checkpoint("completed"),
        subscription("stream", "terminated", "[]", "terminated"),
        checkpoint("terminated"),
        subscription("stream", "reads two", "[]", "completed"),
    ];
    let stays = vec![
        subscription("other", "reads two", "[]", "waiting"),
        checkpoint("reads two"),
        subscription("stream", "waiting", "[]", "waiting"),
        checkpoint("waiting"),
        subscription("stream", "suspended", "[]", "suspended"),
        checkpoint("suspended"),
        checkpoint("of no subscription"),
    ];
    leaves(subject, goes, stays).await;
}

/// A schedule goes long after it was deleted; what is active or paused stays, whatever times it has.
pub async fn takes_deleted_schedules_in_both_spellings(subject: &dyn Subject) {
    let goes = vec![schedule("lower", "deleted", Some(old())), schedule("upper", "DELETED", Some(old()))];
    let stays = vec![
        schedule("active", "active", Some(old())),
        schedule("paused", "paused", Some(old())),
        schedule("untimed", "deleted", None),
        schedule("new", "deleted", Some(text(now()))),
    ];
    leaves(subject, goes, stays).await;
}

/// The cutoff is exclusive, and a time that cannot be read is no old time.
pub async fn keeps_what_is_loose_and_not_old(subject: &dyn Subject) {
    let micro = TimeDelta::microseconds(1);
    let times = [
        ("at", text(cutoff())),
        ("after", text(cutoff() + micro)),
        ("ahead", "2026-10-21T17:00:00+14:00".to_owned()),
        ("behind", "2026-10-20T15:00:00-12:00".to_owned()),
        ("word", "yesterday".to_owned()),
        ("impossible", "2025-02-30T00:00:00+00:00".to_owned()),
    ];
    let all = |name: &str, at: Option<String>| {
        vec![
            Thing::Signal { id: name.to_owned(), stream: "stream".to_owned(), kind: "paid".to_owned(), at: at.clone() },
            Thing::Acknowledgement { signal: "gone".to_owned(), step_run: name.to_owned(), at: at.clone() },
            Thing::Subscription {
                stream: "stream".to_owned(),
                step_run: name.to_owned(),
                kinds: "[]".to_owned(),
                status: "completed".to_owned(),
                at: at.clone(),
            },
            schedule(name, "deleted", at),
        ]
    };
    let mut stays: Vec<Thing> = times.into_iter().flat_map(|(name, at)| all(name, Some(at))).collect();
    stays.extend(all("none", None));
    let mut goes = all("before", Some(text(cutoff() - micro)));
    goes.extend(all("before, ahead", Some("2026-10-21T16:59:59.999999+14:00".to_owned())));
    goes.extend(all("before, behind", Some("2026-10-20T14:59:59-12:00".to_owned())));
    leaves(subject, goes, stays).await;
}

/// What a dry run counts is what a real one takes, and the dry run takes nothing.
pub async fn counts_beforehand_what_is_loose(subject: &dyn Subject) {
    let things = [
        signal("old", "stream", "paid", &old()),
        read("old", "reader"),
        signal("new", "stream", "paid", &text(now())),
        read("new", "reader"),
        signal("unread", "stream", "sent", &old()),
        read("unread", "reader"),
        subscription("stream", "reader", "[\"paid\"]", "waiting"),
        subscription("stream", "sleeper", "[\"sent\"]", "waiting"),
        subscription("stream", "ended", "[\"sent\"]", "terminated"),
        schedule("deleted", "deleted", Some(old())),
        schedule("active", "active", None),
    ];
    for thing in things {
        subject.put(thing).await;
    }
    let before = subject.things().await;
    let planned = sweep_loose(subject, 0).await;
    assert_eq!(subject.things().await, before);
    let expected = Counts::from_iter([("signals", 1), ("acknowledgements", 1), ("subscriptions", 1), ("schedules", 1)]);
    assert_eq!(planned, expected);
    assert_eq!(sweep_loose(subject, 1).await, expected);
    assert_eq!(subject.things().await.len(), before.len() - 4);
    assert!(sweep_loose(subject, 2).await.iter().all(|(_, count)| count == 0));
}

/// A holder that lost the lock to a newer one takes nothing.
pub async fn refuses_a_stale_fence_for_what_is_loose(subject: &dyn Subject) {
    subject.put(schedule("deleted", "deleted", Some(old()))).await;
    subject.put(signal("old", "stream", "paid", &old())).await;
    let (before, store) = (subject.things().await, subject.store());
    store.raise(JOB, Fence::for_test(5)).await.unwrap();
    let error = store.loose(cutoff(), None, Some((JOB, Fence::for_test(4))), LONG).await.unwrap_err();
    assert!(matches!(error, StoreError::Fenced { highest: 5, .. }), "{error}");
    assert_eq!(subject.things().await, before);
}
