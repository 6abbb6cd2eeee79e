//! Runs in a SQLite file that another program owns and goes on writing.
//!
//! The file keeps its journal mode and its settings. Every read is one short statement and every write one short
//! transaction, because in the rollback journal each of them makes the owner wait.

mod check;
mod delete;
pub mod demo;
mod loose;
mod read;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, ConnectOptions, Row, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::sync::{Mutex, MutexGuard};

use super::{
    Cursor, Deleted, Findings, LooseStep, Page, RunStore, Seen, StoreError,
    layout::{Layout, RUN_COLUMNS},
};
use crate::{config::BatchSize, lock::Fence};

const NAME: &str = "sqlite";
/// The highest fence that each job's deletes have carried.
const FENCE_TABLE: &str = "CREATE TABLE IF NOT EXISTS janitor_fence (job TEXT PRIMARY KEY, fence INTEGER NOT NULL)";
/// How long one statement waits for another program's lock.
const BUSY_MAX: Duration = Duration::from_secs(5);
/// How much of the file is cached, in KiB: at least this, more for large batches, and at most [`CACHE_MAX_KIB`].
const CACHE_MIN_KIB: usize = 36 * 1024;
const CACHE_MAX_KIB: usize = 256 * 1024;
/// What a run of a batch touches, in KiB. A page that does not fit is written twice.
const RUN_KIB: usize = 32;
/// How many rows the thread that reads may be ahead of who takes them: with few, the two wait for each other.
const ROWS_AHEAD: usize = 4_096;
/// After how many steps of SQLite's machine the deadline is looked at.
const STEPS_PER_LOOK: i32 = 20_000;
/// The deadline that is none.
const NEVER: u64 = u64::MAX;

/// SQLite's own names of its primary result codes. An interrupt is our own deadline; constraints are also triggers.
const READ_ONLY: i32 = 8;
const INTERRUPT: i32 = 9;
const CONSTRAINT: i32 = 19;

/// A SQLite file with a run table.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    layout: &'static Layout,
    tables: Tables,
    connection: Mutex<SqliteConnection>,
    deadline: Arc<Deadline>,
    /// How long the last commit took, in microseconds: the next one is likely to take as long.
    commit_micros: AtomicU64,
}

/// Which of the layout's tables are there: older versions of the schema lack some.
#[derive(Debug, Default)]
struct Tables(Vec<String>);

impl Tables {
    fn has(&self, table: &str) -> bool {
        self.0.iter().any(|name| name == table)
    }
}

/// When the statement in hand is interrupted, for SQLite's own thread to look at.
#[derive(Debug)]
struct Deadline {
    start: Instant,
    millis: AtomicU64,
}

impl Deadline {
    fn set(&self, limit: Option<Duration>) {
        let millis =
            limit.map_or(NEVER, |limit| u64::try_from((self.start.elapsed() + limit).as_millis()).unwrap_or(NEVER));
        self.millis.store(millis, Ordering::Relaxed);
    }

    fn is_past(&self) -> bool {
        let millis = self.millis.load(Ordering::Relaxed);
        millis != NEVER && self.start.elapsed().as_millis() > u128::from(millis)
    }
}

impl SqliteStore {
    /// Opens the file at `path`, which must exist and hold the tables of `layout`, for batches of at most `batch` runs.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where the file cannot be opened or is no database, [`StoreError::Schema`] where the
    /// run table or one of its columns is missing, or the schema is newer than the layout knows.
    pub async fn open(path: &Path, layout: &'static Layout, batch: BatchSize) -> Result<Self, StoreError> {
        let what = |error: sqlx::Error| StoreError::unavailable(NAME, format!("{}: {}", path.display(), plain(&error)));
        let metadata = std::fs::metadata(path)
            .map_err(|error| StoreError::unavailable(NAME, format!("{}: {error}", path.display())))?;
        if !metadata.is_file() {
            return Err(StoreError::unavailable(NAME, format!("{}: is not a file", path.display())));
        }
        let mut connection = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(BUSY_MAX)
            .pragma("cache_size", format!("-{}", cache_kib(batch)))
            .pragma("temp_store", "memory")
            .row_buffer_size(ROWS_AHEAD)
            .disable_statement_logging()
            .connect()
            .await
            .map_err(what)?;
        let names = "SELECT name FROM sqlite_master WHERE type = 'table'";
        let tables = Tables(sqlx::query_scalar(names).fetch_all(&mut connection).await.map_err(what)?);
        verify(&mut connection, path, layout, &tables).await?;
        let deadline = Arc::new(Deadline { start: Instant::now(), millis: AtomicU64::new(NEVER) });
        let seen = Arc::clone(&deadline);
        connection.lock_handle().await.map_err(what)?.set_progress_handler(STEPS_PER_LOOK, move || !seen.is_past());
        keep_journal(&mut connection).await.map_err(what)?;
        sqlx::raw_sql(delete::BATCH_TABLE).execute(&mut connection).await.map_err(what)?;
        let connection = Mutex::new(connection);
        Ok(Self { path: path.to_owned(), layout, tables, connection, deadline, commit_micros: AtomicU64::new(0) })
    }

    /// The connection, for reading.
    async fn connection(&self) -> MutexGuard<'_, SqliteConnection> {
        let mut connection = self.connection.lock().await;
        self.deadline.set(None);
        roll_back(&mut connection).await;
        connection
    }

    /// A transaction that has the write lock, and whose statements end early enough for a commit like the last one to be
    /// done by `limit`, but have half of that at least.
    async fn begin(&self, limit: Duration) -> Result<Transaction<'_>, StoreError> {
        let mut connection = self.connection().await;
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *connection).await.map_err(|error| self.error(&error))?;
        let commit = Duration::from_micros(self.commit_micros.load(Ordering::Relaxed));
        self.deadline.set(Some(limit.saturating_sub(commit).max(limit / 2)));
        Ok(Transaction { store: self, connection, until: Instant::now() + limit })
    }

    fn error(&self, error: &sqlx::Error) -> StoreError {
        let what = format!("{}: {}", self.path.display(), plain(error));
        match primary_code(error) {
            Some(INTERRUPT) => StoreError::TimedOut { store: NAME },
            Some(READ_ONLY) => {
                // Say what the table is, so that its absence can be mended by hand.
                StoreError::unavailable(NAME, format!("{what} (a real run needs to write, at first: {FENCE_TABLE})"))
            }
            Some(CONSTRAINT) => StoreError::Refused { store: NAME, source: what.into() },
            _ => StoreError::unavailable(NAME, what),
        }
    }
}

/// A transaction in hand. The driver's own type loses count where SQLite itself rolls back, as it does when a statement
/// is interrupted or the disk is full.
struct Transaction<'a> {
    store: &'a SqliteStore,
    connection: MutexGuard<'a, SqliteConnection>,
    until: Instant,
}

impl Transaction<'_> {
    /// Commits what `result` is the answer to, or rolls it back where that is an error or the time is up.
    async fn end<T>(mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        self.store.deadline.set(None);
        let result = match result {
            // The commit itself cannot be interrupted: past the limit it does not begin.
            Ok(_) if Instant::now() >= self.until => Err(StoreError::TimedOut { store: NAME }),
            Ok(value) => {
                let began = Instant::now();
                let committed = sqlx::raw_sql("COMMIT").execute(&mut *self.connection).await;
                let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.store.commit_micros.store(micros, Ordering::Relaxed);
                committed.map(|_| value).map_err(|error| self.store.error(&error))
            }
            Err(error) => Err(error),
        };
        if result.is_err() {
            roll_back(&mut self.connection).await;
        }
        result
    }
}

/// Ends a transaction that failed, or whose future was dropped; without one this is an error that tells nothing.
async fn roll_back(connection: &mut SqliteConnection) {
    let _ = sqlx::raw_sql("ROLLBACK").execute(connection).await;
}

fn cache_kib(batch: BatchSize) -> usize {
    (batch.get() * RUN_KIB).clamp(CACHE_MIN_KIB, CACHE_MAX_KIB)
}

/// Lets this connection overwrite its rollback journal instead of making the file anew for each batch, which takes a
/// seventh of the time. That is a setting of the connection: the file keeps its mode, and one in WAL is left alone.
async fn keep_journal(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *connection).await?;
    if mode == "delete" {
        sqlx::raw_sql("PRAGMA journal_mode = persist").execute(connection).await?;
    }
    Ok(())
}

/// Takes away the journal that was kept. Without this the owner's next commit does.
async fn drop_journal(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *connection).await?;
    if mode == "persist" {
        sqlx::raw_sql("PRAGMA journal_mode = delete").execute(connection).await?;
    }
    Ok(())
}

/// SQLite's primary result code.
fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

/// The driver's message without its preamble.
fn plain(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

/// Whether the layout's run table is there, whole, and of a version that the layout knows.
async fn verify(
    connection: &mut SqliteConnection,
    path: &Path,
    layout: &Layout,
    tables: &Tables,
) -> Result<(), StoreError> {
    let schema = |what: String| StoreError::Schema { store: NAME, what: format!("{}: {what}", path.display()) };
    let what = |error: sqlx::Error| StoreError::unavailable(NAME, format!("{}: {}", path.display(), plain(&error)));
    if !tables.has(layout.runs) {
        return Err(schema(format!("no table {:?}: not a store of layout {:?}", layout.runs, layout.name)));
    }
    let columns: Vec<String> = sqlx::query_scalar("SELECT name FROM pragma_table_info(?)")
        .bind(layout.runs)
        .fetch_all(&mut *connection)
        .await
        .map_err(what)?;
    for column in RUN_COLUMNS {
        if !columns.iter().any(|name| name == column) {
            return Err(schema(format!("table {:?} has no column {column:?}", layout.runs)));
        }
    }
    if tables.has("schema_versions") {
        let row = sqlx::query("SELECT max(version) FROM schema_versions").fetch_one(connection).await.map_err(what)?;
        let version: Option<i64> = row.try_get(0).map_err(what)?;
        if version.is_some_and(|version| version > layout.version_max) {
            return Err(schema(format!(
                "schema version {} is newer than layout {:?} knows ({}): it may have tables that would be left behind",
                version.unwrap_or_default(),
                layout.name,
                layout.version_max
            )));
        }
    }
    Ok(())
}

/// A statement of ours: built from constants of the layout, values go through binds.
fn statement(text: String) -> AssertSqlSafe<String> {
    AssertSqlSafe(text)
}

/// Ids as a JSON array, for `json_each`: one bind and one statement text for any number of them.
fn json<'a>(ids: impl Iterator<Item = &'a str>) -> String {
    ids.collect::<serde_json::Value>().to_string()
}

#[async_trait]
impl RunStore for SqliteStore {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn now(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        Ok(None)
    }

    async fn page(&self, before: DateTime<Utc>, after: Option<&Cursor>, limit: usize) -> Result<Page, StoreError> {
        self.read_page(before, after, limit).await
    }

    async fn unpaged(&self, limit: usize) -> Result<u64, StoreError> {
        self.count_unpaged(limit).await
    }

    async fn children(&self, parents: &[String], after: Option<&Cursor>, limit: usize) -> Result<Page, StoreError> {
        self.read_children(parents, after, limit).await
    }

    async fn find(&self, ids: &[String]) -> Result<Vec<Seen>, StoreError> {
        self.read_runs(ids).await
    }

    async fn raise(&self, job: &str, fence: Fence) -> Result<(), StoreError> {
        self.raise_fence(job, fence).await
    }

    async fn delete(&self, job: &str, fence: Fence, runs: &[Seen], limit: Duration) -> Result<Deleted, StoreError> {
        self.delete_batch(job, fence, runs, limit).await
    }

    async fn loose(
        &self,
        cutoff: DateTime<Utc>,
        after: Option<&Cursor>,
        leave: Option<(&str, Fence)>,
        limit: Duration,
    ) -> Result<LooseStep, StoreError> {
        self.loose_step(cutoff, after, leave, limit).await
    }

    async fn rest(&self) {
        let mut connection = self.connection().await;
        if let Err(error) = drop_journal(&mut connection).await {
            tracing::debug!(store = NAME, %error, "the empty journal stays until the owner's next commit");
        }
    }

    async fn check(&self) -> Result<Findings, StoreError> {
        self.findings().await
    }
}

#[cfg(test)]
mod tests;
