//! What `janitor check` says of a SQLite store.

use sqlx::SqliteConnection;

use super::{NAME, SqliteStore};
use crate::runs::{Findings, StoreError, layout::Index};

impl SqliteStore {
    pub(super) async fn findings(&self) -> Result<Findings, StoreError> {
        let mut connection = self.connection().await;
        let mut found = Findings::default();
        let missing: Vec<&str> =
            self.layout.owned.iter().map(|(table, _)| *table).filter(|table| !self.tables.has(table)).collect();
        found.facts.push(format!(
            "{NAME}: {}: the tables of layout {:?} are there",
            self.path.display(),
            self.layout.name
        ));
        if !missing.is_empty() {
            found.facts.push(format!("{NAME}: an older schema, without {}", missing.join(", ")));
        }
        for index in [&self.layout.page_index, &self.layout.parent_index] {
            let has = has_index(&mut connection, self.layout.runs, index).await.map_err(|error| self.error(&error))?;
            if !has {
                found.warnings.push(format!(
                    "{NAME}: no index on {}({}), each page reads the whole table: {}",
                    self.layout.runs,
                    index.columns.join(", "),
                    index.create
                ));
            }
        }
        if std::fs::metadata(&self.path).is_ok_and(|metadata| metadata.permissions().readonly()) {
            found.warnings.push(format!("{NAME}: {}: is read-only, a real run will fail", self.path.display()));
        }
        Ok(found)
    }
}

async fn has_index(connection: &mut SqliteConnection, table: &str, index: &Index) -> Result<bool, sqlx::Error> {
    let names: Vec<String> = sqlx::query_scalar("SELECT name FROM pragma_index_list(?) WHERE partial = 0")
        .bind(table)
        .fetch_all(&mut *connection)
        .await?;
    for name in names {
        let columns: Vec<Option<String>> = sqlx::query_scalar("SELECT name FROM pragma_index_info(?) ORDER BY seqno")
            .bind(name)
            .fetch_all(&mut *connection)
            .await?;
        if columns.iter().flatten().map(String::as_str).take(index.columns.len()).eq(index.columns.iter().copied()) {
            return Ok(true);
        }
    }
    Ok(false)
}
