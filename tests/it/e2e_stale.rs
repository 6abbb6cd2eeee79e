//! Holders that are frozen past their lease, and a Redis that goes away amid a sweep: who is in doubt deletes nothing.

use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::Connection;

use crate::{
    cli::Cli,
    process::{End, Process, Signal, World, comes, deleted},
    redis::{RedisOptions, RedisServer},
};

const QUICK: &str = "[worker]\nlock_ttl = \"2s\"\nvisibility = \"2s\"\nmax_deliveries = 20";
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
    worker.logs("request not settled, trying again").await;
    let left = world.store.left().await;
    assert!(left > 0, "it was over before Redis went");
    world.store.assert_whole().await;
    redis.restart().await;
    comes("a final report", async || !world.history().is_empty()).await;
    assert_eq!(redis.cli(&["XLEN", "{janitor}:queue:default"]).await, "0", "the request is settled");
    assert_eq!(world.history().len(), 1, "a request has one final report");
    world.hurry(SLOW);
    worker.stop().await;
    world.cli.stdout("run old-runs");
    world.store.assert_swept().await;
}

#[tokio::test]
async fn a_redis_that_forgets_everything_ends_the_sweep_and_not_the_worker() {
    let redis = RedisServer::start().await;
    let world = World::new(Some(&redis), QUICK, SLOW, 3_000).await;
    let (worker, beat) = (world.start("worker --name w1"), world.start("beat"));
    world.cli.stdout("enqueue old-runs");
    world.is_amid().await;
    redis.cli(&["FLUSHALL"]).await;
    // Who asks first sees it first: the lock or the request.
    comes("an end", async || ["lease lost", "it is not ours any more"].iter().any(|text| worker.log().contains(text)))
        .await;
    assert!(world.store.left().await > 0, "it was over before Redis forgot");
    world.store.assert_whole().await;
    assert_eq!(world.history(), Vec::<Value>::new(), "its request is forgotten too");
    world.configure(SLOW, "");
    let (code, stdout, stderr) = world.cli.run("enqueue old-runs --dry-run --wait --json");
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert_eq!(world.cli.json("run old-runs --json")["outcome"], "done", "the fence has grown");
    world.store.assert_swept().await;
    beat.stop().await;
    worker.stop().await;
}

#[tokio::test]
async fn two_janitors_that_do_not_know_each_other_are_kept_apart_by_the_store() {
    let world = World::new(None, "", SLOW, 2_000).await;
    let other = Cli::with(&format!(
        "[jobs.old-runs]\nkind = \"retention\"\nstore = \"sqlite://{}\"\nretention_days = 30\n",
        world.cli.path().join("app.db").display()
    ));
    let first = world.start("run old-runs --json");
    world.is_amid().await;
    let second = other.json("run old-runs --json");
    let end = first.end().await;
    let report = report_of(&end);
    assert_eq!((end.code, &report["outcome"], &second["outcome"]), (Some(1), &"failed".into(), &"done".into()));
    assert!(report["reason"].as_str().unwrap().starts_with("sqlite: fence "), "{report}");
    assert_eq!(deleted(&report) + deleted(&second), 2_000);
    world.store.assert_swept().await;
}

#[tokio::test]
async fn a_worker_whose_redis_is_gone_ends_in_time_when_it_is_told_to() {
    for (is_silent, is_busy) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut redis = RedisServer::start().await;
        let world = World::new(Some(&redis), "[worker]\ndrain = \"1s\"", SLOW, 3_000).await;
        let worker = world.start("up");
        if is_busy {
            world.cli.stdout("enqueue old-runs");
            world.is_amid().await;
        } else {
            worker.logs("beat started").await;
        }
        if is_silent {
            redis.freeze();
        } else {
            redis.stop().await;
        }
        let told = Instant::now();
        worker.stop().await;
        let (took, what) = (told.elapsed(), if is_busy { "busy" } else { "idle" });
        assert!(took < Duration::from_secs(15), "it took {took:?} ({what}, silent: {is_silent})");
        world.store.assert_whole().await;
    }
}
