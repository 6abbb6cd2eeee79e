use super::*;

const JOB: &str = "j";
/// When the first tick of every history here is.
const START: Millis = 1_000_000;
const EVERY: Millis = 1_000;

fn tick(number: i64) -> Millis {
    START + number * EVERY
}

/// The lock's number of the execution of a tick: its instant.
fn fence(number: i64) -> u64 {
    u64::try_from(tick(number)).unwrap()
}

fn told(number: i64) -> Told {
    Told {
        job: JOB.to_owned(),
        request: Some(format!("request {number}")),
        tick: Some(tick(number)),
        outcome: Outcome::Limited,
        fence: Some(fence(number)),
        deleted: 2,
        took: 300,
    }
}

fn raise(number: i64) -> Seen {
    Seen { job: JOB.to_owned(), at: tick(number), fence: fence(number), run: None }
}

fn delete(number: i64, run: &str) -> Seen {
    Seen { run: Some(run.to_owned()), ..raise(number) }
}

fn fault(from: i64, to: i64) -> Fault {
    let (from, to) = (tick(from), tick(to));
    Fault { what: "it broke", from, to, blind: None, forgets: false, mutes_store: false }
}

/// Ten ticks, each of which was asked for, executed and reported once, with two runs gone.
fn good() -> History {
    let asked = |number| Asked {
        job: JOB.to_owned(),
        tick: Some(tick(number)),
        id: format!("request {number}"),
        at: tick(number) + 5,
    };
    let seen = |number| [raise(number), delete(number, &format!("{number}a")), delete(number, &format!("{number}b"))];
    History {
        asked: (0..10).map(asked).collect(),
        told: (0..10).map(told).collect(),
        seen: (0..10).flat_map(seen).collect(),
        faults: Vec::new(),
        every: EVERY,
        until: tick(10),
    }
}

/// What is found wrong with the good history after a change.
fn breaches(change: impl FnOnce(&mut History)) -> Vec<Breach> {
    let mut history = good();
    change(&mut history);
    check(&history)
}

fn job() -> String {
    JOB.to_owned()
}

#[test]
fn a_good_history_passes() {
    assert_eq!(breaches(|_| {}), []);
    let summary = Summary::of(&good());
    assert_eq!((summary.ticks, summary.effective, summary.made_up, summary.cut_short), (10, 10, 0, 0));
}

#[test]
fn a_tick_that_was_executed_twice_is_refused() {
    let twice = |history: &mut History| {
        let again = Told { request: Some("another".to_owned()), fence: Some(fence(3) + 1), deleted: 0, ..told(3) };
        history.told.push(again);
    };
    assert_eq!(breaches(twice), [Breach::Double { job: job(), tick: tick(3) }]);
    let excused = |history: &mut History| {
        twice(history);
        history.faults.push(Fault { forgets: true, ..fault(4, 5) });
    };
    assert_eq!(breaches(excused), []);
    let late = |history: &mut History| {
        twice(history);
        history.faults.push(Fault { forgets: true, ..fault(14, 15) });
    };
    assert_eq!(breaches(late).len(), 1, "it was over before Redis forgot");
}

#[test]
fn an_execution_that_did_not_get_the_lock_is_no_second_one() {
    let busy = Told { outcome: Outcome::Busy, fence: None, deleted: 0, request: Some("by hand".to_owned()), ..told(3) };
    assert_eq!(breaches(|history| history.told.push(busy)), []);
}

#[test]
fn a_tick_that_nobody_asked_for_is_refused_unless_the_beats_were_away() {
    let lost = |history: &mut History| {
        history.asked.remove(4);
        history.told.remove(4);
        history.seen.retain(|seen| seen.fence != fence(4));
    };
    assert_eq!(breaches(lost), [Breach::LostTick { job: job(), tick: tick(4) }]);
    for (fault, is_excused) in [
        (Fault { blind: Some(0), ..fault(3, 5) }, true),
        (Fault { blind: Some(EVERY), ..fault(2, 3) }, true),
        (Fault { blind: Some(EVERY - 1), ..fault(2, 3) }, false),
        (fault(3, 5), false),
        (Fault { blind: Some(0), ..fault(6, 7) }, false),
    ] {
        let found = breaches(|history| {
            lost(history);
            history.faults.push(fault.clone());
        });
        assert_eq!(found.is_empty(), is_excused, "{fault:?}");
    }
}

#[test]
fn the_last_tick_may_still_be_on_its_way() {
    let unasked = |number: i64| {
        breaches(|history| {
            history.asked.retain(|asked| asked.tick < Some(tick(number)));
            history.told.retain(|told| told.tick < Some(tick(number)));
            history.seen.retain(|seen| seen.fence < fence(number));
            history.until = tick(9) + EVERY - 1;
        })
    };
    assert_eq!(unasked(9), []);
    assert_eq!(unasked(8), [Breach::LostTick { job: job(), tick: tick(8) }]);
}

#[test]
fn a_request_without_a_report_is_refused() {
    let by_hand = Asked { job: job(), tick: None, id: "by hand".to_owned(), at: tick(5) };
    let found = breaches(|history| history.asked.push(by_hand.clone()));
    assert_eq!(found, [Breach::NoReport { job: job(), id: "by hand".to_owned() }]);
    let silent = breaches(|history| {
        history.told.remove(5);
        history.seen.retain(|seen| seen.fence != fence(5));
    });
    assert_eq!(silent, [Breach::NoReport { job: job(), id: "request 5".to_owned() }]);
    let forgotten = breaches(|history| {
        history.asked.push(by_hand);
        history.faults.push(Fault { forgets: true, ..fault(6, 6) });
    });
    assert_eq!(forgotten, []);
}

#[test]
fn a_request_with_two_reports_is_refused() {
    let skipped = Told { outcome: Outcome::Skipped, fence: None, deleted: 0, ..told(2) };
    let found = breaches(|history| history.told.push(skipped));
    assert_eq!(found, [Breach::TwoReports { job: job(), id: "request 2".to_owned() }]);
    let of_another = Told { job: "k@host".to_owned(), ..told(2) };
    assert_eq!(breaches(|history| history.told.push(Told { deleted: 0, ..of_another })), [], "on a queue of its own");
}

#[test]
fn two_executions_under_one_fence_are_refused() {
    let found = breaches(|history| history.told[6].fence = Some(fence(5)));
    assert!(found.contains(&Breach::SameFence { job: job(), fence: fence(5) }), "{found:?}");
    let found = breaches(|history| history.seen.insert(1, raise(0)));
    assert_eq!(found, [Breach::SameFence { job: job(), fence: fence(0) }]);
}

#[test]
fn a_fence_that_falls_is_refused() {
    let found = breaches(|history| history.seen.swap(0, 3));
    assert!(found.contains(&Breach::FenceFell { job: job(), before: fence(1), after: fence(0) }), "{found:?}");
}

#[test]
fn a_delete_under_a_fence_of_the_past_is_refused() {
    let found = breaches(|history| {
        let late = history.seen.remove(2);
        history.seen.insert(5, late);
    });
    assert_eq!(found, [Breach::FenceFell { job: job(), before: fence(1), after: fence(0) }]);
}

#[test]
fn a_delete_under_a_fence_that_nobody_raised_is_refused() {
    let found = breaches(|history| history.seen.retain(|seen| seen.run.is_some() || seen.fence != fence(7)));
    assert!(found.contains(&Breach::NoHolder { job: job(), fence: fence(7) }), "{found:?}");
}

#[test]
fn a_delete_that_the_holder_of_the_fence_does_not_know_of_is_refused() {
    let stale = |history: &mut History| history.seen.push(delete(9, "one more"));
    assert_eq!(breaches(stale), [Breach::StaleDelete { job: job(), fence: fence(9), told: 2, seen: 3 }]);
    let unknown = breaches(|history| history.told[9].deleted = 3);
    assert_eq!(unknown, [Breach::StaleDelete { job: job(), fence: fence(9), told: 3, seen: 2 }]);
    let mute = |outcome| {
        breaches(|history| {
            stale(history);
            history.told[9].outcome = outcome;
            history.faults.push(Fault { mutes_store: true, ..fault(9, 9) });
        })
    };
    assert_eq!(mute(Outcome::Failed), [], "the answer to its last batch was lost");
    assert_eq!(mute(Outcome::Limited).len(), 1);
}

#[test]
fn a_run_that_went_twice_is_refused() {
    let found = breaches(|history| history.seen[8].run = Some("0a".to_owned()));
    assert_eq!(found, [Breach::TwiceDeleted { job: job(), run: "0a".to_owned() }]);
}

#[test]
fn an_execution_that_vanished_is_refused_unless_something_broke() {
    let vanish = |history: &mut History| {
        history.seen.insert(27, Seen { fence: fence(8) + 500, at: tick(8) + 500, ..raise(8) });
    };
    assert_eq!(breaches(vanish), [Breach::Vanished { job: job(), fence: fence(8) + 500 }]);
    let broken = |from, to| {
        breaches(|history| {
            vanish(history);
            history.faults.push(fault(from, to));
        })
    };
    assert_eq!(broken(9, 9), []);
    assert_eq!(broken(1, 7).len(), 1, "it began after the fault");
    assert_eq!(broken(19, 20).len(), 1, "it was over long before");
}
