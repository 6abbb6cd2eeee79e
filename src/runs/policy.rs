//! Which runs may go: pure, and the same for every store.

use chrono::{DateTime, TimeDelta, Utc};

use super::Seen;
use crate::config::{Keep, RetentionConfig, RetentionDays, Rule};

/// A run is made before it is last written, but clocks differ.
const SKEW_MAX: TimeDelta = TimeDelta::days(1);

/// A job's rules with the cutoffs that they mean at one instant.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Vec<(Rule, Verdict)>,
    rest: Verdict,
    horizon: DateTime<Utc>,
    terminal: &'static [&'static str],
}

/// What a rule says of the runs that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    Before(DateTime<Utc>),
}

/// Why a run stays, or that it may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It has ended before its cutoff; it goes if every run below it goes.
    Eligible,
    /// It has not ended, or not long enough ago.
    Alive,
    /// A rule keeps what would have been old enough by the job's own days.
    Rule,
    /// When it was made or last written cannot be read.
    UnreadableTime,
}

impl Policy {
    /// The policy at `now`, with every cutoff at `before` at the latest.
    ///
    /// `None` where neither the job nor a rule sets days: then nothing goes.
    #[must_use]
    pub fn new(
        config: &RetentionConfig,
        terminal: &'static [&'static str],
        now: DateTime<Utc>,
        before: Option<DateTime<Utc>>,
    ) -> Option<Self> {
        let cutoff = |days: RetentionDays| {
            let age = now.checked_sub_signed(TimeDelta::days(days.get().into())).unwrap_or(DateTime::<Utc>::MIN_UTC);
            Verdict::Before(before.map_or(age, |before| age.min(before)))
        };
        let rest = config.retention_days.map_or(Verdict::Keep, cutoff);
        let rules: Vec<_> = config
            .rules
            .iter()
            .map(|rule| {
                let verdict = match rule.keep {
                    Keep::Forever => Verdict::Keep,
                    Keep::Days(days) => cutoff(days),
                };
                (rule.clone(), verdict)
            })
            .collect();
        let mut policy = Self { rules, rest, horizon: DateTime::<Utc>::MIN_UTC, terminal };
        policy.horizon = policy.latest_cutoff()?.checked_add_signed(SKEW_MAX).unwrap_or(DateTime::<Utc>::MAX_UTC);
        Some(policy)
    }

    /// No run that was made at this instant or later goes, whatever its last update says: sweeps need not look there.
    #[must_use]
    pub const fn horizon(&self) -> DateTime<Utc> {
        self.horizon
    }

    /// The cutoff of the job's own days, which signals and schedules go by.
    #[must_use]
    pub const fn own_cutoff(&self) -> Option<DateTime<Utc>> {
        match self.rest {
            Verdict::Before(cutoff) => Some(cutoff),
            Verdict::Keep => None,
        }
    }

    /// The latest cutoff of all rules: no run at or after it goes.
    #[must_use]
    pub fn latest_cutoff(&self) -> Option<DateTime<Utc>> {
        let own = self.own_cutoff();
        let ruled = self.rules.iter().filter_map(|(_, verdict)| match verdict {
            Verdict::Before(cutoff) => Some(*cutoff),
            Verdict::Keep => None,
        });
        own.into_iter().chain(ruled).max()
    }

    /// What becomes of `run`, but for the runs below it.
    #[must_use]
    pub fn decide(&self, run: &Seen) -> Decision {
        if !self.terminal.contains(&run.status.as_str()) {
            return Decision::Alive;
        }
        let (Some(updated_at), Some(created_at)) = (run.updated_at.instant, run.created_at.instant) else {
            return Decision::UnreadableTime;
        };
        if created_at >= self.horizon {
            return Decision::Alive;
        }
        let first = self.rules.iter().find(|(rule, _)| matches(rule, run));
        match first.map_or(self.rest, |(_, verdict)| *verdict) {
            Verdict::Before(cutoff) if updated_at < cutoff => Decision::Eligible,
            // Counted only where the rule is why it stays: the job's own days would have let it go.
            _ if first.is_some() && self.own_cutoff().is_some_and(|cutoff| updated_at < cutoff) => Decision::Rule,
            _ => Decision::Alive,
        }
    }
}

fn matches(rule: &Rule, run: &Seen) -> bool {
    rule.workflow.as_ref().is_none_or(|glob| glob.matches(&run.workflow))
        && (rule.status.is_empty() || rule.status.contains(&run.status))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::TimeZone;

    use super::*;
    use crate::{
        config::{BatchSize, StoreUrl},
        runs::{Stamp, layout::PYWORKFLOW},
    };

    fn now() -> DateTime<Utc> {
        Utc.with_ymd_and_hms(2026, 11, 20, 3, 0, 0).unwrap()
    }

    fn days(days: i64) -> RetentionDays {
        RetentionDays::new(days).unwrap()
    }

    fn rule(workflow: &str, status: &[&str], keep: Keep) -> Rule {
        let workflow = (!workflow.is_empty()).then(|| glob::Pattern::new(workflow).unwrap());
        Rule { workflow, status: status.iter().map(|word| (*word).to_owned()).collect(), keep }
    }

    fn policy(own: Option<i64>, rules: &[Rule], before: Option<DateTime<Utc>>) -> Option<Policy> {
        let config = RetentionConfig {
            store: StoreUrl::Memory,
            layout: PYWORKFLOW.name.to_owned(),
            retention_days: own.map(days),
            batch_size: BatchSize::default(),
            batch_time: Duration::from_secs(1),
            batch_pause: Duration::ZERO,
            run_limit: None,
            time_limit: Duration::from_secs(1),
            rules: rules.to_vec(),
        };
        Policy::new(&config, PYWORKFLOW.terminal, now(), before)
    }

    /// A run that was made and written so many days ago.
    fn run(workflow: &str, status: &str, days: i64) -> Seen {
        let at = Stamp::read(Some((now() - TimeDelta::days(days)).to_rfc3339()));
        Seen {
            id: "run_1".to_owned(),
            status: status.to_owned(),
            updated_at: at.clone(),
            created_at: at,
            workflow: workflow.to_owned(),
            parent: None,
        }
    }

    #[test]
    fn lets_nothing_go_where_nobody_sets_days() {
        assert!(policy(None, &[], None).is_none());
        assert!(policy(None, &[rule("a", &[], Keep::Forever)], Some(now())).is_none());
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules = [
            rule("order_*", &["failed"], Keep::Days(days(90))),
            rule("order_*", &[], Keep::Days(days(3))),
            rule("audit", &[], Keep::Forever),
        ];
        let policy = policy(Some(30), &rules, None).unwrap();
        let decide = |workflow, status, days| policy.decide(&run(workflow, status, days));
        assert_eq!(decide("order_1", "failed", 91), Decision::Eligible);
        assert_eq!(decide("order_1", "failed", 89), Decision::Rule);
        assert_eq!(decide("order_1", "failed", 29), Decision::Alive);
        assert_eq!(decide("order_1", "completed", 4), Decision::Eligible);
        assert_eq!(decide("order_1", "completed", 2), Decision::Alive);
        assert_eq!(decide("audit", "completed", 3_650), Decision::Rule);
        assert_eq!(decide("audit", "completed", 29), Decision::Alive);
        assert_eq!(decide("audits", "completed", 31), Decision::Eligible);
        assert_eq!(decide("audits", "completed", 30), Decision::Alive, "the cutoff is exclusive");
        assert_eq!(decide("", "completed", 31), Decision::Eligible);
    }

    #[test]
    fn a_rule_never_takes_what_has_not_ended() {
        let rules = [rule("", &["running", "completed"], Keep::Days(days(1)))];
        let policy = policy(Some(1), &rules, None).unwrap();
        for status in ["running", "pending", "suspended", "", "Completed"] {
            assert_eq!(policy.decide(&run("order", status, 100)), Decision::Alive, "{status}");
        }
    }

    #[test]
    fn without_days_of_its_own_only_ruled_runs_go() {
        let policy = policy(None, &[rule("tmp_?", &[], Keep::Days(days(7)))], None).unwrap();
        assert_eq!(policy.own_cutoff(), None);
        assert_eq!(policy.latest_cutoff(), Some(now() - TimeDelta::days(7)));
        assert_eq!(policy.decide(&run("tmp_1", "completed", 8)), Decision::Eligible);
        assert_eq!(policy.decide(&run("tmp_12", "completed", 8_000)), Decision::Alive);
    }

    #[test]
    fn a_glob_means_what_it_says_and_the_case_counts() {
        for (glob, name, is_match) in [
            ("order", "order", true),
            ("order", "orders", false),
            ("order", "Order", false),
            ("*", "", true),
            ("a*c", "a/b.c", true),
            ("[ab]x", "bx", true),
            ("[!ab]x", "bx", false),
            ("[[]x", "[x", true),
            ("?", "ü", true),
        ] {
            let policy = policy(None, &[rule(glob, &[], Keep::Days(days(1)))], None).unwrap();
            let decided = policy.decide(&run(name, "completed", 2)) == Decision::Eligible;
            assert_eq!(decided, is_match, "{glob:?} and {name:?}");
        }
    }

    #[test]
    fn an_instant_before_only_ever_narrows() {
        let rules = [rule("fast", &[], Keep::Days(days(2)))];
        let wide = policy(Some(30), &rules, None).unwrap();
        let cases = [0, 1, 2, 3, 10, 29, 30, 31, 40, 100, 36_500];
        for before in cases.map(|days| now() - TimeDelta::days(days)) {
            let narrow = policy(Some(30), &rules, Some(before)).unwrap();
            assert!(narrow.own_cutoff() <= wide.own_cutoff() && narrow.latest_cutoff() <= wide.latest_cutoff());
            for (workflow, age) in ["fast", "slow"].into_iter().flat_map(|name| cases.map(|age| (name, age))) {
                let run = run(workflow, "completed", age);
                if narrow.decide(&run) == Decision::Eligible {
                    assert_eq!(wide.decide(&run), Decision::Eligible);
                    assert!(run.updated_at.instant.unwrap() < before);
                }
            }
        }
    }

    #[test]
    fn a_hundred_years_before_the_beginning_of_time_are_no_panic() {
        let config_now = DateTime::<Utc>::MIN_UTC;
        let policy = policy(Some(36_500), &[], Some(config_now)).unwrap();
        assert_eq!(policy.latest_cutoff(), Some(config_now));
        assert_eq!(policy.decide(&run("order", "completed", 1)), Decision::Alive);
    }

    #[test]
    fn a_time_that_cannot_be_read_is_no_old_time() {
        let policy = policy(Some(30), &[rule("ruled", &[], Keep::Forever)], None).unwrap();
        for workflow in ["order", "ruled"] {
            let unwritten = Seen { updated_at: Stamp::default(), ..run(workflow, "completed", 100) };
            let unmade = Seen { created_at: Stamp::read(Some("x".to_owned())), ..run(workflow, "completed", 100) };
            assert_eq!([policy.decide(&unwritten), policy.decide(&unmade)], [Decision::UnreadableTime; 2]);
        }
        let alive = Seen { updated_at: Stamp::default(), ..run("order", "running", 100) };
        assert_eq!(policy.decide(&alive), Decision::Alive);
    }
}
