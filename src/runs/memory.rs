//! Runs in memory, for tests.
#[derive(Debug, Default)]
/// x
pub struct MemoryStore;
