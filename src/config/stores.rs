//! URLs of stores of runs.

use std::{
    fmt::{self, Display},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    cassandra::CassandraUrl,
    urls::{self, SecretUrl, local_path, sqlite_path},
    values::{BatchSize, did_you_mean},
};

/// A store of runs, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// `memory:`, for tests and the demo only.
    Memory,
    /// `sqlite:///abs` or `sqlite:rel`, made absolute.
    Sqlite(PathBuf),
    /// `file:///abs` or `file:rel`, made absolute: the folder of PyWorkflow's file storage.
    File(PathBuf),
    /// `postgresql://…`.
    Postgres(SecretUrl),
    /// `citus://…`, which is the URL of the coordinator.
    Citus(SecretUrl),
    /// `mysql://…` or `mariadb://…`.
    Mysql(SecretUrl),
    /// `dynamodb://region/table`. Who may use it is said by AWS's own variables, `AWS_ACCESS_KEY_ID` and so on.
    Dynamodb {
        /// The region.
        region: String,
        /// The table.
        table: String,
        /// `?endpoint=`: a server other than AWS's own.
        endpoint: Option<String>,
    },
    /// `cassandra://[user:password@]host[:port][,host…]/keyspace`.
    Cassandra(CassandraUrl),
}

/// The schemes with the feature that each needs, and whether this build has it; none: it is always there.
const SCHEMES: [(&str, Option<(&str, bool)>); 10] = [
    ("memory", None),
    ("file", None),
    ("sqlite", Some(("sqlite", cfg!(feature = "sqlite")))),
    ("postgresql", Some(("postgres", cfg!(feature = "postgres")))),
    ("postgres", Some(("postgres", cfg!(feature = "postgres")))),
    ("citus", Some(("postgres", cfg!(feature = "postgres")))),
    ("mysql", Some(("mysql", cfg!(feature = "mysql")))),
    ("mariadb", Some(("mysql", cfg!(feature = "mysql")))),
    ("dynamodb", Some(("dynamodb", cfg!(feature = "dynamodb")))),
    ("cassandra", Some(("cassandra", cfg!(feature = "cassandra")))),
];

const RULE: &str = "must be postgresql://…, citus://…, mysql://…, sqlite:///absolute/path, sqlite:relative/path, \
                    file:///absolute/folder, dynamodb://region/table, cassandra://host/keyspace or memory:";

impl StoreUrl {
    /// Reads a store's URL; a relative path starts at `folder`. The error is the rule that it breaks.
    pub(super) fn parse(url: &str, folder: &Path) -> Result<Self, String> {
        let (scheme, rest) = url.split_once(':').ok_or(RULE)?;
        let Some((_, feature)) = SCHEMES.iter().find(|(known, _)| *known == scheme) else {
            return Err(format!("{RULE}{}", did_you_mean(scheme, SCHEMES.map(|(known, _)| known))));
        };
        if let Some((feature, false)) = feature {
            return Err(format!("built without `{feature}`: rebuild with --features {feature}"));
        }
        match scheme {
            "memory" if rest.is_empty() => Ok(Self::Memory),
            "memory" => Err("must be `memory:` and nothing more".to_owned()),
            "sqlite" => sqlite_path(rest).map(|path| Self::Sqlite(folder.join(path))),
            "file" => local_path("file", rest).map(|path| Self::File(folder.join(path))),
            "citus" => database(scheme, rest).map(Self::Citus),
            "mysql" | "mariadb" => database(scheme, rest).map(Self::Mysql),
            "dynamodb" => dynamodb(rest),
            "cassandra" => CassandraUrl::parse(rest).map(Self::Cassandra),
            _ => database(scheme, rest).map(Self::Postgres),
        }
    }
}

impl StoreUrl {
    /// The most runs of a batch, how long it lasts, and the longest pause behind it, where the job does not say. In a SQLite
    /// file every writer waits for a batch, and asks again after 228, 328 and 428 ms; elsewhere only who writes the same runs
    /// does, and with DynamoDB nobody. With Citus each batch costs a statement for each shard.
    pub(super) fn pace(&self) -> (BatchSize, Duration, Duration) {
        let (time, pause) = match self {
            Self::Memory | Self::Sqlite(_) => (330, 100),
            Self::File(_) | Self::Postgres(_) => (250, 0),
            Self::Mysql(_) => (500, 0),
            Self::Citus(_) | Self::Cassandra(_) => (1_000, 0),
            Self::Dynamodb { .. } => (10_000, 0),
        };
        let size = if matches!(self, Self::Citus(_)) { BatchSize::LARGE } else { BatchSize::default() };
        (size, Duration::from_millis(time), Duration::from_millis(pause))
    }
}

/// A URL that names a host and, behind one slash, a database.
fn database(scheme: &str, rest: &str) -> Result<SecretUrl, String> {
    let rule = || format!("must be {scheme}://[user[:password]@]host[:port]/database");
    let place = rest.strip_prefix("//").ok_or_else(rule)?;
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    let place = place.split_once('?').map_or(place, |(place, _)| place);
    let (host, name) = place.split_once('/').ok_or_else(rule)?;
    if host.is_empty() || name.is_empty() || name.contains('/') {
        return Err(rule());
    }
    Ok(SecretUrl::new(format!("{scheme}:{rest}")))
}

fn dynamodb(rest: &str) -> Result<StoreUrl, String> {
    const RULE: &str = "must be dynamodb://region/table[?endpoint=http://host:port]";
    let rest = rest.strip_prefix("//").ok_or(RULE)?;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (region, table) = place.split_once('/').ok_or(RULE)?;
    let is_region = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if region.is_empty() || !region.chars().all(is_region) {
        return Err("names a region that must be small letters, digits and `-`".to_owned());
    }
    let is_in_table = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if !(3..=255).contains(&table.len()) || !table.chars().all(is_in_table) {
        return Err("names a table that must be 3 to 255 letters, digits, `_`, `.` or `-`".to_owned());
    }
    let mut endpoint = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("endpoint", value)) => endpoint = Some(urls::endpoint(value)?),
            _ => {
                return Err(
                    "takes the option endpoint only; credentials come from AWS_ACCESS_KEY_ID and the like".to_owned()
                );
            }
        }
    }
    Ok(StoreUrl::Dynamodb { region: region.to_owned(), table: table.to_owned(), endpoint })
}

impl Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory:"),
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            Self::File(path) => write!(f, "file://{}", path.display()),
            Self::Postgres(url) | Self::Citus(url) | Self::Mysql(url) => Display::fmt(url, f),
            Self::Cassandra(url) => Display::fmt(url, f),
            Self::Dynamodb { region, table, endpoint: None } => write!(f, "dynamodb://{region}/{table}"),
            Self::Dynamodb { region, table, endpoint: Some(endpoint) } => {
                write!(f, "dynamodb://{region}/{table}?endpoint={endpoint}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sqlite_path_is_absolute_or_starts_at_the_folder() {
        let store = |url| StoreUrl::parse(url, Path::new("/etc/janitor")).unwrap();
        assert_eq!(store("memory:"), StoreUrl::Memory);
        assert_eq!(store("sqlite:///var/app.db").to_string(), "sqlite:///var/app.db");
        assert_eq!(store("sqlite:/var/app.db").to_string(), "sqlite:///var/app.db");
        assert_eq!(store("sqlite:app.db").to_string(), "sqlite:///etc/janitor/app.db");
        assert_eq!(store("sqlite:../app.db").to_string(), "sqlite:///etc/janitor/../app.db");
        for shown in ["memory:", "sqlite:///a b/ü%20#.db"] {
            assert_eq!(store(shown).to_string(), shown);
        }
    }
}
