//! Starts a real Cassandra on free loopback ports: one for all tests of the process, and a keyspace for each.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use scylla::client::{session::Session, session_builder::SessionBuilder};

use crate::redis::free_port;

/// How long the server may take to answer.
const READY_MAX: Duration = Duration::from_mins(2);
/// How often other ports are tried, where somebody else took the free ones first.
const PORTS_MAX: usize = 5;
/// What PyWorkflow makes.
const SCHEMA: &str = include_str!("../data/pyworkflow.cql");

/// The server, which lives as long as the process of the tests: a shell waits for the end of its input, which comes with
/// the end of this process however it ends, then ends the server by its id and removes its folder.
const WATCH: &str = r#"
trap '' INT TERM
folder=$1; shift
"$@" >"$folder/log" 2>&1 </dev/null &
server=$!
echo "$server" >"$folder/pid"
read -r _
kill -KILL "$server" 2>/dev/null
wait "$server"
rm -rf "$folder"
"#;

/// What Java 17 must be told: the parts of it that the server reaches into.
const EXPORTS: [&str; 8] = [
    "java.base/jdk.internal.misc",
    "java.base/jdk.internal.ref",
    "java.base/sun.nio.ch",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.rmi/sun.rmi.registry",
    "java.rmi/sun.rmi.server",
    "java.rmi/sun.rmi.transport.tcp",
    "java.sql/java.sql",
];
const OPENS: [&str; 17] = [
    "java.base/java.lang.module",
    "java.base/java.net",
    "java.base/jdk.internal.loader",
    "java.base/jdk.internal.ref",
    "java.base/jdk.internal.reflect",
    "java.base/jdk.internal.math",
    "java.base/jdk.internal.module",
    "java.base/jdk.internal.util.jar",
    "java.base/sun.nio.ch",
    "java.base/java.io",
    "java.base/java.nio",
    "java.base/java.util.concurrent",
    "java.base/java.util",
    "java.base/java.util.concurrent.atomic",
    "java.base/java.lang",
    "java.base/java.lang.reflect",
    "jdk.management/com.sun.management.internal",
];

/// How a server is started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Asks for the password of the user `cassandra`, which is `cassandra`, and knows who may do what. What it has
    /// answered it still knows when it was killed.
    pub asks_who: bool,
}

/// A server, which ends with this.
#[derive(Debug)]
pub struct Server {
    folder: PathBuf,
    port: u16,
    /// Their input is what they wait for. More than one where the server was started again.
    watches: Vec<Child>,
    /// The server's own process.
    pid: i32,
}

static SERVER: OnceLock<Server> = OnceLock::new();
/// The keyspaces that no test has in hand: to make one takes as long as ten tests.
static FREE: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A keyspace of one test, with the tables of PyWorkflow and nothing in them.
#[derive(Debug)]
pub struct Keyspace {
    pub name: String,
    port: u16,
}

impl Keyspace {
    /// An empty keyspace, with a session of its owner's.
    pub async fn new() -> (Self, Session) {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let port = shared().port;
        let free = FREE.lock().unwrap().pop();
        let is_new = free.is_none();
        let name = free.unwrap_or_else(|| format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let session = session(port, None).await;
        if is_new {
            make(&session, &name).await;
        }
        session.use_keyspace(&name, false).await.expect("a keyspace");
        empty(&session, &name).await;
        (Self { name, port }, session)
    }

    /// Where it is. The server asks nobody for a password.
    pub fn url(&self) -> String {
        format!("cassandra://127.0.0.1:{}/{}", self.port, self.name)
    }
}

impl Drop for Keyspace {
    fn drop(&mut self) {
        // What a test that failed has sent may still be under way.
        if let Some(mut free) = FREE.lock().ok().filter(|_| !std::thread::panicking()) {
            free.push(std::mem::take(&mut self.name));
        }
    }
}

/// A keyspace with the tables of PyWorkflow.
pub async fn make(session: &Session, name: &str) {
    let create = "WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}";
    session.query_unpaged(format!("CREATE KEYSPACE {name} {create}"), ()).await.expect("a new keyspace");
    session.use_keyspace(name, false).await.expect("a keyspace");
    let schema: Vec<&str> = SCHEMA.lines().filter(|line| !line.starts_with("--")).collect();
    for statement in schema.join("\n").split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
        session.query_unpaged(statement, ()).await.expect("a table");
    }
}

/// Removes every row: what an earlier test has left.
async fn empty(session: &Session, keyspace: &str) {
    let text = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?";
    let tables = session.query_unpaged(text, (keyspace,)).await.expect("an answer").into_rows_result().expect("rows");
    let empties = tables.rows::<(String,)>().expect("names").map(|table| async move {
        let (table,) = table.expect("a name");
        let text = format!("SELECT * FROM {table} LIMIT 1");
        let rows = session.query_unpaged(text, ()).await.expect("an answer").into_rows_result().expect("rows");
        if rows.rows_num() > 0 {
            session.query_unpaged(format!("TRUNCATE {table}"), ()).await.expect("an empty table");
        }
    });
    futures::future::join_all(empties).await;
}

/// A session without a keyspace.
pub async fn session(port: u16, user: Option<(&str, &str)>) -> Session {
    let builder = SessionBuilder::new().known_node(format!("127.0.0.1:{port}"));
    let mut builder = builder.fetch_schema_metadata(false).schema_agreement_interval(Duration::from_millis(10));
    if let Some((user, password)) = user {
        builder = builder.user(user, password);
    }
    builder.build().await.expect("a server that answers")
}

/// The server that all tests share.
fn shared() -> &'static Server {
    refuse_if_left_out();
    SERVER.get_or_init(|| Server::start(Options::default()))
}

fn refuse_if_left_out() {
    // `tests/run --without cassandra` counts this line, once for each test.
    let without = std::env::var("JANITOR_TESTS_WITHOUT").unwrap_or_default();
    assert!(!without.split(',').any(|server| server == "cassandra"), "left out: cassandra");
}

impl Server {
    /// A server of one test.
    pub fn start(options: Options) -> Self {
        refuse_if_left_out();
        let jars = jars();
        (0..PORTS_MAX)
            .find_map(|_| launch(&jars, options))
            .unwrap_or_else(|| panic!("cassandra did not start on {PORTS_MAX} ports"))
    }

    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Ends it at once.
    pub fn kill(&self) {
        let pid = rustix::process::Pid::from_raw(self.pid).expect("a process");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("our own server");
    }

    /// Starts it again, with what it had.
    pub fn start_again(&mut self) {
        fs::write(self.folder.join("log"), "").expect("a file");
        self.watches.push(run(&jars(), &self.folder));
        self.pid = answers(self.port, &self.folder).expect("its ports are free");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for watch in &mut self.watches {
            drop(watch.stdin.take());
            let _ = watch.wait();
        }
    }
}

/// Starts a server in a new folder; `None` where somebody else took one of its ports.
fn launch(jars: &Path, options: Options) -> Option<Server> {
    // Its own, which the shell removes.
    let folder = tempfile::Builder::new().prefix("janitor-cassandra-").tempdir().expect("a temporary folder").keep();
    let (port, storage_port) = (free_port(), free_port());
    fs::write(folder.join("cassandra.yaml"), settings(&folder, port, storage_port, options)).expect("a file");
    fs::write(folder.join("logback.xml"), LOG).expect("a file");
    let mut watch = run(jars, &folder);
    if let Some(pid) = answers(port, &folder) {
        if options.asks_who {
            wait_for(&folder, "Created default superuser role");
        }
        return Some(Server { folder, port, watches: vec![watch], pid });
    }
    drop(watch.stdin.take());
    watch.wait().expect("our own child");
    None
}

fn run(jars: &Path, folder: &Path) -> Child {
    let agent = glob::glob(&format!("{}/jamm-*.jar", jars.display())).expect("a pattern").find_map(Result::ok);
    let agent = agent.unwrap_or_else(|| panic!("no jamm in {}; {INSTALL}", jars.display()));
    let mut watch = Command::new("sh");
    watch.args(["-c", WATCH, "sh"]).arg(folder);
    watch.args(["java", "-Xms512m", "-Xmx512m", "-Xss512k", "-XX:TieredStopAtLevel=1"]);
    watch.arg(format!("-javaagent:{}", agent.display()));
    for part in EXPORTS {
        watch.args(["--add-exports", &format!("{part}=ALL-UNNAMED")]);
    }
    for part in OPENS {
        watch.args(["--add-opens", &format!("{part}=ALL-UNNAMED")]);
    }
    watch.arg(format!("-Dlogback.configurationFile={}/logback.xml", folder.display()));
    watch.arg(format!("-Dcassandra.config=file://{}/cassandra.yaml", folder.display()));
    watch.arg(format!("-Dcassandra.storagedir={}", folder.display()));
    watch.args(["-Dcassandra.skip_wait_for_gossip_to_settle=0", "-Dcassandra.ring_delay_ms=1"]);
    watch.args(["-Dcassandra.superuser_setup_delay_ms=0", "-Dcassandra-foreground=yes"]);
    watch.arg("-cp").arg(format!("{}/*", jars.display())).arg("org.apache.cassandra.service.CassandraDaemon");
    watch.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("sh")
}

/// Waits until the server of this folder listens; `None` where it ended instead.
fn answers(port: u16, folder: &Path) -> Option<i32> {
    let deadline = Instant::now() + READY_MAX;
    while Instant::now() < deadline {
        let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
        let pid = fs::read_to_string(folder.join("pid")).ok().and_then(|pid| pid.trim().parse().ok());
        // The port may be somebody else's: only a server that took it says so.
        if log.contains("Starting listening for CQL clients") && TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return pid;
        }
        if log.contains("ddress already in use") {
            return None;
        }
        assert!(!log.contains("java: not found") && !log.contains("Unrecognized option"), "{log}; {INSTALL}");
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("cassandra does not answer within {READY_MAX:?}: {}", folder.join("log").display());
}

fn wait_for(folder: &Path, words: &str) {
    let deadline = Instant::now() + READY_MAX;
    while !fs::read_to_string(folder.join("log")).unwrap_or_default().contains(words) {
        assert!(Instant::now() < deadline, "cassandra does not say {words:?}: {}", folder.join("log").display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn settings(folder: &Path, port: u16, storage_port: u16, options: Options) -> String {
    let folder = folder.display();
    let who = if options.asks_who {
        "authenticator: PasswordAuthenticator\nauthorizer: CassandraAuthorizer\nroles_validity: 1ms\npermissions_validity: 1ms\n"
    } else {
        ""
    };
    // What a server that is killed has answered must be there when it is back.
    let sync = if options.asks_who { "batch" } else { "periodic\ncommitlog_sync_period: 10000ms" };
    format!(
        "cluster_name: tests
num_tokens: 1
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
commitlog_sync: {sync}
data_file_directories: [{folder}/data]
commitlog_directory: {folder}/commitlog
saved_caches_directory: {folder}/saved
hints_directory: {folder}/hints
cdc_raw_directory: {folder}/cdc
endpoint_snitch: SimpleSnitch
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters: [{{seeds: \"127.0.0.1:{storage_port}\"}}]
listen_address: 127.0.0.1
rpc_address: 127.0.0.1
storage_port: {storage_port}
native_transport_port: {port}
start_native_transport: true
memtable_heap_space: 128MiB
auto_snapshot: false
read_request_timeout: 30s
range_request_timeout: 30s
write_request_timeout: 30s
cas_contention_timeout: 30s
truncate_request_timeout: 60s
request_timeout: 30s
{who}"
    )
}

const LOG: &str = "<configuration><appender name=\"O\" class=\"ch.qos.logback.core.ConsoleAppender\"><encoder>\
                   <pattern>%level %msg%n</pattern></encoder></appender>\
                   <logger name=\"org.apache.cassandra.transport\" level=\"INFO\"/>\
                   <logger name=\"org.apache.cassandra.auth\" level=\"INFO\"/>\
                   <root level=\"WARN\"><appender-ref ref=\"O\"/></root></configuration>";

/// Where `tests/run` has put the jars of the server.
fn jars() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"))).unwrap_or_default();
    let jars = cache.join("janitor-tests/cassandra");
    assert!(jars.is_dir(), "{} is not there; {INSTALL}", jars.display());
    jars
}

const INSTALL: &str = "these tests need Java 17 and the jars of Cassandra 5.0.6, which tests/run fetches";
