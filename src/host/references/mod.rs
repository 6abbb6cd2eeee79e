//! References to media files in JSON files: which there are, and how they become null.
//!
//! An application keeps a list such as `posts.json`, whose fields name the media files of a folder. It rewrites the list by
//! reading, changing and renaming, with no lock that anybody else could take. So a reference becomes null in place: its string
//! is overwritten with `null` and spaces to the same length, on the inode that was read. The document is JSON before and after,
//! nothing is renamed or cut, and nobody's change is lost. Where the path has another inode afterwards, it is done again there.
//!
//! One who read the list before and renames it after that brings a reference back. So a file goes in three steps: [`null`],
//! delete the file, [`null`] again; and who wants to be sure keeps its name and comes back with it in the next sweep.
//!
//! While it writes it holds a lease on the file: whoever opens it waits, a fraction of a millisecond. So no reader gets half of a
//! string and half of `null`, and one who writes the list in place loses nothing either.
//!
//! # What cannot be promised
//! Without a lease (the janitor neither owns the file nor has `CAP_LEASE`, the filesystem has none, or somebody holds the file
//! open all the time) there is a moment between the last look at a string and the write over it, a few microseconds long:
//! - One who writes the list in place may put other bytes there in that moment, and has `null` and spaces among them; where he
//!   has cut the file and writes less than before, they stand behind its end. His next write mends it, and what was there
//!   before is in the backup.
//! - One who reads the list in that moment may get half of the string and half of `null`, which he cannot parse.
//!
//! With a lease or without one:
//! - A process that opens the list with `O_NONBLOCK` while it is written is refused.
//! - A list that is written in place is cut short for a moment. Where it stays so for 10 ms it counts as broken,
//!   and what it may name stays.
//! - A power cut may tear a string that lies across two blocks of the disk: the backup has it whole.

mod backup;
mod document;
mod error;
mod tails;
mod tokens;

#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    ops::Range,
    path::{Path, PathBuf},
};

use self::{
    document::{Access, Document},
    tails::{Tail, Tails},
};
use super::Root;

pub use error::ReferenceError;

/// How often a file is read while others rename new ones over it.
const PASSES_MAX: u32 = 1_000;

/// A JSON file, and which fields in it name media files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its path below the root.
    pub path: PathBuf,
    /// Fields at any depth. Each holds a string, or an array of strings.
    pub fields: Vec<String>,
}

/// Whether anything names a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Referenced {
    /// Something does.
    Yes,
    /// Nothing does.
    No,
    /// Nothing that could be read does, but not all could be read.
    Unknown,
}

/// What some JSON files name.
#[derive(Debug)]
pub struct References {
    root: Option<OsString>,
    tails: Tails,
    unread: Vec<ReferenceError>,
}

impl References {
    /// Whether anything names the file `below` the root. In doubt it does.
    #[must_use]
    pub fn referenced(&self, below: &Path) -> Referenced {
        match Tail::of_file(self.root.as_deref(), below) {
            Some(tail) if self.tails.count(&tail) > 0 => Referenced::Yes,
            Some(_) if self.unread.is_empty() => Referenced::No,
            Some(_) | None => Referenced::Unknown,
        }
    }

    /// How many references there are to the file `below` the root.
    #[must_use]
    pub fn count(&self, below: &Path) -> u64 {
        Tail::of_file(self.root.as_deref(), below).map_or(0, |tail| self.tails.count(&tail))
    }

    /// Why some of the files could not be read.
    #[must_use]
    pub fn unread(&self) -> &[ReferenceError] {
        &self.unread
    }
}

/// Reads what `sources` name. One that is not there is one that cannot be read. One document is in memory at a time.
#[must_use]
pub fn read(root: &Root, sources: &[Source]) -> References {
    let mut references = References { root: name(root), tails: Tails::default(), unread: Vec::new() };
    for source in sources {
        match Document::read(root, source, Access::Read) {
            Ok(document) => {
                let values = document.tokens().iter().map(|token| &token.value);
                references.tails.extend(values.flat_map(|value| Tail::of_value(value)));
            }
            Err(error) => references.unread.push(error),
        }
    }
    references
}

/// What came of making references null.
#[derive(Debug)]
pub struct Nulled {
    /// How many references were overwritten. One that others bring back, and that is overwritten again, counts again.
    pub references: u64,
    /// What could not be done, a file at most once.
    pub failures: Vec<ReferenceError>,
    root: Option<OsString>,
    held: Held,
}

/// Which files something may still name.
#[derive(Debug)]
enum Held {
    These(Tails),
    /// A document could not be read: it may name any.
    All,
}

impl Nulled {
    /// Whether nothing names the file `below` the root any more, as far as that was asked for.
    #[must_use]
    pub fn may_go(&self, below: &Path) -> bool {
        let tail = Tail::of_file(self.root.as_deref(), below);
        match &self.held {
            Held::These(held) => tail.is_some_and(|tail| held.count(&tail) == 0),
            Held::All => false,
        }
    }
}

/// Makes each reference in `sources` to one of the files `gone`, which are below the root, null: before they are deleted, and
/// again afterwards. Before this changes a document, a backup of it is synced in the folder `backups`, below the root; without one
/// it stays as it is. A document that is not there names nothing.
///
/// A file may be deleted only where [`Nulled::may_go`] says so.
///
/// ```
/// use std::{fs, path::Path};
/// use apalis_janitor::host::{Root, references::{Source, null}};
///
/// # let temp = tempfile::tempdir()?;
/// # let folder = temp.path().canonicalize()?;
/// fs::write(folder.join("posts.json"), r#"[{"imageUrl": "/images/a.png"}, {"imageUrl": "/images/b.png"}]"#)?;
/// let posts = Source { path: "posts.json".into(), fields: vec!["imageUrl".to_owned()] };
/// let nulled = null(&Root::open(&folder)?, &[posts], ["images/a.png"], Path::new(".janitor"));
/// assert!(nulled.may_go(Path::new("images/a.png")));
/// let text = fs::read_to_string(folder.join("posts.json"))?;
/// assert_eq!(text, r#"[{"imageUrl": null           }, {"imageUrl": "/images/b.png"}]"#);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub fn null(
    root: &Root,
    sources: &[Source],
    gone: impl IntoIterator<Item = impl AsRef<Path>>,
    backups: &Path,
) -> Nulled {
    let name = name(root);
    let gone = gone.into_iter().filter_map(|below| Tail::of_file(name.as_deref(), below.as_ref())).collect();
    let mut nulled = Nulled { references: 0, failures: Vec::new(), root: name, held: Held::These(Tails::default()) };
    for source in sources {
        let mut edit = Edit { root, source, gone: &gone, backups, is_backed_up: false, named: None, references: 0 };
        let done = edit.run();
        nulled.references += edit.references;
        if let Err(error) = done {
            nulled.failures.push(error);
            match (&mut nulled.held, edit.named) {
                (Held::These(held), Some(named)) => held.merge(named),
                (Held::These(_), None) => nulled.held = Held::All,
                (Held::All, _) => {}
            }
        }
    }
    nulled
}

/// The root's own name.
fn name(root: &Root) -> Option<OsString> {
    root.path().file_name().map(ToOwned::to_owned)
}

/// The edit of one document.
struct Edit<'a> {
    root: &'a Root,
    source: &'a Source,
    gone: &'a Tails,
    backups: &'a Path,
    is_backed_up: bool,
    /// Which of the files it named when it was last read; none where it could not be read.
    named: Option<Tails>,
    references: u64,
}

impl Edit<'_> {
    fn run(&mut self) -> Result<(), ReferenceError> {
        for _ in 0..PASSES_MAX {
            match self.pass() {
                Ok(false) => {}
                Ok(true) | Err(ReferenceError::Missing { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Err(ReferenceError::Unsteady { path: self.path() })
    }

    /// Reads the document and overwrites what it names; `false` where that has to be done again.
    fn pass(&mut self) -> Result<bool, ReferenceError> {
        self.named = None;
        let mut document = Document::read(self.root, self.source, Access::Write)?;
        let (ranges, named) = self.find(&document);
        self.named = Some(named);
        if ranges.is_empty() {
            return document.is_at(self.root, &self.source.path).map_err(|error| self.unwritten(error));
        }
        if let Some(error) = document.take_refused() {
            return Err(self.unwritten(error));
        }
        let is_current = || document.is_at(self.root, &self.source.path);
        if !self.is_backed_up {
            backup::write(self.root, self.backups, &self.source.path, document.text()).map_err(|source| {
                ReferenceError::Backup { path: self.path(), folder: self.backups.to_owned(), source }
            })?;
            self.is_backed_up = true;
        }
        let done = document.overwrite(&ranges, is_current).map_err(|error| self.unwritten(error))?;
        self.references += done as u64;
        let settle = || {
            let is_done = done == ranges.len() && is_current()?;
            if is_done { document.sync().map(|()| true) } else { Ok(false) }
        };
        settle().map_err(|error| self.unwritten(error))
    }

    /// Where the document names what is to go, and what that is.
    fn find(&self, document: &Document) -> (Vec<Range<usize>>, Tails) {
        let (mut ranges, mut named) = (Vec::new(), Tails::default());
        for token in document.tokens() {
            let meant: Vec<_> = Tail::of_value(&token.value).filter(|tail| self.gone.count(tail) > 0).collect();
            if !meant.is_empty() {
                ranges.push(token.range.clone());
                named.extend(meant);
            }
        }
        (ranges, named)
    }

    fn path(&self) -> PathBuf {
        self.source.path.clone()
    }

    fn unwritten(&self, source: std::io::Error) -> ReferenceError {
        ReferenceError::Write { path: self.path(), source }
    }
}
