//! What a hold keeps out, and how it ends.

use std::sync::Arc;

use futures::{FutureExt, StreamExt, stream};

use super::{CLOSED, MARKED, OPEN, Subject, Thread, Usual, unmarked};

/// More than the connections of every answer.
const DROPPED: usize = 20;
/// How many threads are marked by how many at a time.
const RACED: u64 = 40;
const RACERS: usize = 4;

/// The mark is seen when the hold has ended, and not before.
pub async fn holds_a_closed_thread_until_it_is_marked(subject: Arc<dyn Subject>) {
    let usual = Usual::new(subject).await;
    let id = usual.close(1).await;
    let hold = usual.marks.hold(&id).await.expect("an answer").expect("it is closed");
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
            assert!(usual.marks.hold(id).await.expect("an answer").is_none());
        }
    }
    assert!(usual.subject.try_set(&usual.table, &open, "closed").await, "it is held");
    assert!(usual.marks.hold(&open).await.expect("an answer").is_some());
}

/// A volume may be back though its thread is marked.
pub async fn holds_a_marked_thread_and_says_that_it_was_marked(subject: Arc<dyn Subject>) {
    let usual = Usual::new(subject).await;
    let id = usual.close(1).await;
    usual.marks.mark(std::slice::from_ref(&id)).await.expect("marked");
    let hold = usual.marks.hold(&id).await.expect("an answer").expect("it is closed");
    assert!(!usual.subject.try_set(&usual.table, &id, "open").await, "it was opened");
    assert!(!hold.mark().await.expect("an answer"));
    assert_eq!(usual.thread(&id).await, Some(MARKED));
}

/// Who comes second gets none, and one when the first has ended.
pub async fn lets_one_hold_a_thread_at_a_time(subject: Arc<dyn Subject>) {
    let usual = Usual::new(subject).await;
    let id = usual.close(1).await;
    let hold = usual.marks.hold(&id).await.expect("an answer").expect("it is closed");
    assert!(usual.marks.hold(&id).await.expect("an answer").is_none(), "two hold it");
    assert!(hold.mark().await.expect("marked"));
    let again = usual.marks.hold(&id).await.expect("an answer").expect("nobody holds it");
    assert!(!again.mark().await.expect("an answer"));
}

/// Who opens a held thread waits, and opens it with the mark on it.
pub async fn keeps_a_thread_closed_while_it_is_held(subject: Arc<dyn Subject>) {
    let usual = Usual::new(subject).await;
    let id = usual.close(1).await;
    let hold = usual.marks.hold(&id).await.expect("an answer").expect("it is closed");
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
    drop(usual.marks.hold(&id).await.expect("an answer").expect("it is closed"));
    usual.open(1).await;
    assert_eq!(usual.thread(&id).await, Some(OPEN));
    usual.close(1).await;
    let hold = usual.marks.hold(&id).await.expect("an answer").expect("nobody holds it");
    assert!(hold.mark().await.expect("marked"));
}

/// However many ended without a mark.
pub async fn has_connections_left_after_many_dropped_holds(subject: Arc<dyn Subject>) {
    let usual = Usual::new(subject).await;
    let id = usual.close(1).await;
    for _ in 0..DROPPED {
        drop(usual.marks.hold(&id).await.expect("an answer"));
        // Whoever writes it waits until the hold is over.
        usual.close(1).await;
    }
    assert_eq!(unmarked(&*usual.marks, 9).await, [id.as_str()]);
    let hold = usual.marks.hold(&id).await.expect("an answer").expect("nobody holds it");
    assert!(hold.mark().await.expect("marked"));
}

/// Given up at any moment it is marked or it is not, and nobody holds it.
pub async fn survives_a_mark_that_is_given_up_on_the_way(subject: Arc<dyn Subject>) {
    let usual = Usual::new(subject).await;
    for number in 1..=5 {
        let id = usual.close(number).await;
        let hold = usual.marks.hold(&id).await.expect("an answer").expect("it is closed");
        let is_done = hold.mark().now_or_never().is_some();
        usual.close(number).await;
        let thread = usual.thread(&id).await.expect("it is there");
        assert!(thread.is_marked || !is_done);
        let hold = usual.marks.hold(&id).await.expect("an answer").expect("nobody holds it");
        assert_eq!(hold.mark().await.expect("an answer"), !thread.is_marked);
    }
}

/// One of them does, whether by holds or in bulk.
pub async fn marks_each_thread_once_for_many_at_a_time(subject: Arc<dyn Subject>) {
    let usual = Usual::new(subject).await;
    let mut ids = Vec::new();
    for number in 1..=RACED {
        ids.push(usual.close(number).await);
    }
    let (usual, ids) = (&usual, &ids);
    let by_holds = |_| async move {
        let mut marked = 0;
        for id in ids {
            if let Some(hold) = usual.marks.hold(id).await.expect("an answer") {
                marked += u64::from(hold.mark().await.expect("an answer"));
            }
        }
        marked
    };
    let in_bulk = async { usual.marks.mark(&ids[20..30]).await.expect("an answer") };
    let (by_holds, in_bulk) =
        tokio::join!(stream::iter(0..RACERS).map(by_holds).buffer_unordered(RACERS).collect::<Vec<_>>(), in_bulk);
    assert_eq!(by_holds.iter().sum::<u64>() + in_bulk, RACED);
    assert_eq!(unmarked(&*usual.marks, 100).await, [""; 0]);
}
