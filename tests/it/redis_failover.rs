//! Redis under Sentinel, and as a cluster: what becomes of workers where the master goes, or is another one.

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    cli::Cli,
    process::{Process, comes, reports},
    redis_shapes::{Slots, Watched},
};

/// `up` with a job that ticks each second.
fn world(url: &str) -> Cli {
    Cli::with(&format!(
        "[redis]\nurl = \"{url}\"\n[worker]\nvisibility = \"2s\"\nlock_ttl = \"2s\"\n\
         [jobs.x]\nkind = \"retention\"\nstore = \"memory:\"\nretention_days = 1\nschedule = \"every 1s\"\n"
    ))
}

/// How many ticks have their report; none where Redis does not answer.
fn ticks(cli: &Cli) -> Option<usize> {
    let (code, stdout, _) = cli.run("history x --limit 1000 --json");
    let reports = (code == 0).then(|| reports(&serde_json::from_str(&stdout).unwrap()))?;
    Some(reports.iter().filter(|report| report["outcome"] == "done").count())
}

async fn more_ticks(cli: &Cli, what: &str) {
    let mut before = None;
    comes(what, async || {
        let now = ticks(cli);
        before = before.or(now);
        now.zip(before).is_some_and(|(now, before)| now > before + 1)
    })
    .await;
}

/// No tick twice, whatever happened to the master.
fn assert_each_once(cli: &Cli) {
    let all = reports(&cli.json("history x --limit 1000 --json"));
    let mut ticks: Vec<_> = all
        .iter()
        .filter(|report| report["outcome"] == "done")
        .map(|report| report["tick"].as_str().unwrap().to_owned())
        .collect();
    let count = ticks.len();
    ticks.sort_unstable();
    ticks.dedup();
    assert_eq!(ticks.len(), count, "{all:?}");
}

#[tokio::test]
async fn under_sentinel_workers_follow_the_master() {
    let mut watched = Watched::start(1).await;
    let cli = world(&watched.url());
    let up = Process::start(&cli, "up");
    more_ticks(&cli, "ticks before").await;
    watched.master.stop().await;
    more_ticks(&cli, "ticks after the master has gone").await;
    watched.master.restart().await;
    watched.master.is_told(&["ROLE"], "slave").await;
    // Nobody dies: the connections stay, and are to a server that is no master any more.
    let promoted = async || watched.ask(&["SENTINEL", "FAILOVER", "main"]).await.starts_with("OK");
    comes("the way back", async || {
        sleep(Duration::from_millis(200)).await;
        promoted().await
    })
    .await;
    watched.replicas[0].is_told(&["ROLE"], "slave").await;
    more_ticks(&cli, "ticks after the way back").await;
    assert_each_once(&cli);
    up.stop().await;
    watched.sentinel.kill().await.unwrap();
    let (code, _, stderr) = cli.run("status");
    assert!(code == 1 && stderr.contains("/main: does not answer"), "{code} {stderr}");
}

#[tokio::test]
async fn in_a_cluster_workers_follow_the_slot() {
    let mut cluster = Slots::start(false).await;
    let cli = world(&cluster.url());
    let (owner, heir) = (cluster.owner, cluster.heir);
    let servers = &mut cluster.servers;
    let up = Process::start(&cli, "up");
    more_ticks(&cli, "ticks before").await;
    servers[owner].stop().await;
    more_ticks(&cli, "ticks after the slot's master has gone").await;
    servers[owner].restart().await;
    servers[owner].is_told(&["INFO", "replication"], "master_link_status:up").await;
    assert_eq!(servers[owner].cli(&["CLUSTER", "FAILOVER"]).await, "OK");
    servers[heir].is_told(&["ROLE"], "slave").await;
    more_ticks(&cli, "ticks after the way back").await;
    assert_each_once(&cli);
    up.stop().await;
}
