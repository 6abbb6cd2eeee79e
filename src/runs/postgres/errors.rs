//! What an error of the server means for a sweep.

use super::FENCE_TABLE;
use crate::runs::StoreError;

/// Statement timeout; lock timeout; serialization; deadlock; the server ended a transaction that was idle, or a session.
const TIMED_OUT: [&str; 6] = ["57014", "55P03", "40001", "40P01", "25P03", "57P05"];
/// Integrity constraints, what triggers raise, and what only a restricted view lets go.
const REFUSED: [&str; 3] = ["23", "P0", "44"];
/// Missing privileges, and a transaction that may only read.
const DENIED: [&str; 2] = ["42501", "25006"];

/// The error of `store`, which is at `place`.
pub(super) fn told(store: &'static str, place: &str, error: &sqlx::Error) -> StoreError {
    let what = format!("{place}: {}", plain(error));
    let Some(code) = code(error) else { return StoreError::unavailable(store, what) };
    if TIMED_OUT.contains(&code.as_str()) {
        return StoreError::TimedOut { store };
    }
    if REFUSED.iter().any(|class| code.starts_with(class)) {
        return StoreError::Refused { store, source: what.into() };
    }
    if DENIED.contains(&code.as_str()) {
        // Say what the table is, so that its absence can be mended by hand.
        return StoreError::unavailable(store, format!("{what} (a real run needs to write, at first: {FENCE_TABLE})"));
    }
    StoreError::unavailable(store, what)
}

/// The server's own code.
pub(super) fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// Whether something of the owner's holds what was to go.
pub(super) fn is_refused(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| REFUSED.iter().any(|class| code.starts_with(class)))
}

/// The server's message without the driver's preamble.
fn plain(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        sqlx::Error::PoolTimedOut => "does not answer, or has no connection left".to_owned(),
        error => error.to_string(),
    }
}
