//! Made-up volumes, for `janitor demo`.

use std::time::Duration;

use super::EngineError;
use crate::config::{EngineUrl, VolumeName};

/// Makes empty volumes with one label in the engine at `url`, which has `limit` for each.
///
/// # Errors
/// [`EngineError`], where no engine answers there; some may have been made by then.
#[cfg(feature = "docker")]
pub async fn make(
    url: &EngineUrl,
    limit: Duration,
    volumes: &[VolumeName],
    (key, value): (&str, &str),
) -> Result<(), EngineError> {
    let engine = super::docker::DockerEngine::open(url, limit);
    for volume in volumes {
        engine.make(volume, key, value).await?;
    }
    Ok(())
}

/// Makes none: it was built without an engine.
///
/// # Errors
/// Always.
#[cfg(not(feature = "docker"))]
pub async fn make(url: &EngineUrl, limit: Duration, _: &[VolumeName], _: (&str, &str)) -> Result<(), EngineError> {
    super::open(url, limit).await.map(drop)
}
