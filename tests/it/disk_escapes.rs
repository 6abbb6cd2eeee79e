//! Nothing outside a root changes, whatever is done to it meanwhile.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    ops::ControlFlow::Continue,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, symlink},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use apalis_janitor::host::{Act, Entry, Fate, Kind, Root, Swept, audit, sweep, unlink, walk};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, renameat_with};
use tempfile::TempDir;

/// How often is tried what must not succeed.
const TRIES: usize = 10_000;

/// A folder with `root` in it, and `outside` with files of the same names.
struct World(TempDir);

impl World {
    fn new() -> Self {
        let world = Self(tempfile::tempdir().unwrap());
        for folder in ["root/a/b", "outside/b"] {
            fs::create_dir_all(world.at(folder)).unwrap();
        }
        for file in ["outside/f0", "outside/f1", "outside/b/f0", "outside/b/f1"] {
            fs::write(world.at(file), "theirs").unwrap();
        }
        world
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn root(&self) -> Root {
        Root::open(&self.at("root")).unwrap()
    }

    /// All that is outside: names, what is in them, and how often they were changed.
    fn outside(&self) -> BTreeMap<PathBuf, (Vec<u8>, i64, u64)> {
        let mut folders = vec![self.at("outside")];
        let mut all = BTreeMap::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let metadata = fs::symlink_metadata(&path).unwrap();
                let text = if metadata.is_dir() { Vec::new() } else { fs::read(&path).unwrap() };
                if metadata.is_dir() {
                    folders.push(path.clone());
                }
                all.insert(path, (text, metadata.mtime_nsec(), metadata.ino()));
            }
        }
        all
    }
}

fn files(entry: &Entry<'_>) -> bool {
    entry.seen.kind == Kind::File
}

fn sweep_files(root: &Root, below: &str) -> Swept {
    sweep(root, &[below.into()], Act::Unlink, &|entry| Continue(files(entry)), &|_, _| ())
}

/// What is below a folder, to be deleted elsewhere.
fn entries(folder: &Path) -> Vec<Entry<'static>> {
    let found = Mutex::new(Vec::new());
    let root = Root::open(folder).unwrap();
    walk(&root, &["".into()], &|entry| {
        found.lock().unwrap().push(entry.clone().into_owned());
        Continue(())
    });
    found.into_inner().unwrap()
}

/// The same files under other names.
fn renamed(entries: &[Entry<'static>], before: &str) -> Vec<Entry<'static>> {
    let name = |entry: &Entry<'static>| Path::new(before).join(&entry.path).into();
    entries.iter().map(|entry| Entry { path: name(entry), seen: entry.seen }).collect()
}

/// Says on its end, however that comes, that the other threads may end.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Swaps folders and files for links that lead out, and back, until it is told to stop.
fn swap(world: &World, is_over: &AtomicBool) {
    let below = |path: &str| world.at("root").join(path);
    let exchange = |one: &str, other: &str| renameat_with(CWD, below(one), CWD, below(other), RenameFlags::EXCHANGE);
    symlink(world.at("outside"), below("link")).unwrap();
    symlink(world.at("outside"), below("a/link")).unwrap();
    while !is_over.load(Ordering::Relaxed) {
        for name in ["a/b/f0", "a/b/f1", "a/b/link"] {
            let _ = fs::remove_file(below(name));
        }
        for name in ["a/b/f0", "a/b/f1"] {
            File::create_new(below(name)).unwrap();
        }
        symlink(world.at("outside/f0"), below("a/b/link")).unwrap();
        for (folder, link) in [("a", "link"), ("a/b", "a/link")] {
            exchange(folder, link).unwrap();
            thread::yield_now();
            exchange(folder, link).unwrap();
        }
        // The file may be swept meanwhile, on either name.
        let _ = exchange("a/b/f0", "a/b/link").and_then(|()| exchange("a/b/f0", "a/b/link"));
    }
}

#[test]
fn links_swapped_in_at_any_level_lead_nowhere() {
    let world = World::new();
    let before = world.outside();
    let root = world.root();
    // As if they had been seen in the root: only the way to them says that they are not.
    let theirs = entries(&world.at("outside"));
    let theirs = [renamed(&theirs, "a"), renamed(&theirs, "a/b")].concat();
    let is_over = AtomicBool::new(false);
    let (mut swept, mut opened, mut refused) = (0, 0, 0);
    thread::scope(|scope| {
        let _over = Over(&is_over);
        let swapping = scope.spawn(|| swap(&world, &is_over));
        for _ in 0..TRIES {
            let found = sweep_files(&root, "");
            assert_eq!(found.walked.failures.first, [], "a link in place of a folder is passed over");
            swept += found.files;
            assert!(unlink(&root, &theirs).iter().all(|fate| !matches!(fate, Fate::Gone { .. })));
            match root.open_at("a/b/f1".as_ref(), OFlags::WRONLY | OFlags::TRUNC, Mode::empty()) {
                Ok(file) => {
                    opened += 1;
                    let _ = File::from(file).write(b"ours");
                }
                Err(_) => refused += 1,
            }
            assert!(!swapping.is_finished());
        }
    });
    assert_eq!(world.outside(), before);
    // Both sides of the race were met.
    assert!(swept > 0 && opened + refused == TRIES && refused > 0, "{swept} swept, {opened} opened, {refused} not");
}

#[test]
fn paths_that_lead_up_are_refused() {
    let world = World::new();
    let before = world.outside();
    let root = world.root();
    let theirs = entries(&world.at("outside"));
    symlink("../../outside", world.at("root/a/up")).unwrap();
    for up in ["../outside", "a/../../outside", "a/b/../../../outside", "a/up", world.at("outside").to_str().unwrap()] {
        let swept = sweep_files(&root, up);
        assert_eq!((swept.files, swept.walked.failures.count), (0, 1), "{up}");
        for fate in unlink(&root, &renamed(&theirs, up)) {
            assert!(matches!(fate, Fate::Failed(_) | Fate::Changed), "{up}: {fate:?}");
        }
    }
    assert_eq!(world.outside(), before);
}

#[test]
fn hard_names_go_like_others() {
    let world = World::new();
    let before = world.outside();
    let long = [b'x'; 255];
    let names: [&[u8]; 9] = [b"a\nb", b"\xff\xfe", b"-rf", b"...", b"~", b"*", b"\x1b[2J", b"a (deleted)", &long];
    let fill = || {
        for name in names {
            let folder = world.at("root").join(OsStr::from_bytes(name));
            fs::create_dir_all(&folder).unwrap();
            for name in names {
                fs::write(folder.join(OsStr::from_bytes(name)), "ours").unwrap();
            }
        }
    };
    fill();
    let root = world.root();
    let seen = entries(&world.at("root"));
    assert_eq!(seen.len(), 81);
    assert!(unlink(&root, &seen).iter().all(|fate| matches!(fate, Fate::Gone { .. })));
    fill();
    let swept = sweep_files(&root, "");
    assert_eq!((swept.files, swept.walked.failures.count), (81, 0));
    assert_eq!(entries(&world.at("root")), []);
    assert_eq!(world.outside(), before);
}

#[test]
fn a_file_with_a_name_outside_loses_the_one_inside() {
    let world = World::new();
    let before = world.outside();
    fs::hard_link(world.at("outside/f0"), world.at("root/a/f0")).unwrap();
    fs::write(world.at("root/a/f1"), "ours").unwrap();
    let swept = sweep_files(&world.root(), "");
    assert_eq!(swept.files, 2);
    assert!(swept.freed_bytes > 0 && swept.freed_bytes <= 4_096, "only one of them frees anything");
    assert_eq!(world.outside(), before);
}

/// A mount, until it is dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(arguments: &[&str], from: &Path, at: PathBuf) -> Self {
        let status = Command::new("mount").args(arguments).arg(from).arg(&at).status().unwrap();
        assert!(status.success(), "mount needs root");
        Self(at)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // What is mounted must not be cleaned up with the folder that it is in.
        if !Command::new("umount").arg("-l").arg(&self.0).status().is_ok_and(|status| status.success()) {
            std::process::abort();
        }
    }
}

#[test]
fn mounts_are_not_entered() {
    let world = World::new();
    for folder in ["root/a/bound", "root/tmpfs"] {
        fs::create_dir(world.at(folder)).unwrap();
    }
    for file in ["root/a/f0", "root/a/bound-file"] {
        fs::write(world.at(file), "ours").unwrap();
    }
    let before = world.outside();
    let _folder = Mount::new(&["--bind"], &world.at("outside"), world.at("root/a/bound"));
    let _file = Mount::new(&["--bind"], &world.at("outside/f1"), world.at("root/a/bound-file"));
    let _other = Mount::new(&["-t", "tmpfs"], Path::new("none"), world.at("root/tmpfs"));
    fs::write(world.at("root/tmpfs/f0"), "theirs").unwrap();

    let root = world.root();
    assert_eq!(audit(&world.at("root")).unwrap().total.files, 1);
    let theirs = entries(&world.at("outside"));
    for fate in unlink(&root, &renamed(&theirs, "a/bound")) {
        assert!(matches!(fate, Fate::Changed), "{fate:?}");
    }
    let bound = theirs.iter().filter(|entry| entry.path.ends_with("f1") && entry.path.parent() == Some(Path::new("")));
    let bound: Vec<_> = bound.map(|entry| Entry { path: Path::new("a/bound-file").into(), seen: entry.seen }).collect();
    assert!(matches!(unlink(&root, &bound)[..], [Fate::Absent]));
    let swept = sweep_files(&root, "");
    assert_eq!((swept.files, swept.walked.failures.count), (1, 0));
    for below in ["a/bound", "tmpfs"] {
        let swept = sweep_files(&root, below);
        assert_eq!((swept.files, swept.walked.failures.count), (0, 1), "a mount that is named is said");
        assert!(root.open_at(&Path::new(below).join("f0"), OFlags::RDONLY, Mode::empty()).is_err());
    }
    assert_eq!(world.outside(), before);
    assert!(world.at("root/tmpfs/f0").exists());
}

#[test]
fn a_mount_is_a_root_of_its_own_and_a_home_stays_one_wherever_it_is_mounted() {
    let world = World::new();
    assert!(!world.root().is_mount().unwrap());
    {
        let _bound = Mount::new(&["--bind"], &world.at("outside"), world.at("root"));
        assert!(world.root().is_mount().unwrap());
        assert_eq!(sweep_files(&world.root(), "b").files, 2);
    }
    for home in [std::env::home_dir().unwrap(), "/".into()] {
        let _bound = Mount::new(&["-o", "bind,ro"], &home, world.at("root"));
        let error = Root::open(&world.at("root")).unwrap_err().to_string();
        assert!(error.contains("name a folder for this data alone"), "{error}");
    }
}

/// Another program, killed when it is dropped.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_another_process_deletes_and_creates_is_no_error() {
    const ROUNDS: usize = 50;
    const LOOP: &str = "echo ready; while :; do for d in 1 2 3 4 5 6 7 8 9; do mkdir -p $d/e; : > $d/f; : > $d/e/g; : > h$d; \
                        done; rm -rf 1 2 3 4 5 6 7 8 9; echo round; done";
    let world = World::new();
    let mut shell = Command::new("sh");
    let shell = shell.args(["-c", LOOP]).current_dir(world.at("root")).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut other = Other(shell.spawn().unwrap());
    let mut lines = BufReader::new(other.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let root = world.root();
    let is_over = AtomicBool::new(false);
    let (mut swept, mut gone) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _over = Over(&is_over);
            for _ in 0..ROUNDS {
                assert_eq!(lines.next().unwrap().unwrap(), "round");
            }
        });
        while !is_over.load(Ordering::Relaxed) {
            let seen = entries(&world.at("root"));
            gone += unlink(&root, &seen).iter().filter(|fate| matches!(fate, Fate::Gone { .. })).count();
            let found = sweep_files(&root, "");
            assert_eq!(found.walked.failures.first, []);
            swept += found.files;
            assert_eq!(audit(&world.at("root")).unwrap().failures, []);
        }
    });
    assert!(swept > 0 && gone > 0);
}
