//! The sweep of a MariaDB database against plain statements, on copies of the same tables.
//!
//! `cargo bench --bench mysql` takes half an hour, `-- once` a third of that, with one pair of times for each row instead of
//! three; `-- quick` is that with a tenth of the runs. Each figure is a ratio of two times measured one after the other, and
//! the median of the pairs.

#![allow(clippy::unwrap_used, reason = "a benchmark that panics fails, which is what is wanted")]

#[allow(dead_code, reason = "the tests need more of it")]
#[path = "../../tests/it/certificates.rs"]
mod certificates;
#[path = "../sqlite/child.rs"]
mod child;
#[path = "../../tests/it/mysql.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod mysql;
mod store;

use std::time::Duration;

use child::sweep;
use mysql::Server;
use store::{Store, Writer};

/// What the starter of the server asks of the tests' other starters.
mod redis {
    pub fn free_port() -> u16 {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }
}

/// What a server has by default, and half of what the tables take as its cache.
const SERVER: [&str; 4] = [
    "--skip-debug-no-sync",
    "--innodb-flush-log-at-trx-commit=1",
    "--innodb-doublewrite=1",
    "--innodb-buffer-pool-size=512M",
];

/// How the store is swept.
struct Manner {
    name: &'static str,
    keys: &'static str,
    /// Whether somebody else writes 50 runs a second meanwhile.
    has_writer: bool,
}

/// What a new job does.
const BY_DEFAULT: &str = "";
/// Transactions of a second, for a store that can do without pauses.
const WITHOUT_PAUSES: &str = "batch_size = 10000\nbatch_time = \"600ms\"\nbatch_pause = \"0s\"\n";
/// For a store that nobody else writes: one transaction.
const IN_ONE_PASS: &str = "batch_size = 1000000\nbatch_time = \"1h\"\nbatch_pause = \"0s\"\n";

#[tokio::main]
async fn main() {
    let has = |word: &str| std::env::args().any(|argument| argument == word);
    let is_quick = has("quick");
    let pairs = if is_quick || has("once") { 1 } else { 3 };
    let runs = if is_quick { 10_000 } else { 100_000 };
    let server = Server::start_with(&SERVER);
    let backlog = Store::fill(&server, runs, 0.52).await;
    println!("{runs} runs, {} due", backlog.due);
    for manner in [
        Manner { name: "backlog, by default, with a writer", keys: BY_DEFAULT, has_writer: true },
        Manner { name: "backlog, by default", keys: BY_DEFAULT, has_writer: false },
        Manner { name: "backlog, without pauses", keys: WITHOUT_PAUSES, has_writer: false },
        Manner { name: "backlog, in one pass", keys: IN_ONE_PASS, has_writer: false },
    ] {
        compare(&server, &backlog, &manner, pairs).await;
    }
    let steady = Store::fill(&server, runs, 500.0 / f64::from(runs)).await;
    compare(&server, &steady, &Manner { name: "500 due, by default", keys: BY_DEFAULT, has_writer: false }, pairs)
        .await;
}

/// Prints how a sweep compares with the baseline, pair by pair.
async fn compare(server: &Server, store: &Store, manner: &Manner, pairs: usize) {
    let folder = tempfile::tempdir().unwrap();
    let (mut ratios, mut worst, mut peak_kib) = (Vec::new(), Duration::ZERO, 0);
    for _ in 0..pairs {
        let baseline = store::delete_at_once(&store.copy(server).await).await;
        let ours = store.copy(server).await;
        let writer = if manner.has_writer { Some(Writer::start(&ours).await) } else { None };
        let swept = sweep(&ours.url(), &folder.path().join("janitor.toml"), manner.keys).await;
        assert_eq!(swept.deleted, store.due, "the sweep deleted another number of runs than are due");
        if let Some(writer) = writer {
            worst = worst.max(writer.stop().await.1);
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
