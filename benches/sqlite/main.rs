//! The sweep of a SQLite store against one transaction of plain statements, on copies of the same file.
//!
//! `cargo bench --bench sqlite` takes half an hour, `-- once` a third of that, with one pair of times for each row instead
//! of three; `-- quick` is that with a tenth of the runs. Each figure is a ratio of two times measured one after the
//! other, and the median of the pairs.

#![allow(clippy::unwrap_used, reason = "a benchmark that panics fails, which is what is wanted")]

mod child;
mod store;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use child::{Sweep, sweep};
use store::{Store, Writer};

/// How the store is swept.
struct Manner {
    name: &'static str,
    keys: &'static str,
    /// Whether somebody else writes every 10 ms meanwhile.
    has_writer: bool,
}

/// What a new job does.
const BY_DEFAULT: &str = "";
/// For a store that nobody else writes: one transaction.
const IN_ONE_PASS: &str = "batch_size = 1000000\nbatch_time = \"1h\"\nbatch_pause = \"0s\"\n";

#[tokio::main]
async fn main() {
    let has = |word: &str| std::env::args().any(|argument| argument == word);
    let is_quick = has("quick");
    let pairs = if is_quick || has("once") { 1 } else { 3 };
    let runs = if is_quick { 10_000 } else { 100_000 };
    let folder = tempfile::tempdir().unwrap();
    let backlog = Store::fill(&folder.path().join("backlog.db"), runs, 0.52).await;
    let steady = Store::fill(&folder.path().join("steady.db"), runs, 500.0 / f64::from(runs)).await;
    println!("{runs} runs, {} due: {} MB", backlog.due, fs::metadata(&backlog.path).unwrap().len() >> 20);
    for manner in [
        Manner { name: "backlog, by default, with a writer", keys: BY_DEFAULT, has_writer: true },
        Manner { name: "backlog, by default", keys: BY_DEFAULT, has_writer: false },
        Manner { name: "backlog, in one pass", keys: IN_ONE_PASS, has_writer: false },
    ] {
        compare(&backlog, &manner, pairs).await;
    }
    compare(&steady, &Manner { name: "500 due, by default", keys: BY_DEFAULT, has_writer: false }, pairs).await;
    grow(&backlog, folder.path(), runs).await;
}

/// Prints how a sweep compares with the baseline, pair by pair.
async fn compare(store: &Store, manner: &Manner, pairs: usize) {
    let (mut ratios, mut worst, mut peak_kib) = (Vec::new(), Duration::ZERO, 0);
    for _ in 0..pairs {
        let plain = store.copy("plain.db");
        let began = Instant::now();
        store::delete_at_once(&plain).await;
        let baseline = began.elapsed();
        let ours = store.copy("ours.db");
        let writer = if manner.has_writer { Some(Writer::start(&ours).await) } else { None };
        let swept = checked(&ours, manner.keys, store.due).await;
        if let Some(writer) = writer {
            worst = worst.max(writer.stop().await);
        }
        peak_kib = peak_kib.max(swept.peak_kib);
        println!("  {}: {:.2} s against {:.2} s", manner.name, swept.took.as_secs_f64(), baseline.as_secs_f64());
        ratios.push(swept.took.as_secs_f64() / baseline.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    let waited =
        if manner.has_writer { format!(", longest wait of a writer {} ms", worst.as_millis()) } else { String::new() };
    println!("{}: {:.2} x, peak {} MB{waited}", manner.name, ratios[ratios.len() / 2], peak_kib >> 10);
}

/// Prints what four times the runs cost.
async fn grow(small: &Store, folder: &Path, runs: u32) {
    let large = Store::fill(&folder.join("large.db"), runs * 4, 0.52).await;
    let one = checked(&small.copy("ours.db"), BY_DEFAULT, small.due).await;
    let four = checked(&large.copy("ours.db"), BY_DEFAULT, large.due).await;
    println!(
        "4 x the runs: {:.2} x the time, peak {} MB against {} MB",
        four.took.as_secs_f64() / one.took.as_secs_f64(),
        four.peak_kib >> 10,
        one.peak_kib >> 10
    );
}

/// Sweeps, and insists that what was due went.
async fn checked(path: &Path, keys: &str, due: u64) -> Sweep {
    let swept = sweep(&format!("sqlite://{}", path.display()), &path.with_extension("toml"), keys).await;
    assert_eq!(swept.deleted, due, "the sweep deleted another number of runs than are due");
    swept
}
