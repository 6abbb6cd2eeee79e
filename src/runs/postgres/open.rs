//! Connects, and looks whether the tables are those of the layout.

use std::{str::FromStr, time::Duration};

use sqlx::{
    ConnectOptions, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::{PostgresStore, checkpoints::Keys, errors::told, parts::PARTS_MAX, statement};
use crate::{
    config::SecretUrl,
    runs::{
        StoreError,
        layout::{Layout, RUN_COLUMNS},
    },
};

/// How long the server may take to answer a new connection.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// What we are called among the server's sessions.
const APPLICATION: &str = "apalis-janitor";
/// The tables that older versions of the schema lack, beside those that the layout names.
const OTHERS: [&str; 7] = [
    "checkpoints",
    "signals",
    "signal_acknowledgments",
    "stream_subscriptions",
    "scheduled_signals",
    "schedules",
    "schema_versions",
];

/// Which of the tables are there.
#[derive(Debug, Default)]
pub(super) struct Tables(Vec<String>);

impl Tables {
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    pub(super) fn has(&self, table: &str) -> bool {
        self.0.iter().any(|name| name == table)
    }
}

/// A database that is being opened.
struct Opening<'a> {
    name: &'static str,
    place: String,
    pool: PgPool,
    layout: &'a Layout,
}

impl PostgresStore {
    /// Connects to the database at `url`, which must hold the tables of `layout`; `citus://` is its coordinator.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where the database cannot be used, [`StoreError::Schema`] where the run table or one of
    /// its columns is missing, or the schema is newer than the layout knows. Neither shows a password.
    pub async fn open(url: &SecretUrl, layout: &'static Layout) -> Result<Self, StoreError> {
        let (name, address) = match url.expose().strip_prefix("citus:") {
            Some(rest) => ("citus", format!("postgresql:{rest}")),
            None => ("postgres", url.expose().to_owned()),
        };
        let place = url.to_string();
        let options = PgConnectOptions::from_str(&address).map_err(|error| told(name, &place, &error))?;
        let options = options.application_name(APPLICATION).disable_statement_logging();
        let first = tokio::time::timeout(CONNECT_MAX, options.connect()).await;
        match first {
            // Closed by hand, so that the server does not log a lost client; how that goes tells nothing.
            Ok(Ok(connection)) => drop(sqlx::Connection::close(connection).await),
            Ok(Err(error)) => return Err(told(name, &place, &error)),
            Err(_) => return Err(StoreError::unavailable(name, format!("{place}: does not answer"))),
        }
        let pool =
            PgPoolOptions::new().max_connections(PARTS_MAX + 1).acquire_timeout(CONNECT_MAX).connect_lazy_with(options);
        let opening = Opening { name, place, pool, layout };
        let (tables, is_distributed, keys) = opening.look().await?;
        let Opening { place, pool, .. } = opening;
        Ok(Self { name, place, pool, layout, tables, keys, is_distributed })
    }
}

impl Opening<'_> {
    fn schema(&self, what: &str) -> StoreError {
        StoreError::Schema { store: self.name, what: format!("{}: {what}", self.place) }
    }

    async fn look(&self) -> Result<(Tables, bool, Keys), StoreError> {
        let tables = self.verify().await?;
        let is_distributed = self.is_distributed().await.map_err(|error| told(self.name, &self.place, &error))?;
        let keys = if tables.has("checkpoints") {
            Keys::probe(&self.pool).await.map_err(|error| told(self.name, &self.place, &error))?
        } else {
            Keys::default()
        };
        Ok((tables, is_distributed, keys))
    }

    /// Whether the run table is there, whole, and of a version that the layout knows; answers which others are.
    async fn verify(&self) -> Result<Tables, StoreError> {
        let error = |error: sqlx::Error| told(self.name, &self.place, &error);
        let layout = self.layout;
        let names: Vec<&str> =
            [layout.runs].into_iter().chain(layout.owned.iter().map(|(table, _)| *table)).chain(OTHERS).collect();
        let text = "SELECT name FROM unnest($1::text[]) AS name WHERE to_regclass(name) IS NOT NULL";
        let tables = Tables(sqlx::query_scalar(text).bind(names).fetch_all(&self.pool).await.map_err(error)?);
        if !tables.has(layout.runs) {
            return Err(self.schema(&format!("no table {:?}: not a store of layout {:?}", layout.runs, layout.name)));
        }
        let text = "SELECT attname::text, atttypid = 'timestamptz'::regtype FROM pg_attribute \
                    WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped";
        let columns: Vec<(String, bool)> =
            sqlx::query_as(text).bind(layout.runs).fetch_all(&self.pool).await.map_err(error)?;
        for column in RUN_COLUMNS {
            match columns.iter().find(|(name, _)| name == column) {
                None => return Err(self.schema(&format!("table {:?} has no column {column:?}", layout.runs))),
                Some((_, false)) if column.ends_with("_at") => {
                    return Err(self.schema(&format!("column {column:?} of table {:?} is no timestamptz", layout.runs)));
                }
                Some(_) => {}
            }
        }
        if tables.has("schema_versions") {
            let text = "SELECT max(version)::bigint FROM schema_versions";
            let version: Option<i64> = sqlx::query_scalar(text).fetch_one(&self.pool).await.map_err(error)?;
            if version.is_some_and(|version| version > layout.version_max) {
                return Err(self.schema(&format!(
                    "schema version {} is newer than layout {:?} knows ({}): it may have tables that would be left behind",
                    version.unwrap_or_default(),
                    layout.name,
                    layout.version_max
                )));
            }
        }
        Ok(tables)
    }

    /// Whether Citus knows the run table as one of its own.
    async fn is_distributed(&self) -> Result<bool, sqlx::Error> {
        let has_citus: bool = sqlx::query_scalar("SELECT to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL")
            .fetch_one(&self.pool)
            .await?;
        if !has_citus {
            return Ok(false);
        }
        let text = format!(
            "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_dist_partition WHERE logicalrelid = to_regclass('{}') AND partmethod = 'h')",
            self.layout.runs
        );
        sqlx::query_scalar(statement(text)).fetch_one(&self.pool).await
    }
}
