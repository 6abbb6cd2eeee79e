//! What every answer to [`Marks`] promises, as tests that each answer runs: see
//! [`marks_conformance!`](crate::marks_conformance).

// A test fails by a panic.
#![allow(clippy::missing_panics_doc)]

mod holds;
mod names;
mod rows;

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;

pub use self::{holds::*, names::*, rows::*};
use super::{Marks, Thread, memory::MemoryMarks};
use crate::config::ThreadsTable;

/// What kind of ids a table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// Whole numbers.
    Whole,
    /// Texts.
    Text,
    /// UUIDs.
    Uuid,
}

impl Ids {
    /// The id of this number; a later number is a later id.
    #[must_use]
    pub fn id(self, number: u64) -> String {
        match self {
            Self::Whole => number.to_string(),
            Self::Text => format!("t-{number:06}"),
            Self::Uuid => format!("0f8fad5b-d9cb-469f-a165-{number:012x}"),
        }
    }

    /// Texts that are not the id 7, however a database may read them.
    fn others(self) -> &'static [&'static str] {
        match self {
            Self::Whole => {
                &["", "abc", "007", "+7", " 7", "7 ", "7.0", "0x7", "7e0", "99999999999999999999", "7;", "7'"]
            }
            Self::Text => {
                &["", "T-000007", "t-000007 ", " t-000007", "t-00000", "t-0000070", "t-%", "t\u{2010}000007", "'"]
            }
            Self::Uuid => &[
                "",
                "7",
                "0F8FAD5B-D9CB-469F-A165-000000000007",
                "0f8fad5bd9cb469fa165000000000007",
                "{0f8fad5b-d9cb-469f-a165-000000000007}",
                " 0f8fad5b-d9cb-469f-a165-000000000007",
            ],
        }
    }
}

/// A database in which the suite makes its tables, and writes as their owner does.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The kinds of ids that a table may have.
    fn ids(&self) -> &'static [Ids] {
        &[Ids::Whole, Ids::Text]
    }

    /// Makes a table, with the column of marks or not, and opens it for two holds at once.
    async fn make(&self, table: &ThreadsTable, ids: Ids, has_column: bool) -> Arc<dyn Marks>;

    /// Sets the status of a thread, which is made where it is not there; waits for who holds it.
    async fn set(&self, table: &ThreadsTable, id: &str, status: &str);

    /// The same, for a thread that is there; `false` where somebody holds it.
    async fn try_set(&self, table: &ThreadsTable, id: &str, status: &str) -> bool;

    /// The mark of a thread, as it is stored.
    async fn stored_mark(&self, table: &ThreadsTable, id: &str) -> Option<String>;

    /// A schema beside the usual one, where there are any.
    fn schema(&self) -> Option<String> {
        None
    }
}

#[async_trait]
impl Subject for MemoryMarks {
    fn ids(&self) -> &'static [Ids] {
        &[Ids::Text]
    }

    async fn make(&self, _: &ThreadsTable, _: Ids, has_column: bool) -> Arc<dyn Marks> {
        self.begin(has_column);
        Arc::new(self.clone())
    }

    async fn set(&self, table: &ThreadsTable, id: &str, status: &str) {
        Self::set(self, id, status == table.closed).await;
    }

    async fn try_set(&self, table: &ThreadsTable, id: &str, status: &str) -> bool {
        Self::try_set(self, id, status == table.closed)
    }

    async fn stored_mark(&self, _: &ThreadsTable, id: &str) -> Option<String> {
        let threads = self.threads(&[id.to_owned()]).await.expect("an answer");
        threads.get(id).is_some_and(|thread| thread.is_marked).then(|| "marked".to_owned())
    }
}

/// Writes one `#[tokio::test]` for each promise of the suite, in a module of the given name.
///
/// The expression is a future of an empty database and of whatever must live as long as it, such as a server.
///
/// ```
/// use std::sync::Arc;
/// use apalis_janitor::{marks_conformance, volumes::marks::memory::MemoryMarks};
///
/// marks_conformance!(memory, async { (Arc::new(MemoryMarks::default()), ()) });
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! marks_conformance {
    ($answer:ident, $make:expr) => {
        $crate::marks_conformance! { @cases $answer, $make;
            tells_what_a_thread_is
            knows_an_id_only_as_its_table_writes_it
            pages_through_the_closed_threads_without_a_mark
            goes_on_after_an_id_that_is_gone
            marks_what_is_closed_and_not_marked
            marks_more_threads_than_one_statement_names
            leaves_a_mark_as_it_was_written_first
            knows_a_thread_that_was_opened_and_closed_again
            takes_names_and_words_as_they_are
            finds_a_table_in_another_schema
            names_what_is_missing
            adds_what_is_missing_once
            holds_a_closed_thread_until_it_is_marked
            holds_no_thread_that_is_open_or_not_there
            holds_a_marked_thread_and_says_that_it_was_marked
            holds_those_of_many_threads_that_it_can
            marks_of_what_it_holds_what_it_is_told
            holds_nothing_where_nothing_is_named
            holds_more_threads_than_one_statement_names
            lets_one_hold_a_thread_at_a_time
            keeps_a_thread_closed_while_it_is_held
            leaves_no_mark_where_a_hold_is_dropped
            has_connections_left_after_many_dropped_holds
            survives_a_mark_that_is_given_up_on_the_way
            marks_each_thread_once_for_many_at_a_time
        }
    };
    (@cases $answer:ident, $make:expr; $($case:ident)+) => {
        mod $answer {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let (subject, _kept) = $make.await;
                    $crate::volumes::marks::conformance::$case(subject).await;
                }
            )+
        }
    };
}

/// The usual table.
fn table() -> ThreadsTable {
    ThreadsTable::new(vec!["threads".to_owned()], "closed")
}

/// The usual table in a database, with ids of the first kind.
struct Usual {
    subject: Arc<dyn Subject>,
    table: ThreadsTable,
    ids: Ids,
    marks: Arc<dyn Marks>,
}

impl Usual {
    async fn new(subject: Arc<dyn Subject>) -> Self {
        let (table, ids) = (table(), subject.ids()[0]);
        let marks = subject.make(&table, ids, true).await;
        Self { subject, table, ids, marks }
    }

    async fn close(&self, number: u64) -> String {
        let id = self.ids.id(number);
        self.subject.set(&self.table, &id, "closed").await;
        id
    }

    async fn open(&self, number: u64) -> String {
        let id = self.ids.id(number);
        self.subject.set(&self.table, &id, "open").await;
        id
    }

    async fn thread(&self, id: &str) -> Option<Thread> {
        thread(&*self.marks, id).await
    }
}

const OPEN: Thread = Thread { is_closed: false, is_marked: false };
const CLOSED: Thread = Thread { is_closed: true, is_marked: false };
const MARKED: Thread = Thread { is_closed: true, is_marked: true };

async fn thread(marks: &dyn Marks, id: &str) -> Option<Thread> {
    marks.threads(&[id.to_owned()]).await.expect("an answer").remove(id)
}

async fn threads(marks: &dyn Marks, ids: &[String]) -> HashMap<String, Thread> {
    marks.threads(ids).await.expect("an answer")
}

/// All pages of so many.
async fn unmarked(marks: &dyn Marks, limit: usize) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    loop {
        let mut page = marks.unmarked(all.last().map(String::as_str), limit).await.expect("an answer");
        assert!(page.len() <= limit, "{} of {limit}", page.len());
        if page.is_empty() {
            return all;
        }
        all.append(&mut page);
    }
}
