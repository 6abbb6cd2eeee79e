//! Stores of workflow runs that retention deletes from.
//!
//! A [`RunStore`] hands out runs as it reads them and deletes those that still are as they were read. It knows no
//! clocks, rules or globs: the [`policy`] decides, in Rust, and the same for every store.
//!
//! # Adding a store
//! One file that answers [`RunStore`], one line in [`open`], one line that invokes the suite of `runs::conformance`.

#[cfg(feature = "cassandra")]
pub mod cassandra;
#[cfg(feature = "test-util")]
pub mod conformance;
#[cfg(feature = "dynamodb")]
pub mod dynamodb;
pub mod file;
pub mod layout;
pub mod memory;
#[cfg(feature = "mysql")]
pub mod mysql;
pub mod policy;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;

use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::FutureExt;

use crate::{config::RetentionConfig, lock::Fence, report::Counts};

/// An instant as a store holds it, with what it means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// The stored text, which a delete compares; `None` where it is NULL.
    pub raw: Option<String>,
    /// The instant; `None` where there is none, or none that can be read.
    pub instant: Option<DateTime<Utc>>,
}

impl Stamp {
    /// The stamp of a stored text in ISO 8601. One without an offset is UTC, as PyWorkflow reads it.
    #[must_use]
    pub fn read(raw: Option<String>) -> Self {
        let instant = raw.as_deref().and_then(read_instant);
        Self { raw, instant }
    }
}

fn read_instant(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(instant) = DateTime::parse_from_rfc3339(text) {
        return Some(instant.to_utc());
    }
    ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"]
        .iter()
        .find_map(|format| chrono::NaiveDateTime::parse_from_str(text, format).ok())
        .map(|naive| naive.and_utc())
}

/// A run as it was read. What is not text of valid UTF-8 has been made so and `created_at` made unreadable: it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its id.
    pub id: String,
    /// Its status, as stored.
    pub status: String,
    /// When it was last written: what retention goes by.
    pub updated_at: Stamp,
    /// When it was made.
    pub created_at: Stamp,
    /// The name of its workflow.
    pub workflow: String,
    /// The run that it was started by.
    pub parent: Option<String>,
}

/// Where a page ended: the store's own words, which only the store reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub Vec<String>);

/// Some runs, and where to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The runs.
    pub runs: Vec<Seen>,
    /// Where the next page starts; `None` where this was the last.
    pub next: Option<Cursor>,
}

/// What one delete did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// The runs that went.
    pub runs: Vec<String>,
    /// How much of each kind went with them, the runs among it.
    pub counts: Counts,
    /// How many stayed because they were not as they had been read.
    pub changed: u64,
    /// How many stayed because a run below them stays.
    pub held: u64,
}

/// How much of what is not runs is to go in one step, and where the step begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LooseStep {
    /// What went, or would, by kind.
    pub counts: Counts,
    /// Where the next step begins; `None` where all has been seen.
    pub next: Option<Cursor>,
}

/// What a check of a store found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Findings {
    /// What works, in a few words each.
    pub facts: Vec<String>,
    /// What makes sweeps slow or risky, with the statement that mends it where there is one.
    pub warnings: Vec<String>,
}

/// Why a store did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The same call may work later.
    #[error("{store}: unavailable")]
    Unavailable {
        /// Which store.
        store: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The statement took longer than it was allowed to; nothing changed. A smaller batch may do.
    #[error("{store}: a statement took longer than its limit")]
    TimedOut {
        /// Which store.
        store: &'static str,
    },
    /// Something of the owner's holds a thing that was to go, such as a foreign key or a trigger; nothing changed.
    #[error("{store}: refused to delete")]
    Refused {
        /// Which store.
        store: &'static str,
        /// By what.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A newer holder of the lock has been here; nothing changed.
    #[error("{store}: fence {} is stale, {highest} has been seen", .fence.get())]
    Fenced {
        /// Which store.
        store: &'static str,
        /// Ours.
        fence: Fence,
        /// The highest that the store has seen.
        highest: u64,
    },
    /// What is there is not what the layout describes.
    #[error("{store}: {what}")]
    Schema {
        /// Which store.
        store: &'static str,
        /// What is missing or unknown.
        what: String,
    },
}

impl StoreError {
    /// `store` did not answer, because of `source`.
    pub fn unavailable(store: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable { store, source: source.into() }
    }
}

/// A store of workflow runs. Each answer keeps the promises of the suite in `runs::conformance`.
#[async_trait]
pub trait RunStore: Send + Sync + Debug {
    /// The word that errors begin with.
    fn name(&self) -> &'static str;

    /// The store's own clock; `None` where it has none.
    async fn now(&self) -> Result<Option<DateTime<Utc>>, StoreError>;

    /// Up to `limit` runs, latest first, from `after` on: all that were made before `before`, and none that was made two
    /// days later. A store without that order has one of its own. Never writes.
    async fn page(&self, before: DateTime<Utc>, after: Option<&Cursor>, limit: usize) -> Result<Page, StoreError>;

    /// How many runs [`page`](Self::page) cannot show because the time they were made at is no time; `limit` at most.
    async fn unpaged(&self, limit: usize) -> Result<u64, StoreError>;

    /// Up to `limit` runs whose parent is among `parents`, from `after` on. Never writes.
    async fn children(&self, parents: &[String], after: Option<&Cursor>, limit: usize) -> Result<Page, StoreError>;

    /// Those of the runs with these ids that are there, in any order. Never writes.
    async fn find(&self, ids: &[String]) -> Result<Vec<Seen>, StoreError>;

    /// Makes `fence` the one that deletes of `job` must carry.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] where the store has seen `fence` or a higher one.
    async fn raise(&self, job: &str, fence: Fence) -> Result<(), StoreError>;

    /// Deletes those of `runs` that are still as they were read and have no run below them outside `runs`, with all
    /// that is their own, in at most `limit`: in short transactions or, where the store has none over so much, behind a
    /// marker by which the next sweep finishes what a crash left.
    ///
    /// # Errors
    /// After any error each run is whole, or on its way out behind a marker. [`StoreError::TimedOut`] and
    /// [`StoreError::Refused`] are of these runs: others, or fewer, may do.
    async fn delete(&self, job: &str, fence: Fence, runs: &[Seen], limit: Duration) -> Result<Deleted, StoreError>;

    /// Deletes (without `leave` only counts) a step's worth of what is not runs and is older than `cutoff`: signals
    /// that no subscription still waits for, acknowledgements of signals that are gone, ended subscriptions, deleted schedules.
    async fn loose(
        &self,
        cutoff: DateTime<Utc>,
        after: Option<&Cursor>,
        leave: Option<(&str, Fence)>,
        limit: Duration,
    ) -> Result<LooseStep, StoreError>;

    /// The sweep is over, however it ended: gives back what was kept for the sake of speed.
    async fn rest(&self) {}

    /// Compares the store with the layout.
    async fn check(&self) -> Result<Findings, StoreError>;
}

/// Opens the store that a job names.
pub async fn open(config: &RetentionConfig) -> Result<Arc<dyn RunStore>, StoreError> {
    // What the drivers await is so deep a type that the compiler would give up on whoever awaits this.
    open_any(config).boxed().await
}

async fn open_any(config: &RetentionConfig) -> Result<Arc<dyn RunStore>, StoreError> {
    use crate::config::StoreUrl;
    match &config.store {
        StoreUrl::Memory => Ok(Arc::new(memory::MemoryStore::default())),
        StoreUrl::File(path) => Ok(Arc::new(file::FileStore::open(path, &layout::PYWORKFLOW).await?)),
        #[cfg(feature = "sqlite")]
        StoreUrl::Sqlite(path) => {
            Ok(Arc::new(sqlite::SqliteStore::open(path, &layout::PYWORKFLOW, config.batch_size).await?))
        }
        #[cfg(feature = "postgres")]
        StoreUrl::Postgres(url) | StoreUrl::Citus(url) => {
            Ok(Arc::new(postgres::PostgresStore::open(url, &layout::PYWORKFLOW).await?))
        }
        #[cfg(feature = "mysql")]
        StoreUrl::Mysql(url) => Ok(Arc::new(mysql::MysqlStore::open(url, &layout::PYWORKFLOW).await?)),
        #[cfg(feature = "dynamodb")]
        StoreUrl::Dynamodb { region, table, endpoint } => {
            let url = dynamodb::TableUrl { region, table, endpoint: endpoint.as_deref() };
            Ok(Arc::new(dynamodb::DynamoStore::open(url, &layout::PYWORKFLOW).await?))
        }
        #[cfg(feature = "cassandra")]
        StoreUrl::Cassandra(url) => Ok(Arc::new(cassandra::CassandraStore::open(url, &layout::PYWORKFLOW).await?)),
        // A configuration cannot be read that names one of these.
        #[cfg(not(all(
            feature = "sqlite",
            feature = "postgres",
            feature = "mysql",
            feature = "dynamodb",
            feature = "cassandra"
        )))]
        url => Err(StoreError::Schema { store: "store", what: format!("built without what {url} needs") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instant(text: &str) -> Option<String> {
        Stamp::read(Some(text.to_owned())).instant.map(|at| at.to_rfc3339())
    }

    #[test]
    fn reads_what_pyworkflow_writes_as_the_instant_that_it_is() {
        assert_eq!(instant("2026-06-01T00:00:00+00:00").unwrap(), "2026-06-01T00:00:00+00:00");
        assert_eq!(instant("2026-05-31T23:59:59.999999+00:00").unwrap(), "2026-05-31T23:59:59.999999+00:00");
        assert_eq!(instant("2026-06-01T02:00:00+02:00").unwrap(), "2026-06-01T00:00:00+00:00");
        assert_eq!(instant("2026-06-01 00:00:00").unwrap(), "2026-06-01T00:00:00+00:00");
    }

    #[test]
    fn reads_nothing_into_what_is_no_time() {
        for text in
            ["", "yesterday", "2026-06-01", "1780272000", "2026-13-01T00:00:00+00:00", "2026-06-01T00:00:00+00:00x"]
        {
            assert_eq!(instant(text), None, "{text:?}");
        }
        assert_eq!(Stamp::read(None), Stamp::default());
    }
}
