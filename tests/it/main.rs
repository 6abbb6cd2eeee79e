//! All integration tests, as one binary: linking is what tests cost.

mod backend;
mod queue;
mod redis;
mod worker;
