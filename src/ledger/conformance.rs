//! What every answer to [`Ledger`] promises, as tests that each answer runs: see
//! [`ledger_conformance!`](crate::ledger_conformance).

// A test fails by a panic.
#![allow(clippy::missing_panics_doc)]

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Backoff, Ledger, REPORTS_MAX};
use crate::report::{Failure, Mode, Outcome, Report};

/// More items than a limit that somebody might set for reading them.
const ITEMS: usize = 300;

/// Writes one `#[tokio::test]` for each promise of the suite, in a module of the given name.
///
/// The expression is a future of an empty ledger and of whatever must live as long as it, such as a server.
///
/// ```
/// use std::sync::Arc;
/// use apalis_janitor::{ledger::memory::MemoryLedger, ledger_conformance};
///
/// ledger_conformance!(memory, async { (Arc::new(MemoryLedger::default()), ()) });
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! ledger_conformance {
    ($answer:ident, $make:expr) => {
        $crate::ledger_conformance! { @cases $answer, $make;
            gives_a_report_back_as_it_was
            gives_the_newest_reports_first
            keeps_the_reports_of_two_jobs_apart
            takes_the_same_report_once
            takes_a_report_once_from_many_at_a_time
            keeps_the_newest_reports_only
            remembers_the_last_success_when_its_report_has_gone
            counts_nothing_but_a_real_and_complete_run_as_a_success
            pauses_and_resumes_once
            remembers_how_often_an_item_failed
            gives_all_back_offs_of_a_job_by_item
            keeps_when_an_item_is_due_to_the_millisecond_and_never_too_early
            keeps_the_items_of_two_jobs_apart
        }
    };
    (@cases $answer:ident, $make:expr; $($case:ident)+) => {
        mod $answer {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[tokio::test]
                async fn $case() {
                    let (ledger, _kept) = $make.await;
                    $crate::ledger::conformance::$case(ledger).await;
                }
            )+
        }
    };
}

/// What is read is what was recorded, in every field.
pub async fn gives_a_report_back_as_it_was(ledger: Arc<dyn Ledger>) {
    let mut full = report("a", 1);
    full.outcome = Outcome::Limited;
    full.reason = Some("line one\nline \"two\" \u{1F9F9} {\"id\":\"x\"}".to_owned());
    full.tick = Some(at(-1));
    full.fence = Some(1_763_672_400_123);
    full.cutoff = Some(at(-86_400));
    full.planned.add("runs", u64::MAX);
    full.deleted.add("events", 3);
    full.kept.add("unreadable_time", 0);
    full.failures = vec![Failure { item: "\\xff".to_owned(), error: "gone".to_owned() }];
    ledger.record(&full).await.expect("recorded");
    assert_eq!(ledger.reports("a", 10).await.expect("an answer"), [full]);
}

/// The order is that in which they were recorded; the limit is a limit.
pub async fn gives_the_newest_reports_first(ledger: Arc<dyn Ledger>) {
    assert_eq!(ledger.reports("a", 10).await.expect("an answer"), []);
    let all: Vec<Report> = (0..5).map(|number| report("a", number)).collect();
    for one in &all {
        ledger.record(one).await.expect("recorded");
    }
    let newest: Vec<Report> = all.iter().rev().cloned().collect();
    for (limit, expected) in [(0, 0), (1, 1), (4, 4), (5, 5), (6, 5), (usize::MAX, 5)] {
        assert_eq!(ledger.reports("a", limit).await.expect("an answer"), newest[..expected], "limit {limit}");
    }
}

/// A job sees its own.
pub async fn keeps_the_reports_of_two_jobs_apart(ledger: Arc<dyn Ledger>) {
    let (one, other) = (report("a", 1), report("a@host", 2));
    ledger.record(&one).await.expect("recorded");
    ledger.record(&other).await.expect("recorded");
    assert_eq!(ledger.reports("a", 10).await.expect("an answer"), [one]);
    assert_eq!(ledger.reports("a@host", 10).await.expect("an answer"), [other]);
}

/// The first of an id stays, also where another was recorded in between.
pub async fn takes_the_same_report_once(ledger: Arc<dyn Ledger>) {
    let (first, between) = (report("a", 1), report("a", 2));
    let second = Report { outcome: Outcome::Failed, ..first.clone() };
    for one in [&first, &between, &first, &second] {
        ledger.record(one).await.expect("recorded");
    }
    assert_eq!(ledger.reports("a", 10).await.expect("an answer"), [between, first]);
}

/// Recording is one step.
pub async fn takes_a_report_once_from_many_at_a_time(ledger: Arc<dyn Ledger>) {
    let same = report("a", 1);
    let recorders = (0..8).map(|_| ledger.record(&same));
    for recorded in futures::future::join_all(recorders).await {
        recorded.expect("recorded");
    }
    assert_eq!(ledger.reports("a", 10).await.expect("an answer"), [same]);
}

/// The oldest report of the same job goes when there is one too many.
pub async fn keeps_the_newest_reports_only(ledger: Arc<dyn Ledger>) {
    ledger.record(&report("b", 0)).await.expect("recorded");
    let last = u32::try_from(REPORTS_MAX).expect("a small number");
    for number in 0..=last {
        ledger.record(&report("a", number)).await.expect("recorded");
    }
    let kept = ledger.reports("a", usize::MAX).await.expect("an answer");
    assert_eq!(kept.len(), REPORTS_MAX);
    assert_eq!((&kept[0], &kept[REPORTS_MAX - 1]), (&report("a", last), &report("a", 1)));
    assert_eq!(ledger.reports("b", 10).await.expect("an answer"), [report("b", 0)]);
}

/// A success is remembered for itself.
pub async fn remembers_the_last_success_when_its_report_has_gone(ledger: Arc<dyn Ledger>) {
    assert_eq!(ledger.last_success("a").await.expect("an answer"), None);
    let success = report("a", 0);
    ledger.record(&success).await.expect("recorded");
    for number in 1..=u32::try_from(REPORTS_MAX).expect("a small number") {
        let busy = Report { outcome: Outcome::Busy, ..report("a", number) };
        ledger.record(&busy).await.expect("recorded");
    }
    assert!(!ledger.reports("a", usize::MAX).await.expect("an answer").contains(&success));
    assert_eq!(ledger.last_success("a").await.expect("an answer"), Some(success.started_at));
}

/// Only `done` in mode apply counts, and a newer one takes the place of an older one.
pub async fn counts_nothing_but_a_real_and_complete_run_as_a_success(ledger: Arc<dyn Ledger>) {
    let mut number = 0;
    for mode in [Mode::Apply, Mode::DryRun] {
        for outcome in Outcome::ALL.into_iter().filter(|outcome| (mode, *outcome) != (Mode::Apply, Outcome::Done)) {
            number += 1;
            ledger.record(&Report { mode, outcome, ..report("a", number) }).await.expect("recorded");
        }
    }
    assert_eq!(ledger.last_success("a").await.expect("an answer"), None);
    for newer in [report("a", 100), report("a", 101)] {
        ledger.record(&newer).await.expect("recorded");
        assert_eq!(ledger.last_success("a").await.expect("an answer"), Some(newer.started_at));
    }
    assert_eq!(ledger.last_success("b").await.expect("an answer"), None);
}

/// A pause is on or off, and each of the two calls says whether it changed that.
pub async fn pauses_and_resumes_once(ledger: Arc<dyn Ledger>) {
    assert!(!ledger.is_paused("a").await.expect("an answer"));
    assert!(!ledger.resume("a").await.expect("an answer"));
    assert!(ledger.pause("a").await.expect("an answer"));
    assert!(!ledger.pause("a").await.expect("an answer"));
    assert!(ledger.is_paused("a").await.expect("an answer"));
    assert!(!ledger.is_paused("b").await.expect("an answer"));
    assert!(ledger.resume("a").await.expect("an answer"));
    assert!(!ledger.resume("a").await.expect("an answer"));
    assert!(!ledger.is_paused("a").await.expect("an answer"));
}

/// A later failure takes the place of an earlier one; a cleared one is gone, and clearing it again does no harm.
pub async fn remembers_how_often_an_item_failed(ledger: Arc<dyn Ledger>) {
    assert_eq!(backoffs(&*ledger, "a").await, []);
    for attempts in [1, u32::MAX] {
        let backoff = Backoff { attempts, next_at: at(i64::from(attempts)) };
        ledger.put_backoff("a", "x", &backoff).await.expect("recorded");
        assert_eq!(backoffs(&*ledger, "a").await, [("x".to_owned(), backoff)]);
    }
    for _ in 0..2 {
        ledger.clear_backoff("a", "x").await.expect("cleared");
        assert_eq!(backoffs(&*ledger, "a").await, []);
    }
}

/// As many as there are, whatever their names, due or not.
pub async fn gives_all_back_offs_of_a_job_by_item(ledger: Arc<dyn Ledger>) {
    let names =
        (0..ITEMS).map(|number| format!("item {number:04}")).chain(["\u{e4}", "B", "", "a b\nc"].map(str::to_owned));
    let mut expected: Vec<(String, Backoff)> =
        (0..).zip(names).map(|(number, name)| (name, failed(at(number)))).collect();
    for (item, backoff) in &expected {
        ledger.put_backoff("a", item, backoff).await.expect("recorded");
    }
    expected.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(backoffs(&*ledger, "a").await, expected);
}

/// What is finer than a millisecond is rounded up.
pub async fn keeps_when_an_item_is_due_to_the_millisecond_and_never_too_early(ledger: Arc<dyn Ledger>) {
    let milli = TimeDelta::milliseconds(1);
    for next_at in [at(1), at(1) - milli + TimeDelta::nanoseconds(1)] {
        ledger.put_backoff("a", "x", &failed(next_at)).await.expect("recorded");
        assert_eq!(backoffs(&*ledger, "a").await, [("x".to_owned(), failed(at(1)))]);
    }
}

/// A job sees its own.
pub async fn keeps_the_items_of_two_jobs_apart(ledger: Arc<dyn Ledger>) {
    for (job, seconds) in [("a", 1), ("a@host", 2)] {
        ledger.put_backoff(job, "x", &failed(at(seconds))).await.expect("recorded");
    }
    ledger.clear_backoff("a", "x").await.expect("cleared");
    assert_eq!(backoffs(&*ledger, "a").await, []);
    assert_eq!(backoffs(&*ledger, "a@host").await, [("x".to_owned(), failed(at(2)))]);
}

async fn backoffs(ledger: &dyn Ledger, job: &str) -> Vec<(String, Backoff)> {
    ledger.backoffs(job).await.expect("an answer").into_iter().collect()
}

const fn failed(next_at: DateTime<Utc>) -> Backoff {
    Backoff { attempts: 1, next_at }
}

/// So many seconds after a day in 2026, and a bit: reports keep what is finer than a second.
fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_147_200, 250_000_000).expect("a time") + TimeDelta::seconds(seconds)
}

/// A report of a complete run, different for each number.
fn report(job: &str, number: u32) -> Report {
    let started_at = at(i64::from(number)) + TimeDelta::nanoseconds(1);
    Report {
        id: format!("{number:026}-{job}"),
        host: "w1".to_owned(),
        seconds: 1.5,
        ..Report::new(job, "retention", Mode::Apply, Outcome::Done, started_at)
    }
}
