//! A SQLite file as PyWorkflow 0.4.0 makes it, and the program that writes it.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use apalis_janitor::{
    config::BatchSize,
    runs::{
        RunStore, StoreError,
        conformance::Subject,
        layout::PYWORKFLOW,
        memory::{Run, Thing},
        sqlite::SqliteStore,
    },
};
use async_trait::async_trait;
use sqlx::{
    AssertSqlSafe, ConnectOptions, FromRow, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteRow},
};
use tempfile::TempDir;

/// The dump of a schema that PyWorkflow made.
pub const SCHEMA: &str = include_str!("../../data/pyworkflow.sql");

/// A file with the store over it.
#[derive(Debug)]
pub struct SqliteWorld {
    pub store: Arc<SqliteStore>,
    pub writer: SqlitePool,
    pub path: PathBuf,
    _folder: TempDir,
}

impl SqliteWorld {
    /// A file of that journal mode. Times may be missing in it, which the real schema refuses.
    pub async fn new(journal: &str) -> Self {
        Self::with_schema(journal, &SCHEMA.replace("TIMESTAMP NOT NULL", "TIMESTAMP")).await
    }

    /// A file of that journal mode and with that schema, which must be one that can be opened.
    pub async fn with_schema(journal: &str, schema: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("app.db");
        let writer = writer(&path).await;
        let mode = format!("PRAGMA journal_mode = {journal}");
        sqlx::raw_sql(AssertSqlSafe(mode)).execute(&writer).await.expect("a mode");
        sqlx::raw_sql(AssertSqlSafe(schema.to_owned())).execute(&writer).await.expect("a schema");
        let store = Arc::new(open(&path).await.expect("a store"));
        Self { store, writer, path, _folder: folder }
    }

    /// Executes statements as the program that owns the file.
    pub async fn execute(&self, text: &str) {
        sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(&self.writer).await.expect("executed");
    }

    /// Another connection to the file.
    pub async fn connect(&self) -> SqliteConnection {
        options(&self.path).connect().await.expect("a connection")
    }
}

fn options(path: &std::path::Path) -> SqliteConnectOptions {
    // Foreign keys are off so that a test may write in any order.
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .foreign_keys(false)
        .busy_timeout(Duration::from_secs(10))
}

async fn writer(path: &std::path::Path) -> SqlitePool {
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options(path));
    pool.await.expect("a new file")
}

/// Opens the store of a file.
pub async fn open(path: &std::path::Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(path, &PYWORKFLOW, BatchSize::default()).await
}

#[async_trait]
impl Subject for SqliteWorld {
    fn store(&self) -> Arc<dyn RunStore> {
        self.store.clone()
    }

    async fn put(&self, thing: Thing) {
        let query = match thing {
            Thing::Run(run) => return put_run(&self.writer, run).await,
            Thing::Owned { kind, run, id } => return put_owned(&self.writer, &kind, &run, &id).await,
            Thing::Checkpoint { key } => {
                sqlx::query("INSERT INTO checkpoints VALUES (?, '{}', '', '')").bind(key)
            }
            Thing::Signal { id, stream, kind, at } => sqlx::query(
                "INSERT INTO signals (stream_run_id, sequence, signal_id, stream_id, signal_type, published_at) \
                 VALUES ('sr', (SELECT count(*) FROM signals), ?, ?, ?, ?)",
            )
            .bind(id)
            .bind(stream)
            .bind(kind)
            .bind(at),
            Thing::Acknowledgement { signal, step_run, at } => {
                sqlx::query("INSERT INTO signal_acknowledgments VALUES (?, ?, ?)").bind(signal).bind(step_run).bind(at)
            }
            Thing::Subscription { stream, step_run, kinds, status, at } => {
                sqlx::query("INSERT INTO stream_subscriptions VALUES (?, ?, ?, ?, ?)")
                    .bind(stream)
                    .bind(step_run)
                    .bind(kinds)
                    .bind(status)
                    .bind(at)
            }
            Thing::Schedule { id, status, deleted_at } => sqlx::query(
                "INSERT INTO schedules (schedule_id, status, deleted_at, workflow_name, spec, spec_type, overlap_policy, created_at, updated_at) \
                 VALUES (?, ?, ?, 'order', '{}', 'cron', 'skip', '', '')",
            )
            .bind(id)
            .bind(status)
            .bind(deleted_at),
        };
        query.execute(&self.writer).await.expect("put");
    }

    async fn remove(&self, run: &str) {
        for table in ["events", "steps", "hooks", "cancellation_flags", "workflow_runs"] {
            let text = format!("DELETE FROM {table} WHERE run_id = ?");
            sqlx::query(AssertSqlSafe(text)).bind(run).execute(&self.writer).await.expect("removed");
        }
    }

    async fn things(&self) -> BTreeSet<Thing> {
        let mut things = BTreeSet::new();
        let runs = "SELECT run_id, status, workflow_name, created_at, updated_at, parent_run_id, continued_from_run_id FROM workflow_runs";
        things.extend(self.rows(runs).await.into_iter().map(
            |(id, status, workflow, created_at, updated_at, parent, continued_from)| {
                Thing::Run(Run { id, status, workflow, created_at, updated_at, parent, continued_from })
            },
        ));
        let owned = "SELECT 'events', run_id, event_id FROM events UNION ALL SELECT 'steps', run_id, step_id FROM steps \
                     UNION ALL SELECT 'hooks', run_id, hook_id FROM hooks \
                     UNION ALL SELECT 'cancellation_flags', run_id, '' FROM cancellation_flags";
        things.extend(self.rows(owned).await.into_iter().map(|(kind, run, id)| Thing::Owned { kind, run, id }));
        let keys = self.rows("SELECT step_run_id FROM checkpoints").await;
        things.extend(keys.into_iter().map(|(key,)| Thing::Checkpoint { key }));
        let signals = "SELECT signal_id, stream_id, signal_type, published_at FROM signals";
        things.extend(self.rows(signals).await.into_iter().map(|(id, stream, kind, at)| Thing::Signal {
            id,
            stream,
            kind,
            at,
        }));
        let read = "SELECT signal_id, step_run_id, acknowledged_at FROM signal_acknowledgments";
        things.extend(self.rows(read).await.into_iter().map(|(signal, step_run, at)| Thing::Acknowledgement {
            signal,
            step_run,
            at,
        }));
        let reads = "SELECT stream_id, step_run_id, signal_types, status, created_at FROM stream_subscriptions";
        things.extend(
            self.rows(reads).await.into_iter().map(|(stream, step_run, kinds, status, at)| Thing::Subscription {
                stream,
                step_run,
                kinds,
                status,
                at,
            }),
        );
        let schedules = "SELECT schedule_id, status, deleted_at FROM schedules";
        things.extend(self.rows(schedules).await.into_iter().map(|(id, status, deleted_at)| Thing::Schedule {
            id,
            status,
            deleted_at,
        }));
        things
    }
}

impl SqliteWorld {
    /// What a query of the owner answers.
    pub async fn rows<T>(&self, text: &'static str) -> Vec<T>
    where
        T: for<'r> FromRow<'r, SqliteRow> + Send + Unpin,
    {
        sqlx::query_as(text).fetch_all(&self.writer).await.expect("an answer")
    }
}

async fn put_run(writer: &SqlitePool, run: Run) {
    let text = "INSERT INTO workflow_runs (run_id, status, workflow_name, created_at, updated_at, parent_run_id, continued_from_run_id) \
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (run_id) DO UPDATE SET status = ?2, workflow_name = ?3, \
                created_at = ?4, updated_at = ?5, parent_run_id = ?6, continued_from_run_id = ?7";
    sqlx::query(text)
        .bind(run.id)
        .bind(run.status)
        .bind(run.workflow)
        .bind(run.created_at)
        .bind(run.updated_at)
        .bind(run.parent)
        .bind(run.continued_from)
        .execute(writer)
        .await
        .expect("a run");
}

async fn put_owned(writer: &SqlitePool, kind: &str, run: &str, id: &str) {
    let text = match kind {
        "events" => "INSERT INTO events (run_id, event_id, sequence, type, timestamp) VALUES (?, ?, 0, 'x', '')",
        "steps" => {
            "INSERT INTO steps (run_id, step_id, step_name, status, created_at) VALUES (?, ?, 'x', 'completed', '')"
        }
        "hooks" => {
            "INSERT INTO hooks (run_id, hook_id, token, created_at, status) VALUES (?1, ?2, ?1 || ':' || ?2, '', 'pending')"
        }
        "cancellation_flags" => "INSERT INTO cancellation_flags (run_id, created_at) VALUES (?, ?)",
        kind => panic!("no kind of thing: {kind}"),
    };
    sqlx::query(text).bind(run).bind(id).execute(writer).await.expect("a thing of a run");
}
