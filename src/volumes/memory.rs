//! An engine in memory, for tests: it does wrong what it is told to do wrong, and counts what it is asked for.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::{self, Debug},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::future::BoxFuture;

use super::{Container, Engine, EngineError, Removal, User, Volume};
use crate::config::VolumeName;

const NAME: &str = "memory";
/// How long a list that hangs is waited for.
const LOOK_MAX: Duration = Duration::from_secs(10);

/// How a container refers to a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bond {
    /// It mounts it: both the list and the removal say so.
    Mount,
    /// It binds the volume's folder, or mounts what a container mounted that is gone: the list says so, and the removal
    /// goes on.
    Listed,
}

/// What an engine does wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It answers with an error.
    Fails {
        /// The HTTP status.
        status: u16,
        /// What it says.
        message: String,
    },
    /// It gives no answer, and does nothing.
    Hangs,
    /// It gives no answer, but does what it was asked for.
    HangsLate,
    /// It cannot be reached.
    Down,
}

/// What is waited for before a removal.
type Hook = Arc<dyn Fn(VolumeName) -> BoxFuture<'static, ()> + Send + Sync>;

/// An engine that is kept in memory. A clone is the same engine.
///
/// ```
/// use std::time::Duration;
/// use apalis_janitor::volumes::{Engine, Removal, memory::MemoryEngine};
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let (engine, name) = (MemoryEngine::default(), "ha_ws_1".parse().unwrap());
/// engine.add(&name);
/// assert_eq!(engine.remove(&name, Duration::from_secs(1)).await.unwrap(), Removal::Removed);
/// assert_eq!(engine.remove(&name, Duration::from_secs(1)).await.unwrap(), Removal::NotFound);
/// assert_eq!((engine.asked().len(), engine.removed().len()), (2, 1));
/// # });
/// ```
#[derive(Clone, Default)]
pub struct MemoryEngine(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    volumes: BTreeMap<VolumeName, Volume>,
    users: HashMap<VolumeName, Vec<(User, Bond)>>,
    /// What goes wrong with the removal of a volume.
    faults: HashMap<VolumeName, Fault>,
    /// What goes wrong with everything.
    fault: Option<Fault>,
    hook: Option<Hook>,
    asked: Vec<VolumeName>,
    removed: Vec<VolumeName>,
}

impl Debug for MemoryEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("MemoryEngine")
            .field("volumes", &state.volumes.keys())
            .field("users", &state.users)
            .field("asked", &state.asked)
            .finish_non_exhaustive()
    }
}

impl MemoryEngine {
    /// Makes a volume that has no label and is as old as nobody knows.
    pub fn add(&self, name: &VolumeName) {
        self.add_volume(Volume { name: name.clone(), labels: BTreeMap::new(), created_at: None, folder: None });
    }

    /// Makes a volume that was made then.
    pub fn add_aged(&self, name: &VolumeName, created_at: DateTime<Utc>) {
        let (name, created_at) = (name.clone(), Some(created_at));
        self.add_volume(Volume { name, labels: BTreeMap::new(), created_at, folder: None });
    }

    /// Makes a volume, in place of one that has its name.
    pub fn add_volume(&self, volume: Volume) {
        self.state().volumes.insert(volume.name.clone(), volume);
    }

    /// Takes a volume away, as somebody else would; answers whether it was there.
    #[must_use]
    pub fn lose(&self, name: &VolumeName) -> bool {
        self.state().volumes.remove(name).is_some()
    }

    /// Whether it has the volume.
    #[must_use]
    pub fn has(&self, name: &VolumeName) -> bool {
        self.state().volumes.contains_key(name)
    }

    /// Makes a container that refers to the volume.
    pub fn add_user(&self, volume: &VolumeName, user: User, bond: Bond) {
        self.state().users.entry(volume.clone()).or_default().push((user, bond));
    }

    /// Removes a container.
    pub fn remove_user(&self, id: &str) {
        let mut state = self.state();
        state.users.values_mut().for_each(|users| users.retain(|(user, _)| user.id != id));
        state.users.retain(|_, users| !users.is_empty());
    }

    /// What goes wrong with the removal of this volume from now on; `None`: nothing.
    pub fn set_fault_of(&self, volume: &VolumeName, fault: Option<Fault>) {
        match fault {
            Some(fault) => self.state().faults.insert(volume.clone(), fault),
            None => self.state().faults.remove(volume),
        };
    }

    /// What goes wrong with everything from now on; `None`: nothing.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.state().fault = fault;
    }

    /// What each removal waits for, after it was asked for and before anything is looked at.
    pub fn before_removal(&self, hook: impl Fn(VolumeName) -> BoxFuture<'static, ()> + Send + Sync + 'static) {
        self.state().hook = Some(Arc::new(hook));
    }

    /// The volumes whose removal was asked for, in turn, as often as it was.
    #[must_use]
    pub fn asked(&self) -> Vec<VolumeName> {
        self.state().asked.clone()
    }

    /// The volumes that were removed, in turn, as often as they were.
    #[must_use]
    pub fn removed(&self) -> Vec<VolumeName> {
        self.state().removed.clone()
    }

    /// Whether a list can be had.
    async fn listed(&self, what: &'static str) -> Result<(), EngineError> {
        let fault = self.state().fault.clone();
        match fault {
            Some(fault) => Err(error(fault, what, LOOK_MAX).await),
            None => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The guarded values are plain: a panic elsewhere cannot leave them half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remove(&mut self, volume: &VolumeName) -> Removal {
        let mut users = self.users.get(volume).into_iter().flatten();
        if let Some((user, _)) = users.find(|(_, bond)| *bond == Bond::Mount) {
            return Removal::Referenced(format!("remove {volume}: volume is in use - [{}]", user.id));
        }
        if self.volumes.remove(volume).is_none() {
            return Removal::NotFound;
        }
        self.removed.push(volume.clone());
        Removal::Removed
    }
}

/// The error that a fault is, after as long as it takes.
async fn error(fault: Fault, what: &'static str, limit: Duration) -> EngineError {
    let engine = NAME.to_owned();
    match fault {
        Fault::Fails { status, message } => EngineError::Failed { engine, what, status, message },
        Fault::Hangs | Fault::HangsLate => {
            tokio::time::sleep(limit).await;
            EngineError::TimedOut { engine, what, limit }
        }
        Fault::Down => EngineError::Unavailable { engine, what, source: "it is down".into() },
    }
}

#[async_trait]
impl Engine for MemoryEngine {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn volumes(&self) -> Result<Vec<Volume>, EngineError> {
        self.listed("list volumes").await?;
        Ok(self.state().volumes.values().cloned().collect())
    }

    async fn containers(&self) -> Result<Vec<Container>, EngineError> {
        self.listed("list containers").await?;
        let state = self.state();
        let container = |volume: &VolumeName, (user, _): &(User, Bond)| Container {
            user: user.clone(),
            volumes: vec![volume.clone()],
            sources: Vec::new(),
        };
        let of_volume = |(volume, users): (&VolumeName, &Vec<_>)| -> Vec<_> {
            users.iter().map(|user| container(volume, user)).collect()
        };
        Ok(state.users.iter().flat_map(of_volume).collect())
    }

    async fn remove(&self, volume: &VolumeName, limit: Duration) -> Result<Removal, EngineError> {
        let hook = {
            let mut state = self.state();
            state.asked.push(volume.clone());
            state.hook.clone()
        };
        if let Some(hook) = hook {
            hook(volume.clone()).await;
        }
        let fault = {
            let mut state = self.state();
            let fault = state.fault.clone().or_else(|| state.faults.get(volume).cloned());
            match fault {
                None => return Ok(state.remove(volume)),
                Some(Fault::HangsLate) => {
                    state.remove(volume);
                    Fault::HangsLate
                }
                Some(fault @ (Fault::Fails { .. } | Fault::Hangs | Fault::Down)) => fault,
            }
        };
        Err(error(fault, "remove a volume", limit).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn engine() -> (MemoryEngine, VolumeName) {
        let (engine, name) = (MemoryEngine::default(), "ha_ws_1".parse().unwrap());
        engine.add(&name);
        (engine, name)
    }

    fn user() -> User {
        User { id: "1d".to_owned(), name: "one".to_owned(), state: "created".to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fault_is_what_it_is_called() {
        let (engine, name) = engine();
        engine.set_fault_of(&name, Some(Fault::Fails { status: 500, message: "stuck".to_owned() }));
        let failed = engine.remove(&name, LIMIT).await.unwrap_err();
        assert_eq!(failed.to_string(), "memory: remove a volume: stuck (status 500)");
        engine.set_fault_of(&name, Some(Fault::Down));
        assert!(matches!(engine.remove(&name, LIMIT).await, Err(EngineError::Unavailable { .. })));
        engine.set_fault_of(&name, Some(Fault::Hangs));
        let hung = engine.remove(&name, LIMIT).await;
        assert!(matches!(hung, Err(EngineError::TimedOut { limit: LIMIT, .. })), "{hung:?}");
        assert!(engine.has(&name) && engine.removed().is_empty());
        engine.set_fault_of(&name, Some(Fault::HangsLate));
        assert!(matches!(engine.remove(&name, LIMIT).await, Err(EngineError::TimedOut { .. })));
        assert!(!engine.has(&name));
        engine.set_fault_of(&name, None);
        assert_eq!(engine.remove(&name, LIMIT).await.unwrap(), Removal::NotFound);
        assert_eq!((engine.asked().len(), engine.removed()), (5, vec![name]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_fault_of_all_is_one_of_the_lists_too() {
        let (engine, name) = engine();
        engine.set_fault(Some(Fault::Hangs));
        assert!(matches!(engine.look().await, Err(EngineError::TimedOut { .. })));
        engine.set_fault(Some(Fault::Down));
        assert!(matches!(engine.look().await, Err(EngineError::Unavailable { .. })));
        assert!(matches!(engine.remove(&name, LIMIT).await, Err(EngineError::Unavailable { .. })));
        engine.set_fault(None);
        assert_eq!(engine.look().await.unwrap().volumes.len(), 1);
    }

    #[tokio::test]
    async fn what_happens_before_a_removal_is_seen_by_it() {
        let (engine, name) = engine();
        let other = engine.clone();
        engine.before_removal(move |volume| {
            let other = other.clone();
            Box::pin(async move { other.add_user(&volume, user(), Bond::Mount) })
        });
        let kept = Removal::Referenced("remove ha_ws_1: volume is in use - [1d]".to_owned());
        assert_eq!(engine.remove(&name, LIMIT).await.unwrap(), kept);
    }
}
