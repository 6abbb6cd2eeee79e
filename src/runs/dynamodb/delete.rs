//! Deletes a batch of runs: their items in transactions, the lowest of a family first, then what belonged to them.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use super::{
    DynamoStore, NAME, RUNS_MAX, keys,
    related::Marker,
    transact::{Deletion, Outcome},
};
use crate::{
    lock::Fence,
    runs::{Deleted, Seen, StoreError},
};

/// The runs of a batch that may still go, with what holds what.
struct Batch<'a> {
    runs: HashMap<&'a str, &'a Seen>,
    changed: u64,
    held: u64,
}

impl<'a> Batch<'a> {
    /// Takes out the run of this id, and all that is above it.
    fn hold(&mut self, id: Option<&str>) {
        let mut above = id.and_then(|id| self.runs.remove(id));
        while let Some(run) = above {
            self.held += 1;
            above = run.parent.as_deref().and_then(|id| self.runs.remove(id));
        }
    }

    /// Takes out a run that is not as it was read, and all that is above it.
    fn take_changed(&mut self, id: &str) {
        if let Some(run) = self.runs.remove(id) {
            self.changed += 1;
            self.hold(run.parent.as_deref());
        }
    }

    /// What is left, each run before the one above it. A cycle of parents has no order; its runs go together or not at all.
    fn lowest_first(&self) -> Vec<&'a Seen> {
        let depth = |run: &Seen| {
            let above =
                std::iter::successors(Some(run), |run| run.parent.as_deref().and_then(|id| self.runs.get(id)).copied());
            above.take(self.runs.len() + 1).count()
        };
        let mut order: Vec<(usize, &Seen)> = self.runs.values().map(|run| (depth(run), *run)).collect();
        order.sort_by(|(one, run), (other, than)| other.cmp(one).then_with(|| run.id.cmp(&than.id)));
        order.into_iter().map(|(_, run)| run).collect()
    }
}

fn deletion(run: &Seen) -> Deletion {
    let seen = vec![
        ("status", Some(keys::text(run.status.as_str()))),
        ("updated_at", run.updated_at.raw.clone().map(keys::text)),
    ];
    Deletion { key: keys::run_key(&run.id), seen }
}

impl DynamoStore {
    /// Nothing has changed after [`StoreError::TimedOut`]: the limit is for the reads that come before the first transaction.
    /// The transactions check the fence themselves, so they do no harm however late they are. After any other error what a
    /// transaction has marked is finished by the next sweep.
    pub(super) async fn delete_batch(
        &self,
        holder: (&str, Fence),
        runs: &[Seen],
        limit: Duration,
    ) -> Result<Deleted, StoreError> {
        let until = Instant::now() + limit;
        self.guard_fence(holder).await?;
        let mut batch = self.as_they_were(runs).await?;
        self.drop_held(&mut batch).await?;
        if Instant::now() >= until {
            return Err(StoreError::TimedOut { store: NAME });
        }
        let mut deleted = Deleted::default();
        let mut gone = HashSet::new();
        let order = batch.lowest_first();
        for some in order.chunks(RUNS_MAX) {
            let Some((marker, some)) = self.mark(holder, &mut batch, some).await? else { continue };
            if Instant::now() >= until {
                // This holder may have been asleep, and another one may have finished the marker: what it names now is new.
                self.guard_fence(holder).await?;
            }
            deleted.counts.merge(&self.finish(&marker).await?);
            deleted.counts.add("runs", some.len() as u64);
            gone.extend(some);
        }
        for kind in self.layout.owned.iter().map(|(_, kind)| *kind).chain(["checkpoints", "runs"]) {
            deleted.counts.add(kind, 0);
        }
        deleted.runs = runs.iter().filter(|run| gone.remove(run.id.as_str())).map(|run| run.id.clone()).collect();
        (deleted.changed, deleted.held) = (batch.changed, batch.held);
        Ok(deleted)
    }

    /// The runs whose items are as they were read.
    async fn as_they_were<'a>(&self, runs: &'a [Seen]) -> Result<Batch<'a>, StoreError> {
        let all: HashMap<&str, &Seen> = runs.iter().map(|run| (run.id.as_str(), run)).collect();
        let found = self.read_runs(all.keys().copied()).await?;
        let now: HashMap<&str, &Seen> = found.iter().map(|run| (run.id.as_str(), run)).collect();
        let is_as_read = |run: &Seen| {
            let now = now.get(run.id.as_str());
            now.is_some_and(|now| now.status == run.status && now.updated_at.raw == run.updated_at.raw)
        };
        let count = all.len();
        let runs: HashMap<&str, &Seen> = all.into_iter().filter(|(_, run)| is_as_read(run)).collect();
        let changed = (count - runs.len()) as u64;
        Ok(Batch { runs, changed, held: 0 })
    }

    /// Takes out what has a child outside the batch, and whatever that holds in turn.
    async fn drop_held(&self, batch: &mut Batch<'_>) -> Result<(), StoreError> {
        for id in self.held(&batch.runs.keys().copied().collect()).await? {
            batch.hold(Some(&id));
        }
        Ok(())
    }

    /// Deletes the items of `some` runs in one transaction, but for those that changed meanwhile and what is above these;
    /// answers those that went, with the marker that names them.
    async fn mark<'a>(
        &self,
        holder: (&str, Fence),
        batch: &mut Batch<'a>,
        some: &[&'a Seen],
    ) -> Result<Option<(Marker, Vec<&'a str>)>, StoreError> {
        loop {
            let left: Vec<&Seen> =
                some.iter().copied().filter(|run| batch.runs.contains_key(run.id.as_str())).collect();
            if left.is_empty() {
                return Ok(None);
            }
            let marker = Marker::new(left.iter().map(|run| run.id.clone()).collect());
            let deletions: Vec<Deletion> = left.iter().map(|run| deletion(run)).collect();
            let all: Vec<&Deletion> = deletions.iter().collect();
            match self.transact(holder, Some(&marker.item()), &all).await? {
                Outcome::Gone => return Ok(Some((marker, left.iter().map(|run| run.id.as_str()).collect()))),
                // Each round takes out one at least.
                Outcome::Refused(refused) => refused.into_iter().for_each(|at| batch.take_changed(&left[at].id)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(id: &str, parent: Option<&str>) -> Seen {
        Seen {
            id: id.to_owned(),
            status: "completed".to_owned(),
            updated_at: crate::runs::Stamp::default(),
            created_at: crate::runs::Stamp::default(),
            workflow: String::new(),
            parent: parent.map(str::to_owned),
        }
    }

    fn batch(runs: &[Seen]) -> Batch<'_> {
        Batch { runs: runs.iter().map(|run| (run.id.as_str(), run)).collect(), changed: 0, held: 0 }
    }

    #[test]
    fn what_changed_holds_all_that_is_above_it() {
        let runs = [run("a", None), run("b", Some("a")), run("c", Some("b")), run("d", Some("c")), run("e", Some("a"))];
        let mut batch = batch(&runs);
        batch.take_changed("c");
        assert_eq!((batch.changed, batch.held), (1, 2));
        let left: Vec<&str> = batch.lowest_first().iter().map(|run| run.id.as_str()).collect();
        assert_eq!(left, ["d", "e"]);
    }

    #[test]
    fn the_lowest_go_first_and_a_cycle_ends() {
        let runs = [run("a", None), run("b", Some("a")), run("c", Some("b")), run("x", Some("y")), run("y", Some("x"))];
        let order: Vec<String> = batch(&runs).lowest_first().iter().map(|run| run.id.clone()).collect();
        assert_eq!(order, ["x", "y", "c", "b", "a"]);
        let mut batch = batch(&runs);
        batch.take_changed("x");
        assert_eq!((batch.changed, batch.held, batch.runs.len()), (1, 1, 3));
    }
}
