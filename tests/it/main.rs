//! All integration tests, as one binary: linking is what tests cost.

mod embedded;
mod held;
mod ledger;
mod link;
mod lock;
mod redis;
