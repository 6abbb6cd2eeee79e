//! What could not be read or deleted: the first of it by name, the rest as a number.

use std::{io, path::Path};

use super::shown;
use crate::report::{FAILURES_MAX, Failure};

/// What could not be done, while the rest was.
#[derive(Clone, Debug, Default)]
pub struct Failures {
    /// The first of them, [`FAILURES_MAX`] at most.
    pub first: Vec<Failure>,
    /// How many there were.
    pub count: u64,
}

impl Failures {
    /// Counts one.
    pub(super) fn add(&mut self, path: &Path, error: &io::Error) {
        self.count += 1;
        if self.first.len() < FAILURES_MAX {
            let item = if path.as_os_str().is_empty() { ".".to_owned() } else { shown(path) };
            self.first.push(Failure { item, error: error.to_string() });
        }
    }

    /// Counts those of another one, too.
    pub(super) fn extend(&mut self, more: Self) {
        self.count += more.count;
        let room = FAILURES_MAX.saturating_sub(self.first.len());
        self.first.extend(more.first.into_iter().take(room));
    }
}
