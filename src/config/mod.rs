//! What a worker is allowed to do: the validated configuration.
//!
//! A [`Config`] that exists is valid: every value has been checked, every default filled in. It is made by
//! [`Config::load`] from `janitor.toml`, where unknown keys are errors and all errors are reported at once.

mod cassandra;
mod disk;
mod errors;
mod expand;
mod job;
mod load;
mod orphans;
mod reader;
mod scalar;
mod schedule;
mod secrets;
mod stores;
mod template;
mod urls;
mod values;
mod volume_name;
mod volumes;

use std::{
    collections::BTreeMap,
    num::{NonZeroU64, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

pub use cassandra::{CassandraUrl, Consistency, Serial};
pub use errors::{ConfigError, ConfigErrors, ConfigWarning};
pub use schedule::Schedule;
pub use stores::StoreUrl;
pub use template::TEMPLATE;
pub use urls::{CatalogUrl, ObjectsUrl, SecretUrl};
pub use values::{BatchSize, RetentionDays, Share, name};
pub use volume_name::{VolumeName, VolumePattern};
pub use volumes::{EngineUrl, MarksUrl};

/// A validated `janitor.toml`.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that it came from, where it came from one.
    pub path: Option<PathBuf>,
    /// Where the embedded mode keeps its file.
    pub data_dir: PathBuf,
    /// The Redis of a cluster; none: the embedded mode.
    pub redis: Option<RedisConfig>,
    /// How workers behave.
    pub worker: WorkerConfig,
    /// Where metrics are served; none: nowhere.
    pub metrics: Option<MetricsConfig>,
    /// The blob stores by name.
    pub blobs: BTreeMap<String, BlobsConfig>,
    /// The jobs by name.
    pub jobs: BTreeMap<String, JobConfig>,
    /// What is valid, and probably not meant.
    pub warnings: Vec<ConfigWarning>,
}

/// `[redis]`.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// Where it is.
    pub url: SecretUrl,
    /// Every key begins with this in braces; default `janitor`.
    pub namespace: String,
}

/// `[worker]`.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// How many jobs run at once in a process; default 2.
    pub concurrency: usize,
    /// How long a lock outlives a holder that cannot renew it, 1 s or more; default 30 s.
    pub lock_ttl: Duration,
    /// How long a request stays with a worker that does not extend it; default 60 s.
    pub visibility: Duration,
    /// After how many deliveries a request is dead; default 3.
    pub max_deliveries: u32,
    /// How long a batch in hand may take after SIGTERM; default 25 s.
    pub drain: Duration,
    /// The host's name; default the machine's.
    pub host: String,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            concurrency: 2,
            lock_ttl: Duration::from_secs(30),
            visibility: Duration::from_mins(1),
            max_deliveries: 3,
            drain: Duration::from_secs(25),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        }
    }
}

/// `[metrics]`.
#[derive(Clone, Copy, Debug)]
pub struct MetricsConfig {
    /// The address that `/metrics` and `/healthz` are served on.
    pub listen: std::net::SocketAddr,
}

/// One `[jobs.NAME]`.
#[derive(Clone, Debug)]
pub struct JobConfig {
    /// The job's name.
    pub name: String,
    /// Whether it may run; default true.
    pub enabled: bool,
    /// When it runs; none: only on demand.
    pub timing: Option<Timing>,
    /// What it does.
    pub kind: JobKind,
}

/// When a job runs.
#[derive(Clone, Debug)]
pub struct Timing {
    /// The cron expression or the interval.
    pub schedule: Schedule,
    /// The zone that a cron expression is read in; default UTC.
    pub timezone: chrono_tz::Tz,
    /// What happens to ticks that were missed.
    pub catch_up: CatchUp,
    /// A tick is enqueued up to this much later; default 0.
    pub jitter: Duration,
}

/// What happens to ticks that were missed while no beat ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CatchUp {
    /// The latest one is made up, the rest are dropped.
    #[default]
    One,
    /// All are dropped.
    None,
}

/// What a job does.
#[derive(Clone, Debug)]
pub enum JobKind {
    /// `kind = "retention"`.
    Retention(Box<RetentionConfig>),
    /// `kind = "orphans"`.
    Orphans(Box<OrphansConfig>),
    /// `kind = "disk"`: it belongs to a host.
    Disk(Box<DiskConfig>),
    /// `kind = "volumes"`: it belongs to a host where its engine is that host's own.
    Volumes(Box<VolumesConfig>),
}

impl JobKind {
    /// The word in the configuration and in reports.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Retention(_) => "retention",
            Self::Orphans(_) => "orphans",
            Self::Disk(_) => "disk",
            Self::Volumes(_) => "volumes",
        }
    }

    /// Whether the job runs on each host whose file has it, by that host's own queue and lock.
    #[must_use]
    pub const fn is_of_host(&self) -> bool {
        match self {
            Self::Retention(_) | Self::Orphans(_) => false,
            Self::Disk(_) => true,
            Self::Volumes(volumes) => matches!(volumes.engine, EngineUrl::Unix(_)),
        }
    }
}

/// One `[blobs.NAME]`: a content-addressed store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobsConfig {
    /// The store's name.
    pub name: String,
    /// Where the bytes are.
    pub objects: ObjectsUrl,
    /// Where it is written who refers to them.
    pub catalog: CatalogUrl,
}

/// A job of kind `orphans`.
#[derive(Clone, Debug)]
pub struct OrphansConfig {
    /// The store that is swept.
    pub blobs: BlobsConfig,
    /// How long a blob stays after nothing refers to it any more; default 24 h.
    pub grace: Duration,
    /// A task that has something not final and was silent for this long counts as failed; default 7 d.
    pub abandoned_after: Duration,
    /// A retention job, by name, whose store says which runs failed or are gone; none: nobody is asked.
    pub runs: Option<(String, Box<RetentionConfig>)>,
    /// A sweep of more than this share of all blobs refuses; default 50 %.
    pub max_share: Share,
    /// When objects and catalog are compared; none: never. Default weekly.
    pub inventory: Option<Schedule>,
    /// The most blobs that are deleted in a second; none: no limit.
    pub rate_limit: Option<NonZeroU64>,
    /// How long one execution lasts at most; default 1 h.
    pub time_limit: Duration,
}

/// A job of kind `disk`.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// The folder that it looks after; nothing outside it changes.
    pub root: PathBuf,
    /// The logs that grow for ever; default none.
    pub event_logs: Vec<EventLogConfig>,
    /// What may go by age; none: no media.
    pub media: Option<MediaConfig>,
    /// When media goes before its age; none: never.
    pub pressure: Option<PressureConfig>,
    /// Where media is kept for good; none: nowhere, so media goes under pressure only.
    pub remote: Option<RemoteConfig>,
    /// The JSON files that refer to media; default none.
    pub references: Vec<ReferencesConfig>,
    /// What is never deleted nor rotated, by path below the root or by name; default nothing.
    pub protect: Vec<glob::Pattern>,
    /// How long a worker waits after its start before it runs the job by itself; default 60 s.
    pub initial_delay: Duration,
    /// The most files that are deleted in a second; none: no limit.
    pub rate_limit: Option<NonZeroU64>,
    /// How long one execution lasts at most; default 1 h.
    pub time_limit: Duration,
}

/// One of a job's `event_logs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventLogConfig {
    /// The file, below the root.
    pub path: PathBuf,
    /// Above this many bytes it is rotated.
    pub max_size: u64,
    /// How many of its last lines stay in it; default 10,000.
    pub keep_lines: u64,
    /// How many old files stay beside it; default 0: none.
    pub generations: u32,
}

/// A job's `media`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaConfig {
    /// The folders that are swept, below the root.
    pub paths: Vec<PathBuf>,
    /// How old a file becomes where a remote has it; default 7 d.
    pub max_age: Duration,
    /// How old it becomes under pressure; default 1 d.
    pub pressure_age: Duration,
}

/// A job's `pressure`, as shares of the file system that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PressureConfig {
    /// Above this share files go,
    pub high: Share,
    /// until this one is reached.
    pub low: Share,
}

/// A job's `remote`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteConfig {
    /// Where the objects are.
    pub objects: ObjectsUrl,
    /// What proves that an object is the file; default its size.
    pub verify: Verify,
}

/// What proves that a remote object is a local file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// It is as long.
    #[default]
    Size,
    /// It is as long, and has the same hash.
    Hash,
}

/// One of a job's `references`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferencesConfig {
    /// The JSON file, below the root.
    pub path: PathBuf,
    /// The fields that refer to media, at any depth.
    pub fields: Vec<String>,
}

/// A job of kind `volumes`.
#[derive(Clone, Debug)]
pub struct VolumesConfig {
    /// The container engine; default `unix:///var/run/docker.sock`.
    pub engine: EngineUrl,
    /// The database that has the threads.
    pub marks: MarksUrl,
    /// The table that has them.
    pub table: ThreadsTable,
    /// How a thread's volume is named.
    pub volume: VolumePattern,
    /// A volume without this label is never removed; default none.
    pub require_label: Option<(String, String)>,
    /// Whether volumes of the pattern that belong to no thread go, too; default false: they are reported.
    pub sweep_unknown: bool,
    /// The most volumes that one execution removes; default 100.
    pub limit: NonZeroUsize,
    /// How many are removed at once; default 3.
    pub concurrency: NonZeroUsize,
    /// How long the engine has for an answer; default 10 s.
    pub engine_timeout: Duration,
    /// How long one execution lasts at most; default 1 h.
    pub time_limit: Duration,
}

/// A job's `table`: where a thread's row says what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadsTable {
    /// The table, or its schema and itself.
    pub name: Vec<String>,
    /// The column of the id, which names the volume; default `id`.
    pub id: String,
    /// The column of the status; default `status`.
    pub status: String,
    /// The status of a closed thread.
    pub closed: String,
    /// The column that is set when the volume is gone; default `volume_removed_at`.
    pub removed_at: String,
}

impl ThreadsTable {
    /// The table of that name, where a thread with the status `closed` is closed, and the columns have their default names.
    #[must_use]
    pub fn new(name: Vec<String>, closed: impl Into<String>) -> Self {
        let [id, status, removed_at] = ["id", "status", "volume_removed_at"].map(str::to_owned);
        Self { name, id, status, closed: closed.into(), removed_at }
    }
}

/// A job of kind `retention`.
#[derive(Clone, Debug)]
pub struct RetentionConfig {
    /// The store that runs are deleted from.
    pub store: StoreUrl,
    /// The run table and what belongs to it; default `pyworkflow`.
    pub layout: String,
    /// How long ended runs stay where no rule matches; none: for ever.
    pub retention_days: Option<RetentionDays>,
    /// The most runs in one transaction; default 1,000, with Citus 10,000.
    pub batch_size: BatchSize,
    /// How long a transaction should last at most; default 330 ms in SQLite, 250 ms in Postgres and files, and more where
    /// others do not wait for it.
    pub batch_time: Duration,
    /// The longest pause between transactions; default 100 ms in SQLite, else none.
    pub batch_pause: Duration,
    /// The most runs of one execution; none: no limit.
    pub run_limit: Option<NonZeroU64>,
    /// How long one execution lasts at most; default 1 h.
    pub time_limit: Duration,
    /// The first that matches a run decides.
    pub rules: Vec<Rule>,
}

/// One of a job's `rules`.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Which workflows, by name; none: all.
    pub workflow: Option<glob::Pattern>,
    /// Which statuses, all of them terminal in the layout; empty: all terminal ones.
    pub status: Vec<String>,
    /// What is to happen.
    pub keep: Keep,
}

/// How long a rule keeps what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// For ever.
    Forever,
    /// Until this many days after the last update.
    Days(RetentionDays),
}
