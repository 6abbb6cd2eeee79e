//! The sweep of a Postgres store against one transaction of plain statements, on copies of the same database.
//!
//! `JANITOR_BENCH_POSTGRES=postgresql://… cargo bench --bench postgres --features postgres` takes some minutes, `-- quick` a
//! tenth of them. The URL is of a server on which databases can be made and dropped. Each figure is a ratio of two times
//! measured one after the other, and the median of the pairs.

#![allow(clippy::unwrap_used, reason = "a benchmark that panics fails, which is what is wanted")]

#[path = "../sqlite/child.rs"]
mod child;
mod store;

use std::time::{Duration, Instant};

use child::{Sweep, sweep};
use store::{Longest, Store};

/// How often each pair is measured.
const PAIRS: usize = 3;

#[tokio::main]
async fn main() {
    let is_quick = std::env::args().any(|argument| argument == "quick");
    let server = std::env::var("JANITOR_BENCH_POSTGRES").expect("JANITOR_BENCH_POSTGRES is the URL of a server");
    let runs = if is_quick { 10_000 } else { 100_000 };
    let backlog = Store::fill(&server, "janitor_bench_backlog", runs, 0.52).await;
    let steady = Store::fill(&server, "janitor_bench_steady", runs, 500.0 / f64::from(runs)).await;
    println!("{runs} runs, {} and {} due", backlog.due, steady.due);
    compare("backlog", &backlog).await;
    compare("500 due", &steady).await;
    let large = Store::fill(&server, "janitor_bench_large", runs * 4, 0.52).await;
    let (one, four) = (swept(&backlog).await.0, swept(&large).await.0);
    println!(
        "4 x the runs: {:.2} x the time, peak {} MB against {} MB",
        four.took.as_secs_f64() / one.took.as_secs_f64(),
        four.peak_kib >> 10,
        one.peak_kib >> 10
    );
    for store in [backlog, steady, large] {
        store.drop().await;
    }
}

/// Prints how a sweep compares with the baseline, pair by pair.
async fn compare(name: &str, store: &Store) {
    let (mut ratios, mut longest, mut peak_kib) = (Vec::new(), Duration::ZERO, 0);
    for _ in 0..PAIRS {
        let plain = store.copy().await;
        let began = Instant::now();
        store::delete_at_once(&plain).await;
        let baseline = began.elapsed();
        let (ours, transaction) = swept(store).await;
        (longest, peak_kib) = (longest.max(transaction), peak_kib.max(ours.peak_kib));
        println!("  {name}: {:.2} s against {:.2} s", ours.took.as_secs_f64(), baseline.as_secs_f64());
        ratios.push(ours.took.as_secs_f64() / baseline.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    let (ratio, longest) = (ratios[ratios.len() / 2], longest.as_millis());
    println!("{name}: {ratio:.2} x, peak {} MB, longest transaction {longest} ms", peak_kib >> 10);
}

/// Sweeps a copy, and insists that what was due went; answers also how long its longest transaction lasted.
async fn swept(store: &Store) -> (Sweep, Duration) {
    let copy = store.copy().await;
    let folder = tempfile::tempdir().unwrap();
    let watch = Longest::watch(&copy).await;
    let swept = sweep(&copy, &folder.path().join("janitor.toml"), "").await;
    assert_eq!(swept.deleted, store.due, "the sweep deleted another number of runs than are due");
    (swept, watch.stop().await)
}
