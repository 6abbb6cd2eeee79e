//! Processes of the built `janitor`, each in the folder of its test, with signals, ends and deadlines.

use std::{
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use serde_json::Value;

use crate::{cli::Cli, redis::RedisServer, seed::Store};

/// How long a case waits for what must come.
pub const COMES_MAX: Duration = Duration::from_secs(30);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// Numbers the files that processes write to.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// A folder with a configuration whose one job, `old-runs`, deletes from a seeded store.
pub struct World {
    /// The command line, in the folder.
    pub cli: Cli,
    /// The store.
    pub store: Store,
}

impl World {
    /// The embedded mode, or over a Redis; `head` and `job` are more lines of the file's beginning and of the job.
    pub async fn new(redis: Option<&RedisServer>, head: &str, job: &str, due: u64) -> Self {
        let redis = redis.map_or_else(String::new, |server| format!("[redis]\nurl = \"{}\"\n", server.url()));
        let cli = Cli::with(&format!(
            "{redis}{head}\n[jobs.old-runs]\nkind = \"retention\"\nstore = \"sqlite:app.db\"\nretention_days = 30\n{job}\n"
        ));
        let store = Store::seed(&cli.path().join("app.db"), due).await;
        Self { cli, store }
    }

    /// From now on the job works as fast as it can, and not as it was told.
    pub fn hurry(&self, slow: &str) {
        self.configure(slow, "");
    }

    /// Writes `new` into the configuration in place of `old`, for who starts from now on.
    pub fn configure(&self, old: &str, new: &str) {
        let path = self.cli.path().join("janitor.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(old));
        fs::write(path, text.replace(old, new)).unwrap();
    }

    /// Starts `janitor <line>`.
    pub fn start(&self, line: &str) -> Process {
        Process::start(&self.cli, line)
    }

    /// All reports of the job, newest first.
    pub fn history(&self) -> Vec<Value> {
        reports(&self.cli.json("history old-runs --limit 1000 --json"))
    }

    /// Waits until some of the due runs are gone and most are there.
    pub async fn is_amid(&self) {
        comes("a first deleted run", async || self.store.left().await < self.store.due()).await;
        assert!(self.store.left().await > 0, "the sweep was over before it could be caught");
    }
}

/// The reports of an array.
pub fn reports(array: &Value) -> Vec<Value> {
    array.as_array().expect("an array of reports").clone()
}

/// How many runs a report says were deleted.
pub fn deleted(report: &Value) -> u64 {
    report["deleted"]["runs"].as_u64().unwrap_or(0)
}

/// Waits until it is so.
pub async fn comes(what: &str, mut is_there: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + COMES_MAX;
    while !is_there().await {
        assert!(Instant::now() < deadline, "{what}: did not come within {COMES_MAX:?}");
        tokio::time::sleep(LOOK).await;
    }
}

/// How a process ended.
#[derive(Debug)]
pub struct End {
    /// Its exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it logged.
    pub stderr: String,
}

/// A process that is killed with its test. It writes to files: a full pipe would stop it.
pub struct Process {
    child: Child,
    files: [PathBuf; 2],
}

impl Process {
    /// Starts `janitor <line>` in the folder of `cli`.
    pub fn start(cli: &Cli, line: &str) -> Self {
        Self::start_with(cli, line, &[])
    }

    /// Starts it with these variables in its environment.
    pub fn start_with(cli: &Cli, line: &str, variables: &[(&str, &str)]) -> Self {
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let files = ["out", "err"].map(|kind| cli.path().join(format!("{number}.{kind}")));
        let to = |path| Stdio::from(File::create(path).unwrap());
        let mut command = Command::new(env!("CARGO_BIN_EXE_janitor"));
        command
            .args(line.split_whitespace())
            .current_dir(cli.path())
            .env_remove("JANITOR_CONFIG")
            .env_remove("RUST_LOG")
            .envs(variables.iter().copied());
        let child = command.stdin(Stdio::null()).stdout(to(&files[0])).stderr(to(&files[1])).spawn().unwrap();
        Self { child, files }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.files[1]).unwrap()
    }

    /// Waits until it logged `text`.
    pub async fn logs(&self, text: &str) {
        comes(&format!("the log line {text:?}"), async || self.log().contains(text)).await;
    }

    /// Waits until it has ended.
    pub async fn end(mut self) -> End {
        let mut status = None;
        comes("the process's end", async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        let status = status.unwrap();
        let [stdout, stderr] = self.files.each_ref().map(|path| fs::read_to_string(path).unwrap());
        End { code: status.code(), signal: status.signal(), stdout, stderr }
    }

    /// Ends it with SIGTERM; it must exit 0.
    pub async fn stop(self) -> End {
        self.signal(Signal::TERM);
        let end = self.end().await;
        assert_eq!(end.code, Some(0), "{}", end.stderr);
        end
    }

    /// Kills it; it cannot do anything about that.
    pub async fn kill(self) {
        self.signal(Signal::KILL);
        assert_eq!(self.end().await.signal, Some(9));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            println!("{}:\n{}", self.files[1].display(), self.log());
        }
    }
}
