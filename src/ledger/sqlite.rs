//! Placeholder.

/// The tables.
pub const SCHEMA: &str = "";
