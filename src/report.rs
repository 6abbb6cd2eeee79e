//! What one execution of one job planned, did, kept and failed to do.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    str::FromStr,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Whether an execution may change anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Plan and delete.
    Apply,
    /// Plan only.
    DryRun,
}

impl Mode {
    /// The word that stands in messages and reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "apply",
            Self::DryRun => "dry_run",
        }
    }
}

impl Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "apply" => Ok(Self::Apply),
            "dry_run" => Ok(Self::DryRun),
            _ => Err(format!("mode {word:?} is neither \"apply\" nor \"dry_run\"")),
        }
    }
}

/// How an execution ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything that was planned was done.
    Done,
    /// A limit or a stop came first; the next execution goes on.
    Limited,
    /// There was nothing to do by configuration, or a newer tick took its place.
    Skipped,
    /// Another worker holds the job's lock.
    Busy,
    /// A guard said no; nothing was deleted after it spoke.
    Refused,
    /// It could not run, or items failed.
    Failed,
}

impl Outcome {
    /// Every outcome, for metrics and tables.
    pub const ALL: [Self; 6] = [Self::Done, Self::Limited, Self::Skipped, Self::Busy, Self::Refused, Self::Failed];

    /// The word that stands in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Limited => "limited",
            Self::Skipped => "skipped",
            Self::Busy => "busy",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    /// The exit code of a process that did this and nothing else.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Done | Self::Skipped => 0,
            Self::Failed => 1,
            Self::Busy => 4,
            Self::Limited => 5,
            Self::Refused => 6,
        }
    }
}

impl Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How many of each kind of thing: `runs`, `events`, `parent_of_kept`, …
///
/// ```
/// use apalis_janitor::report::Counts;
/// let mut counts = Counts::default();
/// counts.add("runs", 2);
/// counts.add("runs", 1);
/// assert_eq!((counts.get("runs"), counts.get("events")), (3, 0));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Counts(BTreeMap<String, u64>);

impl Counts {
    /// Adds `more` of `kind`; 0 makes the kind show with the count it has.
    pub fn add(&mut self, kind: &str, more: u64) {
        match self.0.get_mut(kind) {
            Some(count) => *count += more,
            None => {
                self.0.insert(kind.to_owned(), more);
            }
        }
    }

    /// Adds all that `other` counts.
    pub fn merge(&mut self, other: &Self) {
        for (kind, count) in &other.0 {
            self.add(kind, *count);
        }
    }

    /// How many of `kind`; 0 where none were counted.
    #[must_use]
    pub fn get(&self, kind: &str) -> u64 {
        self.0.get(kind).copied().unwrap_or(0)
    }

    /// Every kind with its count, in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(kind, count)| (kind.as_str(), *count))
    }
}

impl Display for Counts {
    /// `events 11021, runs 1101`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (kind, count)) in self.iter().enumerate() {
            write!(f, "{}{kind} {count}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl<'a> FromIterator<(&'a str, u64)> for Counts {
    fn from_iter<I: IntoIterator<Item = (&'a str, u64)>>(counts: I) -> Self {
        Self(counts.into_iter().map(|(kind, count)| (kind.to_owned(), count)).collect())
    }
}

/// One thing that could not be deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The id of the thing.
    pub item: String,
    /// Why, without a secret.
    pub error: String,
}

/// The most failures that a report names; the rest is a count in its reason.
pub const FAILURES_MAX: usize = 100;

/// The longest name or error in a report, in characters: what a server says may be of any length.
pub const TEXT_MAX: usize = 1_000;

/// The text, or its beginning where it is longer than [`TEXT_MAX`].
pub(crate) fn short(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(TEXT_MAX) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// What one execution of one job did: the task's result, the ledger's entry and the last line of `janitor run --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// A ULID, unique for the execution.
    pub id: String,
    /// The version of the crate that wrote it.
    pub version: String,
    /// Which delivery of the request this was, from 1.
    pub attempt: u32,
    /// The id of the request on the queue, or none for what ran without one.
    #[serde(default)]
    pub request: Option<String>,
    /// The job's name.
    pub job: String,
    /// The job's kind, such as `retention`.
    pub kind: String,
    /// Whether anything could be deleted.
    pub mode: Mode,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it ended so, where there is more to say.
    pub reason: Option<String>,
    /// The scheduled instant, or none where somebody asked by hand.
    pub tick: Option<DateTime<Utc>>,
    /// The host that ran it.
    pub host: String,
    /// The lock's fence, or none for a dry run and where the lock was not had.
    pub fence: Option<u64>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// The newest cutoff that was applied: things at or after it stayed.
    pub cutoff: Option<DateTime<Utc>>,
    /// What was planned.
    pub planned: Counts,
    /// What was deleted; nothing in a dry run.
    pub deleted: Counts,
    /// What stayed, by reason.
    pub kept: Counts,
    /// How many bytes came free, where the target can tell.
    pub bytes_freed: u64,
    /// How many batches were executed.
    pub batches: u64,
    /// What could not be deleted, [`FAILURES_MAX`] at most.
    pub failures: Vec<Failure>,
}

impl Report {
    /// A report with an id of its own that counts nothing: `job` of `kind` was `outcome` in `mode`, at `started_at`.
    #[must_use]
    pub fn new(job: &str, kind: &str, mode: Mode, outcome: Outcome, started_at: DateTime<Utc>) -> Self {
        Self {
            id: ulid::Ulid::from_datetime(started_at.into()).to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            attempt: 1,
            request: None,
            job: job.to_owned(),
            kind: kind.to_owned(),
            mode,
            outcome,
            reason: None,
            tick: None,
            host: String::new(),
            fence: None,
            started_at,
            seconds: 0.0,
            cutoff: None,
            planned: Counts::default(),
            deleted: Counts::default(),
            kept: Counts::default(),
            bytes_freed: 0,
            batches: 0,
            failures: Vec::new(),
        }
    }

    /// Says on one line what became of an execution.
    pub(crate) fn log(&self) {
        let tick = self.tick.map(|tick| tick.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true));
        let Self { job, mode, outcome, fence, seconds, planned, deleted, .. } = self;
        let reason = self.reason.as_deref();
        if matches!(outcome, Outcome::Failed | Outcome::Refused) {
            tracing::error!(job, %mode, tick, fence, %outcome, reason, seconds, %planned, %deleted, "job ended");
        } else {
            tracing::info!(job, %mode, tick, fence, %outcome, reason, seconds, %planned, %deleted, "job ended");
        }
    }
}

/// An error with its sources on one line, cut where it is very long: `queue: unavailable: connection refused`.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        // Some libraries print their source themselves: never say a thing twice.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    short(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_any_length_is_cut() {
        let error = std::io::Error::other("ä".repeat(100_000));
        assert_eq!(chain(&error).chars().count(), TEXT_MAX + 1);
        assert_eq!(short("ä".repeat(TEXT_MAX)), "ä".repeat(TEXT_MAX));
    }
}
