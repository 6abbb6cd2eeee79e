//! A store with PyWorkflow's tables, filled with runs of which the id says what must become of them.
//!
//! `due-…` ended long ago, alone or in families; `keep-…` is fresh, runs, or is above one that runs. Each run has events,
//! steps, a hook and checkpoints, so that what was left behind or taken too much of shows.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    ConnectOptions, Connection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

/// The tables as PyWorkflow makes them.
const SCHEMA: &str = include_str!("../data/pyworkflow.sql");
/// How long a look waits for the sweep's transaction.
const BUSY_MAX: Duration = Duration::from_secs(20);
/// How many runs of each reason to stay there are.
const KEPT: u64 = 20;

/// The due runs: every seventh begins a family of three generations.
const DUE: &str = "
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?1)
INSERT INTO workflow_runs (run_id, workflow_name, status, created_at, updated_at, parent_run_id, nesting_depth)
SELECT printf('due-%06d', i), 'flow_' || i % 3,
  CASE i % 5 WHEN 0 THEN 'completed' WHEN 1 THEN 'failed' WHEN 2 THEN 'cancelled' WHEN 3 THEN 'interrupted' ELSE 'continued_as_new' END,
  strftime('%Y-%m-%dT%H:%M:%S+00:00', '2020-01-01', i || ' minutes'),
  strftime('%Y-%m-%dT%H:%M:%S+00:00', '2020-01-02', i || ' minutes'),
  CASE WHEN i % 7 IN (1, 2) THEN printf('due-%06d', i - 1) END, CASE WHEN i % 7 IN (1, 2) THEN i % 7 ELSE 0 END
FROM n";

/// The runs that stay: fresh, old but running, and ended above one that runs.
const KEEP: &str = "
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?1),
  kind(k, status, age, parent) AS (VALUES
    ('fresh', 'completed', '-1 days', NULL), ('running', 'running', '-900 days', NULL),
    ('parent', 'completed', '-900 days', NULL), ('child', 'suspended', '-899 days', 'parent'))
INSERT INTO workflow_runs (run_id, workflow_name, status, created_at, updated_at, parent_run_id)
SELECT printf('keep-%s-%06d', k, i), 'flow', status, strftime('%Y-%m-%dT%H:%M:%S+00:00', 'now', age),
  strftime('%Y-%m-%dT%H:%M:%S+00:00', 'now', age), CASE WHEN parent IS NULL THEN NULL ELSE printf('keep-%s-%06d', parent, i) END
FROM kind, n";

/// What belongs to every run, made of its id.
const OWNED: &str = "
INSERT INTO events (event_id, run_id, sequence, type, timestamp)
SELECT run_id || '-event-' || s.value, run_id, s.value, 'step', updated_at FROM workflow_runs, json_each('[1, 2, 3]') AS s;
INSERT INTO steps (step_id, run_id, step_name, status, created_at)
SELECT run_id || '-step-' || s.value, run_id, 'step', 'completed', updated_at FROM workflow_runs, json_each('[1, 2]') AS s;
INSERT INTO hooks (run_id, hook_id, token, created_at, status)
SELECT run_id, 'hook', run_id || ':hook', updated_at, 'received' FROM workflow_runs;
INSERT INTO checkpoints (step_run_id, data, created_at, updated_at)
SELECT run_id || ':step', '{}', updated_at, updated_at FROM workflow_runs;
INSERT INTO cancellation_flags (run_id, created_at) SELECT run_id, updated_at FROM workflow_runs;";

/// Every row that a run has, by table and key.
const ROWS: &str = "
SELECT 'run ' || run_id FROM workflow_runs UNION ALL SELECT 'event ' || event_id FROM events
UNION ALL SELECT 'step ' || step_id FROM steps UNION ALL SELECT 'hook ' || token FROM hooks
UNION ALL SELECT 'checkpoint ' || step_run_id FROM checkpoints UNION ALL SELECT 'flag ' || run_id FROM cancellation_flags";

/// A filled store.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    due: u64,
    kept: BTreeSet<String>,
}

impl Store {
    /// A new file at `path` with `due` runs that must go, and some that must stay.
    pub async fn seed(path: &Path, due: u64) -> Self {
        let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
        let options = options.journal_mode(SqliteJournalMode::Delete).synchronous(SqliteSynchronous::Off);
        let mut connection = options.connect().await.unwrap();
        let mut transaction = connection.begin().await.unwrap();
        sqlx::raw_sql(SCHEMA).execute(&mut *transaction).await.unwrap();
        for (text, count) in [(DUE, due), (KEEP, KEPT)] {
            sqlx::query(text).bind(i64::try_from(count).unwrap()).execute(&mut *transaction).await.unwrap();
        }
        sqlx::raw_sql(OWNED).execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
        connection.close().await.unwrap();
        let mut store = Self { path: path.to_owned(), due, kept: BTreeSet::new() };
        store.kept = store.rows().await.into_iter().filter(|row| row.contains(" keep-")).collect();
        assert_eq!(store.left().await, due);
        store
    }

    /// How many runs must go in all.
    pub const fn due(&self) -> u64 {
        self.due
    }

    /// How many of the runs that must go are still there.
    pub async fn left(&self) -> u64 {
        let text = "SELECT count(*) FROM workflow_runs WHERE run_id >= 'due-' AND run_id < 'due.'";
        let left: i64 = sqlx::query_scalar(text).fetch_one(&mut self.connect().await).await.unwrap();
        left.try_into().unwrap()
    }

    /// Whether somebody is amid a write.
    pub async fn is_being_written(&self) -> bool {
        let options = SqliteConnectOptions::new().filename(&self.path).busy_timeout(Duration::ZERO);
        let mut connection = options.connect().await.unwrap();
        let begun = sqlx::raw_sql("BEGIN EXCLUSIVE; ROLLBACK").execute(&mut connection).await;
        begun.is_err()
    }

    /// All that must stay is there, and nothing else, and the file is sound.
    pub async fn assert_swept(&self) {
        let rows = self.rows().await;
        let (too_many, missing): (Vec<_>, Vec<_>) =
            (rows.difference(&self.kept).take(5).collect(), self.kept.difference(&rows).take(5).collect());
        assert!(too_many.is_empty() && missing.is_empty(), "left behind: {too_many:?}; gone: {missing:?}");
        let sound: String =
            sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut self.connect().await).await.unwrap();
        assert_eq!(sound, "ok");
    }

    /// All that must stay is there, and every run that is left is whole.
    pub async fn assert_whole(&self) {
        let rows = self.rows().await;
        let gone: Vec<_> = self.kept.difference(&rows).take(5).collect();
        assert!(gone.is_empty(), "gone: {gone:?}");
        let runs = rows.iter().filter(|row| row.starts_with("run ")).count();
        // A run, three events, two steps, a hook, a checkpoint and a flag.
        assert_eq!(rows.len(), runs * 9, "a run was deleted in part");
    }

    async fn rows(&self) -> BTreeSet<String> {
        sqlx::query_scalar(ROWS).fetch_all(&mut self.connect().await).await.unwrap().into_iter().collect()
    }

    async fn connect(&self) -> SqliteConnection {
        SqliteConnectOptions::new().filename(&self.path).busy_timeout(BUSY_MAX).connect().await.unwrap()
    }
}

#[tokio::test]
async fn a_seeded_store_is_whole_and_not_swept() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::seed(&folder.path().join("app.db"), 50).await;
    store.assert_whole().await;
    assert!(!store.is_being_written().await);
    assert_eq!((store.due(), store.kept.len()), (50, 4 * 20 * 9));
}
