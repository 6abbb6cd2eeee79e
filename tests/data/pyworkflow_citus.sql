CREATE TABLE cancellation_flags (
    run_id text NOT NULL,
    created_at timestamp with time zone NOT NULL
);
CREATE TABLE checkpoints (
    step_run_id text NOT NULL,
    data jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE events (
    event_id text NOT NULL,
    run_id text NOT NULL,
    sequence integer NOT NULL,
    type text NOT NULL,
    "timestamp" timestamp with time zone NOT NULL,
    data text DEFAULT '{}'::text NOT NULL,
    step_id text
);
CREATE TABLE hooks (
    run_id text NOT NULL,
    hook_id text NOT NULL,
    token text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    received_at timestamp with time zone,
    expires_at timestamp with time zone,
    status text NOT NULL,
    payload text,
    metadata text DEFAULT '{}'::text
);
CREATE TABLE scheduled_signals (
    id text NOT NULL,
    stream_id text NOT NULL,
    signal_type text NOT NULL,
    payload jsonb DEFAULT '{}'::jsonb NOT NULL,
    due_at timestamp with time zone NOT NULL,
    stream_run_id text,
    metadata jsonb DEFAULT '{}'::jsonb,
    delivered boolean DEFAULT false NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE schedules (
    schedule_id text NOT NULL,
    workflow_name text NOT NULL,
    spec text NOT NULL,
    spec_type text NOT NULL,
    timezone text,
    input_args text DEFAULT '[]'::text NOT NULL,
    input_kwargs text DEFAULT '{}'::text NOT NULL,
    status text NOT NULL,
    overlap_policy text NOT NULL,
    next_run_time timestamp with time zone,
    last_run_time timestamp with time zone,
    running_run_ids text DEFAULT '[]'::text,
    metadata text DEFAULT '{}'::text,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    paused_at timestamp with time zone,
    deleted_at timestamp with time zone
);
CREATE TABLE schema_versions (
    version integer NOT NULL,
    applied_at timestamp with time zone NOT NULL,
    description text
);
CREATE TABLE signal_acknowledgments (
    signal_id text NOT NULL,
    step_run_id text NOT NULL,
    acknowledged_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE signals (
    stream_run_id text NOT NULL,
    sequence integer NOT NULL,
    signal_id text NOT NULL,
    stream_id text NOT NULL,
    signal_type text NOT NULL,
    payload jsonb DEFAULT '{}'::jsonb NOT NULL,
    published_at timestamp with time zone DEFAULT now() NOT NULL,
    source_run_id text,
    metadata jsonb DEFAULT '{}'::jsonb
);
CREATE TABLE steps (
    step_id text NOT NULL,
    run_id text NOT NULL,
    step_name text NOT NULL,
    status text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    started_at timestamp with time zone,
    completed_at timestamp with time zone,
    input_args text DEFAULT '[]'::text NOT NULL,
    input_kwargs text DEFAULT '{}'::text NOT NULL,
    result text,
    error text,
    retry_count integer DEFAULT 0
);
CREATE TABLE stream_subscriptions (
    stream_id text NOT NULL,
    step_run_id text NOT NULL,
    signal_types jsonb DEFAULT '[]'::jsonb NOT NULL,
    status text DEFAULT 'waiting'::text NOT NULL,
    stream_run_id text,
    parent_run_id text,
    parent_hook_token text,
    result jsonb,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE streams (
    stream_id text NOT NULL,
    status text DEFAULT 'active'::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb
);
CREATE TABLE workflow_runs (
    run_id text NOT NULL,
    workflow_name text NOT NULL,
    status text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    started_at timestamp with time zone,
    completed_at timestamp with time zone,
    input_args text DEFAULT '[]'::text NOT NULL,
    input_kwargs text DEFAULT '{}'::text NOT NULL,
    result text,
    error text,
    idempotency_key text,
    max_duration text,
    metadata text DEFAULT '{}'::text,
    recovery_attempts integer DEFAULT 0,
    max_recovery_attempts integer DEFAULT 3,
    recover_on_worker_loss boolean DEFAULT true,
    parent_run_id text,
    nesting_depth integer DEFAULT 0,
    continued_from_run_id text,
    continued_to_run_id text
);
ALTER TABLE ONLY cancellation_flags
    ADD CONSTRAINT cancellation_flags_pkey PRIMARY KEY (run_id);
ALTER TABLE ONLY checkpoints
    ADD CONSTRAINT checkpoints_pkey PRIMARY KEY (step_run_id);
ALTER TABLE ONLY events
    ADD CONSTRAINT events_pkey PRIMARY KEY (run_id, event_id);
ALTER TABLE ONLY hooks
    ADD CONSTRAINT hooks_pkey PRIMARY KEY (run_id, hook_id);
ALTER TABLE ONLY scheduled_signals
    ADD CONSTRAINT scheduled_signals_pkey PRIMARY KEY (id);
ALTER TABLE ONLY schedules
    ADD CONSTRAINT schedules_pkey PRIMARY KEY (schedule_id);
ALTER TABLE ONLY schema_versions
    ADD CONSTRAINT schema_versions_pkey PRIMARY KEY (version);
ALTER TABLE ONLY signal_acknowledgments
    ADD CONSTRAINT signal_acknowledgments_pkey PRIMARY KEY (signal_id, step_run_id);
ALTER TABLE ONLY signals
    ADD CONSTRAINT signals_pkey PRIMARY KEY (stream_id, stream_run_id, sequence);
ALTER TABLE ONLY steps
    ADD CONSTRAINT steps_pkey PRIMARY KEY (run_id, step_id);
ALTER TABLE ONLY stream_subscriptions
    ADD CONSTRAINT stream_subscriptions_pkey PRIMARY KEY (stream_id, step_run_id);
ALTER TABLE ONLY streams
    ADD CONSTRAINT streams_pkey PRIMARY KEY (stream_id);
ALTER TABLE ONLY workflow_runs
    ADD CONSTRAINT workflow_runs_pkey PRIMARY KEY (run_id);
CREATE INDEX idx_events_run_id_sequence ON events USING btree (run_id, sequence);
CREATE INDEX idx_events_run_id_step_id_type ON events USING btree (run_id, step_id, type);
CREATE INDEX idx_events_run_id_type ON events USING btree (run_id, type);
CREATE INDEX idx_hooks_run_id ON hooks USING btree (run_id);
CREATE INDEX idx_hooks_status ON hooks USING btree (status);
CREATE INDEX idx_hooks_token ON hooks USING btree (token);
CREATE INDEX idx_runs_created_at ON workflow_runs USING btree (created_at DESC);
CREATE INDEX idx_runs_created_at_run_id ON workflow_runs USING btree (created_at DESC, run_id DESC);
CREATE INDEX idx_runs_idempotency_key ON workflow_runs USING btree (idempotency_key) WHERE (idempotency_key IS NOT NULL);
CREATE INDEX idx_runs_parent_run_id ON workflow_runs USING btree (parent_run_id);
CREATE INDEX idx_runs_status ON workflow_runs USING btree (status);
CREATE INDEX idx_runs_workflow_name ON workflow_runs USING btree (workflow_name);
CREATE INDEX idx_scheduled_signals_due ON scheduled_signals USING btree (delivered, due_at);
CREATE INDEX idx_schedules_next_run_time ON schedules USING btree (next_run_time);
CREATE INDEX idx_schedules_status ON schedules USING btree (status);
CREATE INDEX idx_schedules_workflow_name ON schedules USING btree (workflow_name);
CREATE INDEX idx_signals_signal_id ON signals USING btree (signal_id);
CREATE INDEX idx_steps_run_id ON steps USING btree (run_id);
CREATE INDEX idx_steps_step_id ON steps USING btree (step_id);
CREATE INDEX idx_subscriptions_status ON stream_subscriptions USING btree (stream_id, status);
CREATE INDEX idx_subscriptions_stream_run ON stream_subscriptions USING btree (stream_id, stream_run_id);
SELECT create_distributed_table('workflow_runs', 'run_id', shard_count := 4);
SELECT create_distributed_table('events', 'run_id', colocate_with := 'workflow_runs');
SELECT create_distributed_table('steps', 'run_id', colocate_with := 'workflow_runs');
SELECT create_distributed_table('hooks', 'run_id', colocate_with := 'workflow_runs');
SELECT create_distributed_table('cancellation_flags', 'run_id', colocate_with := 'workflow_runs');
SELECT create_distributed_table('schedules', 'schedule_id', colocate_with := 'workflow_runs');
SELECT create_reference_table('schema_versions');
SELECT create_reference_table('checkpoints');
SELECT create_reference_table('streams');
SELECT create_distributed_table('signals', 'stream_run_id', colocate_with := 'workflow_runs');
SELECT create_distributed_table('stream_subscriptions', 'stream_id', colocate_with := 'workflow_runs');
SELECT create_reference_table('signal_acknowledgments');
SELECT create_reference_table('scheduled_signals');
