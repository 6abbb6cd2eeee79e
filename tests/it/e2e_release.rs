//! The lock comes free at once, however the work under it ends: an error, a panic, a signal, a store that is lost. What
//! `kill -9` leaves comes free with its ttl: see `e2e_kill`.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use apalis_janitor::{
    Ask, Janitor,
    config::Config,
    jobs::{Narrow, Watch},
    queue::Request,
    report::{Mode, Outcome},
};
use serde_json::Value;
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, MySqlConnection, sqlite::SqliteConnectOptions};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::Cli,
    mysql::Server,
    process::{Process, Signal, World, comes},
    redis::RedisServer,
};

/// How long the lock may be held after the work has ended.
const FREE_MAX: Duration = Duration::from_secs(1);
/// Small batches, so that a sweep takes a while.
const SLOW: &str = "batch_size = 1\nbatch_time = \"10ms\"";
const LOCK: &str = "{janitor}:lock:old-runs";

/// Waits until nobody holds the lock, which must not be long after `since`.
async fn comes_free(redis: &RedisServer, since: Instant, how: &str) {
    comes("a free lock", async || redis.cli(&["EXISTS", LOCK]).await == "0").await;
    let took = since.elapsed();
    println!("{how}: free after {took:?}");
    assert!(took <= FREE_MAX, "{how}: the lock was free after {took:?}");
}

async fn is_held(redis: &RedisServer) -> bool {
    redis.cli(&["EXISTS", LOCK]).await == "1"
}

#[tokio::test]
async fn an_error_amid_a_sweep_frees_the_lock() {
    let redis = RedisServer::start().await;
    let world = World::new(Some(&redis), "", SLOW, 3_000).await;
    let worker = world.start("worker");
    world.cli.stdout("enqueue old-runs");
    world.is_amid().await;
    assert!(is_held(&redis).await);
    let path = world.cli.path().join("app.db");
    let options = SqliteConnectOptions::new().filename(path).busy_timeout(Duration::from_secs(20));
    let mut owner = options.connect().await.unwrap();
    owner.execute("ALTER TABLE events RENAME TO moved").await.unwrap();
    comes_free(&redis, Instant::now(), "an error").await;
    comes("the report", async || !world.history().is_empty()).await;
    assert_eq!(world.history()[0]["outcome"], "failed");
    worker.stop().await;
}

/// Panics at the first thing that is deleted, and says when.
#[derive(Default)]
struct Panics(OnceLock<Instant>);

impl Watch for Panics {
    fn item(&self, _: &str) {
        self.0.set(Instant::now()).expect("once");
        panic!("on purpose");
    }
}

#[tokio::test]
async fn a_panic_amid_a_sweep_frees_the_lock_and_is_reported() {
    let redis = RedisServer::start().await;
    let world = World::new(Some(&redis), "", SLOW, 100).await;
    let janitor = Janitor::connect(Config::load(world.cli.path().join("janitor.toml")).unwrap()).await.unwrap();
    let request = Request { job: "old-runs".to_owned(), mode: Mode::Apply, tick: None };
    let (watch, stop) = (Panics::default(), CancellationToken::new());
    let ask = Ask { request: &request, attempt: 1, narrow: Narrow::default(), watch: &watch, stop: &stop };
    let report = janitor.execute(ask).await.unwrap().report;
    comes_free(&redis, *watch.0.get().expect("it panicked"), "a panic").await;
    assert_eq!((report.outcome, report.reason.as_deref()), (Outcome::Failed, Some("panic: on purpose")));
    assert!(report.fence.is_some(), "it had the lock");
}

#[tokio::test]
async fn a_signal_amid_a_sweep_frees_the_lock() {
    for line in ["worker", "up", "run old-runs"] {
        let redis = RedisServer::start().await;
        let world = World::new(Some(&redis), "", SLOW, 3_000).await;
        let process = world.start(line);
        if !line.starts_with("run") {
            world.cli.stdout("enqueue old-runs");
        }
        world.is_amid().await;
        assert!(is_held(&redis).await);
        process.signal(Signal::TERM);
        comes_free(&redis, Instant::now(), line).await;
        assert!(world.store.left().await > 0, "it was over before the signal");
        process.end().await;
    }
}

async fn count(owner: &mut MySqlConnection) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM workflow_runs").fetch_one(owner).await.unwrap()
}

#[tokio::test]
async fn a_store_that_is_lost_amid_a_sweep_frees_the_lock() {
    let (redis, mut server) = (RedisServer::start().await, Server::start());
    let database = server.database();
    let mut owner = database.connect().await;
    let runs = "INSERT INTO workflow_runs (run_id, workflow_name, status, created_at, updated_at) \
                SELECT CONCAT('run ', seq), 'order', 'completed', '2020-01-01', '2020-01-01' FROM seq_1_to_3000";
    for text in [include_str!("../data/pyworkflow_mysql.sql"), runs] {
        owner.execute(sqlx::raw_sql(AssertSqlSafe(text.to_owned()))).await.unwrap();
    }
    let cli = Cli::with(&format!(
        "[redis]\nurl = \"{}\"\n[worker]\nmax_deliveries = 1\n[jobs.old-runs]\nkind = \"retention\"\nstore = \"{}\"\nretention_days = 30\n{SLOW}\n",
        redis.url(),
        database.url()
    ));
    let worker = Process::start(&cli, "worker");
    cli.stdout("enqueue old-runs");
    comes("a first deleted run", async || count(&mut owner).await < 3_000).await;
    assert!(count(&mut owner).await > 0 && is_held(&redis).await, "it was over before the store was lost");
    server.kill();
    comes_free(&redis, Instant::now(), "a lost store").await;
    let history = || cli.json("history old-runs --json");
    comes("the report", async || history() != Value::Array(Vec::new())).await;
    assert_eq!(history()[0]["outcome"], "failed");
    worker.stop().await;
}
