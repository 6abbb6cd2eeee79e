//! What every answer to [`Engine`] promises: [`engine_conformance!`](crate::engine_conformance) writes one test per case.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a suite fails by panicking")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{TimeDelta, Utc};

use super::{Engine, EngineError, Look, Removal, User, Volume};
use crate::config::VolumeName;

/// How long a removal may take.
const LIMIT: Duration = Duration::from_mins(1);
/// How far the engine's clock may be from ours.
const SKEW: TimeDelta = TimeDelta::minutes(5);
/// How many ask for the removal of one volume.
const ASKERS: usize = 8;

/// How a container refers to a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// It mounts it, and was never started.
    Created,
    /// It mounts it, and runs.
    Running,
    /// It mounts it, and has ended.
    Exited,
    /// It was never started, and mounts what another container mounted that is gone.
    SourceGone,
    /// It was never started, and mounts the folder that the volume is kept in.
    Folder,
}

impl Usage {
    const fn state(self) -> &'static str {
        match self {
            Self::Created | Self::SourceGone | Self::Folder => "created",
            Self::Running => "running",
            Self::Exited => "exited",
        }
    }
}

/// An engine, perhaps with volumes of others, and what others do to it.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The engine.
    fn engine(&self) -> Arc<dyn Engine>;

    /// Makes a volume.
    async fn make(&self, volume: &VolumeName, labels: &BTreeMap<String, String>);

    /// Makes a container of this name that refers to the volume.
    async fn contain(&self, container: &str, volume: &VolumeName, usage: Usage);

    /// Removes a container, whatever it does.
    async fn discard(&self, container: &str);

    /// Makes the volume one that the engine cannot remove, though nobody refers to it.
    async fn jam(&self, volume: &VolumeName);

    /// The end of a [`jam`](Self::jam).
    async fn free(&self, volume: &VolumeName);
}

/// Writes one `#[tokio::test]` for each promise of the suite, in a module of the given name.
///
/// The expression is a future of a [`Subject`](crate::volumes::conformance::Subject).
#[macro_export]
macro_rules! engine_conformance {
    ($answer:ident, $subject:expr) => {
        $crate::engine_conformance! { @cases $answer, $subject;
            lists_a_volume_with_its_labels_and_its_age
            lists_no_user_where_there_is_none
            lists_a_container_in_whatever_state
            lists_all_containers_of_a_volume
            lists_a_container_whose_source_is_gone
            lists_a_container_that_mounts_the_folder
            removes_a_volume_once
            removes_a_volume_that_was_made_again
            removes_a_volume_once_though_many_ask
            removes_the_volume_of_that_name_only
            keeps_what_a_container_mounts_in_whatever_state
            keeps_what_is_mounted_since_the_list
            says_what_stands_in_the_way_of_a_removal
        }
    };
    (@cases $answer:ident, $subject:expr; $($case:ident)*) => {
        mod $answer {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $case() {
                    $crate::volumes::conformance::$case(&$subject.await).await;
                }
            )*
        }
    };
}

/// A name that nobody else uses, with this at its end.
#[must_use]
pub fn name(end: &str) -> VolumeName {
    format!("suite_{}_{end}", ulid::Ulid::generate()).parse().unwrap()
}

async fn made(subject: &impl Subject) -> VolumeName {
    let name = name("1");
    subject.make(&name, &BTreeMap::new()).await;
    name
}

async fn look(subject: &impl Subject) -> Look {
    subject.engine().look().await.unwrap()
}

async fn remove(subject: &impl Subject, volume: &VolumeName) -> Removal {
    subject.engine().remove(volume, LIMIT).await.unwrap()
}

fn is_listed(look: &Look, volume: &VolumeName) -> bool {
    look.volumes.iter().any(|listed| listed.name == *volume)
}

/// Who refers to the volume, by name and state.
fn users(look: &Look, volume: &VolumeName) -> Vec<(String, String)> {
    let mut users = look.users.get(volume).cloned().unwrap_or_default();
    assert!(users.iter().all(|user| !user.id.is_empty()), "{users:?}");
    users.sort_by(|one, other| one.name.cmp(&other.name));
    users.into_iter().map(|User { name, state, .. }| (name, state)).collect()
}

/// That one container refers to the volume so, and is listed.
async fn lists_the_one(subject: &impl Subject, usage: Usage) {
    let volume = made(subject).await;
    let container = format!("{volume}-user");
    subject.contain(&container, &volume, usage).await;
    let look = look(subject).await;
    assert!(is_listed(&look, &volume), "{usage:?}");
    assert_eq!(users(&look, &volume), [(container.clone(), usage.state().to_owned())], "{usage:?}");
    subject.discard(&container).await;
}

/// See the name.
pub async fn lists_a_volume_with_its_labels_and_its_age(subject: &impl Subject) {
    let (plain, labelled) = (name("1"), name("2"));
    let labels = BTreeMap::from([("app".to_owned(), "a=b c".to_owned()), ("empty".to_owned(), String::new())]);
    subject.make(&plain, &BTreeMap::new()).await;
    subject.make(&labelled, &labels).await;
    let look = look(subject).await;
    let found = |name: &VolumeName| -> Volume {
        let mut found = look.volumes.iter().filter(|volume| volume.name == *name);
        let volume = found.next().unwrap().clone();
        assert_eq!(found.next(), None, "it is listed twice");
        volume
    };
    assert_eq!(found(&plain).labels, BTreeMap::new());
    assert_eq!(found(&labelled).labels, labels);
    let age = Utc::now() - found(&plain).created_at.unwrap();
    assert!(age.abs() < SKEW, "{age} old");
}

/// See the name.
pub async fn lists_no_user_where_there_is_none(subject: &impl Subject) {
    let volume = made(subject).await;
    assert_eq!(look(subject).await.users.get(&volume), None);
    let container = format!("{volume}-user");
    subject.contain(&container, &volume, Usage::Exited).await;
    subject.discard(&container).await;
    assert_eq!(look(subject).await.users.get(&volume), None);
}

/// See the name.
pub async fn lists_a_container_in_whatever_state(subject: &impl Subject) {
    for usage in [Usage::Created, Usage::Running, Usage::Exited] {
        lists_the_one(subject, usage).await;
    }
}

/// See the name.
pub async fn lists_all_containers_of_a_volume(subject: &impl Subject) {
    let (volume, other) = (made(subject).await, made(subject).await);
    let containers = [format!("{volume}-a"), format!("{volume}-b"), format!("{volume}-c")];
    subject.contain(&containers[0], &volume, Usage::Created).await;
    subject.contain(&containers[1], &other, Usage::Created).await;
    subject.contain(&containers[2], &volume, Usage::Exited).await;
    let look = look(subject).await;
    let expected = [(containers[0].clone(), "created".to_owned()), (containers[2].clone(), "exited".to_owned())];
    assert_eq!(users(&look, &volume), expected);
    assert_eq!(users(&look, &other), [(containers[1].clone(), "created".to_owned())]);
}

/// See the name.
pub async fn lists_a_container_whose_source_is_gone(subject: &impl Subject) {
    lists_the_one(subject, Usage::SourceGone).await;
}

/// See the name.
pub async fn lists_a_container_that_mounts_the_folder(subject: &impl Subject) {
    lists_the_one(subject, Usage::Folder).await;
}

/// See the name.
pub async fn removes_a_volume_once(subject: &impl Subject) {
    let volume = made(subject).await;
    assert_eq!(remove(subject, &volume).await, Removal::Removed);
    assert!(!is_listed(&look(subject).await, &volume));
    assert_eq!(remove(subject, &volume).await, Removal::NotFound);
    assert_eq!(remove(subject, &name("never")).await, Removal::NotFound);
}

/// See the name.
pub async fn removes_a_volume_that_was_made_again(subject: &impl Subject) {
    let volume = made(subject).await;
    assert_eq!(remove(subject, &volume).await, Removal::Removed);
    subject.make(&volume, &BTreeMap::new()).await;
    assert!(is_listed(&look(subject).await, &volume));
    assert_eq!(remove(subject, &volume).await, Removal::Removed);
    assert!(!is_listed(&look(subject).await, &volume));
}

/// See the name.
pub async fn removes_a_volume_once_though_many_ask(subject: &impl Subject) {
    let volume = made(subject).await;
    let asked = (0..ASKERS).map(|_| remove(subject, &volume));
    let mut removals = futures::future::join_all(asked).await;
    removals.retain(|removal| *removal != Removal::NotFound);
    assert_eq!(removals, [Removal::Removed]);
}

/// See the name.
pub async fn removes_the_volume_of_that_name_only(subject: &impl Subject) {
    let volume = name("1");
    let others = [format!("{volume}2"), format!("a{volume}"), format!("{volume}.1"), volume.as_str().to_lowercase()];
    let others = others.map(|other| other.parse::<VolumeName>().unwrap());
    for name in others.iter().chain([&volume]) {
        subject.make(name, &BTreeMap::new()).await;
    }
    assert_eq!(remove(subject, &volume).await, Removal::Removed);
    let look = look(subject).await;
    assert!(!is_listed(&look, &volume));
    for other in others {
        assert!(is_listed(&look, &other), "{other} went with {volume}");
    }
}

/// See the name.
pub async fn keeps_what_a_container_mounts_in_whatever_state(subject: &impl Subject) {
    for usage in [Usage::Created, Usage::Running, Usage::Exited] {
        let volume = made(subject).await;
        let container = format!("{volume}-user");
        subject.contain(&container, &volume, usage).await;
        let Removal::Referenced(told) = remove(subject, &volume).await else { panic!("{usage:?}: it went") };
        let id = &look(subject).await.users[&volume][0].id;
        assert!(told.contains(volume.as_str()) && told.contains(id), "{usage:?}: {told}");
        subject.discard(&container).await;
        assert_eq!(remove(subject, &volume).await, Removal::Removed, "{usage:?}");
    }
}

/// See the name.
pub async fn keeps_what_is_mounted_since_the_list(subject: &impl Subject) {
    let volume = made(subject).await;
    assert_eq!(look(subject).await.users.get(&volume), None);
    let container = format!("{volume}-user");
    subject.contain(&container, &volume, Usage::Created).await;
    assert!(matches!(remove(subject, &volume).await, Removal::Referenced(_)));
    assert!(is_listed(&look(subject).await, &volume));
}

/// See the name.
pub async fn says_what_stands_in_the_way_of_a_removal(subject: &impl Subject) {
    let (jammed, other) = (made(subject).await, made(subject).await);
    subject.jam(&jammed).await;
    let failed = subject.engine().remove(&jammed, LIMIT).await.unwrap_err();
    let EngineError::Failed { engine, status: 500, message, .. } = &failed else { panic!("{failed:?}") };
    assert!(engine == subject.engine().name() && !message.is_empty(), "{failed}");
    assert!(!failed.ends_the_sweep());
    assert!(is_listed(&look(subject).await, &jammed));
    assert_eq!(remove(subject, &other).await, Removal::Removed);
    subject.free(&jammed).await;
    assert_eq!(remove(subject, &jammed).await, Removal::Removed);
    assert!(!is_listed(&look(subject).await, &jammed));
}
