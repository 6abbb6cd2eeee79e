//! The counters and gauges, and what of a report goes into which.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};

use chrono::{DateTime, Utc};
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::{
    queue::Stats,
    report::{Mode, Outcome, Report},
};

/// The buckets of an execution's length, in seconds: up to the default time limit and beyond.
const SECONDS: [f64; 12] = [0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0, 14_400.0];

type Labels<const N: usize> = [(&'static str, String); N];
type Real = Gauge<f64, AtomicU64>;

/// The metrics of this process. Cheap to clone; all clones count into the same place.
///
/// | name | labels | meaning |
/// | --- | --- | --- |
/// | `janitor_reports_total` | job, mode, outcome | executions that ended |
/// | `janitor_deleted_total` | job, kind | things deleted |
/// | `janitor_bytes_freed_total` | job | bytes that came free |
/// | `janitor_failures_total` | job | things that could not be deleted |
/// | `janitor_lock_busy_total` | job | executions that found the lock taken |
/// | `janitor_seconds` | job | how long executions took, those that ran |
/// | `janitor_kept` | job, kind | what the last execution kept, by reason |
/// | `janitor_due` | job | runs that were due and stayed, after the last execution |
/// | `janitor_oldest_due_age_seconds` | job | the age of the oldest of those, by its last update; 0: there is none |
/// | `janitor_last_success_timestamp_seconds` | job | when it last ended `done`, on any host |
/// | `janitor_queue_up` | | 1 where the queue answers |
/// | `janitor_queue_requests` | state | requests `waiting`, `running` and `dead` |
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    reports: Family<Labels<3>, Counter>,
    deleted: Family<Labels<2>, Counter>,
    freed: Family<Labels<1>, Counter>,
    failures: Family<Labels<1>, Counter>,
    busy: Family<Labels<1>, Counter>,
    seconds: Family<Labels<1>, Histogram>,
    kept: Family<Labels<2>, Gauge>,
    due: Family<Labels<1>, Gauge>,
    oldest_age: Family<Labels<1>, Real>,
    last_success: Family<Labels<1>, Real>,
    queue_up: Gauge,
    queue: Family<Labels<1>, Gauge>,
    oldest: Mutex<BTreeMap<String, Option<DateTime<Utc>>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut inner = Inner {
            registry: Registry::with_prefix("janitor"),
            reports: Family::default(),
            deleted: Family::default(),
            freed: Family::default(),
            failures: Family::default(),
            busy: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            kept: Family::default(),
            due: Family::default(),
            oldest_age: Family::default(),
            last_success: Family::default(),
            queue_up: Gauge::default(),
            queue: Family::default(),
            oldest: Mutex::default(),
        };
        inner.register();
        Self(Arc::new(inner))
    }
}

impl Inner {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("reports", "Executions that ended", self.reports.clone());
        registry.register("deleted", "Things deleted", self.deleted.clone());
        registry.register("bytes_freed", "Bytes that came free", self.freed.clone());
        registry.register("failures", "Things that could not be deleted", self.failures.clone());
        registry.register("lock_busy", "Executions that found the lock taken", self.busy.clone());
        registry.register("seconds", "How long executions took", self.seconds.clone());
        registry.register("kept", "What the last execution kept, by reason", self.kept.clone());
        registry.register("due", "What was due and stayed after the last execution", self.due.clone());
        registry.register("oldest_due_age_seconds", "The age of the oldest thing that is due", self.oldest_age.clone());
        let help = "When the job last ended done, in seconds since the epoch";
        registry.register("last_success_timestamp_seconds", help, self.last_success.clone());
        registry.register("queue_up", "1 where the queue answers", self.queue_up.clone());
        registry.register("queue_requests", "Requests by state: waiting, running, dead", self.queue.clone());
    }

    fn oldest(&self) -> MutexGuard<'_, BTreeMap<String, Option<DateTime<Utc>>>> {
        // A map of plain values: a panic elsewhere cannot leave it half written.
        self.oldest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Metrics {
    /// Counts an execution that has ended.
    pub fn observe(&self, report: &Report) {
        let inner = &*self.0;
        let job = [("job", report.job.clone())];
        let labels = [job[0].clone(), ("mode", report.mode.to_string()), ("outcome", report.outcome.to_string())];
        inner.reports.get_or_create(&labels).inc();
        match report.outcome {
            Outcome::Busy => {
                inner.busy.get_or_create(&job).inc();
                return;
            }
            Outcome::Skipped => return,
            Outcome::Done | Outcome::Limited | Outcome::Refused | Outcome::Failed => {}
        }
        inner.seconds.get_or_create(&job).observe(report.seconds);
        inner.freed.get_or_create(&job).inc_by(report.bytes_freed);
        inner.failures.get_or_create(&job).inc_by(u64::try_from(report.failures.len()).unwrap_or(u64::MAX));
        for (kind, count) in report.deleted.iter() {
            inner.deleted.get_or_create(&[job[0].clone(), ("kind", kind.to_owned())]).inc_by(count);
        }
        for (kind, count) in report.kept.iter() {
            inner.kept.get_or_create(&[job[0].clone(), ("kind", kind.to_owned())]).set(whole(count));
        }
        let left: u64 = report.planned.iter().map(|(kind, count)| count.saturating_sub(report.deleted.get(kind))).sum();
        inner.due.get_or_create(&job).set(whole(left));
        if report.outcome == Outcome::Done && report.mode == Mode::Apply {
            self.succeeded(&report.job, report.started_at);
        }
    }

    /// After a sweep of `job`: the oldest thing that was due and may still be there, by its last update.
    pub fn set_oldest_due(&self, job: &str, oldest: Option<DateTime<Utc>>) {
        self.0.oldest().insert(job.to_owned(), oldest);
    }

    /// `job` ended `done` at `at`, here or elsewhere.
    pub(super) fn succeeded(&self, job: &str, at: DateTime<Utc>) {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds since the epoch fit for 285,000 years")]
        let seconds = at.timestamp_millis() as f64 / 1_000.0;
        self.0.last_success.get_or_create(&[("job", job.to_owned())]).set(seconds);
    }

    /// What the queue says of itself; none: it does not answer, and old numbers are not shown.
    pub(super) fn queue(&self, stats: Option<Stats>) {
        self.0.queue_up.set(i64::from(stats.is_some()));
        let Some(Stats { waiting, running, dead }) = stats else { return self.0.queue.clear() };
        for (state, count) in [("waiting", waiting), ("running", running), ("dead", dead)] {
            self.0.queue.get_or_create(&[("state", state.to_owned())]).set(whole(count));
        }
    }

    /// The oldest thing of `job` that was due and stayed, where a sweep of this process said so.
    pub(super) fn oldest_due(&self, job: &str) -> Option<DateTime<Utc>> {
        self.0.oldest().get(job).copied().flatten()
    }

    /// All of it in the `OpenMetrics` text format, as it is at `now`.
    pub(super) fn text(&self, now: DateTime<Utc>) -> String {
        for (job, oldest) in self.0.oldest().iter() {
            let age = oldest.and_then(|oldest| (now - oldest).to_std().ok()).unwrap_or_default();
            self.0.oldest_age.get_or_create(&[("job", job.clone())]).set(age.as_secs_f64());
        }
        let mut text = String::new();
        if encode(&mut text, &self.0.registry).is_err() {
            // Writing into a string does not fail; a label that cannot be written would.
            let _ = writeln!(text, "# EOF");
        }
        text
    }
}

fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Counts, Failure};

    fn report(outcome: Outcome) -> Report {
        let counts = |of: &[(&str, u64)]| {
            let mut counts = Counts::default();
            for (kind, count) in of {
                counts.add(kind, *count);
            }
            counts
        };
        Report {
            id: "01JD".to_owned(),
            version: "0.1.0".to_owned(),
            attempt: 1,
            request: None,
            job: "old-runs".to_owned(),
            kind: "retention".to_owned(),
            mode: Mode::Apply,
            outcome,
            reason: None,
            tick: None,
            host: "w1".to_owned(),
            fence: Some(7),
            started_at: DateTime::from_timestamp(1_700_000_000, 0).unwrap(),
            seconds: 0.3,
            cutoff: None,
            planned: counts(&[("runs", 5)]),
            deleted: counts(&[("runs", 3), ("events", 30)]),
            kept: counts(&[("rule", 2)]),
            bytes_freed: 10,
            batches: 1,
            failures: vec![Failure { item: "r".to_owned(), error: "no".to_owned() }],
        }
    }

    fn lines(metrics: &Metrics) -> Vec<String> {
        let text = metrics.text(DateTime::from_timestamp(1_700_000_100, 0).unwrap());
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn a_report_is_counted_by_job_outcome_and_kind() {
        let metrics = Metrics::default();
        metrics.observe(&report(Outcome::Done));
        metrics.observe(&report(Outcome::Done));
        let lines = lines(&metrics);
        for expected in [
            r#"janitor_reports_total{job="old-runs",mode="apply",outcome="done"} 2"#,
            r#"janitor_deleted_total{job="old-runs",kind="events"} 60"#,
            r#"janitor_bytes_freed_total{job="old-runs"} 20"#,
            r#"janitor_failures_total{job="old-runs"} 2"#,
            r#"janitor_kept{job="old-runs",kind="rule"} 2"#,
            r#"janitor_due{job="old-runs"} 2"#,
            r#"janitor_seconds_count{job="old-runs"} 2"#,
            r#"janitor_seconds_bucket{le="0.1",job="old-runs"} 0"#,
            r#"janitor_seconds_bucket{le="0.5",job="old-runs"} 2"#,
            r#"janitor_last_success_timestamp_seconds{job="old-runs"} 1700000000.0"#,
        ] {
            assert!(lines.iter().any(|line| line == expected), "{expected}\nin {lines:#?}");
        }
    }

    #[test]
    fn what_did_not_run_counts_as_a_report_and_nothing_else() {
        let metrics = Metrics::default();
        metrics.observe(&report(Outcome::Busy));
        metrics.observe(&report(Outcome::Skipped));
        assert_eq!(
            lines(&metrics).into_iter().filter(|line| line.contains("job=")).collect::<std::collections::BTreeSet<_>>(),
            [
                r#"janitor_reports_total{job="old-runs",mode="apply",outcome="busy"} 1"#.to_owned(),
                r#"janitor_reports_total{job="old-runs",mode="apply",outcome="skipped"} 1"#.to_owned(),
                r#"janitor_lock_busy_total{job="old-runs"} 1"#.to_owned(),
            ]
            .into()
        );
    }

    #[test]
    fn a_queue_that_is_silent_shows_no_old_numbers() {
        let metrics = Metrics::default();
        metrics.queue(Some(Stats { waiting: 3, running: 1, dead: 0 }));
        assert!(lines(&metrics).contains(&r#"janitor_queue_requests{state="waiting"} 3"#.to_owned()));
        metrics.queue(None);
        let silent = lines(&metrics);
        assert!(silent.contains(&"janitor_queue_up 0".to_owned()));
        assert!(!silent.iter().any(|line| line.starts_with("janitor_queue_requests")));
    }

    #[test]
    fn the_age_of_the_oldest_due_grows_with_the_clock() {
        let metrics = Metrics::default();
        metrics.set_oldest_due("old-runs", DateTime::from_timestamp(1_700_000_000, 0));
        let lines = lines(&metrics);
        assert!(lines.contains(&r#"janitor_oldest_due_age_seconds{job="old-runs"} 100.0"#.to_owned()), "{lines:#?}");
    }
}
