//! The table of ours in which a newer holder of a job's lock leaves its number.

use std::time::{Duration, Instant};

use sqlx::PgConnection;

use super::{FENCE_TABLE, PostgresStore, work::Work};
use crate::{lock::Fence, runs::StoreError};

/// How long raising may take: a stalled holder's transaction may stand in the way until the server ends it.
const RAISE_MAX: Duration = Duration::from_secs(45);

impl PostgresStore {
    /// Sets the job's fence, which must grow; makes the table that remembers it.
    pub(super) async fn raise_fence(&self, job: &str, fence: Fence) -> Result<(), StoreError> {
        let number = i64::try_from(fence.get()).unwrap_or(i64::MAX);
        self.make_table().await?;
        let text = "INSERT INTO janitor_fence (job, fence) VALUES ($1, $2) \
                    ON CONFLICT (job) DO UPDATE SET fence = excluded.fence WHERE janitor_fence.fence < excluded.fence";
        let mut work = Work::begin_with(self, Instant::now() + RAISE_MAX, RAISE_MAX).await?;
        let raised = work
            .run(async |connection| sqlx::query(text).bind(job).bind(number).execute(connection).await)
            .await?
            .rows_affected();
        if raised == 0 {
            let highest = work.run(async |connection| seen_fence(connection, job).await).await?;
            return Err(StoreError::Fenced { store: self.name, fence, highest });
        }
        work.commit().await
    }

    /// Without the right to make a table it is enough that it is there.
    async fn make_table(&self) -> Result<(), StoreError> {
        let text = "SELECT to_regclass('janitor_fence') IS NOT NULL";
        let is_there: bool = self.read(sqlx::query_scalar(text).fetch_one(&self.pool)).await?;
        if is_there {
            return Ok(());
        }
        match sqlx::raw_sql(FENCE_TABLE).execute(&self.pool).await {
            // Somebody else makes it at this moment.
            Err(error) if super::errors::is_refused(&error) => Ok(()),
            answer => answer.map(drop).map_err(|error| self.error(&error)),
        }
    }

    /// Refuses a fence that is not the one that the store has seen last, and keeps it so until the end of the transaction.
    pub(super) async fn guard_fence(&self, work: &mut Work<'_>, (job, fence): (&str, Fence)) -> Result<(), StoreError> {
        let highest = work.run(async |connection| seen_fence(connection, job).await).await?;
        if highest == fence.get() { Ok(()) } else { Err(StoreError::Fenced { store: self.name, fence, highest }) }
    }
}

/// The highest fence that the store has seen of `job`; 0 where it has seen none.
async fn seen_fence(connection: &mut PgConnection, job: &str) -> Result<u64, sqlx::Error> {
    let text = "SELECT fence FROM janitor_fence WHERE job = $1 FOR SHARE";
    let fence: Option<i64> = sqlx::query_scalar(text).bind(job).fetch_optional(connection).await?;
    Ok(fence.and_then(|fence| u64::try_from(fence).ok()).unwrap_or(0))
}
