//! A store as PyWorkflow fills it: random ids, ten events, four steps and a hook for each run.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::child::sweep;

const SCHEMA: &str = include_str!("../../tests/data/pyworkflow_postgres.sql");
const FILL: &str = include_str!("fill.sql");
/// How often the transactions of a sweep are looked at.
const LOOK: Duration = Duration::from_millis(5);

/// What is due; no run's last update is near the cutoff, so the moment of asking does not matter.
const DUE: &str = "status IN ('completed', 'failed', 'cancelled', 'continued_as_new', 'interrupted') \
                   AND updated_at < now() - interval '30 days'";

/// A filled database.
pub struct Store {
    server: String,
    name: &'static str,
    /// How many runs are due at 30 days.
    pub due: u64,
}

async fn execute(url: &str, text: String) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

impl Store {
    /// Makes the database `name` with `runs` runs, of which about `share` are due.
    pub async fn fill(server: &str, name: &'static str, runs: u32, share: f64) -> Self {
        let mut store = Self { server: server.to_owned(), name, due: 0 };
        store.admin(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
        store.admin(format!("CREATE DATABASE {name}")).await;
        let url = store.url(name);
        execute(&url, SCHEMA.to_owned()).await;
        // The first sweep of all makes a table of our own, and is not the one to measure.
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(sweep(&url, &folder.path().join("janitor.toml"), "").await.deleted, 0);
        execute(&url, FILL.replace("{runs}", &runs.to_string()).replace("{share}", &share.to_string())).await;
        execute(&url, "VACUUM ANALYZE".to_owned()).await;
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let text = format!("SELECT count(*) FROM workflow_runs WHERE {DUE}");
        let due: i64 = sqlx::query_scalar(AssertSqlSafe(text)).fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        store.due = due.try_into().unwrap();
        store
    }

    /// The URL of a fresh copy.
    pub async fn copy(&self) -> String {
        self.admin("DROP DATABASE IF EXISTS janitor_bench_copy WITH (FORCE)".to_owned()).await;
        self.admin(format!("CREATE DATABASE janitor_bench_copy TEMPLATE {}", self.name)).await;
        self.admin("CHECKPOINT".to_owned()).await;
        self.url("janitor_bench_copy")
    }

    /// Drops the database and its copy.
    pub async fn drop(self) {
        for name in [self.name, "janitor_bench_copy"] {
            self.admin(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
        }
    }

    async fn admin(&self, text: String) {
        execute(&self.server, text).await;
    }

    fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.server.rsplit_once('/').unwrap().0)
    }
}

/// The baseline: everything that is due in one transaction, a statement for each table, as an engine's own cleaner does it.
pub async fn delete_at_once(url: &str) {
    let due = format!("(SELECT run_id FROM workflow_runs WHERE {DUE})");
    let steps = format!("(SELECT step_id FROM steps WHERE run_id IN {due})");
    let delete = |table: &str, column: &str, among: &str| format!("DELETE FROM {table} WHERE {column} IN {among}; ");
    let text = [
        delete("events", "run_id", &due),
        delete("checkpoints", "step_run_id", &steps),
        delete("steps", "run_id", &due),
        delete("hooks", "run_id", &due),
        delete("cancellation_flags", "run_id", &due),
        delete("workflow_runs", "run_id", &due),
    ];
    execute(url, format!("BEGIN; {} COMMIT", text.concat())).await;
}

/// Looks for the longest transaction of a sweep.
pub struct Longest {
    stop: CancellationToken,
    task: JoinHandle<f64>,
}

impl Longest {
    /// Looks at the sessions of the database at `url`.
    pub async fn watch(url: &str) -> Self {
        let connection = PgConnection::connect(url).await.unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(look(connection, stop.clone()));
        Self { stop, task }
    }

    /// How long it was, to a look.
    pub async fn stop(self) -> Duration {
        self.stop.cancel();
        Duration::from_secs_f64(self.task.await.unwrap())
    }
}

async fn look(mut connection: PgConnection, stop: CancellationToken) -> f64 {
    let text = "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8 FROM pg_stat_activity \
                WHERE datname = current_database() AND application_name = 'apalis-janitor'";
    let mut longest = 0.0_f64;
    while !stop.is_cancelled() {
        longest = longest.max(sqlx::query_scalar(text).fetch_one(&mut connection).await.unwrap());
        tokio::time::sleep(LOOK).await;
    }
    longest
}
