//! Redis in the shapes that outlive a server: a master with replicas under a Sentinel, and a cluster.

use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{Duration, Instant, sleep},
};

use crate::redis::{RedisOptions, RedisServer, free_port};

/// How long servers may take to agree.
const AGREED_MAX: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);
/// The slot of the keys of the namespace `janitor`.
const SLOT: u16 = 10_036;
/// The first slots of three masters, and the end of them.
const BOUNDS: [u16; 4] = [0, 5_461, 10_923, 16_384];
const MASTERS: usize = BOUNDS.len() - 1;

/// A master with its replicas, and who watches them.
pub struct Watched {
    pub master: RedisServer,
    pub replicas: Vec<RedisServer>,
    pub sentinel: Child,
    port: u16,
    _folder: TempDir,
}

impl Watched {
    /// With so many replicas.
    pub async fn start(replicas: usize) -> Self {
        let master = RedisServer::start().await;
        let mut servers = Vec::new();
        for _ in 0..replicas {
            let more = ["--replicaof", "127.0.0.1", &master.port().to_string()].map(str::to_owned).to_vec();
            let replica = RedisServer::start_with(RedisOptions { more, ..RedisOptions::default() }).await;
            replica.is_told(&["INFO", "replication"], "master_link_status:up").await;
            servers.push(replica);
        }
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
        let watched = Self { master, replicas: servers, sentinel, port, _folder: folder };
        // Whom it does not know it cannot make the master.
        watched.is_told(&["INFO", "sentinel"], &format!("slaves={replicas}")).await;
        watched
    }

    /// Waits until the Sentinel's answer has `text` in it.
    pub async fn is_told(&self, arguments: &[&str], text: &str) {
        let deadline = Instant::now() + AGREED_MAX;
        while !self.ask(arguments).await.contains(text) {
            assert!(Instant::now() < deadline, "{arguments:?}: {text:?} did not come within {AGREED_MAX:?}");
            sleep(LOOK).await;
        }
    }

    /// What the Sentinel answers.
    pub async fn ask(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port.to_string()]).args(arguments);
        String::from_utf8(command.output().await.unwrap().stdout).unwrap()
    }

    /// The address, which begins with a Sentinel that is not there.
    pub fn url(&self) -> String {
        format!("redis+sentinel://127.0.0.1:{},127.0.0.1:{}/main", free_port(), self.port)
    }
}

/// A cluster of three masters.
pub struct Slots {
    /// First the masters, then the replicas.
    pub servers: Vec<RedisServer>,
    /// The number of the master of our slot.
    pub owner: usize,
    /// The number of its replica.
    pub heir: usize,
}

impl Slots {
    /// With a replica of our slot's master, or of each.
    pub async fn start(is_each_replicated: bool) -> Self {
        let owner = BOUNDS.iter().rposition(|first| *first <= SLOT).unwrap();
        let replicated = if is_each_replicated { (0..MASTERS).collect() } else { vec![owner] };
        let mut servers = Vec::new();
        for _ in 0..MASTERS + replicated.len() {
            let options = RedisOptions { is_clustered: true, ..RedisOptions::default() };
            servers.push(RedisServer::start_with(options).await);
        }
        for (server, range) in servers.iter().zip(BOUNDS.windows(2)) {
            server.cli(&["CLUSTER", "ADDSLOTSRANGE", &range[0].to_string(), &(range[1] - 1).to_string()]).await;
        }
        for server in &servers[1..] {
            let (port, bus) = (server.port().to_string(), server.cli(&["CONFIG", "GET", "cluster-port"]).await);
            let bus = bus.lines().last().unwrap().to_owned();
            servers[0].cli(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await;
        }
        for server in &servers {
            server.is_told(&["CLUSTER", "INFO"], "cluster_state:ok").await;
            server.is_told(&["CLUSTER", "INFO"], &format!("cluster_known_nodes:{}", servers.len())).await;
        }
        let slot = servers[0].cli(&["CLUSTER", "KEYSLOT", "{janitor}"]).await;
        assert_eq!(slot, SLOT.to_string());
        for (replica, master) in servers[MASTERS..].iter().zip(&replicated) {
            let id = servers[*master].cli(&["CLUSTER", "MYID"]).await;
            replica.cli(&["CLUSTER", "REPLICATE", &id]).await;
            replica.is_told(&["INFO", "replication"], "master_link_status:up").await;
        }
        let heir = MASTERS + replicated.iter().position(|master| *master == owner).unwrap();
        Self { servers, owner, heir }
    }

    /// The address by the masters that have not our slot.
    pub fn url(&self) -> String {
        let others = (0..MASTERS).filter(|at| *at != self.owner);
        let hosts: Vec<_> = others.map(|at| format!("127.0.0.1:{}", self.servers[at].port())).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }
}
