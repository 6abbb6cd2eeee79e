//! Half an hour of all kinds of jobs on three workers, with a fault every ten seconds: nothing may grow, and nothing go wrong.

mod feed;
mod memory;

use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::time::sleep;

use self::{feed::Feed, memory::Memory};
use crate::{
    cluster::{Cluster, Harm, LEASE, Plan, RUN_LIMIT},
    host::{Part, Signal},
    proxy::Way,
    redis::{RedisOptions, RedisServer},
};

/// How long it takes where `JANITOR_SOAK_MINUTES` is not set.
const MINUTES: u64 = 30;
/// The seconds between two ticks of each job.
const EVERY_SECS: u32 = 2;
/// How many jobs delete runs.
const JOBS: usize = 4;
/// From one fault to the next.
const ROUND: Duration = Duration::from_secs(10);
/// How often there is something new to delete.
const FEED: Duration = Duration::from_secs(2);
/// How long a fault lasts: a lease and more.
const BROKEN: Duration = LEASE.saturating_add(Duration::from_secs(1));
/// After a fault of Redis beats are back: they try again after 1 s, 2 s and so on.
const BACK: Duration = Duration::from_secs(6);

#[tokio::test]
#[ignore = "takes half an hour: tests/run --soak"]
async fn soak() {
    let minutes =
        std::env::var("JANITOR_SOAK_MINUTES").map_or(MINUTES, |set| set.parse().expect("a number of minutes"));
    let length = Duration::from_secs(minutes * 60);
    let mut server = RedisServer::start_with(RedisOptions { append_only: true, ..RedisOptions::default() }).await;
    let mut feed = Feed::new().await;
    let ticks = length.as_secs() / u64::from(EVERY_SECS);
    let plan = Plan {
        redis: server.url(),
        through: Some(server.port()),
        tail: feed.jobs(EVERY_SECS),
        jobs: JOBS,
        every_secs: EVERY_SECS,
        due: (ticks + 100) * RUN_LIMIT,
        ..Plan::default()
    };
    let mut cluster = Cluster::start("soak", plan).await;
    let mut memory = Memory::default();
    let (began, mut rounds) = (Instant::now(), 0);
    while began.elapsed() < length {
        let round = Instant::now();
        harm(&mut cluster, &mut server).await;
        rounds += 1;
        while round.elapsed() < ROUND {
            feed.some(&cluster).await;
            sleep(FEED).await;
        }
        cluster.more(1).await;
        memory.look(&cluster, &server).await;
    }
    feed.is_gone(&cluster).await;
    println!("soak: {rounds} faults in {:.0} s; {feed}", began.elapsed().as_secs_f64());
    println!("{memory}");
    cluster.prove().await;
    assert!(memory.grown().is_empty(), "{:?} grew", memory.grown());
}

/// One fault, of those that there are.
async fn harm(cluster: &mut Cluster, server: &mut RedisServer) {
    let moment = Duration::from_millis(cluster.random.random_range(0..1_000));
    sleep(moment).await;
    match cluster.random.random_range(0..3) {
        0 => harm_process(cluster).await,
        1 => harm_redis(cluster, server).await,
        _ => harm_network(cluster).await,
    }
}

/// The first host's worker is never killed, so that there is one as old as the soak.
async fn harm_process(cluster: &mut Cluster) {
    let (host, killed) = (cluster.any(), cluster.random.random_range(1..cluster.hosts.len()));
    let part = if cluster.random.random_bool(0.3) { Part::Beat } else { Part::Worker };
    match cluster.random.random_range(0..3) {
        0 => {
            let harm = Harm::of("kill -9");
            cluster
                .harm(harm, async |cluster: &mut Cluster| {
                    cluster.hosts[killed].kill(part);
                    sleep(BROKEN).await;
                    cluster.hosts[killed].start(part);
                })
                .await;
        }
        1 => {
            let harm = Harm::of("SIGSTOP");
            cluster
                .harm(harm, async |cluster: &mut Cluster| {
                    cluster.hosts[host].signal(part, Signal::STOP);
                    sleep(BROKEN).await;
                    cluster.hosts[host].signal(part, Signal::CONT);
                })
                .await;
        }
        _ => {
            let harm = Harm::of("SIGTERM");
            cluster
                .harm(harm, async |cluster: &mut Cluster| {
                    cluster.hosts[killed].stop(part).await;
                    cluster.hosts[killed].start(part);
                })
                .await;
        }
    }
}

async fn harm_redis(cluster: &mut Cluster, server: &mut RedisServer) {
    match cluster.random.random_range(0..3) {
        0 => {
            let harm = Harm::of("CLIENT KILL").blinds(BACK);
            cluster.harm(harm, async |_: &mut Cluster| server.cli(&["CLIENT", "KILL", "TYPE", "normal"]).await).await;
        }
        1 => {
            let harm = Harm::of("Redis is away").blinds(BACK);
            cluster
                .harm(harm, async |_: &mut Cluster| {
                    server.stop().await;
                    sleep(BROKEN).await;
                    server.restart().await;
                })
                .await;
        }
        _ => {
            let harm = Harm::of("Redis is full").blinds(BACK);
            cluster
                .harm(harm, async |_: &mut Cluster| {
                    server.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1"]).await;
                    sleep(BROKEN).await;
                    server.cli(&["CONFIG", "SET", "maxmemory", "0"]).await;
                })
                .await;
        }
    }
}

async fn harm_network(cluster: &mut Cluster) {
    let host = cluster.any();
    let ways = [Way::Cut, Way::Silent, Way::NoRequests, Way::NoAnswers, Way::Slow(Duration::from_millis(80))];
    let way = ways[cluster.random.random_range(0..ways.len())];
    let harm = Harm::of("the network of a host");
    cluster
        .harm(harm, async |cluster: &mut Cluster| {
            cluster.way(host, way);
            sleep(BROKEN).await;
            cluster.way(host, Way::Open);
        })
        .await;
}
