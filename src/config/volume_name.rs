//! Names of volumes, and the pattern that makes them from the ids of threads.

use std::{fmt, str::FromStr};

/// A name that a volume can have: it becomes part of a URL, so that no other character may be in it.
///
/// ```
/// use apalis_janitor::config::VolumeName;
/// assert!("ha_ws_1".parse::<VolumeName>().is_ok());
/// assert!("ha_ws_1?force=1".parse::<VolumeName>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeName(String);

/// The longest name of a volume: it is the name of a folder.
const NAME_MAX: usize = 255;

impl VolumeName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_inner(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}

impl FromStr for VolumeName {
    type Err = String;

    /// The error is the rule that the text breaks.
    fn from_str(text: &str) -> Result<Self, String> {
        let is_long = (2..=NAME_MAX).contains(&text.len());
        if is_long && text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(is_inner) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "a volume's name must be 2 to {NAME_MAX} letters, digits, `_`, `.` or `-`, and begin with a letter or a digit"
            ))
        }
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How the name of a thread's volume follows from the thread's id: a text with `{id}` in it, once.
///
/// ```
/// use apalis_janitor::config::VolumePattern;
/// let pattern: VolumePattern = "ha_ws_{id}".parse().unwrap();
/// let volume = pattern.volume("12").unwrap();
/// assert_eq!((volume.as_str(), pattern.thread(&volume)), ("ha_ws_12", Some("12")));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumePattern {
    before: String,
    after: String,
}

impl VolumePattern {
    /// The volume of a thread; the error is the rule that the id breaks.
    pub fn volume(&self, thread: &str) -> Result<VolumeName, String> {
        if thread.is_empty() {
            return Err("a thread's id must not be empty".to_owned());
        }
        format!("{}{thread}{}", self.before, self.after).parse()
    }

    /// The thread whose volume this is; `None` where the name does not follow the pattern.
    #[must_use]
    pub fn thread<'v>(&self, volume: &'v VolumeName) -> Option<&'v str> {
        let id = volume.as_str().strip_prefix(&self.before)?.strip_suffix(&self.after)?;
        (!id.is_empty()).then_some(id)
    }
}

impl FromStr for VolumePattern {
    type Err = String;

    /// The error is the rule that the text breaks.
    fn from_str(text: &str) -> Result<Self, String> {
        let rule = "must be a volume's name with `{id}` in it, once, and a letter or a digit at its start, such as \"ha_ws_{id}\"";
        let (before, after) = text.split_once("{id}").ok_or(rule)?;
        // A pattern that is the id alone would take every volume for a thread's.
        let is_fit = before.starts_with(|c: char| c.is_ascii_alphanumeric())
            && before.chars().chain(after.chars()).all(is_inner)
            && text.len() < NAME_MAX;
        if is_fit { Ok(Self { before: before.to_owned(), after: after.to_owned() }) } else { Err(rule.to_owned()) }
    }
}

impl fmt::Display for VolumePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{{id}}{}", self.before, self.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_of_a_volume_becomes_one() {
        for name in ["ab", "ha_ws_1", "1.2-3_4", &"a".repeat(255)] {
            assert_eq!(name.parse::<VolumeName>().unwrap().as_str(), name);
        }
        for name in ["", "a", "_a", "-a", ".a", "a/b", "..", "qq?force=1", "a b", "a%20", "ä1", "a\n", &"a".repeat(256)]
        {
            assert!(name.parse::<VolumeName>().is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_pattern_leads_from_thread_to_volume_and_back() {
        let pattern: VolumePattern = "ha_ws_{id}".parse().unwrap();
        for id in ["1", "12", "7b7a-1"] {
            let volume = pattern.volume(id).unwrap();
            assert_eq!(pattern.thread(&volume), Some(id));
        }
        for id in ["", "1?force=1", "a/b", "..%2f"] {
            assert!(pattern.volume(id).is_err(), "{id:?}");
        }
        for other in ["ha_ws_", "ha_ws", "other"] {
            assert_eq!(pattern.thread(&other.parse().unwrap()), None, "{other}");
        }
    }

    #[test]
    fn a_pattern_names_the_id_once_behind_something() {
        for pattern in ["", "{id}", "ha", "_{id}", "{id}_x", "a{id}{id}", "a/{id}", "a{id}?"] {
            assert!(pattern.parse::<VolumePattern>().is_err(), "{pattern:?}");
        }
        assert_eq!("a{id}-z".parse::<VolumePattern>().unwrap().to_string(), "a{id}-z");
    }
}
