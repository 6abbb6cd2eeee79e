//! What a store in memory holds, and how it changes.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, Utc};

use super::{Run, Thing};
use crate::{
    report::Counts,
    runs::{Deleted, Seen, Stamp, layout::Layout},
};

#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) runs: BTreeMap<String, Run>,
    /// By run: kind and id.
    pub(super) owned: BTreeMap<String, BTreeSet<(String, String)>>,
    pub(super) checkpoints: BTreeSet<String>,
    /// Signals, acknowledgements, subscriptions and schedules.
    pub(super) loose: BTreeSet<Thing>,
    pub(super) fences: BTreeMap<String, u64>,
}

pub(super) fn is_old(at: Option<&String>, cutoff: DateTime<Utc>) -> bool {
    Stamp::read(at.cloned()).instant.is_some_and(|at| at < cutoff)
}

impl State {
    /// The runs of `batch` that still are as they were seen and hold nothing outside, with how many are not and do.
    fn still(&self, batch: &[Seen]) -> (BTreeSet<String>, u64, u64) {
        let all: BTreeSet<&str> = batch.iter().map(|run| run.id.as_str()).collect();
        let is_as_seen = |run: &&Seen| {
            self.runs.get(&run.id).is_some_and(|now| now.status == run.status && now.updated_at == run.updated_at.raw)
        };
        let mut still: BTreeSet<String> = batch.iter().filter(is_as_seen).map(|run| run.id.clone()).collect();
        let changed = all.len() - still.len();
        loop {
            let above: HashSet<&String> = self
                .runs
                .values()
                .filter(|run| !still.contains(&run.id))
                .filter_map(|run| run.parent.as_ref())
                .collect();
            let held: HashSet<String> = still.iter().filter(|id| above.contains(id)).cloned().collect();
            if held.is_empty() {
                let held = all.len() - changed - still.len();
                return (still, changed as u64, held as u64);
            }
            still.retain(|id| !held.contains(id));
        }
    }

    /// Deletes those of `batch` that still are as they were seen and hold nothing outside.
    pub(super) fn delete(&mut self, batch: &[Seen], layout: &Layout) -> Deleted {
        let (gone, changed, held) = self.still(batch);
        let mut counts = Counts::default();
        let checkpoints: HashSet<String> =
            self.checkpoints.iter().filter(|key| self.goes(key, &gone)).cloned().collect();
        self.checkpoints.retain(|key| !checkpoints.contains(key));
        counts.add("checkpoints", checkpoints.len() as u64);
        for (_, kind) in layout.owned {
            let of_kind = |run: &String| self.owned.get(run).into_iter().flatten().filter(|(of, _)| of == kind).count();
            counts.add(kind, gone.iter().map(|run| of_kind(run) as u64).sum());
        }
        counts.add("runs", gone.len() as u64);
        for run in &gone {
            self.runs.remove(run);
            self.owned.remove(run);
        }
        let mut left = gone;
        let runs = batch.iter().filter(|run| left.remove(&run.id)).map(|run| run.id.clone()).collect();
        Deleted { runs, counts, changed, held }
    }

    /// Whether a checkpoint's run is known, and every run that it could be of goes: with a colon in an id, `a:b:c` may be
    /// step `b:c` of run `a` or step `c` of run `a:b`.
    fn goes(&self, key: &str, gone: &BTreeSet<String>) -> bool {
        let step = ("steps".to_owned(), key.to_owned());
        let by_key = key.match_indices(':').map(|(at, _)| &key[..at]).filter(|run| self.runs.contains_key(*run));
        let by_step = self.owned.iter().filter(|(_, things)| things.contains(&step)).map(|(run, _)| run.as_str());
        let mut owners = by_key.chain(by_step).peekable();
        owners.peek().is_some() && owners.all(|run| gone.contains(run))
    }

    /// Removes what is loose and old.
    pub(super) fn sweep(&mut self, cutoff: DateTime<Utc>, layout: &Layout) -> Counts {
        let mut counts = Counts::default();
        let signals = self.drop_loose(|state, thing| {
            matches!(thing, Thing::Signal { at, .. } if is_old(at.as_ref(), cutoff)) && !state.is_unread(thing, layout)
        });
        counts.add("signals", signals.len() as u64);
        let acknowledgements = self.drop_loose(|state, thing| {
            let is_there = |signal| state.loose.iter().any(|other| matches!(other, Thing::Signal { id, .. } if id == signal));
            matches!(thing, Thing::Acknowledgement { signal, at, .. } if is_old(at.as_ref(), cutoff) && !is_there(signal))
        });
        counts.add("acknowledgements", acknowledgements.len() as u64);
        let subscriptions = self.drop_loose(|_, thing| {
            matches!(thing, Thing::Subscription { at, status, .. }
                if layout.ended_subscriptions.contains(&status.as_str()) && is_old(at.as_ref(), cutoff))
        });
        counts.add("subscriptions", subscriptions.len() as u64);
        let reads =
            |thing: &Thing, key: &String| matches!(thing, Thing::Subscription { step_run, .. } if step_run == key);
        self.checkpoints.retain(|key| {
            let is_theirs = subscriptions.iter().any(|gone| reads(gone, key));
            !is_theirs || self.loose.iter().any(|other| reads(other, key))
        });
        let schedules = self.drop_loose(|_, thing| {
            matches!(thing, Thing::Schedule { status, deleted_at, .. }
                if layout.deleted_schedules.contains(&status.as_str()) && is_old(deleted_at.as_ref(), cutoff))
        });
        counts.add("schedules", schedules.len() as u64);
        counts
    }

    fn drop_loose(&mut self, goes: impl Fn(&Self, &Thing) -> bool) -> BTreeSet<Thing> {
        let gone: BTreeSet<Thing> = self.loose.iter().filter(|thing| goes(self, thing)).cloned().collect();
        self.loose.retain(|thing| !gone.contains(thing));
        gone
    }

    /// Whether a subscription that has not ended has still to read `signal`.
    fn is_unread(&self, signal: &Thing, layout: &Layout) -> bool {
        let Thing::Signal { id: signal, stream: on, kind, .. } = signal else { return false };
        let has_read = |step: &String| {
            let is_it = |thing: &Thing| matches!(thing, Thing::Acknowledgement { signal: of, step_run, .. } if of == signal && step_run == step);
            self.loose.iter().any(is_it)
        };
        // An unreadable list of types may name any.
        let reads = |kinds: &String| {
            serde_json::from_str::<Vec<serde_json::Value>>(kinds)
                .map_or(true, |kinds| kinds.iter().any(|of| of == kind))
        };
        let is_ended = |status: &String| layout.ended_subscriptions.contains(&status.as_str());
        self.loose.iter().any(|thing| {
            matches!(thing, Thing::Subscription { stream, step_run, kinds, status, .. }
                if stream == on && !is_ended(status) && reads(kinds) && !has_read(step_run))
        })
    }
}
