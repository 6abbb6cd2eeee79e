-- What a newer version may have added to it.
ALTER TABLE request ADD COLUMN zone TEXT;
ALTER TABLE dead ADD COLUMN zone TEXT;
ALTER TABLE tick ADD COLUMN zone TEXT;
ALTER TABLE report ADD COLUMN zone TEXT;
ALTER TABLE success ADD COLUMN zone TEXT;
ALTER TABLE pause ADD COLUMN zone TEXT;
ALTER TABLE backoff ADD COLUMN zone TEXT;
ALTER TABLE lock ADD COLUMN zone TEXT;
CREATE TABLE zone (name TEXT PRIMARY KEY);
CREATE INDEX request_zone ON request (zone);
INSERT INTO request (job, mode, tick, zone) VALUES ('old-runs', 'apply', '2026-11-21T04:00:00.25+01:00', 'eu');
INSERT INTO request (job, mode, zone) VALUES ('old-runs', 'rehearse', 'eu');
INSERT INTO report (id, job, at, body, zone) VALUES ('01M7XRZB2BA8J5D0Q03EJ5Q1N2', 'old-runs', '2026-11-21T00:44:19.403092Z',
    '{"id":"01M7XRZB2BA8J5D0Q03EJ5Q1N2","version":"0.9.0","zone":"eu","attempt":1,"request":"1795221000001-0","job":"old-runs","kind":"retention","mode":"apply","outcome":"done","reason":null,"tick":"2026-11-21T00:44:19Z","host":"w1","fence":1795221859403,"started_at":"2026-11-21T00:44:19.403092593Z","seconds":0.336,"cutoff":"2026-10-22T00:44:19.403092593Z","planned":{"runs":1116,"shards":3},"deleted":{"events":11173,"runs":1116,"steps":4464},"kept":{"parent_of_kept":6,"rule":0,"unreadable_time":0},"bytes_freed":0,"batches":4,"pace":{"size":[1,2]},"failures":[{"item":"run_1","error":"sqlite: unavailable","since":"2026-11-20"}]}', 'eu');
INSERT INTO report (id, job, at, body, zone) VALUES ('01M7XRZB2BA8J5D0Q03EJ5Q1N3', 'old-runs', '2026-11-21T00:44:19.403092Z',
    '{"id":"01M7XRZB2BA8J5D0Q03EJ5Q1N3","version":"0.9.0","zone":"eu","attempt":1,"request":"1795221000001-0","job":"old-runs","kind":"retention","mode":"apply","outcome":"postponed","reason":null,"tick":"2026-11-21T00:44:19Z","host":"w1","fence":1795221859403,"started_at":"2026-11-21T00:44:19.403092593Z","seconds":0.336,"cutoff":"2026-10-22T00:44:19.403092593Z","planned":{"runs":1116,"shards":3},"deleted":{"events":11173,"runs":1116,"steps":4464},"kept":{"parent_of_kept":6,"rule":0,"unreadable_time":0},"bytes_freed":0,"batches":4,"pace":{"size":[1,2]},"failures":[{"item":"run_1","error":"sqlite: unavailable","since":"2026-11-20"}]}', 'eu');
INSERT INTO pause (job, zone) VALUES ('new-job', 'eu');
