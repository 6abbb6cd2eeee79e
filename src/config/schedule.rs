//! When a job's ticks are: a cron expression in a time zone, or an interval.
//!
//! # Daylight saving
//! An expression whose minute and hour are written out (`30 2 * * *`, `0 2,14 * * 1`) names moments of a day. Each comes
//! once a day: a moment that the clock skips comes at the first instant after the gap, one that the clock repeats comes
//! the first time. An expression with a star in either field (`*/15 * * * *`) is a rhythm: it goes on through a repeated
//! hour, and leaves a skipped one out. No two ticks are ever equal.

use std::{
    fmt::{self, Display},
    time::Duration,
};

use chrono::{DateTime, MappedLocalTime, NaiveDate, NaiveDateTime, SubsecRound, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use croner::{
    Cron,
    errors::CronError,
    parser::{CronParser, Seconds, Year},
};

use super::values::duration;

/// The longest interval.
const EVERY_MAX: Duration = Duration::from_hours(366 * 24);
/// How far a clock goes back at most, in hours.
const FOLD_MAX_HOURS: i64 = 3;
/// How many minutes a clock skips at most: Samoa once left out a whole day.
const GAP_MAX_MINUTES: i64 = 25 * 60;
/// How many ticks of one expression are looked at, at most: one a minute for as long as a clock can go back, twice.
const LOOK_MAX: i64 = 2 * FOLD_MAX_HOURS * 60;

/// What a schedule must be.
const RULE: &str = "must be a cron expression of five fields (\"0 3 * * *\"), @hourly, @daily, @weekly, @monthly, @yearly or \"every 15m\"";

/// When a job's ticks are.
///
/// ```
/// use apalis_janitor::config::Schedule;
/// let nightly = Schedule::parse("0 3 * * *").unwrap();
/// let noon = "2026-11-20T12:00:00Z".parse().unwrap();
/// let next = nightly.next_after(noon, chrono_tz::Europe::Berlin).unwrap();
/// assert_eq!(next.to_rfc3339(), "2026-11-21T02:00:00+00:00");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    text: String,
    rhythm: Rhythm,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rhythm {
    /// Moments of a day: once each, whatever the clock does.
    Moments(Box<Cron>),
    /// As often as the wall clock shows a match.
    Stars(Box<Cron>),
    /// So many seconds apart, counted from the epoch.
    Every(i64),
}

impl Schedule {
    /// Reads a cron expression of five fields, `@daily` and its kin, or `every 15m`; the error is the rule that it breaks.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let rhythm = match text.strip_prefix("every").filter(|rest| rest.starts_with(char::is_whitespace)) {
            Some(interval) => every(interval.trim())?,
            None => cron(text)?,
        };
        Ok(Self { text: text.to_owned(), rhythm })
    }

    /// The first tick after `t`; none where there is no more that the calendar can hold.
    #[must_use]
    pub fn next_after(&self, t: DateTime<Utc>, tz: Tz) -> Option<DateTime<Utc>> {
        match &self.rhythm {
            Rhythm::Moments(cron) => {
                let mut wall = t.with_timezone(&tz).naive_local();
                for _ in 0..LOOK_MAX {
                    wall = cron.find_next_occurrence(&wall, false).ok()?;
                    if let Some(tick) = moment(wall, tz).filter(|tick| *tick > t) {
                        return Some(tick);
                    }
                }
                None
            }
            Rhythm::Stars(cron) => {
                let next = cron.find_next_occurrence(&t.with_timezone(&tz), false).ok()?;
                Some(next.with_timezone(&Utc))
            }
            Rhythm::Every(seconds) => at(t.timestamp().div_euclid(*seconds).checked_add(1)?.checked_mul(*seconds)?),
        }
    }

    /// The last tick at or before `now`, where it is not before `not_before`. It takes the same time after a year without
    /// a beat as after a minute.
    #[must_use]
    pub fn latest_at_or_before(&self, now: DateTime<Utc>, tz: Tz, not_before: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // No tick has a fraction of a second.
        let now = now.trunc_subsecs(0);
        let latest = match &self.rhythm {
            Rhythm::Moments(cron) => {
                // In a repeated hour, moments that the clock has yet to show again are past already.
                let mut wall = now.with_timezone(&tz).naive_local() + TimeDelta::hours(FOLD_MAX_HOURS);
                (0..LOOK_MAX).find_map(|_| {
                    wall = cron.find_previous_occurrence(&wall, false).ok()?;
                    moment(wall, tz).filter(|tick| *tick <= now)
                })?
            }
            Rhythm::Stars(cron) => {
                cron.find_previous_occurrence(&now.with_timezone(&tz), true).ok()?.with_timezone(&Utc)
            }
            Rhythm::Every(seconds) => at(now.timestamp().div_euclid(*seconds).checked_mul(*seconds)?)?,
        };
        (latest >= not_before).then_some(latest)
    }
}

impl Display for Schedule {
    /// The schedule as it was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn every(interval: &str) -> Result<Rhythm, String> {
    let length = duration(interval).map_err(|rule| format!("after \"every\": {rule}"))?;
    if length.subsec_nanos() != 0 || length.is_zero() || length > EVERY_MAX {
        return Err("the interval must be whole seconds, from 1s to 366d".to_owned());
    }
    Ok(Rhythm::Every(i64::try_from(length.as_secs()).expect("366 days of seconds fit")))
}

fn cron(text: &str) -> Result<Rhythm, String> {
    let expression = match text {
        "@hourly" => "0 * * * *",
        "@daily" | "@midnight" => "0 0 * * *",
        "@weekly" => "0 0 * * 0",
        "@monthly" => "0 0 1 * *",
        "@yearly" | "@annually" => "0 0 1 1 *",
        other => other,
    };
    let fields: Vec<&str> = expression.split_whitespace().collect();
    let [minute, hour, ..] = fields[..] else { return Err(RULE.to_owned()) };
    if fields.len() != 5 {
        return Err(format!("{RULE}; it has {} fields", fields.len()));
    }
    let cron =
        CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build().parse(expression).map_err(
            |error| match error {
                // It quotes the text, which may be anything.
                CronError::IllegalCharacters(_) => format!("{RULE}; a character in it cannot be there"),
                error => format!("{RULE}; {}", error.to_string().trim_end_matches('.')),
            },
        )?;
    let from = NaiveDate::from_ymd_opt(2000, 1, 1).expect("a date").and_time(chrono::NaiveTime::MIN);
    if cron.find_next_occurrence(&from, true).is_err() {
        return Err("never comes: no month has such a day".to_owned());
    }
    let stars = [minute, hour].iter().any(|field| field.contains('*'));
    let cron = Box::new(cron);
    Ok(if stars { Rhythm::Stars(cron) } else { Rhythm::Moments(cron) })
}

/// The instant at which a clock in `tz` first shows `wall`, or the first one after the gap that skips it.
fn moment(wall: NaiveDateTime, tz: Tz) -> Option<DateTime<Utc>> {
    (0..=GAP_MAX_MINUTES).find_map(|minutes| match tz.from_local_datetime(&(wall + TimeDelta::minutes(minutes))) {
        MappedLocalTime::Single(instant) | MappedLocalTime::Ambiguous(instant, _) => Some(instant.with_timezone(&Utc)),
        MappedLocalTime::None => None,
    })
}

fn at(seconds: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(seconds, 0)
}

#[cfg(test)]
mod tests {
    use chrono_tz::{America, Australia, Europe, Pacific};
    use proptest::prelude::*;

    use super::*;

    fn instant(text: &str) -> DateTime<Utc> {
        text.parse::<DateTime<chrono::FixedOffset>>().unwrap().with_timezone(&Utc)
    }

    /// All ticks in `[from, to)`, as the wall clock of `tz` shows them.
    fn ticks(schedule: &str, tz: Tz, from: &str, to: &str) -> Vec<String> {
        let schedule = Schedule::parse(schedule).unwrap();
        let (mut t, to) = (instant(from) - TimeDelta::seconds(1), instant(to));
        let mut all = Vec::new();
        while let Some(next) = schedule.next_after(t, tz).filter(|next| *next < to) {
            assert!(next > t);
            assert_eq!(schedule.latest_at_or_before(next, tz, next), Some(next));
            all.push(next.with_timezone(&tz).format("%d %H:%M%:z").to_string());
            t = next;
        }
        all
    }

    #[test]
    fn a_daily_job_runs_once_where_berlin_skips_an_hour() {
        let days = |schedule| ticks(schedule, Europe::Berlin, "2026-03-28T00:00:00+01:00", "2026-03-30T12:00:00+02:00");
        assert_eq!(days("30 2 * * *"), ["28 02:30+01:00", "29 03:00+02:00", "30 02:30+02:00"]);
        assert_eq!(days("0 2,14 * * 0"), ["29 03:00+02:00", "29 14:00+02:00"]);
        assert_eq!(days("0,30 2 29 3 *"), ["29 03:00+02:00"]);
        assert_eq!(days("0 3 * * *"), ["28 03:00+01:00", "29 03:00+02:00", "30 03:00+02:00"]);
    }

    #[test]
    fn a_daily_job_runs_once_where_berlin_repeats_an_hour() {
        let days = |schedule| ticks(schedule, Europe::Berlin, "2026-10-24T00:00:00+02:00", "2026-10-26T12:00:00+01:00");
        assert_eq!(days("30 2 * * *"), ["24 02:30+02:00", "25 02:30+02:00", "26 02:30+01:00"]);
        assert_eq!(days("0,45 2 25 * *"), ["25 02:00+02:00", "25 02:45+02:00"]);
        assert_eq!(days("0 3 * * *"), ["24 03:00+02:00", "25 03:00+01:00", "26 03:00+01:00"]);
    }

    #[test]
    fn a_daily_job_runs_once_in_new_york_and_on_lord_howe() {
        let new_york = |from, to| ticks("30 2 * * *", America::New_York, from, to);
        assert_eq!(new_york("2026-03-08T00:00:00-05:00", "2026-03-09T00:00:00-04:00"), ["08 03:00-04:00"]);
        let new_york = |from, to| ticks("30 1 * * *", America::New_York, from, to);
        assert_eq!(new_york("2026-11-01T00:00:00-04:00", "2026-11-02T00:00:00-05:00"), ["01 01:30-04:00"]);
        let lord_howe = |from, to| ticks("15 2 * * *", Australia::Lord_Howe, from, to);
        assert_eq!(lord_howe("2026-10-04T00:00:00+10:30", "2026-10-05T00:00:00+11:00"), ["04 02:30+11:00"]);
        let lord_howe = |from, to| ticks("45 1 * * *", Australia::Lord_Howe, from, to);
        assert_eq!(lord_howe("2026-04-05T00:00:00+11:00", "2026-04-06T00:00:00+10:30"), ["05 01:45+11:00"]);
    }

    #[test]
    fn a_day_that_samoa_left_out_runs_at_the_start_of_the_next() {
        let days = ticks("0 3 * * *", Pacific::Apia, "2011-12-29T00:00:00-10:00", "2012-01-01T00:00:00+14:00");
        assert_eq!(days, ["29 03:00-10:00", "31 00:00+14:00", "31 03:00+14:00"]);
    }

    #[test]
    fn a_rhythm_goes_on_through_a_repeated_hour() {
        let quarters = ticks("*/30 * * * *", Europe::Berlin, "2026-10-25T02:00:00+02:00", "2026-10-25T03:30:00+01:00");
        assert_eq!(
            quarters,
            ["25 02:00+02:00", "25 02:30+02:00", "25 02:00+01:00", "25 02:30+01:00", "25 03:00+01:00"]
        );
        let hours = ticks("@hourly", Europe::Berlin, "2026-03-29T01:00:00+01:00", "2026-03-29T05:00:00+02:00");
        assert_eq!(hours, ["29 01:00+01:00", "29 03:00+02:00", "29 04:00+02:00"]);
    }

    #[test]
    fn an_interval_is_aligned_to_the_epoch() {
        let quarters = ticks("every 15m", Europe::Berlin, "2026-10-25T02:31:00+02:00", "2026-10-25T02:10:00+01:00");
        assert_eq!(quarters, ["25 02:45+02:00", "25 02:00+01:00"]);
        let week = Schedule::parse("every 7d").unwrap().next_after(at(0).unwrap(), Tz::UTC).unwrap();
        assert_eq!(week.timestamp(), 7 * 86_400);
    }

    #[test]
    fn the_latest_tick_after_a_year_is_found_at_once() {
        let now = instant("2026-11-20T12:00:00.5Z");
        let year_ago = now - TimeDelta::days(365);
        for (schedule, latest) in [
            ("every 1s", Some("2026-11-20T12:00:00Z")),
            ("* * * * *", Some("2026-11-20T12:00:00Z")),
            ("0 3 * * *", Some("2026-11-20T03:00:00Z")),
            ("@yearly", Some("2026-01-01T00:00:00Z")),
            ("0 0 29 2 *", None),
        ] {
            let latest = latest.map(instant);
            assert_eq!(
                Schedule::parse(schedule).unwrap().latest_at_or_before(now, Tz::UTC, year_ago),
                latest,
                "{schedule}"
            );
        }
    }

    #[test]
    fn sunday_is_0_and_7_and_either_day_field_is_enough() {
        for sunday in ["0 0 * * 0", "0 0 * * 7", "0 0 * * SUN", "@weekly"] {
            assert_eq!(ticks(sunday, Tz::UTC, "2026-11-20T00:00:00Z", "2026-11-23T00:00:00Z"), ["22 00:00+00:00"]);
        }
        let either = ticks("0 0 21 * 1", Tz::UTC, "2026-11-20T00:00:00Z", "2026-11-24T00:00:00Z");
        assert_eq!(either, ["21 00:00+00:00", "23 00:00+00:00"]);
    }

    #[test]
    fn refuses_what_is_no_schedule() {
        for wrong in [
            "",
            "   ",
            "daily",
            "@reboot",
            "@Dialy",
            "* * * *",
            "0 0 3 * * *",
            "0 0 0 1 1 ? 2030",
            "60 * * * *",
            "0 24 * * *",
            "0 0 0 * *",
            "0 0 * 13 *",
            "0 0 31 2 *",
            "0 0 31 2,4,6,9,11 *",
            "0 0 30 2 *",
            "every",
            "every 0s",
            "every 250ms",
            "every 367d",
            "every -1m",
            "every 1M",
            "every 5",
            "every15m",
            "*/0 * * * *",
            "5-1 * * * *",
            "0 3 * * * UTC",
        ] {
            assert!(Schedule::parse(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(Schedule::parse("0 0 30 2 *").unwrap_err(), "never comes: no month has such a day");
        for right in ["0 0 31 * *", "0 0 29 2 *", "0 0 L * *", "0 9 * * 1#2", "every 1s", "every 366d", "  @midnight "]
        {
            Schedule::parse(right).unwrap();
        }
    }

    fn any_schedule() -> impl Strategy<Value = String> {
        prop_oneof![
            (1..100_000_u32).prop_map(|seconds| format!("every {seconds}s")),
            (0..60_u8, 0..24_u8).prop_map(|(minute, hour)| format!("{minute} {hour} * * *")),
            (0..60_u8, 0..5_u8, 1..4_u8)
                .prop_map(|(minute, hour, more)| format!("{minute},59 {hour}-{} * * *", hour + more)),
            (1..60_u8, 0..60_u8).prop_map(|(step, from)| format!("{from}-59/{step} * * * *")),
            (1..60_u8, 0..5_u8).prop_map(|(step, hour)| format!("*/{step} {hour}-{} * * *", hour + 1)),
            (0..60_u8, 1..24_u8, 1..29_u8, 0..7_u8)
                .prop_map(|(m, step, day, week)| format!("{m} */{step} {day} * {week}")),
        ]
    }

    fn any_zone() -> impl Strategy<Value = Tz> {
        proptest::sample::select(vec![
            Tz::UTC,
            Europe::Berlin,
            America::New_York,
            Australia::Lord_Howe,
            America::Havana,
            chrono_tz::Asia::Beirut,
        ])
    }

    /// Instants of 2026, mostly in the hours around a change of the clock.
    fn any_instant() -> impl Strategy<Value = DateTime<Utc>> {
        let changes = [
            "2026-03-08T06:00:00Z",
            "2026-03-29T00:00:00Z",
            "2026-04-04T14:00:00Z",
            "2026-10-03T15:00:00Z",
            "2026-10-25T00:00:00Z",
            "2026-11-01T05:00:00Z",
            "2026-03-28T22:00:00Z",
            "2026-10-24T21:00:00Z",
            "2026-06-01T00:00:00Z",
        ];
        (proptest::sample::select(changes.map(instant).to_vec()), -12 * 3_600_000..12 * 3_600_000_i64)
            .prop_map(|(near, off)| near + TimeDelta::milliseconds(off))
    }

    proptest! {
        #[test]
        fn ticks_grow_and_the_search_backward_finds_the_same(text in any_schedule(), tz in any_zone(), start in any_instant()) {
            let schedule = Schedule::parse(&text).unwrap();
            let mut t = start;
            for _ in 0..20 {
                let next = schedule.next_after(t, tz).unwrap();
                prop_assert!(next > t);
                let before = next - TimeDelta::milliseconds(1);
                prop_assert_eq!(schedule.latest_at_or_before(next, tz, next), Some(next));
                prop_assert!(schedule.latest_at_or_before(before, tz, DateTime::<Utc>::MIN_UTC) <= Some(t));
                prop_assert_eq!(schedule.latest_at_or_before(before, tz, t + TimeDelta::milliseconds(1)), None);
                if let Rhythm::Stars(cron) = &schedule.rhythm {
                    // No minute on which the clock shows a match was left out.
                    let minutes = (1..180).map(|minutes| t.trunc_subsecs(0) + TimeDelta::minutes(minutes));
                    for minute in minutes.map(|minute| at(minute.timestamp() / 60 * 60).unwrap()) {
                        let matches = cron.is_time_matching(&minute.with_timezone(&tz)).unwrap();
                        prop_assert!(!matches || minute <= t || minute >= next, "{minute}");
                    }
                }
                t = next;
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,40}|[-*/0-9,LW#@a-z? ]{0,30}|every .{0,20}") {
            let _ = Schedule::parse(&text);
        }
    }
}
