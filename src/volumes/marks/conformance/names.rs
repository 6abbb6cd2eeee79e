//! Names and words of the owner's, and what a table lacks.

use std::sync::Arc;

use super::{CLOSED, Held, MARKED, OPEN, Subject, table, thread, unmarked};
use crate::{config::ThreadsTable, volumes::MarksError};

/// Whatever can be a name or a status is one, and nothing in it is a statement.
pub async fn takes_names_and_words_as_they_are(subject: Arc<dyn Subject>) {
    let ids = subject.ids()[0];
    let odd = |name: &str, columns: [&str; 3], closed: &str| ThreadsTable {
        name: vec![name.to_owned()],
        id: columns[0].to_owned(),
        status: columns[1].to_owned(),
        removed_at: columns[2].to_owned(),
        closed: closed.to_owned(),
    };
    for table in [
        odd("select", ["from", "where", "table"], "it's closed"),
        odd("my \"odd\" `threads`", ["a \"b\"", "c`d", "e'f"], "\"closed\""),
        odd("Mixed-Case;--", ["Id", "St?at$1us", "{gone}"], "back\\slash\\' OR 1 = 1 --"),
        odd("\u{e4}\u{f6} %s", ["\u{fc} id", "\u{df}tatus", "/* gone */"], "\u{1F9F9} ''"),
    ] {
        let marks = subject.make(&table, ids, false).await;
        assert!(!marks.migrate().await.expect("migrated").is_empty(), "{table:?}");
        assert_eq!(marks.missing().await.expect("an answer"), [""; 0], "{table:?}");
        marks.prepare().await.expect("a table that is fit");
        let [closed, open] = [ids.id(1), ids.id(2)];
        subject.set(&table, &closed, &table.closed).await;
        subject.set(&table, &open, "open").await;
        assert_eq!(thread(&*marks, &open).await, Some(OPEN));
        assert_eq!(thread(&*marks, &closed).await, Some(CLOSED), "{table:?}");
        assert_eq!(unmarked(&*marks, 9).await, [closed.as_str()]);
        let hold = Held::hold(&*marks, &closed).await.expect("an answer").expect("it is closed");
        assert!(hold.mark().await.expect("marked"));
        assert_eq!(thread(&*marks, &closed).await, Some(MARKED));
    }
}

/// `schema.table` is that table and not another one of its name.
pub async fn finds_a_table_in_another_schema(subject: Arc<dyn Subject>) {
    let ids = subject.ids()[0];
    let Some(schema) = subject.schema() else { return };
    let (usual, mut other) = (table(), table());
    other.name = vec![schema, "elsewhere".to_owned()];
    subject.make(&usual, ids, true).await;
    let marks = subject.make(&other, ids, false).await;
    let id = ids.id(1);
    subject.set(&other, &id, "closed").await;
    assert_eq!(marks.migrate().await.expect("migrated").len(), 2);
    assert_eq!(marks.missing().await.expect("an answer"), [""; 0]);
    assert_eq!(marks.mark(std::slice::from_ref(&id)).await.expect("marked"), 1);
    assert!(subject.stored_mark(&other, &id).await.is_some());
    assert_eq!(subject.stored_mark(&usual, &id).await, None);
}

/// A table that is not ready is told so, by every call that needs it, and is not changed.
pub async fn names_what_is_missing(subject: Arc<dyn Subject>) {
    let (table, ids) = (table(), subject.ids()[0]);
    let marks = subject.make(&table, ids, false).await;
    subject.set(&table, &ids.id(1), "closed").await;
    for _ in 0..2 {
        unfit(marks.prepare().await, "janitor volumes migrate adds it");
        unfit(marks.unmarked(None, 9).await, "migrate");
        unfit(marks.threads(&[ids.id(1)]).await, "migrate");
        unfit(marks.mark(&[ids.id(1)]).await, "migrate");
        unfit(marks.hold(&[ids.id(1)]).await.map(|hold| hold.threads().clone()), "migrate");
        assert!(!marks.missing().await.expect("an answer").is_empty());
    }
}

/// What is missing is what is executed; then nothing is missing, and the rows are as they were.
pub async fn adds_what_is_missing_once(subject: Arc<dyn Subject>) {
    let (table, ids) = (table(), subject.ids()[0]);
    let marks = subject.make(&table, ids, false).await;
    subject.set(&table, &ids.id(1), "closed").await;
    let missing = marks.missing().await.expect("an answer");
    assert_eq!(marks.migrate().await.expect("migrated"), missing);
    assert_eq!(marks.missing().await.expect("an answer"), [""; 0]);
    assert_eq!(marks.migrate().await.expect("nothing to do"), [""; 0]);
    marks.prepare().await.expect("a table that is fit");
    assert_eq!(unmarked(&*marks, 9).await, [ids.id(1)]);
}

fn unfit<T: std::fmt::Debug>(answer: Result<T, MarksError>, rule: &str) {
    match answer {
        Err(MarksError::Unfit { rule: told, .. }) => assert!(told.contains(rule), "{told}"),
        other => panic!("{other:?}"),
    }
}
