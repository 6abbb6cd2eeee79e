//! The walk, with a job that does as it is told.

#![allow(clippy::single_range_in_vec_init, reason = "a plan is a list of pages, and may be of one")]

use std::{
    borrow::Cow,
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex},
};

use super::*;
use crate::lock::{self, Fence, LockKey, memory::MemoryLock};

/// Pages of names, and what becomes of them.
#[derive(Default)]
struct Fake {
    pages: VecDeque<Vec<String>>,
    /// The store refuses a batch with one of these.
    refused: BTreeSet<String>,
    /// These change before they are deleted.
    changed: BTreeSet<String>,
    /// A batch with more times out.
    most: Option<usize>,
    /// The store is gone from this batch on.
    gone_at: Option<usize>,
    /// Cancelled in the first batch.
    stop: Option<CancellationToken>,
    /// Every batch that was tried.
    tried: Vec<Vec<String>>,
    limits: Vec<Duration>,
    steps: u32,
}

impl Fake {
    /// Pages that end before these names.
    fn of(ends: &[u32]) -> Self {
        let starts = [0].iter().chain(ends);
        let pages = starts.zip(ends).map(|(start, end)| names(*start..*end)).collect();
        Self { pages, ..Self::default() }
    }
}

fn name(at: u32) -> String {
    format!("{at:04}")
}

fn names(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(name).collect()
}

impl Job for Fake {
    type Item = String;

    const UNIT: &'static str = "runs";

    fn id(item: &String) -> Cow<'_, str> {
        Cow::Borrowed(item)
    }

    async fn prepare(&mut self, _leave: Leave<'_>, _: &mut Tally) -> Result<(), JobError> {
        Ok(())
    }

    async fn plan(
        &mut self,
        _leave: Leave<'_>,
        _limit: usize,
        _tally: &mut Tally,
    ) -> Result<Option<Vec<String>>, JobError> {
        Ok(self.pages.pop_front())
    }

    async fn execute(
        &mut self,
        _fence: Fence,
        items: &[String],
        limit: Duration,
        tally: &mut Tally,
    ) -> Result<Vec<String>, JobError> {
        self.tried.push(items.to_vec());
        self.limits.push(limit);
        if self.gone_at.is_some_and(|at| self.tried.len() > at) {
            return Err(StoreError::unavailable("fake", "gone").into());
        }
        if self.most.is_some_and(|most| items.len() > most) {
            return Err(StoreError::TimedOut { store: "fake" }.into());
        }
        if items.iter().any(|item| self.refused.contains(item)) {
            return Err(StoreError::Refused { store: "fake", source: "a foreign key".into() }.into());
        }
        if let Some(stop) = &self.stop {
            stop.cancel();
        }
        let gone: Vec<String> = items.iter().filter(|item| !self.changed.contains(*item)).cloned().collect();
        tally.deleted.add("runs", gone.len() as u64);
        Ok(gone)
    }

    async fn rest(&mut self, _leave: Leave<'_>, _limit: Duration, _tally: &mut Tally) -> Result<bool, JobError> {
        self.steps += 1;
        Ok(self.steps < 3)
    }
}

#[derive(Default)]
struct Named(Mutex<Vec<String>>);

impl Watch for Named {
    fn item(&self, id: &str) {
        self.0.lock().unwrap().push(id.to_owned());
    }
}

/// What a walk did.
struct Walked {
    job: Fake,
    stopped: Result<Stopped, JobError>,
    tally: Tally,
    names: Vec<String>,
}

impl Walked {
    /// Planned, deleted, failed.
    fn counts(&self) -> (u64, u64, u64) {
        (self.tally.planned.get("runs"), self.tally.deleted.get("runs"), self.tally.failed)
    }
}

fn limits() -> Limits {
    let hour = Duration::from_hours(1);
    Limits { pace: Pace::new(500, hour), pause: Duration::ZERO, items: None, time: hour }
}

fn at_most(items: u64) -> Limits {
    Limits { items: Some(items), ..limits() }
}

async fn walk_with(mut job: Fake, limits: Limits, is_real: bool) -> Walked {
    let (named, mut tally) = (Named::default(), Tally::default());
    let stop = job.stop.clone().unwrap_or_default();
    let stopped = if is_real {
        let (job, tally, named, stop) = (&mut job, &mut tally, &named, &stop);
        let (lock, key) = (Arc::new(MemoryLock::default()), LockKey::job("fake"));
        let walked = lock::with(lock, &key, Duration::from_mins(10), |held| async move {
            walk(job, Leave::Apply(&held), limits, named, stop, tally).await
        });
        walked.await.unwrap().expect("nobody else has the lock")
    } else {
        walk(&mut job, Leave::DryRun, limits, &named, &stop, &mut tally).await
    };
    Walked { job, stopped, tally, names: named.0.into_inner().unwrap() }
}

#[tokio::test]
async fn plans_and_deletes_every_item_and_then_the_rest() {
    let walked = walk_with(Fake::of(&[70, 70, 800]), limits(), true).await;
    assert_eq!(walked.stopped.as_ref().unwrap(), &Stopped::AtTheEnd);
    assert_eq!((walked.counts(), walked.tally.batches), ((800, 800, 0), 2));
    assert_eq!(walked.job.tried, [names(0..500), names(500..800)]);
    assert_eq!((walked.names, walked.job.steps), (names(0..800), 3));
}

#[tokio::test]
async fn lists_without_deleting_in_a_dry_run() {
    let walked = walk_with(Fake::of(&[70, 400]), limits(), false).await;
    assert_eq!(walked.stopped.as_ref().unwrap(), &Stopped::AtTheEnd);
    assert_eq!((walked.counts(), walked.tally.batches, walked.job.tried.len()), ((400, 0, 0), 0, 0));
    assert_eq!((walked.names, walked.job.steps), (names(0..400), 3));
    assert_eq!(walked.tally.deleted, crate::report::Counts::default());
}

#[tokio::test]
async fn counts_nothing_where_nothing_is_to_go() {
    let walked = walk_with(Fake::default(), limits(), true).await;
    let shown: Vec<(&str, u64)> = walked.tally.planned.iter().chain(walked.tally.deleted.iter()).collect();
    assert_eq!((shown, walked.tally.batches), (vec![("runs", 0), ("runs", 0)], 0));
}

#[tokio::test]
async fn stops_at_its_limit_of_items_in_both_modes() {
    for is_real in [false, true] {
        let walked = walk_with(Fake::of(&[2, 9, 12]), at_most(3), is_real).await;
        assert_eq!((walked.stopped.as_ref().unwrap(), &walked.names), (&Stopped::ByItems, &names(0..3)));
        assert_eq!((walked.tally.planned.get("runs"), walked.job.steps), (3, 0));
    }
}

#[tokio::test]
async fn is_not_limited_where_the_limit_was_just_enough() {
    for is_real in [false, true] {
        let walked = walk_with(Fake::of(&[3, 3, 3]), at_most(3), is_real).await;
        assert_eq!((walked.stopped.as_ref().unwrap(), &walked.names), (&Stopped::AtTheEnd, &names(0..3)));
        assert_eq!(walked.job.steps, 3);
    }
}

#[tokio::test]
async fn begins_nothing_after_its_time() {
    for is_real in [false, true] {
        let late = Limits { time: Duration::ZERO, ..limits() };
        let walked = walk_with(Fake::of(&[3]), late, is_real).await;
        assert_eq!((walked.stopped.as_ref().unwrap(), walked.counts()), (&Stopped::ByTime, (0, 0, 0)));
        assert_eq!((walked.job.tried.len(), walked.job.steps, walked.job.pages.len()), (0, 0, 1));
    }
}

#[tokio::test]
async fn stops_after_the_batch_in_hand() {
    let stop = Some(CancellationToken::new());
    let walked = walk_with(Fake { stop, ..Fake::of(&[800]) }, limits(), true).await;
    assert_eq!((walked.stopped.as_ref().unwrap(), walked.job.tried.len()), (&Stopped::BySignal, 1));
    assert_eq!((walked.counts().1, walked.names), (500, names(0..500)));
}

#[tokio::test]
async fn deletes_less_than_it_planned_where_things_changed() {
    let changed = ["0001", "0003"].map(str::to_owned).into();
    let walked = walk_with(Fake { changed, ..Fake::of(&[5]) }, limits(), true).await;
    assert_eq!((walked.counts(), walked.names), ((5, 3, 0), ["0000", "0002", "0004"].map(str::to_owned).to_vec()));
}

#[tokio::test]
async fn makes_smaller_what_took_too_long() {
    let walked = walk_with(Fake { most: Some(7), ..Fake::of(&[40]) }, limits(), true).await;
    assert_eq!((walked.stopped.as_ref().unwrap(), walked.counts()), (&Stopped::AtTheEnd, (40, 40, 0)));
    let sizes: Vec<usize> = walked.job.tried.iter().map(Vec::len).take(4).collect();
    assert_eq!(sizes, [40, 31, 15, 7], "each smaller than the one before");
}

#[tokio::test]
async fn reports_what_is_too_slow_by_itself_and_goes_on() {
    let walked = walk_with(Fake { most: Some(0), ..Fake::of(&[5]) }, limits(), true).await;
    assert_eq!((walked.stopped.as_ref().unwrap(), walked.counts()), (&Stopped::AtTheEnd, (5, 0, 5)));
    let failure = &walked.tally.failures[4];
    let told = (failure.item.as_str(), failure.error.as_str());
    assert_eq!(told, ("0004", "fake: a statement took longer than its limit"));
}

#[tokio::test]
async fn gives_one_item_all_the_time_that_the_lock_is_trusted_for() {
    let pace = Pace::new(1_000, Duration::from_millis(10));
    let walked = walk_with(Fake::of(&[101]), Limits { pace, ..at_most(1) }, true).await;
    assert_eq!(walked.job.tried, [names(0..1)]);
    assert!(walked.job.limits[0] > Duration::from_mins(5), "{:?}", walked.job.limits);
}

#[tokio::test]
async fn finds_the_one_that_is_refused_and_deletes_the_others() {
    for bad in [0, 41, 99] {
        let refused = [name(bad)].into();
        let walked = walk_with(Fake { refused, ..Fake::of(&[100]) }, limits(), true).await;
        assert_eq!((walked.stopped.as_ref().unwrap(), walked.counts()), (&Stopped::AtTheEnd, (100, 99, 1)));
        let failure = &walked.tally.failures[0];
        assert_eq!((&failure.item, failure.error.as_str()), (&name(bad), "fake: refused to delete: a foreign key"));
        assert!(walked.job.tried.len() <= 20, "{} batches", walked.job.tried.len());
    }
}

#[tokio::test]
async fn names_a_hundred_failures_and_counts_all() {
    let refused = names(0..300).into_iter().collect();
    let walked = walk_with(Fake { refused, ..Fake::of(&[301]) }, limits(), true).await;
    assert_eq!((walked.counts(), walked.tally.failures.len()), ((301, 1, 300), 100));
}

#[tokio::test]
async fn gives_the_place_of_a_failure_to_another() {
    let refused: BTreeSet<String> = names(0..4).into_iter().collect();
    // Both in the same page and in the next one, and where the end comes first.
    for pages in [&[10][..], &[4, 5, 10]] {
        let walked = walk_with(Fake { refused: refused.clone(), ..Fake::of(pages) }, at_most(3), true).await;
        assert_eq!((walked.stopped.as_ref().unwrap(), walked.counts()), (&Stopped::ByItems, (7, 3, 4)));
        assert_eq!(walked.names, names(4..7));
    }
    let walked = walk_with(Fake { refused, ..Fake::of(&[6]) }, at_most(3), true).await;
    assert_eq!((walked.stopped.as_ref().unwrap(), walked.counts()), (&Stopped::AtTheEnd, (6, 2, 4)));
}

#[tokio::test]
async fn ends_with_the_store_and_keeps_what_it_counted() {
    let walked = walk_with(Fake { gone_at: Some(1), ..Fake::of(&[800]) }, limits(), true).await;
    assert_eq!(walked.stopped.as_ref().unwrap_err().to_string(), "fake: unavailable");
    assert_eq!((walked.counts().1, walked.tally.batches, walked.job.steps), (500, 1, 0));
}
