//! All integration tests, as one binary: linking is what tests cost.

mod held;
mod lock;
mod redis;
