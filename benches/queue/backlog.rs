//! Many requests: whether each runs once, and what a long backlog costs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use apalis_janitor::{
    queue::{Enqueued, Queue, Request},
    report::Mode,
};
use tokio::time::sleep;

use crate::{
    daemon::Daemon,
    world::{Countdown, JOB, STREAM, Worker, World, drained},
};

/// How many programs enqueue at once, and how many workers take, each [`AT_ONCE`] requests.
const SIDES: usize = 4;
const AT_ONCE: usize = 2;
/// How often the memory is looked at on the way.
const LOOKS: usize = 10;

/// Prints how many of the requests, each enqueued under a key of its own, ran twice or never.
pub async fn once(requests: usize) {
    let world = World::start().await;
    let (left, seen) = (Countdown::of(requests), Arc::new(Mutex::new(HashMap::<String, u32>::new())));
    let queue = world.queue();
    let began = Instant::now();
    let writers: Vec<_> = (0..SIDES).map(|side| tokio::spawn(enqueue(world.queue(), side, requests))).collect();
    let mut ids = Vec::new();
    for writer in writers {
        ids.extend(writer.await.unwrap());
    }
    let (enqueued, began) = (began.elapsed(), Instant::now());
    let workers: Vec<_> = (0..SIDES)
        .map(|side| {
            let (left, seen) = (left.clone(), seen.clone());
            Worker::start(&format!("w{side}"), world.queue(), AT_ONCE, move |id| {
                *seen.lock().unwrap().entry(id.to_owned()).or_default() += 1;
                left.one();
            })
        })
        .collect();
    let took = drained(&*queue, left, workers, began).await;
    let seen = seen.lock().unwrap();
    let (twice, lost) =
        (seen.values().filter(|runs| **runs > 1).count(), ids.iter().filter(|id| !seen.contains_key(*id)).count());
    assert_eq!((ids.len(), seen.len(), twice, lost), (requests, requests, 0, 0));
    let per_second = |took: Duration| requests as f64 / took.as_secs_f64();
    println!(
        "{requests} requests by {SIDES} programs ({:.0} a second) through {SIDES} workers of {AT_ONCE} ({:.0} a second): {twice} ran twice, {lost} never",
        per_second(enqueued),
        per_second(took)
    );
}

/// Enqueues its share; answers the ids.
async fn enqueue(queue: Arc<dyn Queue>, side: usize, requests: usize) -> Vec<String> {
    let request = Request { job: JOB.to_owned(), mode: Mode::Apply, tick: None };
    let mut ids = Vec::new();
    for number in (side..requests).step_by(SIDES) {
        let Enqueued::New(id) = queue.enqueue(&request, Some(&number.to_string())).await.unwrap() else {
            panic!("no other has its key")
        };
        ids.push(id);
    }
    ids
}

/// Prints the memory of a worker process and of Redis while it takes a backlog of dry runs, and how long an enqueue
/// takes beside it.
pub async fn drain(requests: usize) {
    let mut world = World::start().await;
    world.append(requests, Mode::DryRun).await;
    println!(
        "a backlog of {requests}: an enqueue takes {:.1?}, with a key {:.1?}",
        beside(&world, None).await,
        beside(&world, Some("k")).await
    );
    let config = format!(
        "[redis]\nurl = \"{}\"\n[worker]\nconcurrency = 8\n[jobs.{JOB}]\nkind = \"retention\"\nstore = \"memory:\"\nretention_days = 30\n",
        world.server.url()
    );
    let began = Instant::now();
    let worker = Daemon::start(&config, "worker");
    let mut looks = Vec::new();
    for look in 1..=LOOKS {
        until_left(&mut world, requests - requests * look / (LOOKS + 1)).await;
        looks.push((worker.resident_kib(), world.used_mb().await));
    }
    until_left(&mut world, 0).await;
    let took = began.elapsed();
    let [first, middle, last] = [looks[0], looks[LOOKS / 2], looks[LOOKS - 1]];
    println!(
        "a backlog of {requests}: {:.0} a second by one worker process; it has {} KiB at the begin, {} KiB in the middle, {} KiB at the end, {} KiB once it is idle; Redis {}, {}, {} and {} MB",
        requests as f64 / took.as_secs_f64(),
        first.0,
        middle.0,
        last.0,
        worker.resident_kib(),
        first.1,
        middle.1,
        last.1,
        world.used_mb().await
    );
    worker.stop();
}

/// How long it takes to enqueue a request that merges with nothing, where the backlog's limit lets it.
async fn beside(world: &World, key: Option<&str>) -> Duration {
    let queue = world.queue_of(u64::MAX);
    let request = Request { job: JOB.to_owned(), mode: Mode::Apply, tick: None };
    // Connects, and tells the server the script.
    queue.enqueue(&Request { mode: Mode::DryRun, ..request.clone() }, None).await.unwrap();
    let began = Instant::now();
    queue.enqueue(&request, key).await.unwrap();
    began.elapsed()
}

async fn until_left(world: &mut World, count: usize) {
    loop {
        let left: usize = redis::cmd("XLEN").arg(STREAM).query_async(&mut world.client).await.unwrap();
        if left <= count {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
}
