//! What jobs of the other kinds delete: blobs that nothing refers to, files on each host, and volumes of closed threads.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use sqlx::{ConnectOptions, Connection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{cluster::Cluster, docker::Dockerd};

/// What all volumes here begin with.
const PREFIX: &str = "soak_";
const TABLE: &str = "CREATE TABLE threads (id TEXT PRIMARY KEY, status TEXT NOT NULL, volume_removed_at TEXT)";
/// Lines that a log grows by at once.
const LINES: usize = 100;
/// How long the last of it may take to go.
const GONE_MAX: Duration = Duration::from_mins(1);

/// A feed, with how much it has given.
pub struct Feed {
    folder: TempDir,
    engine: &'static Dockerd,
    given: usize,
}

impl fmt::Display for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} blobs, volumes and media files of each host came, and went", self.given)
    }
}

impl Feed {
    /// With nothing given yet.
    pub async fn new() -> Self {
        let feed = Self { folder: tempfile::tempdir().unwrap(), engine: Dockerd::shared().await, given: 0 };
        let options = SqliteConnectOptions::new().filename(feed.path("threads.db")).create_if_missing(true);
        let mut connection = options.connect().await.unwrap();
        sqlx::raw_sql(TABLE).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        feed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The jobs of a host, for its configuration.
    pub fn jobs(&self, every_secs: u32) -> String {
        let (folder, engine) = (self.folder.path().display(), self.engine.url());
        for host in 0..3 {
            for kind in ["root", "cdn"] {
                fs::create_dir_all(self.path(&format!("h{host}/{kind}/images"))).unwrap();
            }
        }
        format!(
            "[blobs.artifacts]\nobjects = \"file://{folder}/blobs\"\ncatalog = \"sqlite://{folder}/blobs.db\"\n\
             [jobs.orphans]\nkind = \"orphans\"\nschedule = \"every {every_secs}s\"\nblobs = \"artifacts\"\ngrace = \"1s\"\n\
             [jobs.disk]\nkind = \"disk\"\nschedule = \"every {every_secs}s\"\ninitial_delay = \"1s\"\n\
             root = \"{folder}/{{host}}/root\"\n\
             event_logs = [{{ path = \"events.jsonl\", max_size = \"20KB\", keep_lines = 50 }}]\n\
             media = {{ paths = [\"images\"], max_age = \"1s\", pressure_age = \"1s\" }}\nremote = {{ objects = \"file://{folder}/{{host}}/cdn\" }}\n\
             [jobs.volumes]\nkind = \"volumes\"\nschedule = \"every {every_secs}s\"\nengine = \"{engine}\"\n\
             marks = \"sqlite://{folder}/threads.db\"\ntable = {{ name = \"threads\", closed = \"closed\" }}\n\
             volume = \"{PREFIX}{{id}}\"\n"
        )
    }

    /// One thing more for each of them.
    pub async fn some(&mut self, cluster: &Cluster) {
        self.given += 1;
        let number = self.given;
        let file = self.path("artifact");
        fs::write(&file, format!("artifact {number}\n").repeat(500)).unwrap();
        for line in [
            format!("blobs put {} --task task-{number}", file.display()),
            format!("blobs release --task task-{number}"),
        ] {
            let (code, _, stderr) = cluster.hosts[0].run(&line).await;
            assert_eq!(code, 0, "{line}: {stderr}");
        }
        for host in &cluster.hosts {
            let root = self.path(&format!("{}/root", host.name));
            let mut log = OpenOptions::new().create(true).append(true).open(root.join("events.jsonl")).unwrap();
            log.write_all(format!("{{\"event\": {number}}}\n").repeat(LINES).as_bytes()).unwrap();
            let image = format!("images/{number}.jpg");
            // The remote has it first, as it must where it is to go here.
            fs::write(self.path(&format!("{}/cdn/{image}", host.name)), [0; 1_000]).unwrap();
            fs::write(root.join(image), [0; 1_000]).unwrap();
        }
        self.engine.make_all([format!("{PREFIX}{number}")]).await;
        let options = SqliteConnectOptions::new().filename(self.path("threads.db"));
        let mut connection = options.busy_timeout(GONE_MAX).connect().await.unwrap();
        let text = "INSERT INTO threads (id, status) VALUES (?, 'closed')";
        sqlx::query(text).bind(number.to_string()).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// Waits until all that was given is gone.
    pub async fn is_gone(&self, cluster: &Cluster) {
        let deadline = Instant::now() + GONE_MAX;
        loop {
            let left = self.left(cluster).await;
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "it stays: {left:?}");
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// What is still there.
    async fn left(&self, cluster: &Cluster) -> Vec<String> {
        let (_, blobs, _) = cluster.hosts[0].run("blobs ls").await;
        let mut left: Vec<_> = blobs.lines().map(str::to_owned).collect();
        left.extend(self.engine.volumes(PREFIX).await);
        for host in &cluster.hosts {
            let images = fs::read_dir(self.path(&format!("{}/root/images", host.name))).unwrap();
            left.extend(images.map(|image| image.unwrap().path().display().to_string()));
        }
        left
    }
}
