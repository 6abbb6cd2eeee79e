//! Jobs of kind `orphans`, from the configuration to the report, on a real catalog and a real folder.

mod guards;
mod inventory;
mod sweep;

use std::{path::PathBuf, sync::Arc, time::Duration};

use apalis_janitor::{
    Ask, Janitor, Next,
    blobs::{Blob, BlobStore, Digest, Tag, catalog::SqlCatalog, objects::folder::Folder},
    config::{CatalogUrl, Config},
    jobs::{Narrow, Watch},
    queue::Request,
    report::{Mode, Report},
    runs::memory::{MemoryStore, Run, Thing},
};
use chrono::Utc;
use std::sync::Mutex;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const HOUR: Duration = Duration::from_hours(1);
/// The grace and the silence of the job in hand, as configured below.
const GRACE: Duration = Duration::from_hours(24);
const ABANDONED: Duration = Duration::from_hours(24 * 7);

/// A blob store with a job that sweeps it, and a clock that is set.
struct World {
    folder: TempDir,
    catalog: Arc<SqlCatalog>,
    store: BlobStore,
    runs: Arc<MemoryStore>,
    janitor: Janitor,
}

/// An execution: its report, what it named, and what is to become of the request.
struct Swept {
    report: Report,
    named: Vec<String>,
    next: Next,
}

#[derive(Default)]
struct Named(Mutex<Vec<String>>);

impl Watch for Named {
    fn item(&self, id: &str) {
        self.0.lock().unwrap().push(id.to_owned());
    }
}

impl World {
    /// A store whose job has these lines more.
    async fn new(lines: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("blobs.db");
        let catalog = Arc::new(SqlCatalog::open(&CatalogUrl::Sqlite(file)).await.unwrap());
        let objects = Folder::open(folder.path().join("blobs")).await.unwrap();
        let store = BlobStore::over(catalog.clone(), Arc::new(objects)).await.unwrap();
        let text = format!(
            "[blobs.a]\nobjects = \"file:blobs\"\ncatalog = \"sqlite:blobs.db\"\n[jobs.runs]\nkind = \"retention\"\nstore = \"memory:\"\n\
             retention_days = 30\n[jobs.sweep]\nkind = \"orphans\"\nblobs = \"a\"\ninventory = \"never\"\n{lines}"
        );
        let config = Config::parse(&text, &folder.path().join("janitor.toml")).unwrap();
        let runs = Arc::new(MemoryStore::default());
        let janitor =
            Janitor::connect(config).await.unwrap().with_blobs("a", store.clone()).with_store("runs", runs.clone());
        Self { folder, catalog, store, runs, janitor }
    }

    /// What `task` puts in its attempt.
    async fn put(&self, task: &str, attempt: u32, content: &str) -> Digest {
        self.put_as(&Tag { attempt, ..Tag::of(task) }, content).await
    }

    async fn put_as(&self, tag: &Tag, content: &str) -> Digest {
        self.store.put(content.as_bytes(), tag).await.unwrap().digest
    }

    /// What a failed task left, long ago.
    async fn orphans(&self, count: usize) -> Vec<Digest> {
        let mut digests = Vec::new();
        for number in 0..count {
            digests.push(self.put("failed", 1, &format!("orphan {number}")).await);
        }
        self.store.release("failed", 1).await.unwrap();
        self.catalog.advance(GRACE + HOUR);
        digests
    }

    async fn blob(&self, digest: Digest) -> Option<Blob> {
        self.store.catalog().blobs(digest).await.unwrap().into_iter().next()
    }

    /// Where the bytes of a blob are.
    async fn path(&self, digest: Digest) -> PathBuf {
        self.folder.path().join("blobs").join(self.blob(digest).await.unwrap().key().path())
    }

    async fn execute(&self, mode: Mode, narrow: Narrow) -> Swept {
        let request = Request { job: "sweep".to_owned(), mode, tick: None };
        let (watch, stop) = (Named::default(), CancellationToken::new());
        let ask = Ask { request: &request, attempt: 1, narrow, watch: &watch, stop: &stop };
        let ended = self.janitor.execute(ask).await.unwrap();
        Swept { report: ended.report, named: watch.0.into_inner().unwrap(), next: ended.next }
    }

    async fn sweep(&self) -> Swept {
        self.execute(Mode::Apply, Narrow::default()).await
    }

    /// A sweep that compares objects and catalog, too.
    async fn inventory(&self) -> Swept {
        self.execute(Mode::Apply, Narrow { inventory: true, ..Narrow::default() }).await
    }

    fn run(&self, id: &str, status: &str) {
        let at = Some(Utc::now().to_rfc3339());
        self.runs.put(Thing::Run(Run {
            status: status.to_owned(),
            created_at: at.clone(),
            updated_at: at,
            id: id.to_owned(),
            ..Run::default()
        }));
    }
}
