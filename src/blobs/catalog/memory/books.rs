//! What a catalog in memory has written down.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};

use crate::blobs::{Blob, BlobError, BlobId, Digest, OpenTask, Ref, Released, State, Tag, Totals, catalog::Cutoffs};

#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) blobs: BTreeMap<BlobId, Blob>,
    pub(super) refs: BTreeMap<RefKey, Ref>,
    pub(super) tasks: BTreeMap<String, Task>,
    pub(super) inventory_at: Option<DateTime<Utc>>,
    /// How far the catalog's clock is ahead of its own; only tests move it.
    pub(super) ahead: Duration,
}

/// Task, attempt, name and blob: the order of a list.
pub(super) type RefKey = (String, u32, String, BlobId);

#[derive(Debug)]
pub(super) struct Task {
    pub(super) run: Option<String>,
    pub(super) attempt: u32,
    /// Up to which attempt all are over.
    pub(super) closed: u32,
    pub(super) seen_at: DateTime<Utc>,
}

impl Task {
    /// The time grows each time, so that who has read it knows whether the task was seen since.
    pub(super) fn seen(&mut self, now: DateTime<Utc>) {
        self.seen_at = now.max(self.seen_at + TimeDelta::milliseconds(1));
    }
}

impl Books {
    /// Whether the attempt may put and finalize.
    pub(super) fn check_open(&self, task: &str, attempt: u32) -> Result<(), BlobError> {
        match self.tasks.get(task) {
            Some(known) if attempt <= known.closed => {
                Err(BlobError::Closed { task: task.to_owned(), attempt, closed: known.closed })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn see(&mut self, id: &str, run: Option<&String>, attempt: u32, now: DateTime<Utc>) -> &mut Task {
        let task = self.tasks.entry(id.to_owned());
        let task = task.or_insert_with(|| Task { run: None, attempt, closed: 0, seen_at: DateTime::UNIX_EPOCH });
        task.seen(now);
        task.attempt = task.attempt.max(attempt);
        if let Some(run) = run {
            task.run = Some(run.clone());
        }
        task
    }

    pub(super) fn live_of(&self, digest: Digest) -> Option<BlobId> {
        self.blobs.values().find(|blob| blob.digest == digest && blob.state == State::Live).map(|blob| blob.id)
    }

    pub(super) fn refer(&mut self, id: BlobId, tag: &Tag, now: DateTime<Utc>) {
        let blob = self.blobs.get_mut(&id).expect("a blob that was just found");
        blob.zero_since = None;
        let key = (tag.task.clone(), tag.attempt, tag.name.clone(), id);
        let new =
            Ref { blob: id, digest: blob.digest, size: blob.size, tag: tag.clone(), created_at: now, is_final: false };
        self.refs.entry(key).or_insert(new);
    }

    /// It is to be deleted, by whoever comes.
    pub(super) fn claim(&mut self, id: BlobId, now: DateTime<Utc>) {
        let blob = self.blobs.get_mut(&id).expect("a blob that was just found");
        (blob.state, blob.next_at) = (State::Deleting, Some(now));
    }

    /// The ref, with what is known of its task by now.
    pub(super) fn shown(&self, it: &Ref) -> Ref {
        let run = self.run_of(it).cloned();
        Ref { tag: Tag { run, ..it.tag.clone() }, ..it.clone() }
    }

    pub(super) fn run_of(&self, it: &Ref) -> Option<&String> {
        self.tasks.get(&it.tag.task)?.run.as_ref()
    }

    pub(super) fn is_pending(&self, id: BlobId) -> bool {
        self.blobs.get(&id).is_some_and(|blob| blob.state == State::Pending)
    }

    pub(super) fn has_refs(&self, id: BlobId) -> bool {
        self.refs.keys().any(|(_, _, _, blob)| *blob == id)
    }

    pub(super) fn drop_refs(&mut self, goes: impl Fn(&Ref) -> bool, now: DateTime<Utc>) -> Released {
        let (gone, stay) =
            std::mem::take(&mut self.refs).into_iter().partition::<BTreeMap<_, _>, _>(|(_, it)| goes(it));
        self.refs = stay;
        let blobs = gone.values().map(|it| it.blob).collect::<HashSet<_>>();
        let mut released = Released { refs: gone.len() as u64, blobs: 0 };
        for id in blobs.into_iter().filter(|id| !self.has_refs(*id)).collect::<Vec<_>>() {
            if let Some(blob) = self.blobs.get_mut(&id).filter(|blob| blob.state == State::Live) {
                blob.zero_since = Some(now);
                released.blobs += 1;
            }
        }
        released
    }

    pub(super) fn close(&mut self, id: &str, attempt: u32, now: DateTime<Utc>) -> Released {
        let new = || Task { run: None, attempt, closed: 0, seen_at: now };
        let task = self.tasks.entry(id.to_owned()).or_insert_with(new);
        task.closed = task.closed.max(attempt);
        task.attempt = task.attempt.max(attempt);
        self.drop_refs(|it| it.tag.task == id && it.tag.attempt <= attempt && !it.is_final, now)
    }

    pub(super) fn open_task(&self, id: &str) -> Option<OpenTask> {
        let task = self.tasks.get(id)?;
        let is_open = self.refs.values().any(|it| it.tag.task == id && !it.is_final);
        let open = OpenTask { id: id.to_owned(), run: task.run.clone(), attempt: task.attempt, seen_at: task.seen_at };
        is_open.then_some(open)
    }

    pub(super) fn is_due(&self, blob: &Blob, cutoffs: Cutoffs) -> bool {
        match blob.state {
            State::Deleting => blob.next_at.is_none_or(|at| at <= cutoffs.retry),
            State::Pending => blob.touched_at < cutoffs.pending,
            State::Live => blob.zero_since.is_some_and(|at| at < cutoffs.unreferenced) && !self.has_refs(blob.id),
        }
    }

    pub(super) fn due(&self, cutoffs: Cutoffs) -> Vec<Blob> {
        let mut due = self.blobs.values().filter(|blob| self.is_due(blob, cutoffs)).cloned().collect::<Vec<_>>();
        due.sort_by_key(turn);
        due
    }
}

/// In which order blobs are due.
pub(super) fn turn(blob: &Blob) -> (u8, Option<DateTime<Utc>>, BlobId) {
    match blob.state {
        State::Deleting => (0, blob.next_at, blob.id),
        State::Pending => (1, Some(blob.touched_at), blob.id),
        State::Live => (2, blob.zero_since, blob.id),
    }
}

/// Counts blobs by their state; nothing refers to them.
pub(super) fn count(blobs: &[Blob]) -> Totals {
    let of = |state| blobs.iter().filter(|blob| blob.state == state).count() as u64;
    Totals {
        pending: of(State::Pending),
        live: of(State::Live),
        referenced: 0,
        deleting: of(State::Deleting),
        bytes: blobs.iter().map(|blob| blob.size).sum(),
    }
}
