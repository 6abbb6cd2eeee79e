//! Deletes the blobs that failed tasks left behind.
//!
//! A sweep takes what was due when it began, so that a dry run names the same. What it releases itself starts its grace
//! now, and goes in a later one.

mod failed;
mod inventory;

use std::{
    borrow::Cow,
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

use self::{failed::Failed, inventory::Inventory};
use super::{Job, JobError, Leave, Narrow, Tally};
use crate::{
    blobs::{Blob, BlobError, BlobId, BlobStore, Key, PENDING_TTL, catalog::Cutoffs},
    config::{OrphansConfig, Share},
    lock::Fence,
    runs::RunStore,
};

/// Up to here a sweep is small, whatever its share.
const SMALL: u64 = 1_000;
/// The most blobs of one batch.
pub const BATCH_MAX: usize = 10_000;
/// How many are claimed, and forgotten, in one transaction. The more go together the more of them share a page of the
/// catalog; and a batch has two of these, so that the bytes of one go while the catalog is busy with the other.
const CLAIM_MAX: usize = BATCH_MAX / 2;
/// How many tasks are looked at together.
const TASKS_MAX: usize = 1_000;

/// What stops a sweep of too much.
#[derive(Clone, Copy, Debug)]
struct Fuse {
    share: Share,
    is_bridged: bool,
}

impl Fuse {
    /// Refuses to take `part` of `whole`, where that is a lot.
    fn check(self, part: u64, whole: u64, what: &str) -> Result<(), JobError> {
        if part <= SMALL || !self.share.is_exceeded(part, whole) || self.is_bridged {
            return Ok(());
        }
        Err(JobError::Refused(format!(
            "{part} of {whole} {what} would go, more than max_share ({}); `janitor run JOB --allow-mass-delete` allows it once",
            self.share
        )))
    }
}

/// One execution of a job of kind `orphans`.
#[derive(Debug)]
pub struct Orphans {
    store: BlobStore,
    failed: Failed,
    fuse: Fuse,
    narrow: Narrow,
    config: OrphansConfig,
    /// Fixed by [`prepare`](Job::prepare).
    cutoffs: Option<Cutoffs>,
    after: Option<Blob>,
    is_at_end: bool,
    rest: Rest,
}

/// How far the part is that is counted and not listed.
#[derive(Debug)]
enum Rest {
    /// Releasing what failed tasks hold, behind this one.
    Release(Option<String>),
    /// Comparing objects with the catalog.
    Inventory(Box<Inventory>),
    Over,
}

impl Orphans {
    /// An execution on `store`; `runs` says which runs failed or are gone, where the configuration names such a store.
    #[must_use]
    pub fn new(store: BlobStore, runs: Option<Arc<dyn RunStore>>, config: OrphansConfig, narrow: Narrow) -> Self {
        Self {
            failed: Failed::new(runs, config.abandoned_after),
            fuse: Fuse { share: config.max_share, is_bridged: narrow.allow_mass_delete },
            store,
            narrow,
            config,
            cutoffs: None,
            after: None,
            is_at_end: false,
            rest: Rest::Release(None),
        }
    }

    /// Since when a blob must have been without a ref to go; none before the execution has begun.
    #[must_use]
    pub fn cutoff(&self) -> Option<DateTime<Utc>> {
        self.cutoffs.map(|cutoffs| cutoffs.unreferenced)
    }

    /// The cutoff, or what it is narrowed to.
    fn earliest(&self, cutoff: DateTime<Utc>) -> DateTime<Utc> {
        self.narrow.before.map_or(cutoff, |before| before.min(cutoff))
    }

    fn cutoffs(&self) -> Cutoffs {
        self.cutoffs.expect("an execution begins with `prepare`")
    }

    /// How many go in one batch: a second's worth at most, where a rate is set.
    #[must_use]
    pub fn batch_max(config: &OrphansConfig) -> usize {
        config.rate_limit.map_or(BATCH_MAX, |rate| usize::try_from(rate.get()).unwrap_or(BATCH_MAX).min(BATCH_MAX))
    }

    /// Waits until the batch has lasted as long as the rate wants it to.
    async fn keep_to_rate(&self, began: Instant, count: usize) {
        if let Some(rate) = self.config.rate_limit {
            #[expect(
                clippy::cast_precision_loss,
                reason = "a batch has a thousand at most, and a rate need not be exact"
            )]
            let least = Duration::from_secs_f64(count as f64 / rate.get() as f64);
            tokio::time::sleep_until((began + least).into()).await;
        }
    }

    /// Forgets those whose bytes are gone, which is the end of step 7, and claims the next ones, which is step 6.
    async fn turn<'a>(
        &self,
        gone: Vec<&Blob>,
        piece: &'a [Blob],
        tally: &mut Tally,
    ) -> Result<Vec<&'a Blob>, JobError> {
        if gone.is_empty() && piece.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<BlobId> = gone.iter().map(|blob| blob.id).collect();
        let claimed = self.store.catalog().forget_and_claim(&ids, piece, self.cutoffs()).await?;
        tally.deleted.add("blobs", gone.len() as u64);
        tally.bytes_freed += gone.iter().map(|blob| blob.size).sum::<u64>();
        tally.kept.add("changed", (piece.len() - claimed.len()) as u64);
        let claimed: HashSet<BlobId> = claimed.into_iter().collect();
        Ok(piece.iter().filter(|blob| claimed.contains(&blob.id)).collect())
    }

    /// Puts those off whose bytes could not be deleted, and answers the others.
    async fn put_off<'a>(
        &self,
        blobs: Vec<&'a Blob>,
        answers: Vec<Result<(), BlobError>>,
        tally: &mut Tally,
    ) -> Result<Vec<&'a Blob>, JobError> {
        let (mut gone, mut failed) = (Vec::with_capacity(blobs.len()), Vec::new());
        for (blob, answer) in blobs.into_iter().zip(answers) {
            match answer {
                Ok(()) => gone.push(blob),
                Err(error) => {
                    tally.fail(&Self::id(blob), &error);
                    failed.push((blob.id, crate::report::chain(&error)));
                }
            }
        }
        if !failed.is_empty() {
            self.store.catalog().put_off(&failed).await?;
        }
        Ok(gone)
    }

    /// Releases what the failed ones among the next tasks hold; `false` after the last.
    async fn release(&mut self, after: Option<String>, leave: Leave<'_>, tally: &mut Tally) -> Result<bool, JobError> {
        let tasks = self.store.catalog().open_tasks(after.as_deref(), TASKS_MAX).await?;
        let now = self.store.catalog().now().await?;
        let Some(last) = tasks.last().map(|task| task.id.clone()) else { return Ok(false) };
        let failed = self.failed.among(tasks, now).await?;
        for task in failed.into_iter().filter(|task| self.narrow.before.is_none_or(|before| task.seen_at < before)) {
            match leave {
                Leave::DryRun => {
                    let refs = self.failed.count_refs(self.store.catalog().as_ref(), &task).await?;
                    tally.planned.add("refs", refs);
                }
                Leave::Apply(held) => {
                    held.fence()?;
                    let released = self.store.catalog().release_seen(&task).await?.unwrap_or_default();
                    tally.planned.add("refs", released.refs);
                    tally.deleted.add("refs", released.refs);
                }
            }
        }
        self.rest = Rest::Release(Some(last));
        Ok(true)
    }

    /// An inventory, where one is due or asked for.
    async fn inventory(&self) -> Result<Rest, JobError> {
        let catalog = self.store.catalog();
        let now = catalog.now().await?;
        let last = catalog.inventory_at().await?;
        let next = |schedule: &crate::config::Schedule| match last {
            None => true,
            Some(last) => schedule.next_after(last, chrono_tz::Tz::UTC).is_some_and(|next| next <= now),
        };
        if !self.narrow.inventory && !self.config.inventory.as_ref().is_some_and(next) {
            return Ok(Rest::Over);
        }
        let blobs = catalog.totals().await?.blobs();
        let written_before = self.earliest(now - self.config.grace.max(PENDING_TTL));
        Ok(Rest::Inventory(Box::new(Inventory::new(now, written_before, blobs, self.fuse))))
    }
}

impl Job for Orphans {
    type Item = Blob;

    const UNIT: &'static str = "blobs";

    fn id(item: &Blob) -> Cow<'_, str> {
        Cow::Owned(item.key().to_string())
    }

    async fn prepare(&mut self, _: Leave<'_>, tally: &mut Tally) -> Result<(), JobError> {
        let catalog = self.store.catalog();
        let now = catalog.now().await?;
        let cutoffs = Cutoffs {
            unreferenced: self.earliest(now - self.config.grace),
            pending: self.earliest(now - PENDING_TTL),
            retry: now,
        };
        let totals = catalog.totals().await?;
        self.store.guard().await?;
        self.failed.guard(now).await?;
        let due = catalog.count_due(cutoffs).await?;
        self.fuse.check(due.blobs(), totals.blobs(), "blobs")?;
        tally.kept.add("referenced", totals.referenced);
        tally.kept.add("pending", totals.pending.saturating_sub(due.pending));
        tally.kept.add("grace", totals.live.saturating_sub(totals.referenced + due.live));
        tally.kept.add("put_off", totals.deleting.saturating_sub(due.deleting));
        self.cutoffs = Some(cutoffs);
        Ok(())
    }

    async fn plan(&mut self, _: Leave<'_>, limit: usize, _: &mut Tally) -> Result<Option<Vec<Blob>>, JobError> {
        if self.is_at_end {
            return Ok(None);
        }
        let page = self.store.catalog().due(self.cutoffs(), self.after.as_ref(), limit).await?;
        self.is_at_end = page.len() < limit;
        self.after = page.last().cloned().or(self.after.take());
        Ok(Some(page))
    }

    async fn execute(
        &mut self,
        _: Fence,
        items: &[Blob],
        _: Duration,
        tally: &mut Tally,
    ) -> Result<Vec<String>, JobError> {
        let began = Instant::now();
        let mut pieces = items.chunks(CLAIM_MAX).chain([&[][..]]);
        let (mut gone, mut count, mut ids) = (Vec::new(), 0, Vec::with_capacity(items.len()));
        let mut claimed = self.turn(Vec::new(), pieces.next().unwrap_or_default(), tally).await?;
        for piece in pieces {
            count += claimed.len();
            let keys: Vec<Key> = claimed.iter().map(|blob| blob.key()).collect();
            // The bytes of one piece go while the catalog is busy with those before and behind it.
            let turn = self.turn(std::mem::take(&mut gone), piece, tally);
            let (answers, next) = tokio::join!(self.store.objects().delete(&keys), turn);
            let next = next?;
            gone = self.put_off(claimed, answers, tally).await?;
            ids.extend(gone.iter().map(|blob| Self::id(blob).into_owned()));
            claimed = next;
        }
        self.turn(gone, &[], tally).await?;
        self.keep_to_rate(began, count).await;
        Ok(ids)
    }

    async fn rest(&mut self, leave: Leave<'_>, _: Duration, tally: &mut Tally) -> Result<bool, JobError> {
        match std::mem::replace(&mut self.rest, Rest::Over) {
            Rest::Release(after) => {
                if !self.release(after, leave, tally).await? {
                    self.rest = self.inventory().await?;
                }
            }
            Rest::Inventory(mut inventory) => {
                if inventory.step(&self.store, leave, tally).await? {
                    self.rest = Rest::Inventory(inventory);
                }
            }
            Rest::Over => {}
        }
        Ok(!matches!(self.rest, Rest::Over))
    }
}
