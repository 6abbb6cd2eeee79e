//! The network between one host and Redis: slow, cut, half-open, or open in one direction only.

use std::time::Duration;

use tokio::time::sleep;

use super::over;
use crate::{
    cluster::{Cluster, Harm, LEASE},
    proxy::Way,
    redis::RedisServer,
};

/// How long the network is so: a lease and more.
const SO_LONG: Duration = LEASE.saturating_add(Duration::from_secs(1));

/// One host's way is so, again and again; the others are well.
async fn is_harmless(name: &'static str, way: Way) {
    let server = RedisServer::start().await;
    let mut cluster = Cluster::start(name, over(&server)).await;
    for _ in 0..2 {
        cluster.ask().await;
        let host = cluster.any();
        cluster
            .harm(Harm::of(name), async |cluster: &mut Cluster| {
                cluster.way(host, way);
                sleep(SO_LONG).await;
                cluster.way(host, Way::Open);
            })
            .await;
        cluster.more(30).await;
    }
    cluster.prove().await;
}

#[tokio::test]
async fn a_host_with_a_slow_network_costs_no_tick() {
    is_harmless("a slow network", Way::Slow(Duration::from_millis(80))).await;
}

#[tokio::test]
async fn a_host_that_is_cut_off_costs_no_tick() {
    is_harmless("a network that is cut", Way::Cut).await;
}

#[tokio::test]
async fn a_host_with_half_open_connections_costs_no_tick() {
    is_harmless("a network that is half-open", Way::Silent).await;
}

#[tokio::test]
async fn a_host_whose_requests_do_not_arrive_costs_no_tick() {
    is_harmless("a network without requests", Way::NoRequests).await;
}

#[tokio::test]
async fn a_host_that_gets_no_answers_costs_no_tick() {
    is_harmless("a network without answers", Way::NoAnswers).await;
}
