//! Processes that are killed, frozen past their lease, and told to end.

use std::time::Duration;

use tokio::time::sleep;

use super::over;
use crate::{
    cluster::{Cluster, Harm, LEASE, millis, now},
    history::Millis,
    host::{Part, Signal},
    recovery,
    redis::RedisServer,
};

/// What was cut short by a kill goes on within this and the visibility.
const RECOVERY_MAX: Duration = Duration::from_secs(5);
/// How often each thing is done.
const TIMES: usize = 3;

#[tokio::test]
async fn workers_that_are_killed_cost_no_tick() {
    let server = RedisServer::start().await;
    let mut cluster = Cluster::start("kill -9 of workers", over(&server)).await;
    let mut kills: Vec<Millis> = Vec::new();
    for _ in 0..TIMES {
        cluster.more(10).await;
        let host = cluster.any();
        kills.push(
            cluster
                .harm(Harm::of("kill -9 of a worker"), async |cluster: &mut Cluster| {
                    cluster.strike().await;
                    cluster.hosts[host].kill(Part::Worker);
                    let killed = now();
                    cluster.more(24).await;
                    cluster.hosts[host].start(Part::Worker);
                    killed
                })
                .await,
        );
        cluster.ask().await;
    }
    cluster.more(20).await;
    let history = cluster.prove().await;
    let took: Vec<_> = kills.iter().flat_map(|killed| recovery::of_cut_short(&history, *killed)).collect();
    println!("after kill -9 the work that was cut short went on after {took:?} ms");
    assert!(!took.is_empty(), "no kill came amid the work");
    assert!(took.iter().all(|took| *took <= millis(LEASE + RECOVERY_MAX)), "{took:?}");
}

#[tokio::test]
async fn beats_that_are_killed_cost_no_tick_while_one_is_left() {
    let server = RedisServer::start().await;
    let mut cluster = Cluster::start("kill -9 of beats", over(&server)).await;
    for _ in 0..TIMES {
        let spared = cluster.any();
        let others: Vec<_> = (0..cluster.hosts.len()).filter(|host| *host != spared).collect();
        cluster
            .harm(Harm::of("kill -9 of all beats but one"), async |cluster: &mut Cluster| {
                for host in &others {
                    cluster.hosts[*host].kill(Part::Beat);
                }
                cluster.more(18).await;
                for host in &others {
                    cluster.hosts[*host].start(Part::Beat);
                }
            })
            .await;
        cluster.more(12).await;
    }
    // A new beat knows nothing: the latest tick is made up, and the others are gone.
    cluster
        .harm(Harm::of("kill -9 of all beats").blinds(Duration::from_secs(2)), async |cluster: &mut Cluster| {
            for host in &mut cluster.hosts {
                host.kill(Part::Beat);
            }
            sleep(Duration::from_secs(3)).await;
            for host in &mut cluster.hosts {
                host.start(Part::Beat);
            }
        })
        .await;
    cluster.more(24).await;
    cluster.prove().await;
}

#[tokio::test]
async fn workers_that_are_frozen_past_their_lease_cost_no_tick() {
    let server = RedisServer::start().await;
    let mut cluster = Cluster::start("SIGSTOP of workers", over(&server)).await;
    for _ in 0..TIMES {
        let host = cluster.any();
        cluster
            .harm(Harm::of("a worker is frozen"), async |cluster: &mut Cluster| {
                cluster.strike().await;
                cluster.hosts[host].signal(Part::Worker, Signal::STOP);
                sleep(LEASE + Duration::from_millis(1_500)).await;
                cluster.hosts[host].signal(Part::Worker, Signal::CONT);
            })
            .await;
        cluster.more(20).await;
    }
    cluster.prove().await;
}

#[tokio::test]
async fn beats_that_are_frozen_cost_no_tick_while_one_is_left() {
    let server = RedisServer::start().await;
    let mut cluster = Cluster::start("SIGSTOP of beats", over(&server)).await;
    for _ in 0..TIMES {
        let spared = cluster.any();
        let others: Vec<_> = (0..cluster.hosts.len()).filter(|host| *host != spared).collect();
        cluster
            .harm(Harm::of("all beats but one are frozen"), async |cluster: &mut Cluster| {
                for host in &others {
                    cluster.hosts[*host].signal(Part::Beat, Signal::STOP);
                }
                cluster.more(24).await;
                for host in &others {
                    cluster.hosts[*host].signal(Part::Beat, Signal::CONT);
                }
            })
            .await;
        cluster.more(12).await;
    }
    cluster.prove().await;
}

#[tokio::test]
async fn processes_that_are_told_to_end_at_any_point_cost_no_tick() {
    let server = RedisServer::start().await;
    let mut cluster = Cluster::start("SIGTERM", over(&server)).await;
    for number in 0..TIMES * 3 {
        let host = cluster.any();
        let part = if number % 3 == 2 { Part::Beat } else { Part::Worker };
        cluster
            .harm(Harm::of("SIGTERM"), async |cluster: &mut Cluster| {
                cluster.strike().await;
                cluster.hosts[host].stop(part).await;
                cluster.hosts[host].start(part);
            })
            .await;
        cluster.more(8).await;
    }
    cluster.ask().await;
    cluster.more(20).await;
    cluster.prove().await;
}
