//! One file by its path.

use std::{borrow::Cow, io, path::Path};

use rustix::io::Errno;

use super::{Entry, Root, Seen};

/// Looks at what is at `below` the root; `None` where nothing is.
///
/// ```
/// use std::path::Path;
/// use apalis_janitor::host::{Fate, Root, look, unlink};
///
/// let folder = tempfile::tempdir().unwrap();
/// std::fs::write(folder.path().join("a.png"), "four").unwrap();
/// let root = Root::open(folder.path()).unwrap();
/// let seen = look(&root, Path::new("a.png")).unwrap().unwrap();
/// assert_eq!(seen.seen.size_bytes, 4);
/// assert!(matches!(unlink(&root, &[seen])[..], [Fate::Gone { .. }]));
/// assert!(look(&root, Path::new("a.png")).unwrap().is_none());
/// ```
///
/// # Errors
/// Where the path leads out of the root, or cannot be looked at.
pub fn look(root: &Root, below: &Path) -> io::Result<Option<Entry<'static>>> {
    let parent = root.parent_of(below);
    let (folder, name) = match parent {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => return Ok(None),
        parent => parent?,
    };
    let seen = Seen::look(folder, name)?;
    Ok(seen.map(|seen| Entry { path: Cow::Owned(below.to_owned()), seen }))
}
