//! The names of files whose references became null, written down before the files go: a later sweep looks for them again.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use rustix::fs::{self, AtFlags, Mode, OFlags};

use super::{Disk, HOME, Tally, blocking};
use crate::host::Root;

/// The file below the root, with a NUL behind each name.
const NAMES: &str = "gone";
/// Above so many bytes the oldest names are given up: their references were looked for twice by then.
const NAMES_MAX: u64 = 16 << 20;

impl Disk {
    /// Makes references null that somebody brought back to what an earlier sweep deleted.
    pub(super) async fn null_again(&self, tally: &mut Tally) {
        if self.sources.is_empty() {
            return;
        }
        let root = self.root();
        match blocking(move || absent(&root)).await {
            Ok(paths) if paths.is_empty() => {}
            Ok(paths) => {
                let nulled = self.null(paths, tally).await;
                if nulled.failures.is_empty() {
                    let root = self.root();
                    if let Err(error) = blocking(move || forget(&root)).await {
                        tracing::warn!(%error, "names of deleted files not forgotten: they are looked for again");
                    }
                }
            }
            Err(error) => tally.fail(HOME, &error),
        }
    }
}

/// Writes names down, durably.
pub(super) fn remember(root: &Root, paths: &[PathBuf]) -> io::Result<()> {
    let home = home(root)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(fs::openat(&home, NAMES, flags, Mode::RUSR | Mode::WUSR)?);
    if file.metadata()?.len() > NAMES_MAX {
        file.set_len(0)?;
    }
    let mut text = Vec::new();
    for path in paths {
        text.extend_from_slice(path.as_os_str().as_bytes());
        text.push(0);
    }
    file.write_all(&text)?;
    file.sync_all()?;
    home.sync_all()
}

/// The names that were written down and that no file has now.
fn absent(root: &Root) -> io::Result<Vec<PathBuf>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
    let file = match root.open_at(&Path::new(HOME).join(NAMES), flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(2 * NAMES_MAX).read_to_end(&mut text)?;
    let names = text.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut paths: Vec<PathBuf> = names.map(|name| PathBuf::from(OsStr::from_bytes(name))).collect();
    paths.sort_unstable();
    paths.dedup();
    // One that was written anew since is a file of its own.
    paths.retain(|path| is_absent(root, path));
    Ok(paths)
}

fn is_absent(root: &Root, path: &Path) -> bool {
    match root.parent_of(path) {
        Ok((folder, name)) => {
            matches!(fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW), Err(rustix::io::Errno::NOENT))
        }
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn forget(root: &Root) -> io::Result<()> {
    Ok(fs::unlinkat(home(root)?, NAMES, AtFlags::empty())?)
}

/// The folder that these things are in.
fn home(root: &Root) -> io::Result<File> {
    let (parent, name) = root.parent_of(Path::new(HOME))?;
    match fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(root.open_at(Path::new(HOME), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?.into())
}
