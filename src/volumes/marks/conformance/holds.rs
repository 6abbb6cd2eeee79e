//! What a hold keeps out, and how it ends.

use std::{collections::HashMap, sync::Arc};

use futures::{FutureExt, StreamExt, stream};

use super::{CLOSED, MARKED, OPEN, Subject, Thread, Usual, rows::MANY, threads, unmarked};
use crate::volumes::{Hold, Marks, MarksError};

/// More than the connections of every answer.
const DROPPED: usize = 20;
/// How many threads are marked by how many at a time, of whom each holds so many.
const RACED: u64 = 40;
const RACERS: usize = 4;
const HELD: usize = 3;

/// The row of one thread, held.
#[derive(Debug)]
pub struct Held {
    hold: Box<dyn Hold>,
    id: String,
}

impl Held {
    /// Holds the row of a closed thread; none where it is not closed or not there, or somebody else holds it.
    pub async fn hold(marks: &dyn Marks, id: &str) -> Result<Option<Self>, MarksError> {
        let hold = marks.hold(&[id.to_owned()]).await?;
        Ok(hold.threads().contains_key(id).then(|| Self { hold, id: id.to_owned() }))
    }

    /// Marks the thread, and ends; `false` where it was marked before.
    pub async fn mark(self) -> Result<bool, MarksError> {
        Ok(self.hold.mark(&[self.id]).await? > 0)
    }
}

impl Usual {
    pub(super) async fn hold(&self, id: &str) -> Option<Held> {
        Held::hold(&*self.marks, id).await.expect("an answer")
    }

    async fn close_many(&self, count: u64) -> Vec<String> {
        stream::iter(1..=count).then(|number| self.close(number)).collect().await
    }
}

/// The mark is seen when the hold has ended, and not before.
pub async fn holds_a_closed_thread_until_it_is_marked(subject: Arc<dyn Subject>) {
    let usual = Usual::new(subject).await;
    let id = usual.close(1).await;
    let hold = usual.hold(&id).await.expect("it is closed");
    assert_eq!(usual.thread(&id).await, Some(CLOSED));
    assert!(!usual.subject.try_set(&usual.table, &id, "open").await, "it was opened");
    assert!(hold.mark().await.expect("marked"));
    assert_eq!(usual.thread(&id).await, Some(MARKED));
    assert!(usual.subject.try_set(&usual.table, &id, "open").await, "it is still held");
}

/// There is nothing to hold, and nothing stays held.
pub async fn holds_no_thread_that_is_open_or_not_there(subject: Arc<dyn Subject>) {
    let usual = Usual::new(subject).await;
    let open = usual.open(1).await;
    for _ in 0..DROPPED {
        for id in [&open, &usual.ids.id(2)] {
            assert!(usual.hold(id).await.is_none());
        }
    }
    assert!(usual.subject.try_set(&usual.table, &open, "closed").await, "it is held");
    assert!(usual.hold(&open).await.is_some());
}

/// A volume may be back though its thread is marked.
pub async fn holds_a_marked_thread_and_says_that_it_was_marked(subject: Arc<dyn Subject>) {
    let usual = Usual::new(subject).await;
    let id = usual.close(1).await;
    usual.marks.mark(std::slice::from_ref(&id)).await.expect("marked");
    let hold = usual.hold(&id).await.expect("it is closed");
    assert!(!usual.subject.try_set(&usual.table, &id, "open").await, "it was opened");
    assert!(!hold.mark().await.expect("an answer"));
    assert_eq!(usual.thread(&id).await, Some(MARKED));
}

/// It holds what is closed and not held, and tells which that is.
pub async fn holds_those_of_many_threads_that_it_can(subject: Arc<dyn Subject>) {
    let usual = Usual::new(subject).await;
    let ids = [usual.close(1).await, usual.open(2).await, usual.close(3).await, usual.ids.id(4), String::new()];
    usual.marks.mark(&ids[2..3]).await.expect("marked");
    let hold = usual.marks.hold(&ids).await.expect("an answer");
    assert_eq!(*hold.threads(), HashMap::from([(ids[0].clone(), CLOSED), (ids[2].clone(), MARKED)]));
    for id in [&ids[0], &ids[2]] {
        assert!(!usual.subject.try_set(&usual.table, id, "open").await, "it was opened");
    }
    assert_eq!(hold.mark(&ids).await.expect("marked"), 1);
    for (id, row) in ids.iter().zip([Some(MARKED), Some(OPEN), Some(MARKED), None]) {
        assert_eq!(usual.thread(id).await, row);
        assert!(row.is_none() || usual.subject.try_set(&usual.table, id, "open").await, "it is still held");
    }
}

/// What it was not told to mark it lets go as it was; what it does not hold it does not mark.
pub async fn marks_of_what_it_holds_what_it_is_told(subject: Arc<dyn Subject>) {
    let usual = Usual::new(subject).await;
    let ids = usual.close_many(3).await;
    let hold = usual.marks.hold(&ids[..2]).await.expect("an answer");
    assert_eq!(hold.threads().len(), 2);
    assert_eq!(hold.mark(&ids[1..]).await.expect("marked"), 1);
    assert_eq!(unmarked(&*usual.marks, 9).await, [ids[0].as_str(), ids[2].as_str()]);
    let hold = usual.marks.hold(&ids).await.expect("an answer");
    assert_eq!(hold.threads().len(), 3, "one is still held");
    assert_eq!(hold.mark(&[]).await.expect("nothing marked"), 0);
    assert_eq!(unmarked(&*usual.marks, 9).await, [ids[0].as_str(), ids[2].as_str()]);
}

/// A hold of nothing is none, and keeps nothing.
pub async fn holds_nothing_where_nothing_is_named(subject: Arc<dyn Subject>) {
    let usual = Usual::new(subject).await;
    let id = usual.close(1).await;
    for _ in 0..DROPPED {
        let hold = usual.marks.hold(&[]).await.expect("an answer");
        assert!(hold.threads().is_empty());
        assert_eq!(hold.mark(std::slice::from_ref(&id)).await.expect("nothing marked"), 0);
    }
    assert_eq!(usual.thread(&id).await, Some(CLOSED));
}

/// However many there are, they are held together.
pub async fn holds_more_threads_than_one_statement_names(subject: Arc<dyn Subject>) {
    let usual = Usual::new(subject).await;
    let ids = usual.close_many(MANY).await;
    let hold = usual.marks.hold(&ids).await.expect("an answer");
    assert_eq!(hold.threads().len(), ids.len());
    for id in [&ids[0], &ids[ids.len() - 1]] {
        assert!(!usual.subject.try_set(&usual.table, id, "open").await, "it was opened");
    }
    assert_eq!(hold.mark(&ids).await.expect("marked"), MANY);
    assert!(threads(&*usual.marks, &ids).await.values().all(|row| *row == MARKED));
}

/// Who comes second gets none, and one when the first has ended.
pub async fn lets_one_hold_a_thread_at_a_time(subject: Arc<dyn Subject>) {
    let usual = Usual::new(subject).await;
    let id = usual.close(1).await;
    let hold = usual.hold(&id).await.expect("it is closed");
    assert!(usual.hold(&id).await.is_none(), "two hold it");
    assert!(hold.mark().await.expect("marked"));
    let again = usual.hold(&id).await.expect("nobody holds it");
    assert!(!again.mark().await.expect("an answer"));
}

/// Who opens a held thread waits, and opens it with the mark on it.
pub async fn keeps_a_thread_closed_while_it_is_held(subject: Arc<dyn Subject>) {
    let usual = Usual::new(subject).await;
    let id = usual.close(1).await;
    let hold = usual.hold(&id).await.expect("it is closed");
    let (subject, table, thread) = (Arc::clone(&usual.subject), usual.table.clone(), id.clone());
    let opens = tokio::spawn(async move { subject.set(&table, &thread, "open").await });
    for _ in 0..9 {
        assert!(!usual.subject.try_set(&usual.table, &id, "open").await, "it was opened");
    }
    assert!(!opens.is_finished(), "it was opened");
    assert!(hold.mark().await.expect("marked"), "somebody else marked it");
    opens.await.expect("no panic");
    assert_eq!(usual.thread(&id).await, Some(Thread { is_closed: false, is_marked: true }));
}

/// The thread is as it was, and anybody's.
pub async fn leaves_no_mark_where_a_hold_is_dropped(subject: Arc<dyn Subject>) {
    let usual = Usual::new(subject).await;
    let id = usual.close(1).await;
    drop(usual.hold(&id).await.expect("it is closed"));
    usual.open(1).await;
    assert_eq!(usual.thread(&id).await, Some(OPEN));
    usual.close(1).await;
    let hold = usual.hold(&id).await.expect("nobody holds it");
    assert!(hold.mark().await.expect("marked"));
}

/// However many ended without a mark.
pub async fn has_connections_left_after_many_dropped_holds(subject: Arc<dyn Subject>) {
    let usual = Usual::new(subject).await;
    let id = usual.close(1).await;
    for _ in 0..DROPPED {
        drop(usual.hold(&id).await);
        // Whoever writes it waits until the hold is over.
        usual.close(1).await;
    }
    assert_eq!(unmarked(&*usual.marks, 9).await, [id.as_str()]);
    let hold = usual.hold(&id).await.expect("nobody holds it");
    assert!(hold.mark().await.expect("marked"));
}

/// Given up at any moment it is marked or it is not, and nobody holds it.
pub async fn survives_a_mark_that_is_given_up_on_the_way(subject: Arc<dyn Subject>) {
    let usual = Usual::new(subject).await;
    for number in 1..=5 {
        let id = usual.close(number).await;
        let hold = usual.hold(&id).await.expect("it is closed");
        let is_done = hold.mark().now_or_never().is_some();
        usual.close(number).await;
        let thread = usual.thread(&id).await.expect("it is there");
        assert!(thread.is_marked || !is_done);
        let hold = usual.hold(&id).await.expect("nobody holds it");
        assert_eq!(hold.mark().await.expect("an answer"), !thread.is_marked);
    }
}

/// One of them does, whether by holds or in bulk.
pub async fn marks_each_thread_once_for_many_at_a_time(subject: Arc<dyn Subject>) {
    let usual = Usual::new(subject).await;
    let ids = usual.close_many(RACED).await;
    let (usual, ids) = (&usual, &ids);
    let by_holds = |racer| async move {
        let mut marked = 0;
        for some in ids[racer..].chunks(HELD).chain([&ids[..racer]]) {
            marked += usual.marks.hold(some).await.expect("an answer").mark(some).await.expect("an answer");
        }
        marked
    };
    let in_bulk = async { usual.marks.mark(&ids[20..30]).await.expect("an answer") };
    let (by_holds, in_bulk) =
        tokio::join!(stream::iter(0..RACERS).map(by_holds).buffer_unordered(RACERS).collect::<Vec<_>>(), in_bulk);
    assert_eq!(by_holds.iter().sum::<u64>() + in_bulk, RACED);
    assert_eq!(unmarked(&*usual.marks, 100).await, [""; 0]);
}
