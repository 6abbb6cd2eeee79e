//! Single values of the file, and the shapes that keys take.

use std::{ops::RangeInclusive, time::Duration};

use super::{expand::Expanded, values};

/// A value, by its shape.
pub(super) enum Scalar<'r> {
    /// A string, with its variables filled in.
    Text {
        /// As it stands in the file.
        raw: &'r str,
        /// As it is understood.
        expanded: Expanded,
    },
    /// A whole number.
    Whole(i64),
    /// True or false.
    Flag(bool),
    /// Anything else, which no key of ours takes.
    Other,
}

impl Scalar<'_> {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text { expanded, .. } => Some(&expanded.text),
            Self::Whole(_) | Self::Flag(_) | Self::Other => None,
        }
    }

    /// A whole number, which may be written as a string.
    pub(super) fn whole(&self) -> Option<i64> {
        match self {
            Self::Text { expanded, .. } => expanded.text.trim().parse().ok(),
            Self::Whole(number) => Some(*number),
            Self::Flag(_) | Self::Other => None,
        }
    }
}

/// A whole number within a range.
pub(super) fn whole(range: RangeInclusive<i64>) -> impl FnOnce(&Scalar) -> Result<i64, String> {
    move |scalar| {
        let within = scalar.whole().filter(|number| range.contains(number));
        within.ok_or_else(|| match *range.end() {
            i64::MAX => format!("must be a whole number, {} or more", range.start()),
            most => format!("must be a whole number from {} to {most}", range.start()),
        })
    }
}

/// A duration within a range.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl FnOnce(&Scalar) -> Result<Duration, String> {
    // A number without a unit breaks the same rule as a string without one.
    move |scalar| values::duration_within(scalar.text().unwrap_or_default(), &range)
}

/// True or false, which may be written as a string.
pub(super) fn flag(scalar: &Scalar) -> Result<bool, String> {
    match (scalar, scalar.text().map(str::trim)) {
        (Scalar::Flag(flag), _) => Ok(*flag),
        (_, Some("true")) => Ok(true),
        (_, Some("false")) => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// A string that `convert` takes.
pub(super) fn text<T>(convert: impl FnOnce(&str) -> Result<T, String>) -> impl FnOnce(&Scalar) -> Result<T, String> {
    |scalar| convert(scalar.text().ok_or("must be a string")?)
}
