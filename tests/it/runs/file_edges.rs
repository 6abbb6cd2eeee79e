//! Folders that are not as they should be, owners that get in the way, and processes that end at any moment.

mod crashes;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use apalis_janitor::{
    lock::Fence,
    runs::{
        RunStore, Seen, StoreError,
        conformance::{Order, Subject, Swept, sweep_at},
        file::FileStore,
        memory::{Run, Thing},
    },
};
use chrono::{DateTime, TimeDelta, TimeZone, Utc};

use super::files::{FileWorld, open};

const JOB: &str = "old-runs";
const LONG: Duration = Duration::from_mins(1);

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 20, 3, 0, 0).unwrap()
}

fn expired(id: &str) -> Run {
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

fn below(parent: &str, id: &str) -> Run {
    Run { parent: Some(parent.to_owned()), ..expired(id) }
}

fn running(run: Run) -> Run {
    Run { status: "running".to_owned(), ..run }
}

fn owned(kind: &str, run: &str, id: &str) -> Thing {
    Thing::Owned { kind: kind.to_owned(), run: run.to_owned(), id: id.to_owned() }
}

/// All that a run can have.
fn belongings(run: &str) -> Vec<Thing> {
    vec![
        owned("events", run, &format!("event 1 of {run}")),
        owned("events", run, &format!("event 2 of {run}")),
        owned("steps", run, &format!("step_{run}")),
        owned("hooks", run, "hook_0"),
        owned("hooks", run, "hook_1"),
        owned("cancellation_flags", run, ""),
        Thing::Checkpoint { key: format!("{run}:step") },
        Thing::Checkpoint { key: format!("step_{run}") },
    ]
}

async fn put(world: &FileWorld, run: Run) {
    let things = belongings(&run.id);
    world.put(Thing::Run(run)).await;
    for thing in things {
        world.put(thing).await;
    }
}

/// Runs that go, in families and alone, beside runs that stay, and what is not runs.
async fn put_all(world: &FileWorld) {
    for run in [expired("alone"), expired("job"), expired("above"), below("above", "below"), below("held", "held too")]
    {
        put(world, run).await;
    }
    for run in [running(expired("job__2")), expired("held"), running(below("held too", "stays"))] {
        put(world, run).await;
    }
    let old = Some("2026-01-01T00:00:00+00:00".to_owned());
    let signal = |id: &str, stream: &str| Thing::Signal {
        id: id.to_owned(),
        stream: stream.to_owned(),
        kind: "paid".to_owned(),
        at: old.clone(),
    };
    let subscription = |stream: &str, status: &str| Thing::Subscription {
        stream: stream.to_owned(),
        step_run: format!("step of {stream}"),
        kinds: "[\"paid\"]".to_owned(),
        status: status.to_owned(),
        at: old.clone(),
    };
    let things = [
        signal("read", "one"),
        signal("unread", "two"),
        subscription("two", "waiting"),
        subscription("one", "completed"),
        Thing::Checkpoint { key: "step of one".to_owned() },
        Thing::Acknowledgement { signal: "read".to_owned(), step_run: "step of one".to_owned(), at: old.clone() },
        Thing::Schedule { id: "schedule".to_owned(), status: "deleted".to_owned(), deleted_at: old.clone() },
    ];
    for thing in things {
        world.put(thing).await;
    }
}

async fn filled() -> FileWorld {
    let world = FileWorld::new().await;
    put_all(&world).await;
    world
}

async fn page(store: &FileStore) -> Vec<Seen> {
    store.page(now(), None, 1_000).await.unwrap().runs
}

async fn seen(store: &FileStore, ids: &[&str]) -> Vec<Seen> {
    let all = page(store).await;
    ids.iter().map(|id| all.iter().find(|run| run.id == *id).unwrap().clone()).collect()
}

async fn sweep(world: &FileWorld, is_real: bool) -> Swept {
    let swept = sweep_at(world.store(), &Order::default(), now(), is_real).await;
    world.store.rest().await;
    swept
}

fn ids(swept: &Swept) -> BTreeSet<&str> {
    swept.ids.iter().map(String::as_str).collect()
}

/// Everything that stays after a sweep: things, tokens, lock files and marks.
async fn left(world: &FileWorld) -> (BTreeSet<Thing>, Vec<String>, Vec<String>, Vec<String>) {
    let tokens = world.tokens().into_iter().map(|(token, _)| token).collect();
    (world.things().await, tokens, world.stems(".locks", ".lock"), world.marks())
}

/// A lock of PyWorkflow's, in another process's hands.
fn lock(world: &FileWorld, name: &str) -> File {
    let path = world.path.join(".locks").join(format!("{name}.lock"));
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap();
    file.lock().unwrap();
    file
}

#[tokio::test]
async fn keeps_a_run_that_another_has_in_its_hands() {
    let world = filled().await;
    let held = lock(&world, "alone");
    let swept = sweep(&world, true).await;
    assert_eq!((ids(&swept), swept.tally.kept.get("changed")), (BTreeSet::from(["above", "below", "job"]), 1));
    let things = world.things().await;
    assert!(belongings("alone").iter().all(|thing| things.contains(thing)));
    drop(held);
    assert_eq!(ids(&sweep(&world, true).await), BTreeSet::from(["alone"]));
}

#[tokio::test]
async fn finishes_later_what_waits_for_the_token_index() {
    let world = filled().await;
    let held = lock(&world, "token_index");
    assert_eq!(sweep(&world, true).await.ids.len(), 4);
    assert!(world.tokens().contains_key("alone:hook_0") && !world.marks().is_empty());
    let warnings = world.store.check().await.unwrap().warnings;
    assert!(warnings.iter().any(|text| text.ends_with("the next real run finishes them")), "{warnings:?}");
    drop(held);
    assert_eq!(sweep(&world, true).await.ids, [""; 0]);
    assert!(!world.tokens().contains_key("alone:hook_0") && world.marks().is_empty());
    assert_eq!(world.store.check().await.unwrap().warnings, [""; 0]);
}

#[tokio::test]
async fn keeps_a_lock_file_that_another_waits_for() {
    let world = filled().await;
    let held = lock(&world, "events_alone");
    assert_eq!(sweep(&world, true).await.ids.len(), 4);
    let locks = world.stems(".locks", ".lock");
    assert!(locks.contains(&"events_alone".to_owned()), "{locks:?}");
    assert!(!locks.iter().any(|name| name == "alone" || name == "events_job" || name == "job:step"), "{locks:?}");
    // Those that are nobody's and those of runs that stay.
    for name in ["token_index", "job__2", "events_job__2", "job__2_cancel", "checkpoint_job__2:step"] {
        assert!(locks.contains(&name.to_owned()), "{name} is gone");
    }
    drop(held);
}

#[tokio::test]
async fn keeps_and_counts_what_is_half_written() {
    let world = filled().await;
    let path = |id: &str| world.path.join("runs").join(format!("{id}.json"));
    let text = fs::read_to_string(path("alone")).unwrap();
    fs::write(path("alone"), &text[..text.len() / 2]).unwrap();
    fs::write(path("empty"), "").unwrap();
    fs::write(path("stranger"), &text).unwrap();
    // Its parent can be read, and it may live.
    fs::write(path("cut"), "{\"run_id\": \"cut\", \"parent_run_id\": \"above\", \"nes").unwrap();
    let things = || -> Vec<Thing> { world.owned().filter(|thing| belongings("alone").contains(thing)).collect() };
    let before = things();
    for is_real in [false, true] {
        let swept = sweep(&world, is_real).await;
        assert_eq!((ids(&swept), swept.tally.kept.get("unreadable_time")), (BTreeSet::from(["below", "job"]), 4));
    }
    assert_eq!((before.len(), things()), (belongings("alone").len(), before));
    let warnings = world.store.check().await.unwrap().warnings;
    assert!(
        warnings[0].ends_with("/runs: 4 runs cannot be read or have no time of creation: they stay"),
        "{warnings:?}"
    );
    fs::write(path("alone"), text).unwrap();
    fs::remove_file(path("cut")).unwrap();
    assert_eq!(ids(&sweep(&world, true).await), BTreeSet::from(["alone", "above"]));
}

#[tokio::test]
async fn waits_for_a_run_that_is_just_being_made() {
    let world = filled().await;
    let batch = seen(&world.store, &["above", "below", "alone"]).await;
    let held = lock(&world, "new");
    fs::write(world.path.join("runs/new.json"), "").unwrap();
    world.store.raise(JOB, Fence::for_test(1)).await.unwrap();
    let deleted = world.store.delete(JOB, Fence::for_test(1), &batch, LONG).await.unwrap();
    assert_eq!((deleted.runs.len(), deleted.held), (0, 3), "it may be a child of any of them");
    world.put(Thing::Run(running(below("above", "new")))).await;
    drop(held);
    let batch = seen(&world.store, &["above", "below", "alone"]).await;
    let deleted = world.store.delete(JOB, Fence::for_test(1), &batch, LONG).await.unwrap();
    assert_eq!((deleted.runs, deleted.held), (vec!["below".to_owned(), "alone".to_owned()], 1));
}

#[tokio::test]
async fn never_leaves_the_folder() {
    let world = filled().await;
    let outside = world.path.parent().unwrap();
    let secret = outside.join("secret.json");
    let text = serde_json::json!({
        "run_id": "link", "status": "completed", "workflow_name": "order",
        "created_at": "2026-01-01T00:00:00", "updated_at": "2026-01-01T00:00:00",
    });
    fs::write(&secret, text.to_string()).unwrap();
    std::os::unix::fs::symlink(&secret, world.path.join("runs/link.json")).unwrap();
    for (folder, name) in [("events", "alone.jsonl"), ("runs", "alone.cancel")] {
        let path = world.path.join(folder).join(name);
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&secret, path).unwrap();
    }
    let subscription = Thing::Subscription {
        stream: "one".to_owned(),
        step_run: "x".to_owned(),
        kinds: "[]".to_owned(),
        status: "completed".to_owned(),
        at: Some("2026-01-01T00:00:00".to_owned()),
    };
    world.put(subscription).await;
    let path = world.path.join("subscriptions/one__x.json");
    let lies = fs::read_to_string(&path).unwrap().replace("\"x\"", "\"../../secret\"");
    fs::write(path, lies).unwrap();
    sweep(&world, true).await;
    assert!(secret.exists() && world.path.join("runs/link.json").symlink_metadata().is_ok());
    let asked = ["../../secret", "..", ".", "", "link", "a\0b"].map(str::to_owned);
    assert_eq!(world.store.find(&asked).await.unwrap(), []);
}

#[tokio::test]
async fn reads_what_only_python_writes() {
    let world = filled().await;
    let path = world.path.join("runs/alone.json");
    let text = fs::read_to_string(&path).unwrap();
    let text = text.replacen('{', "{\"context\": {\"rate\": NaN, \"most\": -Infinity, \"half\": \"\\ud83d\"},", 1);
    fs::write(&path, text).unwrap();
    let swept = sweep(&world, true).await;
    assert!(swept.ids.contains(&"alone".to_owned()));
}

/// Every file below `path` with the time of its last change.
fn walk(path: &Path, all: &mut Vec<(PathBuf, SystemTime)>) {
    for entry in fs::read_dir(path).unwrap().map(Result::unwrap) {
        all.push((entry.path(), entry.metadata().unwrap().modified().unwrap()));
        if entry.file_type().unwrap().is_dir() {
            walk(&entry.path(), all);
        }
    }
}

#[tokio::test]
async fn writes_nothing_without_being_told_to() {
    let world = filled().await;
    let files = || {
        let mut all = Vec::new();
        walk(&world.path, &mut all);
        all.sort();
        all
    };
    let before = files();
    sweep(&world, false).await;
    world.store.check().await.unwrap();
    assert_eq!(files(), before);
}

#[tokio::test]
async fn says_what_is_wrong_with_a_folder_that_is_no_store() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = async |path: &Path| {
        let error = open(path).await.unwrap_err();
        let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        format!("{error}{source}").replace(folder.path().to_str().unwrap(), "FOLDER")
    };
    let path = folder.path().join("data");
    assert_eq!(refusal(&path).await, "file: unavailable: FOLDER/data: No such file or directory (os error 2)");
    assert!(!path.exists(), "it was made");
    fs::write(&path, "").unwrap();
    assert_eq!(refusal(&path).await, "file: unavailable: FOLDER/data: Not a directory (os error 20)");
    let expected = "file: FOLDER/runs: no such folder: not a store of layout \"pyworkflow\"";
    assert_eq!(refusal(folder.path()).await, expected);
    std::os::unix::fs::symlink("/", folder.path().join("runs")).unwrap();
    assert_eq!(refusal(folder.path()).await, "file: unavailable: FOLDER/runs: Not a directory (os error 20)");
}

#[tokio::test]
async fn works_without_the_folders_that_older_stores_lack() {
    let world = FileWorld::new().await;
    world.put(Thing::Run(expired("one"))).await;
    for name in ["events", "steps", "hooks", "checkpoints", "schedules", "signals", "subscriptions", "acknowledgments"]
    {
        fs::remove_dir_all(world.path.join(name)).unwrap();
    }
    let store = Arc::new(open(&world.path).await.unwrap());
    for is_real in [false, true] {
        assert_eq!(sweep_at(store.clone(), &Order::default(), now(), is_real).await.ids, ["one"]);
    }
    store.rest().await;
    assert_eq!(world.stems("runs", ".json"), [""; 0]);
}

#[tokio::test]
async fn refuses_a_token_index_that_it_cannot_read_and_loses_nothing_of_it() {
    let world = filled().await;
    let path = world.path.join("_token_index.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() - 3]).unwrap();
    assert_eq!(sweep(&world, true).await.ids.len(), 4);
    assert_eq!(fs::read_to_string(&path).unwrap(), text[..text.len() - 3]);
}

#[tokio::test]
async fn waits_for_no_folder_that_a_frozen_sweep_has_locked() {
    let world = FileWorld::new().await;
    let sweep = async |id: &str| {
        world.put(Thing::Run(expired(id))).await;
        let store: Arc<dyn RunStore> = Arc::new(open(&world.path).await.unwrap());
        let (told, swept) = std::sync::mpsc::channel();
        // On a thread of its own: a lock that is waited for blocks it.
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _ = told.send(runtime.block_on(sweep_at(store, &Order::default(), now(), true)).ids);
        });
        swept.recv_timeout(LONG / 4)
    };
    assert_eq!(sweep("first").await.unwrap(), ["first"]);
    let spare = File::open(world.path.join(".janitor/spare")).unwrap();
    spare.lock().unwrap();
    assert_eq!(sweep("second").await.expect("it waits for nobody"), ["second"]);
}
