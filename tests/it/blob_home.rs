//! A blob store on each of the four combinations, for the library and for processes of the built `janitor`.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use apalis_janitor::{
    Ask, Ended, Janitor,
    blobs::{BlobStore, Objects, catalog::SqlCatalog, objects::folder::Folder},
    config::{CatalogUrl, Config, ObjectsUrl, SecretUrl},
    jobs::Narrow,
    queue::Request,
    report::Mode,
};
use tempfile::TempDir;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::{postgres::Database, s3::Bucket};

/// Where the catalog is.
#[derive(Clone, Copy, Debug)]
pub enum Who {
    Sqlite,
    Postgres,
}

/// Where the bytes are.
#[derive(Clone, Copy, Debug)]
pub enum Bytes {
    Folder,
    S3,
}

/// A store, empty at first.
pub struct Home {
    temp: TempDir,
    catalog: CatalogUrl,
    bucket: Option<Bucket>,
    /// Another way to the server of the bucket.
    pub endpoint: Option<String>,
    _database: Option<Database>,
}

impl Home {
    pub async fn new(who: Who, bytes: Bytes) -> Self {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("spool")).unwrap();
        let database = match who {
            Who::Sqlite => None,
            Who::Postgres => Some(Database::new()),
        };
        let catalog = match &database {
            None => CatalogUrl::Sqlite(temp.path().join("blobs.db")),
            Some(database) => CatalogUrl::Postgres(SecretUrl::new(database.url())),
        };
        let bucket = match bytes {
            Bytes::Folder => None,
            Bytes::S3 => Some(Bucket::make().await),
        };
        Self { temp, catalog, bucket, endpoint: None, _database: database }
    }

    /// A folder for whatever a test needs.
    pub fn path(&self) -> &Path {
        self.temp.path()
    }

    /// Where each object is a file.
    pub fn root(&self) -> PathBuf {
        self.bucket.as_ref().map_or_else(|| self.path().join("blobs"), |bucket| bucket.folder.clone())
    }

    /// The host and port of the server of the bucket.
    pub fn server(&self) -> String {
        match self.bucket.as_ref().map(|bucket| &bucket.url) {
            Some(ObjectsUrl::S3 { endpoint: Some(endpoint), .. }) => endpoint.replace("http://", ""),
            other => panic!("no server: {other:?}"),
        }
    }

    /// The catalog, opened anew.
    pub async fn catalog(&self) -> Arc<SqlCatalog> {
        Arc::new(SqlCatalog::open(&self.catalog).await.unwrap())
    }

    /// The store over a catalog that was opened before.
    pub async fn over(&self, catalog: Arc<SqlCatalog>) -> BlobStore {
        let objects: Arc<dyn Objects> = match &self.bucket {
            Some(bucket) => Arc::new(bucket.objects().spool_in(self.path().join("spool"))),
            None => Arc::new(Folder::open(self.root()).await.unwrap()),
        };
        BlobStore::over(catalog, objects).await.unwrap()
    }

    /// The configuration of the store `a` and of the job `sweep`, which keeps its own things in `data_dir`.
    pub fn config(&self, data_dir: &str, job: &str) -> String {
        let objects = match self.bucket.as_ref().map(|bucket| &bucket.url) {
            None => format!("file://{}", self.root().display()),
            Some(url @ ObjectsUrl::S3 { endpoint, .. }) => {
                let endpoint = self.endpoint.as_ref().or(endpoint.as_ref());
                format!("{url}?endpoint={}", endpoint.unwrap())
            }
            Some(url) => panic!("{url}"),
        };
        let catalog = match &self.catalog {
            CatalogUrl::Sqlite(path) => format!("sqlite://{}", path.display()),
            CatalogUrl::Postgres(url) => url.expose().to_owned(),
        };
        format!(
            "data_dir = \"{data_dir}\"\n[blobs.a]\nobjects = \"{objects}\"\ncatalog = \"{catalog}\"\n\
             [jobs.sweep]\nkind = \"orphans\"\nblobs = \"a\"\ninventory = \"never\"\n{job}\n"
        )
    }

    /// Writes it to a file, for [`command`](Self::command).
    pub fn configure(&self, file: &str, data_dir: &str, job: &str) {
        std::fs::write(self.path().join(file), self.config(data_dir, job)).unwrap();
    }

    /// `janitor`, with a configuration and to be given arguments. It is killed with its handle.
    pub fn command(&self, file: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_janitor"));
        command.current_dir(self.path()).env("TMPDIR", self.path().join("spool"));
        command.env_remove("JANITOR_CONFIG").env_remove("RUST_LOG").kill_on_drop(true);
        if let Some(bucket) = &self.bucket {
            command.env("AWS_ACCESS_KEY_ID", &bucket.key_id).env("AWS_SECRET_ACCESS_KEY", &bucket.secret);
        }
        command.arg("--config").arg(file);
        command
    }

    /// A sweep of `store` in this process.
    pub async fn sweep(&self, store: &BlobStore, job: &str, narrow: Narrow) -> Ended {
        let config = Config::parse(&self.config("janitor-data", job), &self.path().join("janitor.toml")).unwrap();
        let janitor = Janitor::connect(config).await.unwrap().with_blobs("a", store.clone());
        let request = Request { job: "sweep".to_owned(), mode: Mode::Apply, tick: None };
        let stop = CancellationToken::new();
        let ask = Ask { request: &request, attempt: 1, narrow, watch: &(), stop: &stop };
        janitor.execute(ask).await.unwrap()
    }

    /// How many files wait in the spools of all processes.
    pub fn spooled(&self) -> usize {
        let files = |folder: PathBuf| std::fs::read_dir(folder).map_or(0, Iterator::count);
        files(self.path().join("spool")) + files(self.path().join("blobs/tmp"))
    }
}
