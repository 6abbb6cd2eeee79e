//! The one SQLite file of the embedded mode: queue, locks and ledger of a single host.

use std::{path::Path, time::Duration};

use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

/// The file's name below `data_dir`.
pub const FILE: &str = "janitor.db";

/// Opens `<data_dir>/janitor.db`, and makes the folder, the file and its tables where they are missing.
pub async fn open(data_dir: &Path) -> Result<SqlitePool, sqlx::Error> {
    std::fs::create_dir_all(data_dir)?;
    let options = SqliteConnectOptions::new()
        .filename(data_dir.join(FILE))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(5));
    let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await?;
    for schema in [crate::lock::sqlite::SCHEMA, crate::ledger::sqlite::SCHEMA, crate::queue::sqlite::SCHEMA] {
        sqlx::raw_sql(schema).execute(&pool).await?;
    }
    Ok(pool)
}

/// A pool over the same file that shares nothing with `pool`; it connects when it is used.
pub fn again(pool: &SqlitePool) -> SqlitePool {
    SqlitePoolOptions::new().max_connections(1).connect_lazy_with((*pool.connect_options()).clone())
}
