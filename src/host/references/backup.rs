//! What a JSON file was before its references became null.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, fsync, mkdirat, openat, renameat, unlinkat},
    io::Errno,
};

use crate::host::Root;

/// How many backups of a file are kept: `posts.json.1`, the newest, to `posts.json.3`.
pub(super) const KEPT: u32 = 3;

/// Writes a backup of the file `of` into `folder`, which is made where it is missing: both below the root, and on the disk when
/// this answers. The oldest backup goes first, so that a full disk has room for the new one.
pub(super) fn write(root: &Root, folder: &Path, of: &Path, text: &[u8]) -> io::Result<()> {
    let folder = open(root, folder)?;
    let generation = |number: u32| named(of, &number.to_string());
    let unless_absent = |done: Result<(), Errno>| if done == Err(Errno::NOENT) { Ok(()) } else { done };
    let new = named(of, "new");
    for old in [&new, &generation(KEPT)] {
        unless_absent(unlinkat(&folder, old, AtFlags::empty()))?;
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(&folder, &new, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(text)?;
    file.sync_all()?;
    for number in (1..KEPT).rev() {
        unless_absent(renameat(&folder, generation(number), &folder, generation(number + 1)))?;
    }
    renameat(&folder, &new, &folder, generation(1))?;
    Ok(fsync(&folder)?)
}

/// Opens the folder, or makes it: for its owner alone, as the files in it may be.
fn open(root: &Root, folder: &Path) -> io::Result<OwnedFd> {
    let open = || root.open_at(folder, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
    match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let (parent, name) = root.parent_of(folder)?;
            match mkdirat(&parent, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => fsync(&parent)?,
                Err(error) => return Err(error.into()),
            }
            open()
        }
        opened => opened,
    }
}

/// The name of a backup: the file's path below the root, with `%2F` for a slash.
fn named(of: &Path, end: &str) -> OsString {
    let mut name = Vec::new();
    for &byte in of.as_os_str().as_bytes() {
        match byte {
            b'/' => name.extend(b"%2F"),
            b'%' => name.extend(b"%25"),
            byte => name.push(byte),
        }
    }
    name.push(b'.');
    name.extend(end.as_bytes());
    OsString::from_vec(name)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn keeps_the_newest_few_of_each_file() {
        let temp = tempfile::tempdir().unwrap();
        let root = Root::open(temp.path()).unwrap();
        let folder = Path::new(".janitor");
        for text in ["one", "two", "three", "four", "five"] {
            write(&root, folder, Path::new("posts.json"), text.as_bytes()).unwrap();
        }
        write(&root, folder, Path::new("a/posts.json"), b"other").unwrap();
        let folder = temp.path().join(folder);
        let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["a%2Fposts.json.1", "posts.json.1", "posts.json.2", "posts.json.3"]);
        let text = |name| fs::read_to_string(folder.join(name)).unwrap();
        let newest_first = ["posts.json.1", "posts.json.2", "posts.json.3"].map(text);
        assert_eq!(newest_first, ["five", "four", "three"]);
        let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode(folder.clone()), mode(folder.join("posts.json.1"))], [0o700, 0o600]);
    }

    #[test]
    fn goes_on_after_a_crash_at_any_moment() {
        let temp = tempfile::tempdir().unwrap();
        let root = Root::open(temp.path()).unwrap();
        let folder = temp.path().join(".janitor");
        fs::create_dir(&folder).unwrap();
        // A half-written backup, and a gap where one was moved and nothing has taken its place.
        fs::write(folder.join("posts.json.new"), "ha").unwrap();
        fs::write(folder.join("posts.json.2"), "old").unwrap();
        write(&root, Path::new(".janitor"), Path::new("posts.json"), b"whole").unwrap();
        let text = |name| fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!([text("posts.json.1"), text("posts.json.3")], ["whole", "old"]);
        assert!(!folder.join("posts.json.new").exists());
    }

    #[test]
    fn is_never_written_through_a_link() {
        let temp = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let root = Root::open(temp.path()).unwrap();
        std::os::unix::fs::symlink(outside.path(), temp.path().join(".janitor")).unwrap();
        assert!(write(&root, Path::new(".janitor"), Path::new("posts.json"), b"text").is_err());
        fs::remove_file(temp.path().join(".janitor")).unwrap();
        fs::create_dir(temp.path().join(".janitor")).unwrap();
        fs::write(outside.path().join("theirs"), "theirs").unwrap();
        std::os::unix::fs::symlink(outside.path().join("theirs"), temp.path().join(".janitor/posts.json.new")).unwrap();
        write(&root, Path::new(".janitor"), Path::new("posts.json"), b"text").unwrap();
        assert_eq!(fs::read_to_string(outside.path().join("theirs")).unwrap(), "theirs");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    }
}
