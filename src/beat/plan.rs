//! Decides which ticks are due: pure, so that a test can live through a year of them.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::config::{CatchUp, Timing};

/// What a beat knows of its jobs, and what follows from it at an instant.
#[derive(Clone, Debug)]
pub(super) struct Planner {
    jobs: Vec<Beaten>,
    /// Since when this beat has been watching the clock: what was due before was missed.
    since: DateTime<Utc>,
}

/// One job that has a timing.
#[derive(Clone, Debug)]
struct Beaten {
    name: String,
    timing: Timing,
    known: Known,
}

/// What is known of a job's ticks.
#[derive(Clone, Debug)]
enum Known {
    /// The queue has not been asked yet.
    Nothing,
    Next {
        /// The tick after the last one; none: the schedule has come to its end.
        next: Option<Coming>,
        /// The queue said that this tick lies ahead of its clock. It is offered until the queue takes it: later ones
        /// would lie ahead as well, for as long as this clock is wrong.
        held: Option<DateTime<Utc>>,
    },
}

/// A tick that is to come. What follows from it is kept: to search a schedule takes longer than all the rest of a look.
#[derive(Clone, Copy, Debug)]
struct Coming {
    tick: DateTime<Utc>,
    /// When it is to be enqueued.
    at: DateTime<Utc>,
    /// The tick after it, if there is one.
    until: Option<DateTime<Utc>>,
}

/// A tick to be enqueued now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The job's number in the planner.
    pub(super) job: usize,
    /// The scheduled instant.
    pub(super) tick: DateTime<Utc>,
}

/// What follows at an instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// The ticks to be enqueued, one for a job at most.
    pub(super) due: Vec<Due>,
    /// When there is something to do again, apart from `due`; none: never.
    pub(super) wake: Option<DateTime<Utc>>,
}

impl Planner {
    /// A planner for these jobs, none of whose ticks are known yet.
    pub(super) fn new(jobs: impl IntoIterator<Item = (String, Timing)>, now: DateTime<Utc>) -> Self {
        let jobs = jobs.into_iter().map(|(name, timing)| Beaten { name, timing, known: Known::Nothing });
        Self { jobs: jobs.collect(), since: now }
    }

    /// The job's name.
    pub(super) fn name(&self, job: usize) -> &str {
        &self.jobs[job].name
    }

    /// How many jobs there are.
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// The jobs whose last tick the queue has not been asked for.
    pub(super) fn unknown(&self) -> Vec<usize> {
        let unknown = self.jobs.iter().enumerate().filter(|(_, job)| matches!(job.known, Known::Nothing));
        unknown.map(|(number, _)| number).collect()
    }

    /// Everything up to and with `tick` is dealt with: it was enqueued here or elsewhere, or is left out.
    pub(super) fn settle(&mut self, job: usize, tick: DateTime<Utc>) {
        let job = &mut self.jobs[job];
        job.known = Known::Next { next: job.next(tick), held: None };
    }

    /// The queue finds `tick` ahead of its own clock.
    pub(super) fn hold(&mut self, job: usize, tick: DateTime<Utc>) {
        match &mut self.jobs[job].known {
            Known::Nothing => {}
            Known::Next { held, .. } => *held = Some(tick),
        }
    }

    /// The clock has leapt to `now`, or the machine slept: what was due on the way was missed.
    pub(super) fn leapt(&mut self, now: DateTime<Utc>) {
        self.since = now;
    }

    /// What is due at `now`. After downtime only the latest missed tick of a job is, or none, as the job says.
    pub(super) fn plan(&mut self, now: DateTime<Utc>) -> Plan {
        // Where the clock was set back, nothing from here on was missed.
        self.since = self.since.min(now);
        let mut plan = Plan::default();
        for number in 0..self.jobs.len() {
            match self.jobs[number].at(now, self.since) {
                Some((tick, at)) if at <= now => plan.due.push(Due { job: number, tick }),
                Some((_, at)) => plan.wake = Some(plan.wake.map_or(at, |wake| wake.min(at))),
                None => {}
            }
        }
        plan
    }
}

impl Beaten {
    /// The tick that counts at `now`, and when it is to be enqueued.
    fn at(&mut self, now: DateTime<Utc>, since: DateTime<Utc>) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        let next = match self.known {
            Known::Nothing => return None,
            Known::Next { held: Some(tick), .. } if tick <= now => return Some((tick, tick)),
            Known::Next { next, .. } => next?,
        };
        let Coming { tick, at, .. } = self.latest(now, next);
        match self.timing.catch_up {
            CatchUp::One => Some((tick, at)),
            CatchUp::None if at > since => Some((tick, at)),
            CatchUp::None => {
                // It was missed. The one after it lies ahead of `now`, because `tick` is the latest.
                let next = self.next(tick);
                self.known = Known::Next { next, held: None };
                next.map(|next| (next.tick, next.at))
            }
        }
    }

    /// The tick after `tick`.
    fn next(&self, tick: DateTime<Utc>) -> Option<Coming> {
        self.after(tick).map(|next| self.coming(next))
    }

    fn coming(&self, tick: DateTime<Utc>) -> Coming {
        let until = self.after(tick);
        Coming { tick, at: self.delayed(tick, until), until }
    }

    fn after(&self, tick: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.timing.schedule.next_after(tick, self.timing.timezone)
    }

    /// The latest tick from `next` to `now`; `next` itself where it is still to come.
    fn latest(&self, now: DateTime<Utc>, next: Coming) -> Coming {
        if next.until.is_none_or(|until| now < until) {
            return next;
        }
        let latest = self.timing.schedule.latest_at_or_before(now, self.timing.timezone, next.tick);
        latest.map_or(next, |latest| self.coming(latest.max(next.tick)))
    }

    /// When `tick` is enqueued: up to `jitter` later, but before `until`, the tick after it, else one could starve behind the
    /// other. It follows from the job and the tick alone, so that all beats agree.
    fn delayed(&self, tick: DateTime<Utc>, until: Option<DateTime<Utc>>) -> DateTime<Utc> {
        if self.timing.jitter.is_zero() {
            return tick;
        }
        let gap = until.and_then(|until| (until - tick).to_std().ok()).unwrap_or(Duration::MAX);
        let jitter = u64::try_from(self.timing.jitter.min(gap).as_millis()).unwrap_or(u64::MAX).max(1);
        let delay = scatter(&self.name, tick.timestamp()) % jitter;
        tick + i64::try_from(delay).ok().and_then(TimeDelta::try_milliseconds).unwrap_or_default()
    }
}

/// A number that looks random and is the same in every process and version: FNV-1a, then mixed.
fn scatter(name: &str, instant: i64) -> u64 {
    let bytes = name.bytes().chain(instant.to_le_bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests;
