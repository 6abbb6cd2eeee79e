//! The checkpoints of a table, which no index leads to.

use std::hash::{BuildHasher, RandomState};

use futures::future::try_join_all;
use tokio::sync::Mutex;

use super::{
    DynamoStore,
    keys::key_of,
    scan::{Filter, Segment},
};
use crate::runs::StoreError;

/// How many parts of the table are read at the same time.
const SEGMENTS: i32 = 4;
const FILTER: Filter = Filter {
    condition: "begins_with(PK, :points) OR (begins_with(PK, :runs) AND begins_with(SK, :steps))",
    values: &[(":points", "CHECKPOINT#"), (":runs", "RUN#"), (":steps", "STEP#")],
    attributes: &["PK", "SK"],
};

/// What the segments of a scan have found so far.
#[derive(Debug, Default)]
struct Found {
    keys: Vec<String>,
    steps: Vec<(u64, u64)>,
}

/// The keys of all checkpoints, and which runs have a step whose id is one of them.
#[derive(Debug)]
pub(super) struct Points {
    /// In order.
    keys: Vec<String>,
    /// Step and run, as hashes in order: there are too many steps to keep their names.
    steps: Vec<(u64, u64)>,
    hasher: RandomState,
}

impl Points {
    fn new(mut keys: Vec<String>, mut steps: Vec<(u64, u64)>, hasher: RandomState) -> Self {
        keys.sort_unstable();
        let mut named: Vec<u64> = keys.iter().map(|key| hasher.hash_one(key.as_str())).collect();
        named.sort_unstable();
        steps.retain(|(step, _)| named.binary_search(step).is_ok());
        steps.shrink_to_fit();
        steps.sort_unstable();
        Self { keys, steps, hasher }
    }

    /// Whether there is a checkpoint of exactly this key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.keys.binary_search_by(|other| other.as_str().cmp(key)).is_ok()
    }

    /// The keys that begin with a run's id and a colon.
    pub(super) fn below(&self, run: &str) -> impl Iterator<Item = String> {
        let prefix = format!("{run}:");
        let start = self.keys.partition_point(|key| *key < prefix);
        self.keys[start..].iter().take_while(move |key| key.starts_with(&prefix)).cloned()
    }

    /// Whether no other run has a step whose id is `key`.
    pub(super) fn is_only_of(&self, key: &str, runs: &[String]) -> bool {
        let step = self.hasher.hash_one(key);
        let start = self.steps.partition_point(|(other, _)| *other < step);
        let mut owners = self.steps[start..].iter().take_while(|(other, _)| *other == step).peekable();
        if owners.peek().is_none() {
            return true;
        }
        let ours: Vec<u64> = runs.iter().map(|run| self.hasher.hash_one(run.as_str())).collect();
        owners.all(|(_, run)| ours.contains(run))
    }

    /// These runs have no steps any more.
    pub(super) fn forget(&mut self, runs: &[String]) {
        let mut gone: Vec<u64> = runs.iter().map(|run| self.hasher.hash_one(run.as_str())).collect();
        gone.sort_unstable();
        self.steps.retain(|(_, run)| gone.binary_search(run).is_err());
    }
}

impl DynamoStore {
    /// Looks for checkpoints in the whole table, once in a sweep.
    pub(super) async fn find_points(&self) -> Result<(), StoreError> {
        let mut points = self.points.lock().await;
        if points.is_none() {
            let hasher = RandomState::new();
            let found = Mutex::<Found>::default();
            try_join_all((0..SEGMENTS).map(|at| self.scan_segment(at, &found, &hasher))).await?;
            let Found { keys, steps } = found.into_inner();
            *points = Some(Points::new(keys, steps, hasher));
        }
        Ok(())
    }

    async fn scan_segment(&self, at: i32, found: &Mutex<Found>, hasher: &RandomState) -> Result<(), StoreError> {
        let mut next = None;
        loop {
            let (items, after) = self.scan_page(&FILTER, Some(Segment { at, of: SEGMENTS }), next).await?;
            let mut found = found.lock().await;
            for item in items {
                let (partition, sort) = key_of(&item);
                if let Some(key) = partition.strip_prefix("CHECKPOINT#") {
                    found.keys.push(key.to_owned());
                } else if let (Some(run), Some(step)) = (partition.strip_prefix("RUN#"), sort.strip_prefix("STEP#")) {
                    found.steps.push((hasher.hash_one(step), hasher.hash_one(run)));
                }
            }
            next = after;
            if next.is_none() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_a_step_of_two_runs_is_of_neither_alone() {
        let hasher = RandomState::new();
        let step = |step: &str, run: &str| (hasher.hash_one(step), hasher.hash_one(run));
        let steps = vec![step("pay", "a"), step("pay", "b"), step("send", "a"), step("no point", "a")];
        let keys = ["pay", "a:x", "a:", "ab:x", "send", "a;x"].map(str::to_owned).to_vec();
        let mut points = Points::new(keys, steps, hasher);
        let [a, both] = [vec!["a".to_owned()], vec!["b".to_owned(), "a".to_owned()]];
        assert_eq!(points.steps.len(), 3);
        assert_eq!(points.below("a").collect::<Vec<_>>(), ["a:", "a:x"]);
        assert!(points.has("pay") && !points.has("no point"));
        assert!(!points.is_only_of("pay", &a) && points.is_only_of("pay", &both) && points.is_only_of("send", &a));
        points.forget(&["b".to_owned()]);
        assert!(points.is_only_of("pay", &a));
    }
}
