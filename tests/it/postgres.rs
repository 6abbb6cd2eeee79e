//! Starts a real Postgres on a free loopback port: one for all tests of the process, and a database for each.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{Connection, PgConnection};

use crate::{
    certificates::{authority, certify},
    redis::free_port,
};

/// How long the server may take to answer.
const READY_MAX: Duration = Duration::from_secs(30);
/// How often another port is tried, where somebody else took the free one first.
const PORTS_MAX: usize = 5;
/// The user that may do everything.
const USER: &str = "janitor";
/// The one that is asked for a password.
pub const ASKED: &str = "asked";

/// The server, which lives as long as the process of the tests: a shell waits for the end of its input, which comes with
/// the end of this process however it ends, then ends the server by its id and removes its folder.
const WATCH: &str = r#"
trap '' INT TERM
"$1" -D "$2" -p "$3" -h 127.0.0.1 -k '' -F -c full_page_writes=off -c max_connections=300 >"$2/log" 2>&1 </dev/null &
server=$!
read -r _
kill -QUIT "$server" 2>/dev/null
wait "$server"
rm -rf "${2%/data}"
"#;

#[derive(Debug)]
struct Server {
    port: u16,
    bin: PathBuf,
    data: PathBuf,
    /// Its input is what it waits for.
    _watch: Child,
}

/// A server of one test that speaks TLS. It ends with this.
#[derive(Debug)]
pub struct TlsServer(Server);

impl TlsServer {
    /// Starts one, with a certificate for 127.0.0.1.
    pub fn start() -> Self {
        Self(start(true))
    }

    /// Its own database, with these options of the URL.
    pub fn url(&self, options: &str) -> String {
        format!("postgresql://{USER}:unasked@127.0.0.1:{}/postgres{options}", self.0.port)
    }

    /// The certificate of who vouches for it.
    pub fn authority(&self) -> PathBuf {
        authority(&self.0.data)
    }
}

static SERVER: OnceLock<Server> = OnceLock::new();

/// A database of one test. It is dropped with this.
#[derive(Debug)]
pub struct Database {
    name: String,
    port: u16,
    bin: PathBuf,
}

impl Database {
    /// An empty database, whose own order of texts is not that of their bytes.
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        // `tests/run --without postgres` counts this line, once for each test.
        let without = std::env::var("JANITOR_TESTS_WITHOUT").unwrap_or_default();
        assert!(!without.split(',').any(|server| server == "postgres"), "left out: postgres");
        let server = SERVER.get_or_init(|| start(false));
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let database = Self { name, port: server.port, bin: server.bin.clone() };
        let create = "TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C.UTF-8'";
        database.admin(&format!("CREATE DATABASE {} {create}", database.name));
        database
    }

    /// Where it is. The server asks nobody for a password.
    pub fn url(&self) -> String {
        format!("postgresql://{USER}:unasked@127.0.0.1:{}/{}", self.port, self.name)
    }

    /// A connection of the test's own.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url()).await.expect("a server that answers")
    }

    /// Runs `statement` in the server's own database.
    pub fn admin(&self, statement: &str) {
        let output = psql(&self.bin, self.port, statement);
        assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // A test that failed has told why already.
        let _ = psql(&self.bin, self.port, &format!("DROP DATABASE {} WITH (FORCE)", self.name));
    }
}

fn psql(bin: &Path, port: u16, statement: &str) -> Output {
    let mut command = Command::new(bin.join("psql"));
    command.args(["-X", "-A", "-t", "-q", "-h", "127.0.0.1", "-U", USER, "-d", "postgres", "-p", &port.to_string()]);
    command.args(["-c", statement]).stdin(Stdio::null());
    command.output().unwrap_or_else(|error| panic!("psql: {error}; {INSTALL}"))
}

fn start(has_tls: bool) -> Server {
    let bin = bin();
    (0..PORTS_MAX)
        .find_map(|_| launch(&bin, has_tls))
        .unwrap_or_else(|| panic!("postgres did not start on {PORTS_MAX} ports"))
}

/// Starts a server in a new folder; `None` where somebody else took its port.
fn launch(bin: &Path, has_tls: bool) -> Option<Server> {
    // Its own, which the shell removes: the server runs as another user where the tests run as root.
    let folder = tempfile::Builder::new().prefix("janitor-postgres-").tempdir().expect("a temporary folder").keep();
    let data = folder.join("data");
    if is_root() {
        let owned = Command::new("chown").arg("postgres:").arg(&folder).status().expect("chown");
        assert!(owned.success(), "there is no user postgres; {INSTALL}");
    }
    let mut init = as_user(&bin.join("initdb"));
    init.args(["--auth=trust", "--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C.UTF-8", "-U", USER]);
    let made = init.arg("-D").arg(&data).current_dir(&folder).output().expect("initdb");
    assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
    // One user is asked for a password, whether there is such a user or not.
    let asked = format!("host all {ASKED} 127.0.0.1/32 scram-sha-256\n");
    let rules = data.join("pg_hba.conf");
    let others = std::fs::read_to_string(&rules).expect("the rules of a new server");
    std::fs::write(&rules, asked + &others).expect("rules that can be written");
    if has_tls {
        certify(as_user(Path::new("sh")), &folder, &data);
        let settings = data.join("postgresql.conf");
        let own = std::fs::read_to_string(&settings).expect("the settings of a new server");
        std::fs::write(&settings, own + "ssl = on\n").expect("settings that can be written");
    }
    let port = free_port();
    let mut watch = as_user(Path::new("sh"));
    watch.args(["-c", WATCH, "sh"]).arg(bin.join("postgres")).arg(&data).arg(port.to_string()).current_dir("/");
    let mut watch = watch.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("sh");
    if answers(bin, port, &data) {
        return Some(Server { port, bin: bin.to_owned(), data, _watch: watch });
    }
    drop(watch.stdin.take());
    watch.wait().expect("our own child");
    None
}

/// Waits until the server of this folder answers; `false` where it ended instead.
fn answers(bin: &Path, port: u16, data: &Path) -> bool {
    let deadline = Instant::now() + READY_MAX;
    while Instant::now() < deadline {
        // The port may be that of somebody else's server: only ours names our folder.
        let told = psql(bin, port, "SHOW data_directory");
        if String::from_utf8_lossy(&told.stdout).trim_end() == data.to_string_lossy() {
            return true;
        }
        let log = std::fs::read_to_string(data.join("log")).unwrap_or_default();
        if log.contains("could not create any TCP/IP sockets") {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("postgres does not answer within {READY_MAX:?}: {}", data.join("log").display());
}

/// `program`, as the user postgres where we are root, which the server refuses.
fn as_user(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]).arg(program);
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Where the server's programs are: the newest of Debian's, or what the PATH has.
fn bin() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let version = |folder: &PathBuf| folder.iter().rev().nth(1)?.to_str()?.parse::<u32>().ok();
    let mut debian: Vec<PathBuf> =
        glob::glob("/usr/lib/postgresql/*/bin").expect("a valid pattern").filter_map(Result::ok).collect();
    debian.sort_by_key(version);
    let mut folders = debian.into_iter().rev().chain(std::env::split_paths(&path));
    folders.find(|folder| folder.join("initdb").is_file()).unwrap_or_else(|| panic!("no initdb; {INSTALL}"))
}

const INSTALL: &str = "these tests need a Postgres (Debian: apt-get install postgresql)";
