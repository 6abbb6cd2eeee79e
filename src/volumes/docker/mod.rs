//! A Docker Engine, asked over its API.

mod make;
mod seen;
mod trouble;

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use bollard::{
    API_DEFAULT_VERSION, Docker,
    errors::Error,
    query_parameters::{ListContainersOptionsBuilder, ListVolumesOptions, RemoveVolumeOptions},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{sync::OnceCell, time::timeout};

use super::{Container, Engine, EngineError, Removal, Volume};
use crate::config::{EngineUrl, VolumeName};

/// The client's own limit in seconds, which ends where the body of an answer begins. Ours are shorter and include it.
const CLIENT_LIMIT_SECS: u64 = 3_600;

/// A Docker Engine at a unix socket, or at an address with TLS or without.
///
/// Each call is a connection of its own. The first one agrees on the version of the API.
///
/// ```
/// use std::time::Duration;
/// use apalis_janitor::{config::EngineUrl, volumes::{Engine, docker::DockerEngine}};
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let engine = DockerEngine::open(&EngineUrl::Unix("/no/docker.sock".into()), Duration::from_secs(10));
/// let error = engine.look().await.unwrap_err();
/// assert_eq!(error.to_string(), "unix:///no/docker.sock: list volumes: unavailable");
/// # });
/// ```
#[derive(Debug)]
pub struct DockerEngine {
    url: EngineUrl,
    name: String,
    timeout: Duration,
    client: OnceCell<Docker>,
}

impl DockerEngine {
    /// The engine at `url`, each of whose lists may take as long as `timeout`. Nothing is asked of it yet.
    #[must_use]
    pub fn open(url: &EngineUrl, timeout: Duration) -> Self {
        Self { url: url.clone(), name: url.to_string(), timeout, client: OnceCell::new() }
    }

    /// What a call answers, with the whole of its body, where that takes no longer than `limit`.
    async fn ask<'a, T, F>(
        &'a self,
        what: &'static str,
        limit: Duration,
        call: impl FnOnce(&'a Docker) -> F,
    ) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let answer = async { call(self.client.get_or_try_init(|| connect(&self.url)).await?).await };
        match timeout(limit, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(trouble::explain(&self.name, what, error)),
            Err(_) => Err(EngineError::TimedOut { engine: self.name.clone(), what, limit }),
        }
    }
}

#[async_trait]
impl Engine for DockerEngine {
    fn name(&self) -> &str {
        &self.name
    }

    async fn volumes(&self) -> Result<Vec<Volume>, EngineError> {
        const WHAT: &str = "list volumes";
        let list = self.ask(WHAT, self.timeout, |docker| docker.list_volumes(None::<ListVolumesOptions>)).await?;
        // A volume that is missing from the list would be taken for one that is gone.
        match list.warnings.unwrap_or_default().join("; ") {
            warnings if warnings.is_empty() => {}
            warnings => return Err(trouble::partial(&self.name, WHAT, &warnings)),
        }
        Ok(list.volumes.unwrap_or_default().into_iter().filter_map(seen::volume).collect())
    }

    async fn containers(&self) -> Result<Vec<Container>, EngineError> {
        let all = ListContainersOptionsBuilder::new().all(true).build();
        let list = self.ask("list containers", self.timeout, |docker| docker.list_containers(Some(all))).await?;
        Ok(list.into_iter().map(seen::container).collect())
    }

    async fn remove(&self, volume: &VolumeName, limit: Duration) -> Result<Removal, EngineError> {
        self.ask("remove a volume", limit, |docker| async move {
            match docker.remove_volume(volume.as_str(), None::<RemoveVolumeOptions>).await {
                Ok(()) => Ok(Removal::Removed),
                // Who else answers 404 knows nothing of volumes.
                Err(Error::DockerResponseServerError { status_code: 404, message })
                    if message.contains("no such volume") =>
                {
                    Ok(Removal::NotFound)
                }
                Err(Error::DockerResponseServerError { status_code: 409, message }) => Ok(Removal::Referenced(message)),
                Err(error) => Err(error),
            }
        })
        .await
    }
}

/// A client that has agreed with the engine on a version of the API, which proves that what answers is one.
async fn connect(url: &EngineUrl) -> Result<Docker, Error> {
    let docker = match url {
        EngineUrl::Unix(path) => {
            Docker::connect_with_unix(&path.to_string_lossy(), CLIENT_LIMIT_SECS, API_DEFAULT_VERSION)?
        }
        EngineUrl::Tcp { address, certs: None } => {
            Docker::connect_with_http(address, CLIENT_LIMIT_SECS, API_DEFAULT_VERSION)?
        }
        EngineUrl::Tcp { address, certs: Some(folder) } => connect_with_tls(address, folder)?,
    };
    docker.negotiate_version().await
}

fn connect_with_tls(address: &str, folder: &Path) -> Result<Docker, Error> {
    // The first call decides for the process; a provider that the program chose before is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let [ca, cert, key] = ["ca.pem", "cert.pem", "key.pem"].map(|file| folder.join(file));
    // The client itself would go on without a certificate where it cannot read one.
    for path in [&ca, &cert] {
        CertificateDer::from_pem_file(path).map_err(|_| Error::CertPathError { path: path.clone() })?;
    }
    PrivateKeyDer::from_pem_file(&key).map_err(|_| Error::CertPathError { path: key.clone() })?;
    Docker::connect_with_ssl(address, &key, &cert, &ca, CLIENT_LIMIT_SECS, API_DEFAULT_VERSION)
}
