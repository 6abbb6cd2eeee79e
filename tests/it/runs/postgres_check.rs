//! Postgres databases that are not as they should be, and what is said of them.

use std::sync::Arc;

use apalis_janitor::{
    lock::Fence,
    runs::{
        RunStore,
        conformance::{Order, Subject, sweep_at},
        memory::Thing,
    },
};

use super::postgres_world::{
    FRESH, JOB, PostgresWorld, UPGRADED, count, expired, left, now, open, put_expired, sweep, told,
};
use crate::postgres::ASKED;

async fn refusal(url: &str) -> String {
    let place = url.replacen("unasked", "***", 1);
    told(&open(url).await.unwrap_err()).replace(&place, "PLACE")
}

#[tokio::test]
async fn says_what_is_wrong_with_an_address() {
    let world = PostgresWorld::new(FRESH).await;
    let url = world.url.clone();
    let none = format!("{url}_none");
    let expected =
        format!("postgres: unavailable: PLACE: database \"{}\" does not exist", none.rsplit('/').next().unwrap());
    assert_eq!(refusal(&none).await, expected);
    let closed = url.replacen("127.0.0.1:", "127.0.0.1:1", 1);
    assert!(open(&closed).await.is_err());
    let untrusted = format!("{url}?sslmode=require");
    let told = refusal(&untrusted).await;
    assert!(told.contains("server does not support TLS"), "{told}");
    let wrong = refusal(&format!("{url}?sslmode=sometimes")).await;
    assert!(wrong.contains("sometimes") && wrong.contains("ssl_mode"), "{wrong}");
    let password = url.replacen("janitor:unasked", &format!("{ASKED}:unasked"), 1);
    let refused = refusal(&password).await;
    assert_eq!(refused, "postgres: unavailable: PLACE: password authentication failed for user \"asked\"");
}

#[tokio::test]
async fn refuses_a_schema_that_it_does_not_know() {
    let cases = [
        ("DROP TABLE workflow_runs CASCADE", "no table \"workflow_runs\": not a store of layout \"pyworkflow\""),
        (
            "ALTER TABLE workflow_runs RENAME COLUMN updated_at TO changed_at",
            "table \"workflow_runs\" has no column \"updated_at\"",
        ),
        (
            "ALTER TABLE workflow_runs ALTER COLUMN updated_at TYPE timestamp",
            "column \"updated_at\" of table \"workflow_runs\" is no timestamptz",
        ),
        (
            "INSERT INTO schema_versions VALUES (7, now(), ''), (8, now(), '')",
            "schema version 8 is newer than layout \"pyworkflow\" knows (7): it may have tables that would be left behind",
        ),
    ];
    for (change, expected) in cases {
        let world = PostgresWorld::new(FRESH).await;
        world.execute(change).await;
        assert_eq!(refusal(&world.url).await, format!("postgres: PLACE: {expected}"));
    }
}

#[tokio::test]
async fn works_on_the_schemas_that_pyworkflow_makes() {
    for schema in [FRESH, UPGRADED] {
        let world = PostgresWorld::with_schema(schema).await;
        world.execute("INSERT INTO schema_versions VALUES (7, now(), '')").await;
        put_expired(&world, 3).await;
        assert_eq!(open(&world.url).await.unwrap().check().await.unwrap().warnings, [""; 0]);
        assert_eq!(sweep(&world).await.ids.len(), 3);
    }
}

#[tokio::test]
async fn works_without_the_tables_that_older_schemas_lack() {
    let world = PostgresWorld::new(FRESH).await;
    put_expired(&world, 3).await;
    let tables = "signals, signal_acknowledgments, stream_subscriptions, scheduled_signals, streams, schedules, checkpoints, \
                  cancellation_flags, hooks, steps, schema_versions";
    world.execute(&format!("DROP TABLE {tables}")).await;
    let store = Arc::new(open(&world.url).await.unwrap());
    let facts = store.check().await.unwrap().facts;
    assert_eq!(facts[1], "postgres: an older schema, without steps, hooks, cancellation_flags");
    for is_real in [false, true] {
        assert_eq!(sweep_at(store.clone(), &Order::default(), now(), is_real).await.ids.len(), 3);
    }
    assert_eq!(left(&world).await, [""; 0]);
}

#[tokio::test]
async fn warns_of_indexes_that_are_missing() {
    let world = PostgresWorld::new(FRESH).await;
    assert_eq!(world.store.check().await.unwrap().warnings, [""; 0]);
    world.execute("DROP INDEX idx_runs_parent_run_id, idx_runs_created_at_run_id, idx_steps_run_id").await;
    let warnings = world.store.check().await.unwrap().warnings;
    let expected = [
        "postgres: no index on workflow_runs(created_at, run_id), each batch reads the whole table: \
         CREATE INDEX CONCURRENTLY idx_runs_created_at_run_id ON workflow_runs(created_at DESC, run_id DESC)",
        "postgres: no index on workflow_runs(parent_run_id), each batch reads the whole table: \
         CREATE INDEX CONCURRENTLY idx_runs_parent_run_id ON workflow_runs(parent_run_id)",
        "postgres: no index on steps(run_id), each batch reads the whole table: \
         CREATE INDEX CONCURRENTLY idx_steps_run_id ON steps(run_id)",
    ];
    assert_eq!(warnings, expected);
    // The statements of the warnings mend it, and without them a sweep still does the same.
    put_expired(&world, 3).await;
    assert_eq!(sweep(&world).await.ids.len(), 3);
    for warning in warnings {
        world.execute(warning.rsplit(": ").next().unwrap()).await;
    }
    assert_eq!(world.store.check().await.unwrap().warnings, [""; 0]);
}

#[tokio::test]
async fn says_what_a_user_may_not_do_and_how_to_let_him() {
    let world = PostgresWorld::new(FRESH).await;
    put_expired(&world, 3).await;
    let user = format!("user_{}", world.url.rsplit('/').next().unwrap());
    world.execute(&format!("CREATE ROLE {user} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {user}")).await;
    let url = world.url.replacen("janitor:unasked", &format!("{user}:unasked"), 1);
    let store = Arc::new(open(&url).await.unwrap());
    assert_eq!(sweep_at(store.clone(), &Order::default(), now(), false).await.ids.len(), 3, "a plan only reads");
    let error = told(&store.raise(JOB, Fence::for_test(1)).await.unwrap_err());
    let expected = "permission denied for schema public (a real run needs to write, at first: CREATE TABLE IF NOT EXISTS \
                    janitor_fence (job TEXT PRIMARY KEY, fence BIGINT NOT NULL))";
    assert!(error.starts_with("postgres: unavailable: postgresql://user_") && error.ends_with(expected), "{error}");
    let warnings = store.check().await.unwrap().warnings;
    assert_eq!(warnings.len(), 3, "{warnings:#?}");
    // What the warnings say, done by the owner, is enough.
    for statement in warnings.iter().flat_map(|warning| {
        warning.split_once(": the user may not ").unwrap().1.split_once(": ").unwrap().1.split("; ")
    }) {
        world.execute(statement).await;
    }
    assert_eq!(store.check().await.unwrap().warnings, [""; 0]);
    assert_eq!(sweep_at(store, &Order::default(), now(), true).await.ids.len(), 3);
}

#[tokio::test]
async fn finds_checkpoints_whatever_the_order_of_texts() {
    // An index on another order than that of Unicode's is of use where it is that of bytes.
    for (collation, is_warned) in [("\"C\"", false), ("shifted", true), ("\"default\"", false)] {
        let world = PostgresWorld::new(FRESH).await;
        world.execute("CREATE COLLATION shifted (provider = icu, locale = 'und-u-ka-shifted')").await;
        world.execute(&format!("ALTER TABLE checkpoints ALTER COLUMN step_run_id TYPE text COLLATE {collation}")).await;
        for id in ["run a", "run-a", "run ab"] {
            world.put(Thing::Run(expired(id))).await;
            for step in ["step", "Z", "~", "0", "名", "🧹", ""] {
                world.put(Thing::Checkpoint { key: format!("{id}:{step}") }).await;
            }
        }
        let store = Arc::new(open(&world.url).await.unwrap());
        let warnings = store.check().await.unwrap().warnings;
        assert_eq!(!warnings.is_empty(), is_warned, "{collation}: {warnings:?}");
        world.execute("UPDATE workflow_runs SET status = 'running' WHERE run_id <> 'run a'").await;
        assert_eq!(sweep_at(store.clone(), &Order::default(), now(), true).await.tally.deleted.get("checkpoints"), 7);
        assert_eq!(count(&world, "checkpoints").await, 14);
        if is_warned {
            world.execute(warnings[0].rsplit(": ").next().unwrap()).await;
            assert_eq!(store.check().await.unwrap().warnings, [""; 0]);
        }
    }
}

/// In a steady state, where nothing older is kept, a sweep reads little more than what is due.
#[tokio::test]
async fn reads_little_more_than_what_is_due() {
    let world = PostgresWorld::new(FRESH).await;
    put_expired(&world, 600).await;
    let fresh = "INSERT INTO workflow_runs (run_id, workflow_name, status, created_at, updated_at) SELECT 'fresh ' || i, 'order', \
                 'completed', '2026-11-15', '2026-11-15' FROM generate_series(1, 20000) AS i; ANALYZE";
    world.execute(fresh).await;
    let read = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'workflow_runs'";
    let before = world.rows::<(i64,)>(read).await[0].0;
    let sessions = "pg_stat_activity WHERE datname = current_database() AND application_name = 'apalis-janitor'";
    let others = count(&world, sessions).await;
    {
        let store = Arc::new(open(&world.url).await.unwrap());
        assert_eq!(sweep_at(store, &Order::default(), now(), true).await.ids.len(), 600);
    }
    // A session hands its counts in when it ends.
    while count(&world, sessions).await > others {
        tokio::task::yield_now().await;
    }
    let rows = world.rows::<(i64,)>(read).await[0].0 - before;
    assert!(rows <= 3 * 600 + 2 * 1_000, "{rows} rows");
}
