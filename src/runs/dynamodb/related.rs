//! What belonged to runs whose items are gone, and the markers that say so until it is gone too.
//!
//! What leads to something goes after it: a token before the hook that names it, a checkpoint before the step. So a sweep that finds
//! the marker of one that was stopped finds the rest as the first one did.

use std::collections::{HashMap, HashSet};

use aws_sdk_dynamodb::types::AttributeValue;
use futures::future::try_join_all;

use super::{
    DynamoStore,
    keys::{self, DATA, FLAG, Item, MARKERS, METADATA, STATUS_INDEX, key, key_of, text, text_of},
};
use crate::{report::Counts, runs::StoreError};

/// Says which runs are gone whose belongings may still be there.
#[derive(Debug)]
pub(super) struct Marker {
    name: String,
    runs: Vec<String>,
}

impl Marker {
    pub(super) fn new(runs: Vec<String>) -> Self {
        Self { name: ulid::Ulid::generate().to_string(), runs }
    }

    fn key(&self) -> Item {
        key(MARKERS, self.name.as_str())
    }

    pub(super) fn item(&self) -> Item {
        let mut item = self.key();
        item.insert("runs".to_owned(), AttributeValue::L(self.runs.iter().map(text).collect()));
        item
    }

    /// The marker of an item; none where it is not ours.
    fn read(item: &Item) -> Option<Self> {
        let runs = item.get("runs")?.as_l().ok()?;
        let runs: Option<Vec<String>> = runs.iter().map(|id| id.as_s().ok().cloned()).collect();
        Some(Self { name: key_of(item).1, runs: runs? })
    }
}

/// The keys of what belongs to some runs.
#[derive(Debug, Default)]
struct Belongings {
    /// What nothing else is found by.
    ends: Vec<Item>,
    /// What some of these were found by.
    ways: Vec<Item>,
    counts: Counts,
}

impl DynamoStore {
    /// Finishes what a sweep that was stopped has left.
    pub(super) async fn finish_markers(&self) -> Result<(), StoreError> {
        let query = self.client.query().consistent_read(true).key_condition_expression("PK = :markers");
        let items = self.query_all(query.expression_attribute_values(":markers", text(MARKERS))).await?;
        for mut marker in items.iter().filter_map(Marker::read) {
            // Its owner has made one of them anew: what is there is the new one's.
            let there = self.read_runs(marker.runs.iter().map(String::as_str)).await?;
            marker.runs.retain(|id| there.iter().all(|run| run.id != *id));
            self.finish(&marker).await?;
        }
        Ok(())
    }

    /// Deletes what belonged to a marker's runs, and the marker; answers how much of each kind.
    pub(super) async fn finish(&self, marker: &Marker) -> Result<Counts, StoreError> {
        let belongings = self.belongings(&marker.runs).await?;
        self.delete_items(belongings.ends).await?;
        self.delete_items(belongings.ways).await?;
        if let Some(points) = self.points.lock().await.as_mut() {
            points.forget(&marker.runs);
        }
        self.delete_items(vec![marker.key()]).await?;
        Ok(belongings.counts)
    }

    async fn belongings(&self, runs: &[String]) -> Result<Belongings, StoreError> {
        let mut found = Belongings::default();
        let flags = runs.iter().map(|id| key(format!("CANCEL#{id}"), FLAG)).collect();
        let (items, hooks, flags, ()) = tokio::try_join!(
            try_join_all(runs.iter().map(|id| self.items_of(id))),
            try_join_all(runs.iter().map(|id| self.hooks_of(id))),
            self.read_items(flags, &["PK", "SK"]),
            self.find_points(),
        )?;
        let mut steps: HashMap<&str, Vec<String>> = HashMap::new();
        for (id, items) in runs.iter().zip(&items) {
            for item in items {
                match key_of(item).1.split_once('#') {
                    Some(("EVENT", _)) => found.counts.add("events", 1),
                    Some(("STEP", step)) => {
                        found.counts.add("steps", 1);
                        steps.entry(id).or_default().push(step.to_owned());
                    }
                    _ => {}
                }
            }
        }
        let points = self.points_of(runs, &steps).await?;
        let hooks: Vec<Item> = hooks.into_iter().flatten().collect();
        found.counts.add("hooks", hooks.len() as u64);
        found.counts.add("cancellation_flags", flags.len() as u64);
        found.counts.add("checkpoints", points.len() as u64);
        found.ends = self.tokens_of(&hooks).await?;
        found.ends.extend(points.into_iter().map(|point| key(format!("CHECKPOINT#{point}"), DATA)));
        found.ends.extend(flags);
        found.ways = items.into_iter().flatten().collect();
        found.ways.extend(hooks.iter().map(|hook| key(key_of(hook).0, METADATA)));
        Ok(found)
    }

    /// The keys of a run's events and steps, and of whatever else stands beside them.
    async fn items_of(&self, id: &str) -> Result<Vec<Item>, StoreError> {
        let query = self.client.query().consistent_read(true).projection_expression("PK, SK");
        let query = query
            .key_condition_expression("PK = :run")
            .expression_attribute_values(":run", text(keys::run_partition(id)));
        self.query_all(query).await
    }

    async fn hooks_of(&self, id: &str) -> Result<Vec<Item>, StoreError> {
        let (expression, names) = keys::projection(&["PK", "SK", "token", "run_id"]);
        let query = self.client.query().index_name(STATUS_INDEX).projection_expression(expression);
        let query = query
            .set_expression_attribute_names(Some(names))
            .key_condition_expression("GSI1PK = :hooks")
            .expression_attribute_values(":hooks", text(format!("RUN_HOOKS#{id}")));
        let mut hooks = self.query_all(query).await?;
        hooks.retain(|hook| text_of(hook, "run_id") == Some(id) && key_of(hook).1 == METADATA);
        Ok(hooks)
    }

    /// The keys of the tokens of these hooks, each of which names its hook and the run.
    async fn tokens_of(&self, hooks: &[Item]) -> Result<Vec<Item>, StoreError> {
        let token = |hook: &Item| Some(key(format!("TOKEN#{}", text_of(hook, "token")?), key_of(hook).0));
        let found = self.read_items(hooks.iter().filter_map(token).collect(), &["PK", "SK", "run_id"]).await?;
        let runs: HashMap<String, &str> =
            hooks.iter().filter_map(|hook| Some((key_of(hook).0, text_of(hook, "run_id")?))).collect();
        let is_theirs = |token: &Item| {
            let run = runs.get(&key_of(token).1).copied();
            // Tokens of older versions name the hook only.
            text_of(token, "run_id").is_none_or(|named| run == Some(named))
        };
        let keys = found.iter().filter(|token| is_theirs(token)).map(|token| {
            let (partition, sort) = key_of(token);
            key(partition, sort)
        });
        Ok(keys.collect())
    }

    /// The checkpoints of these runs, which are gone: those keyed `run:step`, and those keyed by the id of a step of theirs.
    /// Keys that a run which stays might mean too stay.
    async fn points_of(
        &self,
        runs: &[String],
        steps: &HashMap<&str, Vec<String>>,
    ) -> Result<HashSet<String>, StoreError> {
        let found: HashSet<String> = {
            let points = self.points.lock().await;
            let Some(points) = points.as_ref() else { return Ok(HashSet::new()) };
            let by_step = steps.values().flatten().filter(|step| points.has(step)).cloned();
            let mut found: HashSet<String> = runs.iter().flat_map(|id| points.below(id)).chain(by_step).collect();
            found.retain(|key| points.is_only_of(key, runs));
            found
        };
        let owners = found.iter().flat_map(|key| prefixes(key));
        let there: HashSet<String> = self.read_runs(owners).await?.into_iter().map(|run| run.id).collect();
        Ok(found.into_iter().filter(|key| prefixes(key).all(|owner| !there.contains(owner))).collect())
    }
}

/// The ids of the runs that a checkpoint's key may begin with: `a:b:c` may be step `b:c` of run `a` or step `c` of run `a:b`.
fn prefixes(key: &str) -> impl Iterator<Item = &str> {
    key.match_indices(':').map(|(at, _)| &key[..at])
}
