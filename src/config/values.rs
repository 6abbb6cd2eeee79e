//! Values that cannot be wrong: each is checked where it is made.

use std::{ops::RangeInclusive, time::Duration};

use super::scalar::Scalar;

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
            _ => Err(Self::rule()),
        }
    }

    pub(super) fn rule() -> String {
        format!("must be a whole number of days from 1 to {}; leave it out to keep for ever", Self::MAX)
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
    /// The default where a batch costs much by itself.
    pub(super) const LARGE: Self = Self(10_000);

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

/// A share of a whole, in percent: 0 to 100.
///
/// ```
/// use apalis_janitor::config::Share;
/// let half = Share::parse("50%").unwrap();
/// assert!(half.is_exceeded(51, 100) && !half.is_exceeded(50, 100));
/// assert!(Share::parse("0.5").is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u8);

impl Share {
    /// Reads `0%` to `100%`; the error is the rule that it breaks.
    pub fn parse(text: &str) -> Result<Self, String> {
        let digits = text.strip_suffix('%').filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()));
        let percent = digits.and_then(|digits| digits.parse().ok()).filter(|percent| *percent <= 100);
        percent.map(Self).ok_or_else(|| "must be a share from \"0%\" to \"100%\", in whole percent".to_owned())
    }

    /// The share as a part of 1.
    #[must_use]
    pub fn as_part(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// Whether `part` is more than this share of `whole`.
    #[must_use]
    pub const fn is_exceeded(self, part: u64, whole: u64) -> bool {
        part as u128 * 100 > whole as u128 * self.0 as u128
    }
}

impl Default for Share {
    /// A half.
    fn default() -> Self {
        Self(50)
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// What a duration must be.
const DURATION_RULE: &str =
    "must be a whole number with a unit (ms, s, m, h, d, w), such as \"90s\", \"15m\" or \"7d\"";

/// Reads `250ms`, `90s`, `15m`, `1h`, `7d` or `2w`; the error is the rule that it breaks.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
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

const SIZE_RULE: &str =
    "must be a whole number of bytes, or one with a unit (kB, MB, GB, TB, KiB, MiB, GiB, TiB), such as \"50MB\"";

/// Reads `1048576`, `50MB` or `50MiB`, in bytes; the error is the rule that it breaks.
pub(super) fn size(scalar: &Scalar) -> Result<u64, String> {
    let refused = || SIZE_RULE.to_owned();
    if let Some(bytes) = scalar.whole() {
        return u64::try_from(bytes).map_err(|_| refused());
    }
    let text = scalar.text().ok_or_else(refused)?.trim();
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(refused)?;
    let number: u64 = text[..digits_end].parse().map_err(|_| refused())?;
    let unit: u64 = match text[digits_end..].trim_start() {
        "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(refused()),
    };
    number.checked_mul(unit).filter(|bytes| i64::try_from(*bytes).is_ok()).ok_or_else(refused)
}

/// A duration as it would be written, in the largest unit that leaves no rest.
fn written(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    match units.into_iter().find(|(_, length)| millis >= *length && millis.is_multiple_of(*length)) {
        Some((unit, length)) => format!("{}{unit}", millis / length),
        None if millis == 0 => "0s".to_owned(),
        None => format!("{millis}ms"),
    }
}

/// Reads a duration within a range; the error is the rule that it breaks.
pub(super) fn duration_within(text: &str, range: &RangeInclusive<Duration>) -> Result<Duration, String> {
    match duration(text)? {
        within if range.contains(&within) => Ok(within),
        _ => Err(format!("must be from {} to {}", written(*range.start()), written(*range.end()))),
    }
}

/// Checks the name of a job, a host or a namespace, which becomes part of keys and of file names; the error is the rule that
/// it breaks.
pub fn name(text: &str) -> Result<String, String> {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if text.len() <= 64 && text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(inner) {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 64 letters, digits, `_`, `.` or `-`, and begin with a letter or a digit".to_owned())
    }
}

/// The one of `known` that `word` was probably meant to be.
pub(super) fn suggest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let far_max = (word.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&word.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(far, _)| *far <= far_max)
        .min()
        .map(|(_, candidate)| candidate)
}

/// `; did you mean "x"?`, where there is something close to `word`.
pub(super) fn did_you_mean<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    suggest(word, known).map(|meant| format!("; did you mean {meant:?}?")).unwrap_or_default()
}
