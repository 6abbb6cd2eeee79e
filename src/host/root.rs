//! A folder that is opened once; what is below it is reached by paths that cannot lead out of it.

use std::{
    env,
    ffi::OsStr,
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{self as sys, AtFlags, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags},
    io::Errno,
};

/// How a path is followed: beneath the folder, over no symbolic link, into no other filesystem.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_XDEV)
    .union(ResolveFlags::NO_MAGICLINKS);
/// Where the system lists its users with their homes.
const USERS: &str = "/etc/passwd";
/// The place of the home in a line of that list.
const HOME_FIELD: usize = 5;
/// Homes that need not be on the list, and the folder that they lie in.
const HOMES: [&str; 2] = ["/root", "/home"];
const NO_OPENAT2: &str = "paths cannot be kept inside it: the kernel has no openat2 (Linux 5.6 has), or the sandbox \
                          forbids it";

/// Why a folder is not worked in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// A rule forbids it, whatever is in it.
    #[error("{path:?}: {why}")]
    Refused {
        /// The folder as it was named.
        path: PathBuf,
        /// The rule.
        why: &'static str,
    },
    /// Nothing has that name.
    #[error("{path:?}: is not there: make it, or mount it")]
    Absent {
        /// The folder as it was named.
        path: PathBuf,
    },
    /// It could not be opened.
    #[error("{path:?}: cannot be opened")]
    Unavailable {
        /// The folder as it was named.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A folder of this host that may be worked in.
///
/// Paths below it are relative and literal, of any bytes. Where one has `..` in it, leads over a symbolic link or into
/// another mount, opening it is an error, and so it stays while others rename what is on the way.
///
/// ```
/// use apalis_janitor::host::{Root, RootError};
/// use rustix::fs::{Mode, OFlags};
///
/// let folder = tempfile::tempdir().unwrap();
/// std::fs::write(folder.path().join("a.json"), "[]").unwrap();
/// let root = Root::open(folder.path()).unwrap();
/// root.open_at("a.json".as_ref(), OFlags::RDONLY, Mode::empty()).unwrap();
/// assert!(root.open_at("../a.json".as_ref(), OFlags::RDONLY, Mode::empty()).is_err());
/// assert!(matches!(Root::open("/".as_ref()), Err(RootError::Refused { .. })));
/// ```
#[derive(Clone, Debug)]
pub struct Root(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    path: PathBuf,
    handle: OwnedFd,
    dev: u64,
}

impl Root {
    /// Opens a folder to work in.
    ///
    /// # Errors
    /// [`RootError::Refused`] where it is `/`, a home or the folder of homes, under whatever name; where its name is
    /// empty or relative; where it is a symbolic link or no folder; and where the kernel has no openat2.
    pub fn open(path: &Path) -> Result<Self, RootError> {
        let refused = |why| Err(RootError::Refused { path: path.to_owned(), why });
        if path.as_os_str().is_empty() {
            return refused("is empty: name a folder");
        }
        if path.is_relative() {
            return refused("is relative: name it from / on");
        }
        let root = Self::open_to_read(path)?;
        // Names say little: the same folder may be mounted or linked elsewhere.
        let own = root.identity(path)?;
        if is_at(own, Path::new("/")) {
            return refused("is the root of all files: name a folder for this data alone");
        }
        if homes().iter().any(|home| is_at(own, home)) {
            return refused("is a home, or the folder of homes: name a folder for this data alone");
        }
        Ok(root)
    }

    /// Opens any folder, for work that only reads.
    pub(super) fn open_to_read(path: &Path) -> Result<Self, RootError> {
        let refused = |why| RootError::Refused { path: path.to_owned(), why };
        let unavailable =
            |error: Errno| RootError::Unavailable { path: path.to_owned(), source: io::Error::from(error) };
        // With a slash at its end a link would be followed.
        let plain: PathBuf = path.components().collect();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = sys::open(&plain, flags, Mode::empty()).map_err(|error| match error {
            Errno::NOENT => RootError::Absent { path: path.to_owned() },
            Errno::NOTDIR | Errno::LOOP if plain.is_symlink() => {
                refused("is a symbolic link: name the folder that it leads to")
            }
            Errno::NOTDIR | Errno::LOOP => refused("is no folder"),
            error => unavailable(error),
        })?;
        open_beneath(handle.as_fd(), Path::new("."), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).map_err(
            |error| match error {
                Errno::NOSYS | Errno::PERM => refused(NO_OPENAT2),
                error => unavailable(error),
            },
        )?;
        let dev = sys::fstat(&handle).map_err(unavailable)?.st_dev;
        Ok(Self(Arc::new(Opened { path: path.to_owned(), handle, dev })))
    }

    /// The folder as it was named.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Opens what is at `below`; the root itself where that is empty. Never inherited by other programs.
    ///
    /// A named pipe blocks unless `flags` have `NONBLOCK`. `mode` is for what is created, and empty otherwise.
    pub fn open_at(&self, below: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        // The kernel would follow `..` that stays inside.
        if below.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no path below a folder"));
        }
        let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
        Ok(open_beneath(self.handle(), below, flags, mode)?)
    }

    /// The folder that holds `below`, opened in that way, and its last name: for calls that take the two.
    pub fn parent_of<'a>(&self, below: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
        let (Some(parent), Some(name)) = (below.parent(), below.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no path below a folder"));
        };
        Ok((self.open_at(parent, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?, name))
    }

    /// Whether a filesystem is mounted at the folder itself. Where one should be and is not, what is there is not the data.
    pub fn is_mount(&self) -> io::Result<bool> {
        let told = sys::statx(self.handle(), "", AtFlags::EMPTY_PATH, StatxFlags::empty())?;
        if told.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
            return Ok(told.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
        }
        // Before Linux 5.8 a mount from the same filesystem is not told apart.
        Ok(sys::statat(self.handle(), "..", AtFlags::empty())?.st_dev != self.dev())
    }

    pub(super) fn handle(&self) -> BorrowedFd<'_> {
        self.0.handle.as_fd()
    }

    /// The number of the filesystem that the folder is on.
    pub(super) fn dev(&self) -> u64 {
        self.0.dev
    }

    fn identity(&self, path: &Path) -> Result<(u64, u64), RootError> {
        let stat = sys::fstat(self.handle());
        let stat = stat.map_err(|error| RootError::Unavailable { path: path.to_owned(), source: error.into() })?;
        Ok((stat.st_dev, stat.st_ino))
    }
}

fn open_beneath(folder: BorrowedFd<'_>, below: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    sys::openat2(folder, below, flags | OFlags::CLOEXEC, mode, BENEATH)
}

/// Whether the folder of that filesystem and inode is the one at `path`.
fn is_at(identity: (u64, u64), path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == identity)
}

/// The homes of this user and of all others that the system lists.
fn homes() -> Vec<PathBuf> {
    let users = fs::read(USERS).unwrap_or_default();
    let listed = users.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b':').nth(HOME_FIELD));
    let listed = listed.map(|home| PathBuf::from(OsStr::from_bytes(home)));
    // An empty home is nobody's.
    let all = listed.chain(env::home_dir()).chain(HOMES.map(PathBuf::from));
    all.filter(|home| home.is_absolute()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn refusal(path: &Path) -> String {
        Root::open(path).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn refuses_what_must_not_be_swept() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "").unwrap();
        fs::create_dir(at("data")).unwrap();
        symlink(at("data"), at("link")).unwrap();
        let home = env::home_dir().unwrap();
        for (path, why) in [
            (PathBuf::new(), "is empty"),
            ("data".into(), "is relative"),
            ("/".into(), "is the root of all files"),
            ("/etc/..".into(), "is the root of all files"),
            ("/proc/self/root/.".into(), "is a symbolic link"),
            ("/home".into(), "is a home"),
            (home.join(""), "is a home"),
            (at("file"), "is no folder"),
            (at("file/data"), "is no folder"),
            (at("link"), "is a symbolic link"),
            (at("link/"), "is a symbolic link"),
            (at("absent"), "is not there"),
        ] {
            let said = refusal(&path);
            assert!(said.starts_with(&format!("{path:?}: {why}")), "{said}");
        }
        assert_eq!(Root::open(&at("data/")).unwrap().path(), at("data/"));
    }

    #[test]
    fn no_path_leads_out() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("root/a/b")).unwrap();
        fs::create_dir_all(at("outside/b")).unwrap();
        for name in ["root/a/b/file", "outside/file", "outside/b/file"] {
            fs::write(at(name), "").unwrap();
        }
        symlink(at("outside"), at("root/link")).unwrap();
        symlink("b", at("root/a/inside")).unwrap();
        symlink("b/file", at("root/a/file")).unwrap();
        let root = Root::open(&at("root")).unwrap();
        let open = |path: &str| root.open_at(path.as_ref(), OFlags::RDONLY, Mode::empty()).map(drop);

        for path in ["", ".", "a", "a/b", "a/./b/", "a//b/file"] {
            open(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        }
        let outside = at("outside/file");
        for path in [
            "..",
            "../outside/file",
            "a/../a/b",
            "a/b/../../../outside/file",
            outside.to_str().unwrap(),
            "link",
            "link/file",
            "link/b/file",
            "a/inside",
            "a/inside/file",
            "a/file",
            "a/file/",
        ] {
            assert!(open(path).is_err(), "{path:?}");
            assert!(!path.contains("..") || root.parent_of(path.as_ref()).is_err(), "{path:?}");
        }
        assert_eq!(root.parent_of("link".as_ref()).unwrap().1, "link");
        assert!(root.parent_of("".as_ref()).is_err());
        assert!(!root.is_mount().unwrap());
    }

    #[test]
    fn a_name_is_any_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(folder.path()).unwrap();
        let long = [b'x'; 255];
        for name in [&b"a\nb"[..], b"\xff\xfe", b"-rf", b"...", b"\x1b[31m", &long] {
            let path = Path::new(OsStr::from_bytes(name));
            let below = path.join(path);
            fs::create_dir(folder.path().join(path)).unwrap();
            root.open_at(&below, OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
            assert_eq!(root.parent_of(&below).unwrap().1, path.as_os_str());
            assert!(folder.path().join(&below).is_file());
        }
        assert!(root.open_at("nul\0".as_ref(), OFlags::RDONLY, Mode::empty()).is_err());
    }
}
