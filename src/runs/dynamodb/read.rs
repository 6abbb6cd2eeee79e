//! Pages of runs and of their children.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::Select;
use chrono::{DateTime, Datelike, TimeDelta, Utc};
use futures::future::try_join_all;

use super::{
    DynamoStore,
    keys::{self, Item, METADATA, RUN_ATTRIBUTES, STATUS_INDEX, key, projection, seen, text, text_of},
};
use crate::runs::{Cursor, Page, Seen, StoreError};

/// The partition of all runs in the index by status.
const RUNS: &str = "RUNS";
/// Sorts behind every other text.
const LAST: &str = "\u{10ffff}";
/// How many parents' children are read at a time.
const PARENTS_MAX: usize = 256;

/// Where a page starts. The index sorts by `<status>#<time>`, and the store goes through it downwards.
enum Start {
    /// At the next status whose entries sort below this.
    Below(String),
    /// Within a status, behind an entry.
    In { status: String, entry: String, partition: String },
}

impl Start {
    fn of(after: Option<&Cursor>) -> Self {
        match after.map(|cursor| cursor.0.as_slice()) {
            Some([upper]) => Self::Below(upper.clone()),
            Some([status, entry, partition]) => {
                Self::In { status: status.clone(), entry: entry.clone(), partition: partition.clone() }
            }
            _ => Self::Below(LAST.to_owned()),
        }
    }

    fn cursor(self) -> Cursor {
        match self {
            Self::Below(upper) => Cursor(vec![upper]),
            Self::In { status, entry, partition } => Cursor(vec![status, entry, partition]),
        }
    }
}

/// The text that sorts behind every time before `at`, wherever on earth it was written.
fn bound(at: DateTime<Utc>) -> String {
    let at = at.checked_add_signed(TimeDelta::days(1)).unwrap_or(at);
    match at.year() {
        ..0 => String::new(),
        0..10_000 => at.format("%Y-%m-%dT%H:%M:%S%.6f").to_string(),
        10_000.. => ":".to_owned(),
    }
}

impl DynamoStore {
    /// Pages through the index by status, in each status from the latest time downwards. The time of an entry is that of the
    /// run's last change of status, or of its creation: never later than its last update. So a run whose entry is later than
    /// `before` cannot be due, and what is not old is not even read, however much of it there is.
    pub(super) async fn read_page(
        &self,
        before: DateTime<Utc>,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let (bound, latest) = (bound(before), before.checked_add_signed(TimeDelta::days(1)).unwrap_or(before));
        let (mut runs, mut room, mut start) = (Vec::new(), limit.max(1), Start::of(after));
        while room > 0 {
            let (status, behind) = match start {
                Start::Below(upper) => match self.status_below(&upper).await? {
                    Some(status) => (status, None),
                    None => return Ok(Page { runs, next: None }),
                },
                Start::In { status, entry, partition } => (status, Some(entry_key(entry, partition))),
            };
            let range = (format!("{status}#"), format!("{status}#{bound}"));
            let (items, last) = self.entries(range, behind, room).await?;
            room = room.saturating_sub(items.len());
            let shown = items.iter().filter_map(seen);
            runs.extend(shown.filter(|run| run.created_at.instant.is_none_or(|at| at < latest)));
            start = match last {
                Some(last) => {
                    let part = |name| text_of(&last, name).unwrap_or_default().to_owned();
                    Start::In { status, entry: part("GSI1SK"), partition: part("PK") }
                }
                None => Start::Below(format!("{status}#")),
            };
        }
        Ok(Page { runs, next: Some(start.cursor()) })
    }

    /// Up to `limit` entries of the index by status from the last of `range` downwards.
    async fn entries(
        &self,
        (from, to): (String, String),
        behind: Option<Item>,
        limit: usize,
    ) -> Result<(Vec<Item>, Option<Item>), StoreError> {
        let (expression, names) = projection(&RUN_ATTRIBUTES);
        let query = self.client.query().index_name(STATUS_INDEX).scan_index_forward(false).limit(whole(limit));
        let query = query
            .key_condition_expression("GSI1PK = :runs AND GSI1SK BETWEEN :from AND :to")
            .expression_attribute_values(":runs", text(RUNS))
            .expression_attribute_values(":from", text(from))
            .expression_attribute_values(":to", text(to))
            .projection_expression(expression)
            .set_expression_attribute_names(Some(names))
            .set_exclusive_start_key(behind);
        self.query_page(query).await
    }

    /// The last status of the index whose entries sort below `upper`.
    async fn status_below(&self, upper: &str) -> Result<Option<String>, StoreError> {
        let mut upper = upper.to_owned();
        loop {
            let query = self.client.query().index_name(STATUS_INDEX).scan_index_forward(false).limit(1);
            let query = query
                .key_condition_expression("GSI1PK = :runs AND GSI1SK < :upper")
                .expression_attribute_values(":runs", text(RUNS))
                .expression_attribute_values(":upper", text(upper.as_str()))
                .projection_expression("GSI1SK");
            let (items, _) = self.query_page(query).await?;
            let Some(entry) = items.first().and_then(|item| text_of(item, "GSI1SK")) else { return Ok(None) };
            match entry.rsplit_once('#') {
                Some((status, _)) => return Ok(Some(status.to_owned())),
                // It is no entry of PyWorkflow's.
                None => entry.clone_into(&mut upper),
            }
        }
    }

    /// Counts the runs whose entry has something else than a time, which sorts behind all times.
    pub(super) async fn count_unpaged(&self, limit: usize) -> Result<u64, StoreError> {
        let (mut count, mut upper) = (0, LAST.to_owned());
        while let Some(status) = self.status_below(&upper).await? {
            let query = self.client.query().index_name(STATUS_INDEX).limit(whole(limit)).select(Select::Count);
            let query = query
                .key_condition_expression("GSI1PK = :runs AND GSI1SK BETWEEN :from AND :to")
                .expression_attribute_values(":runs", text(RUNS))
                .expression_attribute_values(":from", text(format!("{status}#:")))
                .expression_attribute_values(":to", text(format!("{status}#{LAST}")))
                .table_name(&self.table);
            let answer = query.send().await.map_err(|error| self.error(&error))?;
            count += u64::try_from(answer.count).unwrap_or(0);
            if count >= limit as u64 {
                return Ok(limit as u64);
            }
            upper = format!("{status}#");
        }
        Ok(count)
    }

    /// Looks runs up by id, as they are now.
    pub(super) async fn read_runs(&self, ids: impl Iterator<Item = &str>) -> Result<Vec<Seen>, StoreError> {
        let keys = ids.filter(|id| keys::fits(id)).map(keys::run_key).collect();
        Ok(self.read_items(keys, &RUN_ATTRIBUTES).await?.iter().filter_map(seen).collect())
    }

    /// Pages by (parent, child) through the index by parent, which says who they are; the runs' own items say what they are.
    pub(super) async fn read_children(
        &self,
        parents: &[String],
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let (first, child) = match after.map(|cursor| cursor.0.as_slice()) {
            Some([first, child]) => (first.as_str(), Some(child.as_str())),
            _ => ("", None),
        };
        let mut parents: Vec<&str> = parents.iter().map(String::as_str).filter(|id| *id >= first).collect();
        parents.sort_unstable();
        parents.dedup();
        let links = match self.all_links(parents.len()).await? {
            Some(all) => listed(&all, &parents, (first, child), limit),
            None => self.some_links(&parents, (first, child), limit).await?,
        };
        let next = (links.len() >= limit)
            .then(|| links.get(limit.saturating_sub(1)))
            .flatten()
            .map(|(parent, child)| Cursor(vec![(*parent).to_owned(), child.clone()]));
        let runs = self.read_runs(links.iter().map(|(_, child)| child.as_str())).await?;
        let is_below = |run: &Seen| run.parent.as_deref().is_some_and(|parent| parents.binary_search(&parent).is_ok());
        Ok(Page { runs: runs.into_iter().filter(is_below).collect(), next })
    }

    /// Up to `limit` of the parents' children, each with its parent, from the one behind `child` of `first` on.
    async fn some_links<'a>(
        &self,
        parents: &[&'a str],
        (first, child): (&str, Option<&str>),
        limit: usize,
    ) -> Result<Vec<(&'a str, String)>, StoreError> {
        let mut links: Vec<(&str, String)> = Vec::new();
        for some in parents.chunks(PARENTS_MAX) {
            let found = some.iter().map(|id| self.child_ids(id, child.filter(|_| *id == first), limit));
            for (id, children) in some.iter().zip(try_join_all(found).await?) {
                links.extend(children.into_iter().map(|child| (*id, child)));
            }
            if links.len() >= limit {
                break;
            }
        }
        links.truncate(limit);
        Ok(links)
    }
}

/// What [`some_links`](DynamoStore::some_links) answers, of what is known already.
fn listed<'a>(
    all: &HashMap<String, Vec<String>>,
    parents: &[&'a str],
    (first, child): (&str, Option<&str>),
    limit: usize,
) -> Vec<(&'a str, String)> {
    let mut links: Vec<(&str, String)> = Vec::new();
    for parent in parents {
        let behind = child.filter(|_| *parent == first);
        let children = all.get(*parent).map_or(&[][..], Vec::as_slice);
        let start = behind.map_or(0, |child| children.partition_point(|id| id.as_str() <= child));
        links.extend(children[start..].iter().take(limit - links.len()).map(|id| (*parent, id.clone())));
    }
    links
}

fn entry_key(entry: String, partition: String) -> Item {
    let mut key = key(partition, METADATA);
    key.extend([("GSI1PK".to_owned(), text(RUNS)), ("GSI1SK".to_owned(), text(entry))]);
    key
}

pub(super) fn whole(limit: usize) -> i32 {
    i32::try_from(limit.max(1)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    #[test]
    fn a_bound_sorts_behind_every_time_before_it() {
        let at = Utc.with_ymd_and_hms(2026, 11, 20, 3, 0, 0).unwrap();
        let bound = bound(at);
        for before in ["2026-11-20T02:59:59.999999+00:00", "2026-11-20T16:59:59+14:00", "2026-11-20 02:59:59", ""] {
            assert!(before < bound.as_str(), "{before}");
        }
        for behind in ["2026-11-21T03:00:00.000001+00:00", "yesterday"] {
            assert!(behind > bound.as_str(), "{behind}");
        }
    }

    #[test]
    fn there_is_a_bound_for_every_instant() {
        assert_eq!(bound(DateTime::<Utc>::MIN_UTC), "");
        assert_eq!(bound(DateTime::<Utc>::MAX_UTC), ":");
    }
}
