//! The session with the server: prepared statements, consistency levels, and what errors mean.

use std::{collections::BTreeSet, future::Future, num::NonZeroUsize, pin::Pin, time::Duration};

use futures::{StreamExt, TryStreamExt};
use scylla::{
    client::{
        PoolSize, caching_session::CachingSession, execution_profile::ExecutionProfile, session_builder::SessionBuilder,
    },
    deserialize::row::DeserializeRow,
    errors::{DbError, ExecutionError, NewSessionError, PrepareError, RequestAttemptError},
    response::{PagingState, PagingStateResponse},
    serialize::row::SerializeRow,
    statement::{Consistency, SerialConsistency, Statement},
    value::{CqlValue, Row},
};

use super::NAME;
use crate::{
    config::{self, CassandraUrl},
    runs::StoreError,
};

/// How many requests are under way at the same time.
pub(super) const IN_FLIGHT: usize = 64;
/// How many keys one read names.
pub(super) const KEYS_MAX: usize = 64;
/// How long connecting to a node may take, and how long one request.
const CONNECT_MAX: Duration = Duration::from_secs(5);
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// How many rows one answer of the server has.
const ROWS: i32 = 2_000;
/// How many different statements are kept prepared; there are fewer.
const STATEMENTS: usize = 128;

/// A session, and the keyspace that it is for.
pub(super) struct Cql {
    session: CachingSession,
    keyspace: String,
    consistency: Consistency,
    serial: SerialConsistency,
}

impl std::fmt::Debug for Cql {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cql").field("consistency", &self.consistency).finish_non_exhaustive()
    }
}

/// Why a request was not answered as it should be.
#[derive(Debug)]
pub(super) enum Failed {
    /// It took too long, or there was too much to do: the same, or less of it, may do later.
    Slow(String),
    /// The user may not.
    Forbidden(String),
    /// Anything else.
    Other(String),
}

impl Failed {
    /// As an error of the store.
    pub(super) fn error(self) -> StoreError {
        match self {
            Self::Slow(what) | Self::Forbidden(what) | Self::Other(what) => StoreError::unavailable(NAME, what),
        }
    }

    /// As an error of a call that has changed nothing yet.
    pub(super) fn error_before_any_change(self) -> StoreError {
        match self {
            Self::Slow(_) => StoreError::TimedOut { store: NAME },
            other => other.error(),
        }
    }
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> Self {
        failed.error()
    }
}

impl Cql {
    /// Connects; whether the keyspace is there is not asked.
    pub(super) async fn connect(url: &CassandraUrl) -> Result<Self, StoreError> {
        let (consistency, serial) = (consistency(url.consistency), serial(url.serial));
        let profile = ExecutionProfile::builder()
            .consistency(consistency)
            .serial_consistency(Some(serial))
            .request_timeout(Some(REQUEST_MAX))
            .build();
        let mut builder = SessionBuilder::new()
            .known_nodes(&url.hosts)
            .connection_timeout(CONNECT_MAX)
            .pool_size(PoolSize::PerHost(NonZeroUsize::MIN))
            .keyspaces_to_fetch([&url.keyspace])
            .default_execution_profile_handle(profile.into_handle());
        if let Some((user, password)) = url.expose_user() {
            builder = builder.user(user, password);
        }
        let session = builder.build().await.map_err(|error| refused(url, &error))?;
        let keyspace = url.keyspace.clone();
        Ok(Self { session: CachingSession::from(session, STATEMENTS), keyspace, consistency, serial })
    }

    /// The statement with its table in the keyspace. The server warns of prepared statements that rely on `USE`.
    fn statement(&self, text: &str) -> Statement {
        let table = ["FROM ", "INTO ", "UPDATE ", "IF NOT EXISTS "]
            .into_iter()
            .find_map(|word| Some(text.find(word)? + word.len()));
        let (head, tail) = text.split_at(table.unwrap_or(text.len()));
        if tail.starts_with("system") || tail.is_empty() {
            return Statement::new(text);
        }
        Statement::new(format!("{head}\"{}\".{tail}", self.keyspace))
    }

    /// All rows of a read.
    pub(super) async fn read<T>(&self, text: &str, values: impl SerializeRow) -> Result<Vec<T>, Failed>
    where
        T: for<'r> DeserializeRow<'r, 'r>,
    {
        let mut all = Vec::new();
        let mut from = PagingState::start();
        loop {
            let (mut rows, next) = self.page(text, &values, ROWS, from).await?;
            all.append(&mut rows);
            match next {
                Some(next) => from = next,
                None => return Ok(all),
            }
        }
    }

    /// Up to `size` rows of a read, with where it goes on.
    pub(super) async fn page<T>(
        &self,
        text: &str,
        values: impl SerializeRow,
        size: i32,
        from: PagingState,
    ) -> Result<(Vec<T>, Option<PagingState>), Failed>
    where
        T: for<'r> DeserializeRow<'r, 'r>,
    {
        let mut statement = self.statement(text).with_page_size(size);
        statement.set_is_idempotent(true);
        self.answer(statement, values, from).await
    }

    /// The rows with these keys, read a few keys at a time. Keys that no key can be are left out.
    pub(super) async fn read_keys<T>(&self, text: &str, keys: &BTreeSet<&str>) -> Result<Vec<T>, Failed>
    where
        T: for<'r> DeserializeRow<'r, 'r> + Send,
    {
        let keys: Vec<&str> = keys.iter().copied().filter(|key| is_key(key)).collect();
        let mut reads: Vec<Work<'_, Vec<T>>> = Vec::new();
        for chunk in keys.chunks(KEYS_MAX) {
            reads.push(Box::pin(self.read(text, (chunk,))));
        }
        Ok(all(reads).await?.into_iter().flatten().collect())
    }

    /// What one row says now, agreed on by the replicas: what was under way before has happened or never will.
    pub(super) async fn read_agreed<T>(&self, text: &str, values: impl SerializeRow) -> Result<Option<T>, Failed>
    where
        T: for<'r> DeserializeRow<'r, 'r>,
    {
        let mut statement = self.statement(text);
        statement.set_is_idempotent(true);
        statement.set_consistency(match self.serial {
            SerialConsistency::Serial => Consistency::Serial,
            SerialConsistency::LocalSerial => Consistency::LocalSerial,
        });
        let (rows, _) = self.answer(statement, values, PagingState::start()).await?;
        Ok(rows.into_iter().next())
    }

    async fn answer<T>(
        &self,
        statement: Statement,
        values: impl SerializeRow,
        from: PagingState,
    ) -> Result<(Vec<T>, Option<PagingState>), Failed>
    where
        T: for<'r> DeserializeRow<'r, 'r>,
    {
        let (answer, next) =
            self.session.execute_single_page(statement, values, from).await.map_err(|error| failed(&error))?;
        let unread = |error: &dyn std::error::Error| Failed::Other(error.to_string());
        let answer = answer.into_rows_result().map_err(|error| unread(&error))?;
        let rows = answer.rows::<T>().map_err(|error| unread(&error))?;
        let rows = rows.collect::<Result<Vec<T>, _>>().map_err(|error| unread(&error))?;
        let next = match next {
            PagingStateResponse::HasMorePages { state } => Some(state),
            PagingStateResponse::NoMorePages => None,
        };
        Ok((rows, next))
    }

    /// A write without a condition: to do it twice does no harm.
    pub(super) async fn write(&self, text: &str, values: impl SerializeRow) -> Result<(), Failed> {
        let mut statement = self.statement(text);
        statement.set_is_idempotent(true);
        self.session.execute_unpaged(statement, values).await.map(|_| ()).map_err(|error| failed(&error))
    }

    /// A write with a condition; whether that held.
    pub(super) async fn apply(&self, text: &str, values: impl SerializeRow) -> Result<bool, Failed> {
        let answer =
            self.session.execute_unpaged(self.statement(text), values).await.map_err(|error| failed(&error))?;
        let unread = |error: &dyn std::error::Error| Failed::Other(error.to_string());
        let answer = answer.into_rows_result().map_err(|error| unread(&error))?;
        let row: Row = answer.first_row().map_err(|error| unread(&error))?;
        Ok(matches!(row.columns.first(), Some(Some(CqlValue::Boolean(true)))))
    }

    /// What a statement lists that has rows of no fixed columns, as texts; NULL and what is neither text nor truth are empty.
    pub(super) async fn list(&self, text: &str) -> Result<Vec<Vec<String>>, Failed> {
        let answer = self.session.get_session().query_unpaged(text, ()).await.map_err(|error| failed(&error))?;
        let unread = |error: &dyn std::error::Error| Failed::Other(error.to_string());
        let answer = answer.into_rows_result().map_err(|error| unread(&error))?;
        let rows = answer.rows::<Row>().map_err(|error| unread(&error))?;
        let shown = |value: Option<CqlValue>| match value {
            Some(CqlValue::Text(text) | CqlValue::Ascii(text)) => text,
            Some(CqlValue::Boolean(is)) => is.to_string(),
            _ => String::new(),
        };
        let rows = rows.map(|row| row.map(|row| row.columns.into_iter().map(shown).collect()));
        rows.collect::<Result<_, _>>().map_err(|error| unread(&error))
    }

    /// A statement that changes the schema.
    pub(super) async fn define(&self, text: &str) -> Result<(), Failed> {
        self.session
            .get_session()
            .query_unpaged(self.statement(text), ())
            .await
            .map(|_| ())
            .map_err(|error| failed(&error))
    }
}

/// A request that is to be sent.
pub(super) type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failed>> + Send + 'a>>;

/// Sends requests, many at a time, until all are answered or one fails.
pub(super) async fn all<T>(work: Vec<Work<'_, T>>) -> Result<Vec<T>, Failed> {
    futures::stream::iter(work).buffer_unordered(IN_FLIGHT).try_collect().await
}

/// Whether the server takes `text` as a whole partition key.
pub(super) const fn is_key(text: &str) -> bool {
    !text.is_empty() && text.len() <= u16::MAX as usize
}

const fn consistency(level: config::Consistency) -> Consistency {
    match level {
        config::Consistency::One => Consistency::One,
        config::Consistency::LocalOne => Consistency::LocalOne,
        config::Consistency::Two => Consistency::Two,
        config::Consistency::Quorum => Consistency::Quorum,
        config::Consistency::LocalQuorum => Consistency::LocalQuorum,
        config::Consistency::All => Consistency::All,
    }
}

const fn serial(level: config::Serial) -> SerialConsistency {
    match level {
        config::Serial::Serial => SerialConsistency::Serial,
        config::Serial::LocalSerial => SerialConsistency::LocalSerial,
    }
}

/// Why no session came about. The driver may quote what it was given, but for the password.
fn refused(url: &CassandraUrl, error: &NewSessionError) -> StoreError {
    let hosts = url.hosts.join(", ");
    StoreError::unavailable(NAME, format!("{hosts}: {error}"))
}

fn failed(error: &ExecutionError) -> Failed {
    let text = error.to_string();
    match error {
        ExecutionError::RequestTimeout(_) => Failed::Slow(text),
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(kind, message)) => match kind {
            DbError::Unauthorized => Failed::Forbidden(message.clone()),
            DbError::ReadTimeout { .. } | DbError::WriteTimeout { .. } | DbError::Overloaded => {
                Failed::Slow(format!("{kind}: {message}"))
            }
            _ => Failed::Other(format!("{kind}: {message}")),
        },
        ExecutionError::PrepareError(PrepareError::AllAttemptsFailed { first_attempt }) => match first_attempt {
            RequestAttemptError::DbError(DbError::Unauthorized, message) => Failed::Forbidden(message.clone()),
            other => Failed::Other(other.to_string()),
        },
        _ => Failed::Other(text),
    }
}
