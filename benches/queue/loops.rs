//! The backend with a job that does nothing, against loops that read an entry and acknowledge it, on as many connections.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use apalis_janitor::report::Mode;
use redis::aio::MultiplexedConnection;

use crate::world::{Countdown, STREAM, Worker, World, connect, drained};

const PAIRS: usize = 5;
/// How many connections there are; a worker that runs one request at once has one.
const CONNECTIONS: [usize; 3] = [1, 2, 8];
const GROUP: &str = "raw";

/// What XREADGROUP answers: streams with entries with fields.
type Reply = Option<Vec<(String, Vec<(String, Vec<String>)>)>>;

/// Prints how fast each is at so many entries.
pub async fn compare(entries: usize) {
    for connections in CONNECTIONS {
        let mut pairs = Vec::new();
        for turn in 0..PAIRS {
            // None is always the first.
            let pair = if turn % 2 == 0 {
                let raw = raw(entries, connections).await;
                (ours(entries, connections).await, raw)
            } else {
                (ours(entries, connections).await, raw(entries, connections).await)
            };
            pairs.push(pair);
        }
        let ratio = |(ours, raw): &(Duration, Duration)| raw.as_secs_f64() / ours.as_secs_f64();
        pairs.sort_by(|one, other| ratio(one).total_cmp(&ratio(other)));
        let per_second = |took: Duration| entries as f64 / took.as_secs_f64();
        let (least, median, most) = (&pairs[0], &pairs[PAIRS / 2], &pairs[PAIRS - 1]);
        println!(
            "{entries} requests on {connections} connections: {:.0} a second against {:.0} of the raw loop, {:.2} x ({:.2} to {:.2})",
            per_second(median.0),
            per_second(median.1),
            ratio(median),
            ratio(least),
            ratio(most)
        );
    }
}

/// From the start of the workers until nothing is left.
async fn ours(entries: usize, connections: usize) -> Duration {
    let mut world = World::start().await;
    world.append(entries, Mode::Apply).await;
    let (queue, left, began) = (world.queue(), Countdown::of(entries), Instant::now());
    let workers: Vec<_> = (0..connections)
        .map(|number| {
            let left = left.clone();
            Worker::start(&format!("w{number}"), world.queue(), 1, move |_| left.one())
        })
        .collect();
    drained(&*queue, left, workers, began).await
}

async fn raw(entries: usize, connections: usize) -> Duration {
    let mut world = World::start().await;
    world.append(entries, Mode::Apply).await;
    redis::cmd("XGROUP").arg(&["CREATE", STREAM, GROUP, "0"]).exec_async(&mut world.client).await.unwrap();
    let (left, began) = (Countdown::of(entries), Instant::now());
    let mut loops = Vec::new();
    for number in 0..connections {
        loops.push(tokio::spawn(read(connect(&world.server).await, format!("c{number}"), left.clone())));
    }
    left.over().await;
    let took = began.elapsed();
    for one in loops {
        one.await.unwrap();
    }
    took
}

/// Reads one entry and acknowledges it, until none is left.
async fn read(mut connection: MultiplexedConnection, me: String, left: Arc<Countdown>) {
    while !left.is_over() {
        let mut read = redis::cmd("XREADGROUP");
        read.arg(&["GROUP", GROUP, &me, "COUNT", "1", "BLOCK", "50", "STREAMS", STREAM, ">"]);
        let reply: Reply = read.query_async(&mut connection).await.unwrap();
        let Some((id, _)) = reply.and_then(|mut streams| streams.pop()?.1.pop()) else { continue };
        let acknowledged: u64 =
            redis::cmd("XACK").arg(&[STREAM, GROUP, &id]).query_async(&mut connection).await.unwrap();
        assert_eq!(acknowledged, 1);
        left.one();
    }
}
