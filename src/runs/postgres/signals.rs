//! Which signals somebody has still to read. The tables are asked one by one and joined here: where Citus spreads them, they
//! lie on different nodes.

use std::collections::HashSet;

use super::{PostgresStore, work::Work};
use crate::runs::StoreError;

/// A signal, as far as its readers go by it.
pub(super) struct Signal {
    pub(super) id: String,
    pub(super) stream: String,
    pub(super) kind: String,
}

/// A subscription that has not ended.
struct Reader {
    stream: String,
    step_run: String,
    /// A JSON array of signal types.
    kinds: Option<String>,
}

impl Reader {
    /// An unreadable list of types may name any.
    fn reads(&self, kind: &str) -> bool {
        let kinds = self.kinds.as_deref().and_then(|kinds| serde_json::from_str::<Vec<serde_json::Value>>(kinds).ok());
        kinds.is_none_or(|kinds| kinds.iter().any(|of| of == kind))
    }
}

impl PostgresStore {
    /// The ids of those of `signals` that a subscription which has not ended has not acknowledged.
    pub(super) async fn unread(&self, work: &mut Work<'_>, signals: &[Signal]) -> Result<HashSet<String>, StoreError> {
        if signals.is_empty() {
            return Ok(HashSet::new());
        }
        let readers = self.readers(work, signals).await?;
        let awaited: Vec<(&Signal, &Reader)> = signals
            .iter()
            .flat_map(|signal| readers.iter().map(move |reader| (signal, reader)))
            .filter(|(signal, reader)| reader.stream == signal.stream && reader.reads(&signal.kind))
            .collect();
        if awaited.is_empty() {
            return Ok(HashSet::new());
        }
        let ids: Vec<&str> = awaited.iter().map(|(signal, _)| signal.id.as_str()).collect();
        let text = "SELECT signal_id, step_run_id FROM signal_acknowledgments WHERE signal_id = ANY($1)";
        let query = sqlx::query_as(text).bind(ids);
        let read: Vec<(String, String)> = work.run(async |connection| query.fetch_all(connection).await).await?;
        let read: HashSet<(&str, &str)> = read.iter().map(|(signal, step)| (signal.as_str(), step.as_str())).collect();
        let is_unread = |(signal, reader): &&(&Signal, &Reader)| !read.contains(&(&*signal.id, &*reader.step_run));
        Ok(awaited.iter().filter(is_unread).map(|(signal, _)| signal.id.clone()).collect())
    }

    async fn readers(&self, work: &mut Work<'_>, signals: &[Signal]) -> Result<Vec<Reader>, StoreError> {
        let streams: HashSet<&str> = signals.iter().map(|signal| signal.stream.as_str()).collect();
        let text = "SELECT stream_id, step_run_id, signal_types::text FROM stream_subscriptions \
                    WHERE stream_id = ANY($1) AND NOT coalesce(status, '') = ANY($2)";
        let query = sqlx::query_as(text).bind(Vec::from_iter(streams)).bind(self.layout.ended_subscriptions);
        let rows: Vec<(String, String, Option<String>)> =
            work.run(async |connection| query.fetch_all(connection).await).await?;
        Ok(rows.into_iter().map(|(stream, step_run, kinds)| Reader { stream, step_run, kinds }).collect())
    }
}
