//! Opens a catalog: connects, migrates and learns its identity.

use std::{path::Path, sync::atomic::AtomicI64, time::Duration};

use sqlx::{
    AnyConnection, AssertSqlSafe, ConnectOptions, Connection,
    any::{AnyConnectOptions, AnyPoolOptions},
};
use tokio::{sync::Semaphore, time::timeout};
use ulid::Ulid;

use super::{
    dialect::{Dialect, settle},
    sql::{Fail, SqlCatalog},
};
use crate::{blobs::BlobError, config::CatalogUrl};

/// Each version of the tables, from 1; one that was released is never changed.
const MIGRATIONS: [&str; 1] = [include_str!("migrations/1.sql")];
/// How long a database may take to answer.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long a caller waits for a connection: a bit longer than whoever has it may wait.
const CONNECTION_MAX: Duration = Duration::from_secs(10);
/// How often opening is tried where another process is just doing the same.
const TRIES_MAX: usize = 5;

const MAKE_SCHEMA: &str =
    "CREATE TABLE janitor_blob_schema (version BIGINT NOT NULL PRIMARY KEY, applied_at BIGINT NOT NULL)";
const READ_VERSION: &str = "SELECT max(version) FROM janitor_blob_schema";
const WRITE_VERSION: &str = "INSERT INTO janitor_blob_schema (version, applied_at) VALUES ($1, {now})";
const WRITE_IDENTITY: &str =
    "INSERT INTO janitor_blob_meta (key, value) VALUES ('identity', $1) ON CONFLICT (key) DO NOTHING";
const READ_IDENTITY: &str = "SELECT value FROM janitor_blob_meta WHERE key = 'identity'";

impl SqlCatalog {
    /// Connects to the database at `url`, and makes the tables where they are missing; a SQLite file and its folder, too.
    ///
    /// # Panics
    /// Where the program has given sqlx's driver for any database a list of drivers of its own.
    ///
    /// # Errors
    /// [`BlobError::Unavailable`] where the database cannot be used, [`BlobError::Refused`] where its tables are newer than
    /// this program. Neither shows a password.
    pub async fn open(url: &CatalogUrl) -> Result<Self, BlobError> {
        sqlx::any::install_default_drivers();
        let (name, dialect) = (url.to_string(), Dialect::of(url));
        let unavailable = |error: sqlx::Error| BlobError::unavailable(&name, dialect.what(&error), error);
        let options = options(url, &name)?;
        let mut tries = 0;
        let identity = loop {
            tries += 1;
            match timeout(CONNECT_MAX, migrate(&options, dialect, &name)).await {
                Ok(Ok(identity)) => break identity,
                Ok(Err(Fail::Sql(error))) if tries < TRIES_MAX && dialect.is_tie(&error) => {}
                Ok(Err(Fail::Sql(error))) => return Err(unavailable(error)),
                Ok(Err(Fail::Told(error))) => return Err(error),
                Ok(Err(Fail::Again)) => unreachable!("a migration reads nothing that changes"),
                Err(elapsed) => return Err(BlobError::unavailable(name, "does not answer", elapsed)),
            }
        };
        let pool = AnyPoolOptions::new()
            .max_connections(dialect.connections_max())
            .acquire_timeout(CONNECTION_MAX)
            .after_connect(move |connection, _| Box::pin(settle(connection, dialect)))
            .connect_lazy_with(options);
        let writers = Semaphore::new(dialect.writers_max());
        Ok(Self { name, identity, dialect, pool, writers, shift: AtomicI64::new(0) })
    }
}

/// How to connect to `url`.
fn options(url: &CatalogUrl, name: &str) -> Result<AnyConnectOptions, BlobError> {
    let text = match url {
        CatalogUrl::Sqlite(path) => sqlite_url(path, name)?,
        CatalogUrl::Postgres(url) => url.expose().to_owned(),
    };
    let options: AnyConnectOptions =
        text.parse().map_err(|error| BlobError::unavailable(name, "its address cannot be read", error))?;
    Ok(options.disable_statement_logging())
}

/// The URL by which the driver finds a file; makes its folder.
fn sqlite_url(path: &Path, name: &str) -> Result<String, BlobError> {
    let made = (|| {
        let file = path.file_name().ok_or_else(|| std::io::Error::other("it names no file"))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        // Real: a URL with `..` in it would be shortened, which is another folder where a link is before it.
        let path = folder.canonicalize()?.join(file);
        path.into_os_string().into_string().map_err(|_| std::io::Error::other("its name is not UTF-8"))
    })();
    let path = made.map_err(|error| BlobError::unavailable(name, "its folder cannot be used", error))?;
    let encoded = path.bytes().map(|byte| match byte {
        b'/' | b'.' | b'-' | b'_' | b'~' => char::from(byte).to_string(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    Ok(format!("sqlite://{}?mode=rwc", encoded.collect::<String>()))
}

/// Brings the tables to the newest version, in one transaction, and answers the catalog's identity.
async fn migrate(options: &AnyConnectOptions, dialect: Dialect, name: &str) -> Result<String, Fail> {
    let mut connection = options.connect().await?;
    let done = async {
        settle(&mut connection, dialect).await?;
        let mut transaction = connection.begin_with(dialect.begin()).await?;
        let identity = migrate_in(&mut transaction, dialect, name).await?;
        transaction.commit().await?;
        Ok(identity)
    };
    let done = done.await;
    // It did its work or failed at it: how it is closed tells nothing more.
    let _ = connection.close().await;
    done
}

async fn migrate_in(connection: &mut AnyConnection, dialect: Dialect, name: &str) -> Result<String, Fail> {
    if let Some(lock) = dialect.migration_lock() {
        sqlx::query(lock).execute(&mut *connection).await?;
    }
    let found: Option<String> = sqlx::query_scalar(dialect.find_schema()).fetch_one(&mut *connection).await?;
    if found.is_none() {
        sqlx::raw_sql(AssertSqlSafe(MAKE_SCHEMA)).execute(&mut *connection).await?;
    }
    let version: Option<i64> = sqlx::query_scalar(READ_VERSION).fetch_one(&mut *connection).await?;
    let version = version.unwrap_or(0);
    let known = MIGRATIONS.len();
    let Some(missing) = usize::try_from(version).ok().and_then(|version| MIGRATIONS.get(version..)) else {
        let what = format!("{name}: its tables are of version {version}, and this program knows up to {known}");
        return Err(Fail::Told(BlobError::Refused(what)));
    };
    for (number, text) in (version + 1..).zip(missing) {
        sqlx::raw_sql(AssertSqlSafe(dialect.migration(text))).execute(&mut *connection).await?;
        let write = AssertSqlSafe(dialect.statement(WRITE_VERSION, 0));
        sqlx::query(write).bind(number).execute(&mut *connection).await?;
    }
    if !missing.is_empty() {
        sqlx::query(WRITE_IDENTITY).bind(Ulid::generate().to_string()).execute(&mut *connection).await?;
    }
    Ok(sqlx::query_scalar(READ_IDENTITY).fetch_one(connection).await?)
}
