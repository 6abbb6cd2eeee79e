//! The run store of one job, which writes down who deletes what under which fence.

use std::path::Path;

use sqlx::{ConnectOptions, Connection, PgConnection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    history::{Millis, Seen},
    postgres::Database,
    seed::Store,
};

/// How long a look waits for a sweep's transaction.
const BUSY_MAX: std::time::Duration = std::time::Duration::from_secs(20);

/// The fence's table is made beforehand, as the janitor makes it, to be watched from its first row on.
const SQLITE_AUDIT: &str = "
CREATE TABLE janitor_fence (job TEXT PRIMARY KEY, fence INTEGER NOT NULL);
CREATE TABLE audit (seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, fence INTEGER NOT NULL, run_id TEXT);
CREATE TRIGGER audit_first AFTER INSERT ON janitor_fence BEGIN
  INSERT INTO audit (at, fence) VALUES (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER), NEW.fence); END;
CREATE TRIGGER audit_raise AFTER UPDATE ON janitor_fence BEGIN
  INSERT INTO audit (at, fence) VALUES (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER), NEW.fence); END;
CREATE TRIGGER audit_delete AFTER DELETE ON workflow_runs BEGIN
  INSERT INTO audit (at, fence, run_id)
  SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER), fence, OLD.run_id FROM janitor_fence; END;";

const POSTGRES_SCHEMA: &str = include_str!("../data/pyworkflow_postgres.sql");
const POSTGRES_AUDIT: &str = "
CREATE TABLE janitor_fence (job TEXT PRIMARY KEY, fence BIGINT NOT NULL);
CREATE TABLE audit (seq BIGSERIAL PRIMARY KEY, at BIGINT NOT NULL, fence BIGINT NOT NULL, run_id TEXT);
CREATE FUNCTION audit_raise() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO audit (at, fence) VALUES ((extract(epoch FROM clock_timestamp()) * 1000)::bigint, NEW.fence);
  RETURN NULL; END $$;
CREATE FUNCTION audit_delete() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO audit (at, fence, run_id)
  SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint, fence, OLD.run_id FROM janitor_fence;
  RETURN NULL; END $$;
CREATE TRIGGER audit_raise AFTER INSERT OR UPDATE ON janitor_fence FOR EACH ROW EXECUTE FUNCTION audit_raise();
CREATE TRIGGER audit_delete AFTER DELETE ON workflow_runs FOR EACH ROW EXECUTE FUNCTION audit_delete();";
/// Runs that must go, and one that must stay.
const POSTGRES_RUNS: &str = "
INSERT INTO workflow_runs (run_id, workflow_name, status, created_at, updated_at)
SELECT 'due-' || i, 'flow', 'completed', at, at
FROM generate_series(1, $1) AS i, LATERAL (SELECT '2020-01-01'::timestamptz + i * interval '1 minute' AS at) AS a
UNION ALL SELECT 'keep-1', 'flow', 'running', '2020-01-01'::timestamptz, '2020-01-02'::timestamptz";

const AUDIT: &str = "SELECT at, fence, run_id FROM audit ORDER BY seq";

/// The store of one job.
#[derive(Debug)]
pub struct Audited {
    /// The job.
    pub job: String,
    /// Its URL.
    pub url: String,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Sqlite(Box<Store>, std::path::PathBuf),
    Postgres(Box<Database>),
}

impl Audited {
    /// A file in `folder` with `due` runs that must go.
    pub async fn sqlite(folder: &Path, job: &str, due: u64) -> Self {
        let path = folder.join(format!("{job}.db"));
        let store = Store::seed(&path, due).await;
        let mut connection = open(&path).await;
        sqlx::raw_sql(SQLITE_AUDIT).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        let url = format!("sqlite://{}", path.display());
        Self { job: job.to_owned(), url, place: Place::Sqlite(Box::new(store), path) }
    }

    /// A database with `due` runs that must go, which is reached by another port than its own.
    pub async fn postgres(job: &str, due: u64, by: u16) -> Self {
        let database = Database::new();
        let mut connection = database.connect().await;
        for text in [POSTGRES_SCHEMA, POSTGRES_AUDIT] {
            sqlx::raw_sql(text).execute(&mut connection).await.unwrap();
        }
        sqlx::query(POSTGRES_RUNS).bind(i64::try_from(due).unwrap()).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        let (head, tail) =
            database.url().rsplit_once(':').map(|(head, tail)| (head.to_owned(), tail.to_owned())).unwrap();
        let (_, name) = tail.split_once('/').unwrap();
        let url = format!("{head}:{by}/{name}");
        Self { job: job.to_owned(), url, place: Place::Postgres(Box::new(database)) }
    }

    /// The port of the server of all databases here.
    pub fn postgres_port() -> u16 {
        let url = Database::new().url();
        let (_, tail) = url.rsplit_once(':').unwrap();
        tail.split_once('/').unwrap().0.parse().unwrap()
    }

    /// What it saw, in its own order.
    pub async fn seen(&self) -> Vec<Seen> {
        let rows: Vec<(Millis, i64, Option<String>)> = match &self.place {
            Place::Sqlite(_, path) => sqlx::query_as(AUDIT).fetch_all(&mut open(path).await).await.unwrap(),
            Place::Postgres(database) => sqlx::query_as(AUDIT).fetch_all(&mut database.connect().await).await.unwrap(),
        };
        let seen = |(at, fence, run): (Millis, i64, _)| {
            let fence = fence.try_into().unwrap();
            Seen { job: self.job.clone(), at, fence, run }
        };
        rows.into_iter().map(seen).collect()
    }

    /// All that must stay is there, and every run that is left is whole.
    pub async fn assert_whole(&self) {
        match &self.place {
            Place::Sqlite(store, _) => store.assert_whole().await,
            Place::Postgres(database) => {
                let mut connection: PgConnection = database.connect().await;
                let text = "SELECT count(*) FROM workflow_runs WHERE run_id LIKE 'keep-%'";
                let kept: i64 = sqlx::query_scalar(text).fetch_one(&mut connection).await.unwrap();
                assert_eq!(kept, 1);
            }
        }
    }

    /// How many of the runs that must go are still there.
    pub async fn left(&self) -> u64 {
        let text = "SELECT count(*) FROM workflow_runs WHERE run_id LIKE 'due-%'";
        let left: i64 = match &self.place {
            Place::Sqlite(_, path) => sqlx::query_scalar(text).fetch_one(&mut open(path).await).await.unwrap(),
            Place::Postgres(database) => {
                sqlx::query_scalar(text).fetch_one(&mut database.connect().await).await.unwrap()
            }
        };
        left.try_into().unwrap()
    }
}

async fn open(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).busy_timeout(BUSY_MAX).connect().await.unwrap()
}
