//! All integration tests, as one binary: linking is what tests cost.
#![recursion_limit = "256"]
#![allow(clippy::unwrap_used, reason = "a test that panics fails, which is what is wanted")]

mod backend;
mod beat;
mod blob_catalog;
mod blob_chaos;
mod blob_home;
mod blob_late;
mod blob_model;
mod blob_objects;
mod blob_random;
mod blob_store;
mod blob_stuck;
mod cli;
mod cli_blobs;
mod cli_catalog;
mod cli_jobs;
mod cli_orphans;
mod cli_s3;
mod config;
mod config_blobs;
mod config_errors;
mod dynamodb;
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
mod orphans;
mod postgres;
mod process;
mod queue;
mod redis;
mod runs;
mod s3;
mod seed;
mod worker;
