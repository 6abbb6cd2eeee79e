//! The commented file that `janitor init` prints.

/// A `janitor.toml` with every key: its meaning, unit, default, and what 0 or leaving it out does.
///
/// ```
/// use apalis_janitor::config::{Config, TEMPLATE};
/// let config = Config::parse_with(TEMPLATE, "janitor.toml".as_ref(), &|_| None).unwrap();
/// assert!(config.jobs.contains_key("old-runs"));
/// ```
pub const TEMPLATE: &str = include_str!("template.toml");
