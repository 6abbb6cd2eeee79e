//! Splits a batch into parts that have nothing to do with each other, for several connections at once.

use std::collections::HashMap;

use crate::runs::Seen;

/// In how many transactions at a time a batch is deleted: most of the work is the server's, a process for each.
pub(super) const PARTS_MAX: u32 = 3;
/// A part of fewer runs is not worth a transaction of its own.
const PART_MIN: usize = 40;

/// Up to [`PARTS_MAX`] parts of `runs`, each run once. A family stays together, and so do runs of which the id of one
/// begins the id of the other: either may be the owner of a checkpoint.
pub(super) fn split(runs: &[Seen], most: u32) -> Vec<Vec<&Seen>> {
    let mut places: HashMap<&str, usize> = HashMap::with_capacity(runs.len());
    let mut unique: Vec<&Seen> = Vec::with_capacity(runs.len());
    for run in runs {
        places.entry(&run.id).or_insert_with(|| {
            unique.push(run);
            unique.len() - 1
        });
    }
    let parts = (unique.len() / PART_MIN).clamp(1, most as usize);
    if parts == 1 {
        return vec![unique];
    }
    let mut groups = Groups((0..unique.len()).collect());
    for (at, run) in unique.iter().enumerate() {
        let prefixes = run.id.match_indices(':').map(|(end, _)| &run.id[..end]);
        for near in prefixes.chain(run.parent.as_deref()) {
            if let Some(other) = places.get(near) {
                groups.join(at, *other);
            }
        }
    }
    let mut members: HashMap<usize, Vec<&Seen>> = HashMap::new();
    let mut order = Vec::new();
    for (at, run) in unique.iter().enumerate() {
        let group = groups.find(at);
        members
            .entry(group)
            .or_insert_with(|| {
                order.push(group);
                Vec::new()
            })
            .push(run);
    }
    let mut split: Vec<Vec<&Seen>> = vec![Vec::new(); parts];
    for group in order {
        let smallest = split.iter_mut().min_by_key(|part| part.len()).expect("there is a part at least");
        smallest.append(members.get_mut(&group).expect("each group has members"));
    }
    split.retain(|part| !part.is_empty());
    split
}

/// For each run the one that leads to the first of its group.
struct Groups(Vec<usize>);

impl Groups {
    fn find(&mut self, mut at: usize) -> usize {
        while self.0[at] != at {
            self.0[at] = self.0[self.0[at]];
            at = self.0[at];
        }
        at
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.find(one), self.find(other));
        self.0[one.max(other)] = one.min(other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::Stamp;

    fn run(id: String, parent: Option<String>) -> Seen {
        let (updated_at, created_at) = (Stamp::default(), Stamp::default());
        Seen { id, status: String::new(), updated_at, created_at, workflow: String::new(), parent }
    }

    fn part_of(parts: &[Vec<&Seen>], id: &str) -> usize {
        parts.iter().position(|part| part.iter().any(|run| run.id == id)).unwrap()
    }

    #[test]
    fn each_run_is_in_one_part_beside_its_kin() {
        let mut runs: Vec<Seen> =
            (0..200).map(|at| run(format!("run {at}"), (at % 10 > 0).then(|| format!("run {}", at - 1)))).collect();
        runs.extend(["a:b:c", "a", "a:b", "z"].map(|id| run(id.to_owned(), None)));
        runs.push(runs[7].clone());
        let parts = split(&runs, PARTS_MAX);
        assert_eq!((parts.len(), parts.iter().map(Vec::len).sum::<usize>()), (3, 204));
        assert!(parts.iter().all(|part| (60..80).contains(&part.len())), "the parts are of one size");
        for at in (0..200).filter(|at| at % 10 > 0) {
            assert_eq!(part_of(&parts, &format!("run {at}")), part_of(&parts, &format!("run {}", at - 1)));
        }
        assert_eq!([part_of(&parts, "a:b:c"), part_of(&parts, "a:b")], [part_of(&parts, "a"); 2]);
    }

    #[test]
    fn a_small_batch_is_one_part() {
        assert_eq!(split(&[], PARTS_MAX), [Vec::<&Seen>::new()]);
        let runs: Vec<Seen> = (0..79).map(|at| run(format!("run {at}"), None)).collect();
        assert_eq!(split(&runs, PARTS_MAX).len(), 1);
        assert_eq!(split(&runs, 1).len(), 1);
    }
}
