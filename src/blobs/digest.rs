//! The names of blobs.

use std::{
    fmt::{self, Debug, Display},
    str::FromStr,
};

use ulid::Ulid;

use super::BlobError;

/// The SHA-256 of a blob's bytes.
///
/// ```
/// use apalis_janitor::blobs::Digest;
/// let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// let digest: Digest = format!("sha256:{hex}").parse()?;
/// assert_eq!(digest.to_string(), hex);
/// assert!("e3b0c44".parse::<Digest>().is_err());
/// # Ok::<(), apalis_janitor::blobs::BlobError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest that a hash came to.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its first byte, which names the folder of its object.
    #[must_use]
    pub const fn shard(&self) -> u8 {
        self.0[0]
    }
}

impl Display for Digest {
    /// 64 small hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Digest {
    type Err = BlobError;

    /// Reads 64 hexadecimal digits, with `sha256:` before them or without.
    fn from_str(text: &str) -> Result<Self, BlobError> {
        let refused = || BlobError::Invalid(format!("digest {text:?}: must be a SHA-256, 64 hexadecimal digits"));
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(refused());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| refused())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| refused())?;
        }
        Ok(Self(bytes))
    }
}

/// Which blob of a digest: each putting of bytes that are not there has its own, and none is used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId(Ulid);

impl BlobId {
    /// An id that nobody has: the time in ms and 80 random bits.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "each is another")]
    pub fn new() -> Self {
        Self(Ulid::generate())
    }
}

impl Display for BlobId {
    /// 26 letters and digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.0, f)
    }
}

impl Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl FromStr for BlobId {
    type Err = BlobError;

    fn from_str(text: &str) -> Result<Self, BlobError> {
        // What Ulid reads but would not write is no id of ours: an object's name is compared letter by letter.
        let id = Ulid::from_string(text).ok().filter(|id| id.to_string() == text);
        id.map(Self)
            .ok_or_else(|| BlobError::Invalid(format!("blob id {text:?}: must be a ULID, 26 letters and digits")))
    }
}

/// Where a blob's bytes are among the objects: `aa/<sha256>.<id>`. In lists and reports it is `<sha256>.<id>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The SHA-256 of the bytes.
    pub digest: Digest,
    /// Which blob of that digest.
    pub id: BlobId,
}

impl Key {
    /// Where it is, from the objects' root.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{:02x}/{self}", self.digest.shard())
    }

    /// The key whose [`path`](Self::path) this is; none: no object of ours.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        let (digest, id) = path.split_once('/')?.1.split_once('.')?;
        let key = Self { digest: digest.parse().ok()?, id: id.parse().ok()? };
        (key.path() == path).then_some(key)
    }
}

impl Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.digest, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back_from_its_path_and_from_no_other() {
        let key = Key { digest: Digest::new([0xab; 32]), id: BlobId::new() };
        let path = key.path();
        assert!(path.starts_with("ab/abab"), "{path}");
        assert_eq!(Key::of_path(&path), Some(key));
        let wrong = [
            path.replace("ab/", "ac/"),
            path.to_uppercase(),
            format!("{path}x"),
            format!("x/{path}"),
            path[3..].to_owned(),
        ];
        for wrong in wrong {
            assert_eq!(Key::of_path(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_no_digest_is_refused_by_name() {
        for wrong in [
            "",
            "sha256:",
            "zz",
            &"a".repeat(63),
            &"g".repeat(64),
            &"ä".repeat(32),
            "md5:d41d8cd98f00b204e9800998ecf8427e",
        ] {
            let error = wrong.parse::<Digest>().unwrap_err().to_string();
            assert_eq!(error, format!("digest {wrong:?}: must be a SHA-256, 64 hexadecimal digits"));
        }
        assert_eq!("AB".repeat(32).parse::<Digest>().unwrap(), Digest::new([0xab; 32]));
    }
}
