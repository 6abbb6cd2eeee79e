//! One log, rotated under writers of this process.

mod crashes;

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use flate2::read::GzDecoder;
use tempfile::TempDir;

use super::*;

/// A folder with a log of `line 0`, `line 1` and so on.
struct World {
    temp: TempDir,
    root: Root,
    keep_lines: u64,
    generations: u32,
    faults: Faults,
    written: u64,
}

impl World {
    fn new(lines: u64) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let root = Root::open(temp.path()).unwrap();
        let mut this = Self { temp, root, keep_lines: 10, generations: 0, faults: Faults::default(), written: 0 };
        this.write(lines);
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn open(&self) -> fs::File {
        OpenOptions::new().append(true).create(true).open(self.path("log")).unwrap()
    }

    /// Appends so many lines to `file`.
    fn write_to(&mut self, mut file: &fs::File, lines: u64) {
        for _ in 0..lines {
            file.write_all(format!("line {}\n", self.written).as_bytes()).unwrap();
            self.written += 1;
        }
    }

    fn write(&mut self, lines: u64) {
        self.write_to(&self.open(), lines);
    }

    fn rotate_in(&self, mode: Mode, wait: Duration) -> Result<Rotated, RotateError> {
        let (keep_lines, generations) = (self.keep_lines, self.generations);
        let log = EventLog { path: "log".as_ref(), max_size: 150, keep_lines, generations, is_protected: &|_| false };
        rotate_over(&self.root, &log, mode, Instant::now() + wait, self.faults.clone())
    }

    /// Rotates without waiting for holders, as is asked for by a deadline that is over.
    fn rotate(&self) -> Rotated {
        self.rotate_in(Mode::Apply, Duration::ZERO).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.temp.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.path(name)).unwrap();
        if Path::new(name).extension().is_none_or(|extension| extension != "gz") {
            return String::from_utf8(bytes).unwrap();
        }
        let mut text = String::new();
        GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
        text
    }

    /// All generations, oldest first, and the live file.
    fn history(&self) -> String {
        let mut names = self.names();
        let number = |name: &str| name.split('.').nth(1).map_or(0, |number| number.parse::<u32>().unwrap());
        names.sort_by_key(|name| std::cmp::Reverse(number(name)));
        names.iter().map(|name| self.read(name)).collect()
    }

    /// Lines `from` up to those that were written last.
    fn lines(&self, from: u64) -> String {
        lines_of(from..self.written)
    }
}

fn lines_of(numbers: impl Iterator<Item = u64>) -> String {
    numbers.flat_map(|number| ["line ".to_owned(), number.to_string(), "\n".to_owned()]).collect()
}

#[test]
fn the_live_file_keeps_its_last_lines_and_its_mode() {
    let world = World::new(100);
    fs::set_permissions(world.path("log"), Permissions::from_mode(0o640)).unwrap();
    let inode = fs::metadata(world.path("log")).unwrap().ino();
    let rotated = world.rotate();
    let dropped = 10 * "line 0\n".len() as u64 + 80 * "line 10\n".len() as u64;
    let expected =
        Rotated { lines_dropped: 90, bytes_dropped: dropped, bytes_freed: dropped, how: How::Lease, notes: Vec::new() };
    assert_eq!(rotated, expected);
    assert_eq!((world.read("log"), world.names()), (world.lines(90), vec!["log".to_owned()]));
    let metadata = fs::metadata(world.path("log")).unwrap();
    assert_ne!(metadata.ino(), inode);
    assert_eq!(metadata.mode() & 0o7777, 0o640);
    assert_eq!(world.rotate(), Rotated::new(How::NotDue));
}

#[test]
fn a_dry_run_says_what_would_go_and_writes_nothing() {
    let mut world = World::new(100);
    world.generations = 2;
    let before = fs::metadata(world.path("log")).unwrap();
    let planned = world.rotate_in(Mode::DryRun, Duration::ZERO).unwrap();
    assert_eq!((planned.how, planned.bytes_freed), (How::Planned, 0));
    world.generations = 0;
    let planned = world.rotate_in(Mode::DryRun, Duration::ZERO).unwrap();
    let after = fs::metadata(world.path("log")).unwrap();
    assert_eq!((before.ino(), before.mtime_nsec()), (after.ino(), after.mtime_nsec()));
    assert_eq!(world.names(), ["log"]);
    assert_eq!(Rotated { how: How::Lease, ..planned }, world.rotate());
}

#[test]
fn what_is_not_due_stays() {
    let world = World::new(10);
    assert_eq!(world.rotate(), Rotated::new(How::NotDue));
    fs::remove_file(world.path("log")).unwrap();
    assert_eq!(world.rotate(), Rotated::new(How::NotDue));
    assert_eq!(world.names(), Vec::<String>::new());
    // One endless line is one of the last ten.
    fs::write(world.path("log"), vec![b'x'; 1 << 20]).unwrap();
    let rotated = world.rotate();
    assert_eq!((rotated.how, rotated.notes.len()), (How::NotDue, 1));
    assert_eq!(fs::metadata(world.path("log")).unwrap().len(), 1 << 20);
}

#[test]
fn bytes_stay_as_they_are() {
    for (text, kept) in [
        ("first\r\n".repeat(40) + "last\r\n", "first\r\n".repeat(9) + "last\r\n"),
        ("first\n".repeat(40) + "no end", "first\n".repeat(9) + "no end"),
        (
            format!("{}\nend", "x".repeat(1 << 20)).repeat(11),
            format!("end{}", format!("{}\nend", "x".repeat(1 << 20)).repeat(9)),
        ),
        ("\n".repeat(400), "\n".repeat(10)),
    ] {
        let world = World::new(0);
        fs::write(world.path("log"), &text).unwrap();
        assert_eq!(world.rotate().how, How::Lease);
        assert!(world.read("log") == kept);
        assert_eq!(world.names(), ["log"]);
    }
}

#[test]
fn what_is_no_file_is_refused() {
    let world = World::new(100);
    let refused = |what: &str| match world.rotate_in(Mode::Apply, Duration::ZERO).unwrap_err() {
        RotateError::Refused { path, why } => assert!(path == Path::new("log") && why.contains(what), "{why}"),
        RotateError::Failed { source, .. } => panic!("{source}"),
    };
    fs::hard_link(world.path("log"), world.path("other")).unwrap();
    refused("second name");
    fs::remove_file(world.path("log")).unwrap();
    symlink("other", world.path("log")).unwrap();
    refused("symbolic link");
    fs::remove_file(world.path("log")).unwrap();
    fs::create_dir(world.path("log")).unwrap();
    refused("no regular file");
    fs::remove_dir(world.path("log")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        world.path("log"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    refused("no regular file");
    assert_eq!(world.read("other"), world.lines(0));
}

#[test]
fn what_is_protected_is_refused() {
    let world = World::new(100);
    for protected in ["log", "log.1", "log.2.gz"] {
        let is_protected = |path: &Path| path == Path::new(protected);
        let log = EventLog {
            path: "log".as_ref(),
            max_size: 150,
            keep_lines: 10,
            generations: 2,
            is_protected: &is_protected,
        };
        for mode in [Mode::DryRun, Mode::Apply] {
            let error = rotate(&world.root, &log, mode, Instant::now()).unwrap_err();
            assert!(error.to_string().starts_with(&format!("{protected}: is protected")), "{error}");
        }
    }
    assert_eq!((world.read("log"), world.names()), (world.lines(0), vec!["log".to_owned()]));
}

#[test]
fn generations_and_the_live_file_are_the_whole_log() {
    let mut world = World::new(0);
    world.generations = 3;
    let deadline = Duration::from_mins(1);
    for round in 1..=3 {
        world.write(100);
        assert_eq!(world.rotate_in(Mode::Apply, deadline).unwrap().how, How::Lease);
        assert_eq!(world.history(), world.lines(0), "round {round}");
    }
    assert_eq!(world.names(), ["log", "log.1", "log.2.gz", "log.3.gz"]);
    // The oldest one goes.
    world.write(100);
    assert!(world.rotate_in(Mode::Apply, deadline).unwrap().bytes_freed > 0);
    assert_eq!((world.history(), world.names().len()), (world.lines(90), 4));
    // Fewer are kept: the others go.
    world.generations = 1;
    world.write(100);
    world.rotate_in(Mode::Apply, deadline).unwrap();
    assert_eq!((world.history(), world.names()), (world.lines(390), vec!["log".to_owned(), "log.1".to_owned()]));
}

#[test]
fn files_that_look_like_generations_stay_where_none_are_kept() {
    let mut world = World::new(100);
    for name in ["log.1", "log.2.gz", "log.20260101", "log.rotating-x"] {
        fs::write(world.path(name), "").unwrap();
    }
    world.rotate();
    assert_eq!(world.names().len(), 5);
    world.generations = 1;
    world.write(100);
    world.rotate();
    // What goes on from the first one is taken for ours.
    assert_eq!(world.names(), ["log", "log.1", "log.20260101", "log.rotating-x"]);
}

#[test]
fn a_generation_that_is_written_to_is_not_compressed() {
    let mut world = World::new(100);
    (world.generations, world.keep_lines) = (2, 0);
    world.rotate();
    let held = OpenOptions::new().append(true).open(world.path("log.1")).unwrap();
    world.write(100);
    world.rotate_in(Mode::Apply, Duration::from_mins(1)).unwrap();
    assert_eq!(world.names(), ["log", "log.1", "log.2"]);
    (&held).write_all(b"late\n").unwrap();
    drop(held);
    world.rotate_in(Mode::Apply, Duration::from_mins(1)).unwrap();
    assert_eq!(world.names(), ["log", "log.1", "log.2.gz"]);
    assert!(world.read("log.2.gz").ends_with("line 99\nlate\n"));
}

#[test]
fn a_holder_that_stays_is_served_by_each_sweep() {
    let mut world = World::new(100);
    let held = world.open();
    let rotated = world.rotate();
    assert_eq!((rotated.how, rotated.bytes_freed, rotated.notes.len()), (How::Lease, 0, 1));
    assert_eq!((world.read("log"), world.names().len()), (world.lines(90), 2));
    world.write_to(&held, 5);
    world.write(1);
    let rotated = world.rotate();
    assert_eq!((rotated.how, rotated.notes.len()), (How::NotDue, 1));
    assert_eq!(world.read("log"), lines_of((90..100).chain([105]).chain(100..105)));
    drop(held);
    assert_eq!(world.rotate().notes, Vec::<String>::new());
    assert_eq!(world.names(), ["log"]);
}

#[test]
fn the_disk_gets_back_what_a_holder_that_stays_has_written() {
    let mut world = World::new(50_000);
    let held = world.open();
    let size = fs::metadata(world.path("log")).unwrap().len();
    assert_eq!(world.rotate().bytes_freed, 0);
    assert!(world.rotate().bytes_freed > size - (1 << 16));
    world.write_to(&held, 5);
    world.rotate();
    assert!(held.metadata().unwrap().blocks() * 512 < 1 << 16);
    assert!(world.read("log").ends_with(&world.lines(50_000)));
}

#[test]
fn half_a_line_stays_with_its_other_half() {
    let mut world = World::new(100);
    let held = world.open();
    (&held).write_all(b"line ").unwrap();
    world.rotate();
    assert_eq!(world.read("log"), world.lines(91));
    world.write(1);
    world.rotate();
    (&held).write_all(b"one\n").unwrap();
    drop(held);
    world.rotate();
    assert_eq!((world.read("log"), world.names()), (world.lines(91) + "line one\n", vec!["log".to_owned()]));
}

#[test]
fn a_holder_that_lets_go_in_time_has_all_its_lines_in_order() {
    let world = Mutex::new(World::new(100));
    let (held, live) = {
        let world = world.lock().unwrap();
        (world.open(), world.path("log"))
    };
    let inode = held.metadata().unwrap().ino();
    (&held).write_all(b"half").unwrap();
    thread::scope(|scope| {
        let rotation = scope.spawn(|| world.lock().unwrap().rotate_in(Mode::Apply, Duration::from_mins(1)).unwrap());
        while fs::metadata(&live).unwrap().ino() == inode {
            assert!(!rotation.is_finished());
            thread::yield_now();
        }
        let opener =
            scope.spawn(|| OpenOptions::new().append(true).open(&live).unwrap().write_all(b"after\n").unwrap());
        (&held).write_all(b" and half\nmore\n").unwrap();
        drop(held);
        assert_eq!(rotation.join().unwrap().notes, Vec::<String>::new());
        opener.join().unwrap();
    });
    let world = world.into_inner().unwrap();
    assert_eq!(world.read("log"), world.lines(91) + "half and half\nmore\nafter\n");
    assert_eq!(world.names(), ["log"]);
}

#[test]
fn who_is_amid_a_line_in_the_live_file_is_not_interrupted_by_a_holder_s_lines() {
    let mut world = World::new(100);
    let first = world.open();
    world.rotate();
    let second = world.open();
    (&second).write_all(b"half").unwrap();
    world.write_to(&first, 2);
    // The log gets a new file, though it is small: in the one that it has somebody is in the middle of a line.
    world.rotate();
    (&second).write_all(b" and half\n").unwrap();
    drop((first, second));
    world.rotate();
    assert_eq!((world.read("log"), world.names()), (world.lines(90) + "half and half\n", vec!["log".to_owned()]));
}

#[test]
fn a_second_rotation_in_the_folder_does_nothing() {
    let world = World::new(100);
    let folder = fs::File::open(world.temp.path()).unwrap();
    rustix::fs::flock(&folder, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert_eq!(world.rotate(), Rotated::new(How::Busy));
    drop(folder);
    assert_eq!(world.rotate().how, How::Lease);
}

#[test]
fn several_sweepers_lose_nothing() {
    let mut world = World::new(0);
    world.generations = 1_000;
    let (rotated, path, mut written) = (AtomicU32::new(0), world.path("log"), 0);
    thread::scope(|scope| {
        let sweepers = [(); 4].map(|()| {
            scope.spawn(|| {
                while rotated.load(Ordering::Acquire) < 20 {
                    if world.rotate_in(Mode::Apply, Duration::from_secs(5)).unwrap().how == How::Lease {
                        rotated.fetch_add(1, Ordering::AcqRel);
                    }
                }
            })
        });
        while !sweepers.iter().any(thread::ScopedJoinHandle::is_finished) {
            let mut file = OpenOptions::new().append(true).create(true).open(&path).unwrap();
            file.write_all(format!("line {written}\n").as_bytes()).unwrap();
            written += 1;
        }
    });
    world.rotate_in(Mode::Apply, Duration::from_secs(5)).unwrap();
    world.written = written;
    assert!(world.history() == world.lines(0));
}
