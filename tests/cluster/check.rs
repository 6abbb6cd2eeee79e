//! Judges a history: each tick once, no fence twice nor backwards, no delete by a stale holder, one report for a request.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use apalis_janitor::report::Outcome;

use crate::history::{Asked, Fault, History, Millis, Seen, Told};

/// How long before a fault an execution or a request may have begun that the fault found under way.
const UNDER_WAY: Millis = 10_000;
/// How long after it an execution may begin whose request the fault found in a worker's hand.
const IN_HAND: Millis = 1_000;
/// What a batch takes at most: a family of three.
const BATCH_MAX: u64 = 3;

/// What must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Breach {
    /// A tick was executed more than once.
    Double { job: String, tick: Millis },
    /// A tick came due, and nobody asked for it.
    LostTick { job: String, tick: Millis },
    /// A request has no report.
    NoReport { job: String, id: String },
    /// A request has more than one.
    TwoReports { job: String, id: String },
    /// Two executions had the same fence.
    SameFence { job: String, fence: u64 },
    /// A store saw a lower fence after a higher one.
    FenceFell { job: String, before: u64, after: u64 },
    /// A run went under a fence that nobody had raised.
    NoHolder { job: String, fence: u64 },
    /// Under a fence other runs went than its holder says: somebody else deleted.
    StaleDelete { job: String, fence: u64, told: u64, seen: u64 },
    /// A run went twice.
    TwiceDeleted { job: String, run: String },
    /// An execution has no report, and nothing was broken while it ran.
    Vanished { job: String, fence: u64 },
}

/// What is wrong with a history; nothing, where all is well.
pub fn check(history: &History) -> Vec<Breach> {
    let mut breaches = Vec::new();
    breaches.extend(unexcused_doubles(history));
    breaches.extend(lost_ticks(history));
    breaches.extend(reports(history));
    breaches.extend(fences(history));
    breaches.extend(deletes(history));
    breaches.extend(vanished(history));
    breaches
}

impl Fault {
    /// Whether Redis may have forgotten at this fault what was asked for at this time.
    fn may_forget(&self, at: Millis) -> bool {
        self.forgets && self.finds_under_way(at)
    }

    fn finds_under_way(&self, at: Millis) -> bool {
        (self.from - UNDER_WAY..=self.to + IN_HAND).contains(&at)
    }

    /// Whether no beat may have been there to ask for a tick of this time.
    fn may_blind(&self, tick: Millis, every: Millis) -> bool {
        self.blind.is_some_and(|blind| (self.from - every..=self.to + blind).contains(&tick))
    }
}

/// The ticks that were executed more than once, with their jobs.
fn doubles(history: &History) -> impl Iterator<Item = (&str, Millis)> {
    let mut effective: BTreeMap<(&str, Millis), usize> = BTreeMap::new();
    for told in history.told.iter().filter(|told| told.is_effective()) {
        if let Some(tick) = told.tick {
            *effective.entry((told.job.as_str(), tick)).or_default() += 1;
        }
    }
    effective.into_iter().filter(|(_, count)| *count > 1).map(|(tick, _)| tick)
}

fn unexcused_doubles(history: &History) -> Vec<Breach> {
    let is_excused = |tick| history.faults.iter().any(|fault| fault.may_forget(tick));
    let twice = doubles(history).filter(|(_, tick)| !is_excused(*tick));
    twice.map(|(job, tick)| Breach::Double { job: job.to_owned(), tick }).collect()
}

/// The ticks of each job that became requests.
fn ticks(history: &History) -> BTreeMap<&str, BTreeSet<Millis>> {
    let mut ticks: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    let asked = history.asked.iter().map(|Asked { job, tick, .. }| (job, tick));
    // A beat may be killed between the request and its line in the log.
    let told = history.told.iter().map(|Told { job, tick, .. }| (job, tick));
    for (job, tick) in asked.chain(told) {
        ticks.entry(job.as_str()).or_default().extend(*tick);
    }
    ticks
}

/// The ticks that came due and became no request, with their jobs. Those that belong to a host are asked for by its worker
/// alone, which may be away: they are not looked for.
fn missing(history: &History) -> Vec<(&str, Millis)> {
    let mut missing = Vec::new();
    for (job, ticks) in ticks(history).into_iter().filter(|(job, _)| !job.contains('@')) {
        let Some(first) = ticks.first() else { continue };
        let due =
            (0..).map(|number| first + number * history.every).take_while(|tick| tick + history.every <= history.until);
        missing.extend(due.filter(|tick| !ticks.contains(tick)).map(|tick| (job, tick)));
    }
    missing
}

fn lost_ticks(history: &History) -> Vec<Breach> {
    let is_excused = |tick| history.faults.iter().any(|fault| fault.may_blind(tick, history.every));
    let lost = missing(history).into_iter().filter(|(_, tick)| !is_excused(*tick));
    lost.map(|(job, tick)| Breach::LostTick { job: job.to_owned(), tick }).collect()
}

fn reports(history: &History) -> Vec<Breach> {
    // Each host's own queue counts for itself: an id alone may be another job's.
    let mut by_request: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut by_tick: BTreeSet<(&str, Millis)> = BTreeSet::new();
    for told in &history.told {
        if let Some(request) = &told.request {
            *by_request.entry((told.job.as_str(), request.as_str())).or_default() += 1;
        }
        by_tick.extend(told.tick.map(|tick| (told.job.as_str(), tick)));
    }
    let mut breaches = Vec::new();
    for Asked { job, tick, id, at } in &history.asked {
        let is_told = by_request.contains_key(&(job.as_str(), id.as_str()))
            || tick.is_some_and(|tick| by_tick.contains(&(job.as_str(), tick)));
        if !is_told && !history.faults.iter().any(|fault| fault.may_forget(*at)) {
            breaches.push(Breach::NoReport { job: job.clone(), id: id.clone() });
        }
    }
    for told in &history.told {
        let Some(id) = &told.request else { continue };
        if by_request.remove(&(told.job.as_str(), id.as_str())).is_some_and(|count| count > 1) {
            breaches.push(Breach::TwoReports { job: told.job.clone(), id: id.clone() });
        }
    }
    breaches
}

fn fences(history: &History) -> Vec<Breach> {
    let (mut breaches, mut had) = (Vec::new(), BTreeSet::new());
    for told in &history.told {
        let Some(fence) = told.fence else { continue };
        if !had.insert((&told.job, fence)) {
            breaches.push(Breach::SameFence { job: told.job.clone(), fence });
        }
    }
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for Seen { job, fence, run, .. } in &history.seen {
        let before = last.get(job.as_str()).copied();
        match before {
            Some(before) if *fence < before => {
                breaches.push(Breach::FenceFell { job: job.clone(), before, after: *fence });
            }
            _ if run.is_some() && before != Some(*fence) => {
                breaches.push(Breach::NoHolder { job: job.clone(), fence: *fence });
            }
            Some(before) if run.is_none() && before == *fence => {
                breaches.push(Breach::SameFence { job: job.clone(), fence: *fence });
            }
            _ => {
                last.insert(job, *fence);
            }
        }
    }
    breaches
}

fn deletes(history: &History) -> Vec<Breach> {
    let (mut breaches, mut gone) = (Vec::new(), BTreeSet::new());
    let mut counts: BTreeMap<(&str, u64), u64> = BTreeMap::new();
    for Seen { job, fence, run, .. } in &history.seen {
        let Some(run) = run else { continue };
        *counts.entry((job.as_str(), *fence)).or_default() += 1;
        if !gone.insert((job, run)) {
            breaches.push(Breach::TwiceDeleted { job: job.clone(), run: run.clone() });
        }
    }
    let raised = raised(history);
    for told in &history.told {
        let Some(fence) = told.fence else { continue };
        let seen = counts.get(&(told.job.as_str(), fence)).copied().unwrap_or(0);
        let is_mute = raised
            .get(&(told.job.as_str(), fence))
            .is_some_and(|at| history.faults.iter().any(|fault| fault.mutes_store && fault.finds_under_way(*at)));
        let most = told.deleted + if is_mute && told.outcome == Outcome::Failed { BATCH_MAX } else { 0 };
        if !(told.deleted..=most).contains(&seen) {
            breaches.push(Breach::StaleDelete { job: told.job.clone(), fence, told: told.deleted, seen });
        }
    }
    breaches
}

/// When each fence was had: it is that instant by Redis' clock, as a rule, and was raised in the store a moment later.
fn raised(history: &History) -> BTreeMap<(&str, u64), Millis> {
    let raised = history.seen.iter().filter(|seen| seen.run.is_none());
    let had = |seen: &Seen| seen.at.min(Millis::try_from(seen.fence).unwrap_or(Millis::MAX));
    raised.map(|seen| ((seen.job.as_str(), seen.fence), had(seen))).collect()
}

/// The executions that have no report, each with when it began.
pub fn unreported(history: &History) -> BTreeMap<(&str, u64), Millis> {
    let mut open = raised(history);
    for told in &history.told {
        if let Some(fence) = told.fence {
            open.remove(&(told.job.as_str(), fence));
        }
    }
    open
}

fn vanished(history: &History) -> Vec<Breach> {
    let is_excused = |at| history.faults.iter().any(|fault| fault.finds_under_way(at));
    let open = unreported(history).into_iter().filter(|(_, at)| !is_excused(*at));
    open.map(|((job, fence), _)| Breach::Vanished { job: job.to_owned(), fence }).collect()
}

/// A history in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Ticks that became requests.
    pub ticks: usize,
    /// Those that were executed.
    pub effective: usize,
    /// Those that a newer one took the place of.
    pub superseded: usize,
    /// Those that met a taken lock.
    pub busy: usize,
    /// Those that nobody asked for while beats were away.
    pub made_up: usize,
    /// Executions that ended without a report, because of a fault.
    pub cut_short: usize,
    /// Ticks that were executed more than once, because Redis forgot.
    pub doubled: usize,
    /// Requests by hand.
    pub by_hand: usize,
}

impl Summary {
    /// Of a history.
    pub fn of(history: &History) -> Self {
        let ticked =
            |outcome| history.told.iter().filter(|told| told.tick.is_some() && told.outcome == outcome).count();
        let effective = history.told.iter().filter(|told| told.is_effective());
        let effective: BTreeSet<_> = effective.filter_map(|told| Some((told.job.as_str(), told.tick?))).collect();
        Self {
            ticks: ticks(history).values().map(BTreeSet::len).sum(),
            effective: effective.len(),
            superseded: ticked(Outcome::Skipped),
            busy: ticked(Outcome::Busy),
            made_up: missing(history).len(),
            cut_short: unreported(history).len(),
            doubled: doubles(history).count(),
            by_hand: history.asked.iter().filter(|asked| asked.tick.is_none()).count(),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ticks, effective, superseded, busy, made_up, cut_short, doubled, by_hand } = self;
        write!(
            f,
            "{ticks} ticks, {effective} executed, {doubled} of them twice, {superseded} superseded, {busy} busy, {made_up} \
             collapsed while beats were away; {cut_short} executions cut short, {by_hand} requests by hand"
        )
    }
}

#[cfg(test)]
mod tests;
