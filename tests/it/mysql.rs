//! Starts a real MariaDB on a free loopback port: one for all tests of the process, and a database for each.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{Connection, MySqlConnection};

use crate::{
    certificates::{authority, certify},
    redis::free_port,
};

/// How long the server may take to answer.
const READY_MAX: Duration = Duration::from_secs(30);
/// How often another port is tried, where somebody else took the free one first.
const PORTS_MAX: usize = 5;
/// The user that may do everything, and its password.
const USER: &str = "janitor";
const PASSWORD: &str = "s3cret-s3cret";

/// The server, which lives as long as who started it: a shell waits for the end of its input, which comes with the end of
/// this process however it ends, then ends the server by its id and, unless it is told to keep it, removes its folder. The data
/// is nobody's, and not worth an orderly end.
const WATCH: &str = r#"
trap '' INT TERM
"$@" >>"${0%/data}/log" 2>&1 </dev/null &
server=$!
read -r word
kill -KILL "$server" 2>/dev/null
wait "$server"
[ "$word" = keep ] || rm -rf "${0%/data}"
"#;

/// A server with its data.
#[derive(Debug)]
pub struct Server {
    folder: PathBuf,
    port: u16,
    more: &'static [&'static str],
    /// Its input is what it waits for; none where the server is down.
    watch: Option<Child>,
}

impl Server {
    /// A server of one test's own, which may be killed.
    pub fn start() -> Self {
        leave_out();
        Self::start_with(&[])
    }

    /// A server with more options, which come after those of the tests.
    pub fn start_with(options: &'static [&'static str]) -> Self {
        start(options)
    }

    /// A server that speaks TLS, with a certificate for 127.0.0.1.
    pub fn start_with_tls() -> Self {
        leave_out();
        start_in(&install(true), &["--ssl-cert=server.crt", "--ssl-key=server.key"])
    }

    /// The certificate of who vouches for it.
    pub fn authority(&self) -> PathBuf {
        authority(&self.folder.join("data"))
    }

    /// An empty database.
    pub fn database(&self) -> Database {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let database = Database { name, port: self.port, socket: self.folder.join("s") };
        database.admin(&format!("CREATE DATABASE {}", database.name));
        database
    }

    /// Ends the server at once, as a power cut does.
    pub fn kill(&mut self) {
        if let Some(watch) = self.watch.take() {
            stop(watch);
        }
    }

    /// Starts it again, over the same data and on the same port.
    pub fn start_again(&mut self) {
        self.watch = serve(&self.folder, self.port, self.more);
        assert!(self.watch.is_some(), "somebody else took port {}", self.port);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut watch) = self.watch.take() {
            drop(watch.stdin.take());
            watch.wait().expect("our own child");
        }
    }
}

static SERVER: OnceLock<Server> = OnceLock::new();

/// A database of one test. It is dropped with this.
#[derive(Clone, Debug)]
pub struct Database {
    pub name: String,
    pub port: u16,
    socket: PathBuf,
}

impl Database {
    /// An empty database of the server that all tests share.
    pub fn new() -> Self {
        leave_out();
        SERVER.get_or_init(|| start(&[])).database()
    }

    /// Where it is, for the user that may do everything.
    pub fn url(&self) -> String {
        self.url_as(USER, PASSWORD)
    }

    /// Where it is, for another user.
    pub fn url_as(&self, user: &str, password: &str) -> String {
        format!("mysql://{user}:{password}@127.0.0.1:{}/{}", self.port, self.name)
    }

    /// A connection of the test's own.
    pub async fn connect(&self) -> MySqlConnection {
        MySqlConnection::connect(&self.url()).await.expect("a server that answers")
    }

    /// Runs statements as root.
    pub fn admin(&self, statements: &str) {
        let output = client(&self.socket, statements);
        assert!(output.status.success(), "{statements}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // A test that failed has told why already, and the server may be down.
        let _ = client(&self.socket, &format!("DROP DATABASE IF EXISTS {}", self.name));
    }
}

/// `tests/run --without mysql` counts this line, once for each test.
fn leave_out() {
    let without = std::env::var("JANITOR_TESTS_WITHOUT").unwrap_or_default();
    assert!(!without.split(',').any(|server| server == "mysql"), "left out: mysql");
}

fn client(socket: &Path, statements: &str) -> Output {
    let mut command = Command::new("mariadb");
    command.args(["--no-defaults", "--batch", "--skip-column-names", "-uroot"]).arg("-S").arg(socket);
    command.args(["-e", statements]).stdin(Stdio::null());
    command.output().unwrap_or_else(|error| panic!("mariadb: {error}; {INSTALL}"))
}

fn start(more: &'static [&'static str]) -> Server {
    start_in(&install(false), more)
}

/// Makes the folder of a server.
fn install(has_tls: bool) -> PathBuf {
    // Its own, and removed by hand: the server runs as another user where the tests run as root.
    let folder = tempfile::Builder::new().prefix("janitor-mysql-").tempdir().expect("a temporary folder").keep();
    let mut install = Command::new("mariadb-install-db");
    install.args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal"]);
    if rustix::process::geteuid().is_root() {
        let owned = Command::new("chown").arg("mysql:").arg(&folder).status().expect("chown");
        assert!(owned.success(), "there is no user mysql; {INSTALL}");
        install.arg("--user=mysql");
    }
    install.arg(format!("--datadir={}", folder.join("data").display())).stdin(Stdio::null());
    let made = install.output().unwrap_or_else(|error| panic!("mariadb-install-db: {error}; {INSTALL}"));
    assert!(made.status.success(), "mariadb-install-db: {}", String::from_utf8_lossy(&made.stdout));
    let user = format!(
        "CREATE USER IF NOT EXISTS {USER}@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\nGRANT ALL ON *.* TO {USER}@'127.0.0.1' WITH GRANT OPTION;\n"
    );
    std::fs::write(folder.join("init.sql"), user).expect("written");
    if has_tls {
        certify(shell(), &folder, &folder.join("data"));
    }
    folder
}

/// A shell of who runs the server.
fn shell() -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new("sh");
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=mysql", "--regid=mysql", "--init-groups", "--", "sh"]);
    command
}

fn start_in(folder: &Path, more: &'static [&'static str]) -> Server {
    for _ in 0..PORTS_MAX {
        let port = free_port();
        if let Some(watch) = serve(folder, port, more) {
            return Server { folder: folder.to_owned(), port, more, watch: Some(watch) };
        }
    }
    panic!("mariadbd did not start on {PORTS_MAX} ports");
}

/// Starts the server of a folder; `None` where somebody else took its port.
fn serve(folder: &Path, port: u16, more: &[&str]) -> Option<Child> {
    let data = folder.join("data");
    let _ = std::fs::remove_file(folder.join("log"));
    let mut command = Command::new("sh");
    command.arg("-c").arg(WATCH).arg(&data).arg(program()).arg("--no-defaults");
    if rustix::process::geteuid().is_root() {
        command.arg("--user=mysql");
    }
    command.arg(format!("--datadir={}", data.display())).arg(format!("--socket={}", folder.join("s").display()));
    command.arg(format!("--init-file={}", folder.join("init.sql").display())).arg(format!("--port={port}"));
    // Nobody's zone, so that a clock in it shows.
    command.arg("--default-time-zone=+05:00");
    // What a killed process loses matters here, what a power cut does not.
    command.args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--max-connections=400", "--debug-no-sync"]);
    command.args(["--innodb-flush-log-at-trx-commit=2", "--innodb-doublewrite=0", "--innodb-log-file-size=32M"]);
    command.args(more);
    let watch =
        command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("sh");
    if answers(folder) {
        return Some(watch);
    }
    stop(watch);
    None
}

/// Ends a server, and keeps its folder.
fn stop(mut watch: Child) {
    watch.stdin.take().expect("it is piped").write_all(b"keep\n").expect("the shell reads");
    watch.wait().expect("our own child");
}

/// Waits until the server of this folder answers; `false` where it ended instead.
fn answers(folder: &Path) -> bool {
    let deadline = Instant::now() + READY_MAX;
    while Instant::now() < deadline {
        // The socket is in the folder: no other server answers there.
        if client(&folder.join("s"), "SELECT 1").status.success() {
            return true;
        }
        let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        if log.contains("Bind on TCP/IP port") {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("mariadbd does not answer within {READY_MAX:?}: {}", folder.join("log").display());
}

/// The server's program, which Debian keeps where an ordinary PATH does not look.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let found = folders.find(|folder| folder.join("mariadbd").is_file());
    found.unwrap_or_else(|| panic!("no mariadbd; {INSTALL}")).join("mariadbd")
}

const INSTALL: &str = "these tests need a MariaDB (Debian: apt-get install mariadb-server)";
