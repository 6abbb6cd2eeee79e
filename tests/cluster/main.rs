//! Clusters of real processes under faults: what they did is collected as a history, and the history is judged.
//!
//! Each scenario prints the seed of what chance decides in it; `JANITOR_TESTS_SEED` sets it.
#![allow(clippy::unwrap_used, reason = "a test that panics fails, which is what is wanted")]

mod check;
mod cluster;
mod faults;
mod history;
mod host;
mod proxy;
mod read;
mod recovery;
mod soak;
mod stores;

#[path = "../it/certificates.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod certificates;
#[path = "../it/docker.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod docker;
#[path = "../it/postgres.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod postgres;
#[path = "../it/redis.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod redis;
#[path = "../it/redis_shapes.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod redis_shapes;
#[path = "../it/seed.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod seed;
