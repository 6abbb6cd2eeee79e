//! What every [`Catalog`] promises: see [`blob_catalog_conformance!`](crate::blob_catalog_conformance).

#![allow(clippy::missing_panics_doc, reason = "a suite fails by panicking")]

mod puts;
mod random;
mod reads;
mod sweeps;
mod tasks;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};

pub use puts::*;
pub use random::*;
pub use reads::*;
pub use sweeps::*;
pub use tasks::*;

use crate::blobs::{
    Blob, BlobError, BlobId, Catalog, Digest, Tag,
    catalog::{Begun, Committed, Cutoffs, Filter},
};

/// A catalog whose clock can be put forward.
pub trait Subject: Catalog {
    /// Puts the catalog's clock forward.
    fn advance(&self, by: Duration);
}

#[cfg(any(feature = "sqlite", feature = "postgres"))]
impl Subject for crate::blobs::catalog::SqlCatalog {
    fn advance(&self, by: Duration) {
        Self::advance(self, by);
    }
}

impl Subject for crate::blobs::catalog::memory::MemoryCatalog {
    fn advance(&self, by: Duration) {
        Self::advance(self, by);
    }
}

/// Writes one `#[tokio::test]` for each promise of the suite, in a module of the given name.
///
/// The expression is a future of an empty catalog and of whatever must live as long as it, such as a server.
#[macro_export]
macro_rules! blob_catalog_conformance {
    ($answer:ident, $make:expr) => {
        $crate::blob_catalog_conformance! { @cases $answer, $make;
            uploads_what_is_not_there_and_shares_what_is
            uploads_again_while_another_writer_is_pending
            lets_one_of_two_writers_win_and_shares_it
            lets_one_of_many_writers_win_at_the_same_moment
            fences_a_writer_whose_blob_was_claimed
            commits_twice_without_harm
            gives_up_what_is_pending_only
            keeps_one_ref_of_the_same_put
            refuses_a_tag_that_breaks_a_rule
            sees_a_writer_alive_that_touches
            refuses_an_attempt_that_was_released
            refuses_to_commit_what_was_released_meanwhile
            knows_a_release_before_the_first_put
            takes_a_retry_after_a_release
            makes_refs_final_once
            releases_lower_attempts_when_one_is_finalized
            refuses_to_finalize_what_is_not_there_or_over
            never_drops_a_final_ref_by_a_release
            sets_zero_since_when_the_last_ref_goes
            releases_two_refs_to_one_blob_at_the_same_moment
            releases_a_seen_task_only_unchanged
            deletes_the_refs_of_one_task
            lists_open_tasks_by_id
            shows_the_blobs_of_a_digest_with_the_live_one_first
            shows_the_refs_of_a_digest_oldest_first
            lists_refs_in_pages_by_filter
            counts_what_there_is
            shows_live_blobs_of_a_shard
            remembers_when_an_inventory_ended
            tells_which_ids_it_knows
            finds_due_what_is_older_than_the_cutoffs_only
            pages_through_what_is_due_by_stage_and_age
            claims_only_what_the_cutoffs_still_allow
            claims_nothing_that_was_put_again
            puts_anew_what_was_claimed
            claims_each_blob_once_by_many_at_the_same_moment
            claims_again_what_a_crash_left
            forgets_claimed_blobs_only
            puts_off_longer_each_time
            forgets_a_task_that_holds_nothing
            mends_nothing_where_nothing_is_amiss
            keeps_final_refs_live_in_any_order
        }
    };
    (@cases $answer:ident, $make:expr; $($case:ident)+) => {
        mod $answer {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let (catalog, _kept) = $make.await;
                    $crate::blobs::conformance::catalog::$case(catalog).await;
                }
            )+
        }
    };
}

/// A minute, which every age of the cases is made of.
const MINUTE: Duration = Duration::from_mins(1);
/// The size that every blob of the cases has.
const SIZE: u64 = 5;

/// The digest that begins with `byte`, and goes on with it.
fn digest(byte: u8) -> Digest {
    Digest::new([byte; 32])
}

/// The first attempt of `task`, which puts `name`.
fn tag(task: &str, name: &str) -> Tag {
    Tag { name: name.to_owned(), ..Tag::of(task) }
}

/// The same at `attempt`.
fn at_attempt(attempt: u32, tag: &Tag) -> Tag {
    Tag { attempt, ..tag.clone() }
}

/// Begins, where the bytes are not there.
async fn upload(catalog: &dyn Catalog, digest: Digest, tag: &Tag) -> BlobId {
    match catalog.begin(digest, SIZE, tag).await.expect("begun") {
        Begun::Upload(id) => id,
        Begun::Shared(id) => panic!("{id} is there already"),
    }
}

/// Puts bytes that are not there.
async fn put(catalog: &dyn Catalog, digest: Digest, tag: &Tag) -> BlobId {
    let id = upload(catalog, digest, tag).await;
    assert_eq!(catalog.commit(id, digest, tag).await.expect("committed"), Committed::Live);
    id
}

/// Puts bytes and lets go of them, so that nothing refers to them.
async fn orphan(catalog: &dyn Catalog, digest: Digest) -> BlobId {
    let tag = tag(&format!("orphan-{digest}"), "");
    let id = put(catalog, digest, &tag).await;
    catalog.release(&tag.task, 1).await.expect("released");
    id
}

/// The blob of an id and digest, which is there.
async fn blob(catalog: &dyn Catalog, digest: Digest, id: BlobId) -> Blob {
    let found = catalog.blobs(digest).await.expect("read");
    found.into_iter().find(|blob| blob.id == id).expect("the blob is there")
}

/// Everything that is old enough to go at this moment, whatever its age.
async fn all_due(subject: &dyn Subject) -> Cutoffs {
    // What was done in the same millisecond is before the cutoffs, too.
    subject.advance(Duration::from_millis(1));
    cutoffs(subject.now().await.expect("read"))
}

fn cutoffs(at: DateTime<Utc>) -> Cutoffs {
    Cutoffs { unreferenced: at, pending: at, retry: at }
}

/// Claims everything that is due, and answers it.
async fn claim_all(subject: &dyn Subject) -> Vec<BlobId> {
    let cutoffs = all_due(subject).await;
    let due = subject.due(cutoffs, None, 1_000).await.expect("read");
    subject.claim(&due, cutoffs).await.expect("claimed")
}

/// The names of all refs of a task, with whether they are final.
async fn names(catalog: &dyn Catalog, task: &str) -> Vec<(String, bool)> {
    let filter = Filter { task: Some(task.to_owned()), run: None };
    let refs = catalog.list(&filter, None, 1_000).await.expect("read");
    refs.into_iter().map(|one| (one.tag.name, one.is_final)).collect()
}

fn is_closed<T: std::fmt::Debug>(result: Result<T, BlobError>, expected: u32) {
    let error = result.expect_err("the attempt is over");
    assert!(matches!(error, BlobError::Closed { closed, .. } if closed == expected), "{error:?}");
}

/// Carries the futures out at the same time, each on a thread of its own.
async fn at_once<T: Send + 'static>(
    subject: &Arc<dyn Subject>,
    count: usize,
    act: impl Fn(Arc<dyn Subject>, usize) -> futures::future::BoxFuture<'static, T>,
) -> Vec<T> {
    let tasks: Vec<_> = (0..count).map(|number| tokio::spawn(act(Arc::clone(subject), number))).collect();
    futures::future::join_all(tasks).await.into_iter().map(|done| done.expect("no panic")).collect()
}
