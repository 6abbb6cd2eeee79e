//! Where the command line meets the library: each function is one call of it.

use std::path::Path;

use apalis_janitor::{ConnectError, Janitor, config::Config, run_worker};
use tokio_util::sync::CancellationToken;

use crate::app::Fail;

/// Finds and reads the configuration.
pub fn load(named: Option<&Path>) -> Result<Config, Fail> {
    Config::find(named).and_then(Config::load).map_err(|errors| Fail::config(errors.to_string()))
}

/// Says in the log what is probably not meant.
pub fn warn(config: &Config) {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
}

/// Connects to queue, lock and ledger.
pub async fn connect(config: Config) -> Result<Janitor, Fail> {
    Janitor::connect(config).await.map_err(|error| match error {
        ConnectError::Without(_) => Fail::config(error.to_string()),
        error => Fail::of(&error),
    })
}

/// Works until `stop`, then drains.
pub async fn work(janitor: Janitor, name: &str, stop: CancellationToken) -> Result<(), Fail> {
    run_worker(janitor, name, stop).await.map_err(|error| Fail::of(&error))
}

/// Whether a request is still on the queue.
pub async fn is_queued(janitor: &Janitor, id: &str) -> Result<bool, Fail> {
    janitor.queue().has(id).await.map_err(|error| Fail::of(&error))
}
