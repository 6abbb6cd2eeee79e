//! The answers to the run store seam.

mod edges;
mod mysql;
mod mysql_edges;
mod mysql_outages;
mod random;
mod reports;
pub mod world;

use apalis_janitor::{run_store_conformance, runs::memory::MemoryStore};

use mysql::MysqlWorld;
use world::SqliteWorld;

run_store_conformance!(memory, MemoryStore::default());
run_store_conformance!(sqlite, SqliteWorld::new("delete").await);
run_store_conformance!(sqlite_wal, SqliteWorld::new("wal").await);
run_store_conformance!(mysql_store, MysqlWorld::new().await);
