//! All integration tests, as one binary: linking is what tests cost.
#![allow(clippy::unwrap_used, reason = "a test that panics fails, which is what is wanted")]

mod config;
mod config_errors;
