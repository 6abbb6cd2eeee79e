//! Each tick becomes one sweep, however many beats and workers there are and whoever is killed.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    process::{World, comes, deleted},
    redis::RedisServer,
};

const HEAD: &str = "[worker]\nlock_ttl = \"3s\"\nvisibility = \"3s\"\nmax_deliveries = 20";
/// Sweeps of a good part of the time between two ticks, so that a kill finds one on its way.
const JOB: &str = "schedule = \"every 2s\"\nbatch_size = 2\nbatch_time = \"10ms\"\nrun_limit = 60";
const STREAM: &str = "{janitor}:queue:default";
/// Ticks before the kills, and after them: half a minute.
const TICKS: usize = 7;

/// The name of a worker that has a request in hand, such as `w1`.
async fn busy_worker(redis: &RedisServer) -> Option<String> {
    let pending = redis.cli(&["XPENDING", STREAM, "workers", "-", "+", "1"]).await;
    let consumer = pending.lines().nth(1)?.split('-').next()?.to_owned();
    consumer.starts_with('w').then_some(consumer)
}

/// How each tick of the history ended.
fn by_tick(world: &World) -> BTreeMap<DateTime<Utc>, Vec<String>> {
    let mut ticks: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for report in world.history() {
        let tick = report["tick"].as_str().expect("only beats enqueue here").parse().unwrap();
        ticks.entry(tick).or_default().push(report["outcome"].as_str().unwrap().to_owned());
    }
    ticks
}

#[tokio::test]
async fn three_beats_and_three_workers_sweep_once_a_tick_whoever_is_killed() {
    let redis = RedisServer::start().await;
    let world = World::new(Some(&redis), HEAD, JOB, 3_000).await;
    let mut beats: Vec<_> = (0..3).map(|_| world.start("beat")).collect();
    let mut workers: BTreeMap<_, _> =
        (0..3).map(|number| (format!("w{number}"), world.start(&format!("worker --name w{number}")))).collect();
    comes("half of the ticks", async || by_tick(&world).len() >= TICKS).await;
    beats.swap_remove(0).kill().await;
    let mut name = None;
    comes("a worker amid a sweep", async || {
        name = busy_worker(&redis).await;
        name.is_some()
    })
    .await;
    workers.remove(&name.unwrap()).expect("one of ours").kill().await;
    comes("the other half of the ticks", async || by_tick(&world).len() >= 2 * TICKS).await;
    for beat in beats {
        beat.stop().await;
    }
    comes("an empty queue", async || redis.cli(&["XLEN", STREAM]).await == "0").await;
    for worker in workers.into_values() {
        worker.stop().await;
    }
    let ticks = by_tick(&world);
    let instants: Vec<_> = ticks.keys().copied().collect();
    for pair in instants.windows(2) {
        assert_eq!(pair[1] - pair[0], TimeDelta::seconds(2), "a tick is missing: {ticks:?}");
    }
    for (tick, outcomes) in &ticks {
        assert_eq!(outcomes.len(), 1, "{tick} has more than one report: {ticks:?}");
        // A sweep that deletes its fill is limited; one that met the dead worker's lock is busy.
        assert!(["limited", "busy", "skipped"].contains(&outcomes[0].as_str()), "{:?}", world.history());
    }
    let not_run = ticks.values().flatten().filter(|outcome| *outcome != "limited").count();
    // The dead worker's lock lasts 3 s, and its request waits for another second.
    assert!(not_run <= 3, "a kill costs the ticks of its own moment only: {ticks:?}");
    let reported: u64 = world.history().iter().map(deleted).sum();
    let gone = world.store.due() - world.store.left().await;
    assert!(
        reported <= gone && gone < reported + 60,
        "reported {reported}, gone {gone}: the killed one's part is open"
    );
    world.store.assert_whole().await;
    assert_eq!(redis.cli(&["EXISTS", "{janitor}:lock:old-runs"]).await, "0");
}
