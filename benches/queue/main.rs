//! The queue over Redis against a raw loop of XREADGROUP and XACK, and what beats and workers cost, busy and idle.
//!
//! `cargo bench --bench queue` takes about ten minutes, `-- quick` one with a tenth of everything; `-- loops idle` runs these
//! parts only. It starts a Redis of its own for each part, without persistence. A ratio is that of two times measured one
//! after the other, and the median of the pairs. Requests are appended as any program can, so that none merge, but where a
//! part says otherwise.

#![allow(clippy::unwrap_used, reason = "a benchmark that panics fails, which is what is wanted")]
#![allow(clippy::cast_precision_loss, reason = "counts and spans that are printed with three digits")]

mod backlog;
mod daemon;
mod idle;
mod latency;
mod loops;
#[allow(dead_code, reason = "the tests need more of it")]
#[path = "../../tests/it/redis.rs"]
mod server;
mod ticks;
mod world;

#[tokio::main]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_quick = words.iter().any(|word| word == "quick");
    let parts: Vec<&str> = words.iter().map(String::as_str).filter(|word| *word != "quick").collect();
    let is_asked = |part: &str| parts.is_empty() || parts.contains(&part);
    if is_asked("loops") {
        loops::compare(if is_quick { 2_000 } else { 50_000 }).await;
    }
    if is_asked("latency") {
        latency::measure(if is_quick { 50 } else { 1_000 }).await;
    }
    if is_asked("once") {
        backlog::once(if is_quick { 10_000 } else { 100_000 }).await;
    }
    if is_asked("backlog") {
        backlog::drain(if is_quick { 100_000 } else { 1_000_000 }).await;
    }
    if is_asked("ticks") {
        ticks::latency(if is_quick { 10 } else { 60 }).await;
    }
    if is_asked("beats") {
        ticks::rounds(if is_quick { 100 } else { 1_000 }).await;
    }
    if is_asked("idle") {
        idle::cost(if is_quick { 6 } else { 60 }).await;
    }
}
