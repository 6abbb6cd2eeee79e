//! Connections, and statements that end by a limit.

use std::{path::Path, time::Duration};

use sqlx::{
    Any, AnyConnection, AssertSqlSafe, ConnectOptions, Error, Row,
    any::{AnyArguments, AnyConnectOptions, AnyPoolOptions, AnyRow},
    pool::PoolConnection,
    query::Query,
};
use tokio::time::timeout;

use super::{Limits, SqlMarks, dialect::Dialect};
use crate::{
    config::MarksUrl,
    volumes::{MarksError, marks::shared},
};

/// What a server may take to say that a statement took too long.
const GRACE: Duration = Duration::from_secs(2);

/// A connection in hand. Dropped before it is given back it is closed, whatever it was in the middle of: the database takes
/// back what was not committed.
#[derive(Debug)]
pub(super) struct Session(Option<PoolConnection<Any>>);

impl Session {
    pub(super) fn connection(&mut self) -> &mut AnyConnection {
        self.0.as_mut().expect("it is there until it is given back")
    }

    /// Gives the connection back, which is in no transaction.
    pub(super) fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.0 {
            connection.close_on_drop();
        }
    }
}

/// How to connect to `url`; the error is why not.
pub(super) fn options(url: &MarksUrl) -> Result<AnyConnectOptions, String> {
    let text = match url {
        MarksUrl::Sqlite(path) => sqlite_url(path)?,
        MarksUrl::Postgres(url) | MarksUrl::Mysql(url) => url.expose().to_owned(),
    };
    // What the driver says may quote the password.
    let options: AnyConnectOptions = text.parse().map_err(|_: Error| "its address cannot be read".to_owned())?;
    Ok(options.disable_statement_logging())
}

/// The URL by which the driver finds a file, which must be there.
fn sqlite_url(path: &Path) -> Result<String, String> {
    // Real: a URL with `..` in it would be shortened, which is another file where a link is before it.
    let path = path.canonicalize().map_err(|error| error.to_string())?;
    let path = path.to_str().ok_or("its name is not UTF-8")?;
    let encoded = path.bytes().map(|byte| match byte {
        b'/' | b'.' | b'-' | b'_' | b'~' => char::from(byte).to_string(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    Ok(format!("sqlite://{}?mode=rw", encoded.collect::<String>()))
}

/// A pool of so many connections and one, which connects when it is used.
pub(super) fn pool(options: AnyConnectOptions, dialect: Dialect, limits: Limits, connections: usize) -> sqlx::AnyPool {
    let settings = dialect.settings(limits);
    AnyPoolOptions::new()
        .max_connections(u32::try_from(connections).unwrap_or(u32::MAX - 1) + 1)
        .acquire_timeout(limits.statement)
        .after_connect(move |connection, _| {
            let settings = AssertSqlSafe(settings.clone());
            Box::pin(async move { sqlx::raw_sql(settings).execute(connection).await.map(drop) })
        })
        .connect_lazy_with(options)
}

/// A statement of ours with texts bound to it: what is not bound is constant or quoted.
fn query<'q>(text: String, binds: &[&str]) -> Query<'q, Any, AnyArguments> {
    binds.iter().fold(sqlx::query(AssertSqlSafe(text)), |query, bind| query.bind((*bind).to_owned()))
}

/// A row's texts; none where one is NULL.
fn texts(row: &AnyRow) -> Result<Vec<Option<String>>, Error> {
    (0..row.len()).map(|at| row.try_get(at)).collect()
}

impl SqlMarks {
    /// A connection that answers.
    pub(super) async fn session(&self, what: &'static str) -> Result<Session, MarksError> {
        let acquired = self.pool.acquire().await;
        acquired.map(|connection| Session(Some(connection))).map_err(|error| self.error(what, &error))
    }

    /// What comes of `work`, which the server should have ended by itself by then.
    async fn within<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let limit = self.limits.statement + GRACE;
        let late =
            |_| Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no answer within {limit:?}")));
        timeout(limit, work).await.map_err(late)?
    }

    /// The rows that a statement answers, on this connection.
    pub(super) async fn rows_on(
        &self,
        session: &mut Session,
        text: String,
        binds: &[&str],
    ) -> Result<Vec<Vec<Option<String>>>, Error> {
        let rows = self.within(query(text, binds).fetch_all(session.connection())).await?;
        rows.iter().map(texts).collect()
    }

    /// The last column of each row of a plan.
    #[cfg(feature = "test-util")]
    pub(super) async fn plan_of(&self, text: String) -> Result<Vec<String>, MarksError> {
        let mut session = self.session("plan not read").await?;
        let rows = query(text, &[]).fetch_all(session.connection()).await;
        let rows = rows.map_err(|error| self.error("plan not read", &error))?;
        session.give_back();
        Ok(rows.iter().filter_map(|row| row.try_get::<String, _>(row.len() - 1).ok()).collect())
    }

    /// How many rows a statement changes, on this connection.
    pub(super) async fn change_on(&self, session: &mut Session, text: String, binds: &[&str]) -> Result<u64, Error> {
        let changed = self.within(query(text, binds).execute(session.connection())).await?;
        Ok(changed.rows_affected())
    }

    /// Begins, commits or rolls back on this connection.
    pub(super) async fn turn_on(&self, session: &mut Session, text: &'static str) -> Result<(), Error> {
        self.within(sqlx::raw_sql(text).execute(session.connection())).await.map(drop)
    }

    /// The rows that a statement answers.
    pub(super) async fn rows(
        &self,
        what: &'static str,
        text: String,
        binds: &[&str],
    ) -> Result<Vec<Vec<Option<String>>>, MarksError> {
        let mut session = self.session(what).await?;
        let rows = self.rows_on(&mut session, text, binds).await.map_err(|error| self.error(what, &error))?;
        session.give_back();
        Ok(rows)
    }

    /// How many rows a statement changes.
    pub(super) async fn change(&self, what: &'static str, text: String, binds: &[&str]) -> Result<u64, MarksError> {
        let mut session = self.session(what).await?;
        let changed = self.change_on(&mut session, text, binds).await.map_err(|error| self.error(what, &error))?;
        session.give_back();
        Ok(changed)
    }

    /// The error of what was not done.
    pub(super) fn error(&self, what: &'static str, error: &Error) -> MarksError {
        told(&self.name, self.dialect, what, error)
    }

    /// The error of what had no turn to write.
    pub(super) fn busy(&self, what: &'static str) -> MarksError {
        let source = shared(format!("this process has been writing for {:?}", self.limits.hold));
        MarksError::Failed { marks: self.name.clone(), what, source }
    }

    pub(super) fn unfit(&self, rule: String) -> MarksError {
        MarksError::Unfit { marks: self.name.clone(), rule }
    }
}

/// The error of what was not done in the database `marks`.
pub(super) fn told(marks: &str, dialect: Dialect, what: &'static str, error: &Error) -> MarksError {
    let (marks, source) = (marks.to_owned(), shared(plain(error)));
    if dialect.is_gone(error) {
        MarksError::Unavailable { marks, what, source }
    } else {
        MarksError::Failed { marks, what, source }
    }
}

/// What the database says, without the driver's preamble.
pub(super) fn plain(error: &Error) -> String {
    match error {
        Error::Database(error) => error.message().to_owned(),
        Error::PoolTimedOut => "no answer, or no connection left".to_owned(),
        error => error.to_string(),
    }
}
