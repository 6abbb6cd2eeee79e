//! A content-addressed store for the artifacts of tasks, and what a sweep of it needs.
//!
//! Bytes are named by their SHA-256 and stored once, however many tasks put them. Who refers to them is in a
//! [`Catalog`]; the bytes are [`Objects`]. A task puts artifacts and, when its end is written, finalizes them: what was
//! finalized stays until it is deleted. What a task put and never finalized goes once the task has failed.
//!
//! # The protocol
//! It was model-checked, with two writers of one digest, two sweepers and crashes (`tests/it/blob_model.rs`). An object's
//! key, `aa/<sha256>.<id>`, is never used twice: whoever deletes late harms nobody.
//!
//! 1. A stream is spooled, so that its digest is known. In one transaction: where a live blob of this digest is, its
//!    `zero_since` is taken away and a ref to it added, and that is all. Otherwise a pending blob with a new id is added.
//! 2. The bytes are uploaded under the id's own key, durably; meanwhile the writer touches its pending blob.
//! 3. In one transaction: pending becomes live, and the ref is added. Where the blob is pending no more, a sweeper took it
//!    for abandoned: all over again with a new id. Where another blob of the digest has become live, the ref goes to
//!    that one and our own is to be deleted.
//! 4. [Finalizing](store::BlobStore::finalize) makes a task's refs final.
//! 5. [Releasing](store::BlobStore::release) drops those that are not, of a task that failed, and where a blob has no ref left
//!    sets its `zero_since`.
//! 6. A sweep claims what has been without a ref for longer than the grace: live becomes deleting, in one statement that
//!    asks again. Nothing leads back from there.
//! 7. It deletes the bytes, absent ones too, and then the row. Any sweeper may do this over again.
//!
//! Therefore a final ref means a live blob, and a live blob means durable bytes. The grace is policy, not safety.

pub mod catalog;
#[cfg(feature = "test-util")]
pub mod conformance;
mod digest;
pub mod objects;
pub mod remote;
mod spool;
pub mod store;

use std::{
    fmt::{self, Display},
    time::Duration,
};

use chrono::{DateTime, Utc};

pub use catalog::Catalog;
pub use digest::{BlobId, Digest, Key};
pub use objects::Objects;
pub use remote::Remote;
pub use store::BlobStore;

/// A writer that was not heard of for this long has died, whatever the grace.
pub const PENDING_TTL: Duration = Duration::from_mins(10);

/// A task that holds nothing and was last seen this long ago is forgotten.
pub const TASK_TTL: Duration = Duration::from_hours(24 * 30);

/// What a task says of an artifact that it puts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The task that puts it: 1 to 255 bytes without control characters, as each text here.
    pub task: String,
    /// The run that the task belongs to, where it belongs to one.
    pub run: Option<String>,
    /// Which try of the task, from 1. A retry has a higher one.
    pub attempt: u32,
    /// What the task calls it; it names no file. Relative, with neither `.` nor `..` between its slashes.
    pub name: String,
    /// Its media type, such as `image/png`.
    pub content_type: Option<String>,
}

impl Tag {
    /// The most bytes of each of its texts.
    pub const TEXT_MAX: usize = 255;

    /// A tag of the first attempt of `task`, without a run, a name or a media type.
    #[must_use]
    pub fn of(task: impl Into<String>) -> Self {
        Self { task: task.into(), run: None, attempt: 1, name: String::new(), content_type: None }
    }

    /// Whether it can be put.
    ///
    /// ```
    /// use apalis_janitor::blobs::Tag;
    /// assert!(Tag::of("render-7").check().is_ok());
    /// let up = Tag { name: "../etc/passwd".to_owned(), ..Tag::of("render-7") };
    /// assert!(up.check().unwrap_err().to_string().contains(r#"name "../etc/passwd""#));
    /// ```
    ///
    /// # Errors
    /// [`BlobError::Invalid`], which names the text, its value and the rule.
    pub fn check(&self) -> Result<(), BlobError> {
        if self.attempt == 0 {
            return Err(BlobError::Invalid("attempt 0: must be 1 or more".to_owned()));
        }
        let texts = [
            ("task", Some(&self.task), 1),
            ("run", self.run.as_ref(), 1),
            ("name", Some(&self.name), 0),
            ("content type", self.content_type.as_ref(), 1),
        ];
        for (what, text, least) in texts {
            let Some(text) = text else { continue };
            if !(least..=Self::TEXT_MAX).contains(&text.len()) || text.chars().any(char::is_control) {
                let most = Self::TEXT_MAX;
                let rule = format!("must be {least} to {most} bytes without control characters");
                return Err(BlobError::Invalid(format!("{what} {text:?}: {rule}")));
            }
        }
        if self.name.starts_with('/') || self.name.split('/').any(|part| matches!(part, "." | "..")) {
            let rule = "must be relative, with neither `.` nor `..` between its slashes";
            return Err(BlobError::Invalid(format!("name {:?}: {rule}", self.name)));
        }
        Ok(())
    }
}

/// Where a blob stands. Nothing leads from `Deleting` to another state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// A writer is uploading it.
    Pending,
    /// Its bytes are durable.
    Live,
    /// A sweeper has claimed it.
    Deleting,
}

impl State {
    /// The word in the catalog and in what is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Live => "live",
            Self::Deleting => "deleting",
        }
    }
}

impl Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A blob, as the catalog has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Its id.
    pub id: BlobId,
    /// The SHA-256 of its bytes.
    pub digest: Digest,
    /// How many bytes it has.
    pub size: u64,
    /// Where it stands.
    pub state: State,
    /// When a writer began to put it.
    pub created_at: DateTime<Utc>,
    /// When its writer last said that it is alive.
    pub touched_at: DateTime<Utc>,
    /// Since when nothing has referred to it; none: something does, or it has just been put.
    pub zero_since: Option<DateTime<Utc>>,
    /// How often deleting it failed.
    pub attempts: u32,
    /// Before this a sweep does not try again.
    pub next_at: Option<DateTime<Utc>>,
    /// Why deleting it failed, the last time.
    pub error: Option<String>,
}

impl Blob {
    /// Its object's key.
    #[must_use]
    pub fn key(&self) -> Key {
        Key { digest: self.digest, id: self.id }
    }
}

/// A task's hold on a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ref {
    /// The blob.
    pub blob: BlobId,
    /// The SHA-256 of its bytes.
    pub digest: Digest,
    /// How many bytes it has.
    pub size: u64,
    /// What the task said of it.
    pub tag: Tag,
    /// When it was put.
    pub created_at: DateTime<Utc>,
    /// Whether the task has finalized it.
    pub is_final: bool,
}

/// A task that has put something and not finalized it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenTask {
    /// Its id.
    pub id: String,
    /// Its run, where it named one.
    pub run: Option<String>,
    /// Its highest attempt.
    pub attempt: u32,
    /// When it last put, finalized or touched, on the catalog's clock.
    pub seen_at: DateTime<Utc>,
}

/// What releasing did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// How many refs were dropped.
    pub refs: u64,
    /// How many blobs nothing refers to any more because of that.
    pub blobs: u64,
}

/// How many blobs there are, and how many bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Those that are being put.
    pub pending: u64,
    /// Those that are live.
    pub live: u64,
    /// Those of the live ones that something refers to.
    pub referenced: u64,
    /// Those that a sweeper has claimed.
    pub deleting: u64,
    /// The bytes of all.
    pub bytes: u64,
}

impl Totals {
    /// All of them.
    #[must_use]
    pub const fn blobs(&self) -> u64 {
        self.pending + self.live + self.deleting
    }
}

/// Why a blob store did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// The same call may work later. The name is that of the catalog or of the objects, without a password.
    #[error("{store}: {what}")]
    Unavailable {
        /// Which part.
        store: String,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A guard said no: what is there is not this store, or not what it seems.
    #[error("{0}")]
    Refused(String),
    /// What was given breaks a rule.
    #[error("{0}")]
    Invalid(String),
    /// There is no live blob of that digest.
    #[error("no blob {0}")]
    NotFound(Digest),
    /// The task has no such ref.
    #[error("task {task:?} has put nothing {what}")]
    NoRef {
        /// The task.
        task: String,
        /// Of what there is nothing.
        what: String,
    },
    /// The attempt is over: it was released, for failed or for silent, or a later one was finalized.
    #[error("attempt {attempt} of task {task:?} is over (up to {closed}): a retry puts with a higher attempt")]
    Closed {
        /// The task.
        task: String,
        /// The attempt.
        attempt: u32,
        /// The highest attempt that is over.
        closed: u32,
    },
    /// The bytes are not those that the digest names.
    #[error("blob {digest}: damaged: {what}")]
    Damaged {
        /// What was asked for.
        digest: Digest,
        /// What was found instead.
        what: String,
    },
}

impl BlobError {
    /// The program was built without a feature that is needed.
    #[cfg(not(all(feature = "s3", any(feature = "sqlite", feature = "postgres"))))]
    pub(crate) fn without(feature: &str) -> Self {
        Self::Refused(format!("built without `{feature}`: rebuild with --features {feature}"))
    }

    /// `store` failed at `what`, because of `source`.
    pub fn unavailable(
        store: impl Into<String>,
        what: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Unavailable { store: store.into(), what, source: source.into() }
    }
}
