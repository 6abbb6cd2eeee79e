//! Random schedules of writers, sweepers and crashes: what a task has finalized stays, and at the end nothing else does.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use apalis_janitor::{
    blobs::{
        Blob, BlobError, BlobId, BlobStore, Catalog, Digest, Key, Tag,
        catalog::{Begun, Committed, Cutoffs, Filter, SqlCatalog, memory::MemoryCatalog},
        conformance::{
            catalog::Subject,
            objects::{all, digest},
        },
        objects::{Spooled, folder::Folder},
    },
    clock::SystemClock,
    config::CatalogUrl,
};
use chrono::DateTime;
use futures::TryStreamExt;
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};

const TASKS: usize = 3;
const CONTENTS: [&str; 3] = ["", "one", "another"];
/// In memory a schedule takes a few milliseconds, in a file some hundred.
const CASES_IN_MEMORY: u32 = 64;
const CASES_IN_SQLITE: u32 = 24;
const STEPS_MAX: usize = 40;
const ALL: usize = 1_000;

#[derive(Clone, Debug)]
enum Step {
    Put {
        task: usize,
        content: usize,
    },
    /// A writer stops after its first step.
    Begin {
        task: usize,
        content: usize,
    },
    /// One that has stopped does its next step: it uploads, or it commits.
    GoOn {
        writer: usize,
    },
    Finalize {
        task: usize,
    },
    Release {
        task: usize,
    },
    Retry {
        task: usize,
    },
    Touch {
        task: usize,
    },
    /// A whole sweep; some take even a blob whose writer has just been heard of.
    Sweep {
        takes_pending: bool,
    },
    /// A sweeper stops once it has seen what is due.
    Look {
        takes_pending: bool,
    },
    /// One that has seen it claims it, and stops again.
    Claim,
    /// One that has stopped deletes the bytes, and forgets them or stops for ever before that.
    Delete {
        sweeper: usize,
        forgets: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let task = || 0..TASKS;
    let put = || (task(), 0..CONTENTS.len());
    prop_oneof![
        4 => put().prop_map(|(task, content)| Step::Put { task, content }),
        4 => put().prop_map(|(task, content)| Step::Begin { task, content }),
        6 => (0..4_usize).prop_map(|writer| Step::GoOn { writer }),
        4 => task().prop_map(|task| Step::Finalize { task }),
        3 => task().prop_map(|task| Step::Release { task }),
        2 => task().prop_map(|task| Step::Retry { task }),
        1 => task().prop_map(|task| Step::Touch { task }),
        3 => any::<bool>().prop_map(|takes_pending| Step::Sweep { takes_pending }),
        3 => any::<bool>().prop_map(|takes_pending| Step::Look { takes_pending }),
        4 => Just(Step::Claim),
        3 => (0..4_usize, any::<bool>()).prop_map(|(sweeper, forgets)| Step::Delete { sweeper, forgets }),
    ]
}

/// A writer between two of its steps.
struct Writer {
    tag: Tag,
    content: &'static str,
    key: Key,
    is_uploaded: bool,
}

struct World {
    store: BlobStore,
    clock: Arc<dyn Subject>,
    attempts: [u32; TASKS],
    writers: Vec<Writer>,
    looks: Vec<(Vec<Blob>, Cutoffs)>,
    sweepers: Vec<Vec<Key>>,
    /// What each attempt has put, and not had dropped, as a few naive lines have it.
    open: BTreeMap<(String, u32), BTreeSet<Digest>>,
    /// The same of what was finalized.
    kept: BTreeSet<(String, u32, Digest)>,
    /// The last attempt of each task that is over.
    closed: BTreeMap<String, u32>,
    /// What writers uploaded who had been taken for abandoned: an inventory's part.
    late: BTreeSet<String>,
    _temp: tempfile::TempDir,
}

impl World {
    async fn new(temp: tempfile::TempDir, clock: Arc<dyn Subject>) -> Self {
        let objects = Arc::new(Folder::open(temp.path().join("blobs")).await.unwrap());
        let store = BlobStore::over(clock.clone(), objects).await.unwrap();
        store.objects().mark(store.catalog().identity()).await.unwrap();
        Self {
            store,
            clock,
            attempts: [1; TASKS],
            writers: Vec::new(),
            looks: Vec::new(),
            sweepers: Vec::new(),
            open: BTreeMap::new(),
            kept: BTreeSet::new(),
            closed: BTreeMap::new(),
            late: BTreeSet::new(),
            _temp: temp,
        }
    }

    fn catalog(&self) -> &dyn Catalog {
        &**self.store.catalog()
    }

    fn tag(&self, task: usize) -> Tag {
        Tag { attempt: self.attempts[task], ..Tag::of(format!("task-{task}")) }
    }

    fn is_over(&self, tag: &Tag) -> bool {
        self.closed.get(&tag.task).is_some_and(|closed| tag.attempt <= *closed)
    }

    fn has_put(&mut self, tag: &Tag, content: &str) {
        self.open.entry((tag.task.clone(), tag.attempt)).or_default().insert(digest(content.as_bytes()));
    }

    fn close(&mut self, task: &str, attempt: u32) {
        self.open.retain(|(id, at), _| id != task || *at > attempt);
        let closed = self.closed.entry(task.to_owned()).or_default();
        *closed = attempt.max(*closed);
    }

    async fn run(&mut self, step: &Step) {
        self.clock.advance(Duration::from_secs(1));
        match *step {
            Step::Put { task, content } => self.put(task, CONTENTS[content]).await,
            Step::Begin { task, content } => self.begin(task, CONTENTS[content]).await,
            Step::GoOn { writer } => self.go_on(writer).await,
            Step::Finalize { task } => self.finalize(task).await,
            Step::Release { task } => {
                let tag = self.tag(task);
                self.store.release(&tag.task, tag.attempt).await.unwrap();
                self.close(&tag.task, tag.attempt);
            }
            Step::Retry { task } => self.attempts[task] += 1,
            Step::Touch { task } => drop(self.store.touch(&self.tag(task).task).await.unwrap()),
            Step::Sweep { takes_pending } => {
                let seen = self.look(takes_pending).await;
                let claimed = self.claim(seen).await;
                self.delete(&claimed, true).await;
            }
            Step::Look { takes_pending } => {
                let seen = self.look(takes_pending).await;
                self.looks.push(seen);
            }
            Step::Claim => {
                if let Some(seen) = self.looks.pop() {
                    let claimed = self.claim(seen).await;
                    self.sweepers.push(claimed);
                }
            }
            Step::Delete { sweeper, forgets } => {
                if let Some(claimed) = self.sweepers.get(sweeper).cloned() {
                    // It stays in the list: it may do all of it again.
                    self.delete(&claimed, forgets).await;
                }
            }
        }
    }

    async fn put(&mut self, task: usize, content: &'static str) {
        let tag = self.tag(task);
        match self.store.put(content.as_bytes(), &tag).await {
            Ok(_) => {
                assert!(!self.is_over(&tag), "{tag:?} is over and has put");
                self.has_put(&tag, content);
            }
            Err(BlobError::Closed { .. }) => assert!(self.is_over(&tag), "{tag:?} is not over"),
            Err(error) => panic!("{error:?}"),
        }
    }

    async fn begin(&mut self, task: usize, content: &'static str) {
        let (tag, digest) = (self.tag(task), digest(content.as_bytes()));
        match self.catalog().begin(digest, content.len() as u64, &tag).await {
            Ok(Begun::Shared(_)) => self.has_put(&tag, content),
            Ok(Begun::Upload(id)) => {
                let key = Key { digest, id };
                self.writers.push(Writer { tag, content, key, is_uploaded: false });
            }
            Err(BlobError::Closed { .. }) => assert!(self.is_over(&tag), "{tag:?} is not over"),
            Err(error) => panic!("{error:?}"),
        }
    }

    async fn go_on(&mut self, writer: usize) {
        if writer >= self.writers.len() {
            return;
        }
        let mut writer = self.writers.remove(writer);
        if writer.is_uploaded {
            match self.catalog().commit(writer.key.id, writer.key.digest, &writer.tag).await {
                Ok(Committed::Live | Committed::Shared(_)) => {
                    assert!(!self.is_over(&writer.tag), "{:?} is over and has put", writer.tag);
                    self.has_put(&writer.tag, writer.content);
                }
                Ok(Committed::Fenced) => self.is_late(&writer.key).await,
                Err(BlobError::Closed { .. }) => {
                    assert!(self.is_over(&writer.tag), "{:?} is not over", writer.tag);
                    self.is_late(&writer.key).await;
                }
                Err(error) => panic!("{error:?}"),
            }
            return;
        }
        let objects = self.store.objects();
        let mut file = tempfile::NamedTempFile::new_in(objects.spool()).unwrap();
        std::io::Write::write_all(&mut file, writer.content.as_bytes()).unwrap();
        let spooled = Spooled { file, digest: writer.key.digest, size: writer.content.len() as u64 };
        objects.upload(&spooled, &writer.key).await.unwrap();
        writer.is_uploaded = true;
        self.writers.push(writer);
    }

    /// What was uploaded stays, where a sweeper is done with it already.
    async fn is_late(&mut self, key: &Key) {
        if self.catalog().known(&[key.id]).await.unwrap().is_empty() {
            self.late.insert(key.path());
        }
    }

    async fn finalize(&mut self, task: usize) {
        let tag = self.tag(task);
        let key = (tag.task.clone(), tag.attempt);
        match self.store.finalize(&tag.task, tag.attempt).await {
            Ok(_) => {
                let put = self.open.remove(&key).unwrap_or_default();
                self.kept.extend(put.into_iter().map(|digest| (key.0.clone(), key.1, digest)));
                self.close(&tag.task, tag.attempt - 1);
            }
            Err(BlobError::Closed { .. }) => assert!(self.is_over(&tag), "{tag:?} is not over"),
            Err(BlobError::NoRef { .. }) => assert!(!self.open.contains_key(&key), "{tag:?} has put something"),
            Err(error) => panic!("{error:?}"),
        }
    }

    async fn look(&self, takes_pending: bool) -> (Vec<Blob>, Cutoffs) {
        let now = self.catalog().now().await.unwrap();
        let pending = if takes_pending { now } else { DateTime::UNIX_EPOCH };
        let cutoffs = Cutoffs { unreferenced: now, pending, retry: now };
        (self.catalog().due(cutoffs, None, ALL).await.unwrap(), cutoffs)
    }

    async fn claim(&self, (due, cutoffs): (Vec<Blob>, Cutoffs)) -> Vec<Key> {
        let claimed = self.catalog().claim(&due, cutoffs).await.unwrap();
        due.iter().filter(|blob| claimed.contains(&blob.id)).map(Blob::key).collect()
    }

    async fn delete(&self, claimed: &[Key], forgets: bool) {
        for deleted in self.store.objects().delete(claimed).await {
            deleted.unwrap();
        }
        if forgets {
            let ids = claimed.iter().map(|key| key.id).collect::<Vec<BlobId>>();
            self.catalog().forget(&ids).await.unwrap();
        }
    }

    /// Every final ref is one that the naive lines have, and reads back.
    async fn check_kept(&self) {
        let refs = self.store.list(&Filter::default(), None, ALL).await.unwrap();
        let kept = refs.iter().filter(|it| it.is_final);
        let kept = kept.map(|it| (it.tag.task.clone(), it.tag.attempt, it.digest)).collect::<BTreeSet<_>>();
        assert_eq!(kept, self.kept);
        for (_, _, expected) in kept {
            let bytes = self.store.get(expected).await.unwrap().try_collect::<Vec<_>>().await.unwrap().concat();
            assert_eq!(digest(&bytes), expected);
        }
    }

    /// Every task fails and every writer is gone: what is left is what was finalized.
    async fn check_end(&mut self) {
        self.late.extend(self.writers.drain(..).filter(|writer| writer.is_uploaded).map(|writer| writer.key.path()));
        for task in 0..TASKS {
            self.store.release(&self.tag(task).task, u32::MAX).await.unwrap();
        }
        self.clock.advance(Duration::from_secs(1));
        let seen = self.look(true).await;
        let claimed = self.claim(seen).await;
        self.delete(&claimed, true).await;
        self.check_kept().await;
        let totals = self.catalog().totals().await.unwrap();
        assert_eq!((totals.blobs(), totals.pending), (totals.referenced, 0));
        let mut live = BTreeSet::new();
        for (_, _, digest) in &self.kept {
            live.extend(self.catalog().blobs(*digest).await.unwrap().iter().map(|blob| blob.key().path()));
        }
        assert_eq!(totals.blobs(), live.len() as u64);
        let found = all(&**self.store.objects()).await;
        let found = found.difference(&self.late).cloned().collect::<BTreeSet<_>>();
        assert_eq!(found, live.difference(&self.late).cloned().collect());
    }
}

async fn in_memory(_: &Path) -> Arc<dyn Subject> {
    Arc::new(MemoryCatalog::new(Arc::new(SystemClock)))
}

async fn in_sqlite(folder: &Path) -> Arc<dyn Subject> {
    Arc::new(SqlCatalog::open(&CatalogUrl::Sqlite(folder.join("blobs.db"))).await.unwrap())
}

/// No schedule loses what was finalized or keeps what was not.
fn check(cases: u32, catalog: &impl AsyncFn(&Path) -> Arc<dyn Subject>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let ran = TestRunner::new(config).run(&vec(step(), 1..STEPS_MAX), |steps| {
        runtime.block_on(async {
            let temp = tempfile::tempdir().unwrap();
            let catalog = catalog(temp.path()).await;
            let mut world = World::new(temp, catalog).await;
            for step in &steps {
                world.run(step).await;
                world.check_kept().await;
            }
            world.check_end().await;
        });
        Ok(())
    });
    if let Err(error) = ran {
        panic!("{error}");
    }
}

#[test]
fn every_schedule_in_memory_keeps_what_was_finalized_and_nothing_else() {
    check(CASES_IN_MEMORY, &in_memory);
}

#[test]
fn every_schedule_in_sqlite_keeps_what_was_finalized_and_nothing_else() {
    check(CASES_IN_SQLITE, &in_sqlite);
}
