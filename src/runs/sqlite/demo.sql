-- The tables that PyWorkflow makes, as far as sweeps know them, and made-up runs of a shop.
CREATE TABLE workflow_runs (
    run_id TEXT PRIMARY KEY, workflow_name TEXT NOT NULL, status TEXT NOT NULL,
    created_at TIMESTAMP NOT NULL, updated_at TIMESTAMP NOT NULL, parent_run_id TEXT);
CREATE INDEX idx_runs_created_at_run_id ON workflow_runs(created_at DESC, run_id DESC);
CREATE INDEX idx_runs_parent_run_id ON workflow_runs(parent_run_id);
CREATE TABLE events (event_id TEXT PRIMARY KEY, run_id TEXT NOT NULL);
CREATE INDEX idx_events_run_id ON events(run_id);
CREATE TABLE steps (step_id TEXT PRIMARY KEY, run_id TEXT NOT NULL);
CREATE INDEX idx_steps_run_id ON steps(run_id);

WITH RECURSIVE
    number(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n < 999),
    made(run_id, workflow_name, status, days, parent_run_id) AS (
        SELECT printf('invoice-%04d', n), 'invoice', 'completed', 31 + n % 300, NULL FROM number
        UNION ALL SELECT printf('invoice-new-%04d', n), 'invoice', 'completed', n % 29, NULL FROM number WHERE n < 200
        UNION ALL SELECT printf('order-%04d', n), 'order_import', 'failed', 40 + n % 100, NULL FROM number WHERE n < 100
        UNION ALL SELECT printf('audit-%04d', n), 'audit_trail', 'completed', 400, NULL FROM number WHERE n < 50
        UNION ALL SELECT printf('nightly-%04d', n), 'nightly', 'running', 60, NULL FROM number WHERE n < 5
        UNION ALL SELECT 'campaign', 'campaign', 'completed', 60, NULL
        UNION ALL SELECT 'campaign-mail', 'mail', 'running', 60, 'campaign')
INSERT INTO workflow_runs
SELECT run_id, workflow_name, status, at, at, parent_run_id
FROM (SELECT *, strftime('%Y-%m-%dT%H:%M:%S+00:00', 'now', printf('-%d days', days)) AS at FROM made);

WITH RECURSIVE number(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n < 9)
INSERT INTO events SELECT run_id || ':' || n, run_id FROM workflow_runs, number;
INSERT INTO steps SELECT run_id || ':step', run_id FROM workflow_runs;

-- The threads of a chat. Where an engine answers, the demo makes volumes for some of them.
CREATE TABLE threads (id TEXT PRIMARY KEY, status TEXT NOT NULL, volume_removed_at TEXT);
INSERT INTO threads (id, status) VALUES ('ann', 'open'), ('ben', 'closed'), ('cas', 'closed'), ('dan', 'closed');
