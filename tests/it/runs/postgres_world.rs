//! A Postgres database as PyWorkflow 0.4.0 leaves it, and the program that writes it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use apalis_janitor::{
    config::SecretUrl,
    runs::{
        RunStore, Seen, Stamp, StoreError,
        conformance::{Order, Subject, Swept, sweep_at, text},
        layout::PYWORKFLOW,
        memory::{Run, Thing},
        postgres::PostgresStore,
    },
};
use async_trait::async_trait;
use chrono::{DateTime, TimeZone, Utc};
use sqlx::{
    AssertSqlSafe, Connection, FromRow, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions, PgRow},
};

use crate::postgres::Database;

/// The dump of a schema that PyWorkflow 0.4.0 made.
pub const FRESH: &str = include_str!("../../data/pyworkflow_postgres.sql");
/// The dump of a schema that 0.2.6 made and 0.4.0 upgraded.
pub const UPGRADED: &str = include_str!("../../data/pyworkflow_postgres_upgraded.sql");
/// The dump of a schema that PyWorkflow 0.4.0 made on Citus 12, with fewer shards, and how its tables are spread.
pub const CITUS: &str = include_str!("../../data/pyworkflow_citus.sql");
/// An instant as [`text`] writes it, but for a fraction that is 0.
const FORM: &str = "YYYY-MM-DD\"T\"HH24:MI:SS.US\"+00:00\"";

/// A database with the store over it.
#[derive(Debug)]
pub struct PostgresWorld {
    pub store: Arc<PostgresStore>,
    pub writer: PgPool,
    pub url: String,
    /// Dropped with this.
    _place: Place,
}

/// What a world is in, and is dropped with it.
#[derive(Debug)]
enum Place {
    Database(#[expect(dead_code, reason = "dropped with the world")] Database),
    Schema(#[expect(dead_code, reason = "dropped with the world")] Schema),
}

/// A schema in the Citus database that the environment names.
#[derive(Debug)]
struct Schema {
    name: String,
    url: String,
}

impl Drop for Schema {
    fn drop(&mut self) {
        let (text, url) = (format!("DROP SCHEMA {} CASCADE", self.name), self.url.clone());
        // On a thread of its own: the test's runtime may be at its end.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut connection = PgConnection::connect(&url).await?;
                sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut connection).await
            })
        });
        // A test that failed has told why already.
        let _ = dropped.join();
    }
}

impl PostgresWorld {
    /// A database with that schema, in which times may be missing, which the real one refuses.
    pub async fn new(schema: &str) -> Self {
        let schema = schema.replace("time zone DEFAULT now() NOT NULL", "time zone DEFAULT now()");
        Self::with_schema(&schema.replace("time zone NOT NULL", "time zone")).await
    }

    /// A database with exactly that schema.
    pub async fn with_schema(schema: &str) -> Self {
        let database = Database::new();
        let url = database.url();
        let writer = writer(&url).await;
        sqlx::raw_sql(AssertSqlSafe(schema.to_owned())).execute(&writer).await.expect("a schema");
        let store = Arc::new(open(&url).await.expect("a store"));
        Self { store, writer, url, _place: Place::Database(database) }
    }

    /// A schema of its own on a real Citus.
    pub async fn on_citus() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        // `tests/run` counts this line, once for each test.
        let without = std::env::var("JANITOR_TESTS_WITHOUT").unwrap_or_default();
        assert!(!without.split(',').any(|server| server == "citus"), "left out: citus");
        let base = std::env::var("JANITOR_TESTS_CITUS").expect("JANITOR_TESTS_CITUS is the URL of a Citus coordinator");
        let name = format!("test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let url = format!("{base}?options=-csearch_path%3D{name}");
        let writer = PgPoolOptions::new().max_connections(2).connect(&url).await.expect("a coordinator that answers");
        let schema = CITUS.replace("time zone DEFAULT now() NOT NULL", "time zone DEFAULT now()");
        let schema = schema.replace("time zone NOT NULL", "time zone");
        let text = format!("SELECT pg_advisory_lock(1); CREATE SCHEMA {name}; {schema} SELECT pg_advisory_unlock(1);");
        sqlx::raw_sql(AssertSqlSafe(text)).execute(&writer).await.expect("a schema");
        let url = url.replacen("postgresql:", "citus:", 1);
        let store = Arc::new(open(&url).await.expect("a store"));
        Self { store, writer, url, _place: Place::Schema(Schema { name, url: base }) }
    }

    /// Executes statements as the program that owns the database.
    pub async fn execute(&self, text: &str) {
        sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(&self.writer).await.expect("executed");
    }

    /// What a query of the owner answers.
    pub async fn rows<T>(&self, text: &str) -> Vec<T>
    where
        T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        sqlx::query_as(AssertSqlSafe(text.to_owned())).fetch_all(&self.writer).await.expect("an answer")
    }
}

/// A pool of the owner's, which may write in any order: nothing looks at its foreign keys.
async fn writer(url: &str) -> PgPool {
    let options: PgConnectOptions = url.parse().expect("a URL");
    let options = options.options([("session_replication_role", "replica")]);
    PgPoolOptions::new().max_connections(2).connect_with(options).await.expect("a database")
}

/// Opens the store at `url`.
pub async fn open(url: &str) -> Result<PostgresStore, StoreError> {
    PostgresStore::open(&SecretUrl::new(url), &PYWORKFLOW).await
}

/// A time as the database tells it; what is no time cannot be written into it.
fn instant(at: Option<String>) -> Option<String> {
    Stamp::read(at).instant.map(text)
}

/// JSON as the database tells it; what is none is written as a text.
fn json(text: &str) -> String {
    let value = serde_json::from_str(text).unwrap_or_else(|_| serde_json::Value::from(text));
    value.to_string()
}

#[async_trait]
impl Subject for PostgresWorld {
    fn store(&self) -> Arc<dyn RunStore> {
        self.store.clone()
    }

    fn stored(&self, thing: Thing) -> Thing {
        match thing {
            Thing::Run(run) => Thing::Run(Run {
                created_at: instant(run.created_at.clone()),
                updated_at: instant(run.updated_at.clone()),
                ..run
            }),
            Thing::Signal { id, stream, kind, at } => Thing::Signal { id, stream, kind, at: instant(at) },
            Thing::Acknowledgement { signal, step_run, at } => {
                Thing::Acknowledgement { signal, step_run, at: instant(at) }
            }
            Thing::Subscription { stream, step_run, kinds, status, at } => {
                Thing::Subscription { stream, step_run, kinds: json(&kinds), status, at: instant(at) }
            }
            Thing::Schedule { id, status, deleted_at } => {
                Thing::Schedule { id, status, deleted_at: instant(deleted_at) }
            }
            thing @ (Thing::Owned { .. } | Thing::Checkpoint { .. }) => thing,
        }
    }

    async fn put(&self, thing: Thing) {
        let query = match self.stored(thing) {
            Thing::Run(run) => return put_run(&self.writer, run).await,
            Thing::Owned { kind, run, id } => return put_owned(&self.writer, &kind, &run, &id).await,
            Thing::Checkpoint { key } => {
                sqlx::query("INSERT INTO checkpoints (step_run_id, data) VALUES ($1, '{}')").bind(key)
            }
            Thing::Signal { id, stream, kind, at } => sqlx::query(
                "INSERT INTO signals (stream_run_id, sequence, signal_id, stream_id, signal_type, published_at) \
                 VALUES ($1, 0, $1, $2, $3, $4::text::timestamptz)",
            )
            .bind(id)
            .bind(stream)
            .bind(kind)
            .bind(at),
            Thing::Acknowledgement { signal, step_run, at } => {
                sqlx::query("INSERT INTO signal_acknowledgments VALUES ($1, $2, $3::text::timestamptz)")
                    .bind(signal)
                    .bind(step_run)
                    .bind(at)
            }
            Thing::Subscription { stream, step_run, kinds, status, at } => sqlx::query(
                "INSERT INTO stream_subscriptions (stream_id, step_run_id, signal_types, status, created_at) \
                 VALUES ($1, $2, $3::text::jsonb, $4, $5::text::timestamptz)",
            )
            .bind(stream)
            .bind(step_run)
            .bind(kinds)
            .bind(status)
            .bind(at),
            Thing::Schedule { id, status, deleted_at } => sqlx::query(
                "INSERT INTO schedules (schedule_id, status, deleted_at, workflow_name, spec, spec_type, overlap_policy, created_at, updated_at) \
                 VALUES ($1, $2, $3::text::timestamptz, 'order', '{}', 'cron', 'skip', now(), now())",
            )
            .bind(id)
            .bind(status)
            .bind(deleted_at),
        };
        query.execute(&self.writer).await.expect("put");
    }

    async fn remove(&self, run: &str) {
        for table in ["events", "steps", "hooks", "cancellation_flags", "workflow_runs"] {
            let text = format!("DELETE FROM {table} WHERE run_id = $1");
            sqlx::query(AssertSqlSafe(text)).bind(run).execute(&self.writer).await.expect("removed");
        }
    }

    async fn things(&self) -> BTreeSet<Thing> {
        let at = |column: &str| format!("to_char({column} AT TIME ZONE 'UTC', '{FORM}')");
        let mut things = BTreeSet::new();
        let runs = format!(
            "SELECT run_id, status, workflow_name, {}, {}, parent_run_id, continued_from_run_id FROM workflow_runs",
            at("created_at"),
            at("updated_at")
        );
        things.extend(self.rows(&runs).await.into_iter().map(
            |(id, status, workflow, created_at, updated_at, parent, continued_from)| {
                Thing::Run(Run { id, status, workflow, created_at, updated_at, parent, continued_from })
            },
        ));
        for (kind, id) in
            [("events", "event_id"), ("steps", "step_id"), ("hooks", "hook_id"), ("cancellation_flags", "''")]
        {
            let owned = self.rows::<(String, String)>(&format!("SELECT run_id, {id} FROM {kind}")).await;
            things.extend(owned.into_iter().map(|(run, id)| Thing::Owned { kind: kind.to_owned(), run, id }));
        }
        let keys = self.rows("SELECT step_run_id FROM checkpoints").await;
        things.extend(keys.into_iter().map(|(key,)| Thing::Checkpoint { key }));
        let signals = format!("SELECT signal_id, stream_id, signal_type, {} FROM signals", at("published_at"));
        let signals = self.rows(&signals).await.into_iter();
        things.extend(signals.map(|(id, stream, kind, at)| Thing::Signal { id, stream, kind, at }));
        let read = format!("SELECT signal_id, step_run_id, {} FROM signal_acknowledgments", at("acknowledged_at"));
        let read = self.rows(&read).await.into_iter();
        things.extend(read.map(|(signal, step_run, at)| Thing::Acknowledgement { signal, step_run, at }));
        let reads = format!(
            "SELECT stream_id, step_run_id, signal_types::text, status, {} FROM stream_subscriptions",
            at("created_at")
        );
        things.extend(
            self.rows(&reads).await.into_iter().map(|(stream, step_run, kinds, status, at)| Thing::Subscription {
                stream,
                step_run,
                kinds,
                status,
                at,
            }),
        );
        let schedules = format!("SELECT schedule_id, status, {} FROM schedules", at("deleted_at"));
        let schedules = self.rows(&schedules).await.into_iter();
        things.extend(schedules.map(|(id, status, deleted_at)| Thing::Schedule { id, status, deleted_at }));
        things.into_iter().map(|thing| self.stored(thing)).collect()
    }
}

/// The job whose fence the tests raise.
pub const JOB: &str = "old-runs";
/// A limit that no test meets.
pub const LONG: Duration = Duration::from_mins(1);

/// The moment at which the tests sweep.
pub fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 20, 3, 0, 0).unwrap()
}

/// A run that ended long ago.
pub fn expired(id: &str) -> Run {
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

/// Runs `run 0000` and so on, each with an event; every third is below the one before it.
pub async fn put_expired(world: &PostgresWorld, count: usize) {
    let text = format!(
        "INSERT INTO workflow_runs (run_id, workflow_name, status, created_at, updated_at, parent_run_id) \
         SELECT 'run ' || lpad(i::text, 4, '0'), 'order', 'completed', '2026-01-01T00:00:00Z', '2026-01-01T00:00:00Z', \
         CASE WHEN i % 3 = 2 THEN 'run ' || lpad((i - 1)::text, 4, '0') END FROM generate_series(0, {count} - 1) AS i; \
         INSERT INTO events (event_id, run_id, sequence, type, timestamp) SELECT 'event of ' || run_id, run_id, 0, 'x', now() FROM workflow_runs"
    );
    world.execute(&text).await;
}

/// The ids of the runs that are there.
pub async fn left(world: &PostgresWorld) -> Vec<String> {
    world.rows("SELECT run_id FROM workflow_runs ORDER BY run_id").await.into_iter().map(|(id,)| id).collect()
}

/// How many rows a table has.
pub async fn count(world: &PostgresWorld, table: &str) -> i64 {
    world.rows::<(i64,)>(&format!("SELECT count(*) FROM {table}")).await[0].0
}

/// All runs, as a page shows them.
pub async fn page(store: &dyn RunStore) -> Vec<Seen> {
    store.page(now(), None, 100_000).await.unwrap().runs
}

/// Sweeps for real.
pub async fn sweep(world: &PostgresWorld) -> Swept {
    sweep_at(world.store(), &Order::default(), now(), true).await
}

/// An error with its cause.
pub fn told(error: &StoreError) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{source}")
}

async fn put_run(writer: &PgPool, run: Run) {
    let text = "INSERT INTO workflow_runs (run_id, status, workflow_name, created_at, updated_at, parent_run_id, continued_from_run_id) \
                VALUES ($1, $2, $3, $4::text::timestamptz, $5::text::timestamptz, $6, $7) ON CONFLICT (run_id) DO UPDATE SET \
                status = excluded.status, workflow_name = excluded.workflow_name, created_at = excluded.created_at, \
                updated_at = excluded.updated_at, parent_run_id = excluded.parent_run_id, continued_from_run_id = excluded.continued_from_run_id";
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

async fn put_owned(writer: &PgPool, kind: &str, run: &str, id: &str) {
    let text = match kind {
        "events" => "INSERT INTO events (run_id, event_id, sequence, type, timestamp) VALUES ($1, $2, 0, 'x', now())",
        "steps" => {
            "INSERT INTO steps (run_id, step_id, step_name, status, created_at) VALUES ($1, $2, 'x', 'completed', now())"
        }
        "hooks" => {
            "INSERT INTO hooks (run_id, hook_id, token, created_at, status) VALUES ($1, $2, $1 || ':' || $2, now(), 'pending')"
        }
        "cancellation_flags" => "INSERT INTO cancellation_flags (run_id, created_at) SELECT $1, now() WHERE $2 = ''",
        kind => panic!("no kind of thing: {kind}"),
    };
    sqlx::query(text).bind(run).bind(id).execute(writer).await.expect("a thing of a run");
}
