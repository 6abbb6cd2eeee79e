//! The bytes of blobs, by key.

pub mod folder;
#[cfg(feature = "s3")]
pub mod s3;

use std::fmt::Debug;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;

use super::{BlobError, Digest, Key};

/// A stream of bytes, in pieces of a few MiB at most.
pub type Bytes = BoxStream<'static, Result<bytes::Bytes, BlobError>>;

/// An object as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it is, from the root.
    pub path: String,
    /// Its key; none: it is no object of ours.
    pub key: Option<Key>,
    /// How many bytes it has.
    pub size: u64,
    /// When it was last written, on the clock of whoever stores it.
    pub modified: DateTime<Utc>,
}

/// Bytes that have come to their end and lie in a file, until an upload takes them.
#[derive(Debug)]
pub struct Spooled {
    /// The file; it goes with this value.
    pub file: tempfile::NamedTempFile,
    /// The SHA-256 of the bytes.
    pub digest: Digest,
    /// How many there are.
    pub size: u64,
}

/// Where the bytes are. Each answer keeps the promises of the suite in `blobs::conformance`.
#[async_trait]
pub trait Objects: Send + Sync + Debug {
    /// What it is, for errors: its URL without secrets.
    fn name(&self) -> &str;

    /// The folder in which streams are spooled.
    fn spool(&self) -> &std::path::Path;

    /// Whether a spooled file is to be durable: then it is on its way to the disk while more of it comes.
    fn is_spool_durable(&self) -> bool {
        false
    }

    /// The identity of the catalog that these objects belong to; `None` where they are not marked, because none has been
    /// put yet.
    ///
    /// # Errors
    /// [`BlobError::Refused`] where what is there is not marked and has other things in it: no blob store.
    async fn identity(&self) -> Result<Option<String>, BlobError>;

    /// Marks the objects as those of this catalog, where they are not marked; answers what they are marked with then.
    async fn mark(&self, identity: &str) -> Result<String, BlobError>;

    /// Step 2: stores the bytes under a key that has none, and verifies that all have arrived. When it answers they are
    /// durable, the name included: a power cut takes neither.
    ///
    /// # Errors
    /// After an error there may be an object with all of the bytes under the key, and never one with a part of them.
    async fn upload(&self, spooled: &Spooled, key: &Key) -> Result<(), BlobError>;

    /// The bytes under a key; `None` where there are none.
    async fn read(&self, key: &Key) -> Result<Option<Bytes>, BlobError>;

    /// How many bytes are under a key; `None` where there are none.
    async fn size(&self, key: &Key) -> Result<Option<u64>, BlobError>;

    /// Step 7: deletes the bytes under these keys, many at once; absent ones are fine. An answer for each key, in order.
    async fn delete(&self, keys: &[Key]) -> Vec<Result<(), BlobError>>;

    /// All that is stored in the folder of `shard`, ours or not, in pages of at most 1,000.
    fn list(&self, shard: u8) -> BoxStream<'_, Result<Vec<Found>, BlobError>>;

    /// Deletes what crashes left in the spool, last written before `before`, and answers how many files; without `leave` it
    /// only counts.
    async fn clean(&self, before: DateTime<Utc>, leave: bool) -> Result<u64, BlobError>;
}
