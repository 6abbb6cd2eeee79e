//! All runs of the store as one scan found them: what is paged, and what is below what.
//!
//! Nothing in the folder has an order or an index, so each sweep reads each run once. An entry takes about 200 bytes.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

use super::{
    folder::{Folder, SHARE, by_several, file_name},
    json, lock,
};
use crate::runs::{Cursor, Page, Seen, Stamp, StoreError};

/// What the name of a run's file ends in.
pub(super) const RUN: &str = ".json";
/// What the name of a lock's file ends in.
pub(super) const LOCK: &str = ".lock";
/// The longest that a file which cannot be read is waited for: PyWorkflow writes it in place, under its lock.
const WRITER_WAIT_MAX: Duration = Duration::from_millis(100);

/// A run's file, as it was read.
#[derive(Debug)]
pub(super) enum Record {
    /// It is not there.
    Absent,
    /// Another has it in his hands.
    Busy,
    /// It is no whole run, or none of that name. It may name a parent nevertheless.
    Unreadable(Option<String>),
    /// A run.
    Run(Seen),
}

/// Reads the run `id`. A file that is being written is waited for, but not for long.
pub(super) fn read(folder: &Folder, locks: &Folder, id: &str) -> Result<Record, StoreError> {
    let record = parse(folder, id)?;
    let Some(name) = file_name("", id, LOCK).filter(|_| matches!(record, Record::Unreadable(_))) else {
        return Ok(record);
    };
    match lock::ask(locks, &name, Instant::now() + WRITER_WAIT_MAX)? {
        lock::Asked::Busy => Ok(Record::Busy),
        // What cannot be read now either nobody is writing.
        lock::Asked::Held(_) | lock::Asked::Absent => parse(folder, id),
    }
}

/// Reads the run `id` as its file is at the moment.
pub(super) fn parse(folder: &Folder, id: &str) -> Result<Record, StoreError> {
    let Some(text) = folder.read(&[id, RUN].concat())? else { return Ok(Record::Absent) };
    let run = json::fields(&text, ["run_id", "status", "workflow_name", "created_at", "updated_at", "parent_run_id"]);
    let seen = || {
        let [of, status, workflow, created_at, updated_at, parent] = run?;
        // A time that is no text is no time.
        let stamp = |value| Stamp::read(json::text(value).unwrap_or_default());
        let seen = Seen {
            id: json::text(of).ok()??,
            status: json::text(status).ok()??,
            updated_at: stamp(updated_at),
            created_at: stamp(created_at),
            workflow: json::text(workflow).ok()?.unwrap_or_default(),
            parent: json::text(parent).ok()?,
        };
        (seen.id == id).then_some(seen)
    };
    Ok(seen().map_or_else(|| Record::Unreadable(parent_in(&text)), Record::Run))
}

/// The parent that a broken file names.
fn parent_in(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let (_, after) = text.split_once("\"parent_run_id\"")?;
    let value = after.trim_start().strip_prefix(':')?.trim_start();
    serde_json::Deserializer::from_str(value).into_iter::<String>().next()?.ok()
}

/// A run in little room: its texts stand behind each other.
#[derive(Debug)]
struct Entry {
    /// In microseconds; none where it is no time.
    created: Option<i64>,
    texts: Box<str>,
    /// Where the id, the creation and the last update end; what follows is the parent.
    ends: [u32; 3],
    has: Has,
    status: u32,
    workflow: u32,
}

/// Which of the texts are there.
#[derive(Clone, Copy, Debug)]
struct Has {
    created: bool,
    updated: bool,
    parent: bool,
}

impl Entry {
    fn text(&self, at: usize) -> &str {
        let start = if at == 0 { 0 } else { self.ends[at - 1] as usize };
        let end = self.ends.get(at).map_or(self.texts.len(), |end| *end as usize);
        &self.texts[start..end]
    }

    fn id(&self) -> &str {
        self.text(0)
    }

    fn key(&self) -> (Option<i64>, &str) {
        (self.created, self.id())
    }
}

/// The few different words that many entries name.
#[derive(Debug, Default)]
struct Words {
    numbers: HashMap<String, u32>,
    words: Vec<String>,
}

impl Words {
    fn number(&mut self, word: String) -> u32 {
        let next = u32::try_from(self.words.len()).expect("an index has fewer than 4 billion runs");
        *self.numbers.entry(word).or_insert_with_key(|word| {
            self.words.push(word.clone());
            next
        })
    }

    fn word(&self, number: u32) -> String {
        self.words[number as usize].clone()
    }
}

/// The runs of the store.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: Vec<Entry>,
    words: Words,
    /// Those with a time of creation, the latest first.
    order: Vec<u32>,
    /// By parent, in the order of ids.
    below: BTreeMap<Box<str>, Vec<u32>>,
    /// The inode of each run that stands, by a hash of its id; 0 where it is to be read again. Two ids of one hash would
    /// make a run stay, and that once in 10^19 pairs.
    standing: HashMap<u64, u64>,
    hasher: RandomState,
    unpaged: u64,
}

/// How many runs may have any parent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unread {
    /// They are no whole runs, and nobody is writing them.
    pub(super) unreadable: u64,
    /// Another has them in his hands.
    pub(super) busy: u64,
}

impl Index {
    /// Reads all runs in `folders`.
    pub(super) fn scan<'a>(folders: impl IntoIterator<Item = &'a Folder>, locks: &Folder) -> Result<Self, StoreError> {
        let mut this = Self::default();
        for folder in folders {
            let new = this.add_new(folder, locks)?;
            this.unpaged += new.unreadable + new.busy;
        }
        let timed = (0..).zip(&this.entries).filter(|(_, entry)| entry.created.is_some());
        let mut order: Vec<u32> = timed.map(|(at, _)| at).collect();
        order.sort_unstable_by(|one, other| this.entry(*other).key().cmp(&this.entry(*one).key()));
        this.unpaged += (this.entries.len() - order.len()) as u64;
        this.order = order;
        Ok(this)
    }

    /// Reads the runs of `folder` that are not known: they are below their parents, but on no page.
    pub(super) fn add_new(&mut self, folder: &Folder, locks: &Folder) -> Result<Unread, StoreError> {
        let (mut new, mut unread) = (Vec::new(), Unread::default());
        folder.each_name(|name, inode| {
            let id = name.strip_suffix(RUN);
            new.extend(id.filter(|id| !self.knows(id, inode)).map(|id| (id.to_owned(), inode)));
        })?;
        let records = by_several(&new, SHARE, |(id, _)| read(folder, locks, id));
        for ((id, inode), record) in new.into_iter().zip(records) {
            let hash = self.hash(&id);
            match record? {
                Record::Absent => {}
                Record::Busy => {
                    unread.busy += 1;
                    self.standing.insert(hash, 0);
                }
                Record::Unreadable(None) => {
                    unread.unreadable += 1;
                    self.standing.insert(hash, 0);
                }
                Record::Unreadable(parent) => {
                    self.standing.insert(hash, inode);
                    let (status, workflow, stamp) = (String::new(), String::new(), Stamp::default);
                    self.add(Seen { id, parent, status, workflow, created_at: stamp(), updated_at: stamp() });
                }
                Record::Run(seen) => {
                    self.standing.insert(hash, inode);
                    self.add(seen);
                }
            }
        }
        Ok(unread)
    }

    fn add(&mut self, seen: Seen) {
        let Seen { id, status, updated_at, created_at, workflow, parent } = seen;
        let has =
            Has { created: created_at.raw.is_some(), updated: updated_at.raw.is_some(), parent: parent.is_some() };
        let texts = [&id, created_at.raw.as_deref().unwrap_or(""), updated_at.raw.as_deref().unwrap_or("")];
        let mut ends = [0; 3];
        let mut end = 0_usize;
        for (text, place) in texts.iter().zip(&mut ends) {
            end += text.len();
            *place = u32::try_from(end).unwrap_or(u32::MAX);
        }
        let texts = [texts[0], texts[1], texts[2], parent.as_deref().unwrap_or("")].concat().into_boxed_str();
        let (status, workflow) = (self.words.number(status), self.words.number(workflow));
        let created = created_at.instant.map(|at| at.timestamp_micros());
        let at = u32::try_from(self.entries.len()).expect("an index has fewer than 4 billion runs");
        if let Some(parent) = parent {
            let entries = &self.entries;
            let children = self.below.entry(parent.into_boxed_str()).or_default();
            let place = children.partition_point(|child| entries[*child as usize].id() <= id.as_str());
            children.insert(place, at);
        }
        self.entries.push(Entry { created, texts, ends, has, status, workflow });
    }

    fn entry(&self, at: u32) -> &Entry {
        &self.entries[at as usize]
    }

    fn seen(&self, entry: &Entry) -> Seen {
        let stamp = |is_there: bool, at| Stamp::read(is_there.then(|| entry.text(at).to_owned()));
        Seen {
            id: entry.id().to_owned(),
            status: self.words.word(entry.status),
            created_at: stamp(entry.has.created, 1),
            updated_at: stamp(entry.has.updated, 2),
            workflow: self.words.word(entry.workflow),
            parent: entry.has.parent.then(|| entry.text(3).to_owned()),
        }
    }

    fn hash(&self, id: &str) -> u64 {
        self.hasher.hash_one(id)
    }

    fn knows(&self, id: &str, inode: u64) -> bool {
        self.standing.get(&self.hash(id)) == Some(&inode) && inode != 0
    }

    /// Whether the run was there when it was last looked.
    pub(super) fn stands(&self, id: &str) -> bool {
        self.standing.contains_key(&self.hash(id))
    }

    /// The run is gone.
    pub(super) fn forget(&mut self, id: &str) {
        self.standing.remove(&self.hash(id));
    }

    /// How many runs can be read.
    pub(super) const fn count(&self) -> usize {
        self.entries.len()
    }

    /// How many runs are on no page: their files cannot be read, or their creation is no time.
    pub(super) const fn unpaged(&self) -> u64 {
        self.unpaged
    }

    pub(super) fn page(&self, before: DateTime<Utc>, after: Option<&Cursor>, limit: usize) -> Page {
        let start = if let Some([created, id]) = after.map(|cursor| &cursor.0[..]) {
            let key = (created.parse().ok(), id.as_str());
            self.order.partition_point(|at| self.entry(*at).key() >= key)
        } else {
            let before = before.timestamp_micros();
            self.order.partition_point(|at| self.entry(*at).created >= Some(before))
        };
        let standing = self.order[start..].iter().map(|at| self.entry(*at)).filter(|entry| self.stands(entry.id()));
        self.page_of(standing, limit, |entry| {
            vec![entry.created.unwrap_or_default().to_string(), entry.id().to_owned()]
        })
    }

    pub(super) fn children(&self, parents: &[String], after: Option<&Cursor>, limit: usize) -> Page {
        let mut parents: Vec<&str> = parents.iter().map(String::as_str).collect();
        parents.sort_unstable();
        parents.dedup();
        let start = match after.map(|cursor| &cursor.0[..]) {
            Some([parent, id]) => (parent.as_str(), Some(id.as_str())),
            _ => ("", None),
        };
        let first = parents.partition_point(|parent| *parent < start.0);
        let found = parents[first..].iter().flat_map(|parent| {
            let children = self.below.get(*parent).map_or(&[][..], Vec::as_slice);
            let is_before = |id: &str| *parent == start.0 && start.1.is_some_and(|last| id <= last);
            &children[children.partition_point(|child| is_before(self.entry(*child).id()))..]
        });
        let standing = found.map(|at| self.entry(*at)).filter(|entry| self.stands(entry.id()));
        self.page_of(standing, limit, |entry| vec![entry.text(3).to_owned(), entry.id().to_owned()])
    }

    fn page_of<'a>(
        &self,
        mut entries: impl Iterator<Item = &'a Entry>,
        limit: usize,
        cursor: impl Fn(&Entry) -> Vec<String>,
    ) -> Page {
        let shown: Vec<&Entry> = entries.by_ref().take(limit).collect();
        let next = shown.last().filter(|_| entries.next().is_some()).map(|last| Cursor(cursor(last)));
        Page { runs: shown.into_iter().map(|entry| self.seen(entry)).collect(), next }
    }

    /// The runs below `parent` that stood when they were last looked at.
    pub(super) fn below(&self, parent: &str) -> impl Iterator<Item = &str> {
        let children = self.below.get(parent).map_or(&[][..], Vec::as_slice);
        children.iter().map(|at| self.entry(*at).id()).filter(|id| self.stands(id))
    }
}
