//! What the table wants before it can be used, or used well.

use std::{sync::Arc, time::Duration};

use sha2::{Digest, Sha256};
use sqlx::AssertSqlSafe;
use tokio::time::timeout;

use super::{
    SqlMarks,
    dialect::Dialect,
    table::{Found, is_mysql_long},
};
use crate::volumes::MarksError;

const WHAT: &str = "table not migrated";
/// How long one statement may take: an index of a large table is built in minutes.
const STATEMENT_MAX: Duration = Duration::from_hours(1);
/// How much of the table's name is in the name of an index, in bytes: databases cut names off at 63.
const NAME_MAX: usize = 40;
/// How much of a long text is in an index, in characters.
const PREFIX: &str = "(64)";

impl SqlMarks {
    pub(super) async fn read_missing(&self) -> Result<Vec<String>, MarksError> {
        let found = self.look().await?;
        let fit = found.fit(self.dialect, &self.table).map_err(|rule| self.unfit(rule))?;
        let mut statements = Vec::new();
        if fit.removed_at.is_none() {
            statements.push(self.add_column());
        }
        if !found.has_page_index(self.dialect, &self.table) {
            statements.extend(self.add_index(&found));
        }
        Ok(statements)
    }

    pub(super) async fn execute_missing(&self) -> Result<Vec<String>, MarksError> {
        let missing = self.read_missing().await?;
        if missing.is_empty() {
            return Ok(missing);
        }
        let _turn = self.turn().await.map_err(|()| self.busy(WHAT))?;
        // Its settings are its own, so it is not given back.
        let mut session = self.session(WHAT).await?;
        for statement in &missing {
            for text in [self.dialect.patience(statement), statement] {
                let done = sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(session.connection());
                match timeout(STATEMENT_MAX, done).await {
                    Ok(done) => done.map(drop).map_err(|error| self.error(WHAT, &error))?,
                    Err(elapsed) => {
                        return Err(MarksError::Failed {
                            marks: self.name.clone(),
                            what: WHAT,
                            source: Arc::new(elapsed),
                        });
                    }
                }
            }
        }
        Ok(missing)
    }

    fn add_column(&self) -> String {
        let kind = match self.dialect {
            Dialect::Sqlite => "TEXT",
            Dialect::Postgres => "TIMESTAMPTZ",
            Dialect::Mysql => "DATETIME(6)",
        };
        let column = self.dialect.quoted(&self.table.removed_at);
        format!("ALTER TABLE {} ADD COLUMN {column} {kind} NULL", self.statements.table())
    }

    /// Makes the index, in place of one that was begun and not finished.
    fn add_index(&self, found: &Found) -> Vec<String> {
        let (plain, table) = (index_name(&self.table.name, &self.statements.unmarked()), self.statements.table());
        let name = self.dialect.quoted(&plain);
        let column = |name: &str| {
            let is_long = found.column(self.dialect, name).is_some_and(|column| is_mysql_long(&column.kind));
            let prefix = if self.dialect == Dialect::Mysql && is_long { PREFIX } else { "" };
            format!("{}{prefix}", self.dialect.quoted(name))
        };
        let [id, status, removed_at] =
            [&self.table.id, &self.table.status, &self.table.removed_at].map(|name| column(name));
        let unmarked = self.statements.unmarked();
        match (self.dialect, &self.table.name[..]) {
            // Its own name has the schema, and the table's has none.
            (Dialect::Sqlite, [schema, table]) => {
                let [schema, table] = [schema, table].map(|name| self.dialect.quoted(name));
                vec![format!("CREATE INDEX {schema}.{name} ON {table} ({id}) WHERE {unmarked}")]
            }
            (Dialect::Sqlite, _) => vec![format!("CREATE INDEX {name} ON {table} ({id}) WHERE {unmarked}")],
            (Dialect::Postgres, names) => {
                // Postgres cannot do it beside other writers where the table is in parts.
                let beside = if found.is_partitioned { "" } else { " CONCURRENTLY" };
                let create = format!("CREATE INDEX{beside} {name} ON {table} ({id}) WHERE {unmarked}");
                let schema = match names {
                    [schema, _] => format!("{}.", self.dialect.quoted(schema)),
                    _ => String::new(),
                };
                let is_broken = found.indexes.iter().any(|index| index.name == plain && !index.is_valid);
                let drop = is_broken.then(|| format!("DROP INDEX{beside} {schema}{name}"));
                drop.into_iter().chain([create]).collect()
            }
            (Dialect::Mysql, _) => vec![format!("CREATE INDEX {name} ON {table} ({status}, {removed_at}, {id})")],
        }
    }
}

/// The name of the index: of the table, and of the rows that are in it.
fn index_name(table: &[String], rows: &str) -> String {
    let name = table.last().map(String::as_str).unwrap_or_default();
    let end = (0..=NAME_MAX.min(name.len())).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    let digest = Sha256::digest(format!("{}\0{rows}", table.join("\0")));
    let mark = digest.iter().take(4).fold(0_u32, |mark, byte| mark << 8 | u32::from(*byte));
    format!("janitor_{}_{mark:08x}", &name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_index_fits_every_database() {
        let name = |table: &str, rows: &str| index_name(&[table.to_owned()], rows);
        assert!(name("threads", "x").starts_with("janitor_threads_"));
        assert_eq!(name("threads", "x"), name("threads", "x"));
        assert_ne!(name("threads", "x"), name("threads", "y"));
        let long = "\u{e4}".repeat(31);
        assert!(name(&long, "x").len() <= 63);
        assert_ne!(name(&long, "x"), name(&format!("{long}b"), "x"));
    }
}
