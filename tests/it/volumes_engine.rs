//! The answers to the seam of a container engine: one in memory, and a real Docker Engine.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use apalis_janitor::{
    clock::SystemClock,
    config::{VolumeName, VolumesConfig},
    engine_conformance,
    jobs::volumes::{Fate, ThreadVolumes},
    ledger::memory::MemoryLedger,
    volumes::{
        Container, Engine, EngineError, Removal, User, Volume,
        conformance::{self, Subject, Usage},
        docker::DockerEngine,
        marks::memory::MemoryMarks,
        memory::{Bond, Fault, MemoryEngine},
    },
};
use async_trait::async_trait;

use crate::{
    blob_objects::hold,
    docker::{ANSWER_MAX, Dockerd, Mount, Options, State},
    volumes_random::config,
};

engine_conformance!(memory, async { InMemory(MemoryEngine::default()) });
engine_conformance!(docker, async { InDocker(Dockerd::shared().await) });

/// What an engine that answers nothing is given.
const SHORT: Duration = Duration::from_millis(200);

struct InMemory(MemoryEngine);

#[async_trait]
impl Subject for InMemory {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::new(self.0.clone())
    }

    async fn make(&self, volume: &VolumeName, labels: &BTreeMap<String, String>) {
        let created_at = Some(chrono::Utc::now());
        self.0.add_volume(Volume { name: volume.clone(), labels: labels.clone(), created_at, folder: None });
    }

    async fn contain(&self, container: &str, volume: &VolumeName, usage: Usage) {
        let (state, bond) = match usage {
            Usage::Created => ("created", Bond::Mount),
            Usage::Running => ("running", Bond::Mount),
            Usage::Exited => ("exited", Bond::Mount),
            Usage::SourceGone | Usage::Folder => ("created", Bond::Listed),
        };
        let user = User { id: container.to_owned(), name: container.to_owned(), state: state.to_owned() };
        self.0.add_user(volume, user, bond);
    }

    async fn discard(&self, container: &str) {
        self.0.remove_user(container);
    }

    async fn jam(&self, volume: &VolumeName) {
        let message = "operation not permitted".to_owned();
        self.0.set_fault_of(volume, Some(Fault::Fails { status: 500, message }));
    }

    async fn free(&self, volume: &VolumeName) {
        self.0.set_fault_of(volume, None);
    }
}

struct InDocker(&'static Dockerd);

#[async_trait]
impl Subject for InDocker {
    fn engine(&self) -> Arc<dyn Engine> {
        self.0.engine()
    }

    async fn make(&self, volume: &VolumeName, labels: &BTreeMap<String, String>) {
        self.0.make(volume.as_str(), labels).await;
    }

    async fn contain(&self, container: &str, volume: &VolumeName, usage: Usage) {
        let mount = Mount::Volume(volume.as_str());
        match usage {
            Usage::Created => self.0.contain(container, mount, State::Created).await,
            Usage::Running => self.0.contain(container, mount, State::Running).await,
            Usage::Exited => self.0.contain(container, mount, State::Exited).await,
            Usage::SourceGone => {
                let source = format!("{container}-source");
                self.0.contain(&source, mount, State::Created).await;
                self.0.contain(container, Mount::From(&source), State::Created).await;
                self.0.discard(&source).await;
            }
            Usage::Folder => {
                let folder = self.0.files_of(volume.as_str());
                self.0.contain(container, Mount::Folder(&folder), State::Created).await;
            }
        }
    }

    async fn discard(&self, container: &str) {
        self.0.discard(container).await;
    }

    async fn jam(&self, volume: &VolumeName) {
        let file = self.0.files_of(volume.as_str()).join("file");
        std::fs::write(&file, "stays").unwrap();
        hold(&file, true);
    }

    async fn free(&self, volume: &VolumeName) {
        hold(&self.0.files_of(volume.as_str()).join("file"), false);
    }
}

fn name(text: &str) -> VolumeName {
    text.parse().unwrap()
}

async fn made(server: &Dockerd, volume: &str) -> VolumeName {
    server.make(volume, &BTreeMap::new()).await;
    name(volume)
}

#[tokio::test]
async fn an_engine_that_is_killed_is_unavailable_and_comes_back_with_what_it_had() {
    let server = Dockerd::start().await;
    let (engine, volume) = (server.engine(), made(&server, "ha_ws_1").await);
    server.contain("runs", Mount::Volume("ha_ws_1"), State::Running).await;
    assert_eq!(engine.look().await.unwrap().users[&volume][0].state, "running");
    server.kill().await;
    for error in [engine.look().await.map(|_| ()), engine.remove(&volume, ANSWER_MAX).await.map(|_| ())] {
        let error = error.unwrap_err();
        assert!(matches!(error, EngineError::Unavailable { .. }) && error.ends_the_sweep(), "{error:?}");
    }
    server.restart().await;
    assert_eq!(engine.look().await.unwrap().users[&volume][0].state, "exited");
    assert!(matches!(engine.remove(&volume, ANSWER_MAX).await.unwrap(), Removal::Referenced(_)));
    server.discard("runs").await;
    assert_eq!(engine.remove(&volume, ANSWER_MAX).await.unwrap(), Removal::Removed);
}

#[tokio::test]
async fn an_engine_that_is_stopped_is_waited_for_as_long_as_was_said() {
    let server = Dockerd::start().await;
    let (engine, volume) = (server.engine(), made(&server, "ha_ws_1").await);
    engine.look().await.unwrap();
    let impatient = DockerEngine::open(&server.url(), SHORT);
    server.stop();
    let answers = async {
        let looked = impatient.look().await.map(|_| ());
        // A client that the engine has answered before, and one that it has not.
        let removed = engine.remove(&volume, SHORT).await.map(|_| ());
        [looked, removed, impatient.remove(&volume, SHORT).await.map(|_| ())]
    };
    for answer in tokio::time::timeout(ANSWER_MAX, answers).await.expect("an end") {
        let error = answer.unwrap_err();
        assert!(matches!(error, EngineError::TimedOut { limit: SHORT, .. }) && error.ends_the_sweep(), "{error:?}");
        assert!(error.to_string().ends_with(": no answer within 200ms"), "{error}");
    }
    server.go_on();
    // It may still do what it was asked for, and nobody waits for.
    engine.remove(&volume, ANSWER_MAX).await.unwrap();
    assert_eq!(engine.remove(&volume, ANSWER_MAX).await.unwrap(), Removal::NotFound);
}

#[tokio::test]
async fn the_list_shows_references_that_the_engine_itself_disregards() {
    let subject = InDocker(Dockerd::shared().await);
    for (volume, usage) in [("missed_source", Usage::SourceGone), ("missed_folder", Usage::Folder)] {
        let volume = made(subject.0, volume).await;
        subject.contain(&format!("{volume}-user"), &volume, usage).await;
        assert_eq!(subject.engine().look().await.unwrap().users[&volume].len(), 1, "{usage:?}");
        // Why a volume that the list shows a user of must not even be asked for.
        assert_eq!(subject.engine().remove(&volume, ANSWER_MAX).await.unwrap(), Removal::Removed, "{usage:?}");
    }
}

#[tokio::test]
async fn two_thousand_volumes_are_listed_with_their_users() {
    let server = Dockerd::start_with(Options { is_silent: true, ..Options::default() }).await;
    let mut names: Vec<_> = (0..2_000).map(|number| format!("ha_ws_{number}")).collect();
    server.make_all(names.clone()).await;
    server.contain("one", Mount::Volume("ha_ws_1"), State::Created).await;
    server.contain("two", Mount::Volume("ha_ws_1999"), State::Created).await;
    let look = server.engine().look().await.unwrap();
    let mut listed: Vec<_> = look.volumes.iter().map(|volume| volume.name.to_string()).collect();
    names.sort();
    listed.sort();
    assert_eq!(listed, names);
    let mut used: Vec<_> = look.users.iter().map(|(volume, users)| (volume.as_str(), users[0].name.as_str())).collect();
    used.sort_unstable();
    assert_eq!(used, [("ha_ws_1", "one"), ("ha_ws_1999", "two")]);
}

#[tokio::test]
async fn an_engine_tells_who_was_asked_for_and_who_went() {
    let server = Dockerd::shared().await;
    let engine = server.engine();
    let (volumes, absent) = (["told_1", "told_2"], name("told_3"));
    let mut removals = server.removals().await;
    for volume in volumes {
        let volume = made(server, volume).await;
        assert_eq!(engine.remove(&volume, ANSWER_MAX).await.unwrap(), Removal::Removed);
    }
    assert_eq!(engine.remove(&absent, ANSWER_MAX).await.unwrap(), Removal::NotFound);
    assert_eq!(server.asked("told_"), ["told_1", "told_2", "told_3"]);
    assert_eq!(removals.until_now("told_").await, volumes);
    assert_eq!(removals.until_now("told_").await, Vec::<String>::new());
    assert_eq!(server.volumes("told_").await, Vec::<String>::new());
}

/// A real engine in which somebody mounts each volume when its removal has been decided on, and not yet asked for.
#[derive(Debug)]
struct Taken {
    server: &'static Dockerd,
    engine: Arc<dyn Engine>,
}

#[async_trait]
impl Engine for Taken {
    fn name(&self) -> &str {
        self.engine.name()
    }

    async fn volumes(&self) -> Result<Vec<Volume>, EngineError> {
        self.engine.volumes().await
    }

    async fn containers(&self) -> Result<Vec<Container>, EngineError> {
        self.engine.containers().await
    }

    async fn remove(&self, volume: &VolumeName, limit: Duration) -> Result<Removal, EngineError> {
        self.server.contain(&format!("{volume}-user"), Mount::Volume(volume.as_str()), State::Created).await;
        self.engine.remove(volume, limit).await
    }
}

#[tokio::test]
async fn a_volume_that_is_mounted_between_list_and_removal_stays_and_has_no_mark() {
    let server = Dockerd::shared().await;
    let (name, marks) = (conformance::name("1"), MemoryMarks::default());
    server.make(name.as_str(), &BTreeMap::new()).await;
    marks.set("1", true).await;
    let volume = name.as_str().trim_end_matches('1').to_owned() + "{id}";
    let volumes = ThreadVolumes {
        engine: Arc::new(Taken { server, engine: server.engine() }),
        marks: Arc::new(marks.clone()),
        ledger: Arc::new(MemoryLedger::default()),
        key: "volumes".to_owned(),
        clock: Arc::new(SystemClock),
        config: VolumesConfig { volume: volume.parse().unwrap(), ..config(Path::new("/no/threads.db")) },
    };
    let fate = volumes.remove("1").await.unwrap();
    assert!(matches!(&fate, Fate::Referenced(why) if why.contains("volume is in use")), "{fate:?}");
    assert_eq!((server.volumes(name.as_str()).await, marks.marks()), (vec![name.to_string()], 0));
    server.discard(&format!("{name}-user")).await;
    assert_eq!(server.engine().remove(&name, ANSWER_MAX).await.unwrap(), Removal::Removed);
}
