//! Who is whose child, by the index by parent.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::Ordering,
};

use futures::future::try_join_all;

use super::{
    DynamoStore,
    keys::{self, Item, PARENT_INDEX, text, text_of},
    read::whole,
};
use crate::runs::StoreError;

/// How many children of a run are asked for at a time: most runs have few.
const CHILDREN_MAX: usize = 1_000;
/// From this many parents on one page of the whole index is cheaper than a query for each.
const PARENTS_MIN: usize = 64;

impl DynamoStore {
    /// The children of each run that has any, where one page has the whole index: only runs that have a parent are in it,
    /// and mostly those are few. None where it is larger, or where so few `parents` are better asked for one by one.
    pub(super) async fn all_links(&self, parents: usize) -> Result<Option<HashMap<String, Vec<String>>>, StoreError> {
        if parents < PARENTS_MIN || self.has_many_links.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let scan =
            self.client.scan().table_name(&self.table).index_name(PARENT_INDEX).projection_expression("PK, GSI4PK");
        let permit = self.permit().await;
        let answer = scan.send().await.map_err(|error| self.error(&error))?;
        drop(permit);
        if answer.last_evaluated_key.is_some() {
            self.has_many_links.store(true, Ordering::Relaxed);
            return Ok(None);
        }
        let mut links: HashMap<String, Vec<String>> = HashMap::new();
        for item in answer.items() {
            if let (Some(parent), Some(child)) = (part(item, "GSI4PK", "PARENT#"), part(item, "PK", "RUN#")) {
                links.entry(parent).or_default().push(child);
            }
        }
        for children in links.values_mut() {
            children.sort_unstable();
        }
        Ok(Some(links))
    }

    /// Up to `limit` ids of runs that the index names as children of `parent`, behind `after`.
    pub(super) async fn child_ids(
        &self,
        parent: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<String>, StoreError> {
        if !keys::fits(parent) {
            return Ok(Vec::new());
        }
        let (mut ids, mut behind) = (Vec::new(), after.map(|child| child_key(parent, child)));
        loop {
            let query = self.client.query().index_name(PARENT_INDEX).limit(whole(limit - ids.len()));
            let query = query
                .key_condition_expression("GSI4PK = :parent")
                .expression_attribute_values(":parent", text(format!("PARENT#{parent}")))
                .projection_expression("PK")
                .set_exclusive_start_key(behind);
            let (items, last) = self.query_page(query).await?;
            ids.extend(items.iter().filter_map(|item| part(item, "PK", "RUN#")));
            behind = last.filter(|_| ids.len() < limit);
            if behind.is_none() {
                return Ok(ids);
            }
        }
    }

    /// Those of `runs` that have a child which is not among them.
    pub(super) async fn held(&self, runs: &HashSet<&str>) -> Result<Vec<String>, StoreError> {
        let parents: Vec<&str> = runs.iter().copied().collect();
        if let Some(links) = self.all_links(parents.len()).await? {
            let mut outside: Vec<&str> = Vec::new();
            for parent in &parents {
                let children = links.get(*parent).map_or(&[][..], Vec::as_slice);
                outside.extend(children.iter().map(String::as_str).filter(|id| !runs.contains(id)));
            }
            // The index lags: what it names may be gone, or be another's child by now.
            let there = self.read_runs(outside.into_iter()).await?;
            let held: HashSet<String> = there.into_iter().filter_map(|run| run.parent).collect();
            return Ok(held.into_iter().filter(|parent| runs.contains(parent.as_str())).collect());
        }
        let held = try_join_all(parents.iter().map(|id| self.has_child_outside(id, runs))).await?;
        Ok(parents.iter().zip(held).filter(|(_, held)| *held).map(|(id, _)| (*id).to_owned()).collect())
    }

    async fn has_child_outside(&self, id: &str, runs: &HashSet<&str>) -> Result<bool, StoreError> {
        let mut after: Option<String> = None;
        loop {
            let ids = self.child_ids(id, after.as_deref(), CHILDREN_MAX).await?;
            after = ids.last().filter(|_| ids.len() >= CHILDREN_MAX).cloned();
            let outside: Vec<&str> = ids.iter().map(String::as_str).filter(|id| !runs.contains(id)).collect();
            let there = self.read_runs(outside.into_iter()).await?;
            if there.iter().any(|run| run.parent.as_deref() == Some(id)) {
                return Ok(true);
            }
            if after.is_none() {
                return Ok(false);
            }
        }
    }
}

/// What stands behind `prefix` in an attribute.
fn part(item: &Item, name: &str, prefix: &str) -> Option<String> {
    text_of(item, name).and_then(|text| text.strip_prefix(prefix)).map(str::to_owned)
}

fn child_key(parent: &str, child: &str) -> Item {
    let mut key = keys::run_key(child);
    let entry = [("GSI4PK", format!("PARENT#{parent}")), ("GSI4SK", format!("CHILD#{child}"))];
    key.extend(entry.map(|(name, value)| (name.to_owned(), text(value))));
    key
}
