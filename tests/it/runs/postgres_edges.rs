//! Postgres databases whose owners get in the way.

use std::time::Duration;

use apalis_janitor::{
    lock::Fence,
    report::Failure,
    runs::{
        RunStore, StoreError,
        conformance::{Order, Subject, sweep_at},
        memory::Thing,
    },
};
use sqlx::{Connection, Executor, PgConnection};

use super::postgres_world::{
    FRESH, JOB, LONG, PostgresWorld, count, expired, left, now, open, page, put_expired, sweep, told,
};

#[tokio::test]
async fn leaves_a_run_that_somebody_has_locked() {
    let world = PostgresWorld::new(FRESH).await;
    put_expired(&world, 6).await;
    let (batch, fence) = (page(&*world.store).await, Fence::for_test(1));
    world.store.raise(JOB, fence).await.unwrap();
    let mut other = PgConnection::connect(&world.url).await.unwrap();
    // As the foreign key of an event that is being written does.
    other.execute("BEGIN; SELECT 1 FROM workflow_runs WHERE run_id = 'run 0002' FOR KEY SHARE").await.unwrap();
    let deleted = world.store.delete(JOB, fence, &batch, LONG).await.unwrap();
    // The one above it is held.
    assert_eq!((deleted.runs.len(), deleted.changed, deleted.held), (4, 1, 1));
    assert_eq!(left(&world).await, ["run 0001", "run 0002"]);
    assert_eq!(count(&world, "events").await, 2);
    other.execute("ROLLBACK").await.unwrap();
    assert_eq!(world.store.delete(JOB, fence, &batch, LONG).await.unwrap().runs.len(), 2);
}

#[tokio::test]
async fn waits_for_a_lock_only_so_long_and_works_afterwards() {
    let world = PostgresWorld::new(FRESH).await;
    put_expired(&world, 300).await;
    let (batch, fence) = (page(&*world.store).await, Fence::for_test(1));
    world.store.raise(JOB, fence).await.unwrap();
    let mut other = PgConnection::connect(&world.url).await.unwrap();
    other.execute("BEGIN; SELECT 1 FROM events WHERE run_id = 'run 0150' FOR UPDATE").await.unwrap();
    let error = world.store.delete(JOB, fence, &batch, Duration::from_millis(500)).await.unwrap_err();
    assert!(matches!(error, StoreError::TimedOut { .. }), "{}", told(&error));
    // None of the parts of the batch is done, or still at it.
    assert_eq!((count(&world, "workflow_runs").await, count(&world, "events").await), (300, 300));
    world.execute("UPDATE workflow_runs SET error = 'x' WHERE run_id <> 'run 0150'").await;
    other.execute("ROLLBACK").await.unwrap();
    assert_eq!(world.store.delete(JOB, fence, &batch, LONG).await.unwrap().runs.len(), 300);
    assert_eq!((count(&world, "workflow_runs").await, count(&world, "events").await), (0, 0));
}

#[tokio::test]
async fn works_on_after_a_statement_was_interrupted() {
    let world = PostgresWorld::new(FRESH).await;
    put_expired(&world, 9_000).await;
    let batch = page(&*world.store).await;
    assert_eq!(batch.len(), 9_000);
    let fence = Fence::for_test(1);
    world.store.raise(JOB, fence).await.unwrap();
    for millis in [0, 1, 3, 10, 30] {
        let error = world.store.delete(JOB, fence, &batch, Duration::from_millis(millis)).await.unwrap_err();
        assert!(matches!(error, StoreError::TimedOut { .. }), "{millis} ms: {}", told(&error));
        // The owner can write at once: nothing is locked.
        world.execute("SET lock_timeout = 1000; UPDATE workflow_runs SET error = 'x'").await;
        assert_eq!(count(&world, "events").await, 9_000);
    }
    assert_eq!(world.store.delete(JOB, fence, &batch, LONG).await.unwrap().runs.len(), 9_000);
    assert_eq!((count(&world, "workflow_runs").await, count(&world, "events").await), (0, 0));
}

#[tokio::test]
async fn a_stalled_holder_keeps_nobody_out_and_deletes_nothing() {
    let world = PostgresWorld::new(FRESH).await;
    put_expired(&world, 300).await;
    let (batch, old, new) = (page(&*world.store).await, Fence::for_test(1), Fence::for_test(2));
    world.store.raise(JOB, old).await.unwrap();
    let mut delete = Box::pin(world.store.delete(JOB, old, &batch, Duration::from_millis(700)));
    let has_locked =
        "SELECT count(*) FROM pg_locks WHERE relation = 'workflow_runs'::regclass AND mode = 'RowShareLock'";
    while world.rows::<(i64,)>(has_locked).await[0].0 == 0 {
        assert!(futures::poll!(&mut delete).is_pending(), "it was over before it could be caught");
        tokio::task::yield_now().await;
    }
    // From here on it does nothing, as a process that is stopped: the server ends its transactions.
    let next = open(&world.url).await.unwrap();
    next.raise(JOB, new).await.unwrap();
    assert_eq!(count(&world, "events").await, 300);
    let error = delete.await.unwrap_err();
    assert_eq!(count(&world, "events").await, 300, "{}", told(&error));
    let error = world.store.delete(JOB, old, &batch, LONG).await.unwrap_err();
    assert!(matches!(error, StoreError::Fenced { highest: 2, .. }), "{}", told(&error));
    assert_eq!(next.delete(JOB, new, &batch, LONG).await.unwrap().runs.len(), 300);
}

#[tokio::test]
async fn leaves_no_transaction_open_where_a_delete_is_dropped() {
    let world = PostgresWorld::new(FRESH).await;
    put_expired(&world, 300).await;
    let (batch, fence) = (page(&*world.store).await, Fence::for_test(1));
    world.store.raise(JOB, fence).await.unwrap();
    for polls in [1, 5, 20, 60, 200] {
        // Polled so often, then dropped: somewhere within its statements.
        let mut delete = Box::pin(world.store.delete(JOB, fence, &batch, LONG));
        for _ in 0..polls {
            if futures::poll!(&mut delete).is_ready() {
                assert_eq!(left(&world).await, [""; 0]);
                return;
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        drop(delete);
        world.execute("UPDATE workflow_runs SET error = 'x'").await;
        assert_eq!(count(&world, "workflow_runs").await, count(&world, "events").await);
    }
    world.store.delete(JOB, fence, &page(&*world.store).await, LONG).await.unwrap();
    assert_eq!((count(&world, "workflow_runs").await, count(&world, "events").await), (0, 0));
}

#[tokio::test]
async fn says_that_the_server_went_away_and_works_when_it_is_back() {
    let world = PostgresWorld::new(FRESH).await;
    put_expired(&world, 300).await;
    let (batch, fence) = (page(&*world.store).await, Fence::for_test(1));
    world.store.raise(JOB, fence).await.unwrap();
    let mut other = PgConnection::connect(&world.url).await.unwrap();
    other.execute("BEGIN; SELECT 1 FROM events WHERE run_id = 'run 0150' FOR UPDATE").await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
               AND application_name = 'apalis-janitor' AND wait_event_type = 'Lock'";
    let deleted = tokio::join!(world.store.delete(JOB, fence, &batch, LONG), async {
        while world.rows::<(bool,)>(end).await.is_empty() {
            tokio::task::yield_now().await;
        }
    });
    let error = deleted.0.unwrap_err();
    let expected = "terminating connection due to administrator command";
    assert!(matches!(error, StoreError::Unavailable { .. }) && told(&error).ends_with(expected), "{}", told(&error));
    assert_eq!((count(&world, "workflow_runs").await, count(&world, "events").await), (300, 300));
    other.execute("ROLLBACK").await.unwrap();
    assert_eq!(world.store.delete(JOB, fence, &batch, LONG).await.unwrap().runs.len(), 300);
}

#[tokio::test]
async fn reports_a_run_that_the_owner_holds_and_deletes_the_others() {
    let raise = "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF OLD.run_id = 'run 0041' THEN \
                 RAISE 'an invoice needs it'; END IF; RETURN OLD; END $$;";
    let ignore = "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF OLD.run_id = 'run 0041' THEN \
                  RETURN NULL; END IF; RETURN OLD; END $$;";
    let key = |more: &str| {
        format!(
            "CREATE TABLE invoice (run_id TEXT REFERENCES workflow_runs (run_id) {more}); INSERT INTO invoice VALUES ('run 0041')"
        )
    };
    let violates = "violates foreign key constraint \"invoice_run_id_fkey\" on table \"invoice\"";
    let holds = [
        // A table of the owner's own that refers to a run, at once and at the commit.
        (key(""), violates),
        (key("ON DELETE RESTRICT"), violates),
        (key("DEFERRABLE INITIALLY DEFERRED"), violates),
        (
            format!("{raise} CREATE TRIGGER keep BEFORE DELETE ON workflow_runs FOR EACH ROW EXECUTE FUNCTION keep()"),
            "an invoice needs it",
        ),
        (
            format!("{raise} CREATE TRIGGER keep BEFORE DELETE ON events FOR EACH ROW EXECUTE FUNCTION keep()"),
            "an invoice needs it",
        ),
        (
            format!("{ignore} CREATE TRIGGER keep BEFORE DELETE ON workflow_runs FOR EACH ROW EXECUTE FUNCTION keep()"),
            "a trigger or a policy keeps 1 runs",
        ),
    ];
    for (hold, why) in holds {
        let world = PostgresWorld::new(FRESH).await;
        put_expired(&world, 200).await;
        world.execute(&hold).await;
        let swept = sweep(&world).await;
        // The one above it stays too.
        assert_eq!(left(&world).await, ["run 0040", "run 0041"], "{hold}");
        assert_eq!(count(&world, "events").await, 2, "{hold}");
        assert_eq!((swept.ids.len(), swept.tally.failed, swept.tally.kept.get("parent_of_kept")), (198, 1, 1));
        let [Failure { item, error }] = &swept.tally.failures[..] else { panic!("{:?}", swept.tally.failures) };
        assert!(
            item == "run 0041" && error.starts_with("postgres: refused to delete: ") && error.contains(why),
            "{error}"
        );
        // Freed, it goes with the next sweep.
        world.execute("DROP TABLE IF EXISTS invoice; DROP FUNCTION IF EXISTS keep CASCADE").await;
        assert_eq!(sweep(&world).await.ids, ["run 0041", "run 0040"]);
    }
}

#[tokio::test]
async fn needs_no_foreign_keys_and_no_cascade() {
    let tables = ["events", "steps", "hooks", "cancellation_flags"];
    let drop: String =
        tables.map(|table| format!("ALTER TABLE {table} DROP CONSTRAINT {table}_run_id_fkey; ")).concat();
    let plain = tables.map(|table| {
        format!("ALTER TABLE {table} ADD CONSTRAINT {table}_run_id_fkey FOREIGN KEY (run_id) REFERENCES workflow_runs (run_id); ")
    });
    for change in [drop.clone(), format!("{drop}{}", plain.concat())] {
        let world = PostgresWorld::new(FRESH).await;
        world.execute(&change).await;
        put_expired(&world, 100).await;
        for kind in ["steps", "hooks"] {
            world.put(Thing::Owned { kind: kind.to_owned(), run: "run 0007".to_owned(), id: "x".to_owned() }).await;
        }
        let swept = sweep(&world).await;
        let deleted = ["runs", "events", "steps", "hooks"].map(|kind| swept.tally.deleted.get(kind));
        assert_eq!(deleted, [100, 100, 1, 1]);
        assert!(world.things().await.is_empty());
    }
}

#[tokio::test]
async fn finds_the_owners_of_checkpoints_across_the_parts_of_a_batch() {
    let world = PostgresWorld::new(FRESH).await;
    put_expired(&world, 240).await;
    world
        .execute("INSERT INTO checkpoints (step_run_id, data) SELECT run_id || ':step', '{}' FROM workflow_runs")
        .await;
    // A step of the first run has an id that looks like a checkpoint of the last.
    let run = |id: &str| id.to_owned();
    world.put(Thing::Owned { kind: run("steps"), run: run("run 0000"), id: run("run 0239:both") }).await;
    world.put(Thing::Checkpoint { key: run("run 0239:both") }).await;
    world.put(Thing::Checkpoint { key: run("of nobody") }).await;
    let (batch, fence) = (page(&*world.store).await, Fence::for_test(1));
    world.store.raise(JOB, fence).await.unwrap();
    let deleted = world.store.delete(JOB, fence, &batch, LONG).await.unwrap();
    assert_eq!(
        (deleted.runs.len(), deleted.counts.get("checkpoints"), deleted.changed, deleted.held),
        (240, 241, 0, 0)
    );
    let expected = Thing::Checkpoint { key: run("of nobody") };
    assert_eq!(Vec::from_iter(world.things().await), [expected]);
}

#[tokio::test]
async fn keeps_a_run_of_which_a_time_is_infinite() {
    let world = PostgresWorld::new(FRESH).await;
    put_expired(&world, 1).await;
    for (id, column, at) in
        [("a", "updated_at", "-infinity"), ("b", "created_at", "-infinity"), ("c", "created_at", "infinity")]
    {
        world.put(Thing::Run(expired(id))).await;
        world.execute(&format!("UPDATE workflow_runs SET {column} = '{at}' WHERE run_id = '{id}'")).await;
    }
    let swept = sweep(&world).await;
    assert_eq!((swept.ids, swept.tally.kept.get("unreadable_time")), (vec!["run 0000".to_owned()], 3));
}

#[tokio::test]
async fn takes_old_scheduled_signals_that_were_delivered() {
    let world = PostgresWorld::new(FRESH).await;
    let rows = "INSERT INTO scheduled_signals (id, stream_id, signal_type, due_at, delivered, created_at) VALUES \
                ('old', 's', 'x', '2026-01-01', true, '2026-01-01'), ('due', 's', 'x', '2026-01-01', false, '2026-01-01'), \
                ('new', 's', 'x', '2026-01-01', true, '2026-11-19')";
    world.execute(rows).await;
    assert_eq!(
        sweep_at(world.store(), &Order::default(), now(), false).await.tally.planned.get("scheduled_signals"),
        1
    );
    assert_eq!(sweep(&world).await.tally.deleted.get("scheduled_signals"), 1);
    let left: Vec<(String,)> = world.rows("SELECT id FROM scheduled_signals ORDER BY id").await;
    assert_eq!(left, [("due".to_owned(),), ("new".to_owned(),)]);
}

#[tokio::test]
async fn goes_on_where_a_schedule_is_held_by_the_owner() {
    let world = PostgresWorld::new(FRESH).await;
    for id in ["held", "free", "free too"] {
        let deleted_at = Some("2026-01-01T00:00:00+00:00".to_owned());
        world.put(Thing::Schedule { id: id.to_owned(), status: "deleted".to_owned(), deleted_at }).await;
    }
    let table =
        "CREATE TABLE plan (schedule TEXT REFERENCES schedules (schedule_id)); INSERT INTO plan VALUES ('held')";
    world.execute(table).await;
    assert_eq!(sweep(&world).await.tally.deleted.get("schedules"), 2);
    assert_eq!(world.rows::<(String,)>("SELECT schedule_id FROM schedules").await, [("held".to_owned(),)]);
}
