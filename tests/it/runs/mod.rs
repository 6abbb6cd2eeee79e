//! The answers to the run store seam.

use apalis_janitor::{run_store_conformance, runs::memory::MemoryStore};

run_store_conformance!(memory, MemoryStore::default());
