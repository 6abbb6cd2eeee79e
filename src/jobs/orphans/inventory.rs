//! Compares the objects with the catalog, in both directions.
//!
//! It looks first and deletes afterwards: whether what it found is too much is known at the end only. Objects are listed
//! before their ids are looked up, because a blob is in the catalog before its object is there.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt;

use super::Fuse;
use crate::{
    blobs::{Blob, BlobError, BlobId, BlobStore, Digest, Key, State, objects::Found},
    jobs::{JobError, Leave, Tally},
};

/// How many rows are read at once.
const PAGE: usize = 1_000;
/// What lies in the spool for longer is a crash's.
const SPOOL_MAX: TimeDelta = TimeDelta::days(1);
/// How many shards there are: one for each first byte of a digest.
const SHARDS: usize = 256;

/// What is done with the shard in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    Look,
    Delete,
}

/// One comparison, which goes on step by step.
#[derive(Debug)]
pub(super) struct Inventory {
    began: DateTime<Utc>,
    /// Objects that were written later may be in somebody's hands.
    written_before: DateTime<Utc>,
    /// How many blobs the catalog has.
    blobs: u64,
    fuse: Fuse,
    pass: Pass,
    shard: usize,
    /// How much garbage each shard has.
    garbage: [u64; SHARDS],
    objects: u64,
}

/// What the listing of one shard gave.
#[derive(Default)]
struct Listed {
    ids: HashSet<BlobId>,
    garbage: Vec<(Key, u64)>,
    foreign: u64,
}

impl Inventory {
    /// A comparison that begins at `began`, with a catalog of so many blobs.
    pub(super) fn new(began: DateTime<Utc>, written_before: DateTime<Utc>, blobs: u64, fuse: Fuse) -> Self {
        Self { began, written_before, blobs, fuse, pass: Pass::Look, shard: 0, garbage: [0; SHARDS], objects: 0 }
    }

    /// Deals with one shard; `false` after the last.
    pub(super) async fn step(
        &mut self,
        store: &BlobStore,
        leave: Leave<'_>,
        tally: &mut Tally,
    ) -> Result<bool, JobError> {
        if self.shard == SHARDS {
            return self.end_pass(store, leave, tally).await;
        }
        let shard = u8::try_from(self.shard).expect("the shards are counted above");
        match self.pass {
            Pass::Look => self.look(store, shard, tally).await?,
            Pass::Delete if self.garbage[self.shard] == 0 => {}
            Pass::Delete => {
                for garbage in self.list(store, shard).await?.garbage.chunks(PAGE) {
                    delete(store, garbage, tally).await;
                }
            }
        }
        self.shard += 1;
        Ok(true)
    }

    async fn end_pass(&mut self, store: &BlobStore, leave: Leave<'_>, tally: &mut Tally) -> Result<bool, JobError> {
        let garbage: u64 = self.garbage.iter().sum();
        let is_real = match leave {
            Leave::DryRun => false,
            Leave::Apply(held) => held.fence().map(|_| true)?,
        };
        if self.pass == Pass::Look {
            self.guard(garbage)?;
            tally.planned.add("objects", garbage);
            if is_real && garbage > 0 {
                (self.pass, self.shard) = (Pass::Delete, 0);
                return Ok(true);
            }
        }
        let leftovers = store.objects().clean(self.began - SPOOL_MAX, is_real).await?;
        tally.planned.add("objects", leftovers);
        if is_real {
            tally.deleted.add("objects", leftovers);
            store.catalog().mend().await?;
            store.catalog().set_inventory_at(self.began).await?;
        }
        Ok(false)
    }

    /// A catalog that knows nothing of the objects is not theirs, whatever it is marked with.
    fn guard(&self, garbage: u64) -> Result<(), JobError> {
        if self.blobs == 0 && garbage > 0 && !self.fuse.is_bridged {
            return Err(JobError::Refused(format!(
                "the catalog is empty, and there are {garbage} objects: is it the right one? `janitor run JOB \
                 --allow-mass-delete` deletes them"
            )));
        }
        self.fuse.check(garbage, self.objects, "objects")
    }

    async fn look(&mut self, store: &BlobStore, shard: u8, tally: &mut Tally) -> Result<(), JobError> {
        let listed = self.list(store, shard).await?;
        self.objects += listed.ids.len() as u64;
        self.garbage[usize::from(shard)] = listed.garbage.len() as u64;
        tally.kept.add("foreign", listed.foreign);
        let mut after: Option<Digest> = None;
        loop {
            let page = store.catalog().live(shard, self.began, after, PAGE).await?;
            for blob in page.iter().filter(|blob| !listed.ids.contains(&blob.id)) {
                if is_missing(store, blob).await? {
                    let error = BlobError::Damaged { digest: blob.digest, what: "its object is missing".to_owned() };
                    tally.fail(&blob.key().to_string(), &error);
                }
            }
            if page.len() < PAGE {
                return Ok(());
            }
            after = page.last().map(|blob| blob.digest);
        }
    }

    /// All objects of a shard, and those among them that no blob is behind.
    async fn list(&self, store: &BlobStore, shard: u8) -> Result<Listed, BlobError> {
        let mut listed = Listed::default();
        let mut pages = store.objects().list(shard);
        while let Some(page) = pages.next().await {
            let page: Vec<Found> = page?;
            let ids: Vec<BlobId> = page.iter().filter_map(|found| found.key.map(|key| key.id)).collect();
            let known = store.catalog().known(&ids).await?;
            for found in page {
                match found.key {
                    None => listed.foreign += 1,
                    Some(key) => {
                        listed.ids.insert(key.id);
                        if !known.contains(&key.id) && found.modified < self.written_before {
                            listed.garbage.push((key, found.size));
                        }
                    }
                }
            }
        }
        Ok(listed)
    }
}

async fn delete(store: &BlobStore, garbage: &[(Key, u64)], tally: &mut Tally) {
    let keys: Vec<Key> = garbage.iter().map(|(key, _)| *key).collect();
    for ((key, size), answer) in garbage.iter().zip(store.objects().delete(&keys).await) {
        match answer {
            Ok(()) => {
                tally.deleted.add("objects", 1);
                tally.bytes_freed += size;
            }
            Err(error) => tally.fail(&key.to_string(), &error),
        }
    }
}

/// Whether a live blob's object is not there. The object is asked for first: a sweep claims a blob before it deletes its
/// bytes.
async fn is_missing(store: &BlobStore, blob: &Blob) -> Result<bool, BlobError> {
    if store.objects().size(&blob.key()).await?.is_some() {
        return Ok(false);
    }
    let now = store.catalog().blobs(blob.digest).await?;
    Ok(now.iter().any(|row| row.id == blob.id && row.state == State::Live))
}
