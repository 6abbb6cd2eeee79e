//! What every store of runs promises, as a suite: [`run_store_conformance!`](crate::run_store_conformance) writes one test
//! per case for one answer.
//!
//! Some cases drive a whole retention job over the store: which runs stay is a promise that they keep together.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a suite fails by panicking")]

mod batches;
mod belongings;
mod loose;
mod pages;
mod sweeps;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, TimeDelta, TimeZone, Utc};
use tokio_util::sync::CancellationToken;

pub use batches::*;
pub use belongings::*;
pub use loose::*;
pub use pages::*;
pub use sweeps::*;

use super::{
    Deleted, Page, RunStore, Seen, StoreError,
    layout::PYWORKFLOW,
    memory::{MemoryStore, Run, Thing},
    policy::Policy,
};
use crate::{
    clock::TestClock,
    config::{BatchSize, RetentionConfig, RetentionDays, Rule, StoreUrl},
    jobs::{Leave, Limits, Stopped, Tally, Watch, pace::Pace, retention::Retention, walk},
    lock::{self, Fence, LockKey, memory::MemoryLock},
};

/// The job whose fence the cases raise.
const JOB: &str = "old-runs";
/// The days that the cases keep runs for.
const DAYS: i64 = 30;
/// A limit that no case meets.
const LONG: Duration = Duration::from_mins(1);
/// How many pages a case reads at most.
const PAGES_MAX: usize = 1_000;

/// One answer with its own empty store, and the program that owns what is in it.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The store.
    fn store(&self) -> Arc<dyn RunStore>;

    /// Writes a thing, as the owner would; a run takes the place of the one of its id.
    async fn put(&self, thing: Thing);

    /// Removes a run with what names it, as the owner would.
    async fn remove(&self, run: &str);

    /// Everything that is there.
    async fn things(&self) -> BTreeSet<Thing>;

    /// `thing` as [`things`](Self::things) tells it once it is put: a store whose times are instants, and not text, has its
    /// own words for them.
    fn stored(&self, thing: Thing) -> Thing {
        thing
    }

    /// Whether the store can hold a run of this id: some limit how long one is.
    fn holds(&self, _id: &str) -> bool {
        true
    }

    /// Whether the store can show the latest runs first: some have an order of their own.
    fn shows_latest_first(&self) -> bool {
        true
    }
}

#[async_trait]
impl Subject for MemoryStore {
    fn store(&self) -> Arc<dyn RunStore> {
        Arc::new(self.clone())
    }

    async fn put(&self, thing: Thing) {
        Self::put(self, thing);
    }

    async fn remove(&self, run: &str) {
        Self::remove(self, run);
    }

    async fn things(&self) -> BTreeSet<Thing> {
        Self::things(self)
    }
}

/// Writes one test per case for the store of a [`Subject`](crate::runs::conformance::Subject), which the expression makes.
///
/// ```
/// use apalis_janitor::{run_store_conformance, runs::memory::MemoryStore};
///
/// run_store_conformance!(memory, MemoryStore::default());
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! run_store_conformance {
    ($answer:ident, $subject:expr) => {
        $crate::run_store_conformance! { @cases $answer, $subject;
            keeps_what_has_not_ended
            takes_whatever_has_ended
            keeps_what_was_written_at_the_cutoff_or_later
            keeps_and_counts_what_has_no_readable_time
            compares_times_as_instants
            keeps_a_run_above_one_that_stays_to_any_depth
            takes_an_expired_family_in_one_pass
            keeps_a_cycle_of_parents_and_what_is_above_it
            is_not_held_by_what_a_run_goes_on_from
            is_not_held_by_a_parent_that_is_not_there
            keeps_what_looks_made_long_after_its_last_update
            lists_beforehand_what_it_deletes
            sweeps_an_empty_store
            leaves_a_run_that_was_written_since_it_was_read
            leaves_a_run_that_is_gone_since_it_was_read
            leaves_a_run_that_has_a_new_child
            leaves_every_run_above_one_that_changed
            deletes_a_family_in_any_order
            deletes_twice_without_harm
            deletes_nothing_past_its_time_limit
            refuses_a_stale_fence
            raises_a_fence_only_upwards
            keeps_the_fences_of_two_jobs_apart
            takes_what_belongs_to_a_run_and_nothing_of_another
            takes_apart_ids_that_look_alike
            keeps_a_checkpoint_that_another_run_might_mean
            shows_every_run_once_and_the_latest_first
            shows_every_run_that_was_made_before_a_bound
            counts_what_no_page_shows
            shows_every_child_once
            finds_runs_by_their_ids
            writes_nothing_while_it_reads
            keeps_a_signal_that_is_still_to_be_read
            takes_a_signal_that_nobody_waits_for
            keeps_an_acknowledgement_as_long_as_its_signal
            takes_an_ended_subscription_with_its_checkpoint
            takes_deleted_schedules_in_both_spellings
            keeps_what_is_loose_and_not_old
            counts_beforehand_what_is_loose
            refuses_a_stale_fence_for_what_is_loose
        }
    };
    (@cases $answer:ident, $subject:expr; $($case:ident)+) => {
        mod $answer {
            #[allow(unused_imports, reason = "the expression decides what it needs")]
            use super::*;
            $(
                #[tokio::test]
                async fn $case() {
                    $crate::runs::conformance::$case(&$subject).await;
                }
            )+
        }
    };
}

/// The moment at which every case runs.
fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 20, 3, 0, 0).unwrap()
}

fn cutoff() -> DateTime<Utc> {
    now() - TimeDelta::days(DAYS)
}

/// An instant as `PyWorkflow` writes it: without a fraction where that is 0.
#[must_use]
pub fn text(at: DateTime<Utc>) -> String {
    let form = if at.timestamp_subsec_micros() == 0 { SecondsFormat::Secs } else { SecondsFormat::Micros };
    at.to_rfc3339_opts(form, false)
}

/// A time that is long before the cutoff.
fn old() -> String {
    text(cutoff() - TimeDelta::days(10))
}

/// A run that ended long before the cutoff.
fn expired(id: impl Into<String>) -> Run {
    Run {
        id: id.into(),
        status: "completed".to_owned(),
        workflow: "order".to_owned(),
        created_at: Some(old()),
        updated_at: Some(old()),
        parent: None,
        continued_from: None,
    }
}

fn below(parent: &str, run: Run) -> Run {
    Run { parent: Some(parent.to_owned()), ..run }
}

fn running(run: Run) -> Run {
    Run { status: "running".to_owned(), ..run }
}

/// A run that was made and written so many hours after the cutoff, which may be negative.
fn at_hours(hours: i64, run: Run) -> Run {
    let at = Some(text(cutoff() + TimeDelta::hours(hours)));
    Run { created_at: at.clone(), updated_at: at, ..run }
}

fn event(run: &str) -> Thing {
    owned("events", run, &format!("event of {run}"))
}

fn owned(kind: &str, run: &str, id: &str) -> Thing {
    Thing::Owned { kind: kind.to_owned(), run: run.to_owned(), id: id.to_owned() }
}

fn checkpoint(key: &str) -> Thing {
    Thing::Checkpoint { key: key.to_owned() }
}

async fn put_all(subject: &dyn Subject, runs: impl IntoIterator<Item = Run>) {
    for run in runs {
        subject.put(Thing::Run(run)).await;
    }
}

/// The ids of the runs that are there, in alphabetical order.
async fn left(subject: &dyn Subject) -> Vec<String> {
    let things = subject.things().await;
    things.into_iter().filter_map(|thing| if let Thing::Run(run) = thing { Some(run.id) } else { None }).collect()
}

/// The runs of these ids, as a page shows them.
async fn seen(store: &dyn RunStore, ids: &[&str]) -> Vec<Seen> {
    let shown = pages(async |after| store.page(now(), after, 100).await).await;
    let find =
        |id: &&str| shown.iter().find(|run| run.id == **id).cloned().unwrap_or_else(|| panic!("no page has {id:?}"));
    ids.iter().map(find).collect()
}

/// All that pages show.
async fn pages(mut page: impl AsyncFnMut(Option<&super::Cursor>) -> Result<Page, StoreError>) -> Vec<Seen> {
    let (mut runs, mut after) = (Vec::new(), None);
    for _ in 0..PAGES_MAX {
        let shown = page(after.as_ref()).await.unwrap();
        runs.extend(shown.runs);
        after = shown.next;
        if after.is_none() {
            return runs;
        }
    }
    panic!("pages go on after {PAGES_MAX}");
}

/// Deletes under a fence that is raised for it.
async fn delete(store: &dyn RunStore, fence: u64, runs: &[Seen]) -> Deleted {
    let fence = Fence::for_test(fence);
    store.raise(JOB, fence).await.unwrap();
    store.delete(JOB, fence, runs, LONG).await.unwrap()
}

/// What a retention job is to do to a store.
#[derive(Clone, Debug)]
pub struct Order {
    /// The job's own days.
    pub days: Option<i64>,
    /// The job's rules.
    pub rules: Vec<Rule>,
    /// The largest batch.
    pub batch: i64,
}

impl Default for Order {
    fn default() -> Self {
        Self { days: Some(DAYS), rules: Vec::new(), batch: 1_000 }
    }
}

/// What a retention job did.
#[derive(Clone, Debug)]
pub struct Swept {
    /// The runs that were planned (dry run) or are deleted, in order.
    pub ids: Vec<String>,
    /// What was counted.
    pub tally: Tally,
}

#[derive(Default)]
struct Named(Mutex<Vec<String>>);

impl Watch for Named {
    fn item(&self, id: &str) {
        self.0.lock().unwrap().push(id.to_owned());
    }
}

/// Sweeps a store with a retention job at `now`; without `is_real` it only plans.
pub async fn sweep_at(store: Arc<dyn RunStore>, order: &Order, now: DateTime<Utc>, is_real: bool) -> Swept {
    let config = RetentionConfig {
        store: StoreUrl::Memory,
        layout: PYWORKFLOW.name.to_owned(),
        retention_days: order.days.map(|days| RetentionDays::new(days).unwrap()),
        batch_size: BatchSize::new(order.batch).unwrap(),
        batch_time: LONG,
        batch_pause: Duration::ZERO,
        run_limit: None,
        time_limit: LONG,
        rules: order.rules.clone(),
    };
    let policy = Policy::new(&config, PYWORKFLOW.terminal, now, None).expect("days are set");
    // The guard that compares this host's clock with the store's is no part of what is tested.
    let clock = TestClock::at(store.now().await.unwrap().unwrap_or(now));
    let mut job = Retention::new(JOB.to_owned(), store, Arc::new(clock), policy);
    let pace = Pace::new(config.batch_size.get(), config.batch_time);
    let limits = Limits { pace, pause: config.batch_pause, items: None, time: config.time_limit };
    let (named, stop, mut tally) = (Named::default(), CancellationToken::new(), Tally::default());
    let stopped = if is_real {
        let (key, tally) = (LockKey::job(JOB), &mut tally);
        let swept = lock::with(Arc::new(MemoryLock::default()), &key, LONG, |held| async {
            let held = held;
            walk(&mut job, Leave::Apply(&held), limits, &named, &stop, tally).await
        });
        swept.await.unwrap().expect("nobody else has the lock")
    } else {
        walk(&mut job, Leave::DryRun, limits, &named, &stop, &mut tally).await
    };
    assert_eq!(stopped.unwrap(), Stopped::AtTheEnd);
    Swept { ids: named.0.into_inner().unwrap(), tally }
}

async fn sweep(subject: &dyn Subject) -> Swept {
    sweep_at(subject.store(), &Order::default(), now(), true).await
}
