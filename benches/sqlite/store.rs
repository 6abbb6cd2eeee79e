//! A store as PyWorkflow fills it: random ids, ten events, four steps and a hook for each run.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sqlx::{
    ConnectOptions, Connection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteSynchronous},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const SCHEMA: &str = include_str!("../../tests/data/pyworkflow.sql");
const FILL: &str = include_str!("fill.sql");
/// How often the other writer writes.
const WRITE_EVERY: Duration = Duration::from_millis(10);
/// How long the other writer waits before it gives up, which would be a failure.
const WRITER_PATIENCE: Duration = Duration::from_secs(30);

/// A filled store.
pub struct Store {
    /// Its file.
    pub path: PathBuf,
    /// How many runs are due at 30 days.
    pub due: u64,
}

impl Store {
    /// Makes `runs` runs, of which about `share` are due.
    pub async fn fill(path: &Path, runs: u32, share: f64) -> Self {
        let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
        let mut connection = options.synchronous(SqliteSynchronous::Off).connect().await.unwrap();
        sqlx::raw_sql(SCHEMA).execute(&mut connection).await.unwrap();
        let mut transaction = connection.begin().await.unwrap();
        sqlx::query("CREATE TEMP TABLE wish AS SELECT ?1 AS runs, ?2 AS share")
            .bind(runs)
            .bind(share)
            .execute(&mut *transaction)
            .await
            .unwrap();
        sqlx::raw_sql(FILL).execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
        let due = format!("SELECT count(*) FROM workflow_runs WHERE {DUE}");
        let due: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(due)).fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        Self { path: path.to_owned(), due: due.try_into().unwrap() }
    }

    /// A fresh copy beside the store.
    pub fn copy(&self, name: &str) -> PathBuf {
        let copy = self.path.with_file_name(name);
        fs::copy(&self.path, &copy).unwrap();
        fs::File::open(&copy).unwrap().sync_all().unwrap();
        copy
    }
}

/// What is due; no run's last update is near the cutoff, so the moment of asking does not matter.
const DUE: &str = "status IN ('completed', 'failed', 'cancelled', 'continued_as_new', 'interrupted') \
                   AND updated_at < strftime('%Y-%m-%dT%H:%M:%S+00:00', 'now', '-30 days')";

/// The baseline: everything that is due in one transaction, a statement for each table, as an engine's own cleaner does it.
pub async fn delete_at_once(path: &Path) {
    let mut connection =
        SqliteConnectOptions::new().filename(path).disable_statement_logging().connect().await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    let due = format!("(SELECT run_id FROM workflow_runs WHERE {DUE})");
    for (table, column) in [
        ("events", "run_id"),
        ("steps", "run_id"),
        ("hooks", "run_id"),
        ("cancellation_flags", "run_id"),
        ("checkpoints", "step_run_id"),
        ("workflow_runs", "run_id"),
    ] {
        let text = format!("DELETE FROM {table} WHERE {column} IN {due}");
        sqlx::query(sqlx::AssertSqlSafe(text)).execute(&mut *transaction).await.unwrap();
    }
    transaction.commit().await.unwrap();
    connection.close().await.unwrap();
}

/// Somebody else who writes to the store.
pub struct Writer {
    stop: CancellationToken,
    task: JoinHandle<Duration>,
}

impl Writer {
    /// Writes an event of a run that stays, every 10 ms.
    pub async fn start(path: &Path) -> Self {
        let options =
            SqliteConnectOptions::new().filename(path).busy_timeout(WRITER_PATIENCE).disable_statement_logging();
        let connection = options.connect().await.unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(write(connection, stop.clone()));
        Self { stop, task }
    }

    /// Stops it; answers the longest that a write took.
    pub async fn stop(self) -> Duration {
        self.stop.cancel();
        self.task.await.unwrap()
    }
}

async fn write(mut connection: SqliteConnection, stop: CancellationToken) -> Duration {
    let event = "INSERT INTO events (event_id, run_id, sequence, type, timestamp) \
                 SELECT 'evt_writer_' || ?, run_id, 1000, 'log', updated_at FROM workflow_runs WHERE status = 'running' LIMIT 1";
    let mut worst = Duration::ZERO;
    for number in 0.. {
        if stop.is_cancelled() {
            break;
        }
        let began = Instant::now();
        let written = sqlx::query(event).bind(number).execute(&mut connection).await.unwrap();
        assert_eq!(written.rows_affected(), 1);
        worst = worst.max(began.elapsed());
        tokio::time::sleep(WRITE_EVERY).await;
    }
    worst
}
