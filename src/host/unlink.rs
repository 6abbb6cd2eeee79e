//! Deletes files that were seen before, where they still are as they were seen.

use std::{io, os::fd::OwnedFd, panic::resume_unwind, path::Path, thread};

use rustix::{
    fs::{AtFlags, Mode, OFlags, unlinkat},
    io::Errno,
};

use super::{Entry, Root, Seen};

/// How many files are worth a second thread.
const SHARE: usize = 64;
/// After so many files a folder is opened anew: it may have been moved out of the root.
const HELD_MAX: usize = 64;

/// What became of a file that was to go.
#[derive(Debug)]
pub enum Fate {
    /// It was deleted.
    Gone {
        /// How much of the disk came free: nothing where the file has another name.
        freed_bytes: u64,
    },
    /// It was not there any more.
    Absent,
    /// It is another one, or was written since, and stays.
    Changed,
    /// It could not be deleted.
    Failed(io::Error),
}

/// Deletes each of `files` that still is as it was seen, by two threads and folder by folder; answers what became of each, in
/// their order.
///
/// ```
/// use std::{ops::ControlFlow::Continue, sync::Mutex};
/// use apalis_janitor::host::{Fate, Root, unlink, walk};
///
/// let folder = tempfile::tempdir().unwrap();
/// let (kept, gone) = (folder.path().join("kept"), folder.path().join("gone"));
/// std::fs::write(&kept, "").unwrap();
/// std::fs::write(&gone, "").unwrap();
/// let root = Root::open(folder.path()).unwrap();
/// let files = Mutex::new(Vec::new());
/// walk(&root, &["".into()], &|entry| Continue(files.lock().unwrap().push(entry.clone().into_owned())));
/// let mut files = files.into_inner().unwrap();
/// files.sort_by(|one, other| one.path.cmp(&other.path));
///
/// std::fs::write(&kept, "newer").unwrap();
/// assert!(matches!(unlink(&root, &files)[..], [Fate::Gone { .. }, Fate::Changed]));
/// assert!(kept.exists() && !gone.exists());
/// ```
#[must_use]
pub fn unlink(root: &Root, files: &[Entry<'_>]) -> Vec<Fate> {
    let mut order: Vec<_> = files.iter().enumerate().collect();
    order.sort_by(|(_, one), (_, other)| one.path.parent().cmp(&other.path.parent()));
    let (one, other) = order.split_at(if order.len() < SHARE { order.len() } else { order.len() / 2 });
    let mut fates = thread::scope(|scope| {
        let second = || unlink_some(root, other);
        // Where no thread is to be had, this one does it alone.
        let thread = if other.is_empty() { None } else { thread::Builder::new().spawn_scoped(scope, second).ok() };
        let mut fates = unlink_some(root, one);
        fates.extend(match thread {
            Some(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            None => second(),
        });
        fates
    });
    fates.sort_unstable_by_key(|(number, _)| *number);
    fates.into_iter().map(|(_, fate)| fate).collect()
}

/// Deletes the files, which are sorted by folder, and answers the fate of each with its number.
fn unlink_some(root: &Root, files: &[(usize, &Entry<'_>)]) -> Vec<(usize, Fate)> {
    let mut fates = Vec::with_capacity(files.len());
    for folder in files.chunk_by(|(_, one), (_, next)| one.path.parent() == next.path.parent()) {
        for some in folder.chunks(HELD_MAX) {
            let opened = open(root, &some[0].1.path);
            fates.extend(some.iter().map(|(number, file)| {
                let fate = match &opened {
                    Ok(folder) => unlink_one(folder, file),
                    Err(error) => because(*error),
                };
                (*number, fate)
            }));
        }
    }
    fates
}

fn open(root: &Root, file: &Path) -> Result<OwnedFd, Errno> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let opened = root.open_at(folder, OFlags::PATH | OFlags::DIRECTORY, Mode::empty());
    opened.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))
}

fn unlink_one(folder: &OwnedFd, file: &Entry<'_>) -> Fate {
    let Some(name) = file.path.file_name() else { return because(Errno::INVAL) };
    match Seen::look(folder, name) {
        Ok(None) => Fate::Absent,
        Ok(Some(now)) if !file.seen.is_still(&now) => Fate::Changed,
        Ok(Some(now)) => match unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) => Fate::Gone { freed_bytes: now.frees_bytes() },
            Err(error) => because(error),
        },
        Err(error) => because(error),
    }
}

/// What an error says of a file's fate.
fn because(error: Errno) -> Fate {
    match error {
        Errno::NOENT => Fate::Absent,
        // The name, or a folder on the way to it, is a folder, a file, a link or a mount by now.
        Errno::ISDIR | Errno::NOTDIR | Errno::LOOP | Errno::XDEV => Fate::Changed,
        error => Fate::Failed(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, ops::ControlFlow, sync::Mutex, time::SystemTime};

    use super::*;
    use crate::host::walk;

    fn all(root: &Root) -> Vec<Entry<'static>> {
        let files = Mutex::new(Vec::new());
        let walked = walk(root, &["".into()], &|entry| {
            files.lock().unwrap().push(entry.clone().into_owned());
            ControlFlow::Continue(())
        });
        assert_eq!(walked.failures.count, 0);
        let mut files = files.into_inner().unwrap();
        files.sort_by(|one, other| one.path.cmp(&other.path));
        files
    }

    #[test]
    fn keeps_what_is_not_as_it_was_seen() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let names = ["absent", "folder", "gone", "replaced", "rewritten", "shorter", "touched"];
        for name in names {
            fs::write(at(name), "text").unwrap();
        }
        let root = Root::open(folder.path()).unwrap();
        let files = all(&root);
        let times = |name: &str| fs::metadata(at(name)).unwrap().modified().unwrap();
        let set = |name: &str, time: SystemTime| fs::File::open(at(name)).unwrap().set_modified(time).unwrap();

        fs::remove_file(at("absent")).unwrap();
        fs::remove_file(at("folder")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        // The old one keeps its inode, and so the new one has another.
        let (time, other) = (times("replaced"), at("other"));
        fs::write(&other, "text").unwrap();
        fs::File::open(&other).unwrap().set_modified(time).unwrap();
        fs::rename(&other, at("replaced")).unwrap();
        fs::write(at("rewritten"), "TEXT").unwrap();
        set("rewritten", times("gone") + std::time::Duration::from_nanos(1));
        let time = times("shorter");
        fs::write(at("shorter"), "t").unwrap();
        set("shorter", time);
        set("touched", SystemTime::UNIX_EPOCH);

        let fates: Vec<_> = unlink(&root, &files).iter().map(|fate| format!("{fate:?}")).collect();
        assert_eq!(fates[0], "Absent");
        assert!(fates[2].starts_with("Gone"), "{fates:?}");
        assert!([1, 3, 4, 5, 6].iter().all(|at| fates[*at] == "Changed"), "{fates:?}");
        assert_eq!(names.map(|name| at(name).exists()), [false, true, false, true, true, true, true]);
    }

    #[test]
    fn frees_nothing_while_there_is_another_name() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), [7; 10_000]).unwrap();
        fs::hard_link(folder.path().join("a"), folder.path().join("b")).unwrap();
        let root = Root::open(folder.path()).unwrap();
        let files = all(&root);
        let freed = |fates: &[Fate]| match fates {
            [Fate::Gone { freed_bytes }] => *freed_bytes,
            fates => panic!("{fates:?}"),
        };
        assert_eq!(freed(&unlink(&root, &files[..1])), 0);
        assert_eq!(freed(&unlink(&root, &files[1..])), files[1].seen.allocated_bytes);
    }

    #[test]
    fn answers_in_the_order_that_was_asked_in() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..400 {
            fs::create_dir_all(folder.path().join(format!("{}", number % 7))).unwrap();
            fs::write(folder.path().join(format!("{}/{number}", number % 7)), "").unwrap();
        }
        let root = Root::open(folder.path()).unwrap();
        let mut files = all(&root);
        files.sort_by(|one, other| one.path.file_name().cmp(&other.path.file_name()));
        for file in files.iter().step_by(2) {
            fs::remove_file(folder.path().join(&file.path)).unwrap();
        }
        for (number, fate) in unlink(&root, &files).iter().enumerate() {
            let is_right =
                if number % 2 == 0 { matches!(fate, Fate::Absent) } else { matches!(fate, Fate::Gone { .. }) };
            assert!(is_right, "{number}: {fate:?}");
        }
        assert_eq!(all(&root), []);
    }
}
