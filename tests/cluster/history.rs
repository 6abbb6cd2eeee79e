//! What was seen of a cluster: what was asked for, what was reported, what the stores saw, and when there were faults.

use apalis_janitor::report::Outcome;

/// Milliseconds since 1970, or a span of them.
pub type Millis = i64;

/// A request that was put on the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The job.
    pub job: String,
    /// The scheduled instant; none: by hand.
    pub tick: Option<Millis>,
    /// Its id on the queue.
    pub id: String,
    /// When it was asked for.
    pub at: Millis,
}

/// A final report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The job.
    pub job: String,
    /// The request; none where only the log tells of it.
    pub request: Option<String>,
    /// The scheduled instant; none: by hand.
    pub tick: Option<Millis>,
    /// How it ended.
    pub outcome: Outcome,
    /// Its lock's number; none: it did not get the lock.
    pub fence: Option<u64>,
    /// How many runs it says that it deleted.
    pub deleted: u64,
    /// How long it took.
    pub took: Millis,
}

impl Told {
    /// Whether the job was executed for it.
    pub fn is_effective(&self) -> bool {
        match self.outcome {
            Outcome::Done | Outcome::Limited | Outcome::Failed => self.fence.is_some(),
            Outcome::Skipped | Outcome::Busy | Outcome::Refused => false,
        }
    }

    /// What tells one execution from another, as far as the log knows.
    pub fn key(&self) -> (String, Option<Millis>, &'static str, Option<u64>, u64, Millis) {
        (self.job.clone(), self.tick, self.outcome.as_str(), self.fence, self.deleted, self.took)
    }
}

/// What a store saw, in its own order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whose store it is.
    pub job: String,
    /// When, by the clock of who did it.
    pub at: Millis,
    /// The fence that held then.
    pub fence: u64,
    /// The run that was deleted; none: the fence was raised to this.
    pub run: Option<String>,
}

/// A time in which something was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub what: &'static str,
    /// From when.
    pub from: Millis,
    /// Until when.
    pub to: Millis,
    /// How long after it beats may still be away; none: it costs no tick.
    pub blind: Option<Millis>,
    /// Whether Redis forgot what it knew.
    pub forgets: bool,
    /// Whether an answer of the store may be lost, so that more went than was told.
    pub mutes_store: bool,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// What was asked for.
    pub asked: Vec<Asked>,
    /// What was reported.
    pub told: Vec<Told>,
    /// What the stores saw.
    pub seen: Vec<Seen>,
    /// What was broken.
    pub faults: Vec<Fault>,
    /// The time between two ticks.
    pub every: Millis,
    /// When the beats were told to end.
    pub until: Millis,
}
