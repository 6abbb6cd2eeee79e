//! Marks: which threads are closed, and which have no volume any more, by a table of the user's own.

use std::{collections::HashMap, fmt::Debug};

use async_trait::async_trait;

/// A thread as its row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Whether its status is the closed one.
    pub is_closed: bool,
    /// Whether it is marked: its volume was removed.
    pub is_marked: bool,
}

/// Why a table of threads did not do it.
#[derive(Debug, thiserror::Error)]
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
        source: Box<dyn std::error::Error + Send + Sync>,
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
        source: Box<dyn std::error::Error + Send + Sync>,
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

    /// Marks those of these threads that are closed and not marked; answers how many.
    async fn mark(&self, ids: &[String]) -> Result<u64, MarksError>;

    /// Holds the row of a closed thread, so that nobody else changes it until the hold ends; `None` where the thread is
    /// not closed or not there, or somebody else holds its row.
    async fn hold(&self, id: &str) -> Result<Option<Box<dyn Hold>>, MarksError>;

    /// The statements that the table wants before it can be used or used well; none: nothing is missing.
    async fn missing(&self) -> Result<Vec<String>, MarksError>;

    /// Executes what is [missing](Self::missing), and answers it.
    async fn migrate(&self) -> Result<Vec<String>, MarksError>;
}

/// The row of a closed thread, held. Dropped, it ends without a change.
#[async_trait]
pub trait Hold: Send {
    /// Marks the thread, and ends; `false` where it was marked before.
    async fn mark(self: Box<Self>) -> Result<bool, MarksError>;
}
