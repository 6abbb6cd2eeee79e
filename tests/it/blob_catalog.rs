//! The catalog of a blob store, in memory, over real files and a real Postgres.

use std::sync::Arc;

use apalis_janitor::{
    blob_catalog_conformance,
    blobs::{
        BlobError, Catalog, Digest, Tag,
        catalog::{Begun, SqlCatalog, memory::MemoryCatalog},
        conformance::catalog::Subject,
    },
    clock::SystemClock,
    config::{CatalogUrl, SecretUrl},
};
use sqlx::{ConnectOptions, Connection, PgConnection, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

use crate::{postgres::Database, told::told};

blob_catalog_conformance!(memory, async { over_memory() });
blob_catalog_conformance!(sqlite, over_sqlite());
blob_catalog_conformance!(postgres, over_postgres());

fn over_memory() -> (Arc<dyn Subject>, ()) {
    (Arc::new(MemoryCatalog::new(Arc::new(SystemClock))), ())
}

async fn over_sqlite() -> (Arc<dyn Subject>, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let catalog = SqlCatalog::open(&CatalogUrl::Sqlite(folder.path().join("blobs.db"))).await.expect("a new file");
    (Arc::new(catalog), folder)
}

async fn over_postgres() -> (Arc<dyn Subject>, Database) {
    let (catalog, database) = postgres().await;
    (Arc::new(catalog), database)
}

async fn postgres() -> (SqlCatalog, Database) {
    let database = Database::new();
    let catalog = SqlCatalog::open(&url(&database)).await.unwrap_or_else(|error| panic!("{}", told(&error)));
    (catalog, database)
}

fn url(database: &Database) -> CatalogUrl {
    CatalogUrl::Postgres(SecretUrl::new(database.url()))
}

const DIGEST: Digest = Digest::new([7; 32]);

async fn put(catalog: &SqlCatalog, task: &str) {
    match catalog.begin(DIGEST, 1, &Tag::of(task)).await.expect("begun") {
        Begun::Shared(_) => {}
        Begun::Upload(id) => drop(catalog.commit(id, DIGEST, &Tag::of(task)).await.expect("committed")),
    }
}

#[tokio::test]
async fn a_file_is_made_with_its_folder_and_keeps_its_identity() {
    let folder = tempfile::tempdir().unwrap();
    let url = CatalogUrl::Sqlite(folder.path().join("a b?c#d%20/x/../ü 1%.db"));
    let catalog = SqlCatalog::open(&url).await.unwrap();
    put(&catalog, "a").await;
    assert_eq!(catalog.name(), url.to_string());
    assert!(folder.path().join("a b?c#d%20/ü 1%.db").is_file());
    let again = SqlCatalog::open(&url).await.unwrap();
    assert_eq!((again.identity(), again.identity().len()), (catalog.identity(), 26));
    assert_eq!(again.totals().await.unwrap().referenced, 1);
}

async fn raw(path: &std::path::Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).create_if_missing(true).connect().await.expect("a file")
}

async fn refused(url: &CatalogUrl) -> String {
    told(&SqlCatalog::open(url).await.expect_err("it cannot be opened"))
}

#[tokio::test]
async fn what_is_no_catalog_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.db");
    std::fs::write(&text, "this is no database, but it is long enough to be told apart from an empty one\n".repeat(9))
        .unwrap();
    for (path, expected) in [
        (text.clone(), format!("sqlite://{}: is not a SQLite database", text.display())),
        (text.join("x.db"), format!("sqlite://{}/x.db: its folder cannot be used", text.display())),
        (folder.path().to_owned(), format!("sqlite://{}: cannot be opened or made", folder.path().display())),
    ] {
        let error = refused(&CatalogUrl::Sqlite(path)).await;
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[tokio::test]
async fn a_file_of_another_program_is_shared() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let mut owner = raw(&path).await;
    sqlx::raw_sql("CREATE TABLE theirs (id INTEGER); INSERT INTO theirs VALUES (1)").execute(&mut owner).await.unwrap();
    let catalog = SqlCatalog::open(&CatalogUrl::Sqlite(path)).await.unwrap();
    put(&catalog, "a").await;
    let names = "SELECT group_concat(name) FROM (SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name)";
    let names: String = sqlx::query_scalar(names).fetch_one(&mut owner).await.unwrap();
    let ours = "janitor_blob,janitor_blob_meta,janitor_blob_ref,janitor_blob_schema,janitor_blob_task";
    assert_eq!(names, format!("{ours},theirs"));
}

#[tokio::test]
async fn tables_of_a_newer_program_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blobs.db");
    let url = CatalogUrl::Sqlite(path.clone());
    drop(SqlCatalog::open(&url).await.unwrap());
    sqlx::raw_sql("INSERT INTO janitor_blob_schema VALUES (2, 0)").execute(&mut raw(&path).await).await.unwrap();
    let error = SqlCatalog::open(&url).await.unwrap_err();
    assert!(matches!(error, BlobError::Refused(_)), "{error:?}");
    let rule = "its tables are of version 2, and this program knows up to 1";
    assert_eq!(error.to_string(), format!("sqlite://{}: {rule}", path.display()));
}

async fn opens_once(url: CatalogUrl) {
    let opened = (0..8).map(|_| {
        let url = url.clone();
        tokio::spawn(async move { SqlCatalog::open(&url).await.unwrap_or_else(|error| panic!("{}", told(&error))) })
    });
    let opened = futures::future::join_all(opened).await;
    let identities: std::collections::HashSet<String> =
        opened.into_iter().map(|catalog| catalog.expect("no panic").identity().to_owned()).collect();
    assert_eq!(identities.len(), 1, "{identities:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_open_a_new_file_at_once_make_one_catalog() {
    let folder = tempfile::tempdir().unwrap();
    opens_once(CatalogUrl::Sqlite(folder.path().join("blobs.db"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_open_a_new_database_at_once_make_one_catalog() {
    let database = Database::new();
    opens_once(url(&database)).await;
}

#[tokio::test]
async fn a_postgres_that_cannot_be_used_is_named_without_its_password() {
    let database = Database::new();
    let port = crate::redis::free_port();
    for (url, expected) in [
        (database.url().replace("/test_", "/none_"), "there is no such database"),
        (database.url().replace("janitor:", "nobody:"), "refuses the user or the password"),
        (format!("postgresql://janitor:unasked@127.0.0.1:{port}/x"), "does not answer"),
    ] {
        let error = SqlCatalog::open(&CatalogUrl::Postgres(SecretUrl::new(&url))).await.unwrap_err();
        let shown = url.replace("unasked", "***");
        assert_eq!(error.to_string(), format!("{shown}: {expected}"));
        assert!(!told(&error).contains("unasked") && !format!("{error:?}").contains("unasked"), "{error:?}");
    }
    let catalog = SqlCatalog::open(&url(&database)).await.unwrap();
    assert!(!format!("{catalog:?} {}", catalog.name()).contains("unasked"));
}

/// A hundred thousand live blobs with refs, and pages of what a sweep takes: none reads the table.
const MANY: &str = "
INSERT INTO janitor_blob (id, digest, size, state, created_at, touched_at, zero_since, next_at)
SELECT 'id' || n, 'digest' || n, 1, CASE WHEN n % 1000 = 1 THEN 'pending' WHEN n % 1000 = 2 THEN 'deleting' ELSE 'live' END,
    n, n, CASE WHEN n % 1000 = 3 THEN n END, n FROM numbers";

async fn reads_no_table(catalog: &SqlCatalog) {
    let plans = catalog.plans().await.unwrap().join("\n");
    for index in ["janitor_blob_deleting", "janitor_blob_pending", "janitor_blob_zero"] {
        assert!(plans.contains(index), "{index} is not used:\n{plans}");
    }
    for slow in ["SCAN", "Seq Scan", "Sort", "TEMP B-TREE"] {
        assert!(!plans.contains(slow), "{slow}:\n{plans}");
    }
}

#[tokio::test]
async fn no_page_of_a_sweep_reads_the_table_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blobs.db");
    let catalog = SqlCatalog::open(&CatalogUrl::Sqlite(path.clone())).await.unwrap();
    reads_no_table(&catalog).await;
    let numbers = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 20000)";
    let many = sqlx::AssertSqlSafe(MANY.replace("SELECT 'id'", &format!("{numbers} SELECT 'id'")));
    sqlx::raw_sql(many).execute(&mut raw(&path).await).await.unwrap();
    sqlx::raw_sql("ANALYZE").execute(&mut raw(&path).await).await.unwrap();
    reads_no_table(&SqlCatalog::open(&CatalogUrl::Sqlite(path)).await.unwrap()).await;
}

#[tokio::test]
async fn no_page_of_a_sweep_reads_the_table_of_a_postgres() {
    let (catalog, database) = postgres().await;
    let mut connection = database.connect().await;
    let many = MANY.replace("FROM numbers", "FROM generate_series(1, 20000) AS numbers (n)");
    sqlx::raw_sql(sqlx::AssertSqlSafe(many)).execute(&mut connection).await.unwrap();
    sqlx::raw_sql("ANALYZE").execute(&mut connection).await.unwrap();
    reads_no_table(&catalog).await;
}

/// Waits until this many statements wait for a lock.
async fn blocked(connection: &mut PgConnection, count: i64) {
    let asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    loop {
        // What a transaction sees of the others' doings stays as it was first read, unless this is called.
        sqlx::raw_sql("SELECT pg_stat_clear_snapshot()").execute(&mut *connection).await.unwrap();
        let waiting: i64 = sqlx::query_scalar(asked).fetch_one(&mut *connection).await.unwrap();
        if waiting >= count {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{waiting} of {count} wait");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn two_releases_that_wait_for_one_blob_do_not_see_the_ref_of_each_other() {
    let (catalog, database) = postgres().await;
    let catalog = Arc::new(catalog);
    put(&catalog, "a").await;
    put(&catalog, "b").await;
    let mut connection = database.connect().await;
    let mut holds = connection.begin().await.unwrap();
    sqlx::query("SELECT id FROM janitor_blob FOR UPDATE").execute(&mut *holds).await.unwrap();
    let release = |task: &'static str| {
        let catalog = Arc::clone(&catalog);
        tokio::spawn(async move { catalog.release(task, 1).await.unwrap() })
    };
    let released = [release("a"), release("b")];
    blocked(&mut holds, 2).await;
    holds.commit().await.unwrap();
    let mut blobs = 0;
    for one in released {
        blobs += one.await.unwrap().blobs;
    }
    assert_eq!(blobs, 1);
    assert!(catalog.blobs(DIGEST).await.unwrap()[0].zero_since.is_some());
}

#[tokio::test]
async fn a_claim_does_not_take_what_a_put_at_the_same_moment_holds() {
    let (catalog, database) = postgres().await;
    put(&catalog, "a").await;
    catalog.release("a", 1).await.unwrap();
    catalog.advance(std::time::Duration::from_secs(1));
    let at = catalog.now().await.unwrap();
    let cutoffs = apalis_janitor::blobs::catalog::Cutoffs { unreferenced: at, pending: at, retry: at };
    let due = catalog.due(cutoffs, None, 1).await.unwrap();
    // As a put does it, which then takes its time: the claim neither waits nor takes.
    let mut connection = database.connect().await;
    let mut holds = connection.begin().await.unwrap();
    sqlx::query("UPDATE janitor_blob SET zero_since = NULL").execute(&mut *holds).await.unwrap();
    assert_eq!(catalog.claim(&due, cutoffs).await.unwrap(), []);
    holds.rollback().await.unwrap();
    assert_eq!(catalog.claim(&due, cutoffs).await.unwrap(), [due[0].id]);
}

#[tokio::test]
async fn a_put_that_waits_for_a_claim_uploads_anew() {
    let (catalog, database) = postgres().await;
    let catalog = Arc::new(catalog);
    put(&catalog, "a").await;
    catalog.release("a", 1).await.unwrap();
    let mut connection = database.connect().await;
    let mut claims = connection.begin().await.unwrap();
    sqlx::query("UPDATE janitor_blob SET state = 'deleting', next_at = 0").execute(&mut *claims).await.unwrap();
    let putting = Arc::clone(&catalog);
    let begun = tokio::spawn(async move { putting.begin(DIGEST, 1, &Tag::of("b")).await.unwrap() });
    blocked(&mut claims, 1).await;
    claims.commit().await.unwrap();
    assert!(matches!(begun.await.unwrap(), Begun::Upload(_)));
}

#[tokio::test]
async fn what_lost_its_mark_is_mended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blobs.db");
    let catalog = SqlCatalog::open(&CatalogUrl::Sqlite(path.clone())).await.unwrap();
    put(&catalog, "a").await;
    let mut connection = raw(&path).await;
    let lose = "DELETE FROM janitor_blob_ref";
    sqlx::query(lose).execute(&mut connection).await.unwrap();
    assert_eq!((catalog.mend().await.unwrap(), catalog.mend().await.unwrap()), (1, 0));
    assert!(catalog.blobs(DIGEST).await.unwrap()[0].zero_since.is_some());
    sqlx::query("UPDATE janitor_blob SET digest = 'x'").execute(&mut connection).await.unwrap();
    let at = catalog.now().await.unwrap() + std::time::Duration::from_secs(9);
    let cutoffs = apalis_janitor::blobs::catalog::Cutoffs { unreferenced: at, pending: at, retry: at };
    let error = catalog.due(cutoffs, None, 1).await.expect_err("no digest");
    assert!(told(&error).contains("digest \"x\": must be a SHA-256"), "{}", told(&error));
}

#[tokio::test]
async fn a_blob_that_something_refers_to_cannot_be_deleted_by_mistake() {
    let (catalog, database) = postgres().await;
    put(&catalog, "a").await;
    let mut connection = database.connect().await;
    let error = sqlx::query("DELETE FROM janitor_blob").execute(&mut connection).await.unwrap_err();
    assert!(error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_foreign_key_violation), "{error}");
}
