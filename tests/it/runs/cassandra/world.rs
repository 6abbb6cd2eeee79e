//! A keyspace as PyWorkflow 0.4.0 makes it, and the program that writes it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
};

use apalis_janitor::{
    config::CassandraUrl,
    runs::{
        RunStore, Stamp, StoreError,
        cassandra::CassandraStore,
        conformance::Subject,
        layout::PYWORKFLOW,
        memory::{Run, Thing},
    },
};
use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat};
use scylla::{
    client::session::Session, deserialize::row::DeserializeRow, serialize::row::SerializeRow, value::CqlTimestamp,
    value::CqlTimeuuid,
};

use crate::cassandra::Keyspace;

/// The table that a thing of a run is in, and its column for what tells it from others.
const OWNED: [&str; 4] = ["events", "steps", "hooks", "cancellation_flags"];
/// What the ids of events begin with that only say which step a checkpoint is of: the engine always writes one before.
const OF_STEP: &str = "\u{1}step ";

/// A keyspace with the store over it.
#[derive(Debug)]
pub struct CassandraWorld {
    pub store: Arc<CassandraStore>,
    pub writer: Session,
    pub keyspace: Keyspace,
    signals: AtomicI32,
}

type RunColumns = (
    String,
    Option<String>,
    Option<String>,
    Option<CqlTimestamp>,
    Option<CqlTimestamp>,
    Option<String>,
    Option<String>,
);

impl CassandraWorld {
    pub async fn new() -> Self {
        let (keyspace, writer) = Keyspace::new().await;
        let store = Arc::new(open(&keyspace.url()).await.expect("a store"));
        Self { store, writer, keyspace, signals: AtomicI32::new(0) }
    }

    /// Executes a statement as the program that owns the keyspace.
    pub async fn execute(&self, text: &str, values: impl SerializeRow) {
        self.writer.query_unpaged(text, values).await.unwrap_or_else(|error| panic!("{text}: {error}"));
    }

    /// What a query of the owner answers.
    pub async fn rows<T>(&self, text: &str, values: impl SerializeRow) -> Vec<T>
    where
        T: for<'r> DeserializeRow<'r, 'r>,
    {
        let answer = self.writer.query_unpaged(text, values).await.unwrap_or_else(|error| panic!("{text}: {error}"));
        answer
            .into_rows_result()
            .expect("rows")
            .rows::<T>()
            .expect("rows of this kind")
            .map(|row| row.unwrap())
            .collect()
    }

    /// How many rows a table has.
    pub async fn count(&self, table: &str) -> i64 {
        self.rows::<(i64,)>(&format!("SELECT count(*) FROM {table}"), ()).await[0].0
    }

    /// As `create_run` does, which knows nothing of what was there before.
    async fn create(&self, run: &Run) {
        self.write_row(run).await;
        let status = run.status.as_str();
        if let (Some(at), Some(day)) = (millis(run.created_at.as_ref()), day(run.created_at.as_ref())) {
            let text = "INSERT INTO runs_by_status (status, date_bucket, created_at, run_id, workflow_name) VALUES (?, ?, ?, ?, ?)";
            self.execute(text, (status, &day, at, &run.id, &run.workflow)).await;
            let text = "INSERT INTO runs_by_workflow (workflow_name, date_bucket, created_at, run_id, status) VALUES (?, ?, ?, ?, ?)";
            self.execute(text, (&run.workflow, &day, at, &run.id, status)).await;
        }
        if let Some(parent) = run.parent.as_ref().filter(|parent| !parent.is_empty()) {
            let at = millis(run.created_at.as_ref()).unwrap_or(CqlTimestamp(0));
            let text = "INSERT INTO runs_by_parent (parent_run_id, created_at, run_id, status) VALUES (?, ?, ?, ?)";
            self.execute(text, (parent, at, &run.id, status)).await;
        }
    }

    async fn write_row(&self, run: &Run) {
        let text = "INSERT INTO workflow_runs (run_id, status, workflow_name, created_at, updated_at, parent_run_id, continued_from_run_id) \
                    VALUES (?, ?, ?, ?, ?, ?, ?)";
        let (created_at, updated_at) = (millis(run.created_at.as_ref()), millis(run.updated_at.as_ref()));
        let values = (&run.id, &run.status, &run.workflow, created_at, updated_at, &run.parent, &run.continued_from);
        self.execute(text, values).await;
    }

    async fn put_owned(&self, kind: &str, run: &str, id: &str) {
        match kind {
            "events" => self.put_event(run, id, "{}").await,
            "steps" => {
                self.execute("INSERT INTO steps (run_id, step_id, status) VALUES (?, ?, 'completed')", (run, id)).await;
                self.execute("INSERT INTO steps_by_id (step_id, run_id) VALUES (?, ?)", (id, run)).await;
            }
            "hooks" => {
                let token = format!("{run}:{id}");
                self.execute("INSERT INTO hooks (run_id, hook_id, \"token\") VALUES (?, ?, ?)", (run, id, &token))
                    .await;
                self.execute("INSERT INTO hooks_by_id (hook_id, run_id) VALUES (?, ?)", (id, run)).await;
                let text = "INSERT INTO hooks_by_token (\"token\", run_id, hook_id) VALUES (?, ?, ?)";
                self.execute(text, (token, run, id)).await;
            }
            "cancellation_flags" => {
                self.execute("INSERT INTO cancellation_flags (run_id, created_at) VALUES (?, 0)", (run,)).await;
            }
            kind => panic!("no kind of thing: {kind}"),
        }
    }

    async fn put_event(&self, run: &str, id: &str, data: &str) {
        let text = "INSERT INTO events (run_id, event_time, event_id, type, data) VALUES (?, now(), ?, 'x', ?)";
        self.execute(text, (run, id, data)).await;
    }

    /// As the engine does: an event of the run names the step before it can save anything.
    async fn put_checkpoint(&self, key: &str) {
        self.execute("INSERT INTO checkpoints (step_run_id, data) VALUES (?, '{}')", (key,)).await;
        for (at, _) in key.match_indices(':') {
            let (run, step) = (&key[..at], &key[at + 1..]);
            let text = "SELECT run_id FROM workflow_runs WHERE run_id = ?";
            if run.is_empty() || self.rows::<(String,)>(text, (run,)).await.is_empty() {
                continue;
            }
            let data = serde_json::json!({"step_id": step}).to_string();
            let text = "SELECT event_time, data FROM events WHERE run_id = ?";
            let events: Vec<(CqlTimeuuid, String)> = self.rows(text, (run,)).await;
            match events.iter().find(|(_, data)| data == "{}") {
                Some((time, _)) => {
                    let text = "UPDATE events SET data = ? WHERE run_id = ? AND event_time = ?";
                    self.execute(text, (data, run, time)).await;
                }
                None => self.put_event(run, &format!("{OF_STEP}{step}"), &data).await,
            }
        }
    }

    async fn put_signal(&self, id: &str, stream: &str, kind: &str, at: Option<CqlTimestamp>) {
        let text = "INSERT INTO signals (stream_id, stream_run_id, sequence, signal_id, signal_type, published_at) \
                    VALUES (?, 'run', ?, ?, ?, ?)";
        let number = self.signals.fetch_add(1, Ordering::Relaxed);
        self.execute(text, (stream, number, id, kind, at)).await;
    }
}

/// Opens the store of a URL.
pub async fn open(url: &str) -> Result<CassandraStore, StoreError> {
    let url = CassandraUrl::parse(url.strip_prefix("cassandra:").unwrap()).unwrap();
    CassandraStore::open(&url, &PYWORKFLOW).await
}

/// The time that the driver of PyWorkflow stores; none where the text is no time.
fn millis(text: Option<&String>) -> Option<CqlTimestamp> {
    Stamp::read(text.cloned()).instant.map(|at| CqlTimestamp(at.timestamp_millis()))
}

/// The day as PyWorkflow takes it from a time: that of its own offset.
fn day(text: Option<&String>) -> Option<String> {
    let text = text?;
    millis(Some(text)).and(text.get(..10)).map(str::to_owned)
}

fn said(at: Option<CqlTimestamp>) -> Option<String> {
    let millis = at?.0;
    let form = if millis % 1_000 == 0 { SecondsFormat::Secs } else { SecondsFormat::Micros };
    Some(DateTime::from_timestamp_millis(millis)?.to_rfc3339_opts(form, false))
}

#[async_trait]
impl Subject for CassandraWorld {
    fn store(&self) -> Arc<dyn RunStore> {
        self.store.clone()
    }

    fn stored(&self, thing: Thing) -> Thing {
        let kept = |at: Option<String>| said(millis(at.as_ref()));
        match thing {
            Thing::Run(run) => {
                let (created_at, updated_at) = (kept(run.created_at), kept(run.updated_at));
                Thing::Run(Run { created_at, updated_at, ..run })
            }
            Thing::Signal { id, stream, kind, at } => Thing::Signal { id, stream, kind, at: kept(at) },
            Thing::Acknowledgement { signal, step_run, at } => {
                Thing::Acknowledgement { signal, step_run, at: kept(at) }
            }
            Thing::Subscription { stream, step_run, kinds, status, at } => {
                Thing::Subscription { stream, step_run, kinds, status, at: kept(at) }
            }
            Thing::Schedule { id, status, deleted_at } => Thing::Schedule { id, status, deleted_at: kept(deleted_at) },
            thing @ (Thing::Owned { .. } | Thing::Checkpoint { .. }) => thing,
        }
    }

    /// A key cannot be empty.
    fn holds(&self, id: &str) -> bool {
        !id.is_empty()
    }

    async fn put(&self, thing: Thing) {
        match thing {
            Thing::Run(run) => {
                let text = "SELECT created_at, parent_run_id FROM workflow_runs WHERE run_id = ?";
                let before: Vec<(Option<CqlTimestamp>, Option<String>)> = self.rows(text, (&run.id,)).await;
                let is_only_written =
                    before.first().is_some_and(|old| *old == (millis(run.created_at.as_ref()), run.parent.clone()));
                if is_only_written {
                    // As `try_claim_run` does, which leaves the index by status behind.
                    self.write_row(&run).await;
                } else {
                    self.create(&run).await;
                }
            }
            Thing::Owned { kind, run, id } => self.put_owned(&kind, &run, &id).await,
            Thing::Checkpoint { key } => self.put_checkpoint(&key).await,
            Thing::Signal { id, stream, kind, at } => self.put_signal(&id, &stream, &kind, millis(at.as_ref())).await,
            Thing::Acknowledgement { signal, step_run, at } => {
                let text =
                    "INSERT INTO signal_acknowledgments (signal_id, step_run_id, acknowledged_at) VALUES (?, ?, ?)";
                self.execute(text, (signal, step_run, millis(at.as_ref()))).await;
            }
            Thing::Subscription { stream, step_run, kinds, status, at } => {
                let text = "INSERT INTO stream_subscriptions (stream_id, step_run_id, signal_types, status, created_at) VALUES (?, ?, ?, ?, ?)";
                self.execute(text, (stream, step_run, kinds, status, millis(at.as_ref()))).await;
            }
            Thing::Schedule { id, status, deleted_at } => {
                let text = "INSERT INTO schedules (schedule_id, workflow_name, status, updated_at, next_run_time) VALUES (?, 'order', ?, ?, 0)";
                self.execute(text, (&id, &status, millis(deleted_at.as_ref()))).await;
                let text =
                    "INSERT INTO schedules_by_status (status, schedule_id, workflow_name) VALUES (?, ?, 'order')";
                self.execute(text, (&status, &id)).await;
                let text =
                    "INSERT INTO schedules_by_workflow (workflow_name, schedule_id, status) VALUES ('order', ?, ?)";
                self.execute(text, (&id, &status)).await;
                let text = "INSERT INTO due_schedules (hour_bucket, next_run_time, schedule_id) VALUES ('1970-01-01-00', 0, ?)";
                self.execute(text, (&id,)).await;
            }
        }
    }

    async fn remove(&self, run: &str) {
        for table in OWNED.into_iter().chain(["workflow_runs"]) {
            self.execute(&format!("DELETE FROM {table} WHERE run_id = ?"), (run,)).await;
        }
    }

    async fn things(&self) -> BTreeSet<Thing> {
        let mut things = BTreeSet::new();
        let text = "SELECT run_id, status, workflow_name, created_at, updated_at, parent_run_id, continued_from_run_id FROM workflow_runs";
        let runs: Vec<RunColumns> = self.rows(text, ()).await;
        things.extend(runs.into_iter().map(
            |(id, status, workflow, created_at, updated_at, parent, continued_from)| {
                let (status, workflow) = (status.unwrap_or_default(), workflow.unwrap_or_default());
                let (created_at, updated_at) = (said(created_at), said(updated_at));
                Thing::Run(Run { id, status, workflow, created_at, updated_at, parent, continued_from })
            },
        ));
        for (kind, text) in [
            ("events", "SELECT run_id, event_id FROM events"),
            ("steps", "SELECT run_id, step_id FROM steps"),
            ("hooks", "SELECT run_id, hook_id FROM hooks"),
        ] {
            let rows: Vec<(String, String)> = self.rows(text, ()).await;
            let own = rows.into_iter().filter(|(_, id)| !id.starts_with(OF_STEP));
            things.extend(own.map(|(run, id)| Thing::Owned { kind: kind.to_owned(), run, id }));
        }
        let flags: Vec<(String,)> = self.rows("SELECT run_id FROM cancellation_flags", ()).await;
        let kind = OWNED[3];
        things.extend(flags.into_iter().map(|(run,)| Thing::Owned { kind: kind.to_owned(), run, id: String::new() }));
        let keys: Vec<(String,)> = self.rows("SELECT step_run_id FROM checkpoints", ()).await;
        things.extend(keys.into_iter().map(|(key,)| Thing::Checkpoint { key }));
        things.extend(self.loose().await);
        things
    }
}

impl CassandraWorld {
    async fn loose(&self) -> Vec<Thing> {
        let mut things = Vec::new();
        let text = "SELECT signal_id, stream_id, signal_type, published_at FROM signals";
        let signals: Vec<(String, String, String, Option<CqlTimestamp>)> = self.rows(text, ()).await;
        things.extend(signals.into_iter().map(|(id, stream, kind, at)| Thing::Signal {
            id,
            stream,
            kind,
            at: said(at),
        }));
        let text = "SELECT signal_id, step_run_id, acknowledged_at FROM signal_acknowledgments";
        let read: Vec<(String, String, Option<CqlTimestamp>)> = self.rows(text, ()).await;
        let acknowledgement = |(signal, step_run, at)| Thing::Acknowledgement { signal, step_run, at: said(at) };
        things.extend(read.into_iter().map(acknowledgement));
        let text = "SELECT stream_id, step_run_id, signal_types, status, created_at FROM stream_subscriptions";
        let reads: Vec<(String, String, String, String, Option<CqlTimestamp>)> = self.rows(text, ()).await;
        things.extend(reads.into_iter().map(|(stream, step_run, kinds, status, at)| Thing::Subscription {
            stream,
            step_run,
            kinds,
            status,
            at: said(at),
        }));
        let text = "SELECT schedule_id, status, updated_at FROM schedules";
        let schedules: Vec<(String, String, Option<CqlTimestamp>)> = self.rows(text, ()).await;
        things.extend(schedules.into_iter().map(|(id, status, at)| Thing::Schedule {
            id,
            status,
            deleted_at: said(at),
        }));
        things
    }
}
