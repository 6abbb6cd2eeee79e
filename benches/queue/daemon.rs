//! The built `janitor` as a process that runs until it is told to stop, and what the kernel says about it.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How many ticks of the kernel's clock are a second, on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process in a folder of its own. It is killed with this.
pub struct Daemon {
    child: Child,
    _folder: TempDir,
}

impl Daemon {
    /// Starts `janitor <command>` with that configuration. Nobody reads what it logs.
    pub fn start(config: &str, command: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("janitor.toml"), config).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_janitor"))
            .arg(command)
            .current_dir(folder.path())
            .env_remove("JANITOR_CONFIG")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, _folder: folder }
    }

    /// The memory that it has in the machine's, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process that runs");
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// How long it has been on a processor.
    pub fn processor(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // The name may hold spaces; what comes after it does not: the twelfth and thirteenth are user and system time.
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: u32 = [fields[11], fields[12]].iter().map(|ticks| ticks.parse::<u32>().unwrap()).sum();
        Duration::from_secs_f64(f64::from(ticks) / TICKS_PER_SECOND)
    }

    /// Ends it with SIGTERM; it must exit 0.
    pub fn stop(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It has ended, or nobody waits for it any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
