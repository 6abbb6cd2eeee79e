//! Jobs of kind `volumes`.

use std::{
    fmt::{self, Display},
    num::NonZeroUsize,
    path::PathBuf,
    time::Duration,
};

use super::{
    StoreUrl, ThreadsTable, VolumePattern, VolumesConfig,
    reader::Section,
    scalar::{duration, flag, text, whole},
    urls::{SecretUrl, local_path},
};

/// A container engine, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineUrl {
    /// `unix:///path`: the engine of this host.
    Unix(PathBuf),
    /// `tcp://host:port`, with TLS where `engine_certs` is set.
    Tcp {
        /// `host:port`.
        address: String,
        /// The folder with `ca.pem`, `cert.pem` and `key.pem`; none: no TLS.
        certs: Option<PathBuf>,
    },
}

impl Display for EngineUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { address, .. } => write!(f, "tcp://{address}"),
        }
    }
}

/// The database that has the table of threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarksUrl {
    /// `sqlite:///abs` or `sqlite:rel`, made absolute.
    Sqlite(PathBuf),
    /// `postgresql://…`.
    Postgres(SecretUrl),
    /// `mysql://…` or `mariadb://…`.
    Mysql(SecretUrl),
}

impl Display for MarksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            Self::Postgres(url) | Self::Mysql(url) => Display::fmt(url, f),
        }
    }
}

/// Where Docker's socket is.
const ENGINE: &str = "/var/run/docker.sock";
const ENGINE_RULE: &str = "must be unix:///path/to/docker.sock or tcp://host:port";
const MARKS_RULE: &str =
    "must be postgresql://…, mysql://…, sqlite:///absolute/path or sqlite:relative/path: where the threads are";
const COLUMN_RULE: &str = "must be a name of 1 to 63 characters without a control character";

/// Reads what is a job of this kind's own.
pub(super) fn job(section: &Section<'_>) -> Option<VolumesConfig> {
    let folder = &section.reader.folder;
    let engine = read_engine(section);
    let marks =
        section.require_url("marks", "marks_file", "marks = \"postgresql://app@db/app\"", |url| match StoreUrl::parse(
            url, folder,
        ) {
            Ok(StoreUrl::Sqlite(path)) => Ok(MarksUrl::Sqlite(path)),
            Ok(StoreUrl::Postgres(url)) => Ok(MarksUrl::Postgres(url)),
            Ok(StoreUrl::Mysql(url)) => Ok(MarksUrl::Mysql(url)),
            Ok(_) => Err(MARKS_RULE.to_owned()),
            Err(rule) if rule.starts_with("must be postgresql://") => Err(MARKS_RULE.to_owned()),
            Err(rule) => Err(rule),
        });
    let errors = section.reader.errors.borrow().len();
    let table = section.section("table").map(table);
    // What is there and no table has been refused for that.
    if table.is_none() && section.reader.errors.borrow().len() == errors {
        section.refuse("table", "is required, such as table = { name = \"threads\", closed = \"closed\" }");
    }
    let pattern = |text: &str| text.parse::<VolumePattern>();
    let volume = section.require("volume", "volume = \"ha_ws_{id}\"", text(pattern));
    let require_label = section.read("require_label", text(label)).flatten();
    let sweep_unknown = section.read("sweep_unknown", flag);
    let count = |most| whole(1..=most);
    let limit = section.read("limit", count(1_000_000));
    let concurrency = section.read("concurrency", count(64));
    let engine_timeout = section.read("engine_timeout", duration(Duration::from_millis(100)..=Duration::from_mins(10)));
    let time_limit = section.read("time_limit", duration(Duration::from_millis(1)..=Duration::from_hours(24 * 365)));
    let least = |count: Option<i64>, default| {
        count.and_then(|count| NonZeroUsize::new(usize::try_from(count).ok()?)).unwrap_or(default)
    };
    Some(VolumesConfig {
        engine: engine?,
        marks: marks?,
        table: table??,
        volume: volume?,
        require_label,
        sweep_unknown: sweep_unknown.unwrap_or(false),
        limit: least(limit, const { NonZeroUsize::new(100).expect("above 0") }),
        concurrency: least(concurrency, const { NonZeroUsize::new(3).expect("above 0") }),
        engine_timeout: engine_timeout.unwrap_or(Duration::from_secs(10)),
        time_limit: time_limit.unwrap_or(Duration::from_hours(1)),
    })
}

/// Reads the engine and its certificates; none where one of the two is wrong.
fn read_engine(section: &Section<'_>) -> Option<EngineUrl> {
    let folder = &section.reader.folder;
    let errors = section.reader.errors.borrow().len();
    let certs = section.read("engine_certs", text(|path| local_path("file", path).map(|path| folder.join(path))));
    let url = section.read("engine", text(engine));
    if section.reader.errors.borrow().len() > errors {
        return None;
    }
    match (url.unwrap_or_else(|| EngineUrl::Unix(PathBuf::from(ENGINE))), certs) {
        (EngineUrl::Tcp { address, .. }, certs) => Some(EngineUrl::Tcp { address, certs }),
        (EngineUrl::Unix(path), None) => Some(EngineUrl::Unix(path)),
        (EngineUrl::Unix(_), Some(_)) => {
            section.refuse("engine_certs", "is for an engine at tcp://host:port only");
            None
        }
    }
}

fn engine(url: &str) -> Result<EngineUrl, String> {
    match url.split_once("://") {
        Some(("unix", path)) if path.starts_with('/') && !path.contains('\0') => Ok(EngineUrl::Unix(path.into())),
        Some(("tcp", address)) => {
            let (host, port) = address.rsplit_once(':').ok_or(ENGINE_RULE)?;
            let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
            if host.is_empty() || !host.chars().all(is_host) || port.parse::<u16>().is_err() {
                return Err(ENGINE_RULE.to_owned());
            }
            Ok(EngineUrl::Tcp { address: address.to_owned(), certs: None })
        }
        _ => Err(ENGINE_RULE.to_owned()),
    }
}

/// Reads the table; none where something in it is wrong.
fn table(table: Section<'_>) -> Option<ThreadsTable> {
    let errors = || table.reader.errors.borrow().len();
    let errors_before = errors();
    let name = table.require("name", "name = \"threads\"", text(table_name));
    let closed = table.require(
        "closed",
        "closed = \"closed\"",
        text(|word| match word {
            word if word.is_empty() || word.chars().any(char::is_control) => {
                Err("must be the status of a closed thread, without a control character".to_owned())
            }
            word => Ok(word.to_owned()),
        }),
    );
    let mut read = ThreadsTable::new(name.unwrap_or_default(), closed.unwrap_or_default());
    for (key, own) in [("id", &mut read.id), ("status", &mut read.status), ("removed_at", &mut read.removed_at)] {
        if let Some(given) = table.read(key, text(column)) {
            *own = given;
        }
    }
    // Some databases take names that differ in their case for one.
    let [of_id, of_status, of_mark] = [&read.id, &read.status, &read.removed_at].map(|name| name.to_lowercase());
    if errors() == errors_before && (of_id == of_status || of_id == of_mark || of_status == of_mark) {
        table.refuse_all("names one column twice: id, status and removed_at must be three");
    }
    let is_right = errors() == errors_before;
    table.finish();
    is_right.then_some(read)
}

fn column(text: &str) -> Result<String, String> {
    let is_name = (1..=63).contains(&text.len()) && !text.chars().any(char::is_control);
    if is_name { Ok(text.to_owned()) } else { Err(COLUMN_RULE.to_owned()) }
}

/// The parts of the table's name: itself, with a schema before it or not.
fn table_name(text: &str) -> Result<Vec<String>, String> {
    let parts: Vec<String> = text.split('.').map(column).collect::<Result<_, _>>()?;
    if parts.len() <= 2 { Ok(parts) } else { Err("must be a table, or schema.table".to_owned()) }
}

/// `key=value`; none where it is empty.
fn label(text: &str) -> Result<Option<(String, String)>, String> {
    match text.split_once('=') {
        None if text.is_empty() => Ok(None),
        Some((key, value)) if !key.is_empty() => Ok(Some((key.to_owned(), value.to_owned()))),
        _ => Err("must be \"key=value\", or empty for no guard".to_owned()),
    }
}
