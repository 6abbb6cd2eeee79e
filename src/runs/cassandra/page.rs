//! Pages of runs by the index by status: its days, the latest first, and in each of them all statuses together.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use chrono::{DateTime, TimeDelta, Utc};
use scylla::{response::PagingState, value::CqlTimestamp};

use super::{
    CassandraStore,
    cql::Failed,
    places::{Days, Entry, Key, Place},
    read::Run,
};
use crate::runs::{Cursor, Page};

/// The fewest entries of a partition that are read at a time.
const ENTRIES_MIN: usize = 50;

/// One status of a day, of which some entries have been read.
struct Source {
    place: Place,
    /// Each with when it was written.
    entries: VecDeque<(Key, Option<i64>)>,
    /// The last one that was taken from them.
    last: Option<Key>,
    /// Where its entries go on; none: all have been read.
    next: Option<PagingState>,
}

/// Some keys of a day, latest first, each with its entry in every partition that has it.
struct Keys {
    found: Vec<(Key, Vec<Entry>)>,
    /// Whether the day has no more of them.
    is_end: bool,
}

impl CassandraStore {
    /// The partitions of the index. Read at the start of a walk; one that comes into being later is for the next walk.
    pub(super) async fn days(&self, is_start: bool) -> Result<Arc<Days>, Failed> {
        if let Some(days) = self.places.days().filter(|_| !is_start) {
            return Ok(days);
        }
        let text = "SELECT DISTINCT status, date_bucket FROM runs_by_status";
        let now: Vec<(CqlTimestamp,)> = self.cql.read("SELECT toTimestamp(now()) FROM system.local", ()).await?;
        let read_at = now.first().map_or(i64::MIN, |(now,)| now.0.saturating_mul(1_000));
        let mut statuses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (status, day) in self.cql.read::<(String, String)>(text, ()).await? {
            statuses.entry(day).or_default().insert(status);
        }
        let days = Arc::new(Days { read_at, statuses });
        self.places.set_days(Arc::clone(&days));
        Ok(days)
    }

    /// Pages by (day, creation, run) downwards. A run is shown where its own row says that it was made when the index says
    /// so, however many entries it has.
    pub(super) async fn read_page(
        &self,
        before: DateTime<Utc>,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Page, Failed> {
        let later = |at: DateTime<Utc>| at.checked_add_signed(TimeDelta::days(1)).unwrap_or(at);
        // A day more, for clocks that differ; and one more, for a day that is not one of UTC.
        let bound = (later(before).timestamp_millis(), String::new());
        let last_day = later(later(before)).format("%Y-%m-%d").to_string();
        let start = after.and_then(place);
        let days = self.days(after.is_none()).await?;
        let mut found: Vec<(Key, Vec<Entry>)> = Vec::new();
        let mut next = None;
        for day in days.statuses.keys().rev().filter(|day| **day <= last_day) {
            let from = match &start {
                Some((last, _)) if day > last => continue,
                Some((last, key)) if day == last => key.clone().min(bound.clone()),
                Some(_) | None => bound.clone(),
            };
            let keys = self.keys_of(&days, day, &from, limit - found.len()).await?;
            found.extend(keys.found);
            if let Some(((at, run), _)) = found.last().filter(|_| found.len() >= limit || !keys.is_end) {
                next = Some(Cursor(vec![day.clone(), at.to_string(), run.clone()]));
                break;
            }
        }
        let runs = self.read_runs(found.iter().map(|((_, run), _)| run.as_str())).await?;
        let mut runs: HashMap<String, Run> = runs.into_iter().map(|run| (run.id.clone(), run)).collect();
        let mut page = Page { runs: Vec::with_capacity(found.len()), next };
        for ((at, id), entries) in found {
            if runs.get(&id).is_some_and(|run| run.created_at == Some(at))
                && let Some(run) = runs.remove(&id)
            {
                self.places.add(&run, entries);
                page.runs.push(run.seen());
            }
        }
        Ok(page)
    }

    /// Merges what the statuses of a day have below `from`, up to `limit` keys.
    async fn keys_of(&self, days: &Days, day: &str, from: &Key, limit: usize) -> Result<Keys, Failed> {
        let new = |status: &String| Source {
            place: Place { status: status.clone(), day: day.to_owned() },
            entries: VecDeque::new(),
            last: None,
            next: Some(PagingState::start()),
        };
        let mut sources: Vec<Source> = days.statuses.get(day).into_iter().flatten().map(new).collect();
        let size = (limit / sources.len().max(1)).max(ENTRIES_MIN);
        let reads = sources.iter_mut().map(|source| self.fill(source, from, size));
        futures::future::try_join_all(reads).await?;
        let mut found: Vec<(Key, Vec<Entry>)> = Vec::new();
        loop {
            for source in &mut sources {
                self.fill(source, from, size).await?;
            }
            let heads = sources.iter().filter_map(|source| source.entries.front());
            let Some(latest) = heads.map(|(key, _)| key).max().cloned() else {
                return Ok(Keys { found, is_end: true });
            };
            if found.len() >= limit {
                return Ok(Keys { found, is_end: false });
            }
            let mut entries = Vec::new();
            for source in &mut sources {
                if let Some((_, written_at)) = source.entries.pop_front_if(|(key, _)| *key == latest) {
                    let before = source.last.replace(latest.clone());
                    let written_at = written_at.filter(|at| *at < days.read_at);
                    entries.push(Entry { place: source.place.clone(), before, written_at });
                }
            }
            found.push((latest, entries));
        }
    }

    /// Reads more entries where none is left and there are more.
    async fn fill(&self, source: &mut Source, (at, run): &Key, size: usize) -> Result<(), Failed> {
        let text = "SELECT created_at, run_id, WRITETIME(workflow_name) FROM runs_by_status \
                    WHERE status = ? AND date_bucket = ? AND (created_at, run_id) < (?, ?)";
        // A page of the server may be empty and not the last.
        while source.entries.is_empty()
            && let Some(from) = source.next.take()
        {
            let Place { status, day } = &source.place;
            let size = i32::try_from(size).unwrap_or(i32::MAX);
            let (rows, next): (Vec<(CqlTimestamp, String, Option<i64>)>, _) =
                self.cql.page(text, (status, day, CqlTimestamp(*at), run), size, from).await?;
            source.entries.extend(rows.into_iter().map(|(at, run, written_at)| ((at.0, run), written_at)));
            source.next = next;
        }
        Ok(())
    }
}

fn place(cursor: &Cursor) -> Option<(String, Key)> {
    Some((cursor.0.first()?.clone(), (cursor.0.get(1)?.parse().ok()?, cursor.0.get(2)?.clone())))
}
