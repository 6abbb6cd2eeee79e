//! All integration tests, as one binary: linking is what tests cost.
#![allow(clippy::unwrap_used, reason = "a test that panics fails, which is what is wanted")]

mod backend;
mod beat;
mod blob_objects;
mod blob_random;
mod blob_store;
mod cli;
mod cli_jobs;
mod config;
mod config_errors;
mod e2e_embedded;
mod e2e_kill;
mod e2e_library;
mod e2e_redis;
mod e2e_secrets;
mod e2e_stale;
mod e2e_ticks;
mod embedded;
mod held;
mod layers;
mod ledger;
mod link;
mod lock;
mod metrics;
mod process;
mod queue;
mod redis;
mod runs;
mod s3;
mod seed;
mod worker;
