//! Objects that cannot be deleted hold up no others, and are tried again ever later.

use std::time::{Duration, Instant};

use apalis_janitor::{
    blobs::{BlobId, BlobStore, Catalog, Digest, Key, State, catalog::Cutoffs, conformance::objects::digest},
    jobs::Narrow,
    report::{Outcome, Report},
};
use chrono::{TimeDelta, Utc};
use sqlx::{Connection, SqliteConnection};

use crate::{
    blob_home::{Bytes, Home, Who},
    blob_objects::hold,
};

const JOB: &str = "grace = \"1h\"";
/// The most that filling and one sweep may take.
const SWEEP_MAX: Duration = Duration::from_secs(30);

/// Orphans, some of which cannot be deleted.
struct Stuck {
    home: Home,
    keys: Vec<Key>,
    held: usize,
}

impl Stuck {
    /// `count` orphans, the first `held` of which are immutable.
    async fn new(bytes: Bytes, count: u32, held: usize) -> Self {
        let home = Home::new(Who::Sqlite, bytes).await;
        let store = home.over(home.catalog().await).await;
        // Makes the tables and marks the objects.
        store.put(&b"kept"[..], &apalis_janitor::blobs::Tag::of("good")).await.unwrap();
        store.finalize("good", 1).await.unwrap();
        let keys = (0..count).map(|number| Key { digest: digest(&number.to_le_bytes()), id: BlobId::new() });
        let mut this = Self { home, keys: keys.collect(), held };
        this.fill().await;
        this
    }

    /// As if each had been put and its task had failed a day ago, without a sync for each.
    async fn fill(&mut self) {
        let at = (Utc::now() - TimeDelta::days(1)).timestamp_millis();
        let rows: Vec<[String; 2]> = self.keys.iter().map(|key| [key.id.to_string(), key.digest.to_string()]).collect();
        let insert = "INSERT INTO janitor_blob (id, digest, size, state, created_at, touched_at, zero_since)
            SELECT value ->> 0, value ->> 1, 4, 'live', $2, $2, $2 FROM json_each($1)";
        let url = format!("sqlite://{}", self.home.path().join("blobs.db").display());
        let mut connection = SqliteConnection::connect(&url).await.unwrap();
        let insert = sqlx::query(insert).bind(serde_json::to_string(&rows).unwrap()).bind(at);
        insert.execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        for (number, key) in self.keys.iter().enumerate() {
            let path = self.home.root().join(key.path());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, b"gone").unwrap();
            if number < self.held {
                hold(&path, true);
            }
        }
    }

    fn stuck(&self) -> &[Key] {
        &self.keys[..self.held]
    }

    /// The objects that are there, of the orphans.
    fn objects(&self) -> usize {
        self.keys.iter().filter(|key| self.home.root().join(key.path()).exists()).count()
    }

    /// How often each of the stuck ones failed, and in how many minutes it is due.
    async fn gaps(&self, store: &BlobStore) -> Vec<(u32, u64)> {
        let catalog = store.catalog();
        let now = catalog.now().await.unwrap();
        let far = now + TimeDelta::days(9);
        let due = catalog.due(Cutoffs { unreferenced: far, pending: far, retry: far }, None, 100_000).await.unwrap();
        let mut ids: Vec<Digest> = due.iter().map(|blob| blob.digest).collect();
        let mut expected: Vec<Digest> = self.stuck().iter().map(|key| key.digest).collect();
        ids.sort_unstable();
        expected.sort_unstable();
        assert_eq!(ids, expected, "these are left, and no others");
        assert!(due.iter().all(|blob| blob.state == State::Deleting && blob.error.is_some()));
        let minutes = |at: chrono::DateTime<Utc>| (at - now).to_std().unwrap().as_secs().div_ceil(60);
        due.iter().map(|blob| (blob.attempts, minutes(blob.next_at.unwrap()))).collect()
    }

    /// One sweep by a process, and what is left; then ever later ones, after so many minutes each.
    async fn check(self, gaps: &[(u32, u64)]) {
        let (count, stuck) = (self.keys.len(), self.held);
        self.home.configure("janitor.toml", "data", JOB);
        let began = Instant::now();
        let swept = self.home.command("janitor.toml").args(["run", "sweep", "--allow-mass-delete", "--json"]).output();
        let swept = swept.await.unwrap();
        assert!(began.elapsed() < SWEEP_MAX, "{:?}", began.elapsed());
        assert_eq!(swept.status.code(), Some(1), "{}", String::from_utf8_lossy(&swept.stderr));
        let report: Report = serde_json::from_slice(&swept.stdout).unwrap();
        assert_eq!((report.outcome, report.deleted.get("blobs")), (Outcome::Failed, (count - stuck) as u64));
        assert_eq!(self.objects(), stuck);
        let mut told: Vec<_> = report.failures.iter().map(|failure| failure.item.clone()).collect();
        let mut expected: Vec<_> = self.stuck().iter().map(Key::to_string).collect();
        told.sort_unstable();
        expected.sort_unstable();
        assert_eq!(told, expected);

        let catalog = self.home.catalog().await;
        let store = self.home.over(catalog.clone()).await;
        for (tries, minutes) in gaps.iter().copied() {
            assert_eq!(self.gaps(&store).await, vec![(tries, minutes); stuck]);
            let early = self.home.sweep(&store, JOB, Narrow::default()).await.report;
            assert_eq!((early.outcome, early.kept.get("put_off")), (Outcome::Done, stuck as u64));
            catalog.advance(Duration::from_secs(60 * minutes + 1));
            let again = self.home.sweep(&store, JOB, Narrow::default()).await.report;
            assert_eq!((again.outcome, again.failures.len()), (Outcome::Failed, stuck));
        }
        for key in self.stuck() {
            hold(&self.home.root().join(key.path()), false);
        }
        catalog.advance(Duration::from_hours(1));
        let last = self.home.sweep(&store, JOB, Narrow::default()).await.report;
        assert_eq!((last.outcome, last.deleted.get("blobs")), (Outcome::Done, stuck as u64));
        assert_eq!((self.objects(), catalog.totals().await.unwrap().blobs()), (0, 1));
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        // A folder with them in it could not be removed.
        for path in self.stuck().iter().map(|key| self.home.root().join(key.path())).filter(|path| path.exists()) {
            hold(&path, false);
        }
    }
}

#[tokio::test]
async fn a_hundred_stuck_files_of_ten_thousand_starve_nobody() {
    Stuck::new(Bytes::Folder, 10_000, 100).await.check(&[(1, 1), (2, 2), (3, 4)]).await;
}

#[tokio::test]
async fn twenty_stuck_keys_of_a_thousand_in_a_bucket_starve_nobody() {
    Stuck::new(Bytes::S3, 1_000, 20).await.check(&[(1, 1)]).await;
}
