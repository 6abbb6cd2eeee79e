//! The oldest files below some folders, a bounded number at a time.

use std::{
    collections::BinaryHeap,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::Tally;
use super::pages::add_failures;
use crate::host::{Entry, Kind, Modified, Root, walk};

/// How many are kept in memory: one walk is made for so many.
pub(super) const OLDEST_MAX: usize = 50_000;

/// Where a file stands in the order of age.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(Modified, PathBuf);

impl Place {
    pub(super) fn of(entry: &Entry<'_>) -> Self {
        Self(entry.seen.modified, entry.path.to_path_buf())
    }
}

/// A file by its age: the youngest is the greatest.
struct ByAge(Entry<'static>);

impl ByAge {
    fn key(&self) -> (Modified, &Path) {
        (self.0.seen.modified, &self.0.path)
    }
}

impl PartialEq for ByAge {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for ByAge {}

impl PartialOrd for ByAge {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByAge {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// What one walk found.
pub(super) struct Oldest {
    /// The oldest ones, in that order, `most` of them at most.
    pub(super) files: Vec<Entry<'static>>,
    failures: crate::host::Walked,
}

impl Oldest {
    /// Adds what the walk could not read to the report.
    pub(super) fn told(self, tally: &mut Tally) -> Vec<Entry<'static>> {
        add_failures(self.failures, tally);
        self.files
    }
}

/// Walks for the `most` oldest regular files that are wanted, behind `after`.
pub(super) fn oldest(
    root: &Root,
    below: &[PathBuf],
    after: Option<&Place>,
    most: usize,
    is_wanted: &(dyn Fn(&Entry<'_>) -> bool + Sync),
) -> Oldest {
    let heap = Mutex::new(BinaryHeap::with_capacity(most.min(1_024)));
    let failures = walk(root, below, &|entry| {
        let key = (entry.seen.modified, &*entry.path);
        let is_behind = after.is_none_or(|Place(modified, path)| key > (*modified, path));
        if entry.seen.kind == Kind::File && is_behind && is_wanted(entry) {
            let mut heap = heap.lock().unwrap_or_else(PoisonError::into_inner);
            if heap.len() < most {
                heap.push(ByAge(entry.clone().into_owned()));
            } else if let Some(mut youngest) = heap.peek_mut()
                && key < youngest.key()
            {
                *youngest = ByAge(entry.clone().into_owned());
            }
        }
        ControlFlow::Continue(())
    });
    let heap = heap.into_inner().unwrap_or_else(PoisonError::into_inner);
    Oldest { files: heap.into_sorted_vec().into_iter().map(|ByAge(entry)| entry).collect(), failures }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, time::Duration};

    use super::*;

    #[test]
    fn goes_from_the_oldest_to_the_youngest_whatever_fits_into_memory() {
        let folder = tempfile::tempdir().unwrap();
        let day = |days: u64| std::time::SystemTime::now() - Duration::from_secs(86_400 * days);
        for number in 0..50_u64 {
            let file = File::create(folder.path().join(format!("{number}"))).unwrap();
            // Some are as old as another one.
            file.set_modified(day(1 + number * 7 % 20)).unwrap();
        }
        let root = Root::open(folder.path()).unwrap();
        let all = oldest(&root, &[PathBuf::new()], None, 100, &|_| true).files;
        assert_eq!(all.len(), 50);
        assert!(all.is_sorted_by_key(|entry| (entry.seen.modified, entry.path.to_path_buf())));
        let (mut by_turns, mut after) = (Vec::new(), None);
        loop {
            let some = oldest(&root, &[PathBuf::new()], after.as_ref(), 7, &|_| true).files;
            assert!(some.len() <= 7);
            let Some(last) = some.last() else { break };
            after = Some(Place::of(last));
            by_turns.extend(some);
        }
        assert_eq!(by_turns, all);
    }
}
