//! Catalogs and folders that are filled without the store.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use sqlx::{
    ConnectOptions, Connection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteSynchronous},
};

async fn connect(file: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(file).disable_statement_logging().connect().await.unwrap()
}

/// Adds `blobs` live blobs to a catalog, of which nothing has referred to `orphans` for two days.
pub async fn fill(file: &Path, blobs: u64, orphans: u64) {
    let options = SqliteConnectOptions::new().filename(file).synchronous(SqliteSynchronous::Off);
    let mut connection = options.disable_statement_logging().connect().await.unwrap();
    let text = "
        WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?1),
        old (at) AS (SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) - 2 * 86400000)
        INSERT INTO janitor_blob (id, digest, size, state, created_at, touched_at, zero_since)
        SELECT printf('01%024d', n), lower(hex(randomblob(32))), 4, 'live', at, at, CASE WHEN n <= ?2 THEN at + n END
        FROM number, old";
    let (blobs, orphans) = (i64::try_from(blobs).unwrap(), i64::try_from(orphans).unwrap());
    sqlx::query(text).bind(blobs).bind(orphans).execute(&mut connection).await.unwrap();
    let text = "
        INSERT INTO janitor_blob_ref (blob_id, task, attempt, name, created_at, final)
        SELECT id, 'task ' || id, 1, '', created_at, 1 FROM janitor_blob WHERE zero_since IS NULL";
    sqlx::query(text).execute(&mut connection).await.unwrap();
    sqlx::query("ANALYZE").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// Writes a file of four bytes below each of these folders for each orphan.
pub async fn write(file: &Path, folders: &[&Path]) {
    let mut connection = connect(file).await;
    let text =
        "SELECT substr(digest, 1, 2) || '/' || digest || '.' || id FROM janitor_blob WHERE zero_since IS NOT NULL";
    let names: Vec<String> = sqlx::query_scalar(text).fetch_all(&mut connection).await.unwrap();
    for folder in folders {
        for shard in 0..=255 {
            fs::create_dir_all(folder.join(format!("{shard:02x}"))).unwrap();
        }
        for name in &names {
            fs::write(folder.join(name), "four").unwrap();
        }
    }
    connection.close().await.unwrap();
}

/// A connection that is set as the catalog's own are.
pub async fn open(file: &Path) -> SqliteConnection {
    let mut connection = connect(file).await;
    let text = "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
        PRAGMA cache_size = -16000; PRAGMA wal_autocheckpoint = 10000";
    sqlx::raw_sql(text).execute(&mut connection).await.unwrap();
    connection
}

/// How long one transaction takes that finds the blobs which have been due for the longest and claims them.
pub async fn claim_bare(connection: &mut SqliteConnection, count: usize) -> Duration {
    let text = "
        UPDATE janitor_blob SET state = 'deleting', next_at = 0 WHERE id IN (
            SELECT b.id FROM janitor_blob AS b WHERE b.state = 'live' AND b.zero_since < 9999999999999
            AND NOT EXISTS (SELECT 1 FROM janitor_blob_ref AS r WHERE r.blob_id = b.id)
            ORDER BY b.zero_since, b.id LIMIT ?
        ) RETURNING id";
    let began = Instant::now();
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let claimed = sqlx::query(text).bind(i64::try_from(count).unwrap()).fetch_all(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    let took = began.elapsed();
    assert_eq!(claimed.len(), count);
    took
}
