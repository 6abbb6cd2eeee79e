//! All integration tests, as one binary: linking is what tests cost.
mod config;
mod config_errors;
