//! A server that makes a sweep wait, refuses it, or goes away.

use std::{sync::Arc, time::Duration};

use apalis_janitor::{
    lock::Fence,
    runs::{
        RunStore, StoreError,
        conformance::{Order, Subject, sweep_at},
    },
};
use sqlx::Executor;

use super::{
    mysql::{MysqlWorld, SCHEMA, open},
    mysql_edges::{JOB, LONG, now, page, put_expired, put_many, real, source},
};
use crate::mysql::Server;

async fn count(world: &MysqlWorld) -> i64 {
    world.rows::<(i64,)>("SELECT count(*) FROM workflow_runs").await[0].0
}

/// Waits until a transaction of this database waits for a row.
async fn until_it_waits(world: &MysqlWorld) {
    let text = "SELECT count(*) FROM information_schema.innodb_trx AS t JOIN information_schema.processlist AS p ON p.id = t.trx_mysql_thread_id \
                WHERE t.trx_state = 'LOCK WAIT' AND p.db = DATABASE()";
    while world.rows::<(i64,)>(text).await != [(1,)] {
        // Asked more often than every 100 ms the server answers what it answered before.
        tokio::time::sleep(Duration::from_millis(110)).await;
    }
}

#[tokio::test]
async fn tries_again_where_the_server_lets_another_writer_go_first() {
    let world = real().await;
    put_many(&world, 2).await;
    let (batch, fence) = (page(&*world.store).await, Fence::for_test(1));
    world.store.raise(JOB, fence).await.unwrap();
    let mut other = world.database.connect().await;
    // It has written much, so the server ends the other one.
    other
        .execute("BEGIN; INSERT INTO streams (stream_id, created_at) SELECT seq, NOW() FROM seq_1_to_1000")
        .await
        .unwrap();
    other.execute("SELECT 1 FROM workflow_runs WHERE run_id = 'run 00001' FOR UPDATE").await.unwrap();
    let store = world.store.clone();
    let delete = tokio::spawn(async move { store.delete(JOB, fence, &batch, LONG).await });
    until_it_waits(&world).await;
    // The delete holds this row and waits for the other one.
    other.execute("SELECT 1 FROM workflow_runs WHERE run_id = 'run 00000' FOR UPDATE").await.unwrap();
    other.execute("COMMIT").await.unwrap();
    assert_eq!(delete.await.unwrap().unwrap().runs, ["run 00001", "run 00000"]);
    assert_eq!(world.left().await, [""; 0]);
}

#[tokio::test]
async fn waits_for_a_row_only_so_long_and_works_afterwards() {
    let world = real().await;
    put_many(&world, 3).await;
    let (batch, fence) = (page(&*world.store).await, Fence::for_test(1));
    world.store.raise(JOB, fence).await.unwrap();
    let mut other = world.database.connect().await;
    other.execute("BEGIN; UPDATE workflow_runs SET error = 'x' WHERE run_id = 'run 00001'").await.unwrap();
    let error = world.store.delete(JOB, fence, &batch, Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(error, StoreError::TimedOut { .. }), "{error}");
    other.execute("ROLLBACK").await.unwrap();
    assert_eq!(world.store.delete(JOB, fence, &batch, LONG).await.unwrap().runs.len(), 3);
    assert_eq!(world.left().await, [""; 0]);
}

#[tokio::test]
async fn works_on_after_a_statement_was_interrupted() {
    let world = real().await;
    put_many(&world, 20_000).await;
    let (batch, fence) = (page(&*world.store).await, Fence::for_test(1));
    assert_eq!(batch.len(), 20_000);
    world.store.raise(JOB, fence).await.unwrap();
    for millis in [0, 1, 2, 5, 10, 20] {
        let error = world.store.delete(JOB, fence, &batch, Duration::from_millis(millis)).await.unwrap_err();
        assert!(matches!(error, StoreError::TimedOut { .. }), "{millis} ms: {error}");
        // The owner can write at once: no transaction was left open.
        world
            .execute(
                "SET innodb_lock_wait_timeout = 1; UPDATE workflow_runs SET error = 'x' WHERE run_id = 'run 00000'",
            )
            .await;
        assert_eq!(count(&world).await, 20_000);
    }
    assert_eq!(world.store.delete(JOB, fence, &batch, LONG).await.unwrap().runs.len(), 20_000);
    assert_eq!(count(&world).await, 0);
}

#[tokio::test]
async fn leaves_no_transaction_open_where_a_delete_is_dropped() {
    let world = real().await;
    put_expired(&world, 20).await;
    let (batch, fence) = (page(&*world.store).await, Fence::for_test(1));
    world.store.raise(JOB, fence).await.unwrap();
    for polls in 1..200 {
        // Polled so often, then dropped: somewhere within its statements.
        let mut delete = Box::pin(world.store.delete(JOB, fence, &batch, LONG));
        for _ in 0..polls {
            if futures::poll!(&mut delete).is_ready() {
                assert_eq!(world.left().await, [""; 0]);
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
    assert_eq!(world.left().await, [""; 0]);
}

#[tokio::test]
async fn names_a_table_that_went_missing_and_changes_nothing() {
    let world = real().await;
    put_expired(&world, 3).await;
    let (batch, fence) = (page(&*world.store).await, Fence::for_test(1));
    world.store.raise(JOB, fence).await.unwrap();
    world.execute("RENAME TABLE hooks TO catches").await;
    let error = world.store.delete(JOB, fence, &batch, LONG).await.unwrap_err();
    assert!(matches!(&error, StoreError::Schema { what, .. } if what.contains("hooks' doesn't exist")), "{error}");
    assert_eq!(world.rows::<(i64,)>("SELECT count(*) FROM events").await, [(3,)]);
    world.execute("RENAME TABLE catches TO hooks").await;
    assert_eq!(world.store.delete(JOB, fence, &batch, LONG).await.unwrap().runs.len(), 3);
}

#[tokio::test]
async fn says_what_a_user_lacks_who_may_only_read() {
    let world = real().await;
    put_expired(&world, 3).await;
    let (name, user) = (&world.database.name, format!("r_{}", world.database.name));
    world.database.admin(&format!(
        "CREATE USER {user}@'127.0.0.1' IDENTIFIED BY 's3cret'; GRANT SELECT ON {name}.* TO {user}@'127.0.0.1'"
    ));
    let store = Arc::new(open(&world.database.url_as(&user, "s3cret")).await.unwrap());
    assert_eq!(sweep_at(store.clone(), &Order::default(), now(), false).await.ids.len(), 3);
    let warnings = store.check().await.unwrap().warnings;
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    for part in [
        "the user lacks DELETE on events",
        "DELETE on workflow_runs",
        "DELETE on schedules",
        "CREATE, which",
        "CREATE TABLE IF NOT EXISTS janitor_fence",
    ] {
        assert!(warning.contains(part), "{warning}");
    }
    let error = store.raise(JOB, Fence::for_test(1)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    for part in ["command denied to user", "CREATE TABLE IF NOT EXISTS janitor_fence"] {
        assert!(source(&error).contains(part), "{}", source(&error));
    }
    // With the table that was made by somebody else, and the right to delete most of what is there.
    world.store.raise(JOB, Fence::for_test(1)).await.unwrap();
    let tables = ["events", "steps", "hooks", "cancellation_flags", "checkpoints"];
    let grant = |table| format!("GRANT DELETE ON {name}.{table} TO {user}@'127.0.0.1'");
    let grants = tables.map(grant).join("; ");
    world.database.admin(&format!("{grants}; GRANT INSERT, UPDATE ON {name}.janitor_fence TO {user}@'127.0.0.1'"));
    let store = open(&world.database.url_as(&user, "s3cret")).await.unwrap();
    store.raise(JOB, Fence::for_test(2)).await.unwrap();
    let (batch, before) = (page(&store).await, world.things().await);
    let error = store.delete(JOB, Fence::for_test(2), &batch, LONG).await.unwrap_err();
    assert!(source(&error).contains("command denied to user"), "{error}: {}", source(&error));
    assert_eq!(world.things().await, before);
    world.database.admin(&format!("DROP USER {user}@'127.0.0.1'"));
}

/// The server is killed while a batch waits for a row, so that it is surely in hand.
#[tokio::test]
async fn changes_nothing_where_the_server_dies_in_a_batch_and_goes_on_when_it_is_back() {
    let mut server = Server::start();
    let world = MysqlWorld::within(server.database(), SCHEMA).await;
    put_expired(&world, 3).await;
    let (batch, fence) = (page(&*world.store).await, Fence::for_test(1));
    world.store.raise(JOB, fence).await.unwrap();
    let mut other = world.database.connect().await;
    other.execute("BEGIN; UPDATE workflow_runs SET error = 'x' WHERE run_id = 'run 002'").await.unwrap();
    let (store, seen) = (world.store.clone(), batch.clone());
    let delete = tokio::spawn(async move { store.delete(JOB, fence, &seen, LONG).await });
    until_it_waits(&world).await;
    server.kill();
    let error = delete.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { store: "mysql", .. }), "{error}");
    drop(other);
    let error = world.store.find(&["run 000".to_owned()]).await.unwrap_err();
    assert!(source(&error).contains("127.0.0.1:"), "{}", source(&error));
    server.start_again();
    assert_eq!(page(&*world.store).await, batch);
    assert_eq!(world.store.delete(JOB, fence, &batch, LONG).await.unwrap().runs.len(), 3);
    assert!(world.store.page(now(), None, 10).await.unwrap().runs.is_empty());
    world.writer.close().await;
}
