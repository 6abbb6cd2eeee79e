//! Values that cannot be wrong: each is checked where it is made.

use std::{
    fmt::{self, Debug, Display},
    path::PathBuf,
    time::Duration,
};

/// How many whole days an ended run stays: 1 to 36,500.
///
/// ```
/// use apalis_janitor::config::RetentionDays;
/// assert_eq!(RetentionDays::new(30).unwrap().get(), 30);
/// assert!(RetentionDays::new(0).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RetentionDays(u16);

impl RetentionDays {
    /// The most days: a hundred years.
    pub const MAX: i64 = 36_500;

    /// Checks a number of days; the error is the rule that it breaks.
    pub fn new(days: i64) -> Result<Self, String> {
        match u16::try_from(days) {
            Ok(whole) if (1..=Self::MAX).contains(&days) => Ok(Self(whole)),
            _ => Err(format!("must be a whole number of days from 1 to {}; leave it out to keep for ever", Self::MAX)),
        }
    }

    /// The number of days.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// How many runs one transaction may delete: 1 to 1,000,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSize(u32);

impl BatchSize {
    /// The largest batch.
    pub const MAX: i64 = 1_000_000;

    /// Checks a size; the error is the rule that it breaks.
    pub fn new(size: i64) -> Result<Self, String> {
        match u32::try_from(size) {
            Ok(whole) if (1..=Self::MAX).contains(&size) => Ok(Self(whole)),
            _ => Err(format!("must be a whole number from 1 to {}", Self::MAX)),
        }
    }

    /// The number of runs.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

impl Default for BatchSize {
    fn default() -> Self {
        Self(1_000)
    }
}

/// A URL that may hold a password; it is never shown whole.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// Wraps a URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The URL with its password, for the client that connects.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Display for SecretUrl {
    /// The URL with its password as `***`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((scheme, rest)) = self.0.split_once("://") else { return f.write_str(&self.0) };
        let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        // A password may hold an unescaped slash or `@`: the last `@` before any query ends it.
        let head_end = rest.find(['?', '#']).unwrap_or(rest.len());
        let at = rest[..head_end].rfind('@').or_else(|| rest[..authority_end].rfind('@'));
        match at.and_then(|at| rest[..at].split_once(':').map(|(user, _)| (user, &rest[at..]))) {
            Some((user, tail)) => write!(f, "{scheme}://{user}:***{tail}"),
            None => f.write_str(&self.0),
        }
    }
}

impl Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

/// A store of runs, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// `memory:`, for tests and the demo only.
    Memory,
    /// `sqlite:///abs` or `sqlite:rel`, made absolute.
    Sqlite(PathBuf),
}

impl Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory:"),
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
        }
    }
}

/// What a duration must be.
const DURATION_RULE: &str =
    "must be a whole number with a unit (ms, s, m, h, d, w), such as \"90s\", \"15m\" or \"7d\"";

/// Reads `250ms`, `90s`, `15m`, `1h`, `7d` or `2w`; the error is the rule that it breaks.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let refused = || DURATION_RULE.to_owned();
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(refused)?;
    let number: u64 = text[..digits_end].parse().map_err(|_| refused())?;
    let millis: u64 = match &text[digits_end..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 604_800_000,
        // A month and a year have no fixed length.
        "M" | "mo" | "y" => return Err(format!("{DURATION_RULE}; there are no months or years")),
        _ => return Err(refused()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(refused)
}
