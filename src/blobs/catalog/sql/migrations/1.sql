CREATE TABLE janitor_blob_meta (
    key TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

-- Times are milliseconds since 1970 on this store's own clock, in every table.
CREATE TABLE janitor_blob (
    id TEXT NOT NULL PRIMARY KEY,
    digest TEXT NOT NULL,
    size BIGINT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'live', 'deleting')),
    created_at BIGINT NOT NULL,
    touched_at BIGINT NOT NULL,
    zero_since BIGINT,
    attempts BIGINT NOT NULL DEFAULT 0,
    next_at BIGINT,
    error TEXT
);
CREATE UNIQUE INDEX janitor_blob_live ON janitor_blob (digest) WHERE state = 'live';
CREATE INDEX janitor_blob_zero ON janitor_blob (zero_since, id) WHERE state = 'live' AND zero_since IS NOT NULL;
CREATE INDEX janitor_blob_pending ON janitor_blob (touched_at, id) WHERE state = 'pending';
CREATE INDEX janitor_blob_deleting ON janitor_blob (next_at, id) WHERE state = 'deleting';

-- closed: the highest attempt that is over.
CREATE TABLE janitor_blob_task (
    id TEXT NOT NULL PRIMARY KEY,
    run TEXT,
    attempt BIGINT NOT NULL,
    closed BIGINT NOT NULL DEFAULT 0,
    seen_at BIGINT NOT NULL
);
CREATE INDEX janitor_blob_task_run ON janitor_blob_task (run, id) WHERE run IS NOT NULL;

CREATE TABLE janitor_blob_ref (
    blob_id TEXT NOT NULL REFERENCES janitor_blob (id) ON DELETE RESTRICT,
    task TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    name TEXT NOT NULL,
    content_type TEXT,
    created_at BIGINT NOT NULL,
    final BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (task, attempt, name, blob_id)
);
CREATE INDEX janitor_blob_ref_blob ON janitor_blob_ref (blob_id);
CREATE INDEX janitor_blob_ref_open ON janitor_blob_ref (task) WHERE final = 0;
