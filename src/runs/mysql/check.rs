//! What `janitor check` says of a MySQL or MariaDB store.

use sqlx::MySqlConnection;

use super::{Fail, MysqlStore, NAME, code, codes, delete::FENCE_TABLE, session::text, statement};
use crate::runs::Findings;

impl MysqlStore {
    pub(super) async fn findings(&self) -> Result<Findings, Fail> {
        let mut connection = self.take().await?;
        let mut found = Findings::default();
        let row = sqlx::query("SELECT VERSION(), CAST(@@GLOBAL.read_only AS CHAR)").fetch_one(&mut connection).await?;
        let version = text(&row, 0).unwrap_or_default();
        let place = &self.place;
        found.facts.push(format!("{NAME}: {place}: {version}: the tables of layout {:?} are there", self.layout.name));
        let missing: Vec<&str> =
            self.layout.owned.iter().map(|(table, _)| *table).filter(|table| !self.schema.has(table)).collect();
        if !missing.is_empty() {
            found.facts.push(format!("{NAME}: an older schema, without {}", missing.join(", ")));
        }
        // Newer servers know more than one way of it.
        let is_read_only = text(&row, 1).is_some_and(|word| !matches!(word.as_str(), "0" | "OFF"));
        if is_read_only {
            found.warnings.push(format!("{NAME}: {place}: the server is read-only, a real run will fail"));
        }
        self.check_indexes(&mut found);
        self.check_engines(&mut found);
        self.check_privileges(&mut connection, &mut found).await?;
        self.give_back(connection).await;
        Ok(found)
    }

    fn check_indexes(&self, found: &mut Findings) {
        for index in [&self.layout.page_index, &self.layout.parent_index] {
            if self.schema.index(self.layout.runs, index.columns).is_none() {
                found.warnings.push(format!(
                    "{NAME}: no index on {}({}), each page reads the whole table: {}",
                    self.layout.runs,
                    index.columns.join(", "),
                    index.create
                ));
            }
        }
        for (table, _) in self.layout.owned.iter().filter(|(table, _)| self.schema.has(table)) {
            if self.schema.index(table, &["run_id"]).is_none() {
                found.warnings.push(format!(
                    "{NAME}: no index on {table}(run_id), each batch reads the whole table: CREATE INDEX idx_{table}_run_id ON {table}(run_id)"
                ));
            }
        }
    }

    fn check_engines(&self, found: &mut Findings) {
        for table in self.written() {
            if let Some(engine) = self.schema.unsafe_engine(table) {
                found.warnings.push(format!(
                    "{NAME}: table {table} is of engine {engine}, which has no transactions, a real run will refuse it: \
                     ALTER TABLE {table} ENGINE = InnoDB"
                ));
            }
        }
    }

    /// Asks the server how it would do what a real run does, which needs the same privileges and does nothing.
    async fn check_privileges(&self, connection: &mut MySqlConnection, found: &mut Findings) -> Result<(), Fail> {
        let mut lacking = Vec::new();
        for table in self.written().into_iter().filter(|table| self.schema.has(table)) {
            if !may(connection, format!("EXPLAIN DELETE FROM {table} WHERE 1 = 0")).await? {
                lacking.push(format!("DELETE on {table}"));
            }
        }
        // Rows are locked before they are deleted, which takes one of three privileges; DELETE is one.
        if self.schema.has("janitor_fence") {
            for (privilege, text) in [
                ("INSERT", "EXPLAIN INSERT INTO janitor_fence (job, fence) VALUES ('', 0)"),
                ("UPDATE", "EXPLAIN UPDATE janitor_fence SET fence = 0 WHERE 1 = 0"),
            ] {
                if !may(connection, text.to_owned()).await? {
                    lacking.push(format!("{privilege} on janitor_fence"));
                }
            }
        } else if !may_create(connection).await? {
            lacking.push(format!("CREATE, which the first real run needs, or make its table: {FENCE_TABLE}"));
        }
        if !lacking.is_empty() {
            let text = lacking.join("; ");
            found.warnings.push(format!("{NAME}: {}: the user lacks {text}", self.place));
        }
        Ok(())
    }

    /// The tables that a sweep deletes from.
    fn written(&self) -> Vec<&'static str> {
        let owned = self.layout.owned.iter().map(|(table, _)| *table);
        let loose = ["checkpoints", "signals", "signal_acknowledgments", "stream_subscriptions", "schedules"];
        owned.chain([self.layout.runs]).chain(loose).collect()
    }
}

/// Whether the server would do it.
async fn may(connection: &mut MySqlConnection, text: String) -> Result<bool, Fail> {
    match sqlx::query(statement(text)).fetch_all(connection).await {
        Ok(_) => Ok(true),
        Err(error) if code(&error).is_some_and(|(number, _)| codes::DENIED.contains(&number)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether a grant lets the user make tables in the database.
async fn may_create(connection: &mut MySqlConnection) -> Result<bool, Fail> {
    // Roles that are active are grantees of their own.
    let text = "SELECT 1 FROM (SELECT privilege_type FROM information_schema.user_privileges \
                UNION ALL SELECT privilege_type FROM information_schema.schema_privileges WHERE DATABASE() LIKE table_schema) AS p \
                WHERE p.privilege_type = 'CREATE' LIMIT 1";
    Ok(sqlx::query(text).fetch_optional(connection).await?.is_some())
}
