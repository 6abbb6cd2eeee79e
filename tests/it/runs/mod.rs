//! The answers to the run store seam.

mod edges;
mod file_edges;
pub mod files;
mod random;
mod reports;
pub mod world;

use apalis_janitor::{run_store_conformance, runs::memory::MemoryStore};

use files::FileWorld;
use world::SqliteWorld;

run_store_conformance!(memory, MemoryStore::default());
run_store_conformance!(sqlite, SqliteWorld::new("delete").await);
run_store_conformance!(sqlite_wal, SqliteWorld::new("wal").await);
run_store_conformance!(file, FileWorld::new().await);
