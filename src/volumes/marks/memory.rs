//! Marks for one process, which forget with it.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{Hold, Marks, MarksError, Thread};

const NAME: &str = "memory";

/// A table of threads that is kept in memory. A clone is the same table.
///
/// ```
/// use apalis_janitor::volumes::marks::{Marks, memory::MemoryMarks};
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let marks = MemoryMarks::default();
/// marks.set("1", true).await;
/// let hold = marks.hold("1").await.unwrap().unwrap();
/// assert!(!marks.try_set("1", false)); // nobody opens it meanwhile
/// assert!(hold.mark().await.unwrap());
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
}

#[derive(Debug, Default)]
struct Row {
    is_closed: bool,
    is_marked: bool,
    is_held: bool,
}

impl Row {
    /// Marks it where it may be.
    const fn mark(&mut self) -> bool {
        let may = self.is_closed && !self.is_marked;
        self.is_marked |= may;
        may
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
            Some(why) => Err(MarksError::Unavailable { marks: NAME.to_owned(), what, source: why.clone().into() }),
            None if table.lacks_column => {
                let rule = "there is no column of marks: janitor volumes migrate adds it".to_owned();
                Err(MarksError::Unfit { marks: NAME.to_owned(), rule })
            }
            None => Ok(table),
        }
    }
}

/// A row that is held.
struct MemoryHold {
    marks: MemoryMarks,
    id: String,
}

impl Drop for MemoryHold {
    fn drop(&mut self) {
        if let Some(row) = self.marks.table().rows.get_mut(&self.id) {
            row.is_held = false;
        }
        self.marks.let_go.notify_waiters();
    }
}

#[async_trait]
impl Hold for MemoryHold {
    async fn mark(self: Box<Self>) -> Result<bool, MarksError> {
        let mut table = self.marks.open("thread not marked")?;
        let is_new = table.rows.get_mut(&self.id).is_some_and(Row::mark);
        table.marks += u64::from(is_new);
        drop(table);
        Ok(is_new)
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
        let thread = |id: &String| {
            let Row { is_closed, is_marked, .. } = *table.rows.get(id)?;
            Some((id.clone(), Thread { is_closed, is_marked }))
        };
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
                    let marked = ids.iter().filter(|id| table.rows.get_mut(*id).is_some_and(Row::mark)).count() as u64;
                    table.marks += marked;
                    return Ok(marked);
                }
            }
            let_go.await;
        }
    }

    async fn hold(&self, id: &str) -> Result<Option<Box<dyn Hold>>, MarksError> {
        let mut table = self.open("thread not held")?;
        let Some(row) = table.rows.get_mut(id).filter(|row| row.is_closed && !row.is_held) else { return Ok(None) };
        row.is_held = true;
        drop(table);
        Ok(Some(Box::new(MemoryHold { marks: self.clone(), id: id.to_owned() })))
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
