mod year;

use std::collections::BTreeMap;

use chrono_tz::Tz;

use super::*;
use crate::config::Schedule;

fn instant(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn timing(schedule: &str) -> Timing {
    let schedule = Schedule::parse(schedule).unwrap();
    Timing { schedule, timezone: Tz::UTC, catch_up: CatchUp::One, jitter: Duration::ZERO }
}

/// The rule by which a queue takes ticks, with its own clock.
#[derive(Default)]
struct FakeQueue {
    last: BTreeMap<String, DateTime<Utc>>,
    taken: Vec<(String, DateTime<Utc>)>,
    asked: usize,
}

impl FakeQueue {
    fn of(job: &str, last: &str) -> Self {
        Self { last: BTreeMap::from([(job.to_owned(), instant(last))]), ..Self::default() }
    }

    fn ticks(&self, job: &str) -> Vec<String> {
        let taken = self.taken.iter().filter(|(name, _)| name == job);
        taken.map(|(_, tick)| tick.format("%m-%d %H:%M").to_string()).collect()
    }
}

/// A beat whose clock is `skew` ahead of the queue's.
struct Beat {
    planner: Planner,
    skew: TimeDelta,
}

impl Beat {
    fn start(jobs: &[(&str, Timing)], now: DateTime<Utc>) -> Self {
        Self::skewed(jobs, now, TimeDelta::zero())
    }

    fn skewed(jobs: &[(&str, Timing)], now: DateTime<Utc>, skew: TimeDelta) -> Self {
        let jobs = jobs.iter().map(|(name, timing)| ((*name).to_owned(), timing.clone()));
        Self { planner: Planner::new(jobs, now + skew), skew }
    }

    /// One round at the queue's time `now`; the queue's time at which the next one is due.
    fn round(&mut self, queue: &mut FakeQueue, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let own = now + self.skew;
        for job in self.planner.unknown() {
            let last = *queue.last.entry(self.planner.name(job).to_owned()).or_insert(own);
            self.planner.settle(job, last);
        }
        let mut ahead = None;
        for Due { job, tick } in self.planner.plan(own).due {
            queue.asked += 1;
            let name = self.planner.name(job).to_owned();
            if tick > now + TimeDelta::minutes(1) {
                self.planner.hold(job, tick);
                ahead = Some(own + TimeDelta::seconds(30));
                continue;
            }
            let last = queue.last.get_mut(&name).unwrap();
            if tick > *last {
                *last = tick;
                queue.taken.push((name, tick));
            }
            self.planner.settle(job, tick);
        }
        let after = self.planner.plan(own);
        // What fell due meanwhile is offered in the next round, a second later at most.
        let again = ahead.or_else(|| (!after.due.is_empty()).then(|| own + TimeDelta::seconds(1)));
        [after.wake, again].into_iter().flatten().min().map(|wake| wake - self.skew)
    }

    /// Rounds at each instant that the planner asks for, to `end`.
    fn live(&mut self, queue: &mut FakeQueue, mut now: DateTime<Utc>, end: DateTime<Utc>) {
        while now < end {
            now = self.round(queue, now).unwrap_or(end);
        }
    }
}

#[test]
fn a_year_of_nights_has_each_tick_once() {
    let jobs = [("nightly", Timing { timezone: chrono_tz::Europe::Berlin, ..timing("30 2 * * *") })];
    let (start, end) = (instant("2026-01-01T00:00:00Z"), instant("2027-01-01T00:00:00Z"));
    let mut queue = FakeQueue::default();
    Beat::start(&jobs, start).live(&mut queue, start, end);
    let ticks = queue.ticks("nightly");
    assert_eq!(ticks.len(), 365);
    // The nights in which the clocks change.
    assert_eq!(ticks[86..89], ["03-28 01:30", "03-29 01:00", "03-30 00:30"]);
    assert_eq!(ticks[296..299], ["10-24 00:30", "10-25 00:30", "10-26 01:30"]);
    let mut days: Vec<_> =
        queue.taken.iter().map(|(_, tick)| tick.with_timezone(&chrono_tz::Europe::Berlin).date_naive()).collect();
    days.dedup();
    assert_eq!(days.len(), 365);
}

#[test]
fn five_beats_with_skewed_clocks_enqueue_each_tick_once() {
    let jobs = [("quarter", timing("every 15m")), ("daily", timing("@daily"))];
    let (start, end) = (instant("2026-11-20T00:00:00Z"), instant("2026-12-20T00:00:00Z"));
    let skews = [-3_600, -20, 0, 30, 3_600].map(TimeDelta::seconds);
    let mut queue =
        FakeQueue { last: jobs.iter().map(|(job, _)| ((*job).to_owned(), start)).collect(), ..FakeQueue::default() };
    let mut beats = skews.map(|skew| (start, Beat::skewed(&jobs, start, skew)));
    while let Some((at, beat)) = beats.iter_mut().min_by_key(|(at, _)| *at).filter(|(at, _)| *at <= end) {
        *at = beat.round(&mut queue, *at).unwrap();
    }
    assert_eq!(queue.ticks("daily").len(), 30);
    let quarters: Vec<_> = queue.taken.iter().filter(|(job, _)| job == "quarter").map(|(_, tick)| *tick).collect();
    let expected: Vec<_> = (1..=30 * 96).map(|number| start + TimeDelta::minutes(15 * number)).collect();
    assert_eq!(quarters, expected);
}

#[test]
fn a_clock_that_is_ahead_cannot_starve_a_job() {
    // Every tick that this beat sees as the latest lies ahead for the queue: it waits with the one that it was refused.
    let jobs = [("minutely", timing("every 1m"))];
    let start = instant("2026-11-20T12:00:00Z");
    let mut queue = FakeQueue::of("minutely", "2026-11-20T12:00:00Z");
    let mut beat = Beat::skewed(&jobs, start, TimeDelta::minutes(10));
    beat.live(&mut queue, start, start + TimeDelta::hours(1));
    assert!(queue.taken.len() >= 5, "{:?}", queue.taken);
    // And its clock is set right: what it held back is forgotten.
    beat.skew = TimeDelta::zero();
    let (from, before) = (start + TimeDelta::hours(1), queue.taken.len());
    beat.live(&mut queue, from, from + TimeDelta::minutes(10));
    assert!(queue.taken.len() >= before + 8, "{:?}", queue.taken);
}

#[test]
fn a_job_never_seen_before_starts_from_now() {
    let now = instant("2026-11-20T12:00:00Z");
    let mut queue = FakeQueue::default();
    let wake = Beat::start(&[("daily", timing("@daily"))], now).round(&mut queue, now);
    assert_eq!(queue.taken, []);
    assert_eq!(wake, Some(instant("2026-11-21T00:00:00Z")));
}

#[test]
fn after_downtime_only_the_latest_missed_tick_is_made_up() {
    let now = instant("2026-11-20T12:34:56Z");
    for schedule in ["every 15m", "*/15 * * * *"] {
        let mut queue = FakeQueue::of("quarter", "2025-11-20T12:00:00Z");
        let wake = Beat::start(&[("quarter", timing(schedule))], now).round(&mut queue, now);
        assert_eq!(queue.ticks("quarter"), ["11-20 12:30"]);
        assert_eq!(wake, Some(instant("2026-11-20T12:45:00Z")));
    }
}

#[test]
fn catch_up_none_drops_what_was_missed_and_takes_what_comes() {
    let now = instant("2026-11-20T12:30:00Z");
    let jobs = [("quarter", Timing { catch_up: CatchUp::None, ..timing("every 15m") })];
    let mut queue = FakeQueue::of("quarter", "2026-11-20T10:00:00Z");
    let mut beat = Beat::start(&jobs, now);
    assert_eq!(beat.round(&mut queue, now), Some(instant("2026-11-20T12:45:00Z")));
    assert_eq!(queue.taken, []);
    beat.round(&mut queue, instant("2026-11-20T12:45:00.2Z"));
    assert_eq!(queue.ticks("quarter"), ["11-20 12:45"]);
    // The machine slept for hours.
    let woken = instant("2026-11-20T20:05:00Z");
    beat.planner.leapt(woken);
    assert_eq!(beat.round(&mut queue, woken), Some(instant("2026-11-20T20:15:00Z")));
    assert_eq!(queue.ticks("quarter"), ["11-20 12:45"]);
    // It lived, but the queue could not be reached for an hour: one tick is made up.
    beat.round(&mut queue, instant("2026-11-20T21:20:00Z"));
    assert_eq!(queue.ticks("quarter"), ["11-20 12:45", "11-20 21:15"]);
}

#[test]
fn restarts_at_any_moment_neither_lose_nor_double_a_tick() {
    let jobs = [("quarter", timing("every 15m"))];
    let start = instant("2026-11-20T00:00:00Z");
    let mut queue = FakeQueue::of("quarter", "2026-11-20T00:00:00Z");
    for minute in 0..=24 * 60 {
        let now = start + TimeDelta::minutes(minute);
        Beat::start(&jobs, now).round(&mut queue, now);
    }
    let expected: Vec<_> =
        (1..=96).map(|number| ("quarter".to_owned(), start + TimeDelta::minutes(15 * number))).collect();
    assert_eq!(queue.taken, expected);
}

#[test]
fn a_clock_set_back_runs_nothing_twice_and_one_set_ahead_runs_once() {
    let jobs = [("hourly", timing("@hourly"))];
    let mut queue = FakeQueue::of("hourly", "2026-11-20T09:00:00Z");
    let mut beat = Beat::start(&jobs, instant("2026-11-20T09:30:00Z"));
    beat.round(&mut queue, instant("2026-11-20T10:00:00Z"));
    // Back by two hours: nothing until the clock shows 11:00.
    let back = instant("2026-11-20T08:00:00Z");
    assert_eq!(beat.round(&mut queue, back), Some(instant("2026-11-20T11:00:00Z")));
    beat.live(&mut queue, back, instant("2026-11-20T12:30:00Z"));
    assert_eq!(queue.ticks("hourly"), ["11-20 10:00", "11-20 11:00", "11-20 12:00"]);
    // Ahead by a day: the latest only.
    beat.planner.leapt(instant("2026-11-21T12:30:00Z"));
    beat.round(&mut queue, instant("2026-11-21T12:30:00Z"));
    assert_eq!(queue.ticks("hourly")[3..], ["11-21 12:00"]);
}

#[test]
fn catch_up_none_goes_on_after_a_wrong_clock_was_set_back() {
    let jobs = [("hourly", Timing { catch_up: CatchUp::None, ..timing("@hourly") })];
    let mut queue = FakeQueue::of("hourly", "2026-11-20T09:00:00Z");
    let mut beat = Beat::start(&jobs, instant("2027-11-20T09:30:00Z"));
    beat.round(&mut queue, instant("2026-11-20T09:30:00Z"));
    beat.live(&mut queue, instant("2026-11-20T09:31:00Z"), instant("2026-11-20T11:30:00Z"));
    assert_eq!(queue.ticks("hourly"), ["11-20 10:00", "11-20 11:00"]);
}

#[test]
fn jitter_delays_by_the_same_for_all_beats_and_never_past_the_next_tick() {
    let start = instant("2026-11-20T00:00:00Z");
    let jittered = |jitter| [("quarter", Timing { jitter: Duration::from_secs(jitter), ..timing("every 15m") })];
    let mut delays = Vec::new();
    for jitter in [600, 1_000_000] {
        let mut queue = FakeQueue::of("quarter", "2026-11-20T00:00:00Z");
        let mut beats = [0, 5].map(|_| (start, Beat::start(&jittered(jitter), start)));
        for _ in 0..400 {
            let (at, beat) = beats.iter_mut().min_by_key(|(at, _)| *at).unwrap();
            let (asked, now) = (queue.taken.len(), *at);
            *at = beat.round(&mut queue, now).unwrap();
            if let Some((_, tick)) = queue.taken.get(asked) {
                delays.push((now - *tick).num_seconds());
                let most = i64::try_from(jitter.min(900)).unwrap();
                assert!((0..most).contains(&(now - *tick).num_seconds()), "{tick} at {now}");
            }
        }
        assert_eq!(beats[0].0, beats[1].0);
        let expected: Vec<_> = (1..=queue.taken.len())
            .map(|number| start + TimeDelta::minutes(15 * i64::try_from(number).unwrap()))
            .collect();
        assert_eq!(queue.taken.iter().map(|(_, tick)| *tick).collect::<Vec<_>>(), expected);
    }
    delays.sort_unstable();
    delays.dedup();
    assert!(delays.len() > 100, "jitter scatters: {delays:?}");
}

#[test]
fn a_thousand_idle_jobs_cost_a_look_and_no_question() {
    let names: Vec<_> = (0..1_000).map(|number| format!("job-{number}")).collect();
    let jobs: Vec<_> = names.iter().map(|name| (name.as_str(), timing("0 3 * * *"))).collect();
    let now = instant("2026-11-20T12:00:00Z");
    let mut queue = FakeQueue::default();
    let mut beat = Beat::start(&jobs, now);
    beat.round(&mut queue, now);
    for second in 0..3_600 {
        beat.round(&mut queue, now + TimeDelta::seconds(second));
    }
    assert_eq!(queue.asked, 0);
}
