//! The `janitor` command.
fn main() {}
