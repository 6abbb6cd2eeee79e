//! Files that cannot grow or be written, for which a test must reach the store's own connection.

use chrono::TimeZone;
use tempfile::TempDir;

use super::*;
use crate::runs::layout::PYWORKFLOW;

const JOB: &str = "old-runs";
const SCHEMA: &str = "CREATE TABLE workflow_runs (run_id TEXT PRIMARY KEY, workflow_name TEXT, status TEXT, created_at TIMESTAMP, \
                      updated_at TIMESTAMP, parent_run_id TEXT)";
const RUNS: &str = "INSERT INTO workflow_runs SELECT 'run_' || value, 'order', 'completed', '2026-01-01T00:00:00+00:00', \
                    '2026-01-01T00:00:00+00:00', NULL FROM json_each('[1, 2, 3]')";

async fn store_with_runs() -> (SqliteStore, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let mut owner = SqliteConnectOptions::new().filename(&path).create_if_missing(true).connect().await.unwrap();
    sqlx::raw_sql(SCHEMA).execute(&mut owner).await.unwrap();
    sqlx::raw_sql(RUNS).execute(&mut owner).await.unwrap();
    (SqliteStore::open(&path, &PYWORKFLOW, BatchSize::default()).await.unwrap(), folder)
}

impl SqliteStore {
    async fn set(&self, pragma: &'static str) {
        sqlx::raw_sql(pragma).execute(&mut *self.connection().await).await.unwrap();
    }

    async fn runs(&self) -> Vec<Seen> {
        let now = Utc.with_ymd_and_hms(2026, 11, 20, 3, 0, 0).unwrap();
        self.page(now, None, 100).await.unwrap().runs
    }
}

fn source(error: &StoreError) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}

#[tokio::test]
async fn loses_nothing_where_the_disk_is_full_and_works_afterwards() {
    let (store, _folder) = store_with_runs().await;
    // The file cannot grow by a page: there is no room for the table of fences.
    store.set("PRAGMA max_page_count = 1").await;
    let error = store.raise(JOB, Fence::for_test(1)).await.unwrap_err();
    assert!(source(&error).ends_with("database or disk is full"), "{error}: {}", source(&error));
    assert_eq!(store.runs().await.len(), 3);
    store.set("PRAGMA max_page_count = 1000000").await;
    store.raise(JOB, Fence::for_test(1)).await.unwrap();
    let deleted = store.delete(JOB, Fence::for_test(1), &store.runs().await, BUSY_MAX).await.unwrap();
    assert_eq!((deleted.runs.len(), store.runs().await.len()), (3, 0));
}

#[tokio::test]
async fn says_what_a_file_that_cannot_be_written_lacks() {
    let (store, _folder) = store_with_runs().await;
    store.set("PRAGMA query_only = true").await;
    let error = store.raise(JOB, Fence::for_test(1)).await.unwrap_err();
    for part in ["attempt to write a readonly database", FENCE_TABLE] {
        assert!(source(&error).contains(part), "{error}: {}", source(&error));
    }
    store.set("PRAGMA query_only = false").await;
    store.raise(JOB, Fence::for_test(1)).await.unwrap();
    let runs = store.runs().await;
    store.set("PRAGMA query_only = true").await;
    let error = store.delete(JOB, Fence::for_test(1), &runs, BUSY_MAX).await.unwrap_err();
    assert!(source(&error).contains("attempt to write a readonly database"), "{error}: {}", source(&error));
    assert_eq!(store.runs().await, runs, "it can still be read");
}

#[tokio::test]
async fn statements_leave_room_for_a_commit_like_the_last_one() {
    let (store, _folder) = store_with_runs().await;
    let limit = Duration::from_secs(10);
    for (commit, left) in [(0, 10_000), (1_000, 9_000), (8_000, 5_000), (60_000, 5_000)] {
        store.commit_micros.store(commit * 1_000, Ordering::Relaxed);
        let before = store.deadline.start.elapsed().as_millis();
        let transaction = store.begin(limit).await.unwrap();
        let after = store.deadline.start.elapsed().as_millis();
        let until = u128::from(store.deadline.millis.load(Ordering::Relaxed));
        assert!(
            (before + left..=after + left).contains(&until),
            "{commit}: {until}, from {before} to {after} and {left}"
        );
        transaction.end(Ok(())).await.unwrap();
        assert_ne!(store.commit_micros.load(Ordering::Relaxed), commit * 1_000, "the commit was timed");
    }
}
