//! A transaction in hand, whose statements end by a deadline.

use std::time::{Duration, Instant};

use sqlx::{PgConnection, Postgres, Transaction};

use super::{PostgresStore, statement};
use crate::runs::StoreError;

/// How long a statement waits for a row that somebody else has locked.
const LOCK_MAX: Duration = Duration::from_secs(2);
/// How much longer than its statements a transaction may wait for us, before the server takes us for stopped and ends it.
const IDLE: Duration = Duration::from_secs(1);
/// What the server may take to say that a statement timed out.
const GRACE: Duration = Duration::from_secs(5);

/// A transaction of ours. Dropped, it is rolled back; where this process stops, the server does that.
pub(super) struct Work<'a> {
    store: &'a PostgresStore,
    transaction: Transaction<'static, Postgres>,
    until: Instant,
    /// How long a statement may take, as the server knows it.
    allowed: Duration,
    /// How long a statement may wait for a lock.
    lock_max: Duration,
}

impl<'a> Work<'a> {
    /// Begins a transaction that is to end at `until`.
    pub(super) async fn begin(store: &'a PostgresStore, until: Instant) -> Result<Self, StoreError> {
        Self::begin_with(store, until, LOCK_MAX).await
    }

    /// As [`begin`](Self::begin), for statements that may wait for a lock as long as `lock_max`.
    pub(super) async fn begin_with(
        store: &'a PostgresStore,
        until: Instant,
        lock_max: Duration,
    ) -> Result<Self, StoreError> {
        let allowed = left(store, until)?;
        let text = format!("BEGIN ISOLATION LEVEL READ COMMITTED; {}", limits(allowed, lock_max));
        let begun = tokio::time::timeout(allowed.max(GRACE), store.pool.begin_with(statement(text))).await;
        let transaction = begun.map_err(|_| gone(store))?.map_err(|error| store.error(&error))?;
        Ok(Self { store, transaction, until, allowed, lock_max })
    }

    /// What a statement answers, which has the time that is left.
    pub(super) async fn run<T>(
        &mut self,
        statement_of: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        self.try_run(statement_of).await?.map_err(|error| self.store.error(&error))
    }

    /// As [`run`](Self::run), with what the server says where it did not do it.
    pub(super) async fn try_run<T>(
        &mut self,
        statement_of: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<Result<T, sqlx::Error>, StoreError> {
        let left = left(self.store, self.until)?;
        if left < self.allowed / 2 {
            let set = sqlx::raw_sql(statement(limits(left, self.lock_max))).execute(&mut *self.transaction);
            set.await.map_err(|error| self.store.error(&error))?;
            self.allowed = left;
        }
        let ran = tokio::time::timeout(self.allowed + GRACE, statement_of(&mut self.transaction)).await;
        ran.map_err(|_| gone(self.store))
    }

    /// Makes the server check now what it would check at the commit.
    pub(super) async fn settle(&mut self) -> Result<(), StoreError> {
        self.run(async |connection| sqlx::raw_sql("SET CONSTRAINTS ALL IMMEDIATE").execute(connection).await).await?;
        // The commit itself cannot be interrupted: past the limit it does not begin.
        left(self.store, self.until).map(drop)
    }

    /// Gives up what was done, and the locks with it.
    pub(super) async fn roll_back(self) {
        // Where this does not come to an end, the connection is closed, which does it too.
        let _ = tokio::time::timeout(GRACE, self.transaction.rollback()).await;
    }

    pub(super) async fn commit(self) -> Result<(), StoreError> {
        let committed = tokio::time::timeout(self.allowed + GRACE, self.transaction.commit()).await;
        committed.map_err(|_| gone(self.store))?.map_err(|error| self.store.error(&error))
    }
}

fn left(store: &PostgresStore, until: Instant) -> Result<Duration, StoreError> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(StoreError::TimedOut { store: store.name }) } else { Ok(left) }
}

fn gone(store: &PostgresStore) -> StoreError {
    StoreError::unavailable(store.name, format!("{}: stopped to answer", store.place))
}

/// The settings of a transaction. A batch is small, what it is looked up in is not: plans that read whole tables are for
/// who does not know that.
fn limits(allowed: Duration, lock_max: Duration) -> String {
    let millis = allowed.as_millis().max(1);
    let lock = allowed.min(lock_max).as_millis().max(1);
    // While one part is at its last statement the others wait for it.
    let idle = millis * 2 + IDLE.as_millis();
    format!(
        "SET LOCAL statement_timeout = {millis}; SET LOCAL lock_timeout = {lock}; \
         SET LOCAL idle_in_transaction_session_timeout = {idle}; SET LOCAL enable_seqscan = off"
    )
}
