//! The catalog in SQLite and Postgres: the same statements for both, over sqlx's driver for any database.

mod dialect;
mod look;
mod open;
mod put;
mod rows;
mod sweep;
mod tasks;

use std::{
    collections::HashSet,
    fmt,
    sync::atomic::{AtomicI64, Ordering},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{AnyPool, AssertSqlSafe, Connection};
use tokio::sync::{Semaphore, SemaphorePermit};

use self::dialect::Dialect;
use super::{Begun, Catalog, Committed, Cutoffs, Filter};
use crate::blobs::{Blob, BlobError, BlobId, Digest, OpenTask, Ref, Released, Tag, Totals};

/// How often a transaction is tried that another one got in the way of.
const TRIES_MAX: usize = 5;

/// A catalog in a SQLite file or a Postgres database.
///
/// ```
/// use apalis_janitor::{blobs::{Catalog, catalog::SqlCatalog}, config::CatalogUrl};
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let folder = tempfile::tempdir().unwrap();
/// let url = CatalogUrl::Sqlite(folder.path().join("blobs.db"));
/// let catalog = SqlCatalog::open(&url).await.unwrap();
/// assert_eq!(catalog.totals().await.unwrap().blobs(), 0);
/// # });
/// ```
pub struct SqlCatalog {
    name: String,
    identity: String,
    dialect: Dialect,
    pool: AnyPool,
    /// Who may write at the same time.
    writers: Semaphore,
    /// How far its clock is ahead of the database's, in ms; only tests move it.
    shift: AtomicI64,
}

impl fmt::Debug for SqlCatalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The pool would show the URL with its password.
        f.debug_struct("SqlCatalog").field("name", &self.name).field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// Why a transaction is taken back.
pub(super) enum Fail {
    /// The database says so.
    Sql(sqlx::Error),
    /// We do.
    Told(BlobError),
    /// What it has read changed under it.
    Again,
}

impl From<sqlx::Error> for Fail {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<BlobError> for Fail {
    fn from(error: BlobError) -> Self {
        Self::Told(error)
    }
}

impl SqlCatalog {
    /// Puts the catalog's clock forward, as this value sees it.
    #[cfg(feature = "test-util")]
    pub fn advance(&self, by: std::time::Duration) {
        self.shift.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX / 2), Ordering::SeqCst);
    }

    /// The statement `text` for this database; its values are binds, so that nothing in it comes from outside.
    pub(super) fn sql(&self, text: &str) -> AssertSqlSafe<String> {
        AssertSqlSafe(self.dialect.statement(text, self.shift.load(Ordering::SeqCst)))
    }

    fn unavailable(&self, what: &'static str, error: sqlx::Error) -> BlobError {
        BlobError::unavailable(&self.name, what, error)
    }

    async fn turn(&self) -> SemaphorePermit<'_> {
        self.writers.acquire().await.expect("the semaphore is never closed")
    }

    /// Answers what came of a transaction; `None`: it is to be tried again.
    fn settled<T>(&self, what: &'static str, result: Result<T, Fail>, tries: usize) -> Option<Result<T, BlobError>> {
        match result {
            Ok(value) => Some(Ok(value)),
            Err(Fail::Told(error)) => Some(Err(error)),
            Err(Fail::Sql(error)) if tries < TRIES_MAX && self.dialect.is_tie(&error) => None,
            Err(Fail::Again) if tries < TRIES_MAX => None,
            Err(Fail::Again) => Some(Err(BlobError::unavailable(&self.name, what, "others kept changing it"))),
            Err(Fail::Sql(error)) => Some(Err(self.unavailable(what, error))),
        }
    }
}

/// Answers the rows of a read, or that it could not be done.
macro_rules! read {
    ($self:ident, $what:literal, $read:expr) => {
        $read.await.map_err(|error| $self.unavailable($what, error))
    };
}

/// Does `$work` on a connection in a transaction, and again where another one got in its way. A macro, since a closure
/// cannot promise that its future is `Send` for any lifetime of the connection.
macro_rules! write {
    ($self:ident, $what:literal, $connection:ident => $work:expr) => {{
        let _turn = $self.turn().await;
        let mut tries = 0;
        loop {
            tries += 1;
            let done = async {
                let mut held = $self.pool.acquire().await?;
                let (done, is_whole) = async {
                    let mut transaction = match held.begin_with($self.dialect.begin()).await {
                        Ok(transaction) => transaction,
                        Err(error) => return (Err(Fail::Sql(error)), false),
                    };
                    let $connection = &mut *transaction;
                    match $work.await {
                        Ok(value) => match transaction.commit().await {
                            Ok(()) => (Ok(value), true),
                            Err(error) => (Err(Fail::Sql(error)), false),
                        },
                        // SQLite itself takes some transactions back, and the driver loses count.
                        Err(error) => (Err(error), transaction.rollback().await.is_ok()),
                    }
                }
                .await;
                if !is_whole {
                    held.close_on_drop();
                }
                done
            };
            if let Some(done) = $self.settled($what, done.await, tries) {
                break done;
            }
        }
    }};
}

#[async_trait]
impl Catalog for SqlCatalog {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> &str {
        &self.identity
    }

    async fn now(&self) -> Result<DateTime<Utc>, BlobError> {
        read!(self, "clock not read", self.read_now())
    }

    async fn begin(&self, digest: Digest, size: u64, tag: &Tag) -> Result<Begun, BlobError> {
        tag.check()?;
        let size = rows::size(size)?;
        write!(self, "put not begun", connection => self.begin_in(connection, digest, size, tag))
    }

    async fn touch_pending(&self, id: BlobId, tag: &Tag) -> Result<bool, BlobError> {
        write!(self, "blob not touched", connection => self.touch_pending_in(connection, id, tag))
    }

    async fn commit(&self, id: BlobId, digest: Digest, tag: &Tag) -> Result<Committed, BlobError> {
        tag.check()?;
        // A transaction may go well and yet answer that the attempt is over.
        write!(self, "put not committed", connection => self.commit_in(connection, id, digest, tag))?
    }

    async fn give_up(&self, id: BlobId) -> Result<(), BlobError> {
        write!(self, "put not given up", connection => self.abandon(connection, id)).map(drop)
    }

    async fn finalize(&self, task: &str, attempt: u32) -> Result<u64, BlobError> {
        write!(self, "task not finalized", connection => self.finalize_in(connection, task, attempt))
    }

    async fn release(&self, task: &str, attempt: u32) -> Result<Released, BlobError> {
        write!(self, "task not released", connection => self.release_in(connection, task, attempt))
    }

    async fn release_seen(&self, task: &OpenTask) -> Result<Option<Released>, BlobError> {
        write!(self, "task not released", connection => self.release_seen_in(connection, task))
    }

    async fn touch(&self, task: &str) -> Result<bool, BlobError> {
        write!(self, "task not touched", connection => self.touch_in(connection, task))
    }

    async fn delete(&self, task: &str, digest: Digest) -> Result<Released, BlobError> {
        write!(self, "refs not deleted", connection => self.delete_in(connection, task, digest))
    }

    async fn blobs(&self, digest: Digest) -> Result<Vec<Blob>, BlobError> {
        read!(self, "blobs not read", self.read_blobs(digest))
    }

    async fn refs(&self, digest: Digest, limit: usize) -> Result<Vec<Ref>, BlobError> {
        read!(self, "refs not read", self.read_refs(digest, limit))
    }

    async fn list(&self, filter: &Filter, after: Option<&Ref>, limit: usize) -> Result<Vec<Ref>, BlobError> {
        read!(self, "refs not read", self.read_list(filter, after, limit))
    }

    async fn open_task(&self, task: &str) -> Result<Option<OpenTask>, BlobError> {
        read!(self, "tasks not read", self.read_open_task(task))
    }

    async fn open_tasks(&self, after: Option<&str>, limit: usize) -> Result<Vec<OpenTask>, BlobError> {
        read!(self, "tasks not read", self.read_open_tasks(after, limit))
    }

    async fn totals(&self) -> Result<Totals, BlobError> {
        read!(self, "blobs not counted", self.read_totals())
    }

    async fn due(&self, cutoffs: Cutoffs, after: Option<&Blob>, limit: usize) -> Result<Vec<Blob>, BlobError> {
        read!(self, "due blobs not read", self.read_due(cutoffs, after, limit))
    }

    async fn count_due(&self, cutoffs: Cutoffs) -> Result<Totals, BlobError> {
        read!(self, "due blobs not counted", self.read_count_due(cutoffs))
    }

    async fn claim(&self, blobs: &[Blob], cutoffs: Cutoffs) -> Result<Vec<BlobId>, BlobError> {
        let ids = rows::list(blobs.iter().map(|blob| blob.id));
        write!(self, "blobs not claimed", connection => self.claim_in(connection, &ids, cutoffs))
    }

    async fn forget(&self, ids: &[BlobId]) -> Result<u64, BlobError> {
        let ids = rows::list(ids.iter().copied());
        write!(self, "blobs not forgotten", connection => self.forget_in(connection, &ids))
    }

    async fn forget_and_claim(
        &self,
        gone: &[BlobId],
        blobs: &[Blob],
        cutoffs: Cutoffs,
    ) -> Result<Vec<BlobId>, BlobError> {
        let (gone, ids) = (rows::list(gone.iter().copied()), rows::list(blobs.iter().map(|blob| blob.id)));
        write!(self, "blobs not claimed", connection => async {
            self.forget_in(connection, &gone).await?;
            self.claim_in(connection, &ids, cutoffs).await
        })
    }

    async fn put_off(&self, failed: &[(BlobId, String)]) -> Result<(), BlobError> {
        let failed = rows::failures(failed);
        write!(self, "blobs not put off", connection => self.put_off_in(connection, &failed))
    }

    async fn known(&self, ids: &[BlobId]) -> Result<HashSet<BlobId>, BlobError> {
        read!(self, "blobs not read", self.read_known(&rows::list(ids.iter().copied())))
    }

    async fn live(
        &self,
        shard: u8,
        before: DateTime<Utc>,
        after: Option<Digest>,
        limit: usize,
    ) -> Result<Vec<Blob>, BlobError> {
        read!(self, "blobs not read", self.read_live(shard, before, after, limit))
    }

    async fn mend(&self) -> Result<u64, BlobError> {
        write!(self, "blobs not mended", connection => self.mend_in(connection))
    }

    async fn inventory_at(&self) -> Result<Option<DateTime<Utc>>, BlobError> {
        read!(self, "inventory not read", self.read_inventory_at())
    }

    async fn set_inventory_at(&self, at: DateTime<Utc>) -> Result<(), BlobError> {
        write!(self, "inventory not written", connection => self.set_inventory_in(connection, at))
    }
}
