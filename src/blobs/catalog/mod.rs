//! Who refers to which blob.

pub mod memory;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod sql;

use std::{collections::HashSet, fmt::Debug};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use sql::SqlCatalog;

use super::{Blob, BlobError, BlobId, Digest, OpenTask, Ref, Released, Tag, Totals};

/// How a put begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// The bytes are there: the ref has been added to this blob.
    Shared(BlobId),
    /// They are not: upload them under this new id, and touch it meanwhile.
    Upload(BlobId),
}

/// How a put ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Our blob is live and has the ref.
    Live,
    /// Another blob of the digest became live first: it has the ref, ours is to be deleted.
    Shared(BlobId),
    /// A sweeper took ours for abandoned: begin again.
    Fenced,
}

/// What a sweep may take, on the catalog's clock. Fixed when the sweep begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cutoffs {
    /// Live blobs that nothing has referred to since before this.
    pub unreferenced: DateTime<Utc>,
    /// Pending blobs whose writer was last heard of before this.
    pub pending: DateTime<Utc>,
    /// Blobs that were claimed already and are to be tried again by now.
    pub retry: DateTime<Utc>,
}

/// Which refs a list shows: those that every given part matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this task.
    pub task: Option<String>,
    /// Of this run.
    pub run: Option<String>,
}

/// The transactions of the protocol. Each answer keeps the promises of the suite in `blobs::conformance`.
///
/// Every method is one transaction. Its clock is the store's own, so that hosts need not agree on the time.
#[async_trait]
pub trait Catalog: Send + Sync + Debug {
    /// What it is, for errors: its URL without a password.
    fn name(&self) -> &str;

    /// The id that this catalog was given when it was made; the objects are marked with it.
    fn identity(&self) -> &str;

    /// The catalog's clock, to the millisecond.
    async fn now(&self) -> Result<DateTime<Utc>, BlobError>;

    /// Step 1. Also sees the task alive, and raises its attempt.
    ///
    /// # Errors
    /// [`BlobError::Closed`] where the attempt is over.
    async fn begin(&self, digest: Digest, size: u64, tag: &Tag) -> Result<Begun, BlobError>;

    /// The writer of a pending blob and its task are alive; `false` where the blob is pending no more.
    async fn touch_pending(&self, id: BlobId, tag: &Tag) -> Result<bool, BlobError>;

    /// Step 3.
    ///
    /// # Errors
    /// [`BlobError::Closed`] where the attempt ended meanwhile; the blob is then to be deleted.
    async fn commit(&self, id: BlobId, digest: Digest, tag: &Tag) -> Result<Committed, BlobError>;

    /// The writer gave up: its pending blob is to be deleted. Without effect where it is pending no more.
    async fn give_up(&self, id: BlobId) -> Result<(), BlobError>;

    /// Step 4: makes the refs of `task` at `attempt` final and releases its lower attempts; answers how many refs became
    /// final, 0 where all were.
    ///
    /// # Errors
    /// [`BlobError::NoRef`] where the attempt has put nothing, [`BlobError::Closed`] where it is over.
    async fn finalize(&self, task: &str, attempt: u32) -> Result<u64, BlobError>;

    /// Step 5 by the task's own word: drops what it put in `attempt` and lower ones and did not finalize. These attempts
    /// are over. Where there is nothing to drop this is no error.
    async fn release(&self, task: &str, attempt: u32) -> Result<Released, BlobError>;

    /// The same for a task that a sweep holds for failed: only where its attempt and the time that it was last seen are
    /// still those of `task`; `None` where they are not.
    async fn release_seen(&self, task: &OpenTask) -> Result<Option<Released>, BlobError>;

    /// The task is alive, though it puts nothing; `false` where it is not known.
    async fn touch(&self, task: &str) -> Result<bool, BlobError>;

    /// Drops all refs of `task`, final ones too, to blobs of this digest.
    ///
    /// # Errors
    /// [`BlobError::NoRef`] where it has none.
    async fn delete(&self, task: &str, digest: Digest) -> Result<Released, BlobError>;

    /// All blobs of a digest, the live one first.
    async fn blobs(&self, digest: Digest) -> Result<Vec<Blob>, BlobError>;

    /// Up to `limit` refs to the blobs of a digest, oldest first.
    async fn refs(&self, digest: Digest, limit: usize) -> Result<Vec<Ref>, BlobError>;

    /// Up to `limit` refs, by task, attempt, name and blob, those behind `after`.
    async fn list(&self, filter: &Filter, after: Option<&Ref>, limit: usize) -> Result<Vec<Ref>, BlobError>;

    /// One task as a sweep sees it; `None` where it has nothing that is not final.
    async fn open_task(&self, task: &str) -> Result<Option<OpenTask>, BlobError>;

    /// Up to `limit` tasks that have something that is not final, by id, those behind `after`.
    async fn open_tasks(&self, after: Option<&str>, limit: usize) -> Result<Vec<OpenTask>, BlobError>;

    /// How many blobs there are. Reads the whole catalog.
    async fn totals(&self) -> Result<Totals, BlobError>;

    /// Up to `limit` blobs that a sweep with these cutoffs may take, behind `after`: first those that were claimed already,
    /// then pending, then live ones, each by age. Never writes; its cost does not grow with the catalog.
    async fn due(&self, cutoffs: Cutoffs, after: Option<&Blob>, limit: usize) -> Result<Vec<Blob>, BlobError>;

    /// How many blobs a sweep with these cutoffs may take; nothing refers to any of them.
    async fn count_due(&self, cutoffs: Cutoffs) -> Result<Totals, BlobError>;

    /// Step 6: claims those of `blobs` that the cutoffs still allow and nothing refers to; answers these. They are to be
    /// tried again at once by whoever comes, so that a crash leaves nothing.
    async fn claim(&self, blobs: &[Blob], cutoffs: Cutoffs) -> Result<Vec<BlobId>, BlobError>;

    /// The end of step 7: forgets claimed blobs whose bytes are gone; answers how many.
    async fn forget(&self, ids: &[BlobId]) -> Result<u64, BlobError>;

    /// Forgets `gone` and claims of `blobs`, as [`forget`](Self::forget) and [`claim`](Self::claim) do: in one transaction
    /// where one costs much.
    async fn forget_and_claim(
        &self,
        gone: &[BlobId],
        blobs: &[Blob],
        cutoffs: Cutoffs,
    ) -> Result<Vec<BlobId>, BlobError> {
        self.forget(gone).await?;
        self.claim(blobs, cutoffs).await
    }

    /// Deleting the bytes of these failed, and why: each is due again after 1 min × 2ⁿ, n being how often it failed before,
    /// and a day at most.
    async fn put_off(&self, failed: &[(BlobId, String)]) -> Result<(), BlobError>;

    /// Which of these ids it has, in any state.
    async fn known(&self, ids: &[BlobId]) -> Result<HashSet<BlobId>, BlobError>;

    /// Up to `limit` live blobs whose digest begins with `shard` and that were put before `before`, by digest, behind `after`.
    async fn live(
        &self,
        shard: u8,
        before: DateTime<Utc>,
        after: Option<Digest>,
        limit: usize,
    ) -> Result<Vec<Blob>, BlobError>;

    /// Sets `zero_since` of live blobs that nothing refers to and that lack it, which no step leaves behind; answers how
    /// many. Forgets tasks that hold nothing and were last seen [`TASK_TTL`](super::TASK_TTL) ago: an attempt of one that was
    /// over no longer is. Reads the whole catalog.
    async fn mend(&self) -> Result<u64, BlobError>;

    /// When an inventory last came to its end.
    async fn inventory_at(&self) -> Result<Option<DateTime<Utc>>, BlobError>;

    /// An inventory has come to its end.
    async fn set_inventory_at(&self, at: DateTime<Utc>) -> Result<(), BlobError>;
}
