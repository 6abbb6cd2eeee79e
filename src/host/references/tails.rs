//! Which value names which file: by the last components of both.
//!
//! A value is read as a URL: what follows the first `?` or `#` is cut off, then a scheme with its host, and `%2F` and its like
//! are decoded. A value without a scheme is read as a path too, as it stands. Of either, empty components and `.` are left out,
//! and `..` takes back the one before it.
//!
//! A file's components are those below the root; of a file in the root itself, the root's own name and the file's. The two
//! mean the same where their last components are equal, as many as both have, and two at least: the folder and the name. So
//! `https://cdn/x/images/a.png`, `/images/a.png?v=2` and `.data/images/a.png` name `images/a.png`; `videos/a.png`, `a.png` and
//! `https://images/a.png` do not. `images/old/a.png` is named by `old/a.png` and by `/images/old/a.png`, but not by
//! `/videos/old/a.png`. Letters are compared as they are.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    ffi::OsStr,
    ops::Bound,
    os::unix::ffi::OsStrExt,
    path::{Component, Path},
};

/// How many components a file and a value share at least.
const SHARED_MIN: usize = 2;

/// The components of a path, the last one first, with a slash between them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tail(Vec<u8>);

impl Tail {
    /// Of a file below a root that has this name; none of what is no path to a file.
    pub(super) fn of_file(root: Option<&OsStr>, below: &Path) -> Option<Self> {
        let mut parts = Vec::new();
        for component in below.components() {
            match component {
                Component::Normal(name) => parts.push(name.as_bytes()),
                Component::CurDir => {}
                Component::Prefix(_) | Component::RootDir | Component::ParentDir => return None,
            }
        }
        if parts.len() == 1 {
            parts.insert(0, root?.as_bytes());
        }
        Self::of(&parts)
    }

    /// What a value may mean: two things at most.
    pub(super) fn of_value(value: &[u8]) -> impl Iterator<Item = Self> {
        let (has_scheme, below) = below_host(value);
        let end = below.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(below.len());
        let url = Self::of(&parts(&decode(&below[..end])));
        let path = if has_scheme { None } else { Self::of(&parts(value)) }.filter(|path| Some(path) != url.as_ref());
        url.into_iter().chain(path)
    }

    fn of(parts: &[&[u8]]) -> Option<Self> {
        let reversed: Vec<_> = parts.iter().rev().copied().collect();
        (parts.len() >= SHARED_MIN).then(|| Self(reversed.join(&b'/')))
    }
}

/// Whether a value begins with a scheme, and what follows it and its host.
fn below_host(value: &[u8]) -> (bool, &[u8]) {
    let Some(end) = value.windows(3).position(|three| three == b"://") else { return (false, value) };
    let is_scheme = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    if end == 0 || !value[..end].iter().all(is_scheme) {
        return (false, value);
    }
    let rest = &value[end + 3..];
    let host = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    (true, &rest[host..])
}

/// The components of a path that say something.
fn parts(path: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts
}

/// Decodes `%2F` and its like; a `%` without two digits stays.
fn decode(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'%') {
        return Cow::Borrowed(text);
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let pair = if first == b'%' { after.first_chunk() } else { None };
        if let Some(byte) = pair.and_then(|&[high, low]| Some((digit(high)? << 4) | digit(low)?)) {
            decoded.push(byte);
            rest = &after[2..];
        } else {
            decoded.push(first);
            rest = after;
        }
    }
    Cow::Owned(decoded)
}

/// Files or values, each with how often it was added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tails(BTreeMap<Vec<u8>, u64>);

impl Tails {
    /// Adds those of another.
    pub(super) fn merge(&mut self, other: Self) {
        for (key, count) in other.0 {
            *self.0.entry(key).or_default() += count;
        }
    }

    /// How many of these mean the same as `tail`.
    pub(super) fn count(&self, Tail(key): &Tail) -> u64 {
        let start = [key.as_slice(), b"/"].concat();
        let from_start = self.0.range::<[u8], _>((Bound::Included(start.as_slice()), Bound::Unbounded));
        let longer = from_start.take_while(|(other, _)| other.starts_with(&start)).map(|(_, count)| count);
        let slashes = (0..key.len()).filter(|&at| key[at] == b'/').skip(SHARED_MIN - 1);
        let shorter = slashes.chain([key.len()]).filter_map(|end| self.0.get(&key[..end]));
        longer.chain(shorter).sum()
    }
}

impl Extend<Tail> for Tails {
    fn extend<T: IntoIterator<Item = Tail>>(&mut self, tails: T) {
        for Tail(key) in tails {
            *self.0.entry(key).or_default() += 1;
        }
    }
}

impl FromIterator<Tail> for Tails {
    fn from_iter<T: IntoIterator<Item = Tail>>(tails: T) -> Self {
        let mut these = Self::default();
        these.extend(tails);
        these
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(value: &str, file: &str) -> bool {
        let file = Tail::of_file(Some(OsStr::new(".data")), Path::new(file)).expect("a file");
        let values: Tails = Tail::of_value(value.as_bytes()).collect();
        let files: Tails = [file.clone()].into_iter().collect();
        let is_named = values.count(&file) > 0;
        // It is the same from both sides.
        assert_eq!(Tail::of_value(value.as_bytes()).any(|tail| files.count(&tail) > 0), is_named, "{value}");
        is_named
    }

    #[test]
    fn folder_and_name_both_match() {
        for value in [
            "images/a.png",
            "/images/a.png",
            ".data/images/a.png",
            "./images//a.png",
            "/x/../images/./a.png",
            "https://cdn/images/a.png",
            "https://cdn:8080/x/y/images/a.png?v=2#top",
            "https://cdn/images/a.png#top?v=2",
            "//cdn/images/a.png",
            "/images/a.png?next=/videos/b.mp4",
            "https://cdn/o/images%2fa%2Epng?alt=media",
            "file:///app/.data/images/a.png",
        ] {
            assert!(names(value, "images/a.png"), "{value}");
        }
        for value in [
            "",
            "/",
            "a.png",
            "/a.png",
            "https://cdn/a.png",
            "https://images/a.png",
            "/videos/a.png",
            "https://cdn/videos/a.png",
            "/images/b.png",
            "/images/a.png/x",
            "/images/xa.png",
            "/ximages/a.png",
            "/Images/a.png",
            "/images/a.png2",
            "/images/../a.png",
            "/images%2/a.png",
            "https://cdn/image?url=/images/a.png",
            "see https://cdn/images/a.png or https://cdn/b",
        ] {
            assert!(!names(value, "images/a.png"), "{value}");
        }
    }

    #[test]
    fn all_that_a_value_says_below_the_root_matches() {
        for value in ["old/a.png", "/images/old/a.png", "https://cdn/x/images/old/a.png", ".data/images/old/a.png"] {
            assert!(names(value, "images/old/a.png"), "{value}");
        }
        for value in ["a.png", "/images/a.png", "/videos/old/a.png", "https://cdn/x/old/a.png"] {
            assert!(!names(value, "images/old/a.png"), "{value}");
        }
    }

    #[test]
    fn a_file_in_the_root_itself_is_in_a_folder_of_the_roots_name() {
        assert!(names(".data/a.png", "a.png"));
        assert!(names("/app/.data/a.png", "a.png"));
        assert!(!names("/a.png", "a.png"));
        assert_eq!(Tail::of_file(None, Path::new("a.png")), None);
        for file in ["", ".", "..", "/images/a.png", "images/../a.png"] {
            assert_eq!(Tail::of_file(Some(OsStr::new("data")), Path::new(file)), None, "{file}");
        }
    }

    #[test]
    fn hard_names_are_named_as_they_stand_or_escaped() {
        assert!(names("/images/a%231?.png", "images/a%231?.png"));
        assert!(names("/images/a%231%3F.png", "images/a#1?.png"));
        assert!(names("/images/a#1?.png", "images/a#1?.png"));
        // With a scheme it is a URL and nothing else.
        assert!(!names("https://cdn/images/a#1.png", "images/a#1.png"));
        assert!(names("/images/100%.png", "images/100%.png"));
        assert!(names("/images/%+1%.png", "images/%+1%.png"));
        let file = Tail::of_file(None, Path::new(OsStr::from_bytes(b"images/\xff.png")));
        assert_eq!(Tail::of_value(b"/images/%FF.png").next(), file);
    }

    #[test]
    fn counts_what_was_added_and_no_neighbour() {
        let values =
            ["/images/a.png", "/images/a.png", "https://cdn/x/images/a.png", "/images-2/a.png", "/images0/a.png"];
        let values: Tails = values.iter().flat_map(|value| Tail::of_value(value.as_bytes())).collect();
        let count = |file: &str| values.count(&Tail::of_file(None, Path::new(file)).expect("a file"));
        assert_eq!([count("images/a.png"), count("images-2/a.png"), count("videos/a.png")], [3, 1, 0]);
        let mut twice = values.clone();
        twice.merge(values);
        assert_eq!(twice.count(&Tail::of_value(b"images/a.png").next().expect("a tail")), 6);
    }
}
