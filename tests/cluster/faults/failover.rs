//! A master that goes, under Sentinel and in a Redis Cluster.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    cluster::{Cluster, Harm, Plan, millis, now},
    history::Millis,
    recovery,
    redis_shapes::{Slots, Watched},
};

/// How soon after a failover there is work again.
const RECOVERY_MAX: Duration = Duration::from_secs(5);
/// How long a failover itself may take.
const FAILOVER_MAX: Duration = Duration::from_secs(20);
/// After so long beats have found the new master: they try again after 1 s, 2 s and so on.
const BACK: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);

/// Waits until it is so, and says when that was.
async fn comes(mut is_there: impl AsyncFnMut() -> bool) -> Millis {
    let deadline = Instant::now() + FAILOVER_MAX;
    while !is_there().await {
        assert!(Instant::now() < deadline, "no failover within {FAILOVER_MAX:?}");
        sleep(LOOK).await;
    }
    now()
}

/// The port of the master that the Sentinel knows.
async fn master(watched: &Watched) -> u16 {
    let told = watched.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"]).await;
    told.lines().nth(1).and_then(|port| port.trim().parse().ok()).unwrap_or_else(|| panic!("no master: {told}"))
}

fn assert_soon(what: &str, killed: Millis, promoted: Millis, history: &crate::history::History) {
    let took = recovery::first_work(history, promoted).expect("work after the failover");
    println!("{what}: a new master after {} ms, first work {took} ms after that", promoted - killed);
    assert!(took <= millis(RECOVERY_MAX), "{took} ms");
}

#[tokio::test]
async fn a_failover_by_sentinel_costs_no_tick() {
    let mut watched = Watched::start(2).await;
    let plan = Plan { redis: watched.url(), ..Plan::default() };
    let mut cluster = Cluster::start("failover by Sentinel", plan).await;
    cluster.more(20).await;
    let harm = Harm::of("the master is killed").blinds(BACK);
    let (killed, promoted) = cluster
        .harm(harm, async |cluster: &mut Cluster| {
            cluster.strike().await;
            let (old, killed) = (watched.master.port(), now());
            watched.master.stop().await;
            (killed, comes(async || master(&watched).await != old).await)
        })
        .await;
    cluster.more(50).await;
    // Back again, with nobody killed: who is no master any more keeps its connections.
    watched.master.restart().await;
    watched.master.is_told(&["ROLE"], "slave").await;
    watched.master.is_told(&["INFO", "replication"], "master_link_status:up").await;
    // The Sentinel does not wait for the old master, which takes writes until it is told, and then forgets them.
    cluster
        .harm(Harm::of("SENTINEL FAILOVER").blinds(BACK).forgets(), async |_: &mut Cluster| {
            let port = master(&watched).await;
            let old = watched.replicas.iter().find(|replica| replica.port() == port).expect("a new master");
            comes(async || watched.ask(&["SENTINEL", "FAILOVER", "main"]).await.starts_with("OK")).await;
            old.is_told(&["ROLE"], "slave").await;
        })
        .await;
    cluster.more(30).await;
    let history = cluster.prove().await;
    assert_soon("Sentinel", killed, promoted, &history);
}

#[tokio::test]
async fn a_slot_that_loses_its_master_costs_no_tick() {
    let mut slots = Slots::start(true).await;
    let plan = Plan { redis: slots.url(), ..Plan::default() };
    let mut cluster = Cluster::start("failover in a Cluster", plan).await;
    cluster.more(20).await;
    let (owner, heir) = (slots.owner, slots.heir);
    let harm = Harm::of("the slot's master is killed").blinds(BACK);
    let (killed, promoted) = cluster
        .harm(harm, async |cluster: &mut Cluster| {
            cluster.strike().await;
            let killed = now();
            slots.servers[owner].stop().await;
            (killed, comes(async || slots.servers[heir].cli(&["ROLE"]).await.starts_with("master")).await)
        })
        .await;
    cluster.more(50).await;
    slots.servers[owner].restart().await;
    slots.servers[owner].is_told(&["INFO", "replication"], "master_link_status:up").await;
    cluster
        .harm(Harm::of("CLUSTER FAILOVER").blinds(BACK), async |_: &mut Cluster| {
            comes(async || slots.servers[owner].cli(&["CLUSTER", "FAILOVER"]).await.starts_with("OK")).await;
            slots.servers[heir].is_told(&["ROLE"], "slave").await;
        })
        .await;
    cluster.more(30).await;
    let history = cluster.prove().await;
    assert_soon("Cluster", killed, promoted, &history);
}
