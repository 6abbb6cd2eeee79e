//! Deletes while it walks; a dry run only says what would go.

use std::{
    io,
    ops::ControlFlow,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{AtFlags, unlinkat},
    io::Errno,
};

use super::{
    Entry, Failures, Root,
    walk::{self, Found, Walked},
};

/// What a sweep does with what goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It says so and changes nothing.
    Tell,
    /// It deletes it.
    Unlink,
}

/// What came of a sweep.
#[derive(Debug, Default)]
pub struct Swept {
    /// What was walked; what could not be deleted is among its failures.
    pub walked: Walked,
    /// How many files went, or would.
    pub files: u64,
    /// How much of the disk they took: nothing where a file has another name.
    pub freed_bytes: u64,
}

/// Walks as [`walk`](super::walk()) does and lets each file go for which `goes` says so; tells `went` of each that did,
/// or with [`Act::Tell`] would, and of the bytes that came free by it.
///
/// A file is looked at, decided on and deleted by its open folder without a break: `goes` must not take long, or what it
/// decides on may be another file by then. `went` may: it is called before the next look, and is the place for a pause.
/// Both are called by two threads at once. A file that is gone already is no error, and not counted.
///
/// # Panics
/// Where one of the two panics.
///
/// ```
/// use std::ops::ControlFlow::Continue;
/// use apalis_janitor::host::{Act, Root, sweep};
///
/// let folder = tempfile::tempdir().unwrap();
/// std::fs::write(folder.path().join("a.tmp"), "").unwrap();
/// std::fs::write(folder.path().join("a.json"), "").unwrap();
/// let root = Root::open(folder.path()).unwrap();
///
/// let sweep = |act| sweep(&root, &["".into()], act, &|entry| Continue(entry.path.ends_with("a.tmp")), &|_, _| ()).files;
/// assert_eq!(sweep(Act::Tell), 1);
/// assert_eq!(sweep(Act::Unlink), 1);
/// assert_eq!(sweep(Act::Unlink), 0);
/// ```
pub fn sweep(
    root: &Root,
    below: &[PathBuf],
    act: Act,
    goes: &(dyn Fn(&Entry<'_>) -> ControlFlow<(), bool> + Sync),
    went: &(dyn Fn(&Entry<'_>, u64) + Sync),
) -> Swept {
    let (files, freed_bytes) = (AtomicU64::default(), AtomicU64::default());
    let failures = Mutex::<Failures>::default();
    let mut walked = walk::each(root, below, &|found| {
        let Found { entry, folder, name } = found;
        if !goes(&entry)? {
            return ControlFlow::Continue(());
        }
        let unlinked = match act {
            Act::Tell => Ok(()),
            Act::Unlink => unlinkat(folder, name, AtFlags::empty()),
        };
        match unlinked {
            Ok(()) => {
                let freed = entry.seen.frees_bytes();
                files.fetch_add(1, Ordering::Relaxed);
                freed_bytes.fetch_add(freed, Ordering::Relaxed);
                went(&entry, freed);
            }
            // Somebody else was faster: it is gone, or a folder by now.
            Err(Errno::NOENT | Errno::ISDIR) => {}
            Err(error) => {
                let mut failures = failures.lock().expect("nothing panics while it holds the failures");
                failures.add(&entry.path, &io::Error::from(error));
            }
        }
        ControlFlow::Continue(())
    });
    walked.failures.extend(failures.into_inner().expect("nothing panics while it holds the failures"));
    Swept { walked, files: files.into_inner(), freed_bytes: freed_bytes.into_inner() }
}
