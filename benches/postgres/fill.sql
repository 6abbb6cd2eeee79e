-- Fills the tables with {runs} runs, of which the share {share} ended 40 to 100 days ago.
INSERT INTO workflow_runs (run_id, workflow_name, status, created_at, updated_at, input_kwargs, result)
SELECT 'run_' || substr(md5(i::text), 1, 16), 'flow_' || i % 4,
  CASE WHEN chance < 0.1 THEN 'running' ELSE (ARRAY['completed', 'failed', 'cancelled'])[1 + i % 3] END,
  now() - (days + 0.01) * interval '1 day', now() - days * interval '1 day',
  '{"k": "' || i || '", "pad": "' || repeat('x', 100) || '"}', repeat('r', 100)
FROM (SELECT i, random() AS chance,
    -- The old ones come first, as they do in a store that grows; a tenth of them still runs.
    CASE WHEN x < {share} / 0.9 THEN 100 - 60 * x * 0.9 / {share} ELSE 20 * (1 - x) END AS days
  FROM (SELECT i, (i - 0.5) / {runs} AS x FROM generate_series(1, {runs}) AS i) AS n) AS aged ORDER BY i;
INSERT INTO events (event_id, run_id, sequence, type, timestamp, data, step_id)
SELECT 'evt_' || substr(md5(run_id || s), 1, 16), run_id, s, 'step.completed', updated_at,
  '{"i": ' || s || ', "pad": "' || repeat('e', 100) || '"}', CASE WHEN s % 2 = 1 THEN 'step_' || substr(md5(run_id || s), 17, 16) END
FROM workflow_runs, generate_series(0, 9) AS s;
INSERT INTO steps (step_id, run_id, step_name, status, created_at, result)
SELECT 'step_charge_' || substr(md5(run_id || s), 1, 16), run_id, 'charge', 'completed', created_at, '"ok"'
FROM workflow_runs, generate_series(0, 3) AS s;
INSERT INTO hooks (run_id, hook_id, token, created_at, status, payload)
SELECT run_id, 'hook_approval_1', run_id || ':hook_approval_1', created_at, 'received', '{"ok": true}' FROM workflow_runs;
INSERT INTO checkpoints (step_run_id, data, created_at, updated_at)
SELECT run_id || ':step_fetch', '{"n": 1}', created_at, updated_at FROM workflow_runs WHERE hashtext(run_id) % 10 = 0;
