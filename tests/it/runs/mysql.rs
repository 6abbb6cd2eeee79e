//! A MySQL database as PyWorkflow 0.4.0 makes it, and the program that writes it.

use std::{collections::BTreeSet, sync::Arc};

use apalis_janitor::{
    config::SecretUrl,
    runs::{
        RunStore, Stamp, StoreError,
        conformance::{Subject, text},
        layout::PYWORKFLOW,
        memory::{Run, Thing},
        mysql::MysqlStore,
    },
};
use async_trait::async_trait;
use sqlx::{
    AssertSqlSafe, FromRow, MySqlPool,
    mysql::{MySqlConnectOptions, MySqlPoolOptions, MySqlRow},
};

use crate::mysql::Database;

/// The dump of a schema that PyWorkflow made.
pub const SCHEMA: &str = include_str!("../../data/pyworkflow_mysql.sql");
/// What a time becomes that is none.
const NO_TIME: &str = "0000-00-00 00:00:00";

/// A database with the store over it.
#[derive(Debug)]
pub struct MysqlWorld {
    pub store: Arc<MysqlStore>,
    pub writer: MySqlPool,
    pub database: Database,
}

impl MysqlWorld {
    /// A database in which times may be missing and texts are their bytes, which the real schema refuses.
    pub async fn new() -> Self {
        let schema = SCHEMA.replace("datetime(6) NOT NULL", "datetime(6) NULL");
        Self::with_schema(&schema.replace("utf8mb4_unicode_ci", "utf8mb4_nopad_bin")).await
    }

    /// A database with that schema, which must be one that can be opened.
    pub async fn with_schema(schema: &str) -> Self {
        Self::within(Database::new(), schema).await
    }

    /// That database with that schema.
    pub async fn within(database: Database, schema: &str) -> Self {
        let writer = writer(&database).await;
        sqlx::raw_sql(AssertSqlSafe(schema.to_owned())).execute(&writer).await.expect("a schema");
        let store = Arc::new(open(&database.url()).await.expect("a store"));
        Self { store, writer, database }
    }

    /// Executes statements as the program that owns the database.
    pub async fn execute(&self, text: &str) {
        sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(&self.writer).await.expect("executed");
    }

    /// What a query of the owner answers.
    pub async fn rows<T>(&self, text: &'static str) -> Vec<T>
    where
        T: for<'r> FromRow<'r, MySqlRow> + Send + Unpin,
    {
        sqlx::query_as(text).fetch_all(&self.writer).await.expect("an answer")
    }

    /// The ids of the runs that are there.
    pub async fn left(&self) -> Vec<String> {
        self.rows("SELECT run_id FROM workflow_runs ORDER BY run_id").await.into_iter().map(|(id,)| id).collect()
    }
}

/// One connection, with foreign keys off so that a test may write in any order, and with times that are none.
async fn writer(database: &Database) -> MySqlPool {
    let options: MySqlConnectOptions = database.url().parse().expect("a URL");
    let pool = MySqlPoolOptions::new().max_connections(1).after_connect(|connection, _| {
        Box::pin(async move {
            sqlx::raw_sql("SET SESSION foreign_key_checks = 0, sql_mode = ''").execute(connection).await?;
            Ok(())
        })
    });
    pool.connect_with(options.pipes_as_concat(false).no_engine_substitution(false)).await.expect("a new database")
}

/// Opens the store of a database.
pub async fn open(url: &str) -> Result<MysqlStore, StoreError> {
    MysqlStore::open(&SecretUrl::new(url), &PYWORKFLOW).await
}

/// A time as the owner writes it: a wall clock in UTC.
fn written(at: Option<String>) -> Option<String> {
    let instant = |at| Stamp::read(Some(at)).instant;
    at.map(|at| instant(at).map_or_else(|| NO_TIME.to_owned(), |at| at.format("%Y-%m-%d %H:%M:%S%.6f").to_string()))
}

/// A time as the tests write it.
fn told(at: Option<String>) -> Option<String> {
    at.map(|at| Stamp::read(Some(at)).instant.map_or_else(|| NO_TIME.to_owned(), text))
}

#[async_trait]
impl Subject for MysqlWorld {
    fn store(&self) -> Arc<dyn RunStore> {
        self.store.clone()
    }

    async fn put(&self, thing: Thing) {
        let query = match thing {
            Thing::Run(run) => return put_run(&self.writer, run).await,
            Thing::Owned { kind, run, id } => return put_owned(&self.writer, &kind, &run, &id).await,
            Thing::Checkpoint { key } => {
                sqlx::query("INSERT INTO checkpoints VALUES (?, '{}', UTC_TIMESTAMP(), UTC_TIMESTAMP())").bind(key)
            }
            Thing::Signal { id, stream, kind, at } => sqlx::query(
                "INSERT INTO signals (stream_run_id, sequence, signal_id, stream_id, signal_type, published_at) \
                 SELECT 'sr', count(*), ?, ?, ?, ? FROM signals",
            )
            .bind(id)
            .bind(stream)
            .bind(kind)
            .bind(written(at)),
            Thing::Acknowledgement { signal, step_run, at } => {
                let text = "INSERT INTO signal_acknowledgments VALUES (?, ?, ?)";
                sqlx::query(text).bind(signal).bind(step_run).bind(written(at))
            }
            Thing::Subscription { stream, step_run, kinds, status, at } => {
                sqlx::query("INSERT INTO stream_subscriptions VALUES (?, ?, ?, ?, ?)")
                    .bind(stream)
                    .bind(step_run)
                    .bind(kinds)
                    .bind(status)
                    .bind(written(at))
            }
            Thing::Schedule { id, status, deleted_at } => sqlx::query(
                "INSERT INTO schedules (schedule_id, status, deleted_at, workflow_name, spec, spec_type, overlap_policy, created_at, updated_at) \
                 VALUES (?, ?, ?, 'order', '{}', 'cron', 'skip', UTC_TIMESTAMP(), UTC_TIMESTAMP())",
            )
            .bind(id)
            .bind(status)
            .bind(written(deleted_at)),
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
        let runs = "SELECT run_id, status, workflow_name, CAST(created_at AS CHAR), CAST(updated_at AS CHAR), parent_run_id, continued_from_run_id \
                    FROM workflow_runs";
        things.extend(self.rows(runs).await.into_iter().map(
            |(id, status, workflow, created_at, updated_at, parent, continued_from)| {
                let (created_at, updated_at) = (told(created_at), told(updated_at));
                Thing::Run(Run { id, status, workflow, created_at, updated_at, parent, continued_from })
            },
        ));
        let owned = "SELECT 'events', run_id, event_id FROM events UNION ALL SELECT 'steps', run_id, step_id FROM steps \
                     UNION ALL SELECT 'hooks', run_id, hook_id FROM hooks \
                     UNION ALL SELECT 'cancellation_flags', run_id, '' FROM cancellation_flags";
        things.extend(self.rows(owned).await.into_iter().map(|(kind, run, id)| Thing::Owned { kind, run, id }));
        let keys = self.rows("SELECT step_run_id FROM checkpoints").await;
        things.extend(keys.into_iter().map(|(key,)| Thing::Checkpoint { key }));
        let signals = "SELECT signal_id, stream_id, signal_type, CAST(published_at AS CHAR) FROM signals";
        let signal = |(id, stream, kind, at)| Thing::Signal { id, stream, kind, at: told(at) };
        things.extend(self.rows(signals).await.into_iter().map(signal));
        let read = "SELECT signal_id, step_run_id, CAST(acknowledged_at AS CHAR) FROM signal_acknowledgments";
        let acknowledgement = |(signal, step_run, at)| Thing::Acknowledgement { signal, step_run, at: told(at) };
        things.extend(self.rows(read).await.into_iter().map(acknowledgement));
        let reads =
            "SELECT stream_id, step_run_id, signal_types, status, CAST(created_at AS CHAR) FROM stream_subscriptions";
        let subscription = |(stream, step_run, kinds, status, at)| Thing::Subscription {
            stream,
            step_run,
            kinds,
            status,
            at: told(at),
        };
        things.extend(self.rows(reads).await.into_iter().map(subscription));
        let schedules = "SELECT schedule_id, status, CAST(deleted_at AS CHAR) FROM schedules";
        let schedule = |(id, status, at)| Thing::Schedule { id, status, deleted_at: told(at) };
        things.extend(self.rows(schedules).await.into_iter().map(schedule));
        things
    }

    fn stored(&self, thing: Thing) -> Thing {
        match thing {
            Thing::Run(run) => {
                Thing::Run(Run { created_at: told(run.created_at), updated_at: told(run.updated_at), ..run })
            }
            Thing::Signal { id, stream, kind, at } => Thing::Signal { id, stream, kind, at: told(at) },
            Thing::Acknowledgement { signal, step_run, at } => {
                Thing::Acknowledgement { signal, step_run, at: told(at) }
            }
            Thing::Subscription { stream, step_run, kinds, status, at } => {
                Thing::Subscription { stream, step_run, kinds, status, at: told(at) }
            }
            Thing::Schedule { id, status, deleted_at } => Thing::Schedule { id, status, deleted_at: told(deleted_at) },
            timeless @ (Thing::Owned { .. } | Thing::Checkpoint { .. }) => timeless,
        }
    }

    fn holds(&self, id: &str) -> bool {
        id.chars().count() <= 200
    }
}

async fn put_run(writer: &MySqlPool, run: Run) {
    let text = "INSERT INTO workflow_runs (run_id, status, workflow_name, created_at, updated_at, parent_run_id, continued_from_run_id) \
                VALUES (?, ?, ?, ?, ?, ?, ?) ON DUPLICATE KEY UPDATE status = VALUES(status), workflow_name = VALUES(workflow_name), \
                created_at = VALUES(created_at), updated_at = VALUES(updated_at), parent_run_id = VALUES(parent_run_id), \
                continued_from_run_id = VALUES(continued_from_run_id)";
    sqlx::query(text)
        .bind(run.id)
        .bind(run.status)
        .bind(run.workflow)
        .bind(written(run.created_at))
        .bind(written(run.updated_at))
        .bind(run.parent)
        .bind(run.continued_from)
        .execute(writer)
        .await
        .expect("a run");
}

async fn put_owned(writer: &MySqlPool, kind: &str, run: &str, id: &str) {
    let text = match kind {
        "events" => {
            "INSERT INTO events (run_id, event_id, sequence, type, timestamp) VALUES (?, ?, 0, 'x', UTC_TIMESTAMP())"
        }
        "steps" => {
            "INSERT INTO steps (run_id, step_id, step_name, status, created_at) VALUES (?, ?, 'x', 'completed', UTC_TIMESTAMP())"
        }
        "hooks" => {
            "INSERT INTO hooks (run_id, hook_id, token, created_at, status) VALUES (?, ?, UUID(), UTC_TIMESTAMP(), 'pending')"
        }
        "cancellation_flags" => {
            let text = "INSERT INTO cancellation_flags (run_id, created_at) VALUES (?, UTC_TIMESTAMP())";
            sqlx::query(text).bind(run).execute(writer).await.expect("a flag");
            return;
        }
        kind => panic!("no kind of thing: {kind}"),
    };
    sqlx::query(text).bind(run).bind(id).execute(writer).await.expect("a thing of a run");
}
