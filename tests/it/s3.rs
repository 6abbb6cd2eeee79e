//! Starts a real S3 server, one for all tests of the process, and ends it with the process however that ends.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use apalis_janitor::{
    blobs::{BlobId, Objects, objects::s3::S3},
    config::ObjectsUrl,
};
use tokio::{
    sync::OnceCell,
    time::{Instant, sleep},
};

use crate::redis::free_port;

/// How long the server may take to answer.
const READY_MAX: Duration = Duration::from_secs(10);
/// How often another port is tried, where somebody else took the free one first.
const PORTS_MAX: usize = 5;

/// The program, which `tests/run` builds.
const PROGRAM: &str = "versitygw";
const INSTALL: &str = "these tests need versitygw in the PATH or in ~/.cache/janitor-tests/bin: tests/run puts it there, and \
                       so does GOBIN=~/.cache/janitor-tests/bin go install github.com/versity/versitygw/cmd/versitygw@v1.8.0";

/// Runs `$3...` until this process closes the other end of its standard input, by ending if not before, and takes the
/// server's folder along.
const KEEPER: &str = r#"
folder=$1; log=$2; shift 2
"$@" < /dev/null > "$log" 2>&1 & server=$!
read -r _
kill -9 "$server"; wait "$server" 2> /dev/null; rm -rf "$folder"
"#;

static SERVER: OnceCell<Server> = OnceCell::const_new();

#[derive(Debug)]
struct Server {
    port: u16,
    /// One folder for each bucket.
    folder: PathBuf,
    key_id: String,
    secret: String,
    /// It has the pipe whose end is the server's.
    _keeper: Child,
}

/// A bucket of one test.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Its URL, with a prefix.
    pub url: ObjectsUrl,
    /// Where the server keeps the objects below the prefix, as files.
    pub folder: PathBuf,
    /// Who may use it.
    pub key_id: String,
    /// The key.
    pub secret: String,
}

impl Bucket {
    /// A new, empty one.
    pub async fn make() -> Self {
        // `tests/run --without s3` counts this line, once for each test.
        let without = std::env::var("JANITOR_TESTS_WITHOUT").unwrap_or_default();
        assert!(!without.split(',').any(|word| word == "s3"), "left out: s3");
        let server = SERVER.get_or_init(Server::start).await;
        server.bucket()
    }

    /// The objects in it.
    pub fn objects(&self) -> S3 {
        S3::with_credentials(&self.url, &self.key_id, &self.secret).expect("a valid URL")
    }
}

impl Server {
    async fn start() -> Self {
        let mut log = String::new();
        for _ in 0..PORTS_MAX {
            let folder = tempfile::tempdir().expect("a temporary folder").keep();
            let (server, path) = Self::launch(&folder);
            if server.answers().await {
                return server;
            }
            log = std::fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
        }
        panic!("{PROGRAM} did not start on {PORTS_MAX} ports; its log:\n{log}");
    }

    fn launch(folder: &Path) -> (Self, PathBuf) {
        let (log, data) = (folder.join("log"), folder.join("data"));
        std::fs::create_dir(&data).expect("a new folder");
        let (port, secret) = (free_port(), BlobId::new().to_string());
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER, "sh"]).arg(folder).arg(&log).arg(program());
        command.args(["--port", &format!("127.0.0.1:{port}"), "--keep-alive", "posix"]).arg(&data);
        // A secret belongs into the environment: whoever lists processes sees their arguments.
        command.env("ROOT_ACCESS_KEY_ID", "tests").env("ROOT_SECRET_ACCESS_KEY", &secret);
        let keeper = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("a shell");
        (Self { port, folder: data, key_id: "tests".to_owned(), secret, _keeper: keeper }, log)
    }

    /// Whether it is there. The port may be that of another test's server: only ours knows the secret.
    async fn answers(&self) -> bool {
        let bucket = self.bucket().objects();
        let deadline = Instant::now() + READY_MAX;
        while Instant::now() < deadline {
            let is_listening = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok();
            if is_listening && bucket.identity().await.is_ok() {
                return true;
            }
            sleep(Duration::from_millis(10)).await;
        }
        false
    }

    fn bucket(&self) -> Bucket {
        let bucket = BlobId::new().to_string().to_lowercase();
        let folder = self.folder.join(&bucket).join("some/prefix");
        std::fs::create_dir(self.folder.join(&bucket)).expect("a new folder");
        let url = ObjectsUrl::S3 {
            bucket,
            prefix: "some/prefix".to_owned(),
            endpoint: Some(format!("http://127.0.0.1:{}", self.port)),
            region: None,
        };
        Bucket { url, folder, key_id: self.key_id.clone(), secret: self.secret.clone() }
    }
}

/// The server's program: the one in the PATH, or the one that `tests/run` has built.
fn program() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(cache.map(|cache| cache.join("janitor-tests/bin")));
    let found = folders.map(|folder| folder.join(PROGRAM)).find(|program| Path::is_file(program));
    found.unwrap_or_else(|| panic!("{PROGRAM} is not there; {INSTALL}"))
}
