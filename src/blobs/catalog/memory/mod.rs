//! A catalog in memory, for tests and the demo.

mod books;

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashSet},
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};

use self::books::{Books, count, turn};
use super::{Begun, Catalog, Committed, Cutoffs, Filter};
use crate::{
    blobs::{Blob, BlobError, BlobId, Digest, OpenTask, Ref, Released, State, TASK_TTL, Tag, Totals},
    clock::Clock,
};

/// The longest that a blob is put off.
const PUT_OFF_MAX: TimeDelta = TimeDelta::days(1);

/// Who refers to what, as long as this lives.
///
/// ```
/// use std::sync::Arc;
/// use apalis_janitor::{blobs::{Catalog, catalog::memory::MemoryCatalog}, clock::SystemClock};
///
/// let catalog = MemoryCatalog::new(Arc::new(SystemClock));
/// assert_eq!(catalog.name(), "memory:");
/// ```
#[derive(Debug)]
pub struct MemoryCatalog {
    identity: String,
    clock: Arc<dyn Clock>,
    books: Mutex<Books>,
}

impl MemoryCatalog {
    /// An empty catalog with an identity of its own.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { identity: BlobId::new().to_string(), clock, books: Mutex::default() }
    }

    /// Puts the catalog's clock forward.
    #[cfg(feature = "test-util")]
    pub fn advance(&self, by: std::time::Duration) {
        self.open().0.ahead += by;
    }

    fn open(&self) -> (MutexGuard<'_, Books>, DateTime<Utc>) {
        let books = self.books.lock().expect("nothing panics while it holds the books");
        let now = (self.clock.now() + books.ahead).trunc_subsecs(3);
        (books, now)
    }
}

#[async_trait]
impl Catalog for MemoryCatalog {
    fn name(&self) -> &'static str {
        "memory:"
    }

    fn identity(&self) -> &str {
        &self.identity
    }

    async fn now(&self) -> Result<DateTime<Utc>, BlobError> {
        Ok(self.open().1)
    }

    async fn begin(&self, digest: Digest, size: u64, tag: &Tag) -> Result<Begun, BlobError> {
        tag.check()?;
        if i64::try_from(size).is_err() {
            return Err(BlobError::Invalid(format!("size {size}: must be less than 2^63 bytes")));
        }
        let (mut books, now) = self.open();
        books.check_open(&tag.task, tag.attempt)?;
        books.see(&tag.task, tag.run.as_ref(), tag.attempt, now);
        if let Some(id) = books.live_of(digest) {
            books.refer(id, tag, now);
            return Ok(Begun::Shared(id));
        }
        let id = BlobId::new();
        let new = Blob {
            id,
            digest,
            size,
            state: State::Pending,
            created_at: now,
            touched_at: now,
            zero_since: None,
            attempts: 0,
            next_at: None,
            error: None,
        };
        books.blobs.insert(id, new);
        Ok(Begun::Upload(id))
    }

    async fn touch_pending(&self, id: BlobId, tag: &Tag) -> Result<bool, BlobError> {
        let (mut books, now) = self.open();
        // Of an attempt that is over the task is not seen; its commit will be told so.
        if books.check_open(&tag.task, tag.attempt).is_ok() {
            books.see(&tag.task, tag.run.as_ref(), tag.attempt, now);
        }
        let pending = books.blobs.get_mut(&id).filter(|blob| blob.state == State::Pending);
        Ok(pending.map(|blob| blob.touched_at = now).is_some())
    }

    async fn commit(&self, id: BlobId, digest: Digest, tag: &Tag) -> Result<Committed, BlobError> {
        tag.check()?;
        let (mut books, now) = self.open();
        let is_pending = books.is_pending(id);
        if let Err(closed) = books.check_open(&tag.task, tag.attempt) {
            if is_pending {
                books.claim(id, now);
            }
            return Err(closed);
        }
        books.see(&tag.task, tag.run.as_ref(), tag.attempt, now);
        match books.live_of(digest) {
            // The answer to an earlier commit was lost on its way.
            Some(live) if live == id => {
                books.refer(id, tag, now);
                Ok(Committed::Live)
            }
            _ if !is_pending => Ok(Committed::Fenced),
            Some(other) => {
                books.claim(id, now);
                books.refer(other, tag, now);
                Ok(Committed::Shared(other))
            }
            None => {
                if let Some(blob) = books.blobs.get_mut(&id) {
                    blob.state = State::Live;
                }
                books.refer(id, tag, now);
                Ok(Committed::Live)
            }
        }
    }

    async fn give_up(&self, id: BlobId) -> Result<(), BlobError> {
        let (mut books, now) = self.open();
        if books.is_pending(id) {
            books.claim(id, now);
        }
        Ok(())
    }

    async fn finalize(&self, task: &str, attempt: u32) -> Result<u64, BlobError> {
        let (mut books, now) = self.open();
        books.check_open(task, attempt)?;
        let mut put = books.refs.values_mut().filter(|it| it.tag.task == task && it.tag.attempt == attempt).peekable();
        if put.peek().is_none() {
            let what = format!("in attempt {attempt}");
            return Err(BlobError::NoRef { task: task.to_owned(), what });
        }
        let count = put.filter(|it| !it.is_final).map(|it| it.is_final = true).count();
        books.close(task, attempt - 1, now);
        books.see(task, None, attempt, now);
        Ok(count as u64)
    }

    async fn release(&self, task: &str, attempt: u32) -> Result<Released, BlobError> {
        let (mut books, now) = self.open();
        Ok(books.close(task, attempt, now))
    }

    async fn release_seen(&self, task: &OpenTask) -> Result<Option<Released>, BlobError> {
        let (mut books, now) = self.open();
        let is_same =
            books.open_task(&task.id).is_some_and(|now| (now.attempt, now.seen_at) == (task.attempt, task.seen_at));
        Ok(is_same.then(|| books.close(&task.id, task.attempt, now)))
    }

    async fn touch(&self, task: &str) -> Result<bool, BlobError> {
        let (mut books, now) = self.open();
        Ok(books.tasks.get_mut(task).map(|task| task.seen(now)).is_some())
    }

    async fn delete(&self, task: &str, digest: Digest) -> Result<Released, BlobError> {
        let (mut books, now) = self.open();
        match books.drop_refs(|it| it.tag.task == task && it.digest == digest, now) {
            Released { refs: 0, .. } => {
                Err(BlobError::NoRef { task: task.to_owned(), what: format!("with the digest {digest}") })
            }
            released => Ok(released),
        }
    }

    async fn blobs(&self, digest: Digest) -> Result<Vec<Blob>, BlobError> {
        let (books, _) = self.open();
        let mut blobs = books.blobs.values().filter(|blob| blob.digest == digest).cloned().collect::<Vec<_>>();
        blobs.sort_by_key(|blob| Reverse(blob.state == State::Live));
        Ok(blobs)
    }

    async fn refs(&self, digest: Digest, limit: usize) -> Result<Vec<Ref>, BlobError> {
        let (books, _) = self.open();
        let mut refs =
            books.refs.values().filter(|it| it.digest == digest).map(|it| books.shown(it)).collect::<Vec<_>>();
        refs.sort_by_key(|it| it.created_at);
        refs.truncate(limit);
        Ok(refs)
    }

    async fn list(&self, filter: &Filter, after: Option<&Ref>, limit: usize) -> Result<Vec<Ref>, BlobError> {
        let (books, _) = self.open();
        let after = after.map(|it| (it.tag.task.clone(), it.tag.attempt, it.tag.name.clone(), it.blob));
        let is_shown = |it: &Ref| {
            filter.task.as_ref().is_none_or(|task| *task == it.tag.task)
                && filter.run.as_ref().is_none_or(|run| books.run_of(it) == Some(run))
        };
        let refs =
            books.refs.iter().filter(|(key, it)| after.as_ref().is_none_or(|after| *key > after) && is_shown(it));
        Ok(refs.take(limit).map(|(_, it)| books.shown(it)).collect())
    }

    async fn open_task(&self, task: &str) -> Result<Option<OpenTask>, BlobError> {
        Ok(self.open().0.open_task(task))
    }

    async fn open_tasks(&self, after: Option<&str>, limit: usize) -> Result<Vec<OpenTask>, BlobError> {
        let (books, _) = self.open();
        let ids = books.tasks.keys().filter(|id| after.is_none_or(|after| id.as_str() > after));
        Ok(ids.filter_map(|id| books.open_task(id)).take(limit).collect())
    }

    async fn totals(&self) -> Result<Totals, BlobError> {
        let (books, _) = self.open();
        let all: Vec<Blob> = books.blobs.values().cloned().collect();
        let is_referenced = |blob: &&Blob| blob.state == State::Live && books.has_refs(blob.id);
        Ok(Totals { referenced: all.iter().filter(is_referenced).count() as u64, ..count(&all) })
    }

    async fn due(&self, cutoffs: Cutoffs, after: Option<&Blob>, limit: usize) -> Result<Vec<Blob>, BlobError> {
        let due = self.open().0.due(cutoffs);
        Ok(due.into_iter().filter(|blob| after.is_none_or(|after| turn(blob) > turn(after))).take(limit).collect())
    }

    async fn count_due(&self, cutoffs: Cutoffs) -> Result<Totals, BlobError> {
        Ok(count(&self.open().0.due(cutoffs)))
    }

    async fn claim(&self, blobs: &[Blob], cutoffs: Cutoffs) -> Result<Vec<BlobId>, BlobError> {
        let (mut books, now) = self.open();
        let mut claimed = Vec::new();
        for id in blobs.iter().map(|blob| blob.id) {
            if books.blobs.get(&id).is_some_and(|blob| books.is_due(blob, cutoffs)) {
                books.claim(id, now);
                claimed.push(id);
            }
        }
        Ok(claimed)
    }

    async fn forget(&self, ids: &[BlobId]) -> Result<u64, BlobError> {
        let (mut books, _) = self.open();
        let count = books.blobs.len();
        let asked = ids.iter().collect::<HashSet<_>>();
        books.blobs.retain(|id, blob| blob.state != State::Deleting || !asked.contains(id));
        Ok((count - books.blobs.len()) as u64)
    }

    async fn put_off(&self, failed: &[(BlobId, String)]) -> Result<(), BlobError> {
        let (mut books, now) = self.open();
        for (id, error) in failed {
            let Some(blob) = books.blobs.get_mut(id).filter(|blob| blob.state == State::Deleting) else { continue };
            // 2^11 minutes are more than a day.
            let pause = TimeDelta::minutes(1 << blob.attempts.min(11)).min(PUT_OFF_MAX);
            blob.next_at = Some(now + pause);
            blob.attempts += 1;
            // Postgres takes no such character, and no other store shall differ.
            blob.error = Some(error.replace('\0', ""));
        }
        Ok(())
    }

    async fn known(&self, ids: &[BlobId]) -> Result<HashSet<BlobId>, BlobError> {
        let (books, _) = self.open();
        Ok(ids.iter().copied().filter(|id| books.blobs.contains_key(id)).collect())
    }

    async fn live(
        &self,
        shard: u8,
        before: DateTime<Utc>,
        after: Option<Digest>,
        limit: usize,
    ) -> Result<Vec<Blob>, BlobError> {
        let (books, _) = self.open();
        let is_asked = |blob: &&Blob| {
            blob.state == State::Live
                && blob.digest.shard() == shard
                && blob.created_at < before
                && after.is_none_or(|after| blob.digest > after)
        };
        let mut live = books.blobs.values().filter(is_asked).cloned().collect::<Vec<_>>();
        live.sort_by_key(|blob| blob.digest);
        live.truncate(limit);
        Ok(live)
    }

    async fn mend(&self) -> Result<u64, BlobError> {
        let (mut books, now) = self.open();
        let lacks = |blob: &&Blob| blob.state == State::Live && blob.zero_since.is_none() && !books.has_refs(blob.id);
        let ids = books.blobs.values().filter(lacks).map(|blob| blob.id).collect::<Vec<_>>();
        for id in &ids {
            if let Some(blob) = books.blobs.get_mut(id) {
                blob.zero_since = Some(now);
            }
        }
        let holding: BTreeSet<String> = books.refs.keys().map(|(task, ..)| task.clone()).collect();
        books.tasks.retain(|id, task| holding.contains(id) || task.seen_at >= now - TASK_TTL);
        Ok(ids.len() as u64)
    }

    async fn inventory_at(&self) -> Result<Option<DateTime<Utc>>, BlobError> {
        Ok(self.open().0.inventory_at)
    }

    async fn set_inventory_at(&self, at: DateTime<Utc>) -> Result<(), BlobError> {
        self.open().0.inventory_at = Some(at);
        Ok(())
    }
}
