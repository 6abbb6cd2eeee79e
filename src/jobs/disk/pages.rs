//! What a walk finds, in pages: the walk waits for whoever takes them.

use std::{ops::ControlFlow, path::PathBuf};

use tokio::{sync::mpsc, task::JoinHandle};

use super::Tally;
use crate::{
    host::{Entry, Kind, Root, Walked, walk},
    report::FAILURES_MAX,
};

/// How many files are found ahead of whoever takes them.
const AHEAD: usize = 4_096;

/// A walk in the background.
#[derive(Debug)]
pub(super) struct Pages {
    found: mpsc::Receiver<Entry<'static>>,
    walk: JoinHandle<Walked>,
}

impl Pages {
    /// Walks below these folders for the regular files that are wanted.
    pub(super) fn of(
        root: &Root,
        below: Vec<PathBuf>,
        is_wanted: impl Fn(&Entry<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        let (sender, found) = mpsc::channel(AHEAD);
        let root = root.clone();
        let walk = tokio::task::spawn_blocking(move || {
            walk(&root, &below, &|entry| {
                if entry.seen.kind != Kind::File || !is_wanted(entry) {
                    return ControlFlow::Continue(());
                }
                // Whoever took them has gone.
                sender.blocking_send(entry.clone().into_owned()).map_or(ControlFlow::Break(()), ControlFlow::Continue)
            })
        });
        Self { found, walk }
    }

    /// Up to `limit` files; none after the last.
    pub(super) async fn next(&mut self, limit: usize) -> Vec<Entry<'static>> {
        let mut page = Vec::new();
        self.found.recv_many(&mut page, limit).await;
        page
    }

    /// Ends the walk, and tells what it could not read.
    pub(super) async fn end(self, tally: &mut Tally) {
        drop(self.found);
        match self.walk.await {
            Ok(walked) => add_failures(walked, tally),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// Adds what a walk could not read to the report.
pub(super) fn add_failures(walked: Walked, tally: &mut Tally) {
    tally.failed += walked.failures.count;
    let room = FAILURES_MAX.saturating_sub(tally.failures.len());
    tally.failures.extend(walked.failures.first.into_iter().take(room));
}
