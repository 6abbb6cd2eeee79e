//! Where SQLite, Postgres and MySQL differ, as data.

use std::time::Duration;

use sqlx::Error;

use super::{
    Limits,
    table::{IdKind, MarkKind},
};
use crate::config::MarksUrl;

/// How long a statement waits for what somebody else has locked.
const LOCK_MAX: Duration = Duration::from_secs(2);

/// Which database it is; MariaDB is `Mysql`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
    Mysql,
}

/// Numbers of MySQL's errors, by the names that its manual gives them.
#[cfg(feature = "mysql")]
mod codes {
    pub(super) const LOCK_WAIT_TIMEOUT: u16 = 1205;
    pub(super) const LOCK_DEADLOCK: u16 = 1213;
    /// Too many connections; the user may not use the database, or gave another password; no such database; shutdown; a
    /// session that was ended.
    pub(super) const GONE: [u16; 7] = [1040, 1044, 1045, 1049, 1053, 1927, 4031];
}

impl Dialect {
    pub(super) const fn of(url: &MarksUrl) -> Self {
        match url {
            MarksUrl::Sqlite(_) => Self::Sqlite,
            MarksUrl::Postgres(_) => Self::Postgres,
            MarksUrl::Mysql(_) => Self::Mysql,
        }
    }

    /// A name of the owner's as an identifier.
    pub(super) fn quoted(self, name: &str) -> String {
        match self {
            Self::Sqlite | Self::Postgres => format!("\"{}\"", name.replace('"', "\"\"")),
            Self::Mysql => format!("`{}`", name.replace('`', "``")),
        }
    }

    /// A text of the owner's as it stands in a statement. The sessions are set so that a backslash in it is one.
    pub(super) fn literal(text: &str) -> String {
        format!("'{}'", text.replace('\'', "''"))
    }

    /// The value that is bound as the `at`th, from 1.
    pub(super) fn bind(self, at: usize) -> String {
        match self {
            Self::Sqlite | Self::Postgres => format!("${at}"),
            Self::Mysql => "?".to_owned(),
        }
    }

    /// Whether a value that stands in a statement twice is bound twice.
    pub(super) const fn binds_by_place(self) -> bool {
        match self {
            Self::Sqlite | Self::Postgres => false,
            Self::Mysql => true,
        }
    }

    /// An expression as text.
    pub(super) fn text(self, expression: &str) -> String {
        match self {
            Self::Sqlite | Self::Postgres => format!("CAST({expression} AS TEXT)"),
            Self::Mysql => format!("CAST({expression} AS CHAR)"),
        }
    }

    /// The bound text `value` as an id of this kind: a cast of the column would keep its index out.
    pub(super) fn id(self, kind: IdKind, value: &str) -> String {
        match (kind, self) {
            (IdKind::Text, _) => value.to_owned(),
            (IdKind::Padded, _) => format!("CAST({value} AS bpchar)"),
            (IdKind::Uuid, _) => format!("CAST({value} AS UUID)"),
            (IdKind::Unsigned, _) => format!("CAST({value} AS UNSIGNED)"),
            (IdKind::Signed, Self::Sqlite) => format!("CAST({value} AS INTEGER)"),
            (IdKind::Signed, Self::Postgres) => format!("CAST({value} AS BIGINT)"),
            (IdKind::Signed, Self::Mysql) => format!("CAST({value} AS SIGNED)"),
        }
    }

    /// Two expressions of which the first, of the column `id`, is the second one byte by byte: the column's own order of
    /// texts may take `a`, `A` and `a ` for one.
    pub(super) fn exact(self, id: &str, value: &str) -> (String, String) {
        match self {
            Self::Sqlite => (format!("CAST({id} AS BLOB)"), format!("CAST({value} AS BLOB)")),
            Self::Postgres => (format!("CAST({id} AS TEXT) COLLATE \"C\""), value.to_owned()),
            Self::Mysql => (format!("CAST(CONVERT({id} USING utf8mb4) AS BINARY)"), format!("CAST({value} AS BINARY)")),
        }
    }

    /// What keeps rows out whose id is not of the column's kind: SQLite lets a column hold any.
    pub(super) fn own(self, kind: IdKind, id: &str) -> String {
        match (self, kind) {
            (Self::Sqlite, IdKind::Signed | IdKind::Unsigned) => format!(" AND typeof({id}) = 'integer'"),
            (Self::Sqlite, IdKind::Text | IdKind::Padded | IdKind::Uuid) => format!(" AND typeof({id}) = 'text'"),
            (Self::Postgres | Self::Mysql, _) => String::new(),
        }
    }

    /// The database's clock, as a column of this kind keeps it.
    pub(super) const fn now(self, kind: MarkKind) -> &'static str {
        match (self, kind) {
            // UTC, to the second: what SQLite's own functions write and read.
            (Self::Sqlite, _) => "CURRENT_TIMESTAMP",
            (Self::Postgres, MarkKind::Instant) => "clock_timestamp()",
            (Self::Postgres, MarkKind::WallClock) => "clock_timestamp() AT TIME ZONE 'UTC'",
            // The session's zone is UTC.
            (Self::Mysql, _) => "CURRENT_TIMESTAMP(6)",
        }
    }

    /// What begins a hold.
    pub(super) const fn begin(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
            // What others commit meanwhile is to be seen.
            Self::Postgres => "BEGIN ISOLATION LEVEL READ COMMITTED",
            Self::Mysql => "START TRANSACTION",
        }
    }

    /// What makes a SELECT hold the row that it finds, or find none that somebody else holds.
    pub(super) const fn hold(self) -> &'static str {
        match self {
            // The write lock of the transaction covers all rows.
            Self::Sqlite => "",
            // Every change and removal of the row waits for it; who only refers to the row does not.
            Self::Postgres => " FOR NO KEY UPDATE SKIP LOCKED",
            // MariaDB reads the first comment, MySQL the second; older ones wait for the row, which is bounded.
            Self::Mysql => " FOR UPDATE /*M!100600 SKIP LOCKED */ /*!80001 SKIP LOCKED */",
        }
    }

    /// What each connection is set to.
    pub(super) fn settings(self, limits: Limits) -> String {
        let [limit, idle, lock] = [limits.statement, limits.hold, LOCK_MAX].map(|limit| limit.as_millis());
        match self {
            Self::Sqlite => format!("PRAGMA busy_timeout = {lock}"),
            Self::Postgres => format!(
                "SET application_name = 'apalis-janitor'; SET standard_conforming_strings = on; \
                 SET default_transaction_isolation = 'read committed'; SET statement_timeout = {limit}; \
                 SET lock_timeout = {lock}; SET idle_in_transaction_session_timeout = {idle}"
            ),
            Self::Mysql => {
                let (limit_secs, idle_secs, lock_secs) =
                    (limit.div_ceil(1_000), idle.div_ceil(1_000), lock.div_ceil(1_000));
                format!(
                    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_BACKSLASH_ESCAPES', \
                     lock_wait_timeout = {lock_secs}, innodb_lock_wait_timeout = {lock_secs}, wait_timeout = {idle_secs} \
                     /*M!100300 , idle_transaction_timeout = {idle_secs}, max_statement_time = {limit_secs} */ \
                     /*!50708 , max_execution_time = {limit} */"
                )
            }
        }
    }

    /// What lets `statement` of a migration take its time. Postgres builds an index beside all that goes on, and waits only
    /// for transactions that are older; a new column stops everybody, and so does whoever waits to add one.
    pub(super) fn patience(self, statement: &str) -> &'static str {
        match self {
            Self::Sqlite => "PRAGMA busy_timeout = 5000",
            Self::Postgres if statement.contains(" INDEX CONCURRENTLY ") => {
                "SET statement_timeout = 0; SET lock_timeout = 0"
            }
            Self::Postgres => "SET statement_timeout = 0",
            Self::Mysql => "SET SESSION wait_timeout = DEFAULT /*M!100300 , max_statement_time = 0 */",
        }
    }

    /// Whether the database says that somebody else holds what is asked for, or waits for it too.
    pub(super) fn is_held(self, error: &Error) -> bool {
        match self {
            Self::Sqlite => matches!(primary(error), Some(5 | 6)),
            Self::Postgres => code(error).is_some_and(|code| matches!(code.as_str(), "55P03" | "40P01")),
            #[cfg(feature = "mysql")]
            Self::Mysql => {
                matches!(mysql_number(error), Some(codes::LOCK_WAIT_TIMEOUT | codes::LOCK_DEADLOCK))
            }
            #[cfg(not(feature = "mysql"))]
            Self::Mysql => false,
        }
    }

    /// Whether the next statement would fare no better: it is the connection that failed, or the server.
    pub(super) fn is_gone(self, error: &Error) -> bool {
        if error.as_database_error().is_none() {
            return !matches!(
                error,
                Error::ColumnDecode { .. } | Error::Decode(_) | Error::RowNotFound | Error::AnyDriverError(_)
            );
        }
        match self {
            // It cannot be opened, is no database, or the disk fails.
            Self::Sqlite => matches!(primary(error), Some(10 | 11 | 14 | 26)),
            // Connections, rights to connect, a database that is not there, resources, an operator, the system.
            Self::Postgres => code(error).is_some_and(|code| {
                let is_timeout = code == "57014";
                !is_timeout && ["08", "28", "3D", "53", "57", "58", "25P0"].iter().any(|class| code.starts_with(class))
            }),
            #[cfg(feature = "mysql")]
            Self::Mysql => mysql_number(error).is_some_and(|number| codes::GONE.contains(&number)),
            #[cfg(not(feature = "mysql"))]
            Self::Mysql => false,
        }
    }
}

fn code(error: &Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// SQLite's primary result code: the low byte, the rest tells its variants apart.
fn primary(error: &Error) -> Option<u32> {
    code(error)?.parse::<u32>().ok().map(|code| code & 0xff)
}

#[cfg(feature = "mysql")]
fn mysql_number(error: &Error) -> Option<u16> {
    Some(error.as_database_error()?.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>()?.number())
}
