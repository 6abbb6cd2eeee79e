//! Which files are temporaries that a writer has left behind.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

use chrono::{DateTime, TimeDelta, Utc};

/// How long a temporary file is left to its writer.
const AGE_MIN: TimeDelta = TimeDelta::days(1);
/// The first instant that is taken for one in a name: 2001-09-09, the first with 13 digits.
const EPOCH_MS_MIN: i64 = 1_000_000_000_000;

/// Whether a file is a temporary that its writer has left: its name is `<anything>.tmp.<ms>`, the milliseconds from the epoch to
/// when it was begun, and both that and `modified` are more than a day before `now`. In doubt it is not.
///
/// ```
/// use apalis_janitor::host::temporaries::is_leaked;
/// use chrono::DateTime;
///
/// let [begun, now] = [1_763_000_000_000, 1_763_100_000_000].map(|ms| DateTime::from_timestamp_millis(ms).unwrap());
/// assert!(is_leaked("posts.json.tmp.1763000000000".as_ref(), begun, now));
/// assert!(!is_leaked("posts.json".as_ref(), begun, now));
/// ```
#[must_use]
pub fn is_leaked(name: &OsStr, modified: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    let is_old = |instant: DateTime<Utc>| now - instant > AGE_MIN;
    begun(name).is_some_and(is_old) && is_old(modified)
}

/// When a temporary file of this name was begun.
fn begun(name: &OsStr) -> Option<DateTime<Utc>> {
    let name = name.as_bytes();
    let (stem, ms) = name.split_at(name.iter().rposition(|byte| *byte == b'.')?);
    let digits = ms[1..].iter().all(u8::is_ascii_digit).then(|| str::from_utf8(&ms[1..]).ok())??;
    let is_temporary = stem.len() > ".tmp".len() && stem.ends_with(b".tmp");
    let ms = digits.parse().ok().filter(|ms| is_temporary && !digits.starts_with('0') && *ms >= EPOCH_MS_MIN)?;
    DateTime::from_timestamp_millis(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_763_600_000_000;
    const DAY_MS: i64 = 86_400_000;

    fn is_leaked_at(name: &[u8], modified_ms: i64) -> bool {
        let [modified, now] = [modified_ms, NOW_MS].map(|ms| DateTime::from_timestamp_millis(ms).unwrap());
        is_leaked(OsStr::from_bytes(name), modified, now)
    }

    #[test]
    fn a_temporary_is_leaked_after_a_day() {
        let name = |ms: i64| format!("posts.json.tmp.{ms}").into_bytes();
        let old = NOW_MS - DAY_MS - 1;
        assert!(is_leaked_at(&name(old), old));
        // Not at the day itself, neither by its name nor by its time; nor what is from the future.
        assert!(!is_leaked_at(&name(old + 1), old));
        assert!(!is_leaked_at(&name(old), old + 1));
        assert!(!is_leaked_at(&name(old), NOW_MS + DAY_MS));
        assert!(!is_leaked_at(&name(NOW_MS + 2 * DAY_MS), old));
        assert!(is_leaked_at(&name(EPOCH_MS_MIN), old));
        assert!(!is_leaked_at(&name(EPOCH_MS_MIN - 1), old));
    }

    #[test]
    fn no_other_name_is_a_temporarys() {
        for name in [
            &b""[..],
            b".",
            b"posts.json",
            b"posts.json.tmp",
            b"posts.json.tmp.",
            b"posts.json.tmp.12",
            b"posts.json.tmp.1763000000",
            b"posts.json.tmp.01763000000000",
            b"posts.json.tmp.+1763000000000",
            b"posts.json.tmp.1763000000000x",
            b"posts.json.tmp.1763000000000.png",
            b"posts.json.tmp.99999999999999999999999",
            b"posts.json.tmp.9223372036854775807",
            b"posts.json.TMP.1763000000000",
            b"posts.json.1763000000000",
            b"posts.jsontmp.1763000000000",
            b".tmp.1763000000000",
            b"1763000000000",
        ] {
            assert!(!is_leaked_at(name, 0), "{}", String::from_utf8_lossy(name));
        }
        assert!(is_leaked_at(b"\xff\n.tmp.1763000000000", 0));
    }
}
