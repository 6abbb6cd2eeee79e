//! What fills a folder: how much in all, in which folder of it, and the largest files.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    ops::ControlFlow,
    path::{Component, Path, PathBuf},
    sync::Mutex,
};

use serde::Serialize;
use serde_json::json;

use super::{Entry, Root, RootError, Seen, Walked, shown, walk};
use crate::report::Failure;

/// How many of the largest files are named.
const LARGEST: usize = 10;
/// How many folders are counted each for itself.
const FOLDERS_MAX: usize = 10_000;
/// How many files with several names are remembered, at about 20 bytes each.
const LINKS_MAX: usize = 900_000;
/// How many folders the log line names.
const FOLDERS_LOGGED: usize = 10;
/// What is in the audited folder itself.
const ITSELF: &str = ".";

/// How many files, and how much they take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// How many, each once whatever its names.
    pub files: u64,
    /// How long they are together.
    pub size_bytes: u64,
    /// How much of the disk they take.
    pub allocated_bytes: u64,
}

/// A folder with all that lies below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FolderAmount {
    /// Its name; `.` for the files of the audited folder itself.
    pub folder: String,
    /// What lies below it.
    #[serde(flatten)]
    pub amount: Amount,
}

/// A file that takes much.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LargeFile {
    /// Its path below the audited folder.
    pub path: String,
    /// How long it is.
    pub size_bytes: u64,
    /// How much of the disk it takes.
    pub allocated_bytes: u64,
}

/// What fills a folder. In names, bytes that are no UTF-8 are `\xHH`.
///
/// Symbolic links are files of their own, and other filesystems are left out. A file with several names counts once, for the
/// folder where one of them was met first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// The folder as it was named.
    pub path: String,
    /// All of it.
    #[serde(flatten)]
    pub total: Amount,
    /// How many more names the files have.
    pub hard_links: u64,
    /// How many folders there are, itself included.
    pub folders: u64,
    /// How much of the disk these take themselves; with the files' it is what `du` says.
    pub folder_bytes: u64,
    /// The folders right below it that have files in them, those that take most of the disk first.
    pub by_folder: Vec<FolderAmount>,
    /// What lies in further folders, where there are more than 10,000.
    pub other_folders: Amount,
    /// The ten files that take most of the disk, the largest first.
    pub largest: Vec<LargeFile>,
    /// How many names of files that have several were counted each for itself: there were too many to remember.
    pub unmatched_links: u64,
    /// What could not be read, a hundred at most.
    pub failures: Vec<Failure>,
    /// How much could not be read.
    pub failed: u64,
}

/// Looks at what is below `path`, which may be any folder: nothing is changed.
///
/// # Errors
/// [`RootError`] where it cannot be opened, or is a symbolic link.
pub fn audit(path: &Path) -> Result<Audit, RootError> {
    Ok(audit_of(&Root::open_to_read(path)?))
}

/// Looks at all that is below a root, and writes it to the log as one line.
///
/// ```
/// use apalis_janitor::host::{Root, audit_of};
///
/// let folder = tempfile::tempdir().unwrap();
/// std::fs::create_dir(folder.path().join("images")).unwrap();
/// std::fs::write(folder.path().join("images/a.png"), "png").unwrap();
/// let audit = audit_of(&Root::open(folder.path()).unwrap());
/// assert_eq!((audit.total.files, audit.total.size_bytes), (1, 3));
/// assert_eq!(audit.by_folder[0].folder, "images");
/// assert_eq!(audit.largest[0].path, "images/a.png");
/// ```
#[must_use]
pub fn audit_of(root: &Root) -> Audit {
    let (books, walked) = count_all(root);
    let mut by_folder: Vec<_> = books.by_folder.into_iter().collect();
    by_folder.sort_by(|(a, one), (b, other)| other.allocated_bytes.cmp(&one.allocated_bytes).then_with(|| a.cmp(b)));
    let audit = Audit {
        path: shown(root.path()),
        total: books.total,
        hard_links: books.hard_links,
        folders: walked.folders,
        folder_bytes: walked.folder_bytes,
        by_folder: by_folder
            .into_iter()
            .map(|(folder, amount)| FolderAmount { folder: shown(&folder), amount })
            .collect(),
        other_folders: books.other_folders,
        largest: books.largest.into_sorted_vec().into_iter().map(|Reverse(large)| large.told()).collect(),
        unmatched_links: books.unmatched_links,
        failures: walked.failures.first,
        failed: walked.failures.count,
    };
    audit.log();
    audit
}

fn count_all(root: &Root) -> (Books, Walked) {
    let books = Mutex::<Books>::default();
    let walked = walk(root, &[PathBuf::new()], &|entry| {
        books.lock().expect("nothing panics while it holds the books").count(entry);
        ControlFlow::Continue(())
    });
    (books.into_inner().expect("nothing panics while it holds the books"), walked)
}

impl Audit {
    fn log(&self) {
        let folders = self.by_folder.iter().map(|one| (one.folder.as_str(), one.amount.allocated_bytes));
        let folders: Vec<_> = folders.take(FOLDERS_LOGGED).collect();
        let largest: Vec<_> = self.largest.iter().map(|one| (one.path.as_str(), one.allocated_bytes)).collect();
        let Amount { files, size_bytes, allocated_bytes } = self.total;
        tracing::info!(
            target: "janitor::audit",
            path = self.path,
            files,
            size_bytes,
            allocated_bytes,
            hard_links = self.hard_links,
            folders = self.folders,
            by_folder = %json!(folders),
            largest = %json!(largest),
            failed = self.failed,
            "audit"
        );
    }
}

/// What is counted on the way, by both threads.
#[derive(Default)]
struct Books {
    total: Amount,
    hard_links: u64,
    unmatched_links: u64,
    by_folder: HashMap<PathBuf, Amount>,
    other_folders: Amount,
    /// The smallest of them on top.
    largest: BinaryHeap<Reverse<Large>>,
    /// The files with several names, by filesystem and inode.
    links: HashSet<(u64, u64)>,
}

/// A file, sorted by what it takes.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Large {
    allocated_bytes: u64,
    size_bytes: u64,
    /// Of two that take the same, the first by name counts as the larger.
    path: Reverse<PathBuf>,
}

impl Large {
    fn told(self) -> LargeFile {
        let Self { allocated_bytes, size_bytes, path } = self;
        LargeFile { path: shown(&path.0), size_bytes, allocated_bytes }
    }
}

impl Amount {
    fn add(&mut self, seen: &Seen) {
        self.files += 1;
        self.size_bytes = self.size_bytes.saturating_add(seen.size_bytes);
        self.allocated_bytes = self.allocated_bytes.saturating_add(seen.allocated_bytes);
    }
}

impl Books {
    fn count(&mut self, entry: &Entry<'_>) {
        let seen = &entry.seen;
        if seen.nlink > 1 && !self.is_first(seen) {
            self.hard_links += 1;
            return;
        }
        self.total.add(seen);
        self.folder(&entry.path).add(seen);
        self.rank(entry);
    }

    /// Whether a file with several names is met for the first time.
    fn is_first(&mut self, seen: &Seen) -> bool {
        let key = (seen.dev, seen.ino);
        if self.links.len() < LINKS_MAX {
            return self.links.insert(key);
        }
        let is_known = self.links.contains(&key);
        self.unmatched_links += u64::from(!is_known);
        !is_known
    }

    /// The amount of the folder, right below the audited one, that a file lies in.
    fn folder(&mut self, path: &Path) -> &mut Amount {
        let mut parts = path.components();
        let top = match (parts.next(), parts.next()) {
            (Some(Component::Normal(top)), Some(_)) => Path::new(top),
            _ => Path::new(ITSELF),
        };
        if !self.by_folder.contains_key(top) {
            if self.by_folder.len() >= FOLDERS_MAX {
                return &mut self.other_folders;
            }
            self.by_folder.insert(top.to_owned(), Amount::default());
        }
        self.by_folder.get_mut(top).expect("it was put there before")
    }

    /// Keeps a file while it is among the largest.
    fn rank(&mut self, entry: &Entry<'_>) {
        let Seen { allocated_bytes, size_bytes, .. } = entry.seen;
        let is_full = self.largest.len() >= LARGEST;
        // Most files are small, and cost no copy of their path.
        if is_full && self.largest.peek().is_some_and(|Reverse(least)| allocated_bytes < least.allocated_bytes) {
            return;
        }
        let path = Reverse(entry.path.to_path_buf());
        self.largest.push(Reverse(Large { allocated_bytes, size_bytes, path }));
        if is_full {
            self.largest.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, fs};

    use super::*;
    use crate::host::{Kind, Modified};

    fn entry(path: &str, ino: u64, nlink: u32, bytes: u64) -> Entry<'_> {
        let modified = Modified { secs: 0, nanos: 0 };
        let seen = Seen { kind: Kind::File, size_bytes: bytes, allocated_bytes: bytes, modified, dev: 1, ino, nlink };
        Entry { path: Cow::Borrowed(Path::new(path)), seen }
    }

    #[test]
    fn counts_a_file_with_several_names_once() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("images/deep")).unwrap();
        fs::create_dir(at("voice")).unwrap();
        fs::write(at("posts.json"), [7; 5_000]).unwrap();
        fs::write(at("images/a.png"), vec![7; 40_000]).unwrap();
        fs::write(at("images/deep/b.png"), vec![7; 30_000]).unwrap();
        fs::hard_link(at("images/a.png"), at("images/deep/a.png")).unwrap();
        fs::write(at("voice/c.mp3"), [7; 9_000]).unwrap();
        std::os::unix::fs::symlink("/", at("voice/link")).unwrap();

        let audit = audit(folder.path()).unwrap();
        // A link is as long as what it names.
        assert_eq!((audit.total.files, audit.total.size_bytes), (5, 84_001));
        assert_eq!((audit.hard_links, audit.folders, audit.failed), (1, 4, 0));
        let parts: Vec<_> = audit.by_folder.iter().map(|one| (one.folder.as_str(), one.amount.size_bytes)).collect();
        assert_eq!(parts, [("images", 70_000), ("voice", 9_001), (".", 5_000)]);
        let allocated = audit.by_folder.iter().map(|one| one.amount.allocated_bytes).sum::<u64>();
        assert_eq!(allocated, audit.total.allocated_bytes);
        let largest: Vec<_> = audit.largest.iter().map(|large| large.size_bytes).collect();
        assert_eq!(largest, [40_000, 30_000, 9_000, 5_000, 1]);
    }

    #[test]
    fn names_the_ten_largest_in_their_order() {
        let mut books = Books::default();
        let names: Vec<_> = (0..30).map(|number| format!("{number:02}")).collect();
        for (at, name) in names.iter().enumerate() {
            books.count(&entry(name, 0, 1, (at as u64 * 7 % 30) / 2));
        }
        let found: Vec<_> = books.largest.into_sorted_vec().into_iter().map(|Reverse(large)| large.told()).collect();
        let mut all: Vec<_> = names.iter().enumerate().map(|(at, name)| (Reverse((at * 7 % 30) / 2), name)).collect();
        all.sort();
        let expected: Vec<_> = all[..LARGEST].iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(found.iter().map(|large| large.path.as_str()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn says_when_there_are_too_many_to_tell_apart() {
        let mut books = Books::default();
        books.links.extend((0..LINKS_MAX as u64).map(|ino| (1, ino)));
        for ino in [0, u64::MAX, u64::MAX] {
            books.count(&entry("a", ino, 2, 1));
        }
        assert_eq!((books.hard_links, books.unmatched_links, books.total.files), (1, 2, 2));

        let names: Vec<_> = (0..=FOLDERS_MAX).map(|number| format!("{number}/a")).collect();
        for name in names.iter().chain(&names[..1]) {
            books.count(&entry(name, 0, 1, 1));
        }
        // One of the folders was taken by the files above.
        assert_eq!((books.by_folder.len(), books.other_folders.files), (FOLDERS_MAX, 2));
        assert_eq!(books.by_folder[Path::new("0")].files, 2);
    }
}
