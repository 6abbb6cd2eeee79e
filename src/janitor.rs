//! The one place where every way in ends: a beat's tick, a manual request, `janitor run` and a user's own worker.

use std::{collections::HashMap, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    blobs::{BlobError, BlobStore},
    clock::Clock,
    config::{self, BlobsConfig, Config, JobConfig, JobKind, RetentionConfig, VolumesConfig},
    execute::Ask,
    jobs::{
        JobError, Narrow,
        disk::Switch,
        volumes::{Fate, ThreadVolumes},
    },
    ledger::{Ledger, LedgerError},
    lock::{Lock, LockKey},
    metrics::Metrics,
    queue::{Dead, Enqueued, Queue, QueueError, Request, Stats},
    report::{Mode, Report},
    runs::{self, RunStore, StoreError},
    volumes::{self, Engine, Marks},
};

/// An engine, and the table of the threads whose volumes it has.
type EngineAndMarks = (Arc<dyn Engine>, Arc<dyn Marks>);

/// The configured jobs with their queue, lock and ledger. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Janitor(Arc<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    config: Config,
    queue: Arc<dyn Queue>,
    lock: Arc<dyn Lock>,
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
    stores: HashMap<String, Arc<dyn RunStore>>,
    blobs: HashMap<String, BlobStore>,
    volumes: HashMap<String, EngineAndMarks>,
    metrics: Metrics,
}

/// No job of that name is configured here.
#[derive(Debug, thiserror::Error)]
#[error("no job named {name:?} in the configuration; {hint}")]
pub struct UnknownJob {
    /// The name that was asked for.
    pub name: String,
    hint: String,
}

impl UnknownJob {
    /// `name` is none of `known`.
    fn new<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Self {
        let known: Vec<&str> = known.collect();
        let near = known.iter().map(|job| (strsim::damerau_levenshtein(name, job), *job)).min();
        let hint = match near {
            None => "it has no jobs".to_owned(),
            Some((distance, job)) if distance <= 1 + name.len() / 4 => format!("did you mean {job:?}?"),
            Some(_) => format!("it has {}", known.join(", ")),
        };
        Self { name: name.to_owned(), hint }
    }
}

/// Why a job was not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// No such job.
    #[error(transparent)]
    Unknown(#[from] UnknownJob),
    /// It ran, and its report could not be recorded.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Why a volume could not be asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VolumesError {
    /// No such job.
    #[error(transparent)]
    Unknown(#[from] UnknownJob),
    /// The job is of another kind.
    #[error("job {job:?} is of kind {kind:?}, not \"volumes\"")]
    Kind {
        /// The job.
        job: String,
        /// Its kind.
        kind: &'static str,
    },
    /// The engine, the database or the ledger did not do it, or the id is none that a volume can be named after.
    #[error(transparent)]
    Job(#[from] JobError),
}

impl Janitor {
    /// A janitor over these parts, which a test may choose.
    #[must_use]
    pub fn over(
        config: Config,
        queue: Arc<dyn Queue>,
        lock: Arc<dyn Lock>,
        ledger: Arc<dyn Ledger>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self(Arc::new(Parts {
            config,
            queue,
            lock,
            ledger,
            clock,
            stores: HashMap::new(),
            blobs: HashMap::new(),
            volumes: HashMap::new(),
            metrics: Metrics::default(),
        }))
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The queue.
    #[must_use]
    pub fn queue(&self) -> &Arc<dyn Queue> {
        &self.0.queue
    }

    /// The lock.
    #[must_use]
    pub fn lock(&self) -> &Arc<dyn Lock> {
        &self.0.lock
    }

    /// The ledger.
    #[must_use]
    pub fn ledger(&self) -> &Arc<dyn Ledger> {
        &self.0.ledger
    }

    /// The clock.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    /// What the executions of this process count into.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Uses `store` for `job` instead of the one that the configuration names: a store of the program's own.
    #[must_use]
    pub fn with_store(self, job: &str, store: Arc<dyn RunStore>) -> Self {
        let mut parts = Parts::clone(&self.0);
        parts.stores.insert(job.to_owned(), store);
        Self(Arc::new(parts))
    }

    /// Uses `store` for `[blobs.NAME]` instead of the one that the configuration describes.
    #[must_use]
    pub fn with_blobs(self, name: &str, store: BlobStore) -> Self {
        let mut parts = Parts::clone(&self.0);
        parts.blobs.insert(name.to_owned(), store);
        Self(Arc::new(parts))
    }

    /// Uses these for `job`, of kind `volumes`, instead of what the configuration names.
    #[must_use]
    pub fn with_volumes(self, job: &str, engine: Arc<dyn Engine>, marks: Arc<dyn Marks>) -> Self {
        let mut parts = Parts::clone(&self.0);
        parts.volumes.insert(job.to_owned(), (engine, marks));
        Self(Arc::new(parts))
    }

    /// The configuration of `job`.
    pub fn job(&self, job: &str) -> Result<&JobConfig, UnknownJob> {
        let jobs = &self.config().jobs;
        jobs.get(job).ok_or_else(|| UnknownJob::new(job, jobs.keys().map(String::as_str)))
    }

    /// The kill switch of a job: whether the file that the configuration came from has it as enabled when it is asked. A file
    /// that cannot be read has not said so.
    #[must_use]
    pub fn switch(&self, job: &str) -> Switch {
        let (path, job) = (self.config().path.clone(), job.to_owned());
        let is_enabled = self.config().jobs.get(&job).is_some_and(|job| job.enabled);
        Arc::new(move || {
            let Some(path) = &path else { return is_enabled };
            match Config::load(path) {
                Ok(now) => now.jobs.get(&job).is_some_and(|job| job.enabled),
                Err(error) => {
                    tracing::warn!(job, %error, "the configuration cannot be read again: the job counts as switched off");
                    false
                }
            }
        })
    }

    /// Why a job that could run is not to.
    pub(crate) async fn off(&self, job: &JobConfig) -> Result<Option<&'static str>, LedgerError> {
        if !job.enabled || job.kind.is_of_host() && !self.switch(&job.name)() {
            return Ok(Some("the job is not enabled"));
        }
        Ok(self.ledger().is_paused(&job.name).await?.then_some("the job is paused"))
    }

    /// The same janitor over the queue of this host's own jobs; `None` where it has none, or all jobs have one queue.
    ///
    /// A monitor that is to run them, too, has a worker for each queue:
    /// ```no_run
    /// use apalis::prelude::Monitor;
    /// use apalis_janitor::{Janitor, beat::run_host_beat, config::Config};
    /// use tokio_util::sync::CancellationToken;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let janitor = Janitor::connect(Config::load("janitor.toml")?).await?;
    /// let mut monitor = Monitor::new();
    /// if let Some(own) = janitor.of_own_host() {
    ///     tokio::spawn(run_host_beat(own.clone(), CancellationToken::new()));
    ///     monitor = monitor.register(move |_| own.worker("w1@host"));
    /// }
    /// monitor.register(move |_| janitor.worker("w1")).run().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn of_own_host(&self) -> Option<Self> {
        let has_own = self.config().jobs.values().any(|job| job.kind.is_of_host());
        if has_own { self.of_host(&self.config().worker.host) } else { None }
    }

    /// The same janitor over the queue of a host's own jobs; `None` where all jobs have one queue, or no host can have the name.
    #[must_use]
    pub fn of_host(&self, host: &str) -> Option<Self> {
        config::name(host).ok()?;
        let queue = self.queue().of_host(host)?;
        Some(Self(Arc::new(Parts { queue, ..Parts::clone(&self.0) })))
    }

    /// The queues that this host's workers take from: the one of all hosts, and its own where it has jobs of its own.
    #[must_use]
    pub fn queues(&self) -> Vec<Arc<dyn Queue>> {
        let own = self.of_own_host();
        std::iter::once(self).chain(&own).map(|janitor| Arc::clone(janitor.queue())).collect()
    }

    /// How many requests wait, run and are dead on [these queues](Self::queues).
    pub async fn stats(&self) -> Result<Stats, QueueError> {
        let mut all = Stats::default();
        for queue in self.queues() {
            let Stats { waiting, running, dead } = queue.stats().await?;
            all = Stats { waiting: all.waiting + waiting, running: all.running + running, dead: all.dead + dead };
        }
        Ok(all)
    }

    /// The newest dead requests of [these queues](Self::queues), up to `limit`.
    pub async fn dead(&self, limit: usize) -> Result<Vec<Dead>, QueueError> {
        let mut all = Vec::new();
        for queue in self.queues() {
            all.append(&mut queue.dead(limit).await?);
        }
        all.sort_by_key(|dead| std::cmp::Reverse(dead.at));
        all.truncate(limit);
        Ok(all)
    }

    /// The janitor over the queue that requests for `job` go to: this host's own where the job belongs to a host.
    #[must_use]
    pub fn for_job(&self, job: &JobConfig) -> Self {
        let own = if job.kind.is_of_host() { self.of_host(&self.config().worker.host) } else { None };
        own.unwrap_or_else(|| self.clone())
    }

    /// The lock of a job: its own, or, where it belongs to a host, its own on this host.
    #[must_use]
    pub fn lock_key(&self, job: &JobConfig) -> LockKey {
        if job.kind.is_of_host() {
            LockKey::of_host(&job.name, &self.config().worker.host)
        } else {
            LockKey::job(&job.name)
        }
    }

    /// Opens the store of a retention job.
    pub(crate) async fn store(&self, job: &str, config: &RetentionConfig) -> Result<Arc<dyn RunStore>, StoreError> {
        match self.0.stores.get(job) {
            Some(store) => Ok(Arc::clone(store)),
            None => runs::open(config).await,
        }
    }

    /// Opens a blob store.
    pub(crate) async fn blobs(&self, config: &BlobsConfig) -> Result<BlobStore, BlobError> {
        match self.0.blobs.get(&config.name) {
            Some(store) => Ok(store.clone()),
            None => BlobStore::open(config).await,
        }
    }

    /// Opens what a job of kind `volumes` works with.
    pub(crate) async fn open_volumes(
        &self,
        job: &JobConfig,
        config: &VolumesConfig,
    ) -> Result<ThreadVolumes, JobError> {
        let (engine, marks) = match self.0.volumes.get(&job.name) {
            Some((engine, marks)) => (Arc::clone(engine), Arc::clone(marks)),
            None => (
                volumes::open(&config.engine, config.engine_timeout).await?,
                // One for each volume that is being removed, and one to ask with.
                volumes::marks::open(&config.marks, &config.table, config.engine_timeout, config.concurrency.get() + 1)
                    .await?,
            ),
        };
        Ok(ThreadVolumes {
            engine,
            marks,
            ledger: Arc::clone(self.ledger()),
            key: self.lock_key(job).as_str().to_owned(),
            clock: Arc::clone(self.clock()),
            config: config.clone(),
        })
    }

    /// The volumes of a job's threads, to look at, or to remove one by one.
    ///
    /// # Errors
    /// [`VolumesError`], where there is no such job of kind `volumes`, or its engine or database cannot be opened.
    pub async fn volumes(&self, job: &str) -> Result<ThreadVolumes, VolumesError> {
        let job = self.job(job)?;
        match &job.kind {
            JobKind::Volumes(config) => Ok(self.open_volumes(job, config).await?),
            kind @ (JobKind::Retention(_) | JobKind::Orphans(_) | JobKind::Disk(_)) => {
                Err(VolumesError::Kind { job: job.name.clone(), kind: kind.as_str() })
            }
        }
    }

    /// Removes the volume of one thread, here and now, by the rules of `job`, and marks the thread. It takes no lock: it
    /// may be called while a sweep runs, and beside itself.
    ///
    /// ```no_run
    /// # async fn example(janitor: apalis_janitor::Janitor) -> Result<(), Box<dyn std::error::Error>> {
    /// use apalis_janitor::jobs::volumes::Fate;
    /// match janitor.remove_volume("volumes", "7b7a").await? {
    ///     Fate::Removed | Fate::Absent | Fate::Settled => {} // gone, and marked
    ///     Fate::Referenced(by) => println!("in use: {by}"),
    ///     stays => println!("it stays: {stays:?}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`VolumesError`]; the next sweep finishes what was begun.
    pub async fn remove_volume(&self, job: &str, id: &str) -> Result<Fate, VolumesError> {
        let volumes = self.volumes(job).await?;
        match self.off(self.job(job)?).await.map_err(JobError::from)? {
            Some(why) => Ok(Fate::Off(why)),
            None => Ok(volumes.remove(id).await?),
        }
    }

    /// Runs a job here and now: no queue, but the lock, and the report goes into the ledger.
    ///
    /// # Errors
    /// [`RunError::Unknown`] where no such job is configured, [`RunError::Ledger`] where the report could not be recorded.
    pub async fn run(&self, job: &str, mode: Mode) -> Result<Report, RunError> {
        let request = Request { job: job.to_owned(), mode, tick: None };
        let stop = CancellationToken::new();
        let ask = Ask { request: &request, attempt: 1, narrow: Narrow::default(), watch: &(), stop: &stop };
        let report = self.execute(ask).await?.report;
        self.ledger().record(&report).await?;
        Ok(report)
    }

    /// Puts a request for `job` on the queue: on this host's own where the job belongs to a host.
    pub async fn enqueue(&self, job: &str, mode: Mode) -> Result<Enqueued, QueueError> {
        let to = self.config().jobs.get(job).map_or_else(|| self.clone(), |job| self.for_job(job));
        to.queue().enqueue(&Request { job: job.to_owned(), mode, tick: None }, None).await
    }
}
