//! Why a blob stays or goes: pure, in sentences.

use std::{collections::BTreeMap, time::Duration};

use apalis_janitor::{
    blobs::{Blob, OpenTask, PENDING_TTL, Ref, State},
    config::{JobConfig, OrphansConfig},
};
use chrono::{DateTime, Utc};
use indicatif::HumanDuration;

use super::ls::age;
use crate::out::instant;

/// The most refs that are told one by one.
const TOLD_MAX: usize = 10;

/// What is known of a digest.
pub struct Facts<'a> {
    /// On the catalog's clock.
    pub now: DateTime<Utc>,
    /// The blobs.
    pub blobs: &'a [Blob],
    /// Who refers to them.
    pub refs: &'a [Ref],
    /// Whether there are more refs.
    pub has_more: bool,
    /// The tasks of refs that are not final.
    pub tasks: &'a BTreeMap<String, OpenTask>,
    /// The jobs that sweep the store.
    pub sweeps: &'a [Sweep<'a>],
}

/// A job that sweeps the store.
pub struct Sweep<'a> {
    /// The job.
    pub job: &'a JobConfig,
    /// What is of its kind.
    pub orphans: &'a OrphansConfig,
}

/// What is said.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    /// Whether something final refers to it.
    pub stays: bool,
    /// Why, and when it goes.
    pub because: Vec<String>,
}

/// Says it.
pub fn explain(facts: &Facts<'_>) -> Told {
    let mut because = Vec::new();
    for blob in facts.blobs {
        match blob.state {
            State::Live => live(facts, blob, &mut because),
            State::Pending => pending(facts, blob, &mut because),
            State::Deleting => because.push(deleting(facts, blob)),
        }
    }
    if facts.has_more {
        because.push("more refs than were read refer to it".to_owned());
    }
    if facts.sweeps.is_empty() {
        because.push("no job of kind \"orphans\" sweeps this store, so nothing is ever deleted from it".to_owned());
    }
    Told { stays: facts.refs.iter().any(|held| held.is_final), because }
}

fn live(facts: &Facts<'_>, blob: &Blob, because: &mut Vec<String>) {
    let mut refs: Vec<_> = facts.refs.iter().filter(|held| held.blob == blob.id).collect();
    refs.sort_by_key(|held| !held.is_final);
    because.extend(refs.iter().take(TOLD_MAX).map(|held| held_by(facts, held)));
    if refs.len() > TOLD_MAX {
        because.push(format!("{} more refs refer to it", refs.len() - TOLD_MAX));
    }
    if !refs.is_empty() || facts.has_more {
        return;
    }
    let Some(zero_since) = blob.zero_since else {
        because.push("nothing refers to it, and since when is not known: the next inventory notes it".to_owned());
        return;
    };
    because.push(format!("nothing has referred to it since {}", at(zero_since, facts.now)));
    because.extend(facts.sweeps.iter().map(|sweep| {
        let due = zero_since + sweep.orphans.grace;
        format!(
            "{} takes it from {} on, after its grace of {}; {}",
            name(sweep),
            instant(due),
            span(sweep.orphans.grace),
            tick(facts, sweep, due)
        )
    }));
}

fn pending(facts: &Facts<'_>, blob: &Blob, because: &mut Vec<String>) {
    because.push(format!(
        "a writer is putting blob {}, and was last heard of {}",
        blob.id,
        at(blob.touched_at, facts.now)
    ));
    because.extend(facts.sweeps.iter().map(|sweep| {
        let due = blob.touched_at + PENDING_TTL;
        format!("{} takes that one for abandoned from {} on; {}", name(sweep), instant(due), tick(facts, sweep, due))
    }));
}

fn deleting(facts: &Facts<'_>, blob: &Blob) -> String {
    let what = format!("blob {} is being deleted", blob.id);
    match (&blob.error, blob.next_at) {
        (Some(error), Some(next)) if blob.attempts > 0 => {
            format!(
                "{what}: tried {} times, last: {error}; the next try is from {} on",
                blob.attempts,
                at(next, facts.now)
            )
        }
        _ => format!("{what}: the next sweep goes on with it"),
    }
}

/// What one ref means for the blob.
fn held_by(facts: &Facts<'_>, held: &Ref) -> String {
    let tag = &held.tag;
    let name = if tag.name.is_empty() { String::new() } else { format!(" as {:?}", tag.name) };
    let who = format!("task {:?} put it{name} in attempt {}", tag.task, tag.attempt);
    if held.is_final {
        return format!("{who} and finalized it: it stays until the task deletes it");
    }
    let mut parts = vec![format!("{who} and has not finalized it")];
    if let Some(task) = facts.tasks.get(&tag.task) {
        parts.push(format!("the task was last seen {}", at(task.seen_at, facts.now)));
        parts.extend(facts.sweeps.iter().map(|sweep| fails(sweep, task)));
    }
    parts.join("; ")
}

/// When a sweep takes a task for failed.
fn fails(sweep: &Sweep<'_>, task: &OpenTask) -> String {
    let silent = instant(task.seen_at + sweep.orphans.abandoned_after);
    let text = format!("for {} it counts as failed if it is silent until {silent}", name(sweep));
    let (Some((job, _)), Some(run)) = (&sweep.orphans.runs, &task.run) else { return text };
    format!(
        "{text}, or once the store of job {job:?} has run {run:?} as failed, cancelled or gone; not while it is alive"
    )
}

fn name(sweep: &Sweep<'_>) -> String {
    format!("job {:?}", sweep.job.name)
}

/// When the job comes round once it may take something.
fn tick(facts: &Facts<'_>, sweep: &Sweep<'_>, due: DateTime<Utc>) -> String {
    let JobConfig { name, enabled, timing, .. } = sweep.job;
    match timing {
        _ if !enabled => "it is not enabled".to_owned(),
        None => format!("it has no schedule: janitor run {name}"),
        Some(timing) => timing.schedule.next_after(due.max(facts.now), timing.timezone).map_or_else(
            || "its schedule has no tick after that".to_owned(),
            |tick| format!("its next tick then is {}", instant(tick)),
        ),
    }
}

fn span(span: Duration) -> String {
    HumanDuration(span).to_string()
}

/// An instant, and how far it is.
fn at(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let shown = instant(at);
    if at <= now { format!("{shown} ({} ago)", age(at, now)) } else { format!("{shown} (in {})", age(now, at)) }
}
