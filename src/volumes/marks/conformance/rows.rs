//! What is read of threads, and marked in bulk.

use std::sync::Arc;

use super::{CLOSED, HashMap, Held, MARKED, OPEN, Subject, Thread, Usual, table, thread, threads, unmarked};

/// More than a statement names at once, in every answer.
pub(super) const MANY: u64 = 600;

/// Open, closed, marked, or not there, whatever kind of ids there is; many at once, in any order, and twice.
pub async fn tells_what_a_thread_is(subject: Arc<dyn Subject>) {
    for ids in subject.ids() {
        let mut table = table();
        table.name = vec![format!("threads_{ids:?}")];
        let marks = subject.make(&table, *ids, true).await;
        marks.prepare().await.expect("a table that is fit");
        let [open, closed, marked, none] = [1, 2, 30, 4].map(|number| ids.id(number));
        subject.set(&table, &open, "open").await;
        for id in [&closed, &marked] {
            subject.set(&table, id, "closed").await;
        }
        assert_eq!(marks.mark(std::slice::from_ref(&marked)).await.expect("marked"), 1);
        let asked = [&marked, &none, &open, &closed, &open].map(Clone::clone);
        let expected = HashMap::from([(open, OPEN), (closed, CLOSED), (marked, MARKED)]);
        assert_eq!(threads(&*marks, &asked).await, expected, "{ids:?}");
        assert_eq!(threads(&*marks, &[]).await, HashMap::new());
    }
}

/// What a database would take for an id is none where the table writes it in another way, and what cannot be one is no error.
pub async fn knows_an_id_only_as_its_table_writes_it(subject: Arc<dyn Subject>) {
    for ids in subject.ids() {
        let mut table = table();
        table.name = vec![format!("threads_{ids:?}")];
        let marks = subject.make(&table, *ids, true).await;
        let id = ids.id(7);
        subject.set(&table, &id, "closed").await;
        let others: Vec<String> = ids.others().iter().map(|id| (*id).to_owned()).collect();
        assert_eq!(threads(&*marks, &others).await, HashMap::new(), "{ids:?}");
        assert_eq!(marks.mark(&others).await.expect("an answer"), 0);
        for other in &others {
            assert!(Held::hold(&*marks, other).await.expect("an answer").is_none(), "{ids:?} {other:?}");
        }
        let all: Vec<String> = others.into_iter().chain([id.clone()]).collect();
        assert_eq!(threads(&*marks, &all).await, HashMap::from([(id, CLOSED)]));
        assert_eq!(marks.mark(&all).await.expect("marked"), 1);
    }
}

/// Each once, in one order, whatever the size of the pages.
pub async fn pages_through_the_closed_threads_without_a_mark(subject: Arc<dyn Subject>) {
    for ids in subject.ids() {
        let mut table = table();
        table.name = vec![format!("threads_{ids:?}")];
        let marks = subject.make(&table, *ids, true).await;
        assert_eq!(unmarked(&*marks, 3).await, [""; 0]);
        // Numbers, not texts: 10 comes after 9.
        let expected: Vec<String> = [2, 3, 9, 10, 11, 100, 101].map(|number| ids.id(number)).to_vec();
        for id in expected.iter().rev() {
            subject.set(&table, id, "closed").await;
        }
        for (number, status) in [(1, "open"), (50, "closed"), (99, "archived"), (102, "open")] {
            subject.set(&table, &ids.id(number), status).await;
        }
        assert_eq!(marks.mark(&[ids.id(50)]).await.expect("marked"), 1);
        for limit in [1, 2, 3, 7, 100] {
            assert_eq!(unmarked(&*marks, limit).await, expected, "{ids:?}, {limit} at a time");
        }
    }
}

/// A page begins after an id, whether that is still there or not.
pub async fn goes_on_after_an_id_that_is_gone(subject: Arc<dyn Subject>) {
    let usual = Usual::new(subject).await;
    let [one, two, three] = [usual.close(1).await, usual.close(2).await, usual.close(3).await];
    usual.open(2).await;
    assert_eq!(usual.marks.unmarked(Some(&two), 9).await.expect("an answer"), [three.as_str()]);
    usual.marks.mark(std::slice::from_ref(&one)).await.expect("marked");
    assert_eq!(usual.marks.unmarked(Some(&one), 9).await.expect("an answer"), [three]);
    assert_eq!(usual.marks.unmarked(Some(&usual.ids.id(4)), 9).await.expect("an answer"), [""; 0]);
}

/// Others stay as they are; who marks again marks nothing.
pub async fn marks_what_is_closed_and_not_marked(subject: Arc<dyn Subject>) {
    let usual = Usual::new(subject).await;
    let [one, two, open] = [usual.close(1).await, usual.close(2).await, usual.open(3).await];
    let all = [one.clone(), open.clone(), two.clone(), usual.ids.id(4)];
    assert_eq!(usual.marks.mark(&all[..2]).await.expect("marked"), 1);
    assert_eq!(usual.marks.mark(&all).await.expect("marked"), 1);
    assert_eq!(usual.marks.mark(&all).await.expect("marked"), 0);
    assert_eq!(usual.marks.mark(&[]).await.expect("marked"), 0);
    let expected = HashMap::from([(one, MARKED), (two, MARKED), (open, OPEN)]);
    assert_eq!(threads(&*usual.marks, &all).await, expected);
}

/// None is left out.
pub async fn marks_more_threads_than_one_statement_names(subject: Arc<dyn Subject>) {
    let usual = Usual::new(subject).await;
    let mut all = Vec::new();
    for number in 1..=MANY {
        all.push(if number % 10 == 0 { usual.open(number).await } else { usual.close(number).await });
    }
    assert_eq!(threads(&*usual.marks, &all).await.len(), all.len());
    assert_eq!(usual.marks.mark(&all).await.expect("marked"), MANY - MANY / 10);
    let found = threads(&*usual.marks, &all).await;
    assert!(found.values().all(|thread| *thread == OPEN || *thread == MARKED));
    assert_eq!(unmarked(&*usual.marks, 100).await, [""; 0]);
}

/// The first one counts.
pub async fn leaves_a_mark_as_it_was_written_first(subject: Arc<dyn Subject>) {
    let usual = Usual::new(subject).await;
    let id = usual.close(1).await;
    assert_eq!(usual.subject.stored_mark(&usual.table, &id).await, None);
    usual.marks.mark(std::slice::from_ref(&id)).await.expect("marked");
    let first = usual.subject.stored_mark(&usual.table, &id).await;
    assert!(first.is_some());
    usual.marks.mark(std::slice::from_ref(&id)).await.expect("an answer");
    assert!(!usual.hold(&id).await.expect("it is closed").mark().await.expect("an answer"));
    assert_eq!(usual.subject.stored_mark(&usual.table, &id).await, first);
}

/// It keeps its mark, open or closed.
pub async fn knows_a_thread_that_was_opened_and_closed_again(subject: Arc<dyn Subject>) {
    let usual = Usual::new(subject).await;
    let id = usual.close(1).await;
    usual.marks.mark(std::slice::from_ref(&id)).await.expect("marked");
    usual.open(1).await;
    assert_eq!(thread(&*usual.marks, &id).await, Some(Thread { is_closed: false, is_marked: true }));
    usual.close(1).await;
    assert_eq!(usual.thread(&id).await, Some(MARKED));
    assert_eq!(unmarked(&*usual.marks, 9).await, [""; 0]);
}
