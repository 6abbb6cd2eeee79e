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
/// A deeper tree, or one that bites its own tail, is kept: engines nest a few levels.
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
}

/// Reads what is below `eligible`, until nothing is left or it is known that all of them stay.
pub async fn below(store: &dyn RunStore, policy: &Policy, eligible: &[Seen]) -> Result<Families, JobError> {
    let mut found =
        Families { held: vec![false; eligible.len()], below: eligible.iter().map(|_| Vec::new()).collect() };
    let places: HashMap<&str, usize> = eligible.iter().enumerate().map(|(at, run)| (run.id.as_str(), at)).collect();
    let mut edges = Vec::new();
    let mut along = 0;
    let roots = places.iter().map(|(id, at)| ((*id).to_owned(), *at)).collect();
    let mut stack = vec![Level { parents: roots, after: None }];
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
        if is_done {
            stack.pop();
        }
        if !next.is_empty() && stack.len() >= DEPTH_MAX {
            for root in next.values() {
                found.held[*root] = true;
            }
        } else if !next.is_empty() {
            stack.push(Level { parents: next, after: None });
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
