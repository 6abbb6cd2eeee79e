//! What is said of a server that refuses, lacks something, or goes away.

use apalis_janitor::{
    lock::Fence,
    runs::{RunStore, StoreError},
};
use chrono::Utc;

use super::{
    edges::{JOB, LONG, expired},
    world::{CassandraWorld, open},
};
use crate::cassandra::{Options, Server, make, session};

fn told(error: &StoreError) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{source}")
}

#[tokio::test]
async fn says_which_keyspace_table_or_column_is_missing() {
    let world = CassandraWorld::new().await;
    let url = world.keyspace.url();
    let nowhere = url.replace(&world.keyspace.name, "nowhere");
    assert_eq!(told(&open(&nowhere).await.unwrap_err()), "cassandra: keyspace \"nowhere\": is not there");
    world.execute("CREATE KEYSPACE IF NOT EXISTS broken WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}", ()).await;
    let broken = url.replace(&world.keyspace.name, "broken");
    let error = told(&open(&broken).await.unwrap_err());
    assert_eq!(
        error,
        "cassandra: keyspace \"broken\": no table \"workflow_runs\": not a store of layout \"pyworkflow\""
    );
    world.execute("CREATE TABLE IF NOT EXISTS broken.workflow_runs (run_id text PRIMARY KEY, status text)", ()).await;
    let error = told(&open(&broken).await.unwrap_err());
    assert_eq!(error, "cassandra: keyspace \"broken\": table \"workflow_runs\" has no column \"workflow_name\"");
    world.execute("DROP KEYSPACE broken", ()).await;
}

#[tokio::test]
async fn checks_what_it_finds() {
    let world = CassandraWorld::new().await;
    let found = world.store.check().await.unwrap();
    assert_eq!(found.warnings, [""; 0]);
    assert!(found.facts.contains(&"cassandra: 1 replicas, read and written at LOCAL_QUORUM".to_owned()), "{found:?}");
    let skew = world.store.now().await.unwrap().unwrap() - Utc::now();
    assert!(skew.num_seconds().abs() < 60, "{skew}");
}

#[tokio::test]
async fn says_that_nobody_answers() {
    let error = told(&open("cassandra://127.0.0.1:1/pyworkflow").await.unwrap_err());
    assert!(error.starts_with("cassandra: unavailable: 127.0.0.1:1: "), "{error}");
}

#[tokio::test]
async fn obeys_who_may_do_what_and_outlives_a_server_that_goes_away() {
    let mut server = Server::start(Options { asks_who: true });
    let admin = session(server.port(), Some(("cassandra", "cassandra"))).await;
    make(&admin, "app").await;
    for text in [
        "CREATE ROLE reader WITH PASSWORD = 'r' AND LOGIN = true",
        "GRANT SELECT ON ALL KEYSPACES TO reader",
        "CREATE ROLE writer WITH PASSWORD = 's3cret' AND LOGIN = true",
        "GRANT SELECT ON ALL KEYSPACES TO writer",
        "GRANT MODIFY ON KEYSPACE app TO writer",
        "GRANT CREATE ON KEYSPACE app TO writer",
    ] {
        admin.query_unpaged(text, ()).await.unwrap();
    }
    let port = server.port();
    let url = |user: &str| format!("cassandra://{user}@127.0.0.1:{port}/app");
    let error = told(&open(&url("writer:wr0ng")).await.unwrap_err());
    assert!(error.starts_with("cassandra: unavailable: 127.0.0.1:"), "{error}");
    assert!(error.to_lowercase().contains("credentials") && !error.contains("wr0ng"), "{error}");
    let error = told(&open(&format!("cassandra://127.0.0.1:{port}/app")).await.unwrap_err());
    assert!(error.to_lowercase().contains("auth"), "{error}");

    let run = expired("run");
    let insert =
        "INSERT INTO workflow_runs (run_id, status, workflow_name, created_at, updated_at) VALUES (?, ?, ?, ?, ?)";
    let at = scylla::value::CqlTimestamp(0);
    admin.query_unpaged(insert, (&run.id, &run.status, &run.workflow, at, at)).await.unwrap();
    let event = "INSERT INTO events (run_id, event_time, event_id) VALUES ('run', now(), 'event')";
    admin.query_unpaged(event, ()).await.unwrap();
    let reader = open(&url("reader:r")).await.unwrap();
    let seen = reader.find(&["run".to_owned()]).await.unwrap();
    assert_eq!(seen.len(), 1);
    let warned = reader.check().await.unwrap().warnings;
    let [modify, create] = &warned[..] else { panic!("{warned:?}") };
    assert!(modify.starts_with("cassandra: the user may not delete and write workflow_runs, events, "), "{modify}");
    assert!(modify.ends_with(": GRANT MODIFY ON KEYSPACE app TO \"reader\""), "{modify}");
    assert!(create.contains("CREATE TABLE IF NOT EXISTS janitor_fence"), "{create}");
    let error = told(&reader.raise(JOB, Fence::for_test(1)).await.unwrap_err());
    assert!(error.contains("CREATE TABLE IF NOT EXISTS janitor_fence"), "{error}");
    let writer = open(&url("writer:s3cret")).await.unwrap();
    assert_eq!(writer.check().await.unwrap().warnings, [""; 0]);
    writer.raise(JOB, Fence::for_test(1)).await.unwrap();
    let all = open(&url("cassandra:cassandra")).await.unwrap();
    assert_eq!(all.check().await.unwrap().warnings, [""; 0]);
    admin.query_unpaged("CREATE ROLE some WITH PASSWORD = 's' AND LOGIN = true", ()).await.unwrap();
    for table in ["workflow_runs", "janitor_marker"] {
        admin.query_unpaged(format!("GRANT SELECT ON app.{table} TO some"), ()).await.unwrap();
    }
    let warned = open(&url("some:s")).await.unwrap().check().await.unwrap().warnings;
    let [read, write] = &warned[..] else { panic!("{warned:?}") };
    assert!(read.starts_with("cassandra: the user may not read events, "), "{read}");
    assert!(read.contains(", janitor_fence: GRANT SELECT") && write.contains("write workflow_runs, "), "{warned:?}");
    admin.query_unpaged("GRANT writer TO reader", ()).await.unwrap();
    assert_eq!(open(&url("reader:r")).await.unwrap().check().await.unwrap().warnings, [""; 0], "by its role");
    admin.query_unpaged("REVOKE writer FROM reader", ()).await.unwrap();
    let reader = open(&url("reader:r")).await.unwrap();
    let error = told(&reader.raise(JOB, Fence::for_test(2)).await.unwrap_err());
    assert!(error.contains("MODIFY"), "{error}");

    // Gone amid a batch: the delete fails, and what it has begun is finished once the server is back.
    let mut delete = Box::pin(writer.delete(JOB, Fence::for_test(1), &seen, LONG));
    let markers = "SELECT id FROM janitor_marker";
    loop {
        assert!(futures::poll!(&mut delete).is_pending());
        let rows = admin.query_unpaged(markers, ()).await.unwrap().into_rows_result().unwrap();
        if rows.rows_num() > 0 {
            break;
        }
    }
    server.kill();
    let error = delete.await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    server.start_again();
    let writer = open(&url("writer:s3cret")).await.unwrap();
    writer.raise(JOB, Fence::for_test(2)).await.unwrap();
    writer.delete(JOB, Fence::for_test(2), &seen, LONG).await.unwrap();
    let admin = session(server.port(), Some(("cassandra", "cassandra"))).await;
    for table in ["workflow_runs", "events", "janitor_marker"] {
        let rows = admin.query_unpaged(format!("SELECT * FROM app.{table}"), ()).await.unwrap();
        assert_eq!(rows.into_rows_result().unwrap().rows_num(), 0, "{table}");
    }
}
