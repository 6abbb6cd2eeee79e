//! All integration tests, as one binary: linking is what tests cost.

mod held;
mod ledger;
mod lock;
mod redis;
