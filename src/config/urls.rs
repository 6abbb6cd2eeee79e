//! URLs from the configuration: never shown with their password.

use std::{
    fmt::{self, Debug, Display},
    path::{Path, PathBuf},
};

use super::values::did_you_mean;

/// A URL that may hold a password; it is never shown whole.
///
/// ```
/// use apalis_janitor::config::SecretUrl;
/// let url = SecretUrl::new("redis://app:hunter2@db:6379/0");
/// assert_eq!(url.to_string(), "redis://app:***@db:6379/0");
/// ```
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

    /// Whether it holds a password that is not empty.
    pub(super) fn has_password(&self) -> bool {
        let user = self.0.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@')).map(|(user, _)| user);
        let password = user.and_then(|user| user.split_once(':')).map(|(_, password)| password);
        password.is_some_and(|password| !password.is_empty()) || masked_query(&self.0) != self.0
    }
}

impl Display for SecretUrl {
    /// The URL with its password as `***`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = match self.0.split_once("://") {
            Some((scheme, rest)) => (format!("{scheme}://"), rest),
            None => (String::new(), self.0.as_str()),
        };
        // A password may hold an unescaped `/`, `?`, `#` or `@`: only the last `@` surely ends it.
        let Some((user, tail)) = rest.rsplit_once('@') else { return f.write_str(&masked_query(&self.0)) };
        let tail = masked_query(tail);
        match user.split_once(':') {
            Some((user, _)) if !scheme.is_empty() => write!(f, "{scheme}{user}:***@{tail}"),
            // A URL that cannot be read, or Redis with a password where the user belongs.
            Some(_) => write!(f, "{scheme}***@{tail}"),
            None if scheme.contains("redis") || scheme.is_empty() => write!(f, "{scheme}***@{tail}"),
            None => write!(f, "{scheme}{user}@{tail}"),
        }
    }
}

impl Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

/// The URL with `***` for the value of each parameter that names a secret, such as `?password=`.
fn masked_query(url: &str) -> String {
    let Some((head, query)) = url.split_once('?') else { return url.to_owned() };
    let mask = |pair: &str| match pair.split_once('=') {
        Some((key, value)) if !value.is_empty() && names_a_secret(key) => format!("{key}=***"),
        _ => pair.to_owned(),
    };
    format!("{head}?{}", query.split('&').map(mask).collect::<Vec<_>>().join("&"))
}

fn names_a_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    ["pass", "pwd", "secret", "token"].iter().any(|part| key.contains(part))
}

/// Checks the address of a Redis server; the error is the rule that it breaks.
pub(super) fn redis_url(url: &str) -> Result<SecretUrl, String> {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    match scheme {
        Some("redis" | "rediss" | "redis+sentinel" | "rediss+sentinel" | "redis+cluster" | "rediss+cluster") => {}
        _ => return Err(REDIS_RULE.to_owned()),
    }
    readable_redis(url)?;
    Ok(SecretUrl::new(url))
}

const REDIS_RULE: &str = "must be redis://[user:password@]host[:port][/database], redis+sentinel://host,host/master or \
                          redis+cluster://host,host, with rediss for TLS";

#[cfg(feature = "redis")]
fn readable_redis(url: &str) -> Result<(), String> {
    let without_password = url.contains('@') && !SecretUrl::new(url).has_password();
    if without_password {
        return Err("names a user and no password; a password alone is written redis://:password@host".to_owned());
    }
    // What the client says may quote the URL.
    let rule = || format!("{REDIS_RULE}; in a password, write a special character as %XX");
    if crate::link::is_url(url) { Ok(()) } else { Err(rule()) }
}

#[cfg(not(feature = "redis"))]
fn readable_redis(_: &str) -> Result<(), String> {
    Err("built without `redis`: rebuild with --features redis".to_owned())
}

pub(super) fn sqlite_path(rest: &str) -> Result<&Path, String> {
    if !cfg!(feature = "sqlite") {
        return Err("built without `sqlite`: rebuild with --features sqlite".to_owned());
    }
    if rest.starts_with(":memory:") {
        return Err("must be `memory:` for a store in memory".to_owned());
    }
    if rest.ends_with('/') {
        return Err("must name a file; it takes no options".to_owned());
    }
    local_path("sqlite", rest)
}

/// The path of a URL such as `sqlite:///abs` or `file:rel`.
pub(super) fn local_path<'u>(scheme: &str, rest: &'u str) -> Result<&'u Path, String> {
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some(_) => {
            return Err(format!("has two slashes: a relative path is {scheme}:path, an absolute one {scheme}:///path"));
        }
        None => rest,
    };
    if path.contains('?') || path.contains('\0') || path.is_empty() {
        return Err(format!("must name a {}; it takes no options", if scheme == "file" { "folder" } else { "file" }));
    }
    Ok(Path::new(path))
}

/// Reads the value of `?endpoint=`; the error is the rule that it breaks.
pub(super) fn endpoint(value: &str) -> Result<String, String> {
    // It is shown as it is, and nobody would use what stands before an `@`.
    let is_plain = !value.contains('@') && (value.starts_with("http://") || value.starts_with("https://"));
    if is_plain {
        Ok(value.trim_end_matches('/').to_owned())
    } else {
        Err("has an endpoint that must be http://host[:port] or https://, without a login".to_owned())
    }
}

/// Where a blob store keeps its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectsUrl {
    /// `file:///abs` or `file:rel`, made absolute.
    Folder(PathBuf),
    /// `s3://bucket/prefix`. Who may use it is said by AWS's own variables, `AWS_ACCESS_KEY_ID` and so on.
    S3 {
        /// The bucket.
        bucket: String,
        /// What each key begins with, without slashes at its ends; may be empty.
        prefix: String,
        /// `?endpoint=`: a server other than AWS's own.
        endpoint: Option<String>,
        /// `?region=`.
        region: Option<String>,
    },
}

const OBJECTS_RULE: &str =
    "must be file:///absolute/folder, file:relative/folder or s3://bucket/prefix[?endpoint=…&region=…]";

impl ObjectsUrl {
    /// Reads the URL; a relative folder starts at `folder`. The error is the rule that it breaks.
    pub(super) fn parse(url: &str, folder: &Path) -> Result<Self, String> {
        let (scheme, rest) = url.split_once(':').ok_or(OBJECTS_RULE)?;
        match scheme {
            "file" => local_path("file", rest).map(|path| Self::Folder(folder.join(path))),
            "s3" if !cfg!(feature = "s3") => Err("built without `s3`: rebuild with --features s3".to_owned()),
            "s3" => s3(rest),
            other => Err(format!("{OBJECTS_RULE}{}", did_you_mean(other, ["file", "s3"]))),
        }
    }
}

fn s3(rest: &str) -> Result<ObjectsUrl, String> {
    let rest = rest.strip_prefix("//").ok_or(OBJECTS_RULE)?;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    let is_in_bucket = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
    if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(is_in_bucket) {
        return Err("names a bucket that must be 3 to 63 small letters, digits, `.` or `-`".to_owned());
    }
    let prefix = prefix.trim_matches('/');
    if prefix.split('/').any(|part| matches!(part, "." | "..")) || (prefix.is_empty() && place.contains("//")) {
        return Err("has a prefix with an empty part, `.` or `..`".to_owned());
    }
    let (mut endpoint, mut region) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("endpoint", value)) => endpoint = Some(self::endpoint(value)?),
            Some(("region", value)) if !value.is_empty() => region = Some(value.to_owned()),
            _ => {
                return Err(
                    "takes the options endpoint and region only; credentials come from AWS_ACCESS_KEY_ID and the like"
                        .to_owned(),
                );
            }
        }
    }
    Ok(ObjectsUrl::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned(), endpoint, region })
}

impl Display for ObjectsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "file://{}", path.display()),
            Self::S3 { bucket, prefix, .. } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix, .. } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// Where a blob store keeps who refers to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatalogUrl {
    /// `sqlite:///abs` or `sqlite:rel`, made absolute.
    Sqlite(PathBuf),
    /// `postgresql://…`.
    Postgres(SecretUrl),
}

const CATALOG_RULE: &str =
    "must be sqlite:///absolute/path, sqlite:relative/path or postgresql://[user[:password]@]host[:port]/database";

impl CatalogUrl {
    /// Reads the URL; a relative path starts at `folder`. The error is the rule that it breaks.
    pub(super) fn parse(url: &str, folder: &Path) -> Result<Self, String> {
        let (scheme, rest) = url.split_once(':').ok_or(CATALOG_RULE)?;
        match scheme {
            "sqlite" => sqlite_path(rest).map(|path| Self::Sqlite(folder.join(path))),
            "postgresql" | "postgres" if !cfg!(feature = "postgres") => {
                Err("built without `postgres`: rebuild with --features postgres".to_owned())
            }
            "postgresql" | "postgres" if rest.len() > 2 && rest.starts_with("//") => {
                Ok(Self::Postgres(SecretUrl::new(url)))
            }
            other => Err(format!("{CATALOG_RULE}{}", did_you_mean(other, ["sqlite", "postgresql"]))),
        }
    }
}

impl Display for CatalogUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            Self::Postgres(url) => Display::fmt(url, f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_way_to_write_a_password_shows_it() {
        for (url, shown) in [
            ("redis://h:6379/0", "redis://h:6379/0"),
            ("redis://:pw@h", "redis://:***@h"),
            ("redis://u:pw@h:1/2", "redis://u:***@h:1/2"),
            ("redis://u:p/w@h", "redis://u:***@h"),
            ("redis://u:p?w@h", "redis://u:***@h"),
            ("redis://u:p#w@h", "redis://u:***@h"),
            ("redis://u:p@w@h", "redis://u:***@h"),
            ("redis://u:p@s/w@h", "redis://u:***@h"),
            ("redis://pw@h", "redis://***@h"),
            ("postgresql://app@db/app", "postgresql://app@db/app"),
            ("postgresql://db/app?user=a&password=pw&x=1", "postgresql://db/app?user=a&password=***&x=1"),
            ("redis:/:pw@h", "***@h"),
            ("u:pw@h", "***@h"),
            ("pw@h", "***@h"),
            ("sqlite:rel.db", "sqlite:rel.db"),
        ] {
            assert_eq!(SecretUrl::new(url).to_string(), shown);
            assert_eq!(format!("{:?}", SecretUrl::new(url)), shown);
        }
    }

    #[test]
    fn a_password_is_seen_where_there_is_one() {
        for (url, has) in [
            ("redis://:pw@h", true),
            ("redis://u:@h", false),
            ("redis://u@h", false),
            ("redis://h:6379/0", false),
            ("mysql://h/d?password=pw", true),
            ("mysql://h/d?password=", false),
        ] {
            assert_eq!(SecretUrl::new(url).has_password(), has, "{url}");
        }
    }
}
