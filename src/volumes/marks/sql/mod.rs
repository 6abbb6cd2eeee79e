//! Marks in SQLite, Postgres, MySQL and MariaDB: the same statements for all, over sqlx's driver for any database.
//!
//! The table is another program's, which goes on writing. Its names are quoted, and are looked up in the database's own
//! catalogue before anything is asked of them.

mod dialect;
mod hold;
mod look;
mod migrate;
mod session;
mod statements;
mod table;

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::{AnyPool, AssertSqlSafe, ConnectOptions, Connection};
use tokio::{
    sync::{Mutex, OnceCell},
    time::timeout,
};

use self::{
    dialect::Dialect,
    statements::{IDS_MAX, Statements, YES},
    table::{Fit, IdKind},
};
use super::{Hold, Marks, MarksError, Thread, shared};
use crate::config::{MarksUrl, ThreadsTable};

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A statement, or a connection.
    pub statement: Duration,
    /// A hold, where the database can end it.
    pub hold: Duration,
}

/// The marks in a table of threads in a SQL database. A clone is the same one.
///
/// Ids are whole numbers, texts or UUIDs. A mark is the database's own time: an instant, or a wall clock in UTC (in SQLite the
/// text `YYYY-MM-DD HH:MM:SS`).
///
/// In SQLite a hold keeps every other writer of the file out, and holds follow each other, with a pause now and then in which
/// others get in; the other databases hold the rows alone.
#[derive(Clone)]
pub struct SqlMarks {
    /// The URL, without its password.
    name: String,
    dialect: Dialect,
    table: ThreadsTable,
    statements: Statements,
    pool: AnyPool,
    limits: Limits,
    /// Who may write, with how long others have been kept out; none: everybody at once.
    writer: Option<Arc<Mutex<Duration>>>,
    /// How the table is used, once it is known to be fit.
    fit: Arc<OnceCell<Fit>>,
}

impl fmt::Debug for SqlMarks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The pool would show the URL with its password.
        f.debug_struct("SqlMarks").field("name", &self.name).field("table", &self.table).finish_non_exhaustive()
    }
}

impl SqlMarks {
    /// Connects to the database at `url`, for up to `connections` holds at once.
    ///
    /// # Panics
    /// Where the program has given sqlx's driver for any database a list of drivers of its own.
    ///
    /// # Errors
    /// [`MarksError::Unavailable`] where the database cannot be used; it shows no password.
    pub async fn open(
        url: &MarksUrl,
        table: &ThreadsTable,
        limits: Limits,
        connections: usize,
    ) -> Result<Self, MarksError> {
        const WHAT: &str = "not connected";
        sqlx::any::install_default_drivers();
        let (name, dialect) = (url.to_string(), Dialect::of(url));
        let unavailable =
            |source: String| MarksError::Unavailable { marks: name.clone(), what: WHAT, source: shared(source) };
        let options = session::options(url).map_err(unavailable)?;
        // At once, and not from the pool: it would try until its time is up.
        let first = async {
            let mut connection = options.connect().await?;
            sqlx::raw_sql(AssertSqlSafe(dialect.settings(limits))).execute(&mut connection).await?;
            Ok::<_, sqlx::Error>(connection)
        };
        match timeout(limits.statement, first).await {
            // Closed by hand, so that the server does not log a lost client; how that goes tells nothing.
            Ok(Ok(connection)) => drop(connection.close().await),
            Ok(Err(error)) => return Err(unavailable(session::plain(&error))),
            Err(_) => return Err(unavailable(format!("no answer within {:?}", limits.statement))),
        }
        let pool = session::pool(options, dialect, limits, connections);
        let statements = Statements::new(dialect, table);
        // SQLite has one writer: who waits for it inside of the process need not ask the file again and again.
        let writer = (dialect == Dialect::Sqlite).then(Arc::default);
        let (table, fit) = (table.clone(), Arc::default());
        Ok(Self { name, dialect, table, statements, pool, limits, writer, fit })
    }

    /// How the table is used; it is looked at the first time.
    async fn fit(&self) -> Result<Fit, MarksError> {
        self.fit.get_or_try_init(|| self.look_fit()).await.copied()
    }

    /// Reads the catalogue, and proves that the table has all that is needed.
    async fn look_fit(&self) -> Result<Fit, MarksError> {
        let found = self.look().await?;
        let fit = found.fit(self.dialect, &self.table).map_err(|rule| self.unfit(rule))?;
        match fit.removed_at {
            Some(_) => Ok(fit),
            None => Err(self.unfit(format!(
                "table {:?} has no column {:?}: janitor volumes migrate adds it",
                self.table.name.join("."),
                self.table.removed_at
            ))),
        }
    }

    /// The kind of ids, and the clock as the marks have it.
    async fn writing(&self) -> Result<(IdKind, &'static str), MarksError> {
        let fit = self.fit().await?;
        let kind = fit.removed_at.expect("a table without the column is not fit");
        Ok((fit.id, self.dialect.now(kind)))
    }

    /// How the database carries out a page of closed threads without a mark, a line for each step.
    #[cfg(feature = "test-util")]
    pub async fn plan(&self) -> Result<Vec<String>, MarksError> {
        let kind = self.fit().await?.id;
        let explain = match self.dialect {
            Dialect::Sqlite => "EXPLAIN QUERY PLAN",
            Dialect::Postgres => "EXPLAIN",
            Dialect::Mysql => "EXPLAIN FORMAT=JSON",
        };
        self.plan_of(format!("{explain} {}", self.statements.page(kind, true, 100))).await
    }
}

/// The id of a row that was read, and what it says.
fn thread(row: Vec<Option<String>>) -> Option<(String, Thread)> {
    let [id, is_closed, is_marked] = <[_; 3]>::try_from(row).ok()?;
    let is = |word: Option<String>| word.as_deref() == Some(YES);
    Some((id?, Thread { is_closed: is(is_closed), is_marked: is(is_marked) }))
}

#[async_trait]
impl Marks for SqlMarks {
    fn name(&self) -> &str {
        &self.name
    }

    async fn prepare(&self) -> Result<(), MarksError> {
        let fit = self.look_fit().await?;
        // What was known before is what the statements were made for.
        if *self.fit.get_or_init(|| async { fit }).await != fit {
            return Err(self.unfit("the table's types were changed on the way: start again".to_owned()));
        }
        // A volume must not go where its mark could not be written.
        match self.statements.may_mark(self.writing().await?.1) {
            Some(text) => self.change("marks cannot be written", text, &[]).await.map(drop),
            None => Ok(()),
        }
    }

    async fn threads(&self, ids: &[String]) -> Result<HashMap<String, Thread>, MarksError> {
        let kind = self.fit().await?.id;
        let own: Vec<&str> = ids.iter().map(String::as_str).filter(|id| kind.is_own(id)).collect();
        let mut threads = HashMap::new();
        for some in own.chunks(IDS_MAX) {
            let text = self.statements.read(kind, Statements::count(some.len()));
            let rows = self.rows("threads not read", text, &self.statements.binds(kind, some)).await?;
            threads.extend(rows.into_iter().filter_map(thread));
        }
        Ok(threads)
    }

    async fn unmarked(&self, after: Option<&str>, limit: usize) -> Result<Vec<String>, MarksError> {
        let kind = self.fit().await?.id;
        if let Some(after) = after.filter(|after| !kind.is_own(after)) {
            return Err(self.unfit(format!("{after:?} is no id of the table")));
        }
        let text = self.statements.page(kind, after.is_none(), limit);
        let rows = self.rows("closed threads not read", text, after.as_slice()).await?;
        Ok(rows.into_iter().flatten().flatten().collect())
    }

    async fn mark(&self, ids: &[String]) -> Result<u64, MarksError> {
        let kind = self.fit().await?.id;
        let own: Vec<&str> = ids.iter().map(String::as_str).filter(|id| kind.is_own(id)).collect();
        let mut marked = 0;
        for some in own.chunks(IDS_MAX) {
            marked += self.mark_some(some).await?;
        }
        Ok(marked)
    }

    async fn hold(&self, ids: &[String]) -> Result<Box<dyn Hold>, MarksError> {
        let kind = self.fit().await?.id;
        let own: Vec<&str> = ids.iter().map(String::as_str).filter(|id| kind.is_own(id)).collect();
        Ok(Box::new(self.hold_rows(&own).await?))
    }

    async fn missing(&self) -> Result<Vec<String>, MarksError> {
        self.read_missing().await
    }

    async fn migrate(&self) -> Result<Vec<String>, MarksError> {
        self.execute_missing().await
    }
}
