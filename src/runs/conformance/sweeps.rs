//! Which runs a retention job leaves.

use super::{
    DateTime, Order, Run, Subject, Thing, TimeDelta, Utc, at_hours, below, cutoff, event, expired, left, now, put_all,
    running, sweep, sweep_at, text,
};

/// What has not ended stays, however old it is, and so does what has a status that nobody knows.
pub async fn keeps_what_has_not_ended(subject: &dyn Subject) {
    let statuses = ["pending", "running", "suspended", "paused", "COMPLETED", "completed ", ""];
    put_all(subject, statuses.map(|status| Run { status: status.to_owned(), ..expired(format!("run {status}")) }))
        .await;
    let before = subject.things().await;
    assert_eq!(sweep(subject).await.ids, [""; 0]);
    assert_eq!(subject.things().await, before);
}

/// Every status of the layout that is terminal goes; `interrupted` is one of them.
pub async fn takes_whatever_has_ended(subject: &dyn Subject) {
    let statuses = ["completed", "failed", "cancelled", "continued_as_new", "interrupted"];
    put_all(subject, statuses.map(|status| Run { status: status.to_owned(), ..expired(status) })).await;
    sweep(subject).await;
    assert_eq!(left(subject).await, [""; 0]);
}

/// The cutoff is exclusive, to the microsecond.
pub async fn keeps_what_was_written_at_the_cutoff_or_later(subject: &dyn Subject) {
    let micro = TimeDelta::microseconds(1);
    let edges = [("at", cutoff()), ("before", cutoff() - micro), ("later", cutoff() + micro), ("now", now())];
    put_all(subject, edges.map(|(id, at)| Run { updated_at: Some(text(at)), ..expired(id) })).await;
    assert_eq!(sweep(subject).await.ids, ["before"]);
    assert_eq!(left(subject).await, ["at", "later", "now"]);
}

/// A time that is missing, or that means nothing, is no old time.
pub async fn keeps_and_counts_what_has_no_readable_time(subject: &dyn Subject) {
    let texts = [None, Some("yesterday"), Some("2025-02-30T00:00:00+00:00"), Some("2025-02-03"), Some("")];
    for (at, stamp) in texts.into_iter().enumerate() {
        let stamp = stamp.map(str::to_owned);
        let written = Run { updated_at: stamp.clone(), ..expired(format!("written {at}")) };
        let made = Run { created_at: stamp, ..expired(format!("made {at}")) };
        put_all(subject, [written, made]).await;
    }
    put_all(subject, [expired("whole")]).await;
    for is_real in [false, true] {
        let swept = sweep_at(subject.store(), &Order::default(), now(), is_real).await;
        assert_eq!((swept.ids, swept.tally.kept.get("unreadable_time")), (vec!["whole".to_owned()], 10));
    }
    assert_eq!(left(subject).await.len(), 10);
}

/// A time of another offset, without a fraction, or with a space is the instant that it is.
pub async fn compares_times_as_instants(subject: &dyn Subject) {
    let texts = [
        ("goes: offset ahead", "2026-10-21T04:59:59.999999+02:00"),
        ("goes: offset behind", "2026-10-20T13:59:59-13:00"),
        ("goes: no offset", "2026-10-21T02:59:59"),
        ("goes: space", "2026-10-21 02:59:59.5"),
        ("goes: Z", "2026-10-21T02:59:59Z"),
        ("stays: offset ahead", "2026-10-21T17:00:00+14:00"),
        ("stays: offset behind", "2026-10-20T15:00:00.000000-12:00"),
        ("stays: no fraction", "2026-10-21T03:00:00+00:00"),
        ("stays: whole fraction", "2026-10-21T03:00:00.000000+00:00"),
        ("stays: space", "2026-10-21 03:00:00"),
    ];
    put_all(
        subject,
        texts.map(|(id, at)| Run { created_at: Some(at.to_owned()), updated_at: Some(at.to_owned()), ..expired(id) }),
    )
    .await;
    sweep(subject).await;
    let stays: Vec<&str> = texts.iter().map(|(id, _)| *id).filter(|id| id.starts_with("stays")).collect();
    let mut left = left(subject).await;
    left.sort_unstable_by_key(|id| stays.iter().position(|stay| stay == id));
    assert_eq!(left, stays);
}

/// One run that stays holds every run above it and nothing beside it.
pub async fn keeps_a_run_above_one_that_stays_to_any_depth(subject: &dyn Subject) {
    let depth = 40;
    put_all(subject, [expired("above 0")]).await;
    for at in 1..depth {
        // Every other run was made before its parent.
        let hours = if at % 2 == 0 { -at } else { -1_000 + at };
        let parent = format!("above {}", at - 1);
        let uncle = at_hours(-500, below(&parent, expired(format!("beside {at}"))));
        put_all(subject, [at_hours(hours, below(&parent, expired(format!("above {at}")))), uncle]).await;
    }
    put_all(subject, [running(below(&format!("above {}", depth - 1), expired("stays")))]).await;
    for is_real in [false, true] {
        let swept = sweep_at(subject.store(), &Order::default(), now(), is_real).await;
        assert!(swept.ids.iter().all(|id| id.starts_with("beside")), "{:?}", swept.ids);
        assert_eq!((swept.ids.len(), swept.tally.kept.get("parent_of_kept")), (39, 40));
    }
    assert_eq!(left(subject).await.len(), 41);
}

/// A family whose every run may go goes, whichever was made first and however large the batches are.
pub async fn takes_an_expired_family_in_one_pass(subject: &dyn Subject) {
    for batch in [1, 2, 1_000] {
        let family = [
            at_hours(-50, expired("parent first")),
            at_hours(-40, below("parent first", expired("child of first"))),
            at_hours(-30, below("child of first", expired("grandchild of first"))),
            at_hours(-10, expired("parent last")),
            at_hours(-20, below("parent last", expired("child of last"))),
            at_hours(-60, below("child of last", expired("grandchild of last"))),
            below("parent", expired("a twin")),
            below("parent", expired("z twin")),
            expired("parent"),
        ];
        put_all(subject, family).await;
        let order = Order { batch, ..Order::default() };
        let swept = sweep_at(subject.store(), &order, now(), true).await;
        assert_eq!((left(subject).await, swept.ids.len()), (Vec::new(), 9), "batches of {batch}");
        assert_eq!(swept.tally.planned.get("runs"), 9);
    }
}

/// Nothing says which run of a cycle is the first to go, so none does; and no sweep goes round for ever.
pub async fn keeps_a_cycle_of_parents_and_what_is_above_it(subject: &dyn Subject) {
    let runs = [
        below("itself", expired("itself")),
        below("two", expired("one")),
        below("one", expired("two")),
        at_hours(-1_000, below("c", expired("a"))),
        at_hours(-2_000, below("a", expired("b"))),
        at_hours(-1, below("b", expired("c"))),
        // A run has one parent: only a run of the cycle can be above it.
        below("a", expired("hangs on the cycle")),
    ];
    put_all(subject, runs).await;
    for is_real in [false, true] {
        let swept = sweep_at(subject.store(), &Order::default(), now(), is_real).await;
        assert_eq!((swept.ids, swept.tally.kept.get("parent_of_kept")), (vec!["hangs on the cycle".to_owned()], 6));
    }
    assert_eq!(left(subject).await, ["a", "b", "c", "itself", "one", "two"]);
}

/// A chain of continued runs is no family: each goes when it is old enough.
pub async fn is_not_held_by_what_a_run_goes_on_from(subject: &dyn Subject) {
    let next = Run { continued_from: Some("first".to_owned()), ..running(expired("next")) };
    put_all(subject, [Run { status: "continued_as_new".to_owned(), ..expired("first") }, next]).await;
    assert_eq!(sweep(subject).await.ids, ["first"]);
    assert_eq!(left(subject).await, ["next"]);
}

/// A parent that is gone, or lives on, holds nothing below it.
pub async fn is_not_held_by_a_parent_that_is_not_there(subject: &dyn Subject) {
    put_all(subject, [below("nobody", expired("orphan")), running(expired("alive")), below("alive", expired("child"))])
        .await;
    sweep(subject).await;
    assert_eq!(left(subject).await, ["alive"]);
}

/// Where times contradict each other by more than clocks differ, the run stays, and holds what is above it.
pub async fn keeps_what_looks_made_long_after_its_last_update(subject: &dyn Subject) {
    let made = |hours| Some(text(cutoff() + TimeDelta::hours(hours)));
    let runs = [
        Run { created_at: made(23), ..expired("skewed") },
        Run { created_at: made(25), ..expired("absurd") },
        Run { created_at: made(25), ..below("above", expired("absurd child")) },
        expired("above"),
    ];
    put_all(subject, runs).await;
    for is_real in [false, true] {
        assert_eq!(sweep_at(subject.store(), &Order::default(), now(), is_real).await.ids, ["skewed"]);
    }
    assert_eq!(left(subject).await, ["above", "absurd", "absurd child"]);
}

/// A dry run names what the real run then deletes and changes nothing, and a second real run finds nothing.
pub async fn lists_beforehand_what_it_deletes(subject: &dyn Subject) {
    for at in 0..60_i64 {
        let parent = if at % 3 == 0 { None } else { Some(format!("run {}", at / 3)) };
        let run = Run { parent, ..at_hours((at * 37) % 100 - 90, expired(format!("run {at}"))) };
        put_all(subject, [if at % 11 == 5 { running(run) } else { run }]).await;
        subject.put(event(&format!("run {at}"))).await;
    }
    let before = subject.things().await;
    let order = Order { batch: 7, ..Order::default() };
    let planned = sweep_at(subject.store(), &order, now(), false).await;
    assert_eq!(subject.things().await, before, "a dry run changed something");
    let deleted = sweep_at(subject.store(), &order, now(), true).await;
    let gone: Vec<Thing> = before.difference(&subject.things().await).cloned().collect();
    assert_eq!(sorted(planned.ids), sorted(deleted.ids.clone()));
    assert_eq!(planned.tally.planned, deleted.tally.planned);
    assert_eq!(planned.tally.kept.get("parent_of_kept"), deleted.tally.kept.get("parent_of_kept"));
    assert_eq!(gone.len(), 2 * deleted.ids.len(), "each run with its event");
    assert!(!deleted.ids.is_empty() && !left(subject).await.is_empty());
    assert_eq!(sweep_at(subject.store(), &order, now(), true).await.ids, [""; 0]);
}

/// An empty store is no error.
pub async fn sweeps_an_empty_store(subject: &dyn Subject) {
    for is_real in [false, true] {
        let swept = sweep_at(subject.store(), &Order::default(), now(), is_real).await;
        assert_eq!((swept.ids, swept.tally.batches, swept.tally.planned.get("runs")), (Vec::new(), 0, 0));
    }
    let store = subject.store();
    assert!(store.page(DateTime::<Utc>::MIN_UTC, None, 10).await.unwrap().runs.is_empty());
    assert!(!store.check().await.unwrap().facts.is_empty());
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort_unstable();
    ids
}
