//! Whether the keyspace has the tables of the layout.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    NAME,
    cql::Cql,
    fence::{FENCES, MARKERS, Own},
};
use crate::{
    config::CassandraUrl,
    runs::{StoreError, layout::Layout},
};

/// The tables with the columns that are read or written; a key is always among them.
pub(super) const TABLES: [(&str, &[&str]); 20] = [
    (
        "workflow_runs",
        &["run_id", "status", "workflow_name", "created_at", "updated_at", "parent_run_id", "idempotency_key"],
    ),
    ("events", &["run_id", "data"]),
    ("steps", &["run_id", "step_id"]),
    ("hooks", &["run_id", "hook_id", "token"]),
    ("cancellation_flags", &["run_id"]),
    ("checkpoints", &["step_run_id"]),
    ("runs_by_idempotency_key", &["idempotency_key", "run_id"]),
    ("runs_by_status", &["status", "date_bucket", "created_at", "run_id"]),
    ("runs_by_workflow", &["workflow_name", "date_bucket", "created_at", "run_id"]),
    ("runs_by_parent", &["parent_run_id", "created_at", "run_id"]),
    ("steps_by_id", &["step_id", "run_id"]),
    ("hooks_by_id", &["hook_id", "run_id"]),
    ("hooks_by_token", &["token", "run_id"]),
    ("signals", &["stream_id", "stream_run_id", "sequence", "signal_id", "signal_type", "published_at"]),
    ("signal_acknowledgments", &["signal_id", "step_run_id", "acknowledged_at"]),
    ("stream_subscriptions", &["stream_id", "step_run_id", "signal_types", "status", "created_at"]),
    ("schedules", &["schedule_id", "workflow_name", "status", "updated_at", "next_run_time"]),
    ("schedules_by_workflow", &["workflow_name", "schedule_id"]),
    ("schedules_by_status", &["status", "schedule_id"]),
    ("due_schedules", &["hour_bucket", "next_run_time", "schedule_id"]),
];

/// Answers which of our own tables are there.
pub(super) async fn verify(cql: &Cql, url: &CassandraUrl, layout: &Layout) -> Result<Own, StoreError> {
    let keyspace = url.keyspace.as_str();
    let schema = |what: String| StoreError::Schema { store: NAME, what: format!("keyspace {keyspace:?}: {what}") };
    let names: Vec<(String,)> =
        cql.read("SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?", (keyspace,)).await?;
    if names.is_empty() {
        return Err(schema("is not there".to_owned()));
    }
    let text = "SELECT table_name, column_name FROM system_schema.columns WHERE keyspace_name = ?";
    let rows: Vec<(String, String)> = cql.read(text, (keyspace,)).await?;
    let mut tables: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (table, column) in rows {
        tables.entry(table).or_default().insert(column);
    }
    for (table, columns) in TABLES {
        let Some(has) = tables.get(table) else {
            return Err(schema(format!("no table {table:?}: not a store of layout {:?}", layout.name)));
        };
        if let Some(column) = columns.iter().find(|column| !has.contains(**column)) {
            return Err(schema(format!("table {table:?} has no column {column:?}")));
        }
    }
    Ok(Own::new(tables.contains_key(FENCES) && tables.contains_key(MARKERS)))
}
