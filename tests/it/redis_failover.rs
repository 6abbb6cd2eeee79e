//! Redis under Sentinel, and as a cluster: what becomes of workers where the master goes, or is another one.

use std::time::Duration;

use tokio::{
    process::{Child, Command},
    time::sleep,
};

use crate::{
    cli::Cli,
    process::{Process, comes, reports},
    redis::{RedisOptions, RedisServer, free_port},
};

/// The slot of the keys of the namespace `janitor`.
const SLOT: u16 = 10_036;

/// A master with a replica, and who watches them.
struct Watched {
    master: RedisServer,
    replica: RedisServer,
    sentinel: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

async fn replica_of(port: u16, options: RedisOptions) -> RedisServer {
    let more = ["--replicaof", "127.0.0.1", &port.to_string()].map(str::to_owned).to_vec();
    let replica = RedisServer::start_with(RedisOptions { more, ..options }).await;
    replica.is_told(&["INFO", "replication"], "master_link_status:up").await;
    replica
}

impl Watched {
    async fn start() -> Self {
        let master = RedisServer::start().await;
        let replica = replica_of(master.port(), RedisOptions::default()).await;
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let file = folder.path().join("sentinel.conf");
        let lines = [
            format!("port {port}"),
            "bind 127.0.0.1".to_owned(),
            format!("sentinel monitor main 127.0.0.1 {} 1", master.port()),
            "sentinel down-after-milliseconds main 500".to_owned(),
            "sentinel failover-timeout main 2000".to_owned(),
        ];
        std::fs::write(&file, lines.join("\n")).unwrap();
        let mut command = Command::new("redis-server");
        command.arg(&file).arg("--sentinel").args(["--logfile", "sentinel.log"]).current_dir(folder.path());
        let sentinel = command.kill_on_drop(true).spawn().unwrap();
        let watched = Self { master, replica, sentinel, port, _folder: folder };
        // Whom it does not know it cannot make the master.
        comes("the sentinel knows the replica", async || watched.ask(&["INFO", "sentinel"]).await.contains("slaves=1"))
            .await;
        watched
    }

    async fn ask(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port.to_string()]).args(arguments);
        String::from_utf8(command.output().await.unwrap().stdout).unwrap()
    }

    fn url(&self) -> String {
        format!("redis+sentinel://127.0.0.1:{},127.0.0.1:{}/main", free_port(), self.port)
    }
}

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
    let mut watched = Watched::start().await;
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
    watched.replica.is_told(&["ROLE"], "slave").await;
    more_ticks(&cli, "ticks after the way back").await;
    assert_each_once(&cli);
    up.stop().await;
    watched.sentinel.kill().await.unwrap();
    let (code, _, stderr) = cli.run("status");
    assert!(code == 1 && stderr.contains("/main: does not answer"), "{code} {stderr}");
}

/// Three masters, of which the one with our slot has a replica.
async fn cluster() -> (Vec<RedisServer>, usize) {
    let options = || RedisOptions { is_clustered: true, ..RedisOptions::default() };
    let mut servers = Vec::new();
    for _ in 0..4 {
        servers.push(RedisServer::start_with(options()).await);
    }
    let bounds = [0, 5_461, 10_923, 16_384_u16];
    for (server, range) in servers.iter().zip(bounds.windows(2)) {
        server.cli(&["CLUSTER", "ADDSLOTSRANGE", &range[0].to_string(), &(range[1] - 1).to_string()]).await;
    }
    for server in &servers[1..] {
        let (port, bus) = (server.port().to_string(), server.cli(&["CONFIG", "GET", "cluster-port"]).await);
        let bus = bus.lines().last().unwrap().to_owned();
        servers[0].cli(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await;
    }
    for server in &servers {
        server.is_told(&["CLUSTER", "INFO"], "cluster_state:ok").await;
        server.is_told(&["CLUSTER", "INFO"], "cluster_known_nodes:4").await;
    }
    let slot = servers[0].cli(&["CLUSTER", "KEYSLOT", "{janitor}"]).await;
    assert_eq!(slot, SLOT.to_string());
    let owner = bounds.iter().rposition(|first| *first <= SLOT).unwrap();
    let id = servers[owner].cli(&["CLUSTER", "MYID"]).await;
    servers[3].cli(&["CLUSTER", "REPLICATE", &id]).await;
    servers[3].is_told(&["INFO", "replication"], "master_link_status:up").await;
    (servers, owner)
}

#[tokio::test]
async fn in_a_cluster_workers_follow_the_slot() {
    let (mut servers, owner) = cluster().await;
    // By two that have not the slot.
    let hosts: Vec<_> =
        (0..3).filter(|at| *at != owner).map(|at| format!("127.0.0.1:{}", servers[at].port())).collect();
    let cli = world(&format!("redis+cluster://{}", hosts.join(",")));
    let up = Process::start(&cli, "up");
    more_ticks(&cli, "ticks before").await;
    servers[owner].stop().await;
    more_ticks(&cli, "ticks after the slot's master has gone").await;
    servers[owner].restart().await;
    servers[owner].is_told(&["INFO", "replication"], "master_link_status:up").await;
    assert_eq!(servers[owner].cli(&["CLUSTER", "FAILOVER"]).await, "OK");
    servers[3].is_told(&["ROLE"], "slave").await;
    more_ticks(&cli, "ticks after the way back").await;
    assert_each_once(&cli);
    up.stop().await;
}
