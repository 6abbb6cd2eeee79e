//! The name of a file that a rotation has not finished with: it says how far the rotation came.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
};

/// What stands between the log's own name and the numbers.
const MARK: &str = ".rotating-";
/// The end of a name whose file will become the live one by two steps, not one.
const NEW: &str = "-new";

/// Where what is not yet in the live file of an old one will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It is being appended at this place of the live file; after a crash, all, some or nothing of it is there.
    At(u64),
    /// Nothing of it is there.
    Open,
}

/// What the name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// The inode of the file that was live. The name is its own after the exchange, and its copy's before.
    pub inode: u64,
    /// Where in it begins what the live file keeps.
    pub start: u64,
    /// Up to where it is in the live file.
    pub copied: u64,
    /// Where the rest goes.
    pub next: Next,
}

/// What a name in the log's folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// The old file, or its copy before the exchange.
    Rotating(Progress),
    /// The copy, where there is no exchange; with the inode of the file that was live.
    New(u64),
}

/// The name that says `progress`.
pub(super) fn of_progress(log: &OsStr, progress: Progress) -> OsString {
    let next = match progress.next {
        Next::At(at) => at.to_string(),
        Next::Open => "open".to_owned(),
    };
    let numbers = format!("{MARK}{}-{}-{}-{next}", progress.inode, progress.start, progress.copied);
    join(log, &numbers)
}

/// The name of the copy where there is no exchange.
pub(super) fn of_new(log: &OsStr, inode: u64) -> OsString {
    join(log, &format!("{MARK}{inode}{NEW}"))
}

/// The name of a generation, 1 being the newest.
pub(super) fn of_generation(log: &OsStr, number: u32, is_compressed: bool) -> OsString {
    join(log, &format!(".{number}{}", if is_compressed { ".gz" } else { "" }))
}

/// The name of a generation that is being compressed.
pub(super) fn of_compressing(log: &OsStr) -> OsString {
    join(log, &format!("{MARK}gz"))
}

/// Reads a name; none where it is no rotation's of this log.
pub(super) fn parse(log: &OsStr, name: &OsStr) -> Option<Named> {
    let rest = name.as_bytes().strip_prefix(log.as_bytes())?.strip_prefix(MARK.as_bytes())?;
    let rest = str::from_utf8(rest).ok()?;
    if let Some(inode) = rest.strip_suffix(NEW) {
        return Some(Named::New(inode.parse().ok()?));
    }
    let parts: Vec<&str> = rest.split('-').collect();
    let [inode, start, copied, next] = parts[..] else { return None };
    let next = if next == "open" { Next::Open } else { Next::At(next.parse().ok()?) };
    let progress =
        Progress { inode: inode.parse().ok()?, start: start.parse().ok()?, copied: copied.parse().ok()?, next };
    // Only what we would have written: no sign and no leading zero, nothing beyond the end of a file.
    (progress.start <= progress.copied && of_progress(log, progress) == name).then_some(Named::Rotating(progress))
}

fn join(log: &OsStr, end: &str) -> OsString {
    OsString::from_vec([log.as_bytes(), end.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_as_it_was_written() {
        for log in [OsStr::new("events.jsonl"), OsStr::from_bytes(b"\xff\n-")] {
            for next in [Next::At(7), Next::Open] {
                let progress = Progress { inode: 12, start: 3, copied: u64::MAX, next };
                assert_eq!(parse(log, &of_progress(log, progress)), Some(Named::Rotating(progress)));
            }
            assert_eq!(parse(log, &of_new(log, 12)), Some(Named::New(12)));
        }
    }

    #[test]
    fn other_names_are_nobody_s() {
        for name in [
            "log",
            "log.1",
            "log.2.gz",
            "log.rotating-gz",
            "log.rotating-1-2-3",
            "log.rotating-1-2-3-x",
            "log.rotating-1-3-2-open",
            "log.rotating-01-2-3-open",
            "log.rotating-+1-2-3-open",
            "log.rotating-1-2-3-4-5",
            "log2.rotating-1-2-3-4",
            "log.rotating--new",
        ] {
            assert_eq!(parse(OsStr::new("log"), OsStr::new(name)), None, "{name}");
        }
    }
}
