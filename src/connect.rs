//! Connects a configuration to its queue, lock and ledger.

#[cfg(any(feature = "redis", feature = "sqlite"))]
use std::sync::Arc;

#[cfg(any(feature = "redis", feature = "sqlite"))]
use crate::clock::SystemClock;
use crate::{
    Janitor,
    config::{Config, RedisConfig},
    queue::QueueOptions,
};

/// The most requests that may wait; one more is refused.
const BACKLOG_MAX: u64 = 100_000;

/// Why a janitor could not connect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Redis could not be used. The error names its address, never its password.
    #[cfg(feature = "redis")]
    #[error(transparent)]
    Redis(#[from] crate::link::LinkError),
    /// The file of the embedded mode could not be used.
    #[cfg(feature = "sqlite")]
    #[error(transparent)]
    Embedded(#[from] crate::embedded::EmbeddedError),
    /// The configuration needs what was not compiled in.
    #[error("built without `{0}`: rebuild with --features {0}")]
    Without(&'static str),
}

impl Janitor {
    /// Connects to what `config` names: a Redis, or without `[redis]` the SQLite file of the embedded mode.
    ///
    /// ```
    /// use apalis_janitor::{Janitor, config::Config, report::Mode};
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// # let dir = std::env::temp_dir().join(format!("janitor-doc-{}", std::process::id()));
    /// # std::fs::create_dir_all(&dir).unwrap();
    /// # let file = dir.join("janitor.toml");
    /// std::fs::write(&file, "[jobs.old-runs]\nkind = \"retention\"\nstore = \"memory:\"\nretention_days = 30\n")?;
    /// let janitor = Janitor::connect(Config::load(&file)?).await?;
    /// janitor.enqueue("old-runs", Mode::DryRun).await?; // for whichever worker takes it
    /// let report = janitor.run("old-runs", Mode::Apply).await?; // here and now, under the lock
    /// assert_eq!(report.deleted.get("runs"), 0);
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`ConnectError`], where the server does not answer, refuses the password or is too old, or the file cannot be used.
    pub async fn connect(config: Config) -> Result<Self, ConnectError> {
        let options = QueueOptions {
            visibility: config.worker.visibility,
            max_deliveries: config.worker.max_deliveries,
            backlog_max: BACKLOG_MAX,
        };
        match config.redis.clone() {
            Some(redis) => Self::over_redis(config, &redis, options).await,
            None => Self::over_file(config, options).await,
        }
    }

    #[cfg(feature = "redis")]
    async fn over_redis(config: Config, redis: &RedisConfig, options: QueueOptions) -> Result<Self, ConnectError> {
        let link = crate::link::Link::new(redis.url.expose(), &redis.namespace)?;
        link.probe().await?;
        let queue = Arc::new(crate::queue::redis::RedisQueue::new(link.clone(), options));
        let lock = Arc::new(crate::lock::redis::RedisLock::new(link.clone()));
        let ledger = Arc::new(crate::ledger::redis::RedisLedger::new(link));
        Ok(Self::over(config, queue, lock, ledger, Arc::new(SystemClock)))
    }

    #[cfg(not(feature = "redis"))]
    #[expect(clippy::unused_async, reason = "the same signature as with the feature")]
    async fn over_redis(_: Config, _: &RedisConfig, _: QueueOptions) -> Result<Self, ConnectError> {
        Err(ConnectError::Without("redis"))
    }

    #[cfg(feature = "sqlite")]
    async fn over_file(config: Config, options: QueueOptions) -> Result<Self, ConnectError> {
        let clock = Arc::new(SystemClock);
        let pool = crate::embedded::open(&config.data_dir).await?;
        let queue = Arc::new(crate::queue::sqlite::SqliteQueue::new(pool.clone(), options, clock.clone()));
        let lock = Arc::new(crate::lock::sqlite::SqliteLock::new(pool.clone(), clock.clone()));
        let ledger = Arc::new(crate::ledger::sqlite::SqliteLedger::new(pool));
        Ok(Self::over(config, queue, lock, ledger, clock))
    }

    #[cfg(not(feature = "sqlite"))]
    #[expect(clippy::unused_async, reason = "the same signature as with the feature")]
    async fn over_file(_: Config, _: QueueOptions) -> Result<Self, ConnectError> {
        Err(ConnectError::Without("sqlite"))
    }
}
