//! The answers to the run store seam.

pub mod cassandra;
pub mod dynamodb;
mod edges;
mod file_edges;
pub mod files;
pub mod mysql;
mod mysql_edges;
mod mysql_outages;
mod mysql_tls;
mod postgres_check;
mod postgres_edges;
mod postgres_tls;
pub mod postgres_world;
mod random;
mod reports;
pub mod world;

use apalis_janitor::{run_store_conformance, runs::memory::MemoryStore};

use dynamodb::DynamoWorld;
use files::FileWorld;
use mysql::MysqlWorld;
use postgres_world::PostgresWorld;
use world::SqliteWorld;

run_store_conformance!(memory, MemoryStore::default());
run_store_conformance!(sqlite, SqliteWorld::new("delete").await);
run_store_conformance!(sqlite_wal, SqliteWorld::new("wal").await);
run_store_conformance!(postgres, PostgresWorld::new(postgres_world::FRESH).await);
run_store_conformance!(postgres_upgraded, PostgresWorld::new(postgres_world::UPGRADED).await);
run_store_conformance!(citus, PostgresWorld::on_citus().await);
run_store_conformance!(mysql_store, MysqlWorld::new().await);
run_store_conformance!(file, FileWorld::new().await);
run_store_conformance!(dynamodb_local, DynamoWorld::new().await);
