//! A keyspace as PyWorkflow fills it: ten events, four steps and a hook for each run.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt};
use scylla::{
    client::{caching_session::CachingSession, session::Session},
    value::{CqlTimestamp, CqlValue},
};

use crate::cassandra::{make, session};

/// How many writes are under way at the same time: as many as the sweep has.
const IN_FLIGHT: usize = 64;
/// Of a hundred runs so many are due.
const DUE: u32 = 52;

/// A filled keyspace.
pub struct Store {
    session: CachingSession,
    keyspace: &'static str,
    runs: Vec<Run>,
}

/// A statement with what goes into it.
type Write = (&'static str, Vec<CqlValue>);

struct Run {
    number: u32,
    id: String,
    made_at: DateTime<Utc>,
    is_due: bool,
}

impl Run {
    fn new(number: u32, now: DateTime<Utc>) -> Self {
        // Far apart, so that runs that were made together are not beside each other.
        let id = format!("run_{:016x}", u64::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let is_due = number % 100 < DUE;
        let days = if is_due { 40 + i64::from(number % 50) } else { 1 + i64::from(number % 20) };
        Self { number, id, made_at: now - TimeDelta::days(days) + TimeDelta::milliseconds(number.into()), is_due }
    }

    fn day(&self) -> CqlValue {
        text(self.made_at.format("%Y-%m-%d").to_string())
    }

    fn at(&self) -> CqlValue {
        CqlValue::Timestamp(CqlTimestamp(self.made_at.timestamp_millis()))
    }

    fn id(&self) -> CqlValue {
        text(&self.id)
    }

    fn steps(&self) -> Vec<String> {
        (0..4).map(|step| format!("step_{step}_{}", self.id)).collect()
    }

    fn token(&self) -> CqlValue {
        text(format!("{}:hook_0", self.id))
    }

    /// The key of what a step has saved; a few runs have one.
    fn checkpoint(&self) -> Option<CqlValue> {
        self.number.is_multiple_of(10).then(|| text(format!("{}:{}", self.id, self.steps()[0])))
    }

    fn inserts(&self) -> Vec<Write> {
        let (status, workflow, pad) = (text("completed"), text("order"), text("x".repeat(100)));
        let mut writes = vec![
            (
                "INSERT INTO workflow_runs (run_id, status, workflow_name, created_at, updated_at, input_args) VALUES (?, ?, ?, ?, ?, ?)",
                vec![self.id(), status.clone(), workflow.clone(), self.at(), self.at(), pad.clone()],
            ),
            (
                "INSERT INTO runs_by_status (status, date_bucket, created_at, run_id, workflow_name) VALUES (?, ?, ?, ?, ?)",
                vec![status.clone(), self.day(), self.at(), self.id(), workflow.clone()],
            ),
            (
                "INSERT INTO runs_by_workflow (workflow_name, date_bucket, created_at, run_id, status) VALUES (?, ?, ?, ?, ?)",
                vec![workflow, self.day(), self.at(), self.id(), status],
            ),
            ("INSERT INTO hooks (run_id, hook_id, \"token\") VALUES (?, 'hook_0', ?)", vec![self.id(), self.token()]),
            ("INSERT INTO hooks_by_id (hook_id, run_id) VALUES ('hook_0', ?)", vec![self.id()]),
            (
                "INSERT INTO hooks_by_token (\"token\", run_id, hook_id) VALUES (?, ?, 'hook_0')",
                vec![self.token(), self.id()],
            ),
        ];
        for number in 0..10 {
            let step = self.steps().get(number).map_or_else(String::new, |step| format!(", \"step_id\": \"{step}\""));
            let data = text(format!("{{\"pad\": \"{}\"{step}}}", "x".repeat(100)));
            let insert = "INSERT INTO events (run_id, event_time, event_id, type, data) VALUES (?, now(), ?, 'x', ?)";
            writes.push((insert, vec![self.id(), text(format!("event_{number}")), data]));
        }
        for step in self.steps() {
            let insert = "INSERT INTO steps (run_id, step_id, status, result) VALUES (?, ?, 'completed', ?)";
            writes.push((insert, vec![self.id(), text(&step), pad.clone()]));
            writes.push(("INSERT INTO steps_by_id (step_id, run_id) VALUES (?, ?)", vec![text(step), self.id()]));
        }
        let saved = self.checkpoint();
        writes.extend(saved.map(|key| ("INSERT INTO checkpoints (step_run_id, data) VALUES (?, ?)", vec![key, pad])));
        writes
    }

    fn deletes(&self) -> Vec<Write> {
        let mut writes = vec![
            ("DELETE FROM workflow_runs WHERE run_id = ?", vec![self.id()]),
            ("DELETE FROM events WHERE run_id = ?", vec![self.id()]),
            ("DELETE FROM steps WHERE run_id = ?", vec![self.id()]),
            ("DELETE FROM hooks WHERE run_id = ?", vec![self.id()]),
            ("DELETE FROM hooks_by_token WHERE \"token\" = ?", vec![self.token()]),
            (
                "DELETE FROM runs_by_status WHERE status = ? AND date_bucket = ? AND created_at = ? AND run_id = ?",
                vec![text("completed"), self.day(), self.at(), self.id()],
            ),
            (
                "DELETE FROM runs_by_workflow WHERE workflow_name = ? AND date_bucket = ? AND created_at = ? AND run_id = ?",
                vec![text("order"), self.day(), self.at(), self.id()],
            ),
        ];
        writes.extend(
            self.steps().into_iter().map(|step| ("DELETE FROM steps_by_id WHERE step_id = ?", vec![text(step)])),
        );
        writes.extend(self.checkpoint().map(|key| ("DELETE FROM checkpoints WHERE step_run_id = ?", vec![key])));
        writes
    }
}

fn text(text: impl Into<String>) -> CqlValue {
    CqlValue::Text(text.into())
}

impl Store {
    /// Makes a keyspace with `runs` runs.
    pub async fn fill(port: u16, keyspace: &'static str, runs: u32) -> Self {
        let session: Session = session(port, None).await;
        make(&session, keyspace).await;
        let now = Utc::now();
        let runs = (0..runs).map(|number| Run::new(number, now)).collect();
        let store = Self { session: CachingSession::from(session, 64), keyspace, runs };
        store.send(store.runs.iter().flat_map(Run::inserts).collect()).await;
        store
    }

    /// How many runs are due at 30 days.
    pub fn due(&self) -> u64 {
        self.runs.iter().filter(|run| run.is_due).count() as u64
    }

    /// The baseline: how long the deletes alone take. All but one statement names one row, and they are known beforehand.
    pub async fn delete_alone(&self) -> Duration {
        let due = self.runs.iter().filter(|run| run.is_due);
        let writes: Vec<Write> = due.flat_map(Run::deletes).collect();
        let began = Instant::now();
        self.send(writes).await;
        began.elapsed()
    }

    async fn send(&self, writes: Vec<Write>) {
        let mut prepared = HashMap::new();
        for (text, _) in &writes {
            if !prepared.contains_key(text) {
                prepared.insert(*text, self.session.add_prepared_statement(&(*text).into()).await.unwrap());
            }
        }
        let session = self.session.get_session();
        let sent = writes.into_iter().map(|(text, values)| session.execute_unpaged(&prepared[text], values));
        futures::stream::iter(sent).buffer_unordered(IN_FLIGHT).try_for_each(async |_| Ok(())).await.unwrap();
    }

    /// How many runs are left.
    pub async fn left(&self) -> u64 {
        let answer = self.session.execute_unpaged("SELECT count(*) FROM workflow_runs", ()).await.unwrap();
        let (count,) = answer.into_rows_result().unwrap().single_row::<(i64,)>().unwrap();
        count.try_into().unwrap()
    }

    /// Removes the keyspace.
    pub async fn drop(self) {
        self.session.get_session().query_unpaged(format!("DROP KEYSPACE {}", self.keyspace), ()).await.unwrap();
    }
}
