//! Runs in a Postgres database, or in one that Citus distributes.
//!
//! The database belongs to another program that goes on writing. Each batch is deleted in short transactions that lock
//! the rows of its runs and nothing else: who writes other runs does not wait.

mod check;
mod checkpoints;
mod citus;
mod delete;
mod errors;
mod fence;
mod loose;
mod open;
mod parts;
mod read;
mod signals;
mod stamp;
mod work;

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, PgPool};

use self::{checkpoints::Keys, open::Tables};
use super::{Cursor, Deleted, Findings, LooseStep, Page, RunStore, Seen, StoreError, layout::Layout};
use crate::lock::Fence;

/// The highest fence that each job's deletes have carried.
const FENCE_TABLE: &str = "CREATE TABLE IF NOT EXISTS janitor_fence (job TEXT PRIMARY KEY, fence BIGINT NOT NULL)";
/// How long a read may take before the server counts as gone.
const READ_MAX: Duration = Duration::from_mins(2);

/// A Postgres database with a run table.
#[derive(Debug)]
pub struct PostgresStore {
    name: &'static str,
    /// The URL, without its password.
    place: String,
    pool: PgPool,
    layout: &'static Layout,
    tables: Tables,
    keys: Keys,
    /// Whether Citus spreads the run table over several nodes.
    is_distributed: bool,
}

impl PostgresStore {
    /// What a read answers.
    async fn read<T>(&self, read: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
        match tokio::time::timeout(READ_MAX, read).await {
            Ok(answer) => answer.map_err(|error| self.error(&error)),
            Err(elapsed) => Err(StoreError::unavailable(self.name, format!("{}: no answer: {elapsed}", self.place))),
        }
    }

    fn error(&self, error: &sqlx::Error) -> StoreError {
        errors::told(self.name, &self.place, error)
    }
}

/// A statement of ours: built from constants of the layout, values go through binds.
fn statement(text: String) -> AssertSqlSafe<String> {
    AssertSqlSafe(text)
}

#[async_trait]
impl RunStore for PostgresStore {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn now(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        self.read_clock().await
    }

    async fn page(&self, before: DateTime<Utc>, after: Option<&Cursor>, limit: usize) -> Result<Page, StoreError> {
        self.read_page(before, after, limit).await
    }

    async fn unpaged(&self, limit: usize) -> Result<u64, StoreError> {
        self.count_unpaged(limit).await
    }

    async fn children(&self, parents: &[String], after: Option<&Cursor>, limit: usize) -> Result<Page, StoreError> {
        self.read_children(parents, after, limit).await
    }

    async fn find(&self, ids: &[String]) -> Result<Vec<Seen>, StoreError> {
        self.read_runs(ids).await
    }

    async fn raise(&self, job: &str, fence: Fence) -> Result<(), StoreError> {
        self.raise_fence(job, fence).await
    }

    async fn delete(&self, job: &str, fence: Fence, runs: &[Seen], limit: Duration) -> Result<Deleted, StoreError> {
        self.delete_batch((job, fence), runs, limit).await
    }

    async fn loose(
        &self,
        cutoff: DateTime<Utc>,
        after: Option<&Cursor>,
        leave: Option<(&str, Fence)>,
        limit: Duration,
    ) -> Result<LooseStep, StoreError> {
        self.loose_step(cutoff, after, leave, limit).await
    }

    async fn check(&self) -> Result<Findings, StoreError> {
        self.findings().await
    }
}
