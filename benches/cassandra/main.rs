//! The sweep of a keyspace of Cassandra against the deletes alone: the same rows, known beforehand, with no reads and no
//! conditions, as many under way at the same time.
//!
//! `cargo bench --bench cassandra` takes some minutes, `-- quick` less: one pair of times instead of three, and no four
//! times as many runs. It starts the server that the tests use, whose jars `tests/run` fetches. Each figure is a ratio of
//! two times measured one after the other on the same server, and the median of the pairs.

#![allow(clippy::unwrap_used, reason = "a benchmark that panics fails, which is what is wanted")]

#[allow(dead_code, reason = "the tests need more of it")]
#[path = "../../tests/it/cassandra.rs"]
mod cassandra;
mod store;

/// What the starter of the server needs of the tests' other starters.
mod redis {
    pub fn free_port() -> u16 {
        std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
    }
}

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use cassandra::{Options, Server};
use store::Store;

const RUNS: u32 = 5_000;
/// What a new job does, and what it does where nobody else needs the server meanwhile.
const MANNERS: [(&str, &str); 2] =
    [("by default", ""), ("without pauses", "batch_time = \"2s\"\nbatch_pause = \"0s\"\n")];

#[tokio::main]
async fn main() {
    let is_quick = std::env::args().any(|argument| argument == "quick");
    let server = Server::start(Options::default());
    // The server is slow until it has compiled what it does often.
    pair(&server, RUNS, MANNERS[1].1).await;
    for (name, keys) in MANNERS {
        let mut ratios = Vec::new();
        for _ in 0..if is_quick { 1 } else { 3 } {
            let (floor, ours) = pair(&server, RUNS, keys).await;
            println!("  {name}: {ours:.2} s against {floor:.2} s");
            ratios.push(floor / ours);
        }
        ratios.sort_by(f64::total_cmp);
        println!("{RUNS} runs, {name}: {:.2} of the speed of the deletes alone", ratios[ratios.len() / 2]);
    }
    if !is_quick {
        let (_, one) = pair(&server, RUNS, MANNERS[1].1).await;
        let (_, four) = pair(&server, RUNS * 4, MANNERS[1].1).await;
        println!("4 x the runs: {:.2} x the time", four / one);
    }
}

/// The seconds of the deletes alone and of a sweep, each on a store of its own.
async fn pair(server: &Server, runs: u32, keys: &str) -> (f64, f64) {
    let plain = Store::fill(server.port(), "plain", runs).await;
    let floor = plain.delete_alone().await;
    plain.drop().await;
    let store = Store::fill(server.port(), "ours", runs).await;
    let ours = sweep(server.port(), keys, store.due());
    assert_eq!(store.left().await, u64::from(runs) - store.due(), "the sweep left another number of runs");
    store.drop().await;
    (floor.as_secs_f64(), ours.as_secs_f64())
}

/// Runs the built `janitor` as a process of its own, and insists that what was due went.
fn sweep(port: u16, keys: &str, due: u64) -> Duration {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("janitor.toml");
    let store = format!("cassandra://127.0.0.1:{port}/ours");
    let text = format!("[jobs.old-runs]\nkind = \"retention\"\nstore = \"{store}\"\nretention_days = 30\n{keys}");
    std::fs::write(&config, text).unwrap();
    let began = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_janitor"));
    command.args(["run", "old-runs", "--json", "--config"]).arg(&config).stdout(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    let took = began.elapsed();
    assert!(output.status.success(), "{}", output.status);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["deleted"]["runs"].as_u64(), Some(due));
    took
}
