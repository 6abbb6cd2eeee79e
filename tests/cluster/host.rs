//! A host of a cluster: a folder with a configuration, a way of its own to Redis, and the processes of the built `janitor`.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::proxy::Proxy;

/// How long a process has to end after it was told to.
const END_MAX: Duration = Duration::from_secs(40);
/// How often it is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(20);

/// What a process of a host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Runs what is on the queue.
    Worker,
    /// Asks for the ticks.
    Beat,
    /// Both.
    Up,
}

impl Part {
    const fn command(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Beat => "beat",
            Self::Up => "up",
        }
    }
}

/// A host. Its processes are killed with it.
#[derive(Debug)]
pub struct Host {
    /// Its name in reports.
    pub name: String,
    /// Its way to Redis, where that is one server.
    pub proxy: Option<Proxy>,
    folder: TempDir,
    environment: Vec<(String, String)>,
    running: Vec<(Part, Process)>,
    logs: Vec<(PathBuf, u64)>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    log: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Host {
    /// A host with this configuration and nothing that runs.
    pub fn new(name: &str, proxy: Option<Proxy>, config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("janitor.toml"), config).unwrap();
        let name = name.to_owned();
        Self { name, proxy, folder, environment: Vec::new(), running: Vec::new(), logs: Vec::new() }
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// What its processes have in their environment from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Starts a process.
    pub fn start(&mut self, part: Part) {
        assert!(self.running.iter().all(|(running, _)| *running != part), "{} has a {part:?}", self.name);
        let log = self.path().join(format!("{}.log", self.logs.len()));
        let mut command = self.command();
        command.args([part.command(), "--json"]).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
        self.logs.push((log.clone(), 0));
        self.running.push((part, Process { child, log }));
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_janitor"));
        command.current_dir(self.path()).env_remove("JANITOR_CONFIG").env_remove("RUST_LOG");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// What runs here.
    pub fn parts(&self) -> Vec<Part> {
        self.running.iter().map(|(part, _)| *part).collect()
    }

    /// Sends a process a signal.
    pub fn signal(&self, part: Part, signal: Signal) {
        kill_process(self.id(part), signal).unwrap();
    }

    /// The id of a process.
    pub fn id(&self, part: Part) -> Pid {
        let (_, process) = self.running.iter().find(|(running, _)| *running == part).expect("it runs");
        Pid::from_child(&process.child)
    }

    fn take(&mut self, part: Part) -> Process {
        let at = self.running.iter().position(|(running, _)| *running == part).expect("it runs");
        self.running.swap_remove(at).1
    }

    /// Kills a process; it cannot do anything about that.
    pub fn kill(&mut self, part: Part) {
        let mut process = self.take(part);
        let ended = process.child.try_wait().unwrap();
        assert!(ended.is_none(), "{} {part:?} had ended by itself:\n{}", self.name, tail(&process.log));
    }

    /// Ends a process with SIGTERM; it must exit 0.
    pub async fn stop(&mut self, part: Part) {
        let mut process = self.take(part);
        let ended = process.child.try_wait().unwrap();
        assert!(ended.is_none(), "{} {part:?} had ended by itself:\n{}", self.name, tail(&process.log));
        kill_process(Pid::from_child(&process.child), Signal::TERM).unwrap();
        let deadline = Instant::now() + END_MAX;
        let status = loop {
            if let Some(status) = process.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "{} {part:?} did not end:\n{}", self.name, tail(&process.log));
            sleep(LOOK).await;
        };
        assert_eq!(status.code(), Some(0), "{} {part:?}:\n{}", self.name, tail(&process.log));
    }

    /// Ends all of its processes that do this.
    pub async fn stop_all(&mut self, parts: &[Part]) {
        for part in parts.iter().filter(|part| self.parts().contains(part)).copied().collect::<Vec<_>>() {
            self.stop(part).await;
        }
    }

    /// The exit code, stdout and stderr of `janitor <line>`.
    pub async fn run(&self, line: &str) -> (i32, String, String) {
        let mut command = tokio::process::Command::from(self.command());
        let output = command.args(line.split_whitespace()).kill_on_drop(true).output().await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    /// Stdout of what must exit 0, as JSON.
    pub async fn json(&self, line: &str) -> Value {
        let (code, stdout, stderr) = self.run(line).await;
        assert_eq!(code, 0, "janitor {line}: {stderr}");
        serde_json::from_str(&stdout).unwrap()
    }

    /// The ends of its logs.
    pub fn tails(&self) -> String {
        self.logs
            .iter()
            .map(|(log, _)| format!("{} {}:\n{}\n", self.name, log.display(), tail(log)))
            .collect::<Vec<_>>()
            .concat()
    }

    /// The lines that its processes have logged since this was last asked.
    pub fn news(&mut self) -> Vec<Value> {
        let mut news = Vec::new();
        for (log, read) in &mut self.logs {
            let mut file = File::open(&*log).unwrap();
            file.seek(SeekFrom::Start(*read)).unwrap();
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
            *read += whole as u64;
            // A panic is no JSON, and nothing that is read here.
            news.extend(
                bytes[..whole].split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()),
            );
        }
        news
    }
}

/// The end of a log.
fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
