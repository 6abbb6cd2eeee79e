//! Jobs: fetch a page, decide, act, until everything is seen or a limit comes first.

use chrono::{DateTime, Utc};

/// Sees what an execution plans and deletes, as it happens.
pub trait Watch: Send + Sync {
    /// A thing was planned (dry run) or is deleted for good (apply).
    fn item(&self, _id: &str) {}

    /// So many things have been planned and deleted since the start.
    fn progress(&self, _planned: u64, _deleted: u64) {}
}

/// Sees nothing.
impl Watch for () {}

/// What one execution may narrow, beside what the configuration says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Narrow {
    /// Only what is older than this instant too: a cutoff can become earlier, never later.
    pub before: Option<DateTime<Utc>>,
}
