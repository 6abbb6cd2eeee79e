//! The store in Cassandra.

mod edges;
mod server;
pub mod world;

use apalis_janitor::run_store_conformance;

use world::CassandraWorld;

run_store_conformance!(cassandra, CassandraWorld::new().await);
