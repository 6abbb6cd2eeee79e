//! Runs in a keyspace of Cassandra or Scylla.
//!
//! There are no transactions over more than one partition. A run goes by a conditional delete of its own row, and what
//! belongs to it afterwards, from a marker that was written before: see `delete`. Nine index tables repeat parts of a
//! run; they may be stale, and the run's own row decides.

mod check;
mod cql;
mod delete;
mod fence;
mod loose;
mod marker;
mod page;
mod places;
mod ranges;
mod read;
mod related;
mod rights;
mod schema;

use std::{future::Future, pin::Pin, sync::Mutex, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, Utc};
use scylla::value::CqlTimestamp;

use self::{cql::Cql, delete::Unreported, fence::Own, loose::Survey, places::Places, read::Run};
use super::{Cursor, Deleted, Findings, LooseStep, Page, RunStore, Seen, Stamp, StoreError, layout::Layout};
use crate::{config::CassandraUrl, lock::Fence};

const NAME: &str = "cassandra";

/// A keyspace with a run table.
#[derive(Debug)]
pub struct CassandraStore {
    cql: Cql,
    url: CassandraUrl,
    layout: &'static Layout,
    /// Our own tables.
    own: Own,
    places: Places,
    unreported: Mutex<Unreported>,
    survey: Mutex<Survey>,
}

impl CassandraStore {
    /// Connects to the keyspace of `url`, which must hold the tables of `layout`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where no node answers or the user is refused, [`StoreError::Schema`] where the keyspace,
    /// a table or a column is missing.
    pub async fn open(url: &CassandraUrl, layout: &'static Layout) -> Result<Self, StoreError> {
        // What the driver awaits is so deep a type that the compiler would give up on who awaits this.
        let opened: Pin<Box<dyn Future<Output = Result<Self, StoreError>> + Send + '_>> =
            Box::pin(Self::connect(url, layout));
        opened.await
    }

    async fn connect(url: &CassandraUrl, layout: &'static Layout) -> Result<Self, StoreError> {
        let cql = Cql::connect(url).await?;
        let own = schema::verify(&cql, url, layout).await?;
        Ok(Self {
            cql,
            url: url.clone(),
            layout,
            own,
            places: Places::default(),
            unreported: Mutex::default(),
            survey: Mutex::default(),
        })
    }
}

/// A stored time, in the words that `PyWorkflow` would write it in. It has whole milliseconds.
fn stamp(at: Option<CqlTimestamp>) -> Stamp {
    let Some(CqlTimestamp(millis)) = at else { return Stamp::default() };
    match DateTime::from_timestamp_millis(millis) {
        Some(instant) => {
            let form = if millis % 1_000 == 0 { SecondsFormat::Secs } else { SecondsFormat::Micros };
            Stamp { raw: Some(instant.to_rfc3339_opts(form, false)), instant: Some(instant) }
        }
        None => Stamp { raw: Some(format!("{millis} ms")), instant: None },
    }
}

/// The day that the index tables file a run under that was made then.
fn day(millis: i64) -> Option<String> {
    DateTime::from_timestamp_millis(millis).map(|at| at.format("%Y-%m-%d").to_string())
}

#[async_trait]
impl RunStore for CassandraStore {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn now(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        let text = "SELECT toTimestamp(now()) FROM system.local";
        let rows: Vec<(Option<CqlTimestamp>,)> = self.cql.read(text, ()).await?;
        Ok(rows.first().and_then(|(at,)| stamp(*at).instant))
    }

    async fn page(&self, before: DateTime<Utc>, after: Option<&Cursor>, limit: usize) -> Result<Page, StoreError> {
        Ok(self.read_page(before, after, limit).await?)
    }

    async fn unpaged(&self, limit: usize) -> Result<u64, StoreError> {
        Ok(self.count_unpaged(limit).await?)
    }

    async fn children(&self, parents: &[String], after: Option<&Cursor>, limit: usize) -> Result<Page, StoreError> {
        Ok(self.read_children(parents, after, limit).await?)
    }

    async fn find(&self, ids: &[String]) -> Result<Vec<Seen>, StoreError> {
        Ok(self.read_runs(ids.iter().map(String::as_str)).await?.into_iter().map(Run::seen).collect())
    }

    async fn raise(&self, job: &str, fence: Fence) -> Result<(), StoreError> {
        self.raise_fence(job, fence).await?;
        self.finish_markers(job).await
    }

    async fn delete(&self, job: &str, fence: Fence, runs: &[Seen], limit: Duration) -> Result<Deleted, StoreError> {
        self.delete_batch(job, fence, runs, limit).await
    }

    async fn loose(
        &self,
        cutoff: DateTime<Utc>,
        after: Option<&Cursor>,
        leave: Option<(&str, Fence)>,
        limit: Duration,
    ) -> Result<LooseStep, StoreError> {
        self.loose_step(cutoff, after, leave, limit).await
    }

    async fn check(&self) -> Result<Findings, StoreError> {
        self.findings().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_a_time_as_pyworkflow_does() {
        let raw = |millis| stamp(Some(CqlTimestamp(millis))).raw.unwrap_or_default();
        assert_eq!(raw(1_780_272_000_000), "2026-06-01T00:00:00+00:00");
        assert_eq!(raw(1_780_272_000_001), "2026-06-01T00:00:00.001000+00:00");
        assert_eq!(raw(-1), "1969-12-31T23:59:59.999000+00:00");
        assert_eq!(stamp(None), Stamp::default());
    }

    #[test]
    fn a_time_that_no_calendar_has_is_none() {
        for millis in [i64::MIN, i64::MAX] {
            let stamp = stamp(Some(CqlTimestamp(millis)));
            assert_eq!((stamp.raw, stamp.instant), (Some(format!("{millis} ms")), None));
        }
    }
}
