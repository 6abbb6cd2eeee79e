//! Reads what processes log and the ledger keeps.

use apalis_janitor::report::{Outcome, Report};
use chrono::{DateTime, NaiveDateTime};
use serde_json::Value;

use crate::history::{Asked, Millis, Told};

/// The jobs that each host has for itself; their names here have the host's in them.
pub const OF_HOSTS: [&str; 2] = ["disk", "volumes"];

fn named(job: &str, host: &str) -> String {
    if OF_HOSTS.contains(&job) { format!("{job}@{host}") } else { job.to_owned() }
}

/// The request that a line of a beat's log, on this host, tells of.
pub fn asked(line: &Value, host: &str) -> Option<Asked> {
    if line["message"] != "tick enqueued" {
        return None;
    }
    let text = |field: &str| line[field].as_str().unwrap_or_else(|| panic!("{field} in {line}")).to_owned();
    let tick = NaiveDateTime::parse_from_str(&text("tick"), "%Y-%m-%d %H:%M:%S%.f UTC").unwrap().and_utc();
    let at = instant(&text("timestamp"));
    Some(Asked { job: named(&text("job"), host), tick: Some(tick.timestamp_millis()), id: text("id"), at })
}

/// The report that a line of a worker's log, on this host, tells of.
pub fn told_in_log(line: &Value, host: &str) -> Option<Told> {
    if line["message"] != "job ended" {
        return None;
    }
    let outcome: Outcome = serde_json::from_value(line["outcome"].clone()).unwrap();
    let deleted = line["deleted"].as_str().unwrap();
    let runs = deleted.split(", ").find_map(|part| part.strip_prefix("runs "));
    Some(Told {
        job: named(line["job"].as_str().unwrap(), host),
        request: None,
        tick: line["tick"].as_str().map(instant),
        outcome,
        fence: line["fence"].as_u64(),
        deleted: runs.map_or(0, |runs| runs.parse().unwrap()),
        took: took(line["seconds"].as_f64().unwrap()),
    })
}

/// The report that an entry of the ledger is.
pub fn told(entry: &Value) -> Told {
    let report: Report = serde_json::from_value(entry.clone()).unwrap();
    Told {
        request: report.request,
        tick: report.tick.map(|tick| tick.timestamp_millis()),
        outcome: report.outcome,
        fence: report.fence,
        deleted: report.deleted.get("runs"),
        took: took(report.seconds),
        job: named(&report.job, &report.host),
    }
}

fn instant(text: &str) -> Millis {
    DateTime::parse_from_rfc3339(text).unwrap_or_else(|error| panic!("{text}: {error}")).timestamp_millis()
}

#[allow(clippy::cast_possible_truncation, reason = "some seconds")]
fn took(seconds: f64) -> Millis {
    (seconds * 1e3).round() as Millis
}
