//! Threads of a real SQLite file that are opened and closed at any moment of sweeps: what is open keeps its volume and has
//! no mark.

use std::{
    collections::VecDeque,
    num::NonZeroUsize,
    path::Path,
    str::FromStr,
    sync::{Arc, Mutex},
    time::Duration,
};

use apalis_janitor::{
    clock::SystemClock,
    config::{EngineUrl, MarksUrl, ThreadsTable, VolumeName, VolumesConfig},
    jobs::{
        Leave, Limits, Narrow, Tally,
        pace::Pace,
        volumes::{ThreadVolumes, Volumes},
        walk,
    },
    ledger::memory::MemoryLedger,
    lock::{self, LockKey, memory::MemoryLock},
    volumes::{marks, memory::MemoryEngine},
};
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};
use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};
use tokio::task::{JoinSet, yield_now};
use tokio_util::sync::CancellationToken;

const THREADS: [&str; 3] = ["1", "12", "2"];
const CASES: u32 = 32;
const STEPS_MAX: usize = 16;
const SWEEPS: usize = 2;
/// How long the platform waits for who writes.
const BUSY_MAX: Duration = Duration::from_secs(20);

/// A platform's table, which refuses what must not happen: a mark on an open thread, and a mark over a mark.
const TABLE: &str = "
CREATE TABLE threads (id TEXT PRIMARY KEY, status TEXT NOT NULL, volume_removed_at TEXT);
CREATE TRIGGER marked_open BEFORE UPDATE OF volume_removed_at ON threads
WHEN NEW.volume_removed_at IS NOT NULL AND OLD.status <> 'closed' BEGIN SELECT RAISE(ABORT, 'marked while open'); END;
CREATE TRIGGER marked_twice BEFORE UPDATE OF volume_removed_at ON threads
WHEN NEW.volume_removed_at IS NOT NULL AND OLD.volume_removed_at IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'marked twice'); END;
INSERT INTO threads (id, status) VALUES ('1', 'closed'), ('12', 'closed'), ('2', 'closed');";

/// What the platform does, after it has let the others go on so many times.
#[derive(Clone, Copy, Debug)]
struct Step {
    pause: usize,
    thread: usize,
    is_closed: bool,
}

#[derive(Clone, Debug)]
struct Schedule {
    steps: Vec<Step>,
    /// How long each removal lasts before it takes effect.
    removals: Vec<usize>,
    /// When each sweep begins.
    sweeps: [usize; SWEEPS],
    /// Which volumes are asked for by hand, and when.
    by_hand: Vec<(usize, usize)>,
}

fn schedule() -> impl Strategy<Value = Schedule> {
    let step = (0..60_usize, 0..THREADS.len(), any::<bool>());
    let step = step.prop_map(|(pause, thread, is_closed)| Step { pause, thread, is_closed });
    let parts = (
        vec(step, 1..STEPS_MAX),
        vec(0..100_usize, 1..8),
        [0..200_usize, 0..200],
        vec((0..100_usize, 0..THREADS.len()), 0..4),
    );
    parts.prop_map(|(steps, removals, sweeps, by_hand)| Schedule { steps, removals, sweeps, by_hand })
}

async fn pause(times: usize) {
    for _ in 0..times {
        yield_now().await;
    }
}

fn volume(thread: &str) -> VolumeName {
    format!("ha_ws_{thread}").parse().unwrap()
}

#[derive(Clone)]
struct World {
    engine: MemoryEngine,
    volumes: ThreadVolumes,
    threads: SqlitePool,
    /// Volumes that went while their thread was open.
    wrong: Arc<Mutex<Vec<String>>>,
}

/// The job of a table in this file.
pub fn config(path: &Path) -> VolumesConfig {
    VolumesConfig {
        engine: EngineUrl::Unix("/no/docker.sock".into()),
        marks: MarksUrl::Sqlite(path.to_owned()),
        table: ThreadsTable::new(vec!["threads".to_owned()], "closed"),
        volume: "ha_ws_{id}".parse().unwrap(),
        require_label: None,
        sweep_unknown: false,
        limit: NonZeroUsize::MIN.saturating_add(99),
        concurrency: NonZeroUsize::MIN.saturating_add(2),
        engine_timeout: BUSY_MAX,
        time_limit: Duration::from_hours(1),
    }
}

impl World {
    async fn new(path: &Path, removals: Vec<usize>) -> Self {
        let options = SqliteConnectOptions::from_str(&format!("sqlite://{}", path.display())).unwrap();
        let options = options.create_if_missing(true).busy_timeout(BUSY_MAX);
        let threads = SqlitePoolOptions::new().connect_with(options).await.unwrap();
        sqlx::raw_sql(TABLE).execute(&threads).await.unwrap();
        let (engine, config) = (MemoryEngine::default(), config(path));
        for thread in THREADS {
            engine.add(&volume(thread));
        }
        let marks = marks::open(&config.marks, &config.table, BUSY_MAX, 4).await.unwrap();
        let volumes = ThreadVolumes {
            engine: Arc::new(engine.clone()),
            marks,
            ledger: Arc::new(MemoryLedger::default()),
            key: "volumes".to_owned(),
            clock: Arc::new(SystemClock),
            config,
        };
        let world = Self { engine, volumes, threads, wrong: Arc::default() };
        world.watch(removals);
        world
    }

    /// Has each removal last for a while, and look at its thread before it takes effect.
    fn watch(&self, removals: Vec<usize>) {
        let (threads, wrong) = (self.threads.clone(), Arc::clone(&self.wrong));
        let removals = Arc::new(Mutex::new(VecDeque::from(removals)));
        self.engine.before_removal(move |volume| {
            let (threads, wrong, removals) = (threads.clone(), Arc::clone(&wrong), Arc::clone(&removals));
            Box::pin(async move {
                let times = {
                    let mut removals = removals.lock().unwrap();
                    removals.rotate_left(1);
                    removals[0]
                };
                pause(times).await;
                let thread = volume.as_str().trim_start_matches("ha_ws_").to_owned();
                let status = sqlx::query_scalar::<_, String>("SELECT status FROM threads WHERE id = ?");
                if status.bind(&thread).fetch_one(&threads).await.unwrap() != "closed" {
                    wrong.lock().unwrap().push(thread);
                }
            })
        });
    }

    /// Opens and closes threads; whoever opens one makes its volume, if it is not there, and forgets the mark.
    async fn act(&self, steps: Vec<Step>) {
        for Step { pause: times, thread, is_closed } in steps {
            pause(times).await;
            let change = if is_closed {
                "UPDATE threads SET status = 'closed' WHERE id = ?"
            } else {
                "UPDATE threads SET status = 'open', volume_removed_at = NULL WHERE id = ?"
            };
            sqlx::query(change).bind(THREADS[thread]).execute(&self.threads).await.unwrap();
            if !is_closed && !self.engine.has(&volume(THREADS[thread])) {
                self.engine.add(&volume(THREADS[thread]));
            }
        }
    }

    async fn sweep(&self) -> Tally {
        let (mut job, mut tally) = (Volumes::new(self.volumes.clone(), Narrow::default()), Tally::default());
        let time = Duration::from_mins(1);
        let pace = Pace::new(24, Duration::MAX);
        let (limits, stop) = (Limits { pace, pause: Duration::ZERO, items: None, time }, CancellationToken::new());
        let (job_ref, tally_ref, stop_ref) = (&mut job, &mut tally, &stop);
        let (lock, key) = (Arc::new(MemoryLock::default()), LockKey::job("volumes"));
        let walked = lock::with(lock, &key, time, |held| async move {
            walk(job_ref, Leave::Apply(&held), limits, &(), stop_ref, tally_ref).await
        });
        walked.await.unwrap().expect("nobody else has the lock").unwrap();
        tally
    }

    /// Runs it all at once.
    async fn run(&self, schedule: Schedule) {
        let mut at_once = JoinSet::new();
        let world = self.clone();
        at_once.spawn(async move { world.act(schedule.steps).await });
        for begins in schedule.sweeps {
            let world = self.clone();
            at_once.spawn(async move {
                pause(begins).await;
                let tally = world.sweep().await;
                assert_eq!(tally.failed, 0, "{:?}", tally.failures);
            });
        }
        let volumes = self.volumes.clone();
        at_once.spawn(async move {
            for (times, thread) in schedule.by_hand {
                pause(times).await;
                volumes.remove(THREADS[thread]).await.unwrap();
            }
        });
        while let Some(ended) = at_once.join_next().await {
            ended.unwrap();
        }
    }
}

#[test]
fn a_thread_that_is_open_keeps_its_volume_and_has_no_mark() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut runner = TestRunner::new(ProptestConfig { cases: CASES, ..ProptestConfig::default() });
    let ran = runner.run(&schedule(), |schedule| {
        let folder = tempfile::tempdir().unwrap();
        runtime.block_on(async {
            let world = World::new(&folder.path().join("threads.db"), schedule.removals.clone()).await;
            world.run(schedule).await;
            prop_assert!(world.wrong.lock().unwrap().is_empty(), "removed while open: {:?}", world.wrong);
            world.sweep().await;
            let rows = world.volumes.marks.threads(&THREADS.map(str::to_owned)).await.unwrap();
            for thread in THREADS {
                let row = rows[thread];
                prop_assert_eq!(world.engine.has(&volume(thread)), !row.is_closed, "thread {}", thread);
                prop_assert_eq!(row.is_marked, row.is_closed, "thread {}", thread);
            }
            Ok(())
        })
    });
    ran.unwrap();
}
