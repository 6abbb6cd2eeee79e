//! How soon an idle worker begins with a request, against a connection that is blocked in a bare read.

use std::time::{Duration, Instant};

use apalis_janitor::{
    queue::{Enqueued, Request},
    report::Mode,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use redis::aio::MultiplexedConnection;
use tokio::{sync::mpsc, time::sleep};

use crate::world::{JOB, STREAM, Worker, World, connect, percentile, until_empty};

/// The longest pause between two requests, in milliseconds; the shortest is a tenth of it.
const PAUSE_MAX: u64 = 50;

/// Prints the times from the beginning of an enqueue to that of the job, and to the answer of the read.
pub async fn measure(count: usize) {
    let (mut ours, mut raw) = (ours(count).await, raw(count).await);
    let micros = |spans: &mut [Duration], of| percentile(spans, of).as_micros();
    println!(
        "{count} requests, each on an idle queue, begin after {} us (median) and {} us (p99); bare reads end after {} us and {} us",
        micros(&mut ours, 0.5),
        micros(&mut ours, 0.99),
        micros(&mut raw, 0.5),
        micros(&mut raw, 0.99)
    );
}

async fn pause(random: &mut StdRng) {
    sleep(Duration::from_millis(random.random_range(PAUSE_MAX / 10..PAUSE_MAX))).await;
}

/// By `enqueue`, which merges with nothing, as nothing waits.
async fn ours(count: usize) -> Vec<Duration> {
    let world = World::start().await;
    let (queue, mut random) = (world.queue(), StdRng::seed_from_u64(1));
    let (begun, mut begins) = mpsc::unbounded_channel();
    let worker = Worker::start("w", world.queue(), 1, move |_| begun.send(Instant::now()).unwrap());
    let request = Request { job: JOB.to_owned(), mode: Mode::Apply, tick: None };
    let mut spans = Vec::new();
    for _ in 0..count {
        pause(&mut random).await;
        let asked = Instant::now();
        assert!(matches!(queue.enqueue(&request, None).await.unwrap(), Enqueued::New(_)));
        spans.push(begins.recv().await.unwrap() - asked);
        until_empty(&*queue).await;
    }
    worker.stop().await;
    spans
}

async fn raw(count: usize) -> Vec<Duration> {
    let mut world = World::start().await;
    redis::cmd("XGROUP").arg(&["CREATE", STREAM, "raw", "0", "MKSTREAM"]).exec_async(&mut world.client).await.unwrap();
    let (read, mut reads) = mpsc::unbounded_channel();
    let mut reader = connect(&world.server).await;
    tokio::spawn(async move {
        for _ in 0..count {
            let id = read_one(&mut reader).await;
            read.send(Instant::now()).unwrap();
            redis::cmd("XACK").arg(&[STREAM, "raw", &id]).exec_async(&mut reader).await.unwrap();
        }
    });
    let (mut random, mut spans) = (StdRng::seed_from_u64(1), Vec::new());
    for _ in 0..count {
        pause(&mut random).await;
        let asked = Instant::now();
        redis::cmd("XADD")
            .arg(&[STREAM, "*", "job", JOB, "mode", "apply"])
            .exec_async(&mut world.client)
            .await
            .unwrap();
        spans.push(reads.recv().await.unwrap() - asked);
    }
    spans
}

/// Waits for an entry; answers its id.
async fn read_one(connection: &mut MultiplexedConnection) -> String {
    type Reply = Vec<(String, Vec<(String, Vec<String>)>)>;
    let mut read = redis::cmd("XREADGROUP");
    read.arg(&["GROUP", "raw", "c", "COUNT", "1", "BLOCK", "10000", "STREAMS", STREAM, ">"]);
    let mut streams: Reply = read.query_async(connection).await.unwrap();
    streams.pop().unwrap().1.pop().unwrap().0
}
