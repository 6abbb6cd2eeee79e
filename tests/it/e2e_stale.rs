//! Holders that are frozen past their lease, and a Redis that goes away amid a sweep: who is in doubt deletes nothing.

use serde_json::Value;
use sqlx::Connection;

use crate::{
    process::{End, Process, Signal, World, comes, deleted},
    redis::{RedisOptions, RedisServer},
};

const QUICK: &str = "[worker]\nlock_ttl = \"1s\"\nvisibility = \"2s\"\nmax_deliveries = 20";
/// Small batches, so that a sweep takes a while; and what a second holder may delete.
const SLOW: &str = "batch_size = 2\nbatch_time = \"10ms\"";
const LOCK: &str = "{janitor}:lock:old-runs";

fn report_of(end: &End) -> Value {
    let last = end.stdout.lines().last().unwrap_or_else(|| panic!("no report: {}", end.stderr));
    serde_json::from_str(last).unwrap()
}

/// Lets another run sweep while `stale` is frozen, thaws that, and sees it end without having deleted any more.
async fn is_fenced(redis: &RedisServer, world: &World, stale: Process) -> Value {
    comes("a lock that has lapsed", async || redis.cli(&["EXISTS", LOCK]).await == "0").await;
    let before = world.store.left().await;
    let (code, stdout, stderr) = world.cli.run("run old-runs --json");
    assert_eq!(code, 5, "{stdout}{stderr}");
    let left = world.store.left().await;
    assert_eq!((before - left, left > 0), (100, true));
    stale.signal(Signal::CONT);
    let end = stale.end().await;
    let report = report_of(&end);
    assert_eq!((end.code, &report["outcome"]), (Some(1), &"failed".into()), "{report}");
    assert!(report["reason"].as_str().unwrap().contains("fence"), "{report}");
    assert_eq!(world.store.left().await, left, "a stale holder deleted");
    // What it says went is what it deleted before it was frozen.
    let listed = end.stdout.lines().filter(|line| line.starts_with("{\"item\"")).count();
    assert_eq!((deleted(&report), listed as u64), (world.store.due() - before, deleted(&report)));
    world.store.assert_whole().await;
    report
}

#[tokio::test]
async fn a_holder_that_was_frozen_past_its_lease_deletes_nothing_more() {
    let redis = RedisServer::start().await;
    let world = World::new(Some(&redis), QUICK, SLOW, 1_000).await;
    let stale = world.start("run old-runs --json --list");
    world.is_amid().await;
    // Frozen amid a write it would keep the others from writing, and that is SQLite's own affair.
    comes("a moment between two batches", async || {
        stale.signal(Signal::STOP);
        let between = !world.store.is_being_written().await;
        if !between {
            stale.signal(Signal::CONT);
        }
        between
    })
    .await;
    world.configure(SLOW, "run_limit = 100");
    is_fenced(&redis, &world, stale).await;
}

#[tokio::test]
async fn a_holder_that_was_frozen_at_the_door_of_its_next_batch_is_refused_by_the_store() {
    let redis = RedisServer::start().await;
    let world = World::new(Some(&redis), QUICK, SLOW, 1_000).await;
    let stale = world.start("run old-runs --json --list");
    world.is_amid().await;
    let door = world.store.hold().await;
    // It has asked whether it is still trusted, and waits for the file; its lock is renewed meanwhile.
    let ttl = async || redis.cli(&["PTTL", LOCK]).await.parse::<i64>().unwrap();
    for _ in 0..2 {
        let mut last = ttl().await;
        comes("a renewal", async || {
            let now = ttl().await;
            std::mem::replace(&mut last, now) < now
        })
        .await;
    }
    stale.signal(Signal::STOP);
    door.close().await.unwrap();
    world.configure(SLOW, "run_limit = 100");
    let report = is_fenced(&redis, &world, stale).await;
    let reason = report["reason"].as_str().unwrap();
    assert!(reason.starts_with("sqlite: fence ") && reason.contains(" is stale, "), "{reason}");
}

/// A Redis that keeps what it knows over a restart.
async fn lasting() -> RedisServer {
    RedisServer::start_with(RedisOptions { append_only: true, ..RedisOptions::default() }).await
}

#[tokio::test]
async fn a_run_whose_redis_is_gone_stops_before_the_lock_can_be_another_s() {
    for is_silent in [false, true] {
        let mut redis = lasting().await;
        let world = World::new(Some(&redis), QUICK, SLOW, 3_000).await;
        let run = world.start("run old-runs --json");
        world.is_amid().await;
        if is_silent {
            redis.freeze();
        } else {
            redis.stop().await;
        }
        let end = run.end().await;
        let (report, left) = (report_of(&end), world.store.left().await);
        assert_eq!((end.code, &report["outcome"]), (Some(1), &"failed".into()), "{report}");
        assert!(report["reason"].as_str().unwrap().starts_with("lock: lost after fence "), "{report}");
        assert!(end.stderr.contains("not recorded"), "{}", end.stderr);
        assert_eq!(deleted(&report), 3_000 - left);
        assert!(left > 0, "it was over before Redis went");
        if is_silent {
            redis.thaw();
        } else {
            redis.restart().await;
        }
        world.hurry(SLOW);
        comes("a free lock", async || redis.cli(&["EXISTS", LOCK]).await == "0").await;
        assert_eq!(deleted(&world.cli.json("run old-runs --json")), left);
        world.store.assert_swept().await;
    }
}

#[tokio::test]
async fn a_worker_whose_redis_comes_back_finishes_the_request() {
    let mut redis = lasting().await;
    let world = World::new(Some(&redis), QUICK, SLOW, 3_000).await;
    world.cli.stdout("enqueue old-runs");
    let worker = world.start("worker --name w1");
    world.is_amid().await;
    redis.stop().await;
    worker.logs("lock lost").await;
    let left = world.store.left().await;
    assert!(left > 0, "it was over before Redis went");
    worker.logs("no requests, trying again").await;
    // One batch may have been in hand.
    assert!(left - world.store.left().await <= 2, "it went on without its lock");
    redis.restart().await;
    comes("a final report", async || !world.history().is_empty()).await;
    assert_eq!(redis.cli(&["XLEN", "{janitor}:queue:default"]).await, "0", "the request is settled");
    assert_eq!(world.history().len(), 1, "a request has one final report");
    world.hurry(SLOW);
    worker.stop().await;
    world.cli.stdout("run old-runs");
    world.store.assert_swept().await;
}
