//! Starts a real Redis on a free loopback port, and ends it with the test.

use std::{
    net::{SocketAddr, TcpListener},
    process::Output,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

/// How long a server may take to answer, or to go.
const READY_MAX: Duration = Duration::from_secs(10);
/// How long servers may take to agree.
const TOLD_MAX: Duration = Duration::from_secs(30);
/// How often another port is tried, where somebody else took the free one first.
const PORTS_MAX: usize = 5;

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    /// Keeps an append-only file, synced at each write, so that a restart loses nothing.
    pub append_only: bool,
    /// The password of the default user.
    pub password: Option<String>,
    /// Is a part of a cluster, and alone has no slot yet.
    pub is_clustered: bool,
    /// More arguments, such as `["--maxmemory-policy", "noeviction"]`.
    pub more: Vec<String>,
}

/// A Redis server of one test. It is killed when this is dropped.
#[derive(Debug)]
pub struct RedisServer {
    options: RedisOptions,
    folder: TempDir,
    port: u16,
    /// Who is named in its URL, in place of who may do everything.
    user: Option<(&'static str, &'static str)>,
    child: Option<Child>,
}

impl RedisServer {
    /// A server that forgets everything when it stops.
    pub async fn start() -> Self {
        Self::start_with(RedisOptions::default()).await
    }

    /// A cluster of one.
    pub async fn start_cluster() -> Self {
        let server = Self::start_with(RedisOptions { is_clustered: true, ..RedisOptions::default() }).await;
        server.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
        server.is_told(&["CLUSTER", "INFO"], "cluster_state:ok").await;
        server
    }

    /// A server whose URL names a user that may do no more than the README says.
    pub async fn start_with_least() -> Self {
        Self::start().await.with_least().await
    }

    /// Its URL names a user from now on who may do no more than the README says.
    pub async fn with_least(mut self) -> Self {
        let line = include_str!("../../README.md").lines().find(|line| line.starts_with("ACL SETUSER janitor "));
        let rules: Vec<&str> = line.expect("a line of the README").split(' ').collect();
        assert_eq!(self.cli(&rules).await, "OK");
        self.user = Some(("janitor", "s3cret"));
        self
    }

    /// A server with these options.
    pub async fn start_with(options: RedisOptions) -> Self {
        // `tests/run --without redis` counts this line, once for each test.
        let without = std::env::var("JANITOR_TESTS_WITHOUT").unwrap_or_default();
        assert!(!without.split(',').any(|server| server == "redis"), "left out: redis");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut server = Self { options, folder, port: 0, user: None, child: None };
        for _ in 0..PORTS_MAX {
            server.port = free_port();
            if server.launch().await {
                return server;
            }
        }
        panic!("redis-server did not start on {PORTS_MAX} ports; its log:\n{}", server.log());
    }

    /// Where it is, with the password if it has one.
    pub fn url(&self) -> String {
        let login = match (self.user, &self.options.password) {
            (Some((user, password)), _) => format!("{user}:{password}@"),
            (None, Some(password)) => format!(":{password}@"),
            (None, None) => String::new(),
        };
        let scheme = if self.options.is_clustered { "redis+cluster" } else { "redis" };
        format!("{scheme}://{login}127.0.0.1:{}", self.port)
    }

    /// Waits until the answer to a command has `text` in it.
    pub async fn is_told(&self, command: &[&str], text: &str) {
        let deadline = Instant::now() + TOLD_MAX;
        let mut told = String::new();
        while Instant::now() < deadline {
            told = String::from_utf8_lossy(&self.ask(command).await.stdout).into_owned();
            if told.contains(text) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("{command:?}: {text:?} did not come within {TOLD_MAX:?}: {told}");
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs `redis-cli` with `arguments` and answers what it printed, without the last newline.
    pub async fn cli(&self, arguments: &[&str]) -> String {
        let output = self.ask(arguments).await;
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        assert!(output.status.success(), "redis-cli {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Kills it; the port stays its own.
    pub async fn stop(&mut self) {
        let mut child = self.child.take().expect("a server that runs");
        child.kill().await.expect("a server that can be killed");
    }

    /// Starts it again on the same port. What it still knows is said by its options.
    pub async fn restart(&mut self) {
        if self.child.is_some() {
            self.stop().await;
        }
        assert!(self.launch().await, "redis-server did not come back; its log:\n{}", self.log());
    }

    /// Stops its process in its tracks: connections stay open, and nothing answers.
    pub fn freeze(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// Ends a [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let child = self.child.as_ref().expect("a server that runs");
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(id.expect("the id of a process that runs"), signal).expect("our own process");
    }

    /// Starts the process and waits until it answers; `false` where it ended instead.
    async fn launch(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--save", ""]);
        command.args(["--logfile", "redis.log", "--dir"]).arg(self.folder.path());
        command.args(["--appendonly", if self.options.append_only { "yes" } else { "no" }, "--appendfsync", "always"]);
        if let Some(password) = &self.options.password {
            command.args(["--requirepass", password]);
        }
        if self.options.is_clustered {
            command.args(["--cluster-enabled", "yes", "--cluster-port", &free_port().to_string()]);
            command.args(["--cluster-node-timeout", "1000"]);
        }
        command.args(&self.options.more).current_dir(self.folder.path()).kill_on_drop(true);
        let child = command.spawn().unwrap_or_else(|error| panic!("redis-server: {error}; {INSTALL}"));
        let child = self.child.insert(child);
        let id = child.id().expect("the id of a process that was just started").to_string();
        let deadline = Instant::now() + READY_MAX;
        while Instant::now() < deadline {
            if self.child.as_mut().expect("it was just set").try_wait().expect("our own child").is_some() {
                self.child = None;
                return false;
            }
            // The port may be that of another test's server: only ours names our process.
            let told = self.ask(&["INFO", "server"]).await;
            if String::from_utf8_lossy(&told.stdout).lines().any(|line| line.trim_end() == format!("process_id:{id}")) {
                return true;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("redis-server does not answer within {READY_MAX:?}; its log:\n{}", self.log());
    }

    async fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("redis-cli");
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]).args(arguments).kill_on_drop(true);
        if let Some(password) = &self.options.password {
            command.env("REDISCLI_AUTH", password);
        }
        let output = timeout(READY_MAX, command.output()).await.expect("redis-cli answers in time");
        output.unwrap_or_else(|error| panic!("redis-cli: {error}; {INSTALL}"))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("redis.log")).unwrap_or_else(|error| error.to_string())
    }
}

const INSTALL: &str = "these tests need redis-server and redis-cli in the PATH (Debian: apt-get install redis-server)";

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free loopback port");
    listener.local_addr().expect("a bound socket has an address").port()
}

#[tokio::test]
async fn a_server_answers_and_comes_back_on_its_port() {
    let options = RedisOptions { append_only: true, password: Some("s3cret".to_owned()), ..RedisOptions::default() };
    let mut server = RedisServer::start_with(options).await;
    assert_eq!(server.cli(&["SET", "a", "1"]).await, "OK");
    let url = server.url();
    server.stop().await;
    server.restart().await;
    assert_eq!((server.cli(&["GET", "a"]).await, server.url()), ("1".to_owned(), url));
}

#[tokio::test]
async fn a_server_without_a_file_forgets() {
    let mut server = RedisServer::start().await;
    server.cli(&["SET", "a", "1"]).await;
    server.restart().await;
    assert_eq!(server.cli(&["GET", "a"]).await, "");
}
