//! Sweeps that end at any moment, and services that answer late, half or not at all.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use apalis_janitor::{
    lock::Fence,
    runs::{
        RunStore, Seen, StoreError,
        conformance::{Order, Subject, sweep_at},
        memory::{Run, Thing},
    },
};
use chrono::{DateTime, TimeZone, Utc};

use super::{
    DynamoWorld,
    proxy::{Act, Proxy},
};
use crate::dynamodb::Table;

const JOB: &str = "old-runs";
const LONG: Duration = Duration::from_mins(1);

pub fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 20, 3, 0, 0).unwrap()
}

pub fn expired(id: &str) -> Run {
    let at = Some("2026-01-01T00:00:00+00:00".to_owned());
    Run {
        id: id.to_owned(),
        status: "completed".to_owned(),
        workflow: "order".to_owned(),
        created_at: at.clone(),
        updated_at: at,
        ..Run::default()
    }
}

pub fn owned(kind: &str, run: &str, id: &str) -> Thing {
    Thing::Owned { kind: kind.to_owned(), run: run.to_owned(), id: id.to_owned() }
}

fn running(run: Run) -> Run {
    Run { status: "running".to_owned(), ..run }
}

/// A run with all that can belong to one.
pub fn whole(run: Run) -> Vec<Thing> {
    let id = run.id.clone();
    let mut things = vec![Thing::Run(run), owned("cancellation_flags", &id, "")];
    things.extend((0..3).map(|at| owned("events", &id, &format!("event {at}"))));
    for at in 0..2 {
        let step = format!("step {at} of {id}");
        things.extend([owned("steps", &id, &step), owned("hooks", &id, &format!("hook {at}"))]);
        things.extend([Thing::Checkpoint { key: format!("{id}:{step}") }, Thing::Checkpoint { key: step }]);
    }
    things
}

/// A world behind a proxy, with a family of two runs that are due, and one that stays.
async fn world_with_runs() -> (DynamoWorld, Proxy, BTreeSet<Thing>) {
    let table = Table::make().await;
    let proxy = Proxy::before(table.port).await;
    let store = Arc::new(table.open_by(&proxy.endpoint()).await.unwrap());
    let world = DynamoWorld::over(table, store);
    let goes = [Run { parent: Some("b".to_owned()), ..expired("a") }, expired("b")];
    let stays: BTreeSet<Thing> = whole(running(expired("stays"))).into_iter().collect();
    let things = goes.into_iter().flat_map(whole).chain(stays.clone());
    futures::future::join_all(things.map(|thing| world.put(thing))).await;
    (world, proxy, stays)
}

/// The runs that are due, as a page shows them.
async fn due(world: &DynamoWorld) -> Vec<Seen> {
    let runs = world.store.page(now(), None, 100).await.unwrap().runs;
    runs.into_iter().filter(|run| run.status == "completed").collect()
}

/// What is there of the runs that still stand must be all of it.
fn assert_whole(things: &BTreeSet<Thing>) {
    for thing in things {
        if let Thing::Run(run) = thing {
            let own = whole(run.clone());
            let lost: Vec<&Thing> = own.iter().filter(|thing| !things.contains(thing)).collect();
            assert!(lost.is_empty(), "run {:?} stands and has lost {lost:?}", run.id);
        }
    }
}

/// Ends a sweep at each of its requests in turn, by `act` for that one and an error for all that follow; the next one finishes it.
async fn ends_at_each_request(act: Act) {
    for at in 0.. {
        let (world, proxy, stays) = world_with_runs().await;
        let (runs, fence) = (due(&world).await, Fence::for_test(1));
        let act = act.clone();
        proxy.set(move |asked| match asked.number {
            number if number < at => Act::Pass,
            number if number == at => act.clone(),
            _ => Act::Fail("ValidationException"),
        });
        let swept = match world.store.raise(JOB, fence).await {
            Ok(()) => world.store.delete(JOB, fence, &runs, LONG).await.map(|deleted| deleted.runs.len()),
            Err(error) => Err(error),
        };
        let requests = proxy.count();
        proxy.set(|_| Act::Pass);
        let things = world.things().await;
        assert_whole(&things);
        assert!(stays.is_subset(&things), "ended at request {at}");
        if at >= requests {
            assert_eq!(swept.unwrap(), 2);
            assert_eq!(things, stays);
            assert!(at >= 10, "only {at} requests were ended");
            return;
        }
        assert!(matches!(swept, Err(StoreError::Unavailable { .. })), "ended at request {at}: {swept:?}");
        sweep_at(world.store(), &Order::default(), now(), true).await;
        assert_eq!(world.things().await, stays, "ended at request {at}");
    }
}

#[tokio::test]
async fn a_sweep_that_ends_before_any_request_is_finished_by_the_next() {
    ends_at_each_request(Act::Fail("ValidationException")).await;
}

/// Of each request the server has done what it was asked, and nobody knows.
#[tokio::test]
async fn a_sweep_that_ends_after_any_request_is_finished_by_the_next() {
    ends_at_each_request(Act::Lose).await;
}

#[tokio::test]
async fn goes_on_where_connections_break() {
    let (world, proxy, stays) = world_with_runs().await;
    // Of each request the first is dropped, of some the answer is lost.
    proxy.set(|asked| match asked.number % 4 {
        0 => Act::Drop,
        2 => Act::Lose,
        _ => Act::Pass,
    });
    let swept = sweep_at(world.store(), &Order::default(), now(), true).await;
    assert_eq!((swept.ids.len(), swept.tally.deleted.get("runs")), (2, 2));
    assert_eq!(world.things().await, stays);
}

#[tokio::test]
async fn goes_on_where_it_is_throttled() {
    let (world, proxy, stays) = world_with_runs().await;
    let halves = Arc::new(AtomicUsize::new(0));
    let counted = halves.clone();
    proxy.set(move |asked| match (asked.operation.as_str(), asked.number % 3) {
        (_, 0) => Act::Fail("ProvisionedThroughputExceededException"),
        ("BatchWriteItem" | "BatchGetItem", _) => {
            counted.fetch_add(1, Ordering::Relaxed);
            Act::Half
        }
        (_, 1) if asked.number % 2 == 0 => Act::Fail("RequestLimitExceeded"),
        _ => Act::Pass,
    });
    let swept = sweep_at(world.store(), &Order::default(), now(), true).await;
    assert_eq!((swept.ids.len(), swept.tally.deleted.get("runs")), (2, 2));
    assert_eq!(world.things().await, stays);
    assert!(halves.load(Ordering::Relaxed) > 10, "{halves:?}");
}

/// The client asks again with the same token, so the transaction is not done twice and its runs are counted.
#[tokio::test]
async fn counts_what_went_although_the_answer_was_late() {
    let (world, proxy, stays) = world_with_runs().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    proxy.set(move |asked| {
        let is_first = asked.operation == "TransactWriteItems" && counted.fetch_add(1, Ordering::Relaxed) == 0;
        if is_first { Act::Hang } else { Act::Pass }
    });
    let swept = sweep_at(world.store(), &Order::default(), now(), true).await;
    assert_eq!((swept.ids.len(), swept.tally.deleted.get("runs"), swept.tally.kept.get("changed")), (2, 2, 0));
    assert_eq!(world.things().await, stays);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn gives_up_where_nothing_gets_through() {
    let (world, proxy, _) = world_with_runs().await;
    let before = world.things().await;
    let (runs, fence) = (due(&world).await, Fence::for_test(1));
    world.store.raise(JOB, fence).await.unwrap();
    proxy.set(|_| Act::Fail("ThrottlingException"));
    let error = world.store.delete(JOB, fence, &runs, LONG).await.unwrap_err();
    let StoreError::Unavailable { source, .. } = &error else { panic!("{error}") };
    assert!(source.to_string().ends_with("ThrottlingException: said the test"), "{source}");
    proxy.set(|_| Act::Pass);
    assert_eq!(world.things().await, before);
    assert_eq!(world.store.delete(JOB, fence, &runs, LONG).await.unwrap().runs.len(), 2);
}

/// A dead holder's runs are finished, but not one that its owner made anew under the same id.
#[tokio::test]
async fn leaves_a_run_that_was_made_anew_since_it_was_marked() {
    let (world, proxy, stays) = world_with_runs().await;
    let (runs, fence) = (due(&world).await, Fence::for_test(1));
    world.store.raise(JOB, fence).await.unwrap();
    let is_marked = AtomicUsize::new(0);
    proxy.set(move |asked| match asked.operation.as_str() {
        "TransactWriteItems" if is_marked.swap(1, Ordering::Relaxed) == 0 => Act::Pass,
        _ if is_marked.load(Ordering::Relaxed) == 0 => Act::Pass,
        _ => Act::Fail("ValidationException"),
    });
    world.store.delete(JOB, fence, &runs, LONG).await.unwrap_err();
    proxy.set(|_| Act::Pass);
    assert_eq!(world.markers().await, 1);
    world.put(Thing::Run(running(expired("b")))).await;
    world.store.raise(JOB, Fence::for_test(2)).await.unwrap();
    let mut expected = stays;
    expected.extend(whole(running(expired("b"))));
    assert_eq!(world.things().await, expected);
    assert_eq!(world.markers().await, 0);
}
