//! The sweep of a folder of PyWorkflow's files against a plain walk that deletes the same files, on copies of it.
//!
//! `cargo bench --bench file` takes some minutes, `-- quick` one with a tenth of the runs. Each figure is a ratio of two
//! times measured one after the other, and the median of three pairs. The plain walk asks nothing twice: it takes no
//! lock, checks no parent, syncs nothing, and what a crash leaves of it stays for ever.

#![allow(clippy::unwrap_used, reason = "a benchmark that panics fails, which is what is wanted")]

#[path = "../sqlite/child.rs"]
mod child;
mod store;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use child::{Sweep, sweep};
use store::{Store, Writer};

const PAIRS: usize = 3;
/// How much larger the second store is whose time is compared.
const GROWTH: u32 = 10;

#[tokio::main]
async fn main() {
    let is_quick = std::env::args().any(|argument| argument == "quick");
    let runs = if is_quick { 400 } else { 4_000 };
    let folder = tempfile::tempdir().unwrap();
    for (name, steps) in [("without steps", 0), ("with 4 steps a run", 4)] {
        let store = Store::fill(&folder.path().join("store"), runs, steps);
        println!("{runs} runs {name}, {} due", store.due);
        compare(&store, name, false).await;
        compare(&store, &format!("{name}, and a writer"), true).await;
        let large = Store::fill(&folder.path().join("large"), runs * GROWTH, steps);
        grow(&store, &large).await;
        store.remove();
        large.remove();
    }
}

/// Prints how a sweep compares with the plain walk, pair by pair.
async fn compare(store: &Store, name: &str, has_writer: bool) {
    let (mut ratios, mut worst, mut peak_kib) = (Vec::new(), Duration::ZERO, 0);
    for _ in 0..PAIRS {
        let plain = store.copy("plain");
        let began = Instant::now();
        assert_eq!(store::delete_plainly(&plain), store.due);
        let baseline = began.elapsed();
        let ours = store.copy("ours");
        let writer = has_writer.then(|| Writer::start(&ours));
        let swept = checked(&ours, store.due).await;
        worst = worst.max(writer.map_or(Duration::ZERO, Writer::stop));
        peak_kib = peak_kib.max(swept.peak_kib);
        println!("  {name}: {:.2} s against {:.2} s", swept.took.as_secs_f64(), baseline.as_secs_f64());
        ratios.push(swept.took.as_secs_f64() / baseline.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    let waited =
        if has_writer { format!(", longest wait of a writer {} ms", worst.as_millis()) } else { String::new() };
    println!("{name}: {:.2} x, peak {} MB{waited}", ratios[PAIRS / 2], peak_kib >> 10);
}

/// Prints what so many more runs cost.
async fn grow(small: &Store, large: &Store) {
    let one = checked(&small.copy("ours"), small.due).await;
    let many = checked(&large.copy("ours"), large.due).await;
    println!(
        "{GROWTH} x the runs: {:.2} x the time, peak {} MB against {} MB",
        many.took.as_secs_f64() / one.took.as_secs_f64(),
        many.peak_kib >> 10,
        one.peak_kib >> 10
    );
}

/// Sweeps, and insists that what was due went.
async fn checked(path: &Path, due: u64) -> Sweep {
    let swept = sweep(&path.with_extension("toml"), &format!("file://{}", path.display()), "").await;
    assert_eq!(swept.deleted, due, "the sweep deleted another number of runs than are due");
    swept
}
