//! Databases that are not as they should be, and owners that get in the way.

use std::{sync::Arc, time::Duration};

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

use super::mysql::{MysqlWorld, SCHEMA, open};
use crate::mysql::Database;

pub const JOB: &str = "old-runs";
pub const LONG: Duration = Duration::from_mins(1);
const OLD: &str = "'2026-01-01 00:00:00'";

pub fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 20, 3, 0, 0).unwrap()
}

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

pub fn event(run: &str) -> Thing {
    Thing::Owned { kind: "events".to_owned(), run: run.to_owned(), id: format!("event of {run}") }
}

/// A database as PyWorkflow makes it.
pub async fn real() -> MysqlWorld {
    MysqlWorld::with_schema(SCHEMA).await
}

/// Runs `run 000` and so on, each with an event.
pub async fn put_expired(world: &MysqlWorld, count: usize) -> Vec<String> {
    let ids: Vec<String> = (0..count).map(|at| format!("run {at:03}")).collect();
    for id in &ids {
        world.put(Thing::Run(expired(id))).await;
        world.put(event(id)).await;
    }
    ids
}

/// `run 00000` and so on, in one statement.
pub async fn put_many(world: &MysqlWorld, count: usize) {
    let text = format!(
        "INSERT INTO workflow_runs (run_id, workflow_name, status, created_at, updated_at) \
         SELECT CONCAT('run ', LPAD(seq, 5, '0')), 'order', 'completed', {OLD}, {OLD} FROM seq_0_to_{}",
        count - 1
    );
    world.execute(&text).await;
}

pub async fn page(store: &dyn RunStore) -> Vec<Seen> {
    store.page(now(), None, 100_000).await.unwrap().runs
}

async fn sweep(world: &MysqlWorld) -> Swept {
    sweep_at(world.store(), &Order::default(), now(), true).await
}

/// What opening says, with the place taken out.
async fn refusal(database: &Database, url: &str) -> String {
    let error = open(url).await.unwrap_err();
    let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
    let told = format!("{error}{source} {error:?}");
    assert!(!told.contains("s3cret"), "{told}");
    format!("{error}{source}").replace(&format!("127.0.0.1:{}/{}", database.port, database.name), "PLACE")
}

pub fn source(error: &StoreError) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}

#[tokio::test]
async fn says_what_is_wrong_with_a_database_that_is_no_store() {
    let database = Database::new();
    let none = "mysql: PLACE: no table \"workflow_runs\": not a store of layout \"pyworkflow\"";
    assert_eq!(refusal(&database, &database.url()).await, none);
    assert_eq!(refusal(&database, &database.url().replace("mysql:", "mariadb:")).await, none);
    let wrong = refusal(&database, &database.url_as("janitor", "s3cret-not")).await;
    assert_eq!(wrong, "mysql: unavailable: PLACE: Access denied for user 'janitor'@'127.0.0.1' (using password: YES)");
    let missing = refusal(&database, &format!("{}x", database.url())).await;
    assert_eq!(missing, format!("mysql: unavailable: PLACEx: Unknown database '{}x'", database.name));
    let nobody = crate::redis::free_port();
    let url = database.url().replace(&format!(":{}/", database.port), &format!(":{nobody}/"));
    let refused = refusal(&database, &url).await;
    assert!(refused.starts_with("mysql: unavailable: 127.0.0.1:") && refused.contains("refused"), "{refused}");
}

#[tokio::test]
async fn refuses_a_schema_that_it_does_not_know() {
    let cases = [
        (
            "ALTER TABLE workflow_runs RENAME COLUMN updated_at TO changed_at",
            "mysql: PLACE: table \"workflow_runs\" has no column \"updated_at\"",
        ),
        (
            "INSERT INTO schema_versions VALUES (7, NOW(), ''), (8, NOW(), '')",
            "mysql: PLACE: schema version 8 is newer than layout \"pyworkflow\" knows (7): it may have tables that would be left behind",
        ),
    ];
    for (change, expected) in cases {
        let world = real().await;
        world.execute(change).await;
        assert_eq!(refusal(&world.database, &world.database.url()).await, expected);
    }
}

#[tokio::test]
async fn works_on_the_schema_that_pyworkflow_makes() {
    let world = real().await;
    world.execute("INSERT INTO schema_versions VALUES (7, NOW(), '')").await;
    put_expired(&world, 3).await;
    assert_eq!(world.store.check().await.unwrap().warnings, [""; 0]);
    assert_eq!(sweep(&world).await.ids.len(), 3);
    assert_eq!(world.store.check().await.unwrap().warnings, [""; 0]);
}

#[tokio::test]
async fn works_without_the_tables_that_older_schemas_lack() {
    let world = real().await;
    put_expired(&world, 3).await;
    world
        .execute(
            "DROP TABLE signals, signal_acknowledgments, stream_subscriptions, streams, schedules, checkpoints, \
             cancellation_flags, hooks, steps, schema_versions",
        )
        .await;
    let store = Arc::new(open(&world.database.url()).await.unwrap());
    let facts = store.check().await.unwrap().facts;
    assert_eq!(facts[1], "mysql: an older schema, without steps, hooks, cancellation_flags");
    for is_real in [false, true] {
        assert_eq!(sweep_at(store.clone(), &Order::default(), now(), is_real).await.ids.len(), 3);
    }
    assert_eq!(world.left().await, [""; 0]);
}

#[tokio::test]
async fn tells_the_clock_in_utc_whatever_zone_the_server_is_in() {
    let world = real().await;
    let zones: Vec<(String,)> = world.rows("SELECT @@GLOBAL.time_zone").await;
    assert_eq!(zones[0].0, "+05:00");
    let skew = world.store.now().await.unwrap().expect("it has a clock") - Utc::now();
    assert!(skew.abs() < TimeDelta::minutes(1), "{skew}");
}

#[tokio::test]
async fn leaves_a_run_whose_id_differs_in_case_or_in_spaces_at_its_end() {
    for twin in ["RUN_ABC", "Run_abc", "run_abc  "] {
        let world = real().await;
        world.put(Thing::Run(expired("run_abc"))).await;
        let batch = page(&*world.store).await;
        // The same run in all but its id, which compares equal.
        world.remove("run_abc").await;
        for thing in [Thing::Run(expired(twin)), event(twin), Thing::Checkpoint { key: format!("{twin}:step") }] {
            world.put(thing).await;
        }
        let before = world.things().await;
        assert_eq!(before.len(), 3);
        assert_eq!(world.store.find(&["run_abc".to_owned()]).await.unwrap(), []);
        world.store.raise(JOB, Fence::for_test(1)).await.unwrap();
        let deleted = world.store.delete(JOB, Fence::for_test(1), &batch, LONG).await.unwrap();
        assert_eq!((deleted.runs.len(), deleted.changed), (0, 1), "{twin:?}");
        assert_eq!(world.things().await, before, "{twin:?}");
        assert_eq!(sweep(&world).await.ids, [twin]);
        assert!(world.things().await.is_empty());
    }
}

#[tokio::test]
async fn leaves_what_belongs_to_an_id_that_only_compares_equal() {
    let world = MysqlWorld::with_schema(&without_keys()).await;
    world.put(Thing::Run(expired("run_a"))).await;
    for id in ["run_a", "RUN_A", "run_a "] {
        for kind in ["events", "steps", "hooks", "cancellation_flags"] {
            let own =
                if kind == "cancellation_flags" { String::new() } else { format!("{kind} of {}", id.escape_unicode()) };
            if !(kind == "cancellation_flags" && id != "run_a") {
                world.put(Thing::Owned { kind: kind.to_owned(), run: id.to_owned(), id: own }).await;
            }
        }
        world.put(Thing::Checkpoint { key: format!("{id}:{}", id.escape_unicode()) }).await;
    }
    let is_own = |thing: &Thing| match thing {
        Thing::Run(_) => true,
        Thing::Owned { run, .. } => run == "run_a",
        Thing::Checkpoint { key } => key.starts_with("run_a:"),
        other => panic!("{other:?} was never put"),
    };
    let stays: Vec<Thing> = world.things().await.into_iter().filter(|thing| !is_own(thing)).collect();
    assert_eq!(stays.len(), 8);
    assert_eq!(sweep(&world).await.ids, ["run_a"]);
    assert_eq!(world.things().await.into_iter().collect::<Vec<_>>(), stays);
}

/// A foreign key takes `PARENT` and `parent` for one, and so holds the one because of the other.
#[tokio::test]
async fn a_child_holds_its_parent_in_whatever_case_it_names_it() {
    for child in [Run { status: "running".to_owned(), ..expired("child") }, expired("child")] {
        let world = real().await;
        let goes = child.status == "completed";
        world.put(Thing::Run(expired("parent"))).await;
        world.put(Thing::Run(Run { parent: Some("PARENT".to_owned()), ..child })).await;
        for is_real in [false, true] {
            let swept = sweep_at(world.store(), &Order::default(), now(), is_real).await;
            assert_eq!((swept.ids.len(), swept.tally.failed), (if goes { 2 } else { 0 }, 0), "{:?}", swept.tally);
            assert_eq!(swept.tally.kept.get("parent_of_kept"), u64::from(!goes));
        }
        assert_eq!(world.left().await.len(), if goes { 0 } else { 2 });
    }
}

/// The schema without any foreign key.
fn without_keys() -> String {
    let lines: Vec<&str> = SCHEMA.lines().filter(|line| !line.contains("CONSTRAINT")).collect();
    // What stood before a foreign key ends in a comma.
    lines.join("\n").replace(",\n) ENGINE", "\n) ENGINE")
}

#[tokio::test]
async fn takes_a_family_whatever_the_foreign_keys_are() {
    for schema in [SCHEMA.to_owned(), SCHEMA.replace(" ON DELETE CASCADE", ""), without_keys()] {
        let world = MysqlWorld::with_schema(&schema).await;
        let mut parent = None;
        for at in 0..40 {
            let id = format!("level {at:02}");
            world.put(Thing::Run(Run { parent, ..expired(&id) })).await;
            for kind in ["events", "steps", "hooks", "cancellation_flags"] {
                world.put(Thing::Owned { kind: kind.to_owned(), run: id.clone(), id: format!("{kind} of {id}") }).await;
            }
            parent = Some(id);
        }
        let swept = sweep(&world).await;
        assert_eq!((swept.ids.len(), swept.tally.failed, swept.tally.batches), (40, 0, 1));
        assert_eq!(swept.tally.deleted.get("events"), 40);
        assert!(world.things().await.is_empty());
    }
}

#[tokio::test]
async fn reports_a_run_that_the_owner_holds_and_deletes_the_others() {
    let holds = [
        (
            "CREATE TABLE invoice (run_id VARCHAR(255), FOREIGN KEY (run_id) REFERENCES workflow_runs (run_id)) \
             COLLATE utf8mb4_unicode_ci; INSERT INTO invoice VALUES ('run 041')",
            "a foreign key constraint fails",
        ),
        (
            "CREATE TRIGGER keep_it BEFORE DELETE ON workflow_runs FOR EACH ROW \
             IF OLD.run_id = 'run 041' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'it is held'; END IF",
            "it is held",
        ),
        (
            "CREATE TRIGGER keep_it BEFORE DELETE ON events FOR EACH ROW \
             IF OLD.run_id = 'run 041' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'it is held'; END IF",
            "it is held",
        ),
    ];
    for (hold, said) in holds {
        let world = real().await;
        put_expired(&world, 60).await;
        // The run above the one that is held stays too.
        world.put(Thing::Run(Run { parent: Some("run 040".to_owned()), ..expired("run 041") })).await;
        world.execute(hold).await;
        let swept = sweep(&world).await;
        assert_eq!(world.left().await, ["run 040", "run 041"], "{hold}");
        assert_eq!(world.rows::<(i64,)>("SELECT count(*) FROM events").await, [(2,)], "{hold}");
        assert_eq!((swept.ids.len(), swept.tally.failed, swept.tally.kept.get("parent_of_kept")), (58, 1, 1));
        let [Failure { item, error }] = &swept.tally.failures[..] else { panic!("{:?}", swept.tally.failures) };
        assert!(
            item == "run 041" && error.starts_with("mysql: refused to delete: ") && error.contains(said),
            "{error}"
        );
        // Freed, it goes with the next sweep.
        world.execute("DROP TABLE IF EXISTS invoice; DROP TRIGGER IF EXISTS keep_it").await;
        assert_eq!(sweep(&world).await.ids, ["run 041", "run 040"]);
    }
}

#[tokio::test]
async fn goes_on_where_a_schedule_is_held_by_the_owner() {
    let world = real().await;
    for id in ["held", "free", "free too"] {
        let deleted_at = Some((now() - TimeDelta::days(100)).to_rfc3339());
        world.put(Thing::Schedule { id: id.to_owned(), status: "deleted".to_owned(), deleted_at }).await;
    }
    let table = "CREATE TABLE plan (schedule VARCHAR(255), FOREIGN KEY (schedule) REFERENCES schedules (schedule_id)) \
                 COLLATE utf8mb4_unicode_ci; INSERT INTO plan VALUES ('held')";
    world.execute(table).await;
    assert_eq!(sweep(&world).await.tally.deleted.get("schedules"), 2);
    assert_eq!(world.rows::<(String,)>("SELECT schedule_id FROM schedules").await, [("held".to_owned(),)]);
}

/// A large backlog comes in the order of ids, each run once; a small one in that of creation.
#[tokio::test]
async fn shows_a_large_backlog_by_id() {
    let world = real().await;
    put_many(&world, 6_000).await;
    world
        .execute("UPDATE workflow_runs SET created_at = created_at + INTERVAL 1 SECOND WHERE run_id < 'run 00100'")
        .await;
    let (mut ids, mut after) = (Vec::new(), None);
    for _ in 0..10 {
        let page = world.store.page(now(), after.as_ref(), 1_000).await.unwrap();
        ids.extend(page.runs.into_iter().map(|run| run.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((ids.len(), ids.is_sorted(), after), (6_000, true, None));
    world.execute("UPDATE workflow_runs SET created_at = '2026-12-20 03:00:00' WHERE run_id >= 'run 01000'").await;
    let first = world.store.page(now(), None, 1_000).await.unwrap().runs;
    assert_eq!((first.len(), first[0].id.as_str(), first[100].id.as_str()), (1_000, "run 00099", "run 00999"));
}

#[tokio::test]
async fn sees_a_run_that_is_revived_between_the_plan_and_the_delete() {
    let world = real().await;
    put_expired(&world, 3).await;
    let batch = page(&*world.store).await;
    world
        .execute("UPDATE workflow_runs SET status = 'running', updated_at = UTC_TIMESTAMP(6) WHERE run_id = 'run 001'")
        .await;
    world.store.raise(JOB, Fence::for_test(1)).await.unwrap();
    let deleted = world.store.delete(JOB, Fence::for_test(1), &batch, LONG).await.unwrap();
    assert_eq!((deleted.runs.len(), deleted.changed), (2, 1));
    assert!(world.things().await.contains(&event("run 001")), "it lost its event");
}

#[tokio::test]
async fn warns_of_indexes_that_are_missing() {
    let world = MysqlWorld::with_schema(&without_keys()).await;
    world.execute("DROP INDEX idx_runs_parent_run_id ON workflow_runs; DROP INDEX idx_runs_created_at_run_id ON workflow_runs").await;
    world.execute("DROP INDEX idx_runs_created_at ON workflow_runs; DROP INDEX idx_steps_run_id ON steps").await;
    let store = Arc::new(open(&world.database.url()).await.unwrap());
    let warnings = store.check().await.unwrap().warnings;
    let expected = [
        "mysql: no index on workflow_runs(created_at, run_id), each page reads the whole table: \
         CREATE INDEX idx_runs_created_at_run_id ON workflow_runs(created_at DESC, run_id DESC)",
        "mysql: no index on workflow_runs(parent_run_id), each page reads the whole table: \
         CREATE INDEX idx_runs_parent_run_id ON workflow_runs(parent_run_id)",
        "mysql: no index on steps(run_id), each batch reads the whole table: CREATE INDEX idx_steps_run_id ON steps(run_id)",
    ];
    assert_eq!(warnings, expected);
    // Without them a sweep still does the same, and the statements of the warnings mend it.
    put_expired(&world, 3).await;
    world
        .put(Thing::Run(Run { parent: Some("run 000".to_owned()), status: "running".to_owned(), ..expired("z") }))
        .await;
    assert_eq!(sweep_at(store, &Order::default(), now(), true).await.ids, ["run 002", "run 001"]);
    for warning in warnings {
        world.execute(warning.rsplit(": ").next().unwrap()).await;
    }
    assert_eq!(open(&world.database.url()).await.unwrap().check().await.unwrap().warnings, [""; 0]);
}

#[tokio::test]
async fn refuses_an_engine_without_transactions() {
    let world = MysqlWorld::with_schema(&without_keys()).await;
    put_expired(&world, 3).await;
    world.execute("ALTER TABLE cancellation_flags ENGINE = Aria").await;
    let store = Arc::new(open(&world.database.url()).await.unwrap());
    let warning = "mysql: table cancellation_flags is of engine Aria, which has no transactions, a real run will refuse it: ALTER TABLE cancellation_flags ENGINE = InnoDB";
    assert_eq!(store.check().await.unwrap().warnings, [warning]);
    assert_eq!(sweep_at(store.clone(), &Order::default(), now(), false).await.ids.len(), 3);
    let error = store.raise(JOB, Fence::for_test(1)).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Schema { what, .. } if what.contains("ALTER TABLE cancellation_flags ENGINE = InnoDB")),
        "{error}"
    );
    assert_eq!(world.left().await.len(), 3);
}
