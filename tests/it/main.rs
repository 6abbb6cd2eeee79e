//! All integration tests, as one binary: linking is what tests cost.

mod queue;
mod redis;
