//! How much is due in a store of runs now, counted as a dry run does.

use std::{sync::Arc, time::Duration};

use apalis_janitor::{
    Janitor,
    config::{JobConfig, RetentionConfig},
    jobs::{JobError, Leave, Limits, Stopped, Tally, pace::Pace, retention::Retention, walk},
    runs::{RunStore, layout, policy::Policy},
};
use tokio_util::sync::CancellationToken;

/// How long is counted: a check is to answer soon.
const TIME_MAX: Duration = Duration::from_secs(10);

/// Says how many runs are due and since when the oldest one is what it is. Never writes.
pub async fn due(
    janitor: &Janitor,
    job: &JobConfig,
    config: &RetentionConfig,
    store: Arc<dyn RunStore>,
) -> Result<String, JobError> {
    let now = janitor.clock().now();
    let Some(policy) = Policy::new(config, layout::PYWORKFLOW.terminal, now, None) else {
        return Ok("retention_days is unset: every run stays".to_owned());
    };
    let mut retention = Retention::new(job.name.clone(), store, Arc::clone(janitor.clock()), policy);
    let pace = Pace::new(config.batch_size.get(), config.batch_time);
    let limits = Limits { pace, pause: Duration::ZERO, items: None, time: TIME_MAX };
    let (stop, mut tally) = (CancellationToken::new(), Tally::default());
    let stopped = walk(&mut retention, Leave::DryRun, limits, &(), &stop, &mut tally).await?;
    let runs = tally.planned.get("runs");
    let least = if stopped == Stopped::ByTime { " or more" } else { "" };
    let oldest = match retention.oldest_due() {
        Some(oldest) if stopped == Stopped::AtTheEnd => {
            format!(", the oldest was last written {}", oldest.format("%Y-%m-%dT%H:%M:%SZ"))
        }
        _ => String::new(),
    };
    Ok(format!("{runs}{least} runs are due now{oldest}"))
}
