//! Runs in a MySQL or MariaDB database that another program owns and goes on writing.
//!
//! Ids are compared byte by byte here, in Rust: the tables' own collation takes `run_a`, `RUN_A` and `run_a ` for one. So
//! an index finds what may be meant, and what was not meant is left. Times are wall clocks in UTC.

mod check;
mod checkpoints;
mod delete;
mod loose;
mod read;
mod schema;
mod session;

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, MySqlConnection, mysql::MySqlConnectOptions};
use tokio::sync::Mutex;

use self::{schema::Schema, session::Flavour};
use super::{Cursor, Deleted, Findings, LooseStep, Page, RunStore, Seen, StoreError, layout::Layout};
use crate::{config::SecretUrl, lock::Fence};

const NAME: &str = "mysql";
/// How many ids one statement names at most. MariaDB turns lists of 1,000 and more into tables.
const IDS_MAX: usize = 512;
/// How many ids a statement names: the smallest of these that are enough, so that there are few different statements.
const IDS: [usize; 4] = [16, 64, 256, IDS_MAX];

/// A MySQL or MariaDB database with a run table.
#[derive(Debug)]
pub struct MysqlStore {
    /// `host:port/database`, for messages.
    place: String,
    layout: &'static Layout,
    flavour: Flavour,
    schema: Schema,
    options: MySqlConnectOptions,
    /// Connections that nobody uses. One whose call failed or was dropped never comes back.
    idle: Mutex<Vec<MySqlConnection>>,
}

impl MysqlStore {
    /// Connects to the database at `url`, which must hold the tables of `layout`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where the server cannot be reached or refuses, [`StoreError::Schema`] where the run table
    /// or one of its columns is missing, or the schema is newer than the layout knows. Neither shows a password.
    pub async fn open(url: &SecretUrl, layout: &'static Layout) -> Result<Self, StoreError> {
        let options = session::options(url)?;
        let place = session::place(&options);
        let what = |fail: Fail| told(&place, fail);
        let mut connection = session::connect(&options).await.map_err(what)?;
        let flavour = session::settle(&mut connection).await.map_err(what)?;
        let schema = Schema::read(&mut connection, layout).await.map_err(what)?;
        Ok(Self { place, layout, flavour, schema, options, idle: Mutex::new(vec![connection]) })
    }

    fn error(&self, fail: Fail) -> StoreError {
        told(&self.place, fail)
    }
}

/// Why a call failed, before it is said to the caller.
#[derive(Debug)]
enum Fail {
    /// The driver or the server said so.
    Sql(sqlx::Error),
    /// The store's schema is not what it must be.
    Schema(String),
    /// There is an answer already.
    Told(StoreError),
}

impl From<sqlx::Error> for Fail {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl Fail {
    const fn timed_out() -> Self {
        Self::Told(StoreError::TimedOut { store: NAME })
    }
}

/// Numbers of the server's errors, by the names that its manual gives them.
mod codes {
    pub(super) const NO_SUCH_TABLE: u16 = 1146;
    pub(super) const LOCK_WAIT_TIMEOUT: u16 = 1205;
    pub(super) const LOCK_DEADLOCK: u16 = 1213;
    /// `MariaDB`: `max_statement_time`.
    pub(super) const STATEMENT_TIMEOUT: u16 = 1969;
    /// `MySQL`: `max_execution_time`.
    pub(super) const QUERY_TIMEOUT: u16 = 3024;
    /// The user may not: use the database, do this to the table, to the column.
    pub(super) const DENIED: [u16; 3] = [1044, 1142, 1143];
    /// A column is missing, or a table's name is.
    pub(super) const SCHEMA: [u16; 2] = [1054, NO_SUCH_TABLE];
}

/// The server's number of an error, with its class: the first two characters of its SQLSTATE.
fn code(error: &sqlx::Error) -> Option<(u16, String)> {
    let error = error.as_database_error()?;
    let number = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()?.number();
    Some((number, error.code()?.chars().take(2).collect()))
}

/// The driver's message without its preamble.
fn plain(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

fn told(place: &str, fail: Fail) -> StoreError {
    let error = match fail {
        Fail::Told(error) => return error,
        Fail::Schema(what) => return StoreError::Schema { store: NAME, what: format!("{place}: {what}") },
        Fail::Sql(error) => error,
    };
    let what = format!("{place}: {}", plain(&error));
    match code(&error).as_ref().map(|(number, class)| (*number, class.as_str())) {
        Some((
            codes::STATEMENT_TIMEOUT | codes::QUERY_TIMEOUT | codes::LOCK_WAIT_TIMEOUT | codes::LOCK_DEADLOCK,
            _,
        )) => StoreError::TimedOut { store: NAME },
        Some((number, _)) if codes::SCHEMA.contains(&number) => StoreError::Schema { store: NAME, what },
        // A constraint, and what a trigger signals.
        Some((_, "23" | "45")) => StoreError::Refused { store: NAME, source: what.into() },
        _ => StoreError::unavailable(NAME, what),
    }
}

/// A statement of ours: built from constants of the layout and quoted names, values go through binds.
fn statement(text: String) -> AssertSqlSafe<String> {
    AssertSqlSafe(text)
}

/// A name of the owner's as an identifier.
fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// Ids in portions that one statement can name. Each is filled up with its last id: naming one twice changes nothing.
fn portions<'a>(ids: &'a [&'a str]) -> impl Iterator<Item = Vec<&'a str>> {
    ids.chunks(IDS_MAX).map(|chunk| {
        let size = IDS.into_iter().find(|size| *size >= chunk.len()).unwrap_or(IDS_MAX);
        let last = chunk.last().copied().unwrap_or_default();
        chunk.iter().copied().chain(std::iter::repeat(last)).take(size).collect()
    })
}

/// As many question marks as there are values.
fn marks(count: usize) -> String {
    vec!["?"; count].join(", ")
}

#[async_trait]
impl RunStore for MysqlStore {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn now(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        self.read_clock().await.map_err(|fail| self.error(fail))
    }

    async fn page(&self, before: DateTime<Utc>, after: Option<&Cursor>, limit: usize) -> Result<Page, StoreError> {
        self.read_page(before, after, limit).await.map_err(|fail| self.error(fail))
    }

    async fn unpaged(&self, limit: usize) -> Result<u64, StoreError> {
        self.count_unpaged(limit).await.map_err(|fail| self.error(fail))
    }

    async fn children(&self, parents: &[String], after: Option<&Cursor>, limit: usize) -> Result<Page, StoreError> {
        self.read_children(parents, after, limit).await.map_err(|fail| self.error(fail))
    }

    async fn find(&self, ids: &[String]) -> Result<Vec<Seen>, StoreError> {
        self.read_runs(ids).await.map_err(|fail| self.error(fail))
    }

    async fn raise(&self, job: &str, fence: Fence) -> Result<(), StoreError> {
        self.raise_fence(job, fence).await.map_err(|fail| self.error(fail))
    }

    async fn delete(&self, job: &str, fence: Fence, runs: &[Seen], limit: Duration) -> Result<Deleted, StoreError> {
        self.delete_batch(job, fence, runs, limit).await.map_err(|fail| self.error(fail))
    }

    async fn loose(
        &self,
        cutoff: DateTime<Utc>,
        after: Option<&Cursor>,
        leave: Option<(&str, Fence)>,
        limit: Duration,
    ) -> Result<LooseStep, StoreError> {
        self.loose_step(cutoff, after, leave, limit).await.map_err(|fail| self.error(fail))
    }

    async fn check(&self) -> Result<Findings, StoreError> {
        self.findings().await.map_err(|fail| self.error(fail))
    }
}
