//! Marks: which threads are closed, and which have no volume any more, by a table of the user's own.

#[cfg(feature = "test-util")]
pub mod conformance;
#[cfg(feature = "test-util")]
pub mod memory;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
mod sql;

use std::{collections::HashMap, fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub use self::sql::{Limits, SqlMarks};
use crate::config::{MarksUrl, ThreadsTable};

/// A thread as its row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Whether its status is the closed one.
    pub is_closed: bool,
    /// Whether it is marked: its volume was removed.
    pub is_marked: bool,
}

/// Why a table of threads did not do it. A clone says the same: what fails for many threads at once fails for each of them.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MarksError {
    /// The database cannot be reached, or broke off.
    #[error("{marks}: {what}: unavailable")]
    Unavailable {
        /// The database.
        marks: String,
        /// What was not done.
        what: &'static str,
        /// Why.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The table is not as configured.
    #[error("{marks}: {rule}")]
    Unfit {
        /// The database.
        marks: String,
        /// What is wrong with it, and what to do.
        rule: String,
    },
    /// The database answered with an error.
    #[error("{marks}: {what}")]
    Failed {
        /// The database.
        marks: String,
        /// What was not done.
        what: &'static str,
        /// Why.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}

/// The rows of threads. Each answer keeps the promises of the suite in `volumes::marks::conformance`.
///
/// Ids are texts, as they stand in names of volumes; a table may have them as numbers or UUIDs.
#[async_trait]
pub trait Marks: Send + Sync + Debug {
    /// The database as configured, without its password.
    fn name(&self) -> &str;

    /// Proves that the table and its columns are there and of a kind that can be used.
    async fn prepare(&self) -> Result<(), MarksError>;

    /// Those of these threads that have a row.
    async fn threads(&self, ids: &[String]) -> Result<HashMap<String, Thread>, MarksError>;

    /// Up to `limit` closed threads without a mark that come after `after`, in the table's own order of ids.
    async fn unmarked(&self, after: Option<&str>, limit: usize) -> Result<Vec<String>, MarksError>;

    /// Marks those of these threads that are closed and not marked; answers how many. One whose row somebody else holds for
    /// long may be left for the next time.
    async fn mark(&self, ids: &[String]) -> Result<u64, MarksError>;

    /// Holds the rows of those of these threads that are closed and that nobody else holds, so that nobody changes them
    /// until the hold ends; it waits for none.
    async fn hold(&self, ids: &[String]) -> Result<Box<dyn Hold>, MarksError>;

    /// The statements that the table wants before it can be used or used well; none: nothing is missing.
    async fn missing(&self) -> Result<Vec<String>, MarksError>;

    /// Executes what is [missing](Self::missing), and answers it.
    async fn migrate(&self) -> Result<Vec<String>, MarksError>;
}

/// The rows of closed threads, held. Dropped, it ends without a change.
#[async_trait]
pub trait Hold: Send + Debug {
    /// The threads whose rows are held, as they are.
    fn threads(&self) -> &HashMap<String, Thread>;

    /// Marks those of these threads whose rows are held, and ends; answers how many had no mark before.
    async fn mark(self: Box<Self>, ids: &[String]) -> Result<u64, MarksError>;
}

/// Opens the marks that a job names, for up to `connections` holds at once, under each of which something is done that takes
/// as long as `timeout`. Nothing is asked of the table before it is used.
pub async fn open(
    url: &MarksUrl,
    table: &ThreadsTable,
    timeout: Duration,
    connections: usize,
) -> Result<Arc<dyn Marks>, MarksError> {
    let feature = match url {
        MarksUrl::Sqlite(_) if !cfg!(feature = "sqlite") => Some("sqlite"),
        MarksUrl::Postgres(_) if !cfg!(feature = "postgres") => Some("postgres"),
        MarksUrl::Mysql(_) if !cfg!(feature = "mysql") => Some("mysql"),
        MarksUrl::Sqlite(_) | MarksUrl::Postgres(_) | MarksUrl::Mysql(_) => None,
    };
    if let Some(feature) = feature {
        let rule = format!("built without `{feature}`: rebuild with --features {feature}");
        return Err(MarksError::Unfit { marks: url.to_string(), rule });
    }
    open_sql(url, table, timeout, connections).await
}

/// How long a database has for an answer, however long an engine has.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
const ANSWER_MIN: Duration = Duration::from_secs(10);
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
const ANSWER_MAX: Duration = Duration::from_mins(1);

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
async fn open_sql(
    url: &MarksUrl,
    table: &ThreadsTable,
    timeout: Duration,
    connections: usize,
) -> Result<Arc<dyn Marks>, MarksError> {
    use futures::FutureExt;

    // What the drivers await is so deep a type that the compiler would give up on whoever awaits this.
    let limits = Limits { statement: timeout.clamp(ANSWER_MIN, ANSWER_MAX), hold: timeout.max(ANSWER_MIN) * 2 };
    let open = SqlMarks::open(url, table, limits, connections).boxed();
    Ok(Arc::new(open.await?))
}

#[cfg(not(any(feature = "sqlite", feature = "postgres", feature = "mysql")))]
#[expect(clippy::unused_async, reason = "the same signature as with a database")]
async fn open_sql(_: &MarksUrl, _: &ThreadsTable, _: Duration, _: usize) -> Result<Arc<dyn Marks>, MarksError> {
    unreachable!("a build without databases has told so")
}

/// A reason that clones of an error share.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql", feature = "test-util"))]
fn shared(text: String) -> Arc<dyn std::error::Error + Send + Sync> {
    Box::<dyn std::error::Error + Send + Sync>::from(text).into()
}
