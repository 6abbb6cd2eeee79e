-- The file of the embedded mode as version 0.1 writes it, with a request of each sort in it.
PRAGMA application_id = 0x6a616e69;
CREATE TABLE lock (key TEXT PRIMARY KEY, token TEXT, until_ms INTEGER NOT NULL, fence INTEGER NOT NULL);
CREATE TABLE report (id TEXT PRIMARY KEY, job TEXT NOT NULL, at TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX report_job ON report (job);
CREATE TABLE success (job TEXT PRIMARY KEY, at TEXT NOT NULL);
CREATE TABLE pause (job TEXT PRIMARY KEY);
CREATE TABLE backoff (job TEXT NOT NULL, item TEXT NOT NULL, attempts INTEGER NOT NULL, next_at INTEGER NOT NULL,
    PRIMARY KEY (job, item));
CREATE TABLE request (
    id INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL, mode TEXT NOT NULL, tick TEXT, merge_key TEXT,
    consumer TEXT, number INTEGER NOT NULL DEFAULT 0, due INTEGER NOT NULL DEFAULT 0);
CREATE INDEX request_due ON request (consumer, due);
CREATE TABLE dead (
    id INTEGER PRIMARY KEY, job TEXT NOT NULL, mode TEXT NOT NULL, tick TEXT, reason TEXT NOT NULL,
    number INTEGER NOT NULL, at INTEGER NOT NULL);
CREATE TABLE tick (job TEXT PRIMARY KEY, last INTEGER NOT NULL);
INSERT INTO request (job, mode) VALUES ('old-runs', 'dry_run');
INSERT INTO request (job, mode, tick) VALUES ('old-runs', 'apply', '2026-11-21T03:00:00Z');
INSERT INTO request (job, mode, merge_key) VALUES ('old-runs', 'apply', 'nightly');
INSERT INTO dead VALUES (99, 'old-rnus', 'apply', NULL, 'no job named "old-rnus"', 3, 1795221400000);
INSERT INTO tick VALUES ('old-runs', 1795230000000);
INSERT INTO report VALUES ('01M7XRZB2BA8J5D0Q03EJ5Q1N1', 'old-runs', '2026-11-21T00:44:19.403092Z',
    '{"id":"01M7XRZB2BA8J5D0Q03EJ5Q1N1","version":"0.1.0","attempt":1,"request":"1795221000001-0","job":"old-runs","kind":"retention","mode":"apply","outcome":"done","reason":null,"tick":"2026-11-21T00:44:19Z","host":"w1","fence":1795221859403,"started_at":"2026-11-21T00:44:19.403092593Z","seconds":0.336,"cutoff":"2026-10-22T00:44:19.403092593Z","planned":{"runs":1116},"deleted":{"events":11173,"runs":1116,"steps":4464},"kept":{"parent_of_kept":6,"rule":0,"unreadable_time":0},"bytes_freed":0,"batches":4,"failures":[{"item":"run_1","error":"sqlite: unavailable"}]}');
INSERT INTO success VALUES ('old-runs', '2026-11-21T00:44:19.403092593Z');
INSERT INTO pause VALUES ('held');
INSERT INTO backoff VALUES ('volumes', '7b7a', 2, 1795221859403);
INSERT INTO lock VALUES ('old-runs', '5e7f0c0c5e7f0c0c5e7f0c0c5e7f0c0c', 4102444800000, 1795221859403);
