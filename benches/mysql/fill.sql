-- Fills the tables with RUNS runs, of which the share SHARE ended 40 to 100 days ago.
INSERT INTO workflow_runs (run_id, workflow_name, status, created_at, updated_at, input_kwargs, result)
SELECT CONCAT('run_', LEFT(MD5(CONCAT('run', seq)), 16)), CONCAT('flow_', seq % 4),
  -- A tenth of them still runs.
  CASE WHEN seq % 10 = 0 THEN 'running' ELSE ELT(1 + seq % 3, 'completed', 'failed', 'cancelled') END,
  UTC_TIMESTAMP(6) - INTERVAL (days + 0.01) * 86400 SECOND, UTC_TIMESTAMP(6) - INTERVAL days * 86400 SECOND,
  CONCAT('{"k": "', seq, '", "pad": "', REPEAT('x', 100), '"}'), REPEAT('r', 100)
-- The old ones come first, as they do in a store that grows.
FROM (SELECT seq, CASE WHEN seq <= RUNS * SHARE / 0.9 THEN 100 - 60 * seq * 0.9 / (RUNS * SHARE) ELSE 20 * (1 - seq / RUNS) END AS days
      FROM seq_1_to_RUNS) AS aged ORDER BY seq;
INSERT INTO events (event_id, run_id, sequence, type, timestamp, data, step_id)
SELECT CONCAT('evt_', LEFT(MD5(CONCAT(run_id, s.seq)), 16)), run_id, s.seq, 'step.completed', updated_at,
  CONCAT('{"i": ', s.seq, ', "pad": "', REPEAT('e', 100), '"}'), IF(s.seq % 2, CONCAT('step_', LEFT(MD5(CONCAT(s.seq, run_id)), 16)), NULL)
FROM workflow_runs AS r, seq_0_to_9 AS s;
INSERT INTO steps (step_id, run_id, step_name, status, created_at, result)
SELECT CONCAT('step_charge_', LEFT(MD5(CONCAT('step', run_id, s.seq)), 16)), run_id, 'charge', 'completed', created_at, '"ok"'
FROM workflow_runs AS r, seq_0_to_3 AS s;
INSERT INTO hooks (run_id, hook_id, token, created_at, status, payload)
SELECT run_id, 'hook_approval_1', CONCAT(run_id, ':hook_approval_1'), created_at, 'received', '{"ok": true}' FROM workflow_runs AS r;
INSERT INTO checkpoints (step_run_id, data, created_at, updated_at)
SELECT CONCAT(run_id, ':step_fetch'), '{"n": 1}', created_at, updated_at FROM workflow_runs AS r WHERE run_id LIKE '%0';
ANALYZE TABLE workflow_runs, events, steps, hooks, checkpoints;
