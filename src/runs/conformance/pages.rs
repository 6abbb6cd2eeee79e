//! What pages show.

use std::collections::BTreeSet;

use super::{
    Order, Run, Seen, Subject, Thing, TimeDelta, at_hours, belongings::held_ids, below, checkpoint, cutoff, event,
    expired, now, old, pages, put_all, running, sweep_at, text,
};

fn ids(runs: &[Seen]) -> Vec<&str> {
    runs.iter().map(|run| run.id.as_str()).collect()
}

/// However many a page has, each run is on one page, with what was written, and none was made after the one before it.
pub async fn shows_every_run_once_and_the_latest_first(subject: &dyn Subject) {
    let odd = held_ids(subject);
    // Some made at the same instant, some not; all statuses, for the store knows no rules.
    let runs: Vec<Run> = odd
        .iter()
        .enumerate()
        .map(|(at, id)| at_hours(-i64::try_from(at % 3).unwrap(), expired(id)))
        .map(|run| if run.id.len() % 2 == 0 { running(run) } else { run })
        .collect();
    put_all(subject, runs.clone()).await;
    let expected: BTreeSet<&str> = odd.iter().map(String::as_str).collect();
    let store = subject.store();
    let mut orders = BTreeSet::new();
    for limit in [1, 2, 3, 7, odd.len(), 1_000] {
        let shown = pages(async |after| {
            let page = store.page(now(), after, limit).await?;
            assert!(page.runs.len() <= limit);
            Ok(page)
        })
        .await;
        assert_eq!((shown.len(), ids(&shown).into_iter().collect()), (odd.len(), expected.clone()), "{limit} a page");
        assert!(shown.is_sorted_by(|one, next| one.created_at.instant >= next.created_at.instant));
        for run in &shown {
            let put = runs.iter().find(|put| put.id == run.id).unwrap();
            assert_eq!((&run.status, &run.workflow, &run.parent), (&put.status, &put.workflow, &put.parent));
            assert_eq!((&run.updated_at.raw, &run.created_at.raw), (&put.updated_at, &put.created_at));
        }
        orders.insert(shown.into_iter().map(|run| run.id).collect::<Vec<_>>());
    }
    assert_eq!(orders.len(), 1, "the order depends on the size of pages");
}

/// The bound may show more than it must, but not what was made two days later.
pub async fn shows_every_run_that_was_made_before_a_bound(subject: &dyn Subject) {
    let made = |id: &str, at: &str| Run { created_at: Some(at.to_owned()), ..expired(id) };
    let micro = TimeDelta::microseconds(1);
    let runs = [
        made("just before", &text(cutoff() - micro)),
        made("ahead", "2026-10-21T16:59:59+14:00"),
        made("behind", "2026-10-20T14:59:59-12:00"),
        made("later", &text(cutoff() + TimeDelta::days(2) + micro)),
    ];
    put_all(subject, runs).await;
    let store = subject.store();
    let mut shown = pages(async |after| store.page(cutoff(), after, 2).await).await;
    shown.sort_unstable_by(|one, other| one.id.cmp(&other.id));
    assert_eq!(ids(&shown), ["ahead", "behind", "just before"]);
}

/// What has no time to be paged by is counted, up to a limit.
pub async fn counts_what_no_page_shows(subject: &dyn Subject) {
    let made = |id: &str, at: Option<&str>| Run { created_at: at.map(str::to_owned), ..expired(id) };
    put_all(subject, [made("none", None), made("none too", None), made("word", Some("yesterday")), expired("whole")])
        .await;
    let store = subject.store();
    let counts = [store.unpaged(2).await.unwrap(), store.unpaged(3).await.unwrap(), store.unpaged(100).await.unwrap()];
    assert_eq!(counts, [2, 3, 3]);
    let shown = pages(async |after| store.page(now(), after, 10).await).await;
    assert_eq!(ids(&shown), ["whole"]);
}

/// However many a page has, each child of the parents is on one page, and no other run is.
pub async fn shows_every_child_once(subject: &dyn Subject) {
    let odd = held_ids(subject);
    for (at, parent) in odd.iter().enumerate() {
        // Children have any status and any time, even none.
        let children = (0..at % 4).map(|nth| below(parent, running(expired(format!("child {nth} of {parent}")))));
        put_all(subject, children).await;
    }
    put_all(subject, [Run { created_at: None, ..below("a", expired("timeless")) }, expired("of none")]).await;
    let store = subject.store();
    let find = |parent: &str| subject_children(parent, &odd);
    for parents in [&odd[..], &odd[3..5], &odd[7..8], &[]] {
        let expected: BTreeSet<String> = parents.iter().flat_map(|parent| find(parent)).collect();
        for limit in [1, 2, 5, 1_000] {
            let shown = pages(async |after| store.children(parents, after, limit).await).await;
            let found: BTreeSet<String> = shown.iter().map(|run| run.id.clone()).collect();
            assert_eq!((shown.len(), &found), (expected.len(), &expected), "{limit} a page");
        }
    }
    let twice = [odd[5].clone(), odd[5].clone(), "nobody".to_owned()];
    let shown = pages(async |after| store.children(&twice, after, 10).await).await;
    assert_eq!(shown.len(), find(&odd[5]).len());
}

fn subject_children(parent: &str, odd: &[String]) -> Vec<String> {
    let at = odd.iter().position(|id| id == parent).unwrap();
    let timeless = (parent == "a").then(|| "timeless".to_owned());
    (0..at % 4).map(|nth| format!("child {nth} of {parent}")).chain(timeless).collect()
}

/// Each run that is there is found, whatever its status and its times; others are not made up.
pub async fn finds_runs_by_their_ids(subject: &dyn Subject) {
    let odd = held_ids(subject);
    let timeless = Run { created_at: None, updated_at: None, ..expired("timeless") };
    put_all(subject, odd.iter().map(|id| running(expired(id.as_str()))).chain([timeless])).await;
    let store = subject.store();
    let asked: Vec<String> =
        odd.iter().map(String::as_str).chain(["timeless", "nobody", "timeless"]).map(str::to_owned).collect();
    let mut found = store.find(&asked).await.unwrap();
    found.sort_unstable_by(|one, other| one.id.cmp(&other.id));
    let mut expected: Vec<&str> = odd.iter().map(String::as_str).chain(["timeless"]).collect();
    expected.sort_unstable();
    assert_eq!(ids(&found), expected);
    assert!(found.iter().all(|run| run.status == if run.id == "timeless" { "completed" } else { "running" }));
    assert_eq!(store.find(&[]).await.unwrap(), []);
}

/// Pages, counts, checks and dry runs change nothing.
pub async fn writes_nothing_while_it_reads(subject: &dyn Subject) {
    put_all(subject, [expired("one"), below("one", expired("two"))]).await;
    let schedule = Thing::Schedule { id: "s".to_owned(), status: "deleted".to_owned(), deleted_at: Some(old()) };
    for thing in [event("one"), checkpoint("one:step"), schedule] {
        subject.put(thing).await;
    }
    let (before, store) = (subject.things().await, subject.store());
    store.page(now(), None, 10).await.unwrap();
    store.children(&["one".to_owned()], None, 10).await.unwrap();
    store.find(&["one".to_owned()]).await.unwrap();
    store.unpaged(10).await.unwrap();
    store.now().await.unwrap();
    store.check().await.unwrap();
    assert_eq!(sweep_at(store, &Order::default(), now(), false).await.ids.len(), 2);
    assert_eq!(subject.things().await, before);
}
