//! Connections with settings of our own, and transactions that end by a limit.

use std::time::{Duration, Instant};

use sqlx::{
    ConnectOptions, Connection, MySqlConnection, Row,
    mysql::{MySqlConnectOptions, MySqlRow},
};
use tokio::time::timeout;

use super::{Fail, MysqlStore, NAME, code, codes, statement};
use crate::{config::SecretUrl, runs::StoreError};

/// How long a server may take to answer.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long a statement that only reads may take, in seconds.
const READ_MAX_SECS: u64 = 60;
/// How long one statement waits for a row that somebody else holds, in seconds.
const LOCK_WAIT_MAX_SECS: u64 = 5;
/// How often a transaction is tried that the server ended because two waited for each other.
const TRIES_MAX: u64 = 5;
/// How long to wait before the next try, in milliseconds: from this, and up to so much more with each try.
const RETRY_MIN_MILLIS: u64 = 5;
const RETRY_MORE_MILLIS: u64 = 40;

/// Which of the two it is: they limit statements and idle transactions in different ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavour {
    Mysql,
    Mariadb,
}

/// How to connect to `url`.
pub(super) fn options(url: &SecretUrl) -> Result<MySqlConnectOptions, StoreError> {
    let options: MySqlConnectOptions =
        url.expose().parse().map_err(|_: sqlx::Error| StoreError::unavailable(NAME, "its address cannot be read"))?;
    // A name of the time zone would need tables that a server may lack.
    let options = options.pipes_as_concat(false).no_engine_substitution(false).timezone("+00:00".to_owned());
    Ok(options.disable_statement_logging())
}

/// `host:port/database`.
pub(super) fn place(options: &MySqlConnectOptions) -> String {
    format!("{}:{}/{}", options.get_host(), options.get_port(), options.get_database().unwrap_or_default())
}

pub(super) async fn connect(options: &MySqlConnectOptions) -> Result<MySqlConnection, Fail> {
    match timeout(CONNECT_MAX, options.connect()).await {
        Ok(connected) => Ok(connected?),
        Err(_) => Err(Fail::Sql(sqlx::Error::Io(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            format!("no answer within {} s", CONNECT_MAX.as_secs()),
        )))),
    }
}

/// Sets what holds for a whole connection.
///
/// READ COMMITTED: other writers meet no locks on gaps between rows, and a read sees what was committed before it began. A
/// server that logs statements instead of rows refuses it, and does as well with the stricter level, because nothing is
/// read without a lock before the rows are locked.
pub(super) async fn settle(connection: &mut MySqlConnection) -> Result<Flavour, Fail> {
    let row = sqlx::query("SELECT VERSION()").fetch_one(&mut *connection).await?;
    let version = text(&row, 0).unwrap_or_default();
    let flavour = if version.contains("MariaDB") { Flavour::Mariadb } else { Flavour::Mysql };
    // A server that knows no such formats logs rows.
    let rows = sqlx::query("SHOW VARIABLES WHERE Variable_name IN ('log_bin', 'binlog_format')");
    let words: Vec<Option<String>> = rows.fetch_all(&mut *connection).await?.iter().map(|row| text(row, 1)).collect();
    let is = |word: &str| words.iter().flatten().any(|value| value == word);
    let level = if is("ON") && is("STATEMENT") { "REPEATABLE READ" } else { "READ COMMITTED" };
    let settings = format!(
        "SET SESSION TRANSACTION ISOLATION LEVEL {level}; SET SESSION sql_mode = 'STRICT_ALL_TABLES', autocommit = 1"
    );
    sqlx::raw_sql(statement(settings)).execute(&mut *connection).await?;
    relax(connection, flavour).await?;
    Ok(flavour)
}

/// Sets the limits for reading.
async fn relax(connection: &mut MySqlConnection, flavour: Flavour) -> Result<(), sqlx::Error> {
    let settings = match flavour {
        Flavour::Mariadb => format!(
            "SET SESSION max_statement_time = {READ_MAX_SECS}, lock_wait_timeout = {LOCK_WAIT_MAX_SECS}, \
             innodb_lock_wait_timeout = {LOCK_WAIT_MAX_SECS}"
        ),
        Flavour::Mysql => format!(
            "SET SESSION max_execution_time = {}, lock_wait_timeout = {LOCK_WAIT_MAX_SECS}, \
             innodb_lock_wait_timeout = {LOCK_WAIT_MAX_SECS}, wait_timeout = DEFAULT",
            READ_MAX_SECS * 1_000
        ),
    };
    sqlx::raw_sql(statement(settings)).execute(connection).await?;
    Ok(())
}

/// Sets the limits for a transaction, and begins it. The server rolls back what stands idle past the limit: a holder that
/// was stopped in the middle keeps no rows locked.
async fn begin(connection: &mut MySqlConnection, flavour: Flavour, limit: Duration) -> Result<(), sqlx::Error> {
    // Whole seconds are what locks and idle transactions are limited in. 0 would be no limit.
    let secs = limit.as_secs() + u64::from(limit.subsec_nanos() > 0);
    let (idle, wait) = (secs.max(1), secs.clamp(1, LOCK_WAIT_MAX_SECS));
    let settings = match flavour {
        Flavour::Mariadb => {
            format!("max_statement_time = {:.3}, idle_transaction_timeout = {idle}", limit.as_secs_f64().max(0.001))
        }
        Flavour::Mysql => format!("wait_timeout = {idle}"),
    };
    let text = format!("SET SESSION innodb_lock_wait_timeout = {wait}, {settings}; START TRANSACTION");
    sqlx::raw_sql(statement(text)).execute(connection).await?;
    Ok(())
}

/// A transaction in hand. Dropped without its end, it takes its connection along, and the server rolls back.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) connection: MySqlConnection,
    until: Instant,
}

impl Transaction {
    /// Refuses to go on past the limit: asked before each statement.
    pub(super) fn go_on(&mut self) -> Result<&mut MySqlConnection, Fail> {
        if Instant::now() >= self.until { Err(Fail::timed_out()) } else { Ok(&mut self.connection) }
    }
}

impl MysqlStore {
    /// A connection that answers.
    pub(super) async fn take(&self) -> Result<MySqlConnection, Fail> {
        let idle = self.idle.lock().await.pop();
        if let Some(mut connection) = idle {
            // The server may have been away, or have closed what nobody used.
            if matches!(timeout(CONNECT_MAX, connection.ping()).await, Ok(Ok(()))) {
                return Ok(connection);
            }
        }
        let mut connection = connect(&self.options).await?;
        settle(&mut connection).await?;
        Ok(connection)
    }

    pub(super) async fn give_back(&self, connection: MySqlConnection) {
        self.idle.lock().await.push(connection);
    }

    /// A transaction that ends by `until`.
    pub(super) async fn begin(&self, until: Instant) -> Result<Transaction, Fail> {
        let mut connection = self.take().await?;
        begin(&mut connection, self.flavour, until.saturating_duration_since(Instant::now())).await?;
        Ok(Transaction { connection, until })
    }

    /// Commits what `done` is the answer to, or rolls it back where that is an error or the time is up.
    pub(super) async fn end<T>(&self, mut transaction: Transaction, done: Result<T, Fail>) -> Result<T, Fail> {
        // The commit itself is not limited: past the limit it does not begin.
        let done = match (done, transaction.go_on()) {
            (Ok(value), Ok(connection)) => {
                sqlx::raw_sql("COMMIT").execute(connection).await.map(|_| value).map_err(Fail::Sql)
            }
            (Ok(_), Err(late)) => Err(late),
            (Err(fail), _) => Err(fail),
        };
        let mut connection = transaction.connection;
        let is_over = done.is_ok() || sqlx::raw_sql("ROLLBACK").execute(&mut connection).await.is_ok();
        if is_over && relax(&mut connection, self.flavour).await.is_ok() {
            self.give_back(connection).await;
        }
        done
    }
}

/// Whether to try a transaction again that the server ended so that another one may go on; waits a moment before.
pub(super) async fn is_worth_a_try(fail: &Fail, tries: &mut u64) -> bool {
    let Fail::Sql(error) = fail else { return false };
    let is_tie = matches!(code(error), Some((codes::LOCK_DEADLOCK | codes::LOCK_WAIT_TIMEOUT, _)));
    *tries += 1;
    if !is_tie || *tries >= TRIES_MAX {
        return false;
    }
    // Two that wait for each other should not meet again at once.
    let millis = RETRY_MIN_MILLIS + rand::random_range(0..RETRY_MORE_MILLIS * *tries);
    tokio::time::sleep(Duration::from_millis(millis)).await;
    true
}

/// What a column holds; none where it is NULL.
pub(super) fn bytes(row: &MySqlRow, column: usize) -> Option<Vec<u8>> {
    // Texts come in the connection's own encoding, whatever type the server names.
    row.try_get_unchecked::<Option<Vec<u8>>, _>(column).ok().flatten()
}

/// The text of a column; none where it is NULL.
pub(super) fn text(row: &MySqlRow, column: usize) -> Option<String> {
    bytes(row, column).map(|bytes| {
        String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    })
}
