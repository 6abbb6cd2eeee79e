//! Entries of the index by status that can be deleted together.
//!
//! A day may have hundreds of thousands of runs. A tombstone for each would stand in one partition until it is compacted, ten
//! days later by default, and the server gives up reading a partition with too many of them.

use std::{cmp::Reverse, collections::BTreeMap};

use super::{
    marker::Marked,
    places::{Entry, Key, Place},
};

/// Entries of a partition with none between them, all of runs that are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) place: Place,
    pub(super) latest: Key,
    pub(super) earliest: Key,
    /// When the last of them was written; none where it is a single one.
    pub(super) written_at: Option<i64>,
}

/// The entries of these runs in as few ranges as can be.
pub(super) fn ranges(runs: &[Marked]) -> Vec<Range> {
    let mut of_place: BTreeMap<&Place, BTreeMap<Reverse<Key>, &Entry>> = BTreeMap::new();
    for run in runs {
        let Some(created_at) = run.created_at else { continue };
        for entry in &run.entries {
            of_place.entry(&entry.place).or_default().insert(Reverse((created_at, run.id.clone())), entry);
        }
    }
    let mut ranges: Vec<Range> = Vec::new();
    for (place, entries) in of_place {
        // When all entries of the range so far were written; none where no other can be part of it.
        let mut written: Option<i64> = None;
        for (Reverse(key), entry) in entries {
            let last = ranges.last_mut().filter(|range| range.place == *place);
            match (last, written.zip(entry.written_at)) {
                (Some(range), Some((one, other))) if entry.before.as_ref() == Some(&range.earliest) => {
                    range.earliest = key;
                    range.written_at = Some(one.max(other));
                    written = range.written_at;
                }
                (Some(_) | None, Some(_) | None) => {
                    written = entry.written_at;
                    ranges.push(Range { place: place.clone(), latest: key.clone(), earliest: key, written_at: None });
                }
            }
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(at: i64, before: Option<i64>, written_at: Option<i64>) -> Marked {
        let place = Place { status: "completed".to_owned(), day: "2026-01-01".to_owned() };
        let before = before.map(|at| (at, format!("run {at}")));
        Marked {
            id: format!("run {at}"),
            created_at: Some(at),
            workflow: None,
            parent: None,
            idempotency_key: None,
            entries: vec![Entry { place, before, written_at }],
        }
    }

    fn found(runs: &[Marked]) -> Vec<(i64, i64, Option<i64>)> {
        ranges(runs).into_iter().map(|range| (range.latest.0, range.earliest.0, range.written_at)).collect()
    }

    #[test]
    fn takes_entries_together_that_stand_beside_each_other() {
        let runs = [gone(7, Some(8), Some(70)), gone(9, None, Some(90)), gone(8, Some(9), Some(80))];
        assert_eq!(found(&runs), [(9, 7, Some(90))]);
        // Between 8 and 6 stands one that stays.
        let runs =
            [gone(9, None, Some(1)), gone(8, Some(9), Some(2)), gone(6, Some(7), Some(3)), gone(5, Some(6), Some(4))];
        assert_eq!(found(&runs), [(9, 8, Some(2)), (6, 5, Some(4))]);
    }

    #[test]
    fn takes_an_entry_by_itself_of_which_too_little_is_known() {
        let runs = [gone(9, None, Some(1)), gone(8, Some(9), None), gone(7, Some(8), Some(3)), gone(6, None, Some(4))];
        assert_eq!(found(&runs), [(9, 9, None), (8, 8, None), (7, 7, None), (6, 6, None)]);
        assert_eq!(found(&[]), []);
    }
}
