//! Databases as PyWorkflow fills them: random ids, ten events, four steps and a hook for each run.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection};
use tokio::{task::JoinHandle, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::mysql::{Database, Server};

const SCHEMA: &str = include_str!("../../tests/data/pyworkflow_mysql.sql");
const FILL: &str = include_str!("fill.sql");
const TABLES: [&str; 5] = ["workflow_runs", "events", "steps", "hooks", "checkpoints"];
/// How often the other writer begins a run: 50 a second.
const RUN_EVERY: Duration = Duration::from_millis(20);
/// How many events a run of the other writer has.
const EVENTS: u32 = 10;

/// What is due; no run's last update is near the cutoff, so the moment of asking does not matter.
const DUE: &str = "status IN ('completed', 'failed', 'cancelled', 'continued_as_new', 'interrupted') \
                   AND updated_at < UTC_TIMESTAMP() - INTERVAL 30 DAY";

/// A filled database, and how many runs are due at 30 days.
pub struct Store {
    pub database: Database,
    pub due: u64,
}

impl Store {
    /// Makes `runs` runs, of which about `share` are due.
    pub async fn fill(server: &Server, runs: u32, share: f64) -> Self {
        let database = server.database();
        let mut connection = database.connect().await;
        connection.execute(SCHEMA).await.unwrap();
        let fill = FILL.replace("RUNS", &runs.to_string()).replace("SHARE", &share.to_string());
        connection.execute(AssertSqlSafe(fill)).await.unwrap();
        let due = format!("SELECT count(*) FROM workflow_runs WHERE {DUE}");
        let due: i64 = sqlx::query_scalar(AssertSqlSafe(due)).fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        Self { database, due: due.try_into().unwrap() }
    }

    /// A fresh copy on the same server.
    pub async fn copy(&self, server: &Server) -> Database {
        let database = server.database();
        let mut connection = database.connect().await;
        connection.execute(SCHEMA).await.unwrap();
        for table in TABLES {
            let text = format!("INSERT INTO {table} SELECT * FROM {}.{table}", self.database.name);
            connection.execute(AssertSqlSafe(text)).await.unwrap();
        }
        connection.execute("ANALYZE TABLE workflow_runs, events, steps, hooks, checkpoints").await.unwrap();
        connection.close().await.unwrap();
        database
    }
}

/// The baseline: everything that is due, a statement for each table, as an engine's own cleaner does it.
pub async fn delete_at_once(database: &Database) -> Duration {
    let mut connection = database.connect().await;
    let began = Instant::now();
    let due = format!("(SELECT run_id FROM workflow_runs WHERE {DUE})");
    for table in ["events", "steps", "hooks", "cancellation_flags"] {
        let text = format!("DELETE FROM {table} WHERE run_id IN {due}");
        connection.execute(AssertSqlSafe(text)).await.unwrap();
    }
    connection.execute(AssertSqlSafe(format!("DELETE FROM workflow_runs WHERE {DUE}"))).await.unwrap();
    let took = began.elapsed();
    connection.close().await.unwrap();
    took
}

/// Somebody else who writes runs, each statement by itself, as PyWorkflow does.
pub struct Writer {
    stop: CancellationToken,
    task: JoinHandle<(u32, Duration)>,
}

impl Writer {
    pub async fn start(database: &Database) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(write(database.connect().await, stop.clone()));
        Self { stop, task }
    }

    /// Stops it; answers how many runs it wrote and the longest that a statement took.
    pub async fn stop(self) -> (u32, Duration) {
        self.stop.cancel();
        self.task.await.unwrap()
    }
}

async fn write(mut connection: MySqlConnection, stop: CancellationToken) -> (u32, Duration) {
    let (mut worst, mut count) = (Duration::ZERO, 0);
    let mut beat = tokio::time::interval(RUN_EVERY);
    beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while !stop.is_cancelled() {
        beat.tick().await;
        let id = format!("'run_new_{count}'");
        let mut statements = vec![format!(
            "INSERT INTO workflow_runs (run_id, workflow_name, status, created_at, updated_at) \
             VALUES (CONCAT('run_', MD5({id})), 'live', 'running', UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))"
        )];
        statements.extend((0..EVENTS).map(|at| {
            format!(
                "INSERT INTO events (event_id, run_id, sequence, type, timestamp, data) \
                 VALUES (CONCAT('evt_', MD5(CONCAT({id}, {at}))), CONCAT('run_', MD5({id})), {at}, 'log', UTC_TIMESTAMP(6), '{{}}')"
            )
        }));
        statements.push(format!("UPDATE workflow_runs SET status = 'completed', updated_at = UTC_TIMESTAMP(6) WHERE run_id = CONCAT('run_', MD5({id}))"));
        for statement in statements {
            let began = Instant::now();
            let written = connection.execute(AssertSqlSafe(statement)).await.unwrap();
            assert_eq!(written.rows_affected(), 1);
            worst = worst.max(began.elapsed());
        }
        count += 1;
    }
    (count, worst)
}
