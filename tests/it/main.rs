//! All integration tests, as one binary: linking is what tests cost.

mod lock;
mod redis;
