//! The one SQLite file of the embedded mode: queue, locks and ledger of a single host.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sqlx::{
    Connection, SqlitePool,
    error::DatabaseError,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

/// The file's name below `data_dir`.
pub const FILE: &str = "janitor.db";

/// Marks the file as ours, for `file` and its like: "jani" in ASCII.
const MARK: &str = "PRAGMA application_id = 0x6a616e69";
/// How long a statement waits for another process that writes.
const BUSY_MAX: Duration = Duration::from_secs(5);
/// How soon opening the file is tried again that another process is making.
const AGAIN: Duration = Duration::from_millis(25);
/// How long a caller waits for a connection: a bit longer than whoever has it may wait.
const CONNECTION_MAX: Duration = Duration::from_secs(10);
/// The most connections of a process.
const POOL_MAX: u32 = 4;

/// Why the file of the embedded mode cannot be used.
///
/// ```
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let error = apalis_janitor::embedded::open("/dev/null".as_ref()).await.unwrap_err();
/// assert_eq!(error.to_string(), "data_dir /dev/null: is not a folder");
/// # });
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedError {
    /// `data_dir` is there, and is not a folder.
    #[error("data_dir {}: is not a folder", .0.display())]
    NoFolder(PathBuf),
    /// `data_dir` is not there and cannot be made.
    #[error("data_dir {}: cannot be made", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be used.
    #[error("{}: {what}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
        /// What SQLite says.
        source: sqlx::Error,
    },
}

/// Opens `<data_dir>/janitor.db`, and makes the folder, the file and its tables where they are missing.
pub async fn open(data_dir: &Path) -> Result<SqlitePool, EmbeddedError> {
    if data_dir.exists() && !data_dir.is_dir() {
        return Err(EmbeddedError::NoFolder(data_dir.to_owned()));
    }
    std::fs::create_dir_all(data_dir).map_err(|source| EmbeddedError::Folder { path: data_dir.to_owned(), source })?;
    let path = data_dir.join(FILE);
    let began = Instant::now();
    loop {
        match connect(&path).await {
            // Two processes make the file at the same moment: SQLite waits for no lock where it sets a file's mode.
            Err(error) if is_busy(&error) && began.elapsed() < BUSY_MAX => tokio::time::sleep(AGAIN).await,
            connected => {
                return connected.map_err(|source| EmbeddedError::File { what: what(&source), path, source });
            }
        }
    }
}

/// A pool over the same file that shares nothing with `pool`; it connects when it is used.
#[must_use]
pub fn again(pool: &SqlitePool) -> SqlitePool {
    pool_of(1).connect_lazy_with((*pool.connect_options()).clone())
}

async fn connect(path: &Path) -> Result<SqlitePool, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_MAX);
    let pool = pool_of(POOL_MAX).connect_with(options).await?;
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    // A write at once: a file that cannot be written is to be found now, and not when the first job has run.
    sqlx::raw_sql(MARK).execute(&mut *transaction).await?;
    for schema in [crate::lock::sqlite::SCHEMA, crate::ledger::sqlite::SCHEMA, crate::queue::sqlite::SCHEMA] {
        sqlx::raw_sql(schema).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(pool)
}

fn pool_of(connections_max: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(CONNECTION_MAX)
        // Where the disk is full SQLite itself takes a transaction back, and the driver loses count: it would refuse to begin
        // another one on that connection for ever.
        .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
}

/// SQLite's primary result code: the low byte, the rest tells its variants apart.
fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let code = error.as_database_error().and_then(DatabaseError::code).and_then(|code| code.parse::<u32>().ok());
    code.map(|code| code & 0xff)
}

fn is_busy(error: &sqlx::Error) -> bool {
    matches!(primary_code(error), Some(5 | 6))
}

/// SQLite's result codes, as what they mean to who has to mend it.
fn what(error: &sqlx::Error) -> &'static str {
    match primary_code(error) {
        Some(5 | 6) => "is locked by another process",
        Some(8) => "cannot be written: the file, its folder or the file system is read-only",
        Some(10) => "cannot be read or written (is the disk full?)",
        Some(11) => "is damaged",
        Some(13) => "cannot grow: the disk is full",
        Some(14) => "cannot be opened or made",
        Some(26) => "is not a SQLite database",
        Some(_) | None => "cannot be used",
    }
}
