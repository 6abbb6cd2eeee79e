//! The sweep of a DynamoDB table against the same deletes one after the other, as PyWorkflow makes them.
//!
//! `cargo bench --bench dynamodb -- 1000` fills a table of DynamoDB Local with so many runs for each of the two, and reaches
//! it through a proxy that is as far away as a region's own service: it adds 8 ms to each answer.

#![allow(clippy::unwrap_used, reason = "a benchmark that panics fails, which is what is wanted")]

mod plain;
mod server;

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use plain::Table;

/// What a round trip takes longer than within one machine.
const LATENCY: Duration = Duration::from_millis(8);
const RUNS: usize = 1_000;

#[tokio::main]
async fn main() {
    let runs = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(RUNS);
    let server = server::Server::start().await;
    let near = server.port;
    let far = server::delay(near, LATENCY).await;
    let (first, second) = (Table::fill("plain", near, runs).await, Table::fill("ours", near, runs).await);
    let began = Instant::now();
    first.delete_one_by_one(far).await;
    let baseline = began.elapsed();
    let began = Instant::now();
    let deleted = tokio::task::spawn_blocking(move || sweep(far)).await.unwrap();
    let ours = began.elapsed();
    assert_eq!(deleted, second.due, "the sweep deleted another number of runs than are due");
    let ratio = ours.as_secs_f64() / baseline.as_secs_f64();
    println!("{runs} runs, {deleted} due, {LATENCY:?} away: {ours:.2?} against {baseline:.2?}, {ratio:.2} x");
}

/// Runs the built `janitor` as a process of its own; answers how many runs it deleted.
fn sweep(port: u16) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("janitor.toml");
    let store = format!("dynamodb://{}/ours?endpoint=http://127.0.0.1:{port}", server::REGION);
    let text = format!("[jobs.old-runs]\nkind = \"retention\"\nstore = \"{store}\"\nretention_days = 30\n");
    std::fs::write(&config, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_janitor"))
        .args(["run", "old-runs", "--json", "--config"])
        .arg(&config)
        .envs([("AWS_ACCESS_KEY_ID", server::KEY), ("AWS_SECRET_ACCESS_KEY", server::KEY)])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", output.status);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    report["deleted"]["runs"].as_u64().unwrap()
}
