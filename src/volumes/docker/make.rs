//! Makes volumes, for `janitor demo`.

use std::collections::HashMap;

use bollard::models::VolumeCreateRequest;

use super::DockerEngine;
use crate::{config::VolumeName, volumes::EngineError};

impl DockerEngine {
    /// Makes an empty volume with one label; one of that name that is there stays as it is.
    pub(in crate::volumes) async fn make(
        &self,
        volume: &VolumeName,
        key: &str,
        value: &str,
    ) -> Result<(), EngineError> {
        let request = VolumeCreateRequest {
            name: Some(volume.to_string()),
            labels: Some(HashMap::from([(key.to_owned(), value.to_owned())])),
            ..VolumeCreateRequest::default()
        };
        self.ask("make a volume", self.timeout, |docker| async move { docker.create_volume(request).await.map(drop) })
            .await
    }
}
