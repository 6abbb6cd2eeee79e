//! Runs by their ids and by their parents.

use std::collections::{BTreeSet, HashMap};

use scylla::{response::PagingState, value::CqlTimestamp};

use super::{
    CassandraStore,
    cql::{Failed, KEYS_MAX, Work, all, is_key},
    stamp,
};
use crate::runs::{Cursor, Page, Seen, Stamp};

/// How many children of one parent are read along with those of others.
const ALONG_MAX: usize = 64;
/// How many parents are read at a time.
const PARENTS_MAX: usize = 1_024;
/// How many rows are looked at for runs without a time, in the order of the server's tokens: no index has them.
const UNPAGED_MAX: usize = 100_000;

const RUNS: &str = "SELECT run_id, status, workflow_name, created_at, updated_at, parent_run_id, idempotency_key \
                    FROM workflow_runs WHERE run_id IN ?";

type Columns = (
    String,
    Option<String>,
    Option<String>,
    Option<CqlTimestamp>,
    Option<CqlTimestamp>,
    Option<String>,
    Option<String>,
);

/// A run's own row.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) id: String,
    pub(super) status: Option<String>,
    pub(super) workflow: Option<String>,
    pub(super) created_at: Option<i64>,
    pub(super) updated_at: Option<i64>,
    pub(super) parent: Option<String>,
    pub(super) idempotency_key: Option<String>,
}

impl Run {
    fn of((id, status, workflow, created_at, updated_at, parent, idempotency_key): Columns) -> Self {
        let millis = |at: Option<CqlTimestamp>| at.map(|at| at.0);
        let (created_at, updated_at) = (millis(created_at), millis(updated_at));
        Self { id, status, workflow, created_at, updated_at, parent, idempotency_key }
    }

    pub(super) fn seen(self) -> Seen {
        Seen {
            id: self.id,
            status: self.status.unwrap_or_default(),
            updated_at: stamp(self.updated_at.map(CqlTimestamp)),
            created_at: stamp(self.created_at.map(CqlTimestamp)),
            workflow: self.workflow.unwrap_or_default(),
            parent: self.parent,
        }
    }

    /// Whether it is as it was when it was seen.
    pub(super) fn is_as(&self, seen: &Seen) -> bool {
        let updated_at: Stamp = stamp(self.updated_at.map(CqlTimestamp));
        self.status.as_deref() == Some(seen.status.as_str()) && updated_at.raw == seen.updated_at.raw
    }
}

/// A row of an index: under which key, when made, which run.
type Entry = (String, CqlTimestamp, String);

impl CassandraStore {
    /// The own rows of these runs, in any order.
    pub(super) async fn read_runs(&self, ids: impl Iterator<Item = &str>) -> Result<Vec<Run>, Failed> {
        let ids: BTreeSet<&str> = ids.collect();
        let rows: Vec<Columns> = self.cql.read_keys(RUNS, &ids).await?;
        Ok(rows.into_iter().map(Run::of).collect())
    }

    /// Counts runs whose creation is no time, among the first rows of the table.
    pub(super) async fn count_unpaged(&self, limit: usize) -> Result<u64, Failed> {
        let (mut seen, mut count, mut from) = (0, 0, PagingState::start());
        while seen < UNPAGED_MAX && count < limit {
            let text = "SELECT created_at FROM workflow_runs";
            let (rows, next): (Vec<(Option<CqlTimestamp>,)>, _) = self.cql.page(text, (), 5_000, from).await?;
            seen += rows.len();
            count += rows.iter().filter(|(at,)| stamp(*at).instant.is_none()).count();
            match next {
                Some(next) => from = next,
                None => break,
            }
        }
        Ok(count.min(limit) as u64)
    }

    /// Pages by (parent, creation, run), which is the index by parent; the child's own row decides whose child it is.
    pub(super) async fn read_children(
        &self,
        parents: &[String],
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page, Failed> {
        let start = after.and_then(place);
        let parents: BTreeSet<&str> = parents.iter().map(String::as_str).filter(|parent| is_key(parent)).collect();
        let is_beyond = |parent: &&str| start.as_ref().is_none_or(|(last, _, _)| *parent > last.as_str());
        let whole: Vec<&str> = parents.iter().copied().filter(is_beyond).take(PARENTS_MAX).collect();
        let mut entries = match &start {
            // The rest of the parent that the last page ended in.
            Some(last) if parents.contains(last.0.as_str()) => self.rest_of(last, limit).await?,
            Some(_) | None => Vec::new(),
        };
        let mut is_cut = entries.len() >= limit;
        if !is_cut {
            let along = ALONG_MAX.min(limit);
            let mut of: HashMap<String, Vec<Entry>> = HashMap::new();
            for entry in self.entries_of(&whole, along).await? {
                of.entry(entry.0.clone()).or_default().push(entry);
            }
            for parent in &whole {
                let some = of.remove(*parent).unwrap_or_default();
                let may_have_more = some.len() >= along;
                entries.extend(some);
                is_cut = may_have_more || entries.len() >= limit;
                if is_cut {
                    break;
                }
            }
        }
        entries.truncate(limit);
        let next = match (entries.last(), whole.last()) {
            (Some((parent, at, run)), _) if is_cut => Some(Cursor(vec![parent.clone(), at.0.to_string(), run.clone()])),
            // All of their children have been seen.
            (_, Some(last)) if parents.last() != Some(last) => {
                Some(Cursor(vec![(*last).to_owned(), i64::MAX.to_string(), String::new()]))
            }
            (_, Some(_) | None) => None,
        };
        Ok(Page { runs: self.children_of(entries).await?, next })
    }

    async fn rest_of(&self, (parent, at, run): &(String, i64, String), limit: usize) -> Result<Vec<Entry>, Failed> {
        let text = "SELECT parent_run_id, created_at, run_id FROM runs_by_parent \
                    WHERE parent_run_id = ? AND (created_at, run_id) > (?, ?) LIMIT ?";
        let limit = i32::try_from(limit).unwrap_or(i32::MAX);
        self.cql.read(text, (parent, CqlTimestamp(*at), run, limit)).await
    }

    /// Some of the entries of each of these parents.
    async fn entries_of(&self, parents: &[&str], along: usize) -> Result<Vec<Entry>, Failed> {
        let text = "SELECT parent_run_id, created_at, run_id FROM runs_by_parent WHERE parent_run_id IN ? PER PARTITION LIMIT ?";
        let along = i32::try_from(along).unwrap_or(i32::MAX);
        let mut reads: Vec<Work<'_, Vec<Entry>>> = Vec::new();
        for chunk in parents.chunks(KEYS_MAX) {
            reads.push(Box::pin(self.cql.read(text, (chunk, along))));
        }
        Ok(all(reads).await?.into_iter().flatten().collect())
    }

    /// The runs of index entries that are what the index says.
    pub(super) async fn children_of(&self, entries: Vec<Entry>) -> Result<Vec<Seen>, Failed> {
        let runs = self.read_runs(entries.iter().map(|(_, _, run)| run.as_str())).await?;
        let runs: HashMap<String, Run> = runs.into_iter().map(|run| (run.id.clone(), run)).collect();
        let is_theirs = |(parent, at, run): &Entry| {
            let run = runs.get(run)?;
            let is_of_then = run.created_at.is_none_or(|created_at| created_at == at.0);
            (run.parent.as_ref() == Some(parent) && is_of_then).then(|| run.clone().seen())
        };
        Ok(entries.iter().filter_map(is_theirs).collect())
    }

    /// All index entries of these parents.
    pub(super) async fn all_entries_of(&self, parents: &BTreeSet<&str>) -> Result<Vec<Entry>, Failed> {
        let text = "SELECT parent_run_id, created_at, run_id FROM runs_by_parent WHERE parent_run_id IN ?";
        self.cql.read_keys(text, parents).await
    }
}

fn place(cursor: &Cursor) -> Option<(String, i64, String)> {
    Some((cursor.0.first()?.clone(), cursor.0.get(1)?.parse().ok()?, cursor.0.get(2)?.clone()))
}
