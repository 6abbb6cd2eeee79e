//! The file of the embedded mode: what can be wrong with it, and who is told.

use std::{fs, path::Path, sync::Arc, thread, time::Duration};

use apalis_janitor::{
    clock::SystemClock,
    embedded::{self, EmbeddedError, FILE},
    lock::{Lock, LockError, LockKey, Token, sqlite::SqliteLock},
    queue::{Queue, QueueOptions, Request, sqlite::SqliteQueue},
    report::Mode,
};
use futures::future::join_all;
use tempfile::TempDir;

use crate::cli::Cli;

const TTL: Duration = Duration::from_mins(1);

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

async fn refused(data_dir: &Path) -> EmbeddedError {
    embedded::open(data_dir).await.expect_err("it cannot be opened")
}

/// Without waiting for each other one in forty rounds fails.
#[test]
fn many_processes_may_make_the_file_at_the_same_moment() {
    for _ in 0..40 {
        let cli = Cli::with("[jobs.x]\nkind = \"retention\"\nstore = \"memory:\"\nretention_days = 1\n");
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| cli.stdout("status"));
            }
        });
    }
}

#[tokio::test]
async fn makes_its_folder_with_the_folders_above() {
    let folder = folder();
    let data_dir = folder.path().join("a/b");
    embedded::open(&data_dir).await.expect("a new file");
    assert!(data_dir.join(FILE).is_file());
}

#[tokio::test]
async fn opens_once_for_each_of_many_that_come_at_a_time() {
    let folder = folder();
    let opened = join_all((0..16).map(|_| embedded::open(folder.path()))).await;
    for pool in opened {
        pool.expect("an open file");
    }
}

#[tokio::test]
async fn names_a_data_dir_that_is_a_file() {
    let folder = folder();
    let data_dir = folder.path().join("file");
    fs::write(&data_dir, "").expect("a file");
    let error = refused(&data_dir).await;
    assert_eq!(error.to_string(), format!("data_dir {}: is not a folder", data_dir.display()));
}

#[tokio::test]
async fn names_a_data_dir_that_cannot_be_made() {
    let folder = folder();
    fs::write(folder.path().join("file"), "").expect("a file");
    let data_dir = folder.path().join("file/data");
    let error = refused(&data_dir).await;
    assert_eq!(error.to_string(), format!("data_dir {}: cannot be made", data_dir.display()));
    assert!(
        matches!(error, EmbeddedError::Folder { source, .. } if source.kind() == std::io::ErrorKind::NotADirectory)
    );
}

#[tokio::test]
async fn names_a_file_that_is_not_sqlite_and_leaves_it_as_it_is() {
    let folder = folder();
    let path = folder.path().join(FILE);
    let text = "somebody's notes\n".repeat(1_000);
    fs::write(&path, &text).expect("a file");
    let error = refused(folder.path()).await;
    assert_eq!(error.to_string(), format!("{}: is not a SQLite database", path.display()));
    assert_eq!(fs::read_to_string(&path).expect("the file"), text);
}

#[tokio::test]
async fn names_a_file_that_is_a_folder() {
    let folder = folder();
    let path = folder.path().join(FILE);
    fs::create_dir(&path).expect("a folder");
    let error = refused(folder.path()).await;
    assert_eq!(error.to_string(), format!("{}: cannot be opened or made", path.display()));
}

#[tokio::test]
async fn a_full_file_is_an_error_of_the_lock_and_not_a_free_lock() {
    let folder = folder();
    let pool = embedded::open(folder.path()).await.expect("a new file");
    let pages: i64 = sqlx::query_scalar("PRAGMA page_count").fetch_one(&pool).await.expect("an answer");
    // SQLite cannot tell this from a disk that is full.
    let options = (*pool.connect_options()).clone().pragma("max_page_count", pages.to_string());
    let full = sqlx::SqlitePool::connect_with(options).await.expect("the same file");
    let lock = SqliteLock::new(full, Arc::new(SystemClock));
    let long = LockKey::job(&"x".repeat(100_000));
    let error = lock.acquire(&long, &Token::random(), TTL).await.expect_err("it is full");
    assert!(matches!(&error, LockError::Unavailable(source) if source.to_string().contains("full")), "{error:?}");
    assert_eq!(lock.held_for(&long).await.expect("an answer"), None);
}

#[tokio::test]
async fn a_commit_that_a_full_disk_refused_leaves_no_connection_of_no_use() {
    let folder = folder();
    let pool = embedded::open(folder.path()).await.expect("a new file");
    let count = pool.options().get_max_connections();
    let mut connections = join_all((0..count).map(|_| pool.acquire())).await;
    for connection in &mut connections {
        let connection = connection.as_mut().expect("a connection");
        // SQLite takes the transaction back by itself, as it does where the disk is full.
        let mut refusals = 1..2;
        connection.lock_handle().await.expect("a connection").set_commit_hook(move || refusals.next().is_none());
    }
    drop(connections);
    let options = QueueOptions { visibility: TTL, max_deliveries: 3, backlog_max: 10_000 };
    let queue = SqliteQueue::new(pool, options, Arc::new(SystemClock));
    let request = Request { job: "j".to_owned(), mode: Mode::Apply, tick: None };
    let mut refused = 0;
    while let Err(error) = queue.enqueue(&request, None).await {
        refused += 1;
        assert!(refused <= count, "each connection is refused once: {error:?}");
    }
    assert!(refused > 0, "no commit was refused");
}
