//! A year of a hundred jobs on five beats, whose clocks are wrong and which end and start again all the time.
//!
//! What must come is found by looking at every minute of the year as a clock on the wall shows it, without the parser and the
//! search of a [`Schedule`].

use chrono::{Datelike, Offset, TimeZone};
use chrono_tz::{Africa, America, Asia, Australia, Europe};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::*;

const JOBS: usize = 100;
const BEATS: usize = 5;
/// Of these one runs at every moment, with a clock that is nearly right, unless no beat runs at all.
const GOOD_BEATS: usize = 3;
const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// 2026 in UTC.
const YEAR: i64 = 365 * DAY;
/// How wrong a clock is that is nearly right, in seconds: a queue takes a tick that is a minute ahead.
const SKEW_MAX: i64 = 50;
/// So close to the end of a blackout it depends on the clocks whether a tick was missed.
const EDGE: i64 = 2 * MINUTE;

const ZONES: [Tz; 10] = [
    Tz::UTC,
    Europe::Berlin,
    America::New_York,
    Australia::Lord_Howe,
    // Here the skipped hour is the first of a day, or the last.
    America::Havana,
    America::Santiago,
    Asia::Beirut,
    Africa::Cairo,
    // Its clocks go back for Ramadan.
    Africa::Casablanca,
    Asia::Kathmandu,
];

/// When a job's ticks are, as sets of bits.
enum Rhythm {
    /// So many seconds apart, counted from the epoch.
    Every(i64),
    Cron {
        minutes: u64,
        hours: u64,
        days: Option<u64>,
        months: u64,
        weekdays: Option<u64>,
        /// Whether it goes on through a repeated hour, as a star in the minute or the hour says.
        is_rhythm: bool,
    },
}

struct Wish {
    name: String,
    timing: Timing,
    rhythm: Rhythm,
}

/// From `up` to `down`, in seconds of the year, a beat runs whose clock is `skew` seconds ahead.
struct Life {
    up: i64,
    down: i64,
    skew: i64,
}

fn bits(numbers: impl IntoIterator<Item = u32>) -> u64 {
    numbers.into_iter().fold(0, |bits, number| bits | 1 << number)
}

fn has(bits: u64, number: i64) -> bool {
    bits & (1 << number) != 0
}

fn start() -> DateTime<Utc> {
    // The first second of 2026.
    DateTime::from_timestamp(1_767_225_600, 0).unwrap()
}

/// One of a hundred schedules of every kind, whose ticks are five minutes apart at least.
fn wish(number: usize, random: &mut StdRng) -> Wish {
    let (m, h): (u32, u32) = (random.random_range(0..15), random.random_range(0..22));
    let (day, month, weekday) = (random.random_range(1..29), random.random_range(1..12), random.random_range(0..6));
    let (all, every_month) = (bits(0..24), bits(1..13));
    let cron = |minutes, hours, is_rhythm| (minutes, hours, None, every_month, None, is_rhythm);
    let (one, hour) = (bits([m]), bits([h]));
    let (text, (minutes, hours, days, months, weekdays, is_rhythm)) = match number % 14 {
        0 => (format!("{m} {h} * * *"), cron(one, hour, false)),
        // The hours of the night in which clocks change.
        1 => ("30 2 * * *".to_owned(), cron(bits([30]), bits([2]), false)),
        2 => (format!("{m} 0-3 * * *"), cron(one, bits(0..4), false)),
        3 => (format!("{m},{} {h},{} * * *", m + 30, h + 2), cron(bits([m, m + 30]), bits([h, h + 2]), false)),
        4 => (format!("{m} {h} * * 1-5"), (one, hour, None, every_month, Some(bits(1..6)), false)),
        5 => (format!("{m} {h} {day},31 * *"), (one, hour, Some(bits([day, 31])), every_month, None, false)),
        // Either day will do.
        6 => (
            format!("{m} {h} {day} * {weekday}"),
            (one, hour, Some(bits([day])), every_month, Some(bits([weekday])), false),
        ),
        7 => (format!("{m} {h} * {month},12 *"), (one, hour, None, bits([month, 12]), None, false)),
        8 => ("@daily".to_owned(), cron(1, 1, false)),
        9 => (format!("{m} * * * 1"), (one, all, None, every_month, Some(bits([1])), true)),
        10 => (format!("{m} */6 * * *"), cron(one, bits((0..24).step_by(6)), true)),
        11 => (
            "*/20 1-3 * * 6-7".to_owned(),
            (bits([0, 20, 40]), bits(1..4), None, every_month, Some(bits([0, 6])), true),
        ),
        12 if number < 14 => ("@hourly".to_owned(), cron(1, all, true)),
        12 => ("@weekly".to_owned(), (1, 1, None, every_month, Some(1), false)),
        _ => (String::new(), cron(0, 0, false)),
    };
    let catch_up = if random.random() { CatchUp::One } else { CatchUp::None };
    let jitter = Duration::from_secs(*[0, 0, 30, 120].choose(random).unwrap());
    let (text, timezone, rhythm) = if text.is_empty() {
        let minutes = *[100, 360, 1_440, 10_080, 43_200].choose(random).unwrap();
        (format!("every {minutes}m"), Tz::UTC, Rhythm::Every(minutes * MINUTE))
    } else {
        let zone = *ZONES.choose(random).unwrap();
        (text, zone, Rhythm::Cron { minutes, hours, days, months, weekdays, is_rhythm })
    };
    Wish {
        name: format!("job-{number}: {text}"),
        timing: Timing { timezone, catch_up, jitter, ..timing(&text) },
        rhythm,
    }
}

impl Rhythm {
    /// Whether a clock on the wall that shows `wall`, in seconds of the year, names a tick.
    fn names(&self, wall: i64) -> bool {
        let Self::Cron { minutes, hours, days, months, weekdays, .. } = self else { return false };
        if !has(*minutes, wall.div_euclid(MINUTE).rem_euclid(60)) || !has(*hours, wall.div_euclid(HOUR).rem_euclid(24))
        {
            return false;
        }
        let date = (start() + TimeDelta::seconds(wall)).date_naive();
        let of_month = days.map(|days| has(days, i64::from(date.day())));
        let of_week = weekdays.map(|days| has(days, i64::from(date.weekday().num_days_from_sunday())));
        let is_day = match (of_month, of_week) {
            (Some(of_month), Some(of_week)) => of_month || of_week,
            (one, other) => one.or(other).unwrap_or(true),
        };
        is_day && has(*months, i64::from(date.month()))
    }

    /// All ticks after the start of the year and up to its end, in seconds of the year.
    fn ticks(&self, zone: Tz) -> Vec<i64> {
        let minutes = (1..=YEAR / MINUTE).map(|minute| minute * MINUTE);
        let is_rhythm = match self {
            Self::Every(seconds) => {
                return minutes.filter(|at| (start().timestamp() + at) % seconds == 0).collect();
            }
            Self::Cron { is_rhythm, .. } => *is_rhythm,
        };
        let offset = |at: i64| {
            let at = zone.offset_from_utc_datetime(&(start() + TimeDelta::seconds(at)).naive_utc());
            i64::from(at.fix().local_minus_utc())
        };
        let (mut now, mut latest, mut ticks) = (offset(0), offset(0), Vec::new());
        for at in minutes {
            // Clocks change at a quarter of an hour.
            if at % (15 * MINUTE) == 0 {
                now = offset(at);
            }
            let wall = at + now;
            // A moment has come when the clock shows it, or a later one, for the first time.
            let mut passed = (latest.div_euclid(MINUTE) + 1..=wall.div_euclid(MINUTE)).map(|minute| minute * MINUTE);
            if if is_rhythm { self.names(wall) } else { passed.any(|wall| self.names(wall)) } {
                ticks.push(at);
            }
            latest = latest.max(wall);
        }
        ticks
    }
}

/// When no beat runs at all: once in each month, for a minute up to ten days.
fn blackouts(random: &mut StdRng) -> Vec<(i64, i64)> {
    let one = |month: i64| {
        let from = month * 30 * DAY + random.random_range(5 * DAY..15 * DAY);
        let most = *[HOUR, DAY, 10 * DAY].choose(random).unwrap();
        (from, from + random.random_range(MINUTE..most))
    };
    (0..12).map(one).collect()
}

/// The lives of a beat. A good one is away only in its own hours of a day, and for less than half of them.
fn lives(beat: usize, blackouts: &[(i64, i64)], random: &mut StdRng) -> Vec<Life> {
    let (mut lives, mut up) = (Vec::new(), 0);
    while up < YEAR {
        let life = if beat < GOOD_BEATS {
            let day = up / DAY + random.random_range(1..6);
            let turn = (i64::try_from(beat).unwrap() + day) % 3 * 8 * HOUR;
            let down = day * DAY + turn + random.random_range(0..4 * HOUR);
            Life { up, down, skew: random.random_range(-SKEW_MAX..=SKEW_MAX) }
        } else {
            // Far ahead it asks twice a minute for what the queue does not take yet.
            let skew = *[-DAY, -HOUR, -10 * MINUTE, HOUR].choose(random).unwrap();
            let most = if skew > 0 { 12 * HOUR } else { 20 * DAY };
            Life { up, down: up + random.random_range(HOUR..most), skew }
        };
        up = life.down
            + if beat < GOOD_BEATS { random.random_range(1..4 * HOUR) } else { random.random_range(1..5 * DAY) };
        lives.push(life);
    }
    for (from, to) in blackouts {
        // One whose clock is behind has not seen the blackout's end yet.
        let again = if beat < GOOD_BEATS { *to } else { to + 2 * DAY };
        let cut = lives.into_iter().flat_map(|Life { up, down, skew }| {
            let before = Life { up, down: down.min(*from), skew };
            [before, Life { up: up.max(again), down: down.min(YEAR), skew }]
        });
        lives = cut.filter(|life| life.up < life.down.min(YEAR)).collect();
    }
    lives
}

/// What the beats did: each tick that the queue took, in seconds of the year, with when it did, by job.
fn live(wishes: &[Wish], lives: Vec<Vec<Life>>) -> BTreeMap<String, Vec<(i64, i64)>> {
    let jobs: Vec<_> = wishes.iter().map(|wish| (wish.name.as_str(), wish.timing.clone())).collect();
    let mut queue =
        FakeQueue { last: jobs.iter().map(|(job, _)| ((*job).to_owned(), start())).collect(), ..FakeQueue::default() };
    let at = |seconds| start() + TimeDelta::seconds(seconds);
    let mut beats: Vec<_> =
        lives.into_iter().map(|lives| (lives.into_iter().peekable(), None::<(DateTime<Utc>, Beat)>)).collect();
    let mut taken: BTreeMap<String, Vec<(i64, i64)>> = BTreeMap::new();
    loop {
        // Who has the next thing to do, and when.
        let next = beats.iter_mut().enumerate().filter_map(|(number, (lives, beat))| {
            Some((beat.as_ref().map_or(at(lives.peek()?.up), |(wake, _)| *wake), number))
        });
        let Some((now, number)) = next.min() else { break };
        let (lives, beat) = &mut beats[number];
        let life = lives.peek().expect("who has a thing to do lives");
        if now >= at(life.down) {
            (_, *beat) = (lives.next(), None);
            continue;
        }
        let (wake, beat) = beat.get_or_insert_with(|| (now, Beat::skewed(&jobs, now, TimeDelta::seconds(life.skew))));
        let known = queue.taken.len();
        // Where it has nothing to do it sleeps until its end.
        *wake = beat.round(&mut queue, now).unwrap_or(at(life.down));
        for (job, tick) in &queue.taken[known..] {
            let second = |instant: DateTime<Utc>| (instant - start()).num_seconds();
            taken.entry(job.clone()).or_default().push((second(*tick), second(now)));
        }
    }
    taken
}

/// What is to become of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Once,
    Never,
    /// It was due so close to the end of a blackout that the clocks decide.
    Maybe,
}

/// What is to become of a tick, before which and after which no beat ran for some time; `next` is the one after it.
fn fate(tick: i64, next: i64, timing: &Timing, blackouts: &[(i64, i64)]) -> Fate {
    let latest = tick + i64::try_from(timing.jitter.as_secs()).unwrap();
    if latest > YEAR - EDGE {
        return Fate::Maybe;
    }
    let Some((from, to)) = blackouts.iter().find(|(from, to)| latest >= from - EDGE && tick <= to + EDGE) else {
        return Fate::Once;
    };
    let is_within = tick >= from + EDGE && latest <= to - EDGE;
    match timing.catch_up {
        // The latest that was missed is made up.
        CatchUp::One if next > to + EDGE && tick <= to - EDGE => Fate::Once,
        CatchUp::One if is_within && next <= to - EDGE => Fate::Never,
        CatchUp::None if is_within => Fate::Never,
        CatchUp::One | CatchUp::None => Fate::Maybe,
    }
}

#[test]
fn a_year_of_a_hundred_jobs_on_five_wrong_clocks_has_each_tick_once() {
    let seed = std::env::var("JANITOR_TESTS_SEED").map_or(1, |text| text.parse().unwrap());
    println!("JANITOR_TESTS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let wishes: Vec<_> = (0..JOBS).map(|number| wish(number, &mut random)).collect();
    let blackouts = blackouts(&mut random);
    let taken = live(&wishes, (0..BEATS).map(|beat| lives(beat, &blackouts, &mut random)).collect());
    let (mut once, mut never, mut maybe) = (0, 0, 0);
    for Wish { name, timing, rhythm } in &wishes {
        let ticks = rhythm.ticks(timing.timezone);
        let mut taken = taken.get(name).cloned().unwrap_or_default().into_iter().peekable();
        for (number, tick) in ticks.iter().enumerate() {
            let next = ticks.get(number + 1).copied().unwrap_or(i64::MAX);
            let fate = fate(*tick, next, timing, &blackouts);
            // In order: what is taken twice, or is no tick, is not the next one either.
            let got = taken.next_if(|(taken, _)| taken == tick);
            let told =
                format!("{name} in {}: {} was taken {got:?}", timing.timezone, start() + TimeDelta::seconds(*tick));
            match fate {
                Fate::Once => once += 1,
                Fate::Never => never += 1,
                Fate::Maybe => maybe += 1,
            }
            assert!(fate == Fate::Maybe || got.is_some() == (fate == Fate::Once), "{told}, and must be {fate:?}");
            let Some((_, at)) = got else { continue };
            let jitter = i64::try_from(timing.jitter.as_secs()).unwrap();
            let away = blackouts
                .iter()
                .find(|(from, to)| *tick >= from - jitter - EDGE && tick <= to)
                .map_or(0, |(_, to)| to - tick);
            assert!(
                (tick - MINUTE..=tick + jitter.max(away) + jitter + SKEW_MAX).contains(&at),
                "{told}: too early or late"
            );
        }
        assert_eq!(taken.next(), None, "{name} in {}", timing.timezone);
    }
    println!("{once} once, {never} never, {maybe} by the clocks");
    assert!(
        once > 20 * never && never > 100 * JOBS / 10 && maybe < once / 100,
        "{once} once, {never} never, {maybe} maybe"
    );
}
