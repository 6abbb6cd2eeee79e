//! The owner of a table of threads, in each database: makes it, and opens and closes threads in it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use apalis_janitor::{
    config::{MarksUrl, SecretUrl, ThreadsTable},
    volumes::marks::{
        Limits, Marks, SqlMarks,
        conformance::{Ids, Subject},
    },
};
use async_trait::async_trait;
use sqlx::{AnyConnection, AssertSqlSafe, Connection};

/// Which database it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    Postgres,
    Mysql,
}

/// Longer than anything takes that goes well.
const LONG: Duration = Duration::from_secs(20);

/// An owner with a database.
#[derive(Clone, Debug)]
pub struct Owner {
    pub kind: Kind,
    pub url: MarksUrl,
    /// Where the driver finds it.
    address: String,
    schema: String,
    /// How long what the marks do may take.
    pub limits: Limits,
}

impl Owner {
    pub fn sqlite(path: PathBuf) -> Self {
        let address = format!("sqlite://{}?mode=rwc", path.display());
        // Who waits for its own process waits this long.
        let limits = Limits { statement: LONG, hold: Duration::from_secs(3) };
        Self { kind: Kind::Sqlite, url: MarksUrl::Sqlite(path), address, schema: "main".to_owned(), limits }
    }

    pub fn postgres(address: String) -> Self {
        let url = MarksUrl::Postgres(SecretUrl::new(&address));
        let limits = Limits { statement: LONG, hold: LONG };
        Self { kind: Kind::Postgres, url, address, schema: "other \"schema\"".to_owned(), limits }
    }

    pub fn mysql(address: String, schema: String) -> Self {
        let url = MarksUrl::Mysql(SecretUrl::new(&address));
        Self { kind: Kind::Mysql, url, address, schema, limits: Limits { statement: LONG, hold: LONG } }
    }

    pub async fn connect(&self) -> AnyConnection {
        sqlx::any::install_default_drivers();
        let mut connection = AnyConnection::connect(&self.address).await.expect("a database that answers");
        let settings = match self.kind {
            Kind::Sqlite => "PRAGMA busy_timeout = 20000",
            Kind::Postgres => "SET lock_timeout = '20s'",
            Kind::Mysql => "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_BACKSLASH_ESCAPES'",
        };
        execute_on(&mut connection, settings).await.expect("settings");
        connection
    }

    /// Executes statements, and answers how many rows they changed.
    pub async fn execute(&self, text: &str) -> u64 {
        let mut connection = self.connect().await;
        let changed = execute_on(&mut connection, text).await.unwrap_or_else(|error| panic!("{text}: {error}"));
        connection.close().await.expect("closed");
        changed
    }

    /// The text that a statement answers.
    pub async fn ask(&self, text: &str) -> Option<String> {
        let mut connection = self.connect().await;
        let found = sqlx::query_scalar(AssertSqlSafe(text.to_owned())).fetch_one(&mut connection).await;
        found.unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// The marks in a table, as a job opens them.
    pub async fn marks(&self, table: &ThreadsTable) -> SqlMarks {
        SqlMarks::open(&self.url, table, self.limits, 2).await.expect("a database that answers")
    }

    pub fn quoted(&self, name: &str) -> String {
        match self.kind {
            Kind::Sqlite | Kind::Postgres => format!("\"{}\"", name.replace('"', "\"\"")),
            Kind::Mysql => format!("`{}`", name.replace('`', "``")),
        }
    }

    fn table(&self, table: &ThreadsTable) -> String {
        table.name.iter().map(|name| self.quoted(name)).collect::<Vec<_>>().join(".")
    }

    /// Which row it is.
    fn is(&self, table: &ThreadsTable, id: &str) -> String {
        format!("{} WHERE {} = {}", self.table(table), self.quoted(&table.id), literal(id))
    }

    fn update(&self, table: &ThreadsTable, id: &str, status: &str) -> String {
        let (name, status_of) = (self.table(table), self.quoted(&table.status));
        let id_of = self.quoted(&table.id);
        format!("UPDATE {name} SET {status_of} = {} WHERE {id_of} = {}", literal(status), literal(id))
    }
}

pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

async fn execute_on(connection: &mut AnyConnection, text: &str) -> Result<u64, sqlx::Error> {
    Ok(sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(connection).await?.rows_affected())
}

#[async_trait]
impl Subject for Owner {
    fn ids(&self) -> &'static [Ids] {
        match self.kind {
            Kind::Sqlite => &[Ids::Whole, Ids::Text],
            Kind::Postgres | Kind::Mysql => &[Ids::Whole, Ids::Text, Ids::Uuid],
        }
    }

    async fn make(&self, table: &ThreadsTable, ids: Ids, has_column: bool) -> Arc<dyn Marks> {
        if let ([schema, _], Kind::Postgres | Kind::Mysql) = (&table.name[..], self.kind) {
            self.execute(&format!("CREATE SCHEMA IF NOT EXISTS {}", self.quoted(schema))).await;
        }
        let (id, mark, text, end) = match (self.kind, ids) {
            (Kind::Sqlite, Ids::Whole) => ("INTEGER", "TEXT", "TEXT", ""),
            // It takes `a` and `A` for one.
            (Kind::Sqlite, _) => ("TEXT COLLATE NOCASE", "TEXT", "TEXT", ""),
            (Kind::Postgres, Ids::Whole) => ("BIGINT", "TIMESTAMPTZ", "TEXT", ""),
            (Kind::Postgres, Ids::Text) => ("VARCHAR(64)", "TIMESTAMPTZ", "TEXT", ""),
            (Kind::Postgres, Ids::Uuid) => ("UUID", "TIMESTAMPTZ", "TEXT", ""),
            (Kind::Mysql, Ids::Whole) => ("BIGINT", "DATETIME(6)", "VARCHAR(64)", " CHARACTER SET utf8mb4"),
            (Kind::Mysql, Ids::Text) => ("VARCHAR(64)", "DATETIME(6)", "VARCHAR(64)", " CHARACTER SET utf8mb4"),
            (Kind::Mysql, Ids::Uuid) => ("CHAR(36)", "DATETIME(6)", "VARCHAR(64)", " CHARACTER SET utf8mb4"),
        };
        let [id_of, status, removed_at] = [&table.id, &table.status, &table.removed_at].map(|name| self.quoted(name));
        let more = if has_column { format!(", {removed_at} {mark}") } else { String::new() };
        let name = self.table(table);
        self.execute(&format!("CREATE TABLE {name} ({id_of} {id} PRIMARY KEY, {status} {text} NOT NULL{more}){end}"))
            .await;
        Arc::new(self.marks(table).await)
    }

    async fn set(&self, table: &ThreadsTable, id: &str, status: &str) {
        if self.execute(&self.update(table, id, status)).await == 0 {
            let columns = format!("{}, {}", self.quoted(&table.id), self.quoted(&table.status));
            let values = format!("{}, {}", literal(id), literal(status));
            self.execute(&format!("INSERT INTO {} ({columns}) VALUES ({values})", self.table(table))).await;
        }
    }

    async fn try_set(&self, table: &ThreadsTable, id: &str, status: &str) -> bool {
        let mut connection = self.connect().await;
        let select = format!("SELECT 1 FROM {} FOR UPDATE NOWAIT", self.is(table, id));
        let begin: &[&str] = match self.kind {
            Kind::Sqlite => &["PRAGMA busy_timeout = 0", "BEGIN IMMEDIATE"],
            Kind::Postgres | Kind::Mysql => &["BEGIN", &select],
        };
        for text in begin {
            if let Err(error) = execute_on(&mut connection, text).await {
                let told = error.to_string();
                let is_held =
                    ["locked", "could not obtain lock", "Lock wait timeout"].iter().any(|part| told.contains(part));
                assert!(is_held, "{text}: {told}");
                return false;
            }
        }
        for text in [&self.update(table, id, status), "COMMIT"] {
            execute_on(&mut connection, text).await.unwrap_or_else(|error| panic!("{text}: {error}"));
        }
        true
    }

    async fn stored_mark(&self, table: &ThreadsTable, id: &str) -> Option<String> {
        let text = if self.kind == Kind::Mysql { "CHAR" } else { "TEXT" };
        let removed_at = self.quoted(&table.removed_at);
        let text = format!("SELECT CAST({removed_at} AS {text}) FROM {}", self.is(table, id));
        let mut connection = self.connect().await;
        let found: Option<Option<String>> =
            sqlx::query_scalar(AssertSqlSafe(text)).fetch_optional(&mut connection).await.expect("an answer");
        found.flatten()
    }

    fn schema(&self) -> Option<String> {
        Some(self.schema.clone())
    }
}
