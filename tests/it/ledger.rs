//! The answers to the ledger seam, against real servers and files.

use std::sync::Arc;

use apalis_janitor::{
    embedded,
    ledger::{Ledger, REPORTS_MAX, memory::MemoryLedger, redis::RedisLedger, sqlite::SqliteLedger},
    ledger_conformance,
    link::Link,
    report::Report,
};
use serde_json::json;
use sqlx::SqlitePool;
use tempfile::TempDir;

use crate::redis::RedisServer;

ledger_conformance!(memory, async { (Arc::new(MemoryLedger::default()), ()) });
ledger_conformance!(redis, over_redis());
ledger_conformance!(cluster, over_cluster());
ledger_conformance!(least_privileges, over_least());
ledger_conformance!(sqlite, over_sqlite());

async fn over_redis() -> (Arc<dyn Ledger>, RedisServer) {
    over(RedisServer::start().await)
}

async fn over_cluster() -> (Arc<dyn Ledger>, RedisServer) {
    over(RedisServer::start_cluster().await)
}

async fn over_least() -> (Arc<dyn Ledger>, RedisServer) {
    over(RedisServer::start_with_least().await)
}

fn over(server: RedisServer) -> (Arc<dyn Ledger>, RedisServer) {
    let link = Link::new(&server.url(), "janitor").expect("a valid URL");
    (Arc::new(RedisLedger::new(link)), server)
}

async fn over_sqlite() -> (Arc<dyn Ledger>, (TempDir, SqlitePool)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pool = embedded::open(folder.path()).await.expect("a new file");
    (Arc::new(SqliteLedger::new(pool.clone())), (folder, pool))
}

/// The report of the contract, under this id.
fn report(id: &str) -> Report {
    let fields = json!({
        "id": id, "version": "0.1.0", "attempt": 1, "job": "old-runs", "kind": "retention", "mode": "apply",
        "outcome": "done", "reason": null, "tick": "2026-11-20T03:00:00Z", "host": "w1", "fence": 1_763_672_400_123_u64,
        "started_at": "2026-11-20T03:00:00Z", "seconds": 1.84, "cutoff": "2026-10-21T03:00:00Z",
        "planned": {"runs": 1101}, "deleted": {"runs": 1101, "events": 11021}, "kept": {"rule": 12},
        "bytes_freed": 0, "batches": 2, "failures": [],
    });
    serde_json::from_value(fields).expect("a report")
}

#[tokio::test]
async fn a_redis_ledger_has_the_keys_that_other_programs_may_read() {
    let (ledger, server) = over_redis().await;
    ledger.record(&report("1")).await.expect("recorded");
    ledger.pause("old-runs").await.expect("paused");
    let stored = server.cli(&["LRANGE", "{janitor}:reports:old-runs", "0", "-1"]).await;
    assert_eq!(serde_json::from_str::<Report>(&stored).expect("one line of JSON"), report("1"));
    assert_eq!(server.cli(&["HGETALL", "{janitor}:success"]).await, "old-runs\n2026-11-20T03:00:00+00:00");
    assert_eq!(server.cli(&["SMEMBERS", "{janitor}:paused"]).await, "old-runs");
}

#[tokio::test]
async fn a_redis_ledger_does_not_grow_beyond_its_most_reports() {
    let (ledger, server) = over_redis().await;
    let fill = "for _ = 1, ARGV[1] do redis.call('LPUSH', KEYS[1], '{}') end";
    server.cli(&["EVAL", fill, "1", "{janitor}:reports:old-runs", &REPORTS_MAX.to_string()]).await;
    ledger.record(&report("1")).await.expect("recorded");
    assert_eq!(server.cli(&["LLEN", "{janitor}:reports:old-runs"]).await, REPORTS_MAX.to_string());
    assert_eq!(ledger.reports("old-runs", usize::MAX).await.expect("an answer"), [report("1")]);
}

#[tokio::test]
async fn an_unreadable_report_in_redis_hides_no_other() {
    let (ledger, server) = over_redis().await;
    ledger.record(&report("1")).await.expect("recorded");
    server.cli(&["LPUSH", "{janitor}:reports:old-runs", "{\"id\":\"2\""]).await;
    ledger.record(&report("3")).await.expect("recorded");
    assert_eq!(ledger.reports("old-runs", 10).await.expect("an answer"), [report("3"), report("1")]);
}

#[tokio::test]
async fn an_unreadable_report_in_sqlite_hides_no_other() {
    let (ledger, (_folder, pool)) = over_sqlite().await;
    ledger.record(&report("1")).await.expect("recorded");
    let insert = sqlx::query("INSERT INTO report (id, job, at, body) VALUES ('2', 'old-runs', '', 'not JSON')");
    insert.execute(&pool).await.expect("inserted");
    ledger.record(&report("3")).await.expect("recorded");
    assert_eq!(ledger.reports("old-runs", 10).await.expect("an answer"), [report("3"), report("1")]);
}

#[tokio::test]
async fn an_unreadable_success_is_an_error_and_not_none() {
    let (ledger, server) = over_redis().await;
    server.cli(&["HSET", "{janitor}:success", "old-runs", "yesterday"]).await;
    let error = ledger.last_success("old-runs").await.expect_err("no instant");
    assert_eq!(error.to_string(), "ledger: unreadable last success");
}

#[tokio::test]
async fn a_redis_that_is_down_is_an_error_and_not_an_empty_ledger() {
    let (ledger, mut server) = over_redis().await;
    server.stop().await;
    let errors = [
        ledger.record(&report("1")).await.expect_err("it is down"),
        ledger.reports("old-runs", 1).await.expect_err("it is down"),
        ledger.last_success("old-runs").await.expect_err("it is down"),
        ledger.is_paused("old-runs").await.expect_err("it is down"),
        ledger.backoffs("old-runs").await.expect_err("it is down"),
    ];
    let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let expected = [
        "ledger: report not recorded",
        "ledger: reports not read",
        "ledger: last success not read",
        "ledger: pause not read",
        "ledger: back-offs not read",
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_sqlite_ledger_is_kept_by_its_file() {
    let (ledger, (folder, pool)) = over_sqlite().await;
    ledger.record(&report("1")).await.expect("recorded");
    ledger.pause("old-runs").await.expect("paused");
    drop(ledger);
    pool.close().await;
    let pool = embedded::open(folder.path()).await.expect("the same file");
    let ledger = SqliteLedger::new(pool);
    assert_eq!(ledger.reports("old-runs", 10).await.expect("an answer"), [report("1")]);
    assert!(ledger.is_paused("old-runs").await.expect("an answer"));
    assert_eq!(ledger.last_success("old-runs").await.expect("an answer"), Some(report("1").started_at));
}
