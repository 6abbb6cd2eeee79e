//! Made-up runs, for `janitor demo` and for trying a configuration out.

use std::path::Path;

use sqlx::{ConnectOptions, Connection, sqlite::SqliteConnectOptions};

const RUNS: &str = include_str!("demo.sql");

/// Makes the file `path` with made-up runs of a shop: invoices, orders that failed, an audit trail, and a campaign that
/// has ended above a mail that has not.
///
/// # Errors
/// Where the file cannot be made, or has such tables already.
pub async fn make(path: &Path) -> Result<(), sqlx::Error> {
    let mut connection = SqliteConnectOptions::new().filename(path).create_if_missing(true).connect().await?;
    let mut transaction = connection.begin().await?;
    sqlx::raw_sql(RUNS).execute(&mut *transaction).await?;
    transaction.commit().await?;
    connection.close().await
}
