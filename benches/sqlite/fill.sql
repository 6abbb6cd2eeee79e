-- Fills the tables with wish.runs runs, of which the share wish.share ended 40 to 100 days ago.
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < (SELECT runs FROM wish)),
  drawn AS (SELECT i, (i + 0.5) / (SELECT runs FROM wish) AS x, abs(random()) % 1000 AS chance FROM n),
  -- The old ones come first, as they do in a store that grows; a tenth of them still runs.
  aged AS (SELECT i, chance, CASE WHEN x < (SELECT share FROM wish) / 0.9
    THEN 100 - 60 * x * 0.9 / (SELECT share FROM wish) ELSE 20 * (1 - x) END AS days FROM drawn)
INSERT INTO workflow_runs (run_id, workflow_name, status, created_at, updated_at, input_kwargs, result)
SELECT 'run_' || lower(hex(randomblob(8))), 'flow_' || i % 4,
  CASE WHEN chance < 100 THEN 'running' ELSE CASE i % 3 WHEN 0 THEN 'completed' WHEN 1 THEN 'failed' ELSE 'cancelled' END END,
  strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now', '-' || (days + 0.01) || ' days'),
  strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now', '-' || days || ' days'),
  '{"k": "' || lower(hex(randomblob(4))) || '", "pad": "' || printf('%.100c', 'x') || '"}', printf('%.100c', 'r')
FROM aged ORDER BY i;
INSERT INTO events (event_id, run_id, sequence, type, timestamp, data, step_id)
SELECT 'evt_' || lower(hex(randomblob(8))), run_id, s.value, 'step.completed', updated_at,
  '{"i": ' || s.value || ', "pad": "' || printf('%.100c', 'e') || '"}', CASE WHEN s.value % 2 THEN 'step_' || lower(hex(randomblob(8))) END
FROM workflow_runs AS r, json_each('[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]') AS s ORDER BY r.rowid, s.value;
INSERT INTO steps (step_id, run_id, step_name, status, created_at, result)
SELECT 'step_charge_' || lower(hex(randomblob(8))), run_id, 'charge', 'completed', created_at, '"ok"'
FROM workflow_runs AS r, json_each('[0, 1, 2, 3]') AS s ORDER BY r.rowid, s.value;
INSERT INTO hooks (run_id, hook_id, token, created_at, status, payload)
SELECT run_id, 'hook_approval_1', run_id || ':hook_approval_1', created_at, 'received', '{"ok": true}' FROM workflow_runs AS r ORDER BY r.rowid;
INSERT INTO checkpoints (step_run_id, data, created_at, updated_at)
SELECT run_id || ':step_fetch', '{"n": 1}', created_at, updated_at FROM workflow_runs AS r WHERE r.rowid % 10 = 0;
