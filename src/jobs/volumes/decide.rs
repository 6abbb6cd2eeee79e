//! What may become of a volume that the engine lists: pure.

use chrono::{DateTime, Utc};

use crate::{
    config::VolumesConfig,
    ledger::Backoff,
    volumes::{Thread, User, Volume},
};

/// A listed volume of the pattern, with all that is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The volume.
    pub volume: Volume,
    /// The id of the thread that it is named after.
    pub thread: String,
    /// The thread's row; none: no thread has this id.
    pub row: Option<Thread>,
    /// The containers that refer to it.
    pub users: Vec<User>,
    /// When it may be tried again, where it could not be removed.
    pub backoff: Option<Backoff>,
}

/// Whether a volume goes now, or why it stays.
///
/// ```
/// use apalis_janitor::jobs::volumes::Verdict;
/// assert_eq!((Verdict::Goes.kept_as(), Verdict::Open.kept_as()), (None, Some("open")));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes.
    Goes,
    /// Its thread is open.
    Open,
    /// No thread has its id.
    Unknown,
    /// It has not the label that it would need.
    Unlabelled,
    /// A container refers to it.
    Referenced,
    /// It is not as old as was asked for.
    Newer,
    /// It could not be removed, and is not tried again before this instant.
    Waiting(DateTime<Utc>),
}

impl Verdict {
    /// The word of the report's `kept`; none where it goes.
    #[must_use]
    pub const fn kept_as(self) -> Option<&'static str> {
        match self {
            Self::Goes => None,
            Self::Open => Some("open"),
            Self::Unknown => Some("unknown"),
            Self::Unlabelled => Some("unlabelled"),
            Self::Referenced => Some("referenced"),
            Self::Newer => Some("newer"),
            Self::Waiting(_) => Some("waiting"),
        }
    }

    /// Whether its back-off still means something.
    pub(super) const fn keeps_backoff(self) -> bool {
        match self {
            Self::Goes | Self::Newer | Self::Waiting(_) => true,
            Self::Open | Self::Unknown | Self::Unlabelled | Self::Referenced => false,
        }
    }
}

impl Found {
    /// Decides at `now`; `before` narrows to what was made earlier.
    ///
    /// The rules speak in the order of how long they will: what belongs to an open thread is not said to lack a label.
    #[must_use]
    pub fn verdict(&self, config: &VolumesConfig, before: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Verdict {
        let has_label = |(key, value): &(String, String)| self.volume.labels.get(key) == Some(value);
        match self.row {
            Some(thread) if !thread.is_closed => return Verdict::Open,
            None if !config.sweep_unknown => return Verdict::Unknown,
            Some(_) | None => {}
        }
        if !config.require_label.as_ref().is_none_or(has_label) {
            return Verdict::Unlabelled;
        }
        if !self.users.is_empty() {
            return Verdict::Referenced;
        }
        // What does not say when it was made may be as new as anything.
        let is_older = |before| self.volume.created_at.is_some_and(|made| made < before);
        if !before.is_none_or(is_older) {
            return Verdict::Newer;
        }
        match &self.backoff {
            Some(backoff) if backoff.next_at > now => Verdict::Waiting(backoff.next_at),
            Some(_) | None => Verdict::Goes,
        }
    }

    /// Since when it has been due: what failed lines up behind what waits for its first try.
    pub(super) fn due_at(&self) -> DateTime<Utc> {
        let tried = self.backoff.as_ref().map(|backoff| backoff.next_at);
        tried.or(self.volume.created_at).unwrap_or(DateTime::<Utc>::MIN_UTC)
    }
}
