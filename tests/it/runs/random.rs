//! Random families under random rules: every store leaves what a few naive lines leave.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use apalis_janitor::{
    config::{Keep, RetentionDays, Rule},
    lock::Fence,
    runs::{
        Cursor, Deleted, Findings, LooseStep, Page, RunStore, Seen, Stamp, StoreError,
        conformance::{Order, Subject, sweep_at, text},
        memory::{MemoryStore, Run, Thing},
    },
};
use async_trait::async_trait;
use chrono::{DateTime, FixedOffset, TimeDelta, TimeZone, Utc};
use proptest::{collection::vec, prelude::*, sample::select, test_runner::TestRunner};

use super::{
    cassandra::world::CassandraWorld,
    dynamodb::DynamoWorld,
    files::FileWorld,
    mysql::MysqlWorld,
    postgres_world::{FRESH, PostgresWorld},
    world::SqliteWorld,
};

const DAYS: [i64; 3] = [7, 30, 90];
const ENDED: [&str; 3] = ["completed", "failed", "interrupted"];

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 20, 3, 0, 0).unwrap()
}

/// A store that shows a few runs at a time, so that families lie across pages.
#[derive(Debug)]
struct SmallPages(Arc<dyn RunStore>, usize);

#[async_trait]
impl RunStore for SmallPages {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    async fn now(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        self.0.now().await
    }

    async fn page(&self, before: DateTime<Utc>, after: Option<&Cursor>, limit: usize) -> Result<Page, StoreError> {
        self.0.page(before, after, limit.min(self.1)).await
    }

    async fn unpaged(&self, limit: usize) -> Result<u64, StoreError> {
        self.0.unpaged(limit).await
    }

    async fn children(&self, parents: &[String], after: Option<&Cursor>, limit: usize) -> Result<Page, StoreError> {
        self.0.children(parents, after, limit.min(self.1)).await
    }

    async fn find(&self, ids: &[String]) -> Result<Vec<Seen>, StoreError> {
        self.0.find(ids).await
    }

    async fn raise(&self, job: &str, fence: Fence) -> Result<(), StoreError> {
        self.0.raise(job, fence).await
    }

    async fn delete(&self, job: &str, fence: Fence, runs: &[Seen], limit: Duration) -> Result<Deleted, StoreError> {
        self.0.delete(job, fence, runs, limit).await
    }

    async fn loose(
        &self,
        cutoff: DateTime<Utc>,
        after: Option<&Cursor>,
        leave: Option<(&str, Fence)>,
        limit: Duration,
    ) -> Result<LooseStep, StoreError> {
        self.0.loose(cutoff, after, leave, limit).await
    }

    async fn check(&self) -> Result<Findings, StoreError> {
        self.0.check().await
    }
}

#[derive(Clone, Debug)]
struct Case {
    runs: Vec<Run>,
    order: Order,
    page: usize,
}

/// Instants around the cutoffs that there can be, in the words of several programs.
fn time() -> impl Strategy<Value = Option<String>> {
    let near = (select(DAYS.to_vec()), select(vec![-100_000_000_000, -1, 0, 1, 90_000_000_000_i64]))
        .prop_map(|(days, micros)| now() - TimeDelta::days(days) + TimeDelta::microseconds(micros));
    let any = (0_i64..150 * 24).prop_map(|hours| now() - TimeDelta::hours(hours));
    let written = (prop_oneof![near, any], -14_i32..=14).prop_map(|(at, hours)| match hours {
        -14..=0 => text(at),
        hours => at.with_timezone(&FixedOffset::east_opt((hours - 7) * 3_600).unwrap()).to_rfc3339(),
    });
    prop_oneof![20 => written.prop_map(Some), 1 => Just(None)]
}

fn run() -> impl Strategy<Value = (String, String, Option<String>, i64, usize)> {
    let status = prop_oneof![8 => select(ENDED.to_vec()), 1 => select(vec!["running", "suspended"])];
    (
        status.prop_map(str::to_owned),
        select(vec!["a", "ab", "b"]).prop_map(str::to_owned),
        time(),
        -40_i64..400,
        0_usize..60,
    )
}

/// Most runs have a parent; which one knows no order of time, and may be the run itself.
fn runs() -> impl Strategy<Value = Vec<Run>> {
    vec(run(), 0..25).prop_map(|rows| {
        let count = rows.len();
        let id = |at: usize| format!("run:{at:02}");
        let of_row =
            |(at, (status, workflow, updated_at, hours, parent)): (usize, (_, _, Option<String>, i64, usize))| {
                let updated = Stamp::read(updated_at.clone()).instant;
                let created_at = updated.map(|at| text(at - TimeDelta::hours(hours)));
                let parent = (parent < count).then(|| id(parent));
                Run { id: id(at), status, workflow, created_at, updated_at, parent, continued_from: None }
            };
        rows.into_iter().enumerate().map(of_row).collect()
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let workflow = select(vec![None, Some("a*"), Some("b"), Some("?b")]);
    let keep = prop_oneof![
        1 => Just(Keep::Forever),
        3 => select(DAYS.to_vec()).prop_map(|days| Keep::Days(RetentionDays::new(days).unwrap())),
    ];
    (workflow, vec(select(ENDED.to_vec()), 0..2), keep).prop_map(|(workflow, status, keep)| Rule {
        workflow: workflow.map(|glob| glob::Pattern::new(glob).unwrap()),
        status: status.into_iter().map(str::to_owned).collect(),
        keep,
    })
}

fn case() -> impl Strategy<Value = Case> {
    (runs(), vec(rule(), 0..4), select(vec![None, Some(7), Some(30), Some(90)]), 1_i64..6, 1_usize..6).prop_map(
        |(runs, rules, days, batch, page)| {
            let is_set = days.is_some() || rules.iter().any(|rule| matches!(rule.keep, Keep::Days(_)));
            Case { runs, order: Order { days: if is_set { days } else { Some(30) }, rules, batch }, page }
        },
    )
}

/// The ids of the runs that go, found without any of the code that is tested.
fn naive(case: &Case) -> BTreeSet<String> {
    let cutoff_of = |days: i64| now() - TimeDelta::days(days);
    let matches = |rule: &Rule, run: &Run| {
        let is_named = match rule.workflow.as_ref().map(glob::Pattern::as_str) {
            None => true,
            Some("a*") => run.workflow.starts_with('a'),
            Some("b") => run.workflow == "b",
            Some("?b") => run.workflow == "ab",
            Some(other) => panic!("{other}"),
        };
        is_named && (rule.status.is_empty() || rule.status.contains(&run.status))
    };
    let ruled = |rule: &Rule| match rule.keep {
        Keep::Forever => None,
        Keep::Days(days) => Some(cutoff_of(days.get().into())),
    };
    let own = case.order.days.map(cutoff_of);
    let latest = case.order.rules.iter().filter_map(ruled).chain(own).max().unwrap();
    let is_eligible = |run: &&Run| {
        let cutoff = case.order.rules.iter().find(|rule| matches(rule, run)).map_or(own, ruled);
        let read = |at: &Option<String>| DateTime::parse_from_rfc3339(at.as_ref()?).ok();
        ENDED.contains(&run.status.as_str())
            && read(&run.updated_at).is_some_and(|at| cutoff.is_some_and(|cutoff| at < cutoff))
            && read(&run.created_at).is_some_and(|at| at < latest + TimeDelta::days(1))
    };
    let mut gone = BTreeSet::new();
    loop {
        let has_nothing_below = |run: &&Run| {
            let mut below = case.runs.iter().filter(|child| child.parent.as_ref() == Some(&run.id));
            below.all(|child| gone.contains(&child.id))
        };
        let next: BTreeSet<String> =
            case.runs.iter().filter(is_eligible).filter(has_nothing_below).map(|run| run.id.clone()).collect();
        if next == gone {
            return gone;
        }
        gone = next;
    }
}

async fn agrees(subject: &dyn Subject, case: &Case) -> Result<(), TestCaseError> {
    for run in &case.runs {
        subject.put(Thing::Run(run.clone())).await;
        subject.put(Thing::Owned { kind: "events".to_owned(), run: run.id.clone(), id: run.id.clone() }).await;
        subject.put(Thing::Checkpoint { key: format!("{}:step", run.id) }).await;
    }
    let (before, goes) = (subject.things().await, naive(case));
    let store: Arc<dyn RunStore> = Arc::new(SmallPages(subject.store(), case.page));
    let planned = sweep_at(store.clone(), &case.order, now(), false).await;
    prop_assert_eq!(&subject.things().await, &before, "a dry run changed something");
    prop_assert_eq!(&set(&planned.ids), &goes, "planned");
    let deleted = sweep_at(store.clone(), &case.order, now(), true).await;
    prop_assert_eq!(&set(&deleted.ids), &goes, "deleted");
    prop_assert_eq!(deleted.ids.len(), goes.len(), "a run was named twice");
    prop_assert_eq!((planned.ids.len(), planned.tally.planned), (goes.len(), deleted.tally.planned));
    let stays: BTreeSet<Thing> = before
        .into_iter()
        .filter(|thing| match thing {
            Thing::Run(Run { id, .. }) | Thing::Owned { run: id, .. } => !goes.contains(id),
            Thing::Checkpoint { key } => !goes.contains(key.strip_suffix(":step").unwrap()),
            other => panic!("{other:?} was never put"),
        })
        .collect();
    prop_assert_eq!(&subject.things().await, &stays, "left");
    prop_assert!(sweep_at(store, &case.order, now(), true).await.ids.is_empty(), "a second run deleted something");
    Ok(())
}

fn set(ids: &[String]) -> BTreeSet<String> {
    ids.iter().cloned().collect()
}

fn check<S: Subject>(cases: u32, make: impl AsyncFn() -> S) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let ran =
        TestRunner::new(config).run(&case(), |case| runtime.block_on(async { agrees(&make().await, &case).await }));
    if let Err(error) = ran {
        panic!("{error}");
    }
}

#[test]
fn memory_leaves_what_a_naive_sweep_leaves() {
    check(300, async || MemoryStore::default());
}

#[test]
fn sqlite_leaves_what_a_naive_sweep_leaves() {
    check(40, async || SqliteWorld::new("wal").await);
}

#[test]
fn files_leave_what_a_naive_sweep_leaves() {
    check(100, async || FileWorld::new().await);
}

#[test]
fn dynamodb_leaves_what_a_naive_sweep_leaves() {
    check(10, async || DynamoWorld::new().await);
}

#[test]
fn postgres_leaves_what_a_naive_sweep_leaves() {
    check(20, async || PostgresWorld::new(FRESH).await);
}

#[test]
fn mysql_leaves_what_a_naive_sweep_leaves() {
    check(20, async || MysqlWorld::new().await);
}

#[test]
fn cassandra_leaves_what_a_naive_sweep_leaves() {
    check(5, CassandraWorld::new);
}
