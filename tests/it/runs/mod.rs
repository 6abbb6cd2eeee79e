//! The answers to the run store seam.

pub mod dynamodb;
mod edges;
mod random;
mod reports;
pub mod world;

use apalis_janitor::{run_store_conformance, runs::memory::MemoryStore};

use dynamodb::DynamoWorld;
use world::SqliteWorld;

run_store_conformance!(memory, MemoryStore::default());
run_store_conformance!(sqlite, SqliteWorld::new("delete").await);
run_store_conformance!(sqlite_wal, SqliteWorld::new("wal").await);
run_store_conformance!(dynamodb_local, DynamoWorld::new().await);
