//! SQLite files that are not as they should be, and owners that get in the way.

use std::{
    path::Path,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use apalis_janitor::{
    lock::Fence,
    report::Failure,
    runs::{
        RunStore, Seen, StoreError,
        conformance::{Order, Subject, Swept, sweep_at},
        memory::{Run, Thing},
    },
};
use chrono::{DateTime, TimeDelta, TimeZone, Utc};
use sqlx::{Connection, Executor};

use super::world::{SCHEMA, SqliteWorld, open};

const JOB: &str = "old-runs";
const LONG: Duration = Duration::from_mins(1);

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 20, 3, 0, 0).unwrap()
}

fn expired(id: &str) -> Run {
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

fn event(run: &str) -> Thing {
    Thing::Owned { kind: "events".to_owned(), run: run.to_owned(), id: format!("event of {run}") }
}

/// Runs `run 000` and so on, each with an event.
async fn put_expired(world: &SqliteWorld, count: usize) -> Vec<String> {
    let ids: Vec<String> = (0..count).map(|at| format!("run {at:03}")).collect();
    for id in &ids {
        world.put(Thing::Run(expired(id))).await;
        world.put(event(id)).await;
    }
    ids
}

async fn left(world: &SqliteWorld) -> Vec<String> {
    world.rows("SELECT run_id FROM workflow_runs ORDER BY run_id").await.into_iter().map(|(id,)| id).collect()
}

async fn page(world: &SqliteWorld) -> Vec<Seen> {
    world.store.page(now(), None, 1_000).await.unwrap().runs
}

async fn sweep(world: &SqliteWorld) -> Swept {
    sweep_at(world.store(), &Order::default(), now(), true).await
}

async fn refusal(path: &Path) -> String {
    let error = open(path).await.unwrap_err();
    let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{source}").replace(path.to_str().unwrap(), "FILE")
}

#[tokio::test]
async fn says_what_is_wrong_with_a_file_that_is_no_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let missing = refusal(&path).await;
    assert_eq!(missing, "sqlite: unavailable: FILE: No such file or directory (os error 2)");
    assert!(!path.exists(), "it was made");
    std::fs::write(&path, "").unwrap();
    assert_eq!(refusal(&path).await, "sqlite: FILE: no table \"workflow_runs\": not a store of layout \"pyworkflow\"");
    assert_eq!(std::fs::read(&path).unwrap(), b"", "it was written");
    std::fs::write(&path, "this is text, and not a database of any kind\n".repeat(100)).unwrap();
    assert_eq!(refusal(&path).await, "sqlite: unavailable: FILE: file is not a database");
    let folder = folder.path();
    assert_eq!(refusal(folder).await, "sqlite: unavailable: FILE: is not a file");
}

#[tokio::test]
async fn refuses_a_schema_that_it_does_not_know() {
    let cases = [
        ("DROP TABLE workflow_runs", "sqlite: FILE: no table \"workflow_runs\": not a store of layout \"pyworkflow\""),
        (
            "ALTER TABLE workflow_runs RENAME COLUMN updated_at TO changed_at",
            "sqlite: FILE: table \"workflow_runs\" has no column \"updated_at\"",
        ),
        (
            "INSERT INTO schema_versions VALUES (7, '', ''), (8, '', '')",
            "sqlite: FILE: schema version 8 is newer than layout \"pyworkflow\" knows (7): it may have tables that would be left behind",
        ),
    ];
    for (change, expected) in cases {
        let world = SqliteWorld::new("delete").await;
        world.execute(change).await;
        assert_eq!(refusal(&world.path).await, expected);
    }
}

#[tokio::test]
async fn works_on_the_schema_that_pyworkflow_makes() {
    let world = SqliteWorld::with_schema("delete", SCHEMA).await;
    world.execute("INSERT INTO schema_versions VALUES (7, '', '')").await;
    put_expired(&world, 3).await;
    assert!(open(&world.path).await.unwrap().check().await.unwrap().warnings.is_empty());
    assert_eq!(sweep(&world).await.ids.len(), 3);
}

#[tokio::test]
async fn works_without_the_tables_that_older_schemas_lack() {
    let world = SqliteWorld::new("delete").await;
    put_expired(&world, 3).await;
    let tables = [
        "signals",
        "signal_acknowledgments",
        "stream_subscriptions",
        "streams",
        "schedules",
        "checkpoints",
        "cancellation_flags",
        "hooks",
        "steps",
        "schema_versions",
    ];
    for table in tables {
        world.execute(&format!("DROP TABLE {table}")).await;
    }
    let store = Arc::new(open(&world.path).await.unwrap());
    let facts = store.check().await.unwrap().facts;
    assert_eq!(facts[1], "sqlite: an older schema, without steps, hooks, cancellation_flags");
    for is_real in [false, true] {
        assert_eq!(sweep_at(store.clone(), &Order::default(), now(), is_real).await.ids.len(), 3);
    }
    assert_eq!(left(&world).await, [""; 0]);
}

#[tokio::test]
async fn waits_for_a_lock_only_so_long_and_works_afterwards() {
    for journal in ["delete", "wal"] {
        let world = SqliteWorld::new(journal).await;
        put_expired(&world, 3).await;
        let (batch, fence) = (page(&world).await, Fence::for_test(1));
        world.store.raise(JOB, fence).await.unwrap();
        let mut other = world.connect().await;
        other.execute("BEGIN EXCLUSIVE").await.unwrap();
        let start = Instant::now();
        let error = world.store.delete(JOB, fence, &batch, LONG).await.unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(20), "{journal}: {:?}", start.elapsed());
        let StoreError::Unavailable { source, .. } = error else { panic!("{journal}: {error}") };
        assert!(source.to_string().ends_with(": database is locked"), "{source}");
        other.execute("ROLLBACK").await.unwrap();
        assert_eq!(world.store.delete(JOB, fence, &batch, LONG).await.unwrap().runs.len(), 3);
        assert_eq!(left(&world).await, [""; 0]);
        other.close().await.unwrap();
    }
}

#[tokio::test]
async fn works_on_after_a_statement_was_interrupted() {
    let world = SqliteWorld::new("delete").await;
    let text = "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 19999) \
                INSERT INTO workflow_runs (run_id, workflow_name, status, created_at, updated_at) \
                SELECT printf('run %05d', i), 'order', 'completed', '2026-01-01T00:00:00+00:00', '2026-01-01T00:00:00+00:00' FROM n";
    world.execute(text).await;
    let batch = world.store.page(now(), None, 20_000).await.unwrap().runs;
    assert_eq!(batch.len(), 20_000);
    let fence = Fence::for_test(1);
    world.store.raise(JOB, fence).await.unwrap();
    for millis in [0, 1, 2, 5, 10, 20] {
        let error = world.store.delete(JOB, fence, &batch, Duration::from_millis(millis)).await.unwrap_err();
        assert!(matches!(error, StoreError::TimedOut { .. }), "{millis} ms: {error}");
        // The owner can write at once: no transaction was left open.
        world.execute("UPDATE workflow_runs SET error = 'x' WHERE run_id = 'run 00000'").await;
        assert_eq!(world.rows::<(i64,)>("SELECT count(*) FROM workflow_runs").await, [(20_000,)]);
    }
    assert_eq!(world.store.delete(JOB, fence, &batch, LONG).await.unwrap().runs.len(), 20_000);
    assert_eq!(left(&world).await, [""; 0]);
}

#[tokio::test]
async fn leaves_no_transaction_open_where_a_delete_is_dropped() {
    let world = SqliteWorld::new("delete").await;
    put_expired(&world, 20).await;
    let (batch, fence) = (page(&world).await, Fence::for_test(1));
    world.store.raise(JOB, fence).await.unwrap();
    for polls in 1..40 {
        // Polled so often, then dropped: somewhere within its statements.
        let mut delete = Box::pin(world.store.delete(JOB, fence, &batch, LONG));
        for _ in 0..polls {
            if futures::poll!(&mut delete).is_ready() {
                assert_eq!(left(&world).await, [""; 0]);
                return;
            }
            tokio::task::yield_now().await;
        }
        drop(delete);
        world.store.page(now(), None, 1).await.unwrap();
        world.execute("UPDATE workflow_runs SET error = 'x' WHERE run_id = 'run 000'").await;
    }
    let deleted = world.store.delete(JOB, fence, &batch, LONG).await.unwrap();
    assert_eq!(deleted.runs.len() + usize::try_from(deleted.changed).unwrap(), 20);
    assert_eq!(left(&world).await, [""; 0]);
}

#[tokio::test]
async fn warns_of_indexes_that_are_missing() {
    let world = SqliteWorld::new("delete").await;
    assert_eq!(world.store.check().await.unwrap().warnings, [""; 0]);
    world.execute("DROP INDEX idx_runs_parent_run_id; DROP INDEX idx_runs_created_at_run_id").await;
    let path = world.path.display().to_string();
    let warnings: Vec<String> =
        world.store.check().await.unwrap().warnings.into_iter().map(|text| text.replace(&path, "FILE")).collect();
    let expected = [
        "sqlite: no index on workflow_runs(created_at, run_id), each page reads the whole table: \
         CREATE INDEX idx_runs_created_at_run_id ON workflow_runs(created_at DESC, run_id DESC)",
        "sqlite: no index on workflow_runs(parent_run_id), each page reads the whole table: \
         CREATE INDEX idx_runs_parent_run_id ON workflow_runs(parent_run_id)",
    ];
    assert_eq!(warnings, expected);
    // The statements of the warnings mend it, and without them a sweep still does the same.
    put_expired(&world, 3).await;
    world
        .put(Thing::Run(Run { parent: Some("run 000".to_owned()), status: "running".to_owned(), ..expired("z") }))
        .await;
    assert_eq!(sweep(&world).await.ids, ["run 002", "run 001"]);
    for warning in warnings {
        world.execute(warning.rsplit(": ").next().unwrap()).await;
    }
    assert_eq!(world.store.check().await.unwrap().warnings, [""; 0]);
}

#[tokio::test]
async fn keeps_the_settings_of_the_file() {
    for journal in ["delete", "truncate", "persist", "wal"] {
        let world = SqliteWorld::new(journal).await;
        put_expired(&world, 3).await;
        let settings = async || {
            let mut other = world.connect().await;
            let mut values = Vec::new();
            for pragma in ["journal_mode", "auto_vacuum", "page_size", "application_id", "user_version", "encoding"] {
                let value = other.fetch_one(sqlx::AssertSqlSafe(format!("PRAGMA {pragma}"))).await.unwrap();
                values.push(format!(
                    "{:?}",
                    sqlx::Row::try_get_raw(&value, 0)
                        .map(|raw| { <String as sqlx::Decode<sqlx::Sqlite>>::decode(raw).ok() })
                        .unwrap()
                ));
            }
            other.close().await.unwrap();
            values
        };
        let before = settings().await;
        sweep(&world).await;
        assert_eq!(settings().await, before);
        let tables: Vec<(String,)> = world.rows("SELECT name FROM sqlite_master WHERE name LIKE 'janitor%'").await;
        assert_eq!(tables, [("janitor_fence".to_owned(),)]);
    }
}

#[tokio::test]
async fn leaves_no_journal_beside_the_file() {
    let world = SqliteWorld::new("delete").await;
    put_expired(&world, 3).await;
    sweep(&world).await;
    let journal = PathBuf::from(format!("{}-journal", world.path.display()));
    assert!(journal.exists(), "one connection keeps it from batch to batch");
    world.store.rest().await;
    assert!(!journal.exists());
}

#[tokio::test]
async fn reports_a_run_that_the_owner_holds_and_deletes_the_others() {
    let holds = [
        // A table of the owner's own that refers to a run, at once and at the commit.
        "CREATE TABLE invoice (run_id TEXT REFERENCES workflow_runs (run_id)); INSERT INTO invoice VALUES ('run 041')",
        "CREATE TABLE invoice (run_id TEXT REFERENCES workflow_runs (run_id) ON DELETE RESTRICT); INSERT INTO invoice VALUES ('run 041')",
        "CREATE TABLE invoice (run_id TEXT REFERENCES workflow_runs (run_id) DEFERRABLE INITIALLY DEFERRED); \
         INSERT INTO invoice VALUES ('run 041')",
        "CREATE TRIGGER keep BEFORE DELETE ON workflow_runs WHEN OLD.run_id = 'run 041' BEGIN SELECT RAISE(ABORT, 'FOREIGN KEY constraint failed'); END",
        "CREATE TRIGGER keep BEFORE DELETE ON events WHEN OLD.run_id = 'run 041' BEGIN SELECT RAISE(ROLLBACK, 'FOREIGN KEY constraint failed'); END",
    ];
    for hold in holds {
        let world = SqliteWorld::new("delete").await;
        put_expired(&world, 60).await;
        // The run above the one that is held stays too.
        world.put(Thing::Run(Run { parent: Some("run 040".to_owned()), ..expired("run 041") })).await;
        world.execute(hold).await;
        let swept = sweep(&world).await;
        assert_eq!(left(&world).await, ["run 040", "run 041"], "{hold}");
        assert_eq!(world.rows::<(i64,)>("SELECT count(*) FROM events").await, [(2,)], "{hold}");
        assert_eq!((swept.ids.len(), swept.tally.failed, swept.tally.kept.get("parent_of_kept")), (58, 1, 1));
        let [Failure { item, error }] = &swept.tally.failures[..] else { panic!("{:?}", swept.tally.failures) };
        let expected = format!("sqlite: refused to delete: {}: FOREIGN KEY constraint failed", world.path.display());
        assert_eq!((item.as_str(), error.as_str()), ("run 041", expected.as_str()));
        // Freed, it goes with the next sweep.
        world.execute("DROP TABLE IF EXISTS invoice; DROP TRIGGER IF EXISTS keep").await;
        assert_eq!(sweep(&world).await.ids, ["run 041", "run 040"]);
    }
}

#[tokio::test]
async fn deletes_what_the_owner_lets_go_along() {
    let world = SqliteWorld::new("delete").await;
    put_expired(&world, 2).await;
    let tables = "CREATE TABLE note (run_id TEXT REFERENCES workflow_runs (run_id) ON DELETE SET NULL); \
                  INSERT INTO note VALUES ('run 000')";
    world.execute(tables).await;
    assert_eq!(sweep(&world).await.ids.len(), 2);
    assert_eq!(world.rows::<(Option<String>,)>("SELECT run_id FROM note").await, [(None,)]);
}

#[tokio::test]
async fn keeps_rows_whose_values_are_no_text() {
    let world = SqliteWorld::new("delete").await;
    let insert =
        "INSERT INTO workflow_runs (run_id, workflow_name, status, created_at, updated_at, parent_run_id) VALUES ";
    let old = "'2026-01-01T00:00:00+00:00'";
    let rows = [
        format!("(x'ff01', 'order', 'completed', {old}, {old}, NULL)"),
        format!("(CAST(x'ff02' AS TEXT), 'order', 'completed', {old}, {old}, 'above')"),
        format!("('number', 'order', 'completed', 1700000000, {old}, NULL)"),
        format!("('real', 'order', 'completed', {old}, 1700000000.5, NULL)"),
        format!("('blob', 'order', 'completed', {old}, x'32303236', NULL)"),
        format!("('bytes', 'order', CAST(x'636f6d706c65746564ff' AS TEXT), {old}, {old}, NULL)"),
        format!("('above', 'order', 'completed', {old}, {old}, NULL)"),
        format!("('name', CAST(x'ff' AS TEXT), 'completed', {old}, {old}, NULL)"),
        format!("(NULL, 'order', 'completed', {old}, {old}, NULL)"),
        format!("('above bytes', 'order', 'completed', {old}, {old}, CAST(x'ff' AS TEXT))"),
    ];
    for row in rows {
        world.execute(&format!("{insert}{row}")).await;
    }
    for is_real in [false, true] {
        let mut ids = sweep_at(world.store(), &Order { batch: 1, ..Order::default() }, now(), is_real).await.ids;
        ids.sort_unstable();
        assert_eq!(ids, ["above bytes", "name"]);
    }
    assert_eq!(world.rows::<(i64,)>("SELECT count(*) FROM workflow_runs").await, [(8,)]);
}

#[tokio::test]
async fn sees_a_run_that_is_revived_between_the_plan_and_the_delete() {
    let world = SqliteWorld::new("delete").await;
    put_expired(&world, 3).await;
    let batch = page(&world).await;
    world.execute("UPDATE workflow_runs SET status = 'running', updated_at = '2026-11-20T03:00:00+00:00' WHERE run_id = 'run 001'").await;
    world.store.raise(JOB, Fence::for_test(1)).await.unwrap();
    let deleted = world.store.delete(JOB, Fence::for_test(1), &batch, LONG).await.unwrap();
    assert_eq!((deleted.runs.len(), deleted.changed), (2, 1));
    assert!(world.things().await.contains(&event("run 001")), "it lost its event");
}

#[tokio::test]
async fn goes_on_where_a_schedule_is_held_by_the_owner() {
    let world = SqliteWorld::new("delete").await;
    for id in ["held", "free", "free too"] {
        let deleted_at = Some((now() - TimeDelta::days(100)).to_rfc3339());
        world.put(Thing::Schedule { id: id.to_owned(), status: "deleted".to_owned(), deleted_at }).await;
    }
    let table =
        "CREATE TABLE plan (schedule TEXT REFERENCES schedules (schedule_id)); INSERT INTO plan VALUES ('held')";
    world.execute(table).await;
    let swept = sweep(&world).await;
    assert_eq!(swept.tally.deleted.get("schedules"), 2);
    assert_eq!(world.rows::<(String,)>("SELECT schedule_id FROM schedules").await, [("held".to_owned(),)]);
}
