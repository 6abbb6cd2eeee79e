//! Runs the built `janitor` as a process of its own, and looks at its memory.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// What a sweep cost.
pub struct Sweep {
    /// From start to end of the process.
    pub took: Duration,
    /// The most memory that it had, in KiB.
    pub peak_kib: u64,
    /// How many runs it deleted.
    pub deleted: u64,
}

/// Sweeps the store with that URL, with these keys in its job, by a configuration that is written to `config`. A sweep that
/// takes nothing goes before: all but the very first find the janitor's own file and table there.
pub async fn sweep(store: &str, config: &Path, keys: &str) -> Sweep {
    let text = format!("[jobs.old-runs]\nkind = \"retention\"\nstore = \"{store}\"\nretention_days = 30\n{keys}");
    fs::write(config, text).unwrap();
    let first = run(config, &["--before", "2000-01-01T00:00:00Z"]).await;
    assert_eq!(first.deleted, 0, "something is from the last century");
    run(config, &[]).await
}

async fn run(config: &Path, more: &[&str]) -> Sweep {
    let began = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_janitor"))
        .args(["run", "old-runs", "--json", "--config"])
        .arg(config)
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut peak_kib = 0;
    while child.try_wait().unwrap().is_none() {
        // The kernel's high-water mark: it only grows, so the last look is the peak.
        peak_kib = high_water_kib(child.id()).unwrap_or(peak_kib);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = began.elapsed();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    Sweep { took, peak_kib, deleted: report["deleted"]["runs"].as_u64().unwrap() }
}

fn high_water_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
}
