//! Which eligible runs stay because a run below them stays.
//!
//! A run goes only if every run below it goes, to any depth. The subtrees of a page's runs are read level by level, in
//! chunks, so memory is bounded by depth and not by how many children there are.

use std::collections::HashMap;

use super::JobError;
use crate::runs::{
    Cursor, RunStore, Seen,
    policy::{Decision, Policy},
};

/// How many children are read at a time.
const CHUNK: usize = 1_000;
/// A run with more levels below it waits until the lowest are gone: engines nest a few.
const DEPTH_MAX: usize = 64;
/// The most descendants that go along with a page; the others go at their own turn.
const ALONG_MAX: usize = 10_000;

/// What was found below a page's eligible runs.
#[derive(Debug, Default)]
pub struct Families {
    /// For each run whether something below it stays.
    pub held: Vec<bool>,
    /// For each run what is below it and not in the page, the deepest first.
    pub below: Vec<Vec<Seen>>,
}

/// One level that is being read: its parents, each with the run of the page that it is below.
struct Level {
    parents: HashMap<String, usize>,
    after: Option<Cursor>,
    depth: usize,
}

/// Reads what is below `eligible`, until nothing is left or it is known that all of them stay.
pub async fn below(store: &dyn RunStore, policy: &Policy, eligible: &[Seen]) -> Result<Families, JobError> {
    let mut found =
        Families { held: vec![false; eligible.len()], below: eligible.iter().map(|_| Vec::new()).collect() };
    let places: HashMap<&str, usize> = eligible.iter().enumerate().map(|(at, run)| (run.id.as_str(), at)).collect();
    let mut edges = Vec::new();
    let mut along = 0;
    let roots = places.iter().map(|(id, at)| ((*id).to_owned(), *at)).collect();
    let mut stack = vec![Level { parents: roots, after: None, depth: 0 }];
    while let Some(level) = stack.last_mut() {
        // What is known to stay needs no further look.
        level.parents.retain(|_, root| !found.held[*root]);
        if level.parents.is_empty() {
            stack.pop();
            continue;
        }
        let mut parents: Vec<String> = level.parents.keys().cloned().collect();
        parents.sort_unstable();
        let page = store.children(&parents, level.after.as_ref(), CHUNK).await?;
        let mut next = HashMap::new();
        for child in page.runs {
            let Some(&root) = child.parent.as_ref().and_then(|parent| level.parents.get(parent)) else { continue };
            if let Some(&place) = places.get(child.id.as_str()) {
                edges.push((root, place));
            } else if policy.decide(&child) == Decision::Eligible {
                next.insert(child.id.clone(), root);
                if along < ALONG_MAX {
                    along += 1;
                    found.below[root].push(child);
                }
            } else {
                found.held[root] = true;
            }
        }
        let is_done = page.next.is_none();
        level.after = page.next;
        let depth = level.depth + 1;
        if is_done {
            stack.pop();
        }
        if !next.is_empty() && depth >= DEPTH_MAX {
            for root in next.values() {
                found.held[*root] = true;
            }
        } else if !next.is_empty() {
            stack.push(Level { parents: next, after: None, depth });
        }
    }
    hold_upwards(&mut found.held, &edges);
    found.below.iter_mut().for_each(|runs| runs.reverse());
    Ok(found)
}

/// Lets go only what has nothing below it, or only what goes: `edges` lead from a run to one below it. What is on a cycle
/// of parents has no first to go, so it stays.
fn hold_upwards(held: &mut [bool], edges: &[(usize, usize)]) {
    let is_held = held.to_vec();
    let mut above: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut waits_for = vec![0_usize; held.len()];
    for &(run, below) in edges {
        above.entry(below).or_default().push(run);
        waits_for[run] += 1;
    }
    let mut free: Vec<usize> = (0..held.len()).filter(|run| !is_held[*run] && waits_for[*run] == 0).collect();
    held.fill(true);
    while let Some(run) = free.pop() {
        held[run] = false;
        for &parent in above.get(&run).into_iter().flatten() {
            waits_for[parent] -= 1;
            if waits_for[parent] == 0 && !is_held[parent] {
                free.push(parent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::{TimeDelta, TimeZone, Utc};

    use super::*;
    use crate::{
        config::{BatchSize, RetentionConfig, RetentionDays, StoreUrl},
        runs::{
            layout::PYWORKFLOW,
            memory::{MemoryStore, Run, Thing},
        },
    };

    fn policy() -> Policy {
        let now = Utc.with_ymd_and_hms(2026, 11, 20, 3, 0, 0).unwrap();
        let config = RetentionConfig {
            store: StoreUrl::Memory,
            layout: PYWORKFLOW.name.to_owned(),
            retention_days: Some(RetentionDays::new(30).unwrap()),
            batch_size: BatchSize::default(),
            batch_time: std::time::Duration::from_secs(1),
            batch_pause: std::time::Duration::ZERO,
            run_limit: None,
            time_limit: std::time::Duration::from_secs(1),
            rules: Vec::new(),
        };
        Policy::new(&config, PYWORKFLOW.terminal, now, None).unwrap()
    }

    fn put(store: &MemoryStore, id: &str, parent: &str, status: &str) {
        let at = Some("2026-01-01T00:00:00+00:00".to_owned());
        store.put(Thing::Run(Run {
            id: id.to_owned(),
            status: status.to_owned(),
            created_at: at.clone(),
            updated_at: at,
            parent: Some(parent.to_owned()),
            ..Run::default()
        }));
    }

    /// What is below the runs of these ids, as if they were a page.
    async fn below_of(store: &MemoryStore, ids: &[&str]) -> Families {
        let all = store.page(Utc::now() + TimeDelta::days(1), None, usize::MAX).await.unwrap().runs;
        let find = |id: &&str| all.iter().find(|run| run.id == **id).unwrap().clone();
        let page: Vec<Seen> = ids.iter().map(find).collect();
        below(store, &policy(), &page).await.unwrap()
    }

    #[tokio::test]
    async fn reads_more_children_than_a_chunk_and_finds_the_one_that_stays() {
        let store = MemoryStore::default();
        put(&store, "root", "", "completed");
        put(&store, "other", "", "completed");
        for at in 0..2 * CHUNK + 10 {
            put(&store, &format!("child {at:05}"), "root", "completed");
        }
        let found = below_of(&store, &["root", "other"]).await;
        assert_eq!((found.held, found.below[0].len(), found.below[1].len()), (vec![false, false], 2 * CHUNK + 10, 0));
        put(&store, "child 99999", "root", "running");
        assert_eq!(below_of(&store, &["root", "other"]).await.held, [true, false]);
    }

    #[tokio::test]
    async fn names_what_is_below_the_deepest_first() {
        let store = MemoryStore::default();
        for (id, parent) in [("root", ""), ("a", "root"), ("b", "a"), ("c", "b")] {
            put(&store, id, parent, "completed");
        }
        let found = below_of(&store, &["root"]).await;
        assert_eq!(found.below[0].iter().map(|run| run.id.as_str()).collect::<Vec<_>>(), ["c", "b", "a"]);
    }

    #[tokio::test]
    async fn keeps_a_tree_that_is_deeper_than_any_engine_makes() {
        for (depth, is_held) in [(DEPTH_MAX, false), (DEPTH_MAX + 1, true)] {
            let store = MemoryStore::default();
            put(&store, "0", "", "completed");
            for at in 1..depth {
                put(&store, &at.to_string(), &(at - 1).to_string(), "completed");
            }
            assert_eq!(below_of(&store, &["0"]).await.held, [is_held], "{depth} deep");
        }
    }

    #[test]
    fn holds_what_is_above_what_stays_and_what_goes_round() {
        // 0 → 1 → 2, which stays; 3 → 4; 5 → 6 → 5; 7 → 7; 8 → 5 and 4.
        let mut held = vec![false; 9];
        held[2] = true;
        hold_upwards(&mut held, &[(0, 1), (1, 2), (3, 4), (5, 6), (6, 5), (7, 7), (8, 5), (8, 4)]);
        assert_eq!(held, [true, true, true, false, false, true, true, true, true]);
    }
}
