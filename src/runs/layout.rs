//! A run table and what belongs to it, as data.
//!
//! Sources: the schema that PyWorkflow 0.4.0 makes (schema versions 1 to 7) and the statuses that its own cleaner takes.

/// The tables of a workflow engine. Names are constants of ours, never input.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The name in the configuration.
    pub name: &'static str,
    /// The newest schema version that this layout describes; a newer store is refused.
    pub version_max: i64,
    /// The run table.
    pub runs: &'static str,
    /// The statuses of runs that have ended.
    pub terminal: &'static [&'static str],
    /// The statuses of runs that ended without what they were for; all of them are terminal.
    pub failed: &'static [&'static str],
    /// Tables whose rows name the run that they belong to in a column `run_id`: table, kind in reports.
    pub owned: &'static [(&'static str, &'static str)],
    /// The index that pages by creation: name and the statement that makes it.
    pub page_index: Index,
    /// The index that finds children.
    pub parent_index: Index,
    /// Subscriptions in these statuses have ended; every other one may still read its signals.
    pub ended_subscriptions: &'static [&'static str],
    /// Schedules in these statuses are deleted; both spellings are found in real stores.
    pub deleted_schedules: &'static [&'static str],
}

/// An index that sweeps need to stay linear.
#[derive(Clone, Copy, Debug)]
pub struct Index {
    /// Its first columns.
    pub columns: &'static [&'static str],
    /// The statement that makes it.
    pub create: &'static str,
}

/// The columns of the run table that are read: id, status, workflow, creation, last update, parent.
pub const RUN_COLUMNS: [&str; 6] = ["run_id", "status", "workflow_name", "created_at", "updated_at", "parent_run_id"];

/// PyWorkflow.
pub const PYWORKFLOW: Layout = Layout {
    name: "pyworkflow",
    version_max: 7,
    runs: "workflow_runs",
    terminal: &["completed", "failed", "cancelled", "continued_as_new", "interrupted"],
    failed: &["failed", "cancelled"],
    owned: &[
        ("events", "events"),
        ("steps", "steps"),
        ("hooks", "hooks"),
        ("cancellation_flags", "cancellation_flags"),
    ],
    page_index: Index {
        columns: &["created_at", "run_id"],
        create: "CREATE INDEX idx_runs_created_at_run_id ON workflow_runs(created_at DESC, run_id DESC)",
    },
    parent_index: Index {
        columns: &["parent_run_id"],
        create: "CREATE INDEX idx_runs_parent_run_id ON workflow_runs(parent_run_id)",
    },
    ended_subscriptions: &["terminated", "completed"],
    deleted_schedules: &["deleted", "DELETED"],
};
