//! Volumes of a container engine, and the marks in a table of threads that say which are gone.
//!
//! A thread has one volume, whose name follows from the thread's id. After the thread is closed the volume goes, once, and
//! the table says so, so that neither the next sweep nor a restart tries again. The rules:
//!
//! 1. A volume goes only where the engine's list of containers shows no reference **and** its unforced removal agrees:
//!    either alone misses some.
//! 2. Who removes a volume [holds](Marks::hold) the row of its thread meanwhile: a thread that is opened again is either
//!    seen to be open, and keeps its volume, or waits until volume and mark are settled.
//! 3. Removed, or found to be gone: marked. Referenced, failed, or no answer: not marked, and tried again later.

#[cfg(feature = "test-util")]
pub mod conformance;
pub mod demo;
#[cfg(feature = "docker")]
pub mod docker;
pub mod marks;
#[cfg(feature = "test-util")]
pub mod memory;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Debug,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

pub use self::marks::{Hold, Marks, MarksError, Thread};
use crate::config::{EngineUrl, VolumeName};

/// A volume as the engine lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: VolumeName,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made, where the engine says so.
    pub created_at: Option<DateTime<Utc>>,
    /// The folder of the engine's host that has nothing but this volume in it, where the engine says so.
    pub folder: Option<PathBuf>,
}

/// A container as the engine lists it, running or not, with what it mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Who it is.
    pub user: User,
    /// The volumes that it mounts, by name.
    pub volumes: Vec<VolumeName>,
    /// The files and folders of the engine's host that it mounts.
    pub sources: Vec<PathBuf>,
}

/// A container that refers to a volume, running or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The container's id.
    pub id: String,
    /// Its name, without a slash.
    pub name: String,
    /// What it does: `created`, `running`, `paused`, `exited`, …
    pub state: String,
}

/// What an engine has, by one list of volumes and one of containers.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Every volume whose name can be one of ours.
    pub volumes: Vec<Volume>,
    /// The containers that refer to a volume, whether they mount it or the folder that it is kept in.
    pub users: HashMap<VolumeName, Vec<User>>,
}

impl Look {
    /// What two lists say together. A container refers to a volume where it mounts it, or the folder that it is kept in, or
    /// something in that: of the latter the engine knows nothing.
    #[must_use]
    pub fn of(volumes: Vec<Volume>, containers: Vec<Container>) -> Self {
        let mut users: HashMap<_, Vec<_>> = HashMap::new();
        {
            let mut folders: HashMap<&Path, Vec<&VolumeName>> = HashMap::new();
            for volume in &volumes {
                if let Some(folder) = &volume.folder {
                    folders.entry(folder).or_default().push(&volume.name);
                }
            }
            for Container { user, volumes, sources } in containers {
                let above = sources.iter().flat_map(|source| source.ancestors());
                let within = above.filter_map(|folder| folders.get(folder)).flatten().copied();
                for volume in volumes.iter().chain(within).collect::<BTreeSet<_>>() {
                    users.entry(volume.clone()).or_default().push(user.clone());
                }
            }
        }
        Self { volumes, users }
    }
}

/// What became of a volume that was to be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It is gone, by this call.
    Removed,
    /// It was gone before.
    NotFound,
    /// A container refers to it: what the engine says.
    Referenced(String),
}

/// Why an engine did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// It cannot be reached, or broke off: nothing more can be asked of it now.
    #[error("{engine}: {what}: unavailable")]
    Unavailable {
        /// The engine.
        engine: String,
        /// What was not done.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It gave no answer in time: nothing more can be asked of it now.
    #[error("{engine}: {what}: no answer within {limit:?}")]
    TimedOut {
        /// The engine.
        engine: String,
        /// What was not done.
        what: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
    /// It answered with an error, which concerns what was asked only.
    #[error("{engine}: {what}: {message} (status {status})")]
    Failed {
        /// The engine.
        engine: String,
        /// What was not done.
        what: &'static str,
        /// The HTTP status.
        status: u16,
        /// What it says.
        message: String,
    },
}

impl EngineError {
    /// Whether the next call would fare no better.
    #[must_use]
    pub const fn ends_the_sweep(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::TimedOut { .. })
    }
}

/// A container engine. Each answer keeps the promises of the suite in `volumes::conformance`.
#[async_trait]
pub trait Engine: Send + Sync + Debug {
    /// The engine as configured, without a secret.
    fn name(&self) -> &str;

    /// Its volumes: every one whose name can be one of ours.
    async fn volumes(&self) -> Result<Vec<Volume>, EngineError>;

    /// Its containers, in whatever state.
    async fn containers(&self) -> Result<Vec<Container>, EngineError>;

    /// Its volumes and who refers to them, by both lists at once.
    async fn look(&self) -> Result<Look, EngineError> {
        let (volumes, containers) = futures::try_join!(self.volumes(), self.containers())?;
        Ok(Look::of(volumes, containers))
    }

    /// Removes a volume, unforced, within `limit`.
    async fn remove(&self, volume: &VolumeName, limit: Duration) -> Result<Removal, EngineError>;
}

/// Opens the engine that a job names, which has as long as `timeout` for its lists. Nothing is asked of it yet.
#[allow(clippy::unused_async, reason = "an engine of another kind may have to be asked for something first")]
pub async fn open(config: &EngineUrl, timeout: Duration) -> Result<Arc<dyn Engine>, EngineError> {
    #[cfg(feature = "docker")]
    {
        Ok(Arc::new(docker::DockerEngine::open(config, timeout)))
    }
    // A configuration cannot be read that names one.
    #[cfg(not(feature = "docker"))]
    {
        let _ = timeout;
        let (engine, source) = (config.to_string(), "built without `docker`: rebuild with --features docker".into());
        Err(EngineError::Unavailable { engine, what: "open", source })
    }
}
