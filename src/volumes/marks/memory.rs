//! Marks for one process, which forget with it.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{Hold, Marks, MarksError, Thread, shared};

const NAME: &str = "memory";

/// A table of threads that is kept in memory. A clone is the same table.
///
/// ```
/// use apalis_janitor::volumes::marks::{Marks, memory::MemoryMarks};
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let marks = MemoryMarks::default();
/// marks.set("1", true).await;
/// let ids = ["1".to_owned()];
/// let hold = marks.hold(&ids).await.unwrap();
/// assert!(!marks.try_set("1", false)); // nobody opens it meanwhile
/// assert_eq!(hold.mark(&ids).await.unwrap(), 1);
/// assert!(marks.unmarked(None, 10).await.unwrap().is_empty());
/// # });
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryMarks {
    table: Arc<Mutex<Table>>,
    /// A hold has ended.
    let_go: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Table {
    rows: BTreeMap<String, Row>,
    marks: u64,
    lacks_column: bool,
    failure: Option<String>,
    /// The thread whose mark is refused.
    refused: Option<String>,
}

#[derive(Debug, Default)]
struct Row {
    is_closed: bool,
    is_marked: bool,
    is_held: bool,
}

impl Row {
    /// What it says.
    const fn thread(&self) -> Thread {
        Thread { is_closed: self.is_closed, is_marked: self.is_marked }
    }

    /// Marks it where it may be.
    const fn mark(&mut self) -> bool {
        let may = self.is_closed && !self.is_marked;
        self.is_marked |= may;
        may
    }
}

impl Table {
    /// Marks those of these that may be, or none; answers how many.
    fn mark(&mut self, ids: &[&String]) -> Result<u64, MarksError> {
        if let Some(refused) = ids.iter().find(|id| self.refused.as_ref() == Some(**id)) {
            let source = shared(format!("{refused} is refused"));
            return Err(MarksError::Failed { marks: NAME.to_owned(), what: "threads not marked", source });
        }
        let marked = ids.iter().filter(|id| self.rows.get_mut(**id).is_some_and(Row::mark)).count() as u64;
        self.marks += marked;
        Ok(marked)
    }
}

impl MemoryMarks {
    /// Begins with an empty table, which has the column of marks or not.
    pub fn begin(&self, has_column: bool) {
        *self.table() = Table { lacks_column: !has_column, ..Table::default() };
    }

    /// Closes or opens a thread, which is made where it is not there, as soon as nobody holds it.
    pub async fn set(&self, id: &str, is_closed: bool) {
        loop {
            let let_go = self.let_go.notified();
            if self.try_set(id, is_closed) {
                return;
            }
            let_go.await;
        }
    }

    /// Closes or opens a thread, which is made where it is not there; `false` where somebody holds it.
    #[must_use]
    pub fn try_set(&self, id: &str, is_closed: bool) -> bool {
        let mut table = self.table();
        let row = table.rows.entry(id.to_owned()).or_default();
        if !row.is_held {
            row.is_closed = is_closed;
        }
        !row.is_held
    }

    /// From now on every call fails for this reason; none: they do what they should.
    pub fn fail(&self, why: Option<&str>) {
        self.table().failure = why.map(str::to_owned);
    }

    /// From now on this thread cannot be marked, as where a trigger refuses it.
    pub fn refuse(&self, id: &str) {
        self.table().refused = Some(id.to_owned());
    }

    /// How many marks were written.
    #[must_use]
    pub fn marks(&self) -> u64 {
        self.table().marks
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Each operation is one step that cannot panic half way.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The table, where calls do what they should.
    fn open(&self, what: &'static str) -> Result<MutexGuard<'_, Table>, MarksError> {
        let table = self.table();
        match &table.failure {
            Some(why) => Err(MarksError::Unavailable { marks: NAME.to_owned(), what, source: shared(why.clone()) }),
            None if table.lacks_column => {
                let rule = "there is no column of marks: janitor volumes migrate adds it".to_owned();
                Err(MarksError::Unfit { marks: NAME.to_owned(), rule })
            }
            None => Ok(table),
        }
    }
}

/// Rows that are held.
#[derive(Debug)]
struct MemoryHold {
    marks: MemoryMarks,
    threads: HashMap<String, Thread>,
}

impl Drop for MemoryHold {
    fn drop(&mut self) {
        let mut table = self.marks.table();
        for id in self.threads.keys() {
            if let Some(row) = table.rows.get_mut(id) {
                row.is_held = false;
            }
        }
        self.marks.let_go.notify_waiters();
    }
}

#[async_trait]
impl Hold for MemoryHold {
    fn threads(&self) -> &HashMap<String, Thread> {
        &self.threads
    }

    async fn mark(self: Box<Self>, ids: &[String]) -> Result<u64, MarksError> {
        let held: Vec<_> = ids.iter().filter(|id| self.threads.contains_key(*id)).collect();
        self.marks.open("threads not marked")?.mark(&held)
    }
}

#[async_trait]
impl Marks for MemoryMarks {
    fn name(&self) -> &str {
        NAME
    }

    async fn prepare(&self) -> Result<(), MarksError> {
        self.open("table not looked up").map(drop)
    }

    async fn threads(&self, ids: &[String]) -> Result<HashMap<String, Thread>, MarksError> {
        let table = self.open("threads not read")?;
        let thread = |id: &String| Some((id.clone(), table.rows.get(id)?.thread()));
        Ok(ids.iter().filter_map(thread).collect())
    }

    async fn unmarked(&self, after: Option<&str>, limit: usize) -> Result<Vec<String>, MarksError> {
        let table = self.open("closed threads not read")?;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = table.rows.range::<str, _>((from, Bound::Unbounded));
        let unmarked = rows.filter(|(_, row)| row.is_closed && !row.is_marked);
        Ok(unmarked.take(limit).map(|(id, _)| id.clone()).collect())
    }

    async fn mark(&self, ids: &[String]) -> Result<u64, MarksError> {
        loop {
            let let_go = self.let_go.notified();
            {
                let mut table = self.open("threads not marked")?;
                // As a database does it: who changes a row waits for who holds it.
                if !ids.iter().any(|id| table.rows.get(id).is_some_and(|row| row.is_held)) {
                    return table.mark(&ids.iter().collect::<Vec<_>>());
                }
            }
            let_go.await;
        }
    }

    async fn hold(&self, ids: &[String]) -> Result<Box<dyn Hold>, MarksError> {
        // As in a database, who has waited for a row comes before who asks now.
        tokio::task::yield_now().await;
        let mut table = self.open("threads not held")?;
        let mut threads = HashMap::new();
        for id in ids {
            if let Some(row) = table.rows.get_mut(id).filter(|row| row.is_closed && !row.is_held) {
                row.is_held = true;
                threads.insert(id.clone(), row.thread());
            }
        }
        drop(table);
        Ok(Box::new(MemoryHold { marks: self.clone(), threads }))
    }

    async fn missing(&self) -> Result<Vec<String>, MarksError> {
        let lacks = self.table().lacks_column;
        Ok(lacks.then(|| "ADD COLUMN removed_at".to_owned()).into_iter().collect())
    }

    async fn migrate(&self) -> Result<Vec<String>, MarksError> {
        let missing = self.missing().await?;
        self.table().lacks_column = false;
        Ok(missing)
    }
}
