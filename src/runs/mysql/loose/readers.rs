//! Which signals a subscription has still to read.

use std::collections::{HashMap, HashSet};

use sqlx::{MySqlConnection, mysql::MySqlRow};

use super::{Row, beyond};
use crate::runs::mysql::{Fail, MysqlStore, marks, portions, read::select, session::text};

/// How many subscriptions are read at a time.
const READERS: usize = 1_000;

/// A signal, as far as its readers ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signal<'a> {
    pub(super) stream: &'a str,
    pub(super) id: &'a str,
    pub(super) kind: Option<&'a str>,
}

impl<'a> Signal<'a> {
    pub(super) fn of(row: &'a Row) -> Self {
        Self { stream: &row.key[0], id: row.more[0].as_deref().unwrap_or_default(), kind: row.more[1].as_deref() }
    }
}

impl MysqlStore {
    /// For each signal whether a subscription that has not ended has still to read it.
    pub(super) async fn unread(
        &self,
        connection: &mut MySqlConnection,
        signals: &[Signal<'_>],
    ) -> Result<Vec<bool>, Fail> {
        let mut unread = vec![false; signals.len()];
        let mut read: HashSet<(String, String)> = HashSet::new();
        let ids: Vec<&str> = signals.iter().map(|signal| signal.id).collect();
        for portion in portions(&ids) {
            let query = format!(
                "SELECT signal_id, step_run_id FROM signal_acknowledgments WHERE signal_id IN ({})",
                marks(portion.len())
            );
            let rows = select(connection, query, &portion).await?;
            read.extend(rows.iter().map(|row| (text(row, 0).unwrap_or_default(), text(row, 1).unwrap_or_default())));
        }
        let mut on: HashMap<&str, Vec<usize>> = HashMap::new();
        for (at, signal) in signals.iter().enumerate() {
            on.entry(signal.stream).or_default().push(at);
        }
        let mut streams: Vec<&str> = on.keys().copied().collect();
        streams.sort_unstable();
        let all: Vec<usize> = (0..signals.len()).collect();
        for portion in portions(&streams) {
            let mut after: Option<[String; 2]> = None;
            loop {
                let rows = self.readers(connection, &portion, after.as_ref()).await?;
                for row in &rows {
                    let [stream, step, kinds] = [0, 1, 2].map(|at| text(row, at).unwrap_or_default());
                    // A stream that only compares equal may be meant by any signal here.
                    let theirs = on.get(stream.as_str()).unwrap_or(&all);
                    let kinds = serde_json::from_str::<Vec<serde_json::Value>>(&kinds).ok();
                    for at in theirs {
                        let Signal { id, kind, .. } = signals[*at];
                        // An unreadable list of types may name any.
                        let reads = kinds.as_ref().is_none_or(|kinds| kinds.iter().any(|of| of.as_str() == kind));
                        unread[*at] |= reads && !read.contains(&(id.to_owned(), step.clone()));
                    }
                }
                let Some(last) = rows.last().filter(|_| rows.len() == READERS) else { break };
                after = Some([0, 1].map(|at| text(last, at).unwrap_or_default()));
            }
        }
        Ok(unread)
    }

    /// The next subscriptions of the streams that have not ended.
    async fn readers(
        &self,
        connection: &mut MySqlConnection,
        streams: &[&str],
        after: Option<&[String; 2]>,
    ) -> Result<Vec<MySqlRow>, Fail> {
        let key = ["stream_id", "step_run_id"];
        let beyond = if after.is_some() { beyond(&key) } else { "true".to_owned() };
        let ended = self.layout.ended_subscriptions;
        let query = format!(
            "SELECT t.stream_id, t.step_run_id, t.signal_types FROM stream_subscriptions AS t WHERE t.stream_id IN ({}) \
             AND coalesce(CAST(CONVERT(t.status USING utf8mb4) AS BINARY), '') NOT IN ({}) AND {beyond} \
             ORDER BY t.stream_id, t.step_run_id LIMIT {READERS}",
            marks(streams.len()),
            marks(ended.len())
        );
        let mut values: Vec<&str> = streams.iter().chain(ended).copied().collect();
        if let Some([stream, step]) = after {
            values.extend([stream.as_str(), stream, step]);
        }
        select(connection, query, &values).await
    }
}
