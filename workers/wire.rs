//! Where the command line meets the library: each function is one call of it.

use std::{path::Path, sync::Arc};

use apalis_janitor::{
    Janitor,
    clock::{Clock, SystemClock},
    config::Config,
    embedded,
    ledger::{redis::RedisLedger, sqlite::SqliteLedger},
    link::Link,
    lock::{redis::RedisLock, sqlite::SqliteLock},
    queue::{QueueOptions, redis::RedisQueue, sqlite::SqliteQueue},
    run_worker,
};
use tokio_util::sync::CancellationToken;

use crate::app::{Fail, chain};

/// The most requests that may wait.
const BACKLOG_MAX: u64 = 100_000;

/// Finds and reads the configuration.
pub fn load(named: Option<&Path>) -> Result<Config, Fail> {
    Config::find(named).and_then(Config::load).map_err(|errors| Fail::config(errors.to_string()))
}

/// Connects to queue, lock and ledger.
pub async fn connect(config: Config) -> Result<Janitor, Fail> {
    let options = QueueOptions {
        visibility: config.worker.visibility,
        max_deliveries: config.worker.max_deliveries,
        backlog_max: BACKLOG_MAX,
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    if let Some(redis) = &config.redis {
        let link = Link::new(redis.url.expose(), &redis.namespace)
            .map_err(|error| Fail::failed(format!("{}: {}", redis.url, chain(&error))))?;
        let queue = Arc::new(RedisQueue::new(link.clone(), options));
        let (lock, ledger) = (Arc::new(RedisLock::new(link.clone())), Arc::new(RedisLedger::new(link)));
        return Ok(Janitor::over(config, queue, lock, ledger, clock));
    }
    let pool = embedded::open(&config.data_dir)
        .await
        .map_err(|error| Fail::failed(format!("{}: {}", config.data_dir.display(), chain(&error))))?;
    let queue = Arc::new(SqliteQueue::new(pool.clone(), options, clock.clone()));
    let lock = Arc::new(SqliteLock::new(pool.clone(), clock.clone()));
    let ledger = Arc::new(SqliteLedger::new(pool));
    Ok(Janitor::over(config, queue, lock, ledger, clock))
}

/// Works until `stop`, then drains.
pub async fn work(janitor: Janitor, name: &str, stop: CancellationToken) -> Result<(), Fail> {
    run_worker(janitor, name, stop).await.map_err(|error| Fail::of(&error))
}

/// Whether a request is still on the queue.
pub async fn is_queued(janitor: &Janitor, id: &str) -> Result<bool, Fail> {
    janitor.queue().has(id).await.map_err(|error| Fail::of(&error))
}
