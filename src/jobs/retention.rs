//! Deletes runs that ended long enough ago, with all that is their own.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};

use super::{Job, JobError, Leave, Tally, families};
use crate::{
    clock::Clock,
    lock::Fence,
    report::Counts,
    runs::{
        Cursor, RunStore, Seen, StoreError,
        policy::{Decision, Policy},
    },
};

/// Beyond this difference between the host's clock and the store's the job refuses to run.
const SKEW_MAX: TimeDelta = TimeDelta::minutes(5);
/// The most runs without a readable time that are counted.
const UNPAGED_MAX: usize = 10_000;

/// One execution of a retention job. The cutoffs are fixed when it is made.
#[derive(Debug)]
pub struct Retention {
    job: String,
    store: Arc<dyn RunStore>,
    clock: Arc<dyn Clock>,
    policy: Policy,
    cursor: Option<Cursor>,
    is_at_end: bool,
    /// Runs that were planned and are still there: they wait for their batch, or stay in spite of the plan.
    named: HashSet<String>,
    loose: Option<Cursor>,
    oldest_due: Option<DateTime<Utc>>,
}

impl Retention {
    /// An execution of `job` on `store` by `policy`.
    #[must_use]
    pub fn new(job: String, store: Arc<dyn RunStore>, clock: Arc<dyn Clock>, policy: Policy) -> Self {
        Self {
            job,
            store,
            clock,
            policy,
            cursor: None,
            is_at_end: false,
            named: HashSet::new(),
            loose: None,
            oldest_due: None,
        }
    }

    /// The last update of the oldest run that was planned.
    #[must_use]
    pub const fn oldest_due(&self) -> Option<DateTime<Utc>> {
        self.oldest_due
    }

    async fn guard_clock(&self) -> Result<(), JobError> {
        let Some(theirs) = self.store.now().await? else { return Ok(()) };
        let skew = (self.clock.now() - theirs).abs();
        if skew > SKEW_MAX {
            let minutes = skew.num_minutes();
            return Err(JobError::Refused(format!(
                "the clocks of this host and of the store ({}) are {minutes} minutes apart, 5 at most are allowed",
                self.store.name()
            )));
        }
        Ok(())
    }

    /// Splits a page into what may go but for its family, and what stays.
    fn sort(&mut self, page: Vec<Seen>, tally: &mut Tally) -> Vec<Seen> {
        let mut eligible = Vec::new();
        for run in page {
            match self.policy.decide(&run) {
                // It went along with one above it.
                Decision::Eligible if self.named.contains(&run.id) => {}
                Decision::Eligible => eligible.push(run),
                Decision::Alive => {}
                Decision::Rule => tally.kept.add("rule", 1),
                Decision::UnreadableTime => tally.kept.add("unreadable_time", 1),
            }
        }
        eligible
    }

    /// Takes out what a kept run below holds. For a real run, adds what goes along, each run before the one above it.
    async fn with_families(
        &mut self,
        leave: Leave<'_>,
        eligible: Vec<Seen>,
        tally: &mut Tally,
    ) -> Result<Vec<Seen>, JobError> {
        if eligible.is_empty() {
            return Ok(eligible);
        }
        let mut found = families::below(&*self.store, &self.policy, &eligible).await?;
        tally.kept.add("parent_of_kept", found.held.iter().filter(|held| **held).count() as u64);
        let free: Vec<(Seen, Vec<Seen>)> = eligible
            .into_iter()
            .zip(found.below.drain(..))
            .zip(&found.held)
            .filter(|(_, held)| !**held)
            .map(|(family, _)| family)
            .collect();
        match leave {
            Leave::DryRun => Ok(free.into_iter().map(|(run, _)| run).collect()),
            Leave::Apply(_) => Ok(self.children_first(free)),
        }
    }

    fn children_first(&mut self, families: Vec<(Seen, Vec<Seen>)>) -> Vec<Seen> {
        let mut runs = Vec::with_capacity(families.len());
        for (run, below) in families {
            for child in below {
                if self.named.insert(child.id.clone()) {
                    runs.push(child);
                }
            }
            self.named.insert(run.id.clone());
            runs.push(run);
        }
        parents_last(runs)
    }
}

/// Moves each run behind the runs of the same page that are below it; pages are mostly in that order already.
fn parents_last(runs: Vec<Seen>) -> Vec<Seen> {
    let parents: HashMap<&str, Option<&str>> =
        runs.iter().map(|run| (run.id.as_str(), run.parent.as_deref())).collect();
    let depth = |run: &Seen| {
        let mut depth = 0_usize;
        let mut above = run.parent.as_deref();
        // A cycle of parents is as long as the page at most.
        while let Some(parent) = above.filter(|id| parents.contains_key(id))
            && depth < parents.len()
        {
            depth += 1;
            above = parents.get(parent).copied().flatten();
        }
        depth
    };
    let depths: Vec<usize> = runs.iter().map(depth).collect();
    if depths.iter().all(|depth| *depth == 0) {
        return runs;
    }
    let mut order: Vec<(usize, Seen)> = depths.into_iter().zip(runs).collect();
    order.sort_by_key(|(depth, _)| std::cmp::Reverse(*depth));
    order.into_iter().map(|(_, run)| run).collect()
}

impl Job for Retention {
    type Item = Seen;

    const UNIT: &'static str = "runs";

    fn id(item: &Seen) -> Cow<'_, str> {
        Cow::Borrowed(&item.id)
    }

    async fn prepare(&mut self, leave: Leave<'_>, _: &mut Tally) -> Result<(), JobError> {
        self.guard_clock().await?;
        let Leave::Apply(held) = leave else { return Ok(()) };
        match self.store.raise(&self.job, held.fence()?).await {
            Err(StoreError::Fenced { highest, .. }) => {
                // Redis may have been flushed, or the queue or the clock changed: the fence must still grow.
                let raised = held.raise(highest).await?;
                Ok(self.store.raise(&self.job, raised).await?)
            }
            answer => Ok(answer?),
        }
    }

    async fn plan(&mut self, leave: Leave<'_>, limit: usize, tally: &mut Tally) -> Result<Option<Vec<Seen>>, JobError> {
        if self.is_at_end {
            return Ok(None);
        }
        let page = self.store.page(self.policy.horizon(), self.cursor.as_ref(), limit).await?;
        self.is_at_end = page.next.is_none();
        self.cursor = page.next;
        if self.is_at_end {
            tally.kept.add("unreadable_time", self.store.unpaged(UNPAGED_MAX).await?);
            tally.kept.add("parent_of_kept", 0);
            tally.kept.add("rule", 0);
        }
        let eligible = self.sort(page.runs, tally);
        let due = self.with_families(leave, eligible, tally).await?;
        self.oldest_due = due.iter().filter_map(|run| run.updated_at.instant).chain(self.oldest_due).min();
        Ok(Some(due))
    }

    async fn execute(
        &mut self,
        fence: Fence,
        items: &[Seen],
        limit: Duration,
        tally: &mut Tally,
    ) -> Result<Vec<String>, JobError> {
        let deleted = self.store.delete(&self.job, fence, items, limit).await?;
        for run in &deleted.runs {
            self.named.remove(run);
        }
        tally.deleted.merge(&deleted.counts);
        if deleted.changed > 0 {
            tally.kept.add("changed", deleted.changed);
        }
        tally.kept.add("parent_of_kept", deleted.held);
        Ok(deleted.runs)
    }

    async fn rest(&mut self, leave: Leave<'_>, limit: Duration, tally: &mut Tally) -> Result<bool, JobError> {
        let Some(cutoff) = self.policy.own_cutoff() else { return Ok(false) };
        let allowed = match leave {
            Leave::DryRun => None,
            Leave::Apply(held) => Some((self.job.as_str(), held.fence()?)),
        };
        let step = self.store.loose(cutoff, self.loose.as_ref(), allowed, limit).await?;
        let found: Counts = step.counts.iter().filter(|(_, count)| *count > 0).collect();
        tally.planned.merge(&found);
        if allowed.is_some() {
            tally.deleted.merge(&found);
        }
        self.loose = step.next;
        Ok(self.loose.is_some())
    }
}
