//! Hosts whose clock is an hour wrong.

use std::{collections::BTreeSet, path::PathBuf};

use super::over;
use crate::{
    cluster::{Cluster, TICKS},
    host::Part,
    redis::RedisServer,
};

/// What gives a process another clock.
fn library() -> PathBuf {
    let found = glob::glob("/usr/lib/*/faketime/libfaketimeMT.so.1").unwrap().find_map(Result::ok);
    found.expect("libfaketime (Debian: apt-get install faketime)")
}

#[tokio::test]
async fn a_host_whose_clock_is_an_hour_wrong_costs_no_tick() {
    let server = RedisServer::start().await;
    let mut cluster = Cluster::idle("a clock that is an hour wrong", over(&server)).await;
    let library = library();
    for (host, offset) in [(1, "+3600"), (2, "-3600")] {
        let host = &mut cluster.hosts[host];
        host.set("LD_PRELOAD", &library.to_string_lossy());
        host.set("FAKETIME", offset);
        // Only what the time is, and not how it passes.
        host.set("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
    // Those with a wrong clock come first: nobody tells them the time.
    for host in (0..cluster.hosts.len()).rev() {
        cluster.hosts[host].start(Part::Beat);
        cluster.hosts[host].start(Part::Worker);
    }
    cluster.more(TICKS).await;
    let reports = cluster.hosts[0].json("history --json --limit 1000").await;
    let worked = reports.as_array().unwrap().iter().filter(|report| report["fence"].is_u64());
    let hosts: BTreeSet<_> = worked.map(|report| report["host"].to_string()).collect();
    assert_eq!(hosts.len(), cluster.hosts.len(), "{hosts:?}");
    cluster.prove().await;
}
