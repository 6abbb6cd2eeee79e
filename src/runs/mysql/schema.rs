//! What the owner's tables are like: engines, foreign keys, indexes.

use sqlx::MySqlConnection;

use super::{Fail, quoted, session::text};
use crate::runs::layout::{Layout, RUN_COLUMNS};

/// What was found when the store was opened.
#[derive(Debug)]
pub(super) struct Schema {
    tables: Vec<Table>,
}

#[derive(Debug)]
struct Table {
    name: String,
    engine: String,
    has_transactions: bool,
    /// A foreign key of its column `run_id` says that each row is a run's: whatever the case of the id, it is that run's.
    is_of_runs: bool,
    /// Name and columns, the primary key first.
    indexes: Vec<(String, Vec<String>)>,
}

const TABLES: &str = "SELECT t.table_name, t.engine, e.transactions FROM information_schema.tables AS t \
                      LEFT JOIN information_schema.engines AS e ON e.engine = t.engine \
                      WHERE t.table_schema = DATABASE() AND t.table_type = 'BASE TABLE'";
const KEYS: &str = "SELECT table_name FROM information_schema.key_column_usage WHERE table_schema = DATABASE() \
                    AND referenced_table_schema = DATABASE() AND referenced_table_name = ? \
                    AND column_name = 'run_id' AND referenced_column_name = 'run_id'";
/// Whole columns only: a part of one finds less.
const INDEXES: &str = "SELECT table_name, index_name, column_name, sub_part FROM information_schema.statistics \
                       WHERE table_schema = DATABASE() ORDER BY table_name, index_name <> 'PRIMARY', index_name, seq_in_index";
const COLUMNS: &str =
    "SELECT column_name FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = ?";

impl Schema {
    /// Reads what is there, and refuses what is not the layout's.
    pub(super) async fn read(connection: &mut MySqlConnection, layout: &Layout) -> Result<Self, Fail> {
        let mut tables = Vec::new();
        for row in sqlx::query(TABLES).fetch_all(&mut *connection).await? {
            tables.push(Table {
                name: text(&row, 0).unwrap_or_default(),
                engine: text(&row, 1).unwrap_or_default(),
                has_transactions: text(&row, 2).is_some_and(|yes| yes.eq_ignore_ascii_case("yes")),
                is_of_runs: false,
                indexes: Vec::new(),
            });
        }
        let mut schema = Self { tables };
        for row in sqlx::query(KEYS).bind(layout.runs).fetch_all(&mut *connection).await? {
            if let Some(table) = schema.table_mut(&text(&row, 0).unwrap_or_default()) {
                table.is_of_runs = true;
            }
        }
        for row in sqlx::query(INDEXES).fetch_all(&mut *connection).await? {
            let [table, index, column] = [0, 1, 2].map(|at| text(&row, at).unwrap_or_default());
            let column = if text(&row, 3).is_none() { column } else { String::new() };
            let Some(table) = schema.table_mut(&table) else { continue };
            match table.indexes.last_mut() {
                Some((name, columns)) if *name == index => columns.push(column),
                _ => table.indexes.push((index, vec![column])),
            }
        }
        schema.verify(connection, layout).await?;
        Ok(schema)
    }

    /// Whether the layout's run table is there, whole, and of a version that the layout knows.
    async fn verify(&self, connection: &mut MySqlConnection, layout: &Layout) -> Result<(), Fail> {
        if !self.has(layout.runs) {
            let what = format!("no table {:?}: not a store of layout {:?}", layout.runs, layout.name);
            return Err(Fail::Schema(what));
        }
        let rows = sqlx::query(COLUMNS).bind(layout.runs).fetch_all(&mut *connection).await?;
        let columns: Vec<String> = rows.iter().filter_map(|row| text(row, 0)).collect();
        for column in RUN_COLUMNS {
            if !columns.iter().any(|name| name.eq_ignore_ascii_case(column)) {
                return Err(Fail::Schema(format!("table {:?} has no column {column:?}", layout.runs)));
            }
        }
        if self.has("schema_versions") {
            let newest = "SELECT CAST(max(version) AS CHAR) FROM schema_versions";
            let row = sqlx::query(newest).fetch_one(connection).await?;
            let version: Option<i64> = text(&row, 0).and_then(|version| version.parse().ok());
            if let Some(version) = version.filter(|version| *version > layout.version_max) {
                return Err(Fail::Schema(format!(
                    "schema version {version} is newer than layout {:?} knows ({}): it may have tables that would be left behind",
                    layout.name, layout.version_max
                )));
            }
        }
        Ok(())
    }

    fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.name == name)
    }

    fn table_mut(&mut self, name: &str) -> Option<&mut Table> {
        self.tables.iter_mut().find(|table| table.name == name)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.table(name).is_some()
    }

    /// Whether each row of the table is a run's, as a foreign key says.
    pub(super) fn is_of_runs(&self, name: &str) -> bool {
        self.table(name).is_some_and(|table| table.is_of_runs)
    }

    /// The engine of a table that has no transactions, without which nothing can be deleted safely.
    pub(super) fn unsafe_engine(&self, name: &str) -> Option<&str> {
        self.table(name).filter(|table| !table.has_transactions).map(|table| table.engine.as_str())
    }

    /// An index of the table that begins with these columns; the primary key where it does.
    pub(super) fn index(&self, table: &str, columns: &[&str]) -> Option<&str> {
        let begins = |(_, of): &&(String, Vec<String>)| {
            of.len() >= columns.len() && of.iter().zip(columns).all(|(one, other)| one.eq_ignore_ascii_case(other))
        };
        self.table(table)?.indexes.iter().find(begins).map(|(name, _)| name.as_str())
    }

    /// What makes the server use the index that begins with these columns: its own guess may be the whole table, of which
    /// it would lock each row in turn. Empty where there is none.
    pub(super) fn hint(&self, table: &str, columns: &[&str]) -> String {
        self.index(table, columns).map(|name| format!("FORCE INDEX ({})", quoted(name))).unwrap_or_default()
    }
}
