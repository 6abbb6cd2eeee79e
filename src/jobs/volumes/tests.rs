//! Sweeps over an engine, marks and a ledger in memory.

mod errors;
mod one;
mod races;
mod random;

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex},
};

use chrono::TimeDelta;
use tokio_util::sync::CancellationToken;

use super::{batch::HOLD, *};
use crate::{
    clock::TestClock,
    config::{EngineUrl, MarksUrl, ThreadsTable, VolumeName},
    jobs::{Limits, Stopped, Watch, pace::Pace, walk},
    ledger::{Backoff, Ledger, memory::MemoryLedger},
    lock::{self, LockKey, memory::MemoryLock},
    report::Counts,
    volumes::{
        Marks, User, Volume,
        marks::memory::MemoryMarks,
        memory::{Bond, MemoryEngine},
    },
};

/// An engine, a table of threads, a ledger and a clock.
#[derive(Clone)]
struct World {
    engine: MemoryEngine,
    marks: MemoryMarks,
    ledger: MemoryLedger,
    clock: Arc<TestClock>,
    config: VolumesConfig,
    narrow: Narrow,
    ttl: Duration,
}

/// What a sweep did.
struct Swept {
    stopped: Result<Stopped, JobError>,
    tally: Tally,
    names: Vec<String>,
}

#[derive(Default)]
struct Named(Mutex<Vec<String>>);

impl Watch for Named {
    fn item(&self, id: &str) {
        self.0.lock().unwrap().push(id.to_owned());
    }
}

fn count(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).unwrap()
}

fn at(minutes: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_147_200, 0).unwrap() + TimeDelta::minutes(minutes)
}

fn volume(thread: &str) -> VolumeName {
    format!("ha_ws_{thread}").parse().unwrap()
}

fn user(state: &str) -> User {
    User { id: "1d5c3f7a9b2e4d60".to_owned(), name: "web".to_owned(), state: state.to_owned() }
}

fn counts(counted: &Counts) -> Vec<(&str, u64)> {
    counted.iter().filter(|(_, count)| *count > 0).collect()
}

impl World {
    fn new() -> Self {
        let config = VolumesConfig {
            engine: EngineUrl::Unix("/no/docker.sock".into()),
            marks: MarksUrl::Sqlite("/no/threads.db".into()),
            table: ThreadsTable::new(vec!["threads".to_owned()], "closed"),
            volume: "ha_ws_{id}".parse().unwrap(),
            require_label: None,
            sweep_unknown: false,
            limit: count(100),
            concurrency: count(3),
            engine_timeout: Duration::from_secs(10),
            time_limit: Duration::from_hours(1),
        };
        Self {
            engine: MemoryEngine::default(),
            marks: MemoryMarks::default(),
            ledger: MemoryLedger::default(),
            clock: Arc::new(TestClock::at(at(0))),
            config,
            narrow: Narrow::default(),
            ttl: Duration::from_mins(10),
        }
    }

    /// Makes a closed thread with a volume.
    async fn closed(&self, thread: &str) {
        self.engine.add(&volume(thread));
        self.marks.set(thread, true).await;
    }

    fn volumes(&self) -> ThreadVolumes {
        ThreadVolumes {
            engine: Arc::new(self.engine.clone()),
            marks: Arc::new(self.marks.clone()),
            ledger: Arc::new(self.ledger.clone()),
            key: "volumes@host".to_owned(),
            clock: self.clock.clone(),
            config: self.config.clone(),
        }
    }

    async fn sweep(&self) -> Swept {
        self.walk(true).await
    }

    async fn plan(&self) -> Swept {
        self.walk(false).await
    }

    async fn walk(&self, is_real: bool) -> Swept {
        let mut job = Volumes::new(self.volumes(), self.narrow);
        let limits = Limits {
            pace: Pace::new(Volumes::batch_max(&self.config), Duration::MAX),
            pause: Duration::ZERO,
            items: Some(self.config.limit.get() as u64),
            time: self.config.time_limit,
        };
        let (named, mut tally, stop) = (Named::default(), Tally::default(), CancellationToken::new());
        let stopped = if is_real {
            let (job, tally, named, stop) = (&mut job, &mut tally, &named, &stop);
            let (lock, key) = (Arc::new(MemoryLock::default()), LockKey::job("volumes"));
            let walked = lock::with(lock, &key, self.ttl, |held| async move {
                walk(job, Leave::Apply(&held), limits, named, stop, tally).await
            });
            walked.await.unwrap().expect("nobody else has the lock")
        } else {
            walk(&mut job, Leave::DryRun, limits, &named, &stop, &mut tally).await
        };
        Swept { stopped, tally, names: named.0.into_inner().unwrap() }
    }

    async fn is_marked(&self, thread: &str) -> bool {
        self.marks.threads(&[thread.to_owned()]).await.unwrap()[thread].is_marked
    }

    async fn backoffs(&self) -> BTreeMap<String, Backoff> {
        self.ledger.backoffs("volumes@host").await.unwrap()
    }
}

impl Swept {
    fn is_done(&self) -> bool {
        matches!(self.stopped, Ok(Stopped::AtTheEnd)) && self.tally.failed == 0
    }

    fn deleted(&self) -> Vec<(&str, u64)> {
        counts(&self.tally.deleted)
    }

    fn kept(&self) -> Vec<(&str, u64)> {
        counts(&self.tally.kept)
    }
}

#[tokio::test]
async fn marks_each_closed_thread_once() {
    let world = World::new();
    for thread in 0..200 {
        world.marks.set(&thread.to_string(), true).await;
        if thread % 2 == 0 {
            world.engine.add(&volume(&thread.to_string()));
        }
    }
    let swept = world.sweep().await;
    assert!(swept.is_done(), "{:?}", swept.stopped);
    assert_eq!(swept.deleted(), [("absent", 100), ("volumes", 100)]);
    assert_eq!((world.marks.marks(), world.engine.asked().len(), world.engine.removed().len()), (200, 100, 100));
    let again = world.sweep().await;
    assert!(again.is_done());
    assert_eq!((again.deleted(), again.kept()), (vec![], vec![]));
    assert_eq!((world.marks.marks(), world.engine.asked().len()), (200, 100));
}

#[tokio::test]
async fn a_dry_run_names_what_a_real_run_takes_and_changes_nothing() {
    let world = World::new();
    for thread in 0..30 {
        world.closed(&thread.to_string()).await;
    }
    world.marks.set("gone", true).await;
    world.engine.add_user(&volume("7"), user("exited"), Bond::Mount);
    world.ledger.put_backoff("volumes@host", "9", &Backoff { attempts: 1, next_at: at(1) }).await.unwrap();
    world.ledger.put_backoff("volumes@host", "stale", &Backoff { attempts: 1, next_at: at(1) }).await.unwrap();
    let planned = world.plan().await;
    assert!(planned.is_done() && planned.deleted().is_empty());
    assert_eq!((world.marks.marks(), world.engine.asked().len(), world.backoffs().await.len()), (0, 0, 2));
    let swept = world.sweep().await;
    assert_eq!((planned.names.len(), &planned.tally.planned), (28, &swept.tally.planned));
    assert_eq!(planned.kept(), [("referenced", 1), ("waiting", 1)]);
    assert_eq!(planned.kept(), swept.kept());
    let sorted = |mut names: Vec<String>| {
        names.sort_unstable();
        names
    };
    assert_eq!(sorted(planned.names), sorted(swept.names));
    assert_eq!(world.backoffs().await.into_keys().collect::<Vec<_>>(), ["9"]);
}

#[tokio::test]
async fn keeps_what_a_container_refers_to_in_whatever_state() {
    let world = World::new();
    for (thread, state) in [("1", "created"), ("2", "running"), ("3", "exited"), ("4", "paused")] {
        world.closed(thread).await;
        world.engine.add_user(&volume(thread), user(state), Bond::Mount);
    }
    world.closed("5").await;
    world.engine.add_user(&volume("5"), user("created"), Bond::Listed);
    let swept = world.sweep().await;
    assert!(swept.is_done());
    assert_eq!((swept.kept(), swept.deleted()), (vec![("referenced", 5)], vec![]));
    assert_eq!((world.engine.asked(), world.marks.marks()), (vec![], 0));
    world.engine.remove_user(&user("any").id);
    assert_eq!(world.sweep().await.deleted(), [("volumes", 5)]);
}

#[tokio::test]
async fn an_id_that_begins_like_another_is_another() {
    let world = World::new();
    world.closed("1").await;
    world.engine.add(&volume("12"));
    world.marks.set("12", false).await;
    for other in ["ha_ws", "xha_ws_1", "other"] {
        world.engine.add(&other.parse().unwrap());
    }
    let swept = world.sweep().await;
    assert_eq!((swept.names, counts(&swept.tally.kept)), (vec!["ha_ws_1".to_owned()], vec![("open", 1)]));
    assert_eq!(world.engine.removed(), [volume("1")]);
}

#[tokio::test]
async fn a_volume_without_its_label_stays() {
    let mut world = World::new();
    world.config.require_label = Some(("app".to_owned(), "chat".to_owned()));
    for (thread, label) in [("1", Some("chat")), ("2", Some("other")), ("3", None)] {
        let labels = label.map(|label| ("app".to_owned(), label.to_owned())).into_iter().collect();
        world.engine.add_volume(Volume { name: volume(thread), labels, created_at: None, folder: None });
        world.marks.set(thread, true).await;
    }
    let swept = world.sweep().await;
    assert_eq!((swept.kept(), world.engine.removed()), (vec![("unlabelled", 2)], vec![volume("1")]));
    assert!(!world.is_marked("2").await && !world.is_marked("3").await);
}

#[tokio::test]
async fn a_volume_without_a_thread_goes_only_where_that_is_wanted() {
    let mut world = World::new();
    world.engine.add(&volume("1"));
    let swept = world.sweep().await;
    assert_eq!((swept.kept(), world.engine.asked()), (vec![("unknown", 1)], vec![]));
    world.config.sweep_unknown = true;
    let swept = world.sweep().await;
    assert_eq!((swept.deleted(), &swept.names), (vec![("volumes", 1)], &vec!["ha_ws_1".to_owned()]));
    assert_eq!((world.engine.removed(), world.marks.marks()), (vec![volume("1")], 0));
}

#[tokio::test]
async fn a_thread_that_was_opened_and_closed_again_loses_its_new_volume() {
    let world = World::new();
    world.closed("1").await;
    world.sweep().await;
    world.marks.set("1", false).await;
    world.engine.add(&volume("1"));
    assert_eq!(world.sweep().await.kept(), [("open", 1)]);
    world.marks.set("1", true).await;
    assert_eq!(world.sweep().await.deleted(), [("volumes", 1)]);
    assert_eq!((world.marks.marks(), world.engine.removed().len()), (1, 2));
}

#[tokio::test]
async fn takes_the_oldest_first_and_no_more_than_its_limit() {
    let mut world = World::new();
    world.config.limit = count(2);
    world.config.concurrency = count(1);
    for (thread, minutes) in [("a", -1), ("b", -3), ("c", -2)] {
        world.engine.add_aged(&volume(thread), at(minutes));
        world.marks.set(thread, true).await;
    }
    world.marks.set("gone", true).await;
    let swept = world.sweep().await;
    assert!(matches!(swept.stopped, Ok(Stopped::ByItems)));
    assert_eq!(swept.names, ["ha_ws_b", "ha_ws_c"]);
    assert!(world.is_marked("gone").await, "what takes no removal waits for no limit");
    assert_eq!(world.sweep().await.names, ["ha_ws_a"]);
}

#[tokio::test]
async fn takes_only_what_is_older_where_that_was_asked_for() {
    let mut world = World::new();
    world.narrow.before = Some(at(-2));
    for (thread, minutes) in [("old", -3), ("edge", -2), ("new", -1)] {
        world.engine.add_aged(&volume(thread), at(minutes));
        world.marks.set(thread, true).await;
    }
    world.closed("unknown-age").await;
    world.marks.set("gone", true).await;
    let swept = world.sweep().await;
    assert_eq!((swept.kept(), swept.deleted()), (vec![("newer", 3)], vec![("volumes", 1)]));
    assert_eq!(world.engine.removed(), [volume("old")]);
    assert!(!world.is_marked("gone").await);
}

#[tokio::test]
async fn more_closed_threads_than_a_page_has_are_all_marked() {
    let world = World::new();
    let threads = PAGE as u64 + 5;
    for thread in 0..threads {
        world.marks.set(&thread.to_string(), true).await;
    }
    world.closed("x").await;
    let swept = world.sweep().await;
    assert!(swept.is_done());
    assert_eq!(swept.deleted(), [("absent", threads), ("volumes", 1)]);
    assert_eq!(world.marks.marks(), threads + 1);
}

#[tokio::test]
async fn a_thread_that_no_volume_can_be_named_after_is_not_marked() {
    let world = World::new();
    for thread in ["a/b", "1?force=1", ""] {
        world.marks.set(thread, true).await;
    }
    let swept = world.sweep().await;
    assert_eq!((swept.kept(), swept.deleted(), world.marks.marks()), (vec![("unfit", 3)], vec![], 0));
}
