//! `kill -9` and SIGTERM amid a sweep: nothing is half deleted, the lock comes free, and the next one finishes.

use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;

use crate::{
    process::{Process, Signal, World, comes, deleted},
    redis::RedisServer,
};

/// A dead worker's lock and request come free soon.
const QUICK: &str = "[worker]\nlock_ttl = \"2s\"\nvisibility = \"2s\"\nmax_deliveries = 20";
/// Small batches, so that a sweep takes a while.
const SLOW: &str = "batch_size = 2\nbatch_time = \"10ms\"";
const LOCK: &str = "{janitor}:lock:old-runs";
const STREAM: &str = "{janitor}:queue:default";
/// The lock's ttl and a second.
const FREE_MAX: Duration = Duration::from_secs(3);

/// Waits until the sweep goes on, lets it delete about `more` runs, and kills it.
async fn kill_amid(world: &World, process: Process, more: u64) {
    let before = world.store.left().await;
    comes("a sweep that goes on", async || world.store.left().await + more < before).await;
    process.kill().await;
    world.store.assert_whole().await;
}

async fn is_free(redis: &RedisServer) -> bool {
    redis.cli(&["EXISTS", LOCK]).await == "0"
}

#[tokio::test]
async fn runs_that_are_killed_at_any_moment_leave_a_lock_that_lapses_and_work_that_is_finished() {
    let redis = RedisServer::start().await;
    let world = World::new(Some(&redis), QUICK, SLOW, 3_000).await;
    let mut random = StdRng::seed_from_u64(4);
    for _ in 0..10 {
        let run = world.start("run old-runs");
        kill_amid(&world, run, random.random_range(0..60)).await;
        let killed = Instant::now();
        comes("a free lock", async || is_free(&redis).await).await;
        assert!(killed.elapsed() <= FREE_MAX, "the lock was free after {:?}", killed.elapsed());
    }
    let left = world.store.left().await;
    assert!(left > 0, "it was over before the last kill");
    world.hurry(SLOW);
    let report = world.cli.json("run old-runs --json");
    assert_eq!((&report["outcome"], deleted(&report)), (&"done".into(), left));
    world.store.assert_swept().await;
    assert!(is_free(&redis).await);
}

#[tokio::test]
async fn a_request_of_killed_workers_is_delivered_again_and_settled_once() {
    let redis = RedisServer::start().await;
    let world = World::new(Some(&redis), QUICK, SLOW, 3_000).await;
    let mut random = StdRng::seed_from_u64(5);
    let id = world.cli.json("enqueue old-runs --json")["id"].as_str().unwrap().to_owned();
    for number in 0..10 {
        let worker = world.start(&format!("worker --name w{number}"));
        kill_amid(&world, worker, random.random_range(0..60)).await;
        assert_eq!(redis.cli(&["XLEN", STREAM]).await, "1", "the request is still there");
        assert_eq!(world.history(), Vec::<Value>::new());
    }
    assert!(world.store.left().await > 0, "it was over before the last kill");
    let left = world.store.left().await;
    world.hurry(SLOW);
    let worker = world.start("worker --name last");
    comes("the report", async || !world.history().is_empty()).await;
    let history = world.history();
    assert_eq!(history.len(), 1, "a request has one final report: {history:?}");
    assert_eq!((&history[0]["outcome"], &history[0]["attempt"]), (&"done".into(), &11.into()));
    assert_eq!(deleted(&history[0]), left);
    assert_eq!(redis.cli(&["XRANGE", STREAM, &id, &id]).await, "", "it is settled");
    world.store.assert_swept().await;
    worker.stop().await;
    assert!(is_free(&redis).await);
}

#[tokio::test]
async fn the_embedded_mode_recovers_from_kills_too() {
    let world = World::new(None, QUICK, SLOW, 3_000).await;
    let mut random = StdRng::seed_from_u64(6);
    world.cli.stdout("enqueue old-runs");
    for _ in 0..5 {
        let up = world.start("up");
        kill_amid(&world, up, random.random_range(0..60)).await;
    }
    assert!(world.store.left().await > 0, "it was over before the last kill");
    world.hurry(SLOW);
    let up = world.start("up");
    comes("the report", async || !world.history().is_empty()).await;
    up.stop().await;
    let history = world.history();
    assert_eq!((history.len(), &history[0]["outcome"], &history[0]["attempt"]), (1, &"done".into(), &6.into()));
    world.store.assert_swept().await;
}

#[tokio::test]
async fn a_worker_that_is_told_to_stop_hands_its_request_to_another() {
    let redis = RedisServer::start().await;
    let head = "[worker]\ndrain = \"10s\"";
    let world = World::new(Some(&redis), head, SLOW, 3_000).await;
    world.cli.stdout("enqueue old-runs");
    let first = world.start("worker --name first");
    world.is_amid().await;
    let told = Instant::now();
    let end = first.stop().await;
    assert!(told.elapsed() < Duration::from_secs(10), "it took {:?}", told.elapsed());
    assert!(is_free(&redis).await, "the lock is given back: {}", end.stderr);
    let left = world.store.left().await;
    assert!(left > 0, "it was over too soon");
    world.store.assert_whole().await;
    assert_eq!(redis.cli(&["XLEN", STREAM]).await, "1", "the request is handed back");
    assert_eq!(world.history(), Vec::<Value>::new(), "it is not settled");
    world.hurry(SLOW);
    let second = world.start("worker --name second");
    comes("the report", async || !world.history().is_empty()).await;
    let history = world.history();
    assert_eq!((history.len(), &history[0]["outcome"], deleted(&history[0])), (1, &"done".into(), left));
    assert_eq!(history[0]["attempt"], 1, "to be handed back costs no delivery");
    second.stop().await;
    world.store.assert_swept().await;
}

#[tokio::test]
async fn a_worker_that_cannot_drain_in_time_still_gives_everything_back() {
    let redis = RedisServer::start().await;
    let world = World::new(Some(&redis), "[worker]\ndrain = \"0s\"", SLOW, 3_000).await;
    world.cli.stdout("enqueue old-runs");
    let first = world.start("worker --name first");
    world.is_amid().await;
    let end = first.stop().await;
    assert!(is_free(&redis).await, "the lock is given back: {}", end.stderr);
    world.store.assert_whole().await;
    world.hurry(SLOW);
    let second = world.start("worker --name second");
    comes("the report", async || !world.history().is_empty()).await;
    assert_eq!(world.history().len(), 1);
    second.stop().await;
    world.store.assert_swept().await;
}

#[tokio::test]
async fn a_run_that_is_told_to_stop_is_limited_and_gives_its_lock_back() {
    let redis = RedisServer::start().await;
    let world = World::new(Some(&redis), "", SLOW, 3_000).await;
    for signal in [Signal::TERM, Signal::INT] {
        let run = world.start("run old-runs --json");
        let before = world.store.left().await;
        comes("a sweep that goes on", async || world.store.left().await < before).await;
        run.signal(signal);
        let end = run.end().await;
        let report: Value = serde_json::from_str(&end.stdout).unwrap();
        assert_eq!((end.code, &report["outcome"]), (Some(5), &"limited".into()), "{}", end.stderr);
        assert_eq!(deleted(&report), before - world.store.left().await);
        assert!(is_free(&redis).await);
        assert_eq!(world.history()[0], report);
    }
}

#[tokio::test]
async fn a_worker_that_is_told_to_stop_while_it_waits_for_a_dead_ones_lock_settles_nothing() {
    let redis = RedisServer::start().await;
    let world = World::new(Some(&redis), "[worker]\nlock_ttl = \"30s\"\nvisibility = \"1s\"", SLOW, 1_000).await;
    world.cli.stdout("enqueue old-runs");
    let first = world.start("worker --name first");
    world.is_amid().await;
    first.kill().await;
    let second = world.start("worker --name second");
    comes("the second delivery", async || {
        redis.cli(&["XPENDING", STREAM, "workers", "-", "+", "1"]).await.contains("second-")
    })
    .await;
    second.stop().await;
    assert_eq!(world.history(), Vec::<Value>::new(), "the request is not settled");
    assert_eq!(redis.cli(&["XLEN", STREAM]).await, "1");
    assert_eq!(world.cli.stdout("unlock old-runs"), "old-runs: unlocked\n");
    world.hurry(SLOW);
    let third = world.start("worker --name third");
    comes("the report", async || !world.history().is_empty()).await;
    third.stop().await;
    assert_eq!((world.history().len(), &world.history()[0]["outcome"]), (1, &"done".into()));
    world.store.assert_swept().await;
}

#[tokio::test]
async fn a_request_that_kills_its_worker_each_time_dies_and_can_be_tried_again() {
    let redis = RedisServer::start().await;
    let head = "[worker]\nlock_ttl = \"1s\"\nvisibility = \"1s\"\nmax_deliveries = 2";
    let world = World::new(Some(&redis), head, SLOW, 1_000).await;
    world.cli.stdout("enqueue old-runs");
    for number in 0..2 {
        let worker = world.start(&format!("worker --name w{number}"));
        kill_amid(&world, worker, 1).await;
    }
    world.hurry(SLOW);
    let worker = world.start("worker --name last");
    comes("a dead request", async || !world.cli.stdout("dead ls").is_empty()).await;
    let report = world.history().remove(0);
    assert_eq!((&report["outcome"], &report["attempt"], deleted(&report)), (&"failed".into(), &2.into(), 0));
    assert!(report["reason"].as_str().unwrap().starts_with("lost 2 times, last by w1-"), "{report}");
    assert!(world.store.left().await > 0);
    let id = world.cli.json("dead ls --json")[0]["id"].as_str().unwrap().to_owned();
    world.cli.stdout(&format!("dead retry {id}"));
    comes("a second report", async || world.history().len() == 2).await;
    assert_eq!((&world.history()[0]["outcome"], &world.history()[0]["attempt"]), (&"done".into(), &1.into()));
    worker.stop().await;
    world.store.assert_swept().await;
}
