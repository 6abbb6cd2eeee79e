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
