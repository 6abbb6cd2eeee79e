//! Runs in a DynamoDB table that PyWorkflow owns and goes on writing.
//!
//! A run and what belongs to it are many items, more than one transaction holds. So one transaction deletes the items of
//! up to 98 runs, each on condition that it is as it was read, checks the fence, and writes a *marker* that names them; then
//! what belonged to them goes, and the marker last. Whatever stops in between, the next sweep finishes the markers that it
//! finds. A refused run keeps everything, because its transaction changed nothing.
//!
//! # What it costs
//! Due runs are found in an index, by status and time. What has no index is found by a scan of the whole table: the
//! checkpoints, once in a sweep that deletes a run, and signals, acknowledgements and subscriptions, once in every sweep.
//! Both are eventually consistent, which is half the price: 128 read units per MiB.
//!
//! # What the indexes cannot promise
//! They lag behind the table, mostly by less than a second. A run goes only if its own item is as it was read. A child that
//! was made within the lag, below a run that ended long ago and did not change, is not seen: it outlives its parent.

mod check;
mod client;
mod delete;
mod items;
mod keys;
mod links;
mod loose;
mod points;
mod read;
mod related;
mod rights;
mod scan;
mod transact;

use std::{sync::atomic::AtomicBool, time::Duration};

use async_trait::async_trait;
use aws_sdk_dynamodb::{Client, config::Credentials};
use chrono::{DateTime, Utc};
use tokio::sync::{Mutex, Semaphore};

use self::{client::ServerDate, loose::LooseState, points::Points, transact::RUNS_MAX};
use super::{Cursor, Deleted, Findings, LooseStep, Page, RunStore, Seen, StoreError, layout::Layout};
use crate::lock::Fence;

const NAME: &str = "dynamodb";
/// The most requests at the same time.
const REQUESTS_MAX: usize = 32;

/// Where a table is.
#[derive(Clone, Copy, Debug)]
pub struct TableUrl<'a> {
    /// The region.
    pub region: &'a str,
    /// The table.
    pub table: &'a str,
    /// A server other than AWS's own.
    pub endpoint: Option<&'a str>,
}

/// A DynamoDB table with runs.
#[derive(Debug)]
pub struct DynamoStore {
    client: Client,
    table: String,
    /// The table and where it is, for errors.
    place: String,
    layout: &'static Layout,
    date: ServerDate,
    requests: Semaphore,
    /// Whether the index by parent was found to be larger than a page.
    has_many_links: AtomicBool,
    /// The checkpoints that a scan found; none: it has not been made in this sweep.
    points: Mutex<Option<Points>>,
    /// What the scan for loose things has found so far.
    loose: Mutex<LooseState>,
}

impl DynamoStore {
    /// Opens the table, with the credentials of AWS's variables, its files, or the host's role.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where there are no credentials or no answer, [`StoreError::Schema`] where the table or an index
    /// that finds runs is missing.
    pub async fn open(url: TableUrl<'_>, layout: &'static Layout) -> Result<Self, StoreError> {
        Self::connect(url, layout, None).await
    }

    /// Opens the table with these credentials.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn with_credentials(
        url: TableUrl<'_>,
        layout: &'static Layout,
        key_id: &str,
        secret: &str,
    ) -> Result<Self, StoreError> {
        Self::connect(url, layout, Some(Credentials::new(key_id, secret, None, None, "given"))).await
    }

    async fn connect(
        url: TableUrl<'_>,
        layout: &'static Layout,
        credentials: Option<Credentials>,
    ) -> Result<Self, StoreError> {
        let date = ServerDate::default();
        let store = Self {
            client: client::connect(url, credentials, &date).await?,
            table: url.table.to_owned(),
            place: format!("table {:?} in {}", url.table, url.endpoint.unwrap_or(url.region)),
            layout,
            date,
            requests: Semaphore::new(REQUESTS_MAX),
            has_many_links: AtomicBool::new(false),
            points: Mutex::default(),
            loose: Mutex::default(),
        };
        store.verify().await?;
        Ok(store)
    }
}

#[async_trait]
impl RunStore for DynamoStore {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn now(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        self.describe().await?;
        Ok(self.date.last())
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
        self.read_runs(ids.iter().map(String::as_str)).await
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

    async fn rest(&self) {
        *self.points.lock().await = None;
        *self.loose.lock().await = LooseState::default();
    }

    async fn check(&self) -> Result<Findings, StoreError> {
        self.findings().await
    }
}
