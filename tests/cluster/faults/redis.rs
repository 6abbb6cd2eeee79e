//! A Redis that is killed, forgets, drops its clients, is full, or takes no writes.

use std::time::Duration;

use tokio::time::sleep;

use super::over;
use crate::{
    cluster::{Cluster, Harm},
    redis::{RedisOptions, RedisServer, free_port},
};

/// How long Redis is away.
const AWAY: Duration = Duration::from_secs(2);
/// How long it is away where beats lose patience.
const LONG_AWAY: Duration = Duration::from_secs(8);
/// So long after it has come back there are ticks again.
const BACK: Duration = Duration::from_secs(5);

/// A Redis that keeps what it knows over a restart.
async fn lasting() -> RedisServer {
    RedisServer::start_with(RedisOptions { append_only: true, ..RedisOptions::default() }).await
}

#[tokio::test]
async fn a_redis_that_is_killed_and_remembers_costs_no_tick() {
    let mut server = lasting().await;
    let mut cluster = Cluster::start("Redis is killed, with appendonly", over(&server)).await;
    for away in [AWAY, LONG_AWAY] {
        cluster.ask().await;
        cluster
            .harm(Harm::of("Redis is away").blinds(BACK), async |cluster: &mut Cluster| {
                cluster.strike().await;
                server.stop().await;
                sleep(away).await;
                server.restart().await;
            })
            .await;
        cluster.more(40).await;
    }
    cluster.prove().await;
}

#[tokio::test]
async fn a_redis_that_is_killed_and_forgets_doubles_only_what_is_in_flight() {
    let mut server = RedisServer::start().await;
    let mut cluster = Cluster::start("Redis is killed, without persistence", over(&server)).await;
    for _ in 0..2 {
        cluster
            .harm(Harm::of("Redis is away and forgets").blinds(BACK).forgets(), async |cluster: &mut Cluster| {
                cluster.strike().await;
                server.stop().await;
                sleep(AWAY).await;
                server.restart().await;
            })
            .await;
        cluster.more(40).await;
    }
    cluster.prove().await;
}

#[tokio::test]
async fn a_redis_that_is_flushed_doubles_only_what_is_in_flight() {
    let server = RedisServer::start().await;
    let mut cluster = Cluster::start("FLUSHALL", over(&server)).await;
    for _ in 0..3 {
        let harm = Harm::of("FLUSHALL").forgets();
        cluster
            .harm(harm, async |cluster: &mut Cluster| {
                cluster.strike().await;
                server.cli(&["FLUSHALL"]).await
            })
            .await;
        cluster.more(30).await;
    }
    cluster.prove().await;
}

#[tokio::test]
async fn clients_that_are_killed_cost_no_tick() {
    let server = lasting().await;
    let mut cluster = Cluster::start("CLIENT KILL", over(&server)).await;
    for _ in 0..5 {
        cluster.ask().await;
        // All beats lose their connection at once, and try again after a second.
        cluster
            .harm(Harm::of("CLIENT KILL").blinds(Duration::from_millis(1_500)), async |cluster: &mut Cluster| {
                cluster.strike().await;
                server.cli(&["CLIENT", "KILL", "TYPE", "normal"]).await
            })
            .await;
        cluster.more(18).await;
    }
    cluster.prove().await;
}

#[tokio::test]
async fn a_redis_that_is_full_costs_no_tick() {
    let server = RedisServer::start().await;
    let mut cluster = Cluster::start("Redis is full", over(&server)).await;
    for _ in 0..2 {
        cluster.ask().await;
        cluster
            .harm(Harm::of("maxmemory, noeviction").blinds(BACK), async |_: &mut Cluster| {
                server.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1"]).await;
                sleep(AWAY).await;
                server.cli(&["CONFIG", "SET", "maxmemory", "0"]).await;
            })
            .await;
        cluster.more(40).await;
    }
    cluster.prove().await;
}

#[tokio::test]
async fn a_redis_that_is_a_replica_for_a_while_costs_no_tick() {
    let server = RedisServer::start().await;
    let mut cluster = Cluster::start("Redis is a replica that cannot be written", over(&server)).await;
    // Of nobody: it keeps what it has.
    let nobody = free_port().to_string();
    for _ in 0..2 {
        cluster.ask().await;
        cluster
            .harm(Harm::of("a read-only replica").blinds(BACK), async |_: &mut Cluster| {
                server.cli(&["REPLICAOF", "127.0.0.1", &nobody]).await;
                sleep(AWAY).await;
                server.cli(&["REPLICAOF", "NO", "ONE"]).await;
            })
            .await;
        cluster.more(40).await;
    }
    cluster.prove().await;
}
