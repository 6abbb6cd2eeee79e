//! Index entries that are stale or of another run, crashes, and holders that lost the lock.

use std::{collections::BTreeSet, time::Duration};

use apalis_janitor::{
    lock::Fence,
    runs::{
        RunStore, Seen, StoreError,
        conformance::{Order, Subject, Swept, sweep_at},
        memory::{Run, Thing},
    },
};
use chrono::{DateTime, TimeZone, Utc};
use scylla::value::CqlTimestamp;

use super::world::{CassandraWorld, open};

pub const JOB: &str = "old-runs";
pub const LONG: Duration = Duration::from_mins(1);
/// When the runs of these tests were made and ended, and the day of it.
const OLD: &str = "2026-01-01T00:00:00+00:00";
const DAY: &str = "2026-01-01";
/// All tables of an engine's run, with the column that names the run.
const TABLES: [&str; 12] = [
    "workflow_runs",
    "events",
    "steps",
    "hooks",
    "cancellation_flags",
    "runs_by_idempotency_key",
    "runs_by_status",
    "runs_by_workflow",
    "runs_by_parent",
    "steps_by_id",
    "hooks_by_id",
    "hooks_by_token",
];

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 20, 3, 0, 0).unwrap()
}

pub fn expired(id: &str) -> Run {
    let at = Some(OLD.to_owned());
    Run {
        id: id.to_owned(),
        status: "completed".to_owned(),
        workflow: "order".to_owned(),
        created_at: at.clone(),
        updated_at: at,
        ..Run::default()
    }
}

fn owned(kind: &str, run: &str, id: &str) -> Thing {
    Thing::Owned { kind: kind.to_owned(), run: run.to_owned(), id: id.to_owned() }
}

/// A run with something in every table. Its steps and hooks have ids that every run has.
async fn put_whole(world: &CassandraWorld, id: &str, parent: &str) {
    world.put(Thing::Run(Run { parent: Some(parent.to_owned()), ..expired(id) })).await;
    let key = format!("key of {id}");
    world.execute("UPDATE workflow_runs SET idempotency_key = ? WHERE run_id = ?", (&key, id)).await;
    let text = "INSERT INTO runs_by_idempotency_key (idempotency_key, run_id) VALUES (?, ?)";
    world.execute(text, (key, id)).await;
    for thing in [
        owned("events", id, &format!("event of {id}")),
        owned("steps", id, "step_pay"),
        owned("steps", id, &format!("step of {id}")),
        owned("hooks", id, "hook_approve_0"),
        owned("cancellation_flags", id, ""),
        Thing::Checkpoint { key: format!("{id}:step_pay") },
    ] {
        world.put(thing).await;
    }
}

/// The rows that name `run`, by table.
async fn rows_of(world: &CassandraWorld, run: &str) -> Vec<(&'static str, usize)> {
    let mut found = Vec::new();
    for table in TABLES {
        let rows: Vec<(Option<String>,)> = world.rows(&format!("SELECT run_id FROM {table}"), ()).await;
        found.push((table, rows.into_iter().filter(|(of,)| of.as_deref() == Some(run)).count()));
    }
    let keys: Vec<(String,)> = world.rows("SELECT step_run_id FROM checkpoints", ()).await;
    found.push(("checkpoints", keys.iter().filter(|(key,)| key.starts_with(&format!("{run}:"))).count()));
    found
}

async fn is_gone(world: &CassandraWorld, run: &str) -> bool {
    rows_of(world, run).await.iter().all(|(_, count)| *count == 0)
}

async fn page(world: &CassandraWorld) -> Vec<Seen> {
    let runs = world.store.page(now(), None, 1_000).await.unwrap();
    assert_eq!(runs.next, None);
    runs.runs
}

async fn sweep(world: &CassandraWorld) -> Swept {
    sweep_at(world.store(), &Order::default(), now(), true).await
}

async fn left(world: &CassandraWorld) -> BTreeSet<String> {
    let rows: Vec<(String,)> = world.rows("SELECT run_id FROM workflow_runs", ()).await;
    rows.into_iter().map(|(id,)| id).collect()
}

#[tokio::test]
async fn takes_every_index_entry_of_a_run_and_none_of_another() {
    let world = CassandraWorld::new().await;
    put_whole(&world, "first", "").await;
    put_whole(&world, "goes", "gone before").await;
    // It was the last to write the entries of the ids that all have.
    put_whole(&world, "stays", "").await;
    world.put(Thing::Run(Run { status: "running".to_owned(), ..expired("stays") })).await;
    world.put(Thing::Run(Run { status: "suspended".to_owned(), ..expired("first") })).await;
    let before = rows_of(&world, "stays").await;
    assert_eq!(sweep(&world).await.ids, ["goes"]);
    assert!(is_gone(&world, "goes").await, "{:?}", rows_of(&world, "goes").await);
    assert_eq!(rows_of(&world, "stays").await, before);
    assert_eq!(
        rows_of(&world, "first").await[1..5],
        [("events", 1), ("steps", 2), ("hooks", 1), ("cancellation_flags", 1)]
    );
    assert_eq!(world.count("janitor_marker").await, 0);
}

#[tokio::test]
async fn finds_a_run_in_whichever_partition_it_sits_and_heals_the_index() {
    let world = CassandraWorld::new().await;
    for id in ["claimed", "in two", "of another zone", "alive"] {
        world.put(Thing::Run(Run { status: "running".to_owned(), ..expired(id) })).await;
    }
    for id in ["claimed", "in two", "of another zone"] {
        world.put(Thing::Run(expired(id))).await;
    }
    let entry = "INSERT INTO runs_by_status (status, date_bucket, created_at, run_id) VALUES (?, ?, ?, ?)";
    let at = CqlTimestamp(DateTime::parse_from_rfc3339(OLD).unwrap().timestamp_millis());
    world.execute(entry, ("completed", DAY, at, "in two")).await;
    // The index says that it has ended; its own row does not.
    world.execute(entry, ("completed", DAY, at, "alive")).await;
    // An entry of a run that is gone, and one of a run that was made at another time.
    world.execute(entry, ("failed", DAY, at, "gone")).await;
    world.execute(entry, ("failed", DAY, CqlTimestamp(at.0 + 1), "alive")).await;
    let move_day =
        "DELETE FROM runs_by_status WHERE status = 'running' AND date_bucket = ? AND created_at = ? AND run_id = ?";
    world.execute(move_day, (DAY, at, "of another zone")).await;
    world.execute(entry, ("running", "2025-12-31", at, "of another zone")).await;
    let shown: Vec<String> = page(&world).await.into_iter().map(|run| run.id).collect();
    assert_eq!(shown, ["in two", "claimed", "alive", "of another zone"]);
    assert_eq!(sweep(&world).await.ids, ["in two", "claimed", "of another zone"]);
    let mut entries: Vec<(String, String)> = world.rows("SELECT run_id, status FROM runs_by_status", ()).await;
    entries.sort_unstable();
    let expected = [("alive", "completed"), ("alive", "failed"), ("alive", "running"), ("gone", "failed")];
    assert_eq!(entries, expected.map(|(run, status)| (run.to_owned(), status.to_owned())));
}

#[tokio::test]
async fn heals_the_index_of_a_run_that_no_page_has_shown() {
    let world = CassandraWorld::new().await;
    world.put(Thing::Run(Run { status: "waiting for godot".to_owned(), ..expired("one") })).await;
    world.put(Thing::Run(expired("one"))).await;
    put_whole(&world, "two", "one").await;
    let batch = page(&world).await;
    let fresh = open(&world.keyspace.url()).await.unwrap();
    fresh.raise(JOB, Fence::for_test(1)).await.unwrap();
    assert_eq!(fresh.delete(JOB, Fence::for_test(1), &batch, LONG).await.unwrap().runs.len(), 2);
    assert!(is_gone(&world, "one").await && is_gone(&world, "two").await);
}

#[tokio::test]
async fn a_crash_at_any_moment_leaves_a_run_whole_or_for_the_next_to_finish() {
    let world = CassandraWorld::new().await;
    let ids = ["a", "b", "c"];
    let mut fence = 0;
    for polls in (1..200).step_by(3) {
        for id in ids {
            if !left(&world).await.contains(id) {
                put_whole(&world, id, "").await;
            }
        }
        fence += 2;
        let store = open(&world.keyspace.url()).await.unwrap();
        store.raise(JOB, Fence::for_test(fence)).await.unwrap();
        let batch = page(&world).await;
        let mut delete = Box::pin(store.delete(JOB, Fence::for_test(fence), &batch, LONG));
        let mut is_done = false;
        for _ in 0..polls {
            is_done = futures::poll!(&mut delete).is_ready();
            if is_done {
                break;
            }
            // What was sent is answered before the next look, or never.
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
        drop(delete);
        drop(store);
        let next = open(&world.keyspace.url()).await.unwrap();
        next.raise(JOB, Fence::for_test(fence + 1)).await.unwrap();
        let standing = left(&world).await;
        for id in ids {
            if standing.contains(id) {
                assert_eq!(
                    rows_of(&world, id).await[..4],
                    [("workflow_runs", 1), ("events", 1), ("steps", 2), ("hooks", 1)]
                );
            } else {
                assert!(is_gone(&world, id).await, "{id} after {polls}: {:?}", rows_of(&world, id).await);
            }
        }
        assert_eq!(world.count("janitor_marker").await, 0);
        if is_done {
            assert!(standing.is_empty());
            return;
        }
    }
    panic!("the delete was never done");
}

#[tokio::test]
async fn a_stale_holder_deletes_no_more_than_it_has_begun_and_nothing_that_was_revived() {
    let world = CassandraWorld::new().await;
    for id in ["due", "revived"] {
        put_whole(&world, id, "").await;
    }
    let (stale, newer) = (world.store(), open(&world.keyspace.url()).await.unwrap());
    stale.raise(JOB, Fence::for_test(1)).await.unwrap();
    let batch = page(&world).await;
    let mut delete = Box::pin(stale.delete(JOB, Fence::for_test(1), &batch, LONG));
    // Frozen behind its look at the fence: it has written its marker, and asks for the fence a last time.
    while world.count("janitor_marker").await == 0 {
        assert!(futures::poll!(&mut delete).is_pending());
    }
    world.put(Thing::Run(Run { status: "running".to_owned(), ..expired("revived") })).await;
    newer.raise(JOB, Fence::for_test(2)).await.unwrap();
    assert_eq!(world.count("janitor_marker").await, 0, "of runs that stand");
    match delete.await {
        // The answer to that look was on its way.
        Ok(deleted) => assert_eq!((deleted.runs, deleted.changed), (vec!["due".to_owned()], 1)),
        Err(error) => assert!(matches!(error, StoreError::Fenced { highest: 2, .. }), "{error}"),
    }
    assert_eq!(
        rows_of(&world, "revived").await[..4],
        [("workflow_runs", 1), ("events", 1), ("steps", 2), ("hooks", 1)]
    );
    let error = stale.delete(JOB, Fence::for_test(1), &batch, LONG).await.unwrap_err();
    assert!(matches!(error, StoreError::Fenced { highest: 2, .. }), "{error}");
    newer.delete(JOB, Fence::for_test(2), &batch, LONG).await.unwrap();
    assert!(is_gone(&world, "due").await);
}

#[tokio::test]
async fn tells_each_run_once_however_often_the_time_is_up() {
    let world = CassandraWorld::new().await;
    let ids: BTreeSet<String> = (0..200).map(|at| format!("run {at:03}")).collect();
    for id in &ids {
        world.put(Thing::Run(expired(id))).await;
        world.put(owned("events", id, "event")).await;
    }
    let (batch, fence) = (page(&world).await, Fence::for_test(1));
    world.store.raise(JOB, fence).await.unwrap();
    for millis in 1..1_000 {
        match world.store.delete(JOB, fence, &batch, Duration::from_millis(millis)).await {
            Err(StoreError::TimedOut { .. }) => {
                // What has begun is whole or gone.
                assert_eq!(world.count("workflow_runs").await, world.count("events").await);
            }
            answer => {
                let deleted = answer.unwrap();
                let told: BTreeSet<String> = deleted.runs.iter().cloned().collect();
                assert_eq!((deleted.runs.len(), told, deleted.changed, deleted.held), (200, ids, 0, 0));
                assert_eq!((deleted.counts.get("runs"), deleted.counts.get("events")), (200, 200));
                return;
            }
        }
    }
    panic!("the time was never enough");
}

#[tokio::test]
async fn leaves_markers_of_another_job_alone_until_they_are_old() {
    let world = CassandraWorld::new().await;
    world.store.raise(JOB, Fence::for_test(1)).await.unwrap();
    let marker = "INSERT INTO janitor_marker (id, job, made_at, runs) VALUES (?, 'another', ?, ?)";
    let runs = r#"[{"id": "gone", "created_at": null, "workflow": null, "parent": null, "idempotency_key": null, "entries": []}]"#;
    world.put(owned("events", "gone", "event")).await;
    world.execute(marker, ("old", CqlTimestamp(0), runs)).await;
    let in_an_hour = CqlTimestamp((Utc::now() + chrono::TimeDelta::hours(1)).timestamp_millis());
    world.execute(marker, ("new", in_an_hour, runs)).await;
    world.execute(marker, ("unreadable", CqlTimestamp(0), "{")).await;
    world.store.raise(JOB, Fence::for_test(2)).await.unwrap();
    let mut ids: Vec<(String,)> = world.rows("SELECT id FROM janitor_marker", ()).await;
    ids.sort_unstable();
    assert_eq!(ids, [("new".to_owned(),), ("unreadable".to_owned(),)]);
    assert_eq!(world.count("events").await, 0);
}

#[tokio::test]
async fn takes_entries_in_ranges_and_none_that_came_between_since() {
    let world = CassandraWorld::new().await;
    let made = |at: usize| Some(format!("2026-01-01T00:00:{at:02}+00:00"));
    for at in 0..20 {
        let run = Run { created_at: made(at), ..expired(&format!("run {at:02}")) };
        // It stays amid the others.
        world
            .put(Thing::Run(if at == 7 {
                Run { updated_at: Some("2026-11-19T00:00:00+00:00".to_owned()), ..run }
            } else {
                run
            }))
            .await;
    }
    let alive = Run { created_at: made(3), status: "running".to_owned(), ..expired("run 03 and a half") };
    world.put(Thing::Run(alive)).await;
    let batch: Vec<Seen> =
        page(&world).await.into_iter().filter(|run| run.id.len() == 6 && run.id != "run 07").collect();
    assert_eq!(batch.len(), 19);
    // It ends after the page was read: its entry now stands in the midst of what goes.
    let at = CqlTimestamp(DateTime::parse_from_rfc3339(&made(3).unwrap()).unwrap().timestamp_millis());
    let entry = "INSERT INTO runs_by_status (status, date_bucket, created_at, run_id) VALUES ('completed', ?, ?, 'run 03 and a half')";
    world.execute(entry, (DAY, at)).await;
    world.store.raise(JOB, Fence::for_test(1)).await.unwrap();
    assert_eq!(world.store.delete(JOB, Fence::for_test(1), &batch, LONG).await.unwrap().runs.len(), 19);
    let mut entries: Vec<(String, String)> = world.rows("SELECT run_id, status FROM runs_by_status", ()).await;
    entries.sort_unstable();
    let expected = [("run 03 and a half", "completed"), ("run 03 and a half", "running"), ("run 07", "completed")];
    assert_eq!(entries, expected.map(|(run, status)| (run.to_owned(), status.to_owned())));
}
