//! Event logs that are rotated while other processes write to them: no line is lost, and none changes places.

use std::{
    env,
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use apalis_janitor::{
    host::{
        Root,
        rotate::{EventLog, How, Rotated, rotate},
    },
    report::Mode,
};
use flate2::read::GzDecoder;
use tempfile::TempDir;

const ROTATIONS: usize = 20;
/// How many lines a writer writes between two rotations, and during them.
const BATCH: usize = 1_000;
const LINES: usize = ROTATIONS * BATCH;
/// How long anything that a test waits for may take.
const DEADLINE: Duration = Duration::from_mins(1);

/// In the environment of a process that rotates until it is killed: where.
const ROTATE_IN: &str = "JANITOR_TESTS_ROTATE_IN";

/// Opens the log for each line.
const REOPENS: &str = r#"echo "$2 $i" >> "$1""#;
/// Holds it open for all of them.
const HOLDS: &str = r#"echo "$2 $i" >&3"#;
/// Holds it open, and writes each line in two parts.
const HALVES: &str = r#"printf %s "$2 " >&3; echo "$i" >&3"#;

/// A process that writes `BATCH` lines of its name and a number for each line that it is sent.
struct Writer {
    name: &'static str,
    process: Child,
    stdin: Option<ChildStdin>,
}

impl Writer {
    fn start(name: &'static str, line: &str, log: &Path) -> Self {
        let open = if line == REOPENS { "" } else { r#"exec 3>>"$1";"# };
        let script = format!(
            "{open} i=0; end=0; while read -r _; do end=$((end + {BATCH})); \
             while [ $i -lt $end ]; do {line}; i=$((i + 1)); done; done"
        );
        let mut command = Command::new("sh");
        command.args(["-ec", &script, "sh"]).arg(log).arg(name).stdin(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let stdin = process.stdin.take();
        Self { name, process, stdin }
    }

    fn write_batch(&mut self) {
        self.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    /// Waits until it has written all that it was told to.
    fn end(&mut self) {
        drop(self.stdin.take());
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A folder with one log.
struct World {
    temp: TempDir,
    root: Root,
}

impl World {
    fn new(on: &Path) -> Self {
        let temp = tempfile::tempdir_in(on).unwrap();
        let root = Root::open(temp.path()).unwrap();
        Self { temp, root }
    }

    fn log(&self) -> PathBuf {
        self.temp.path().join("log")
    }

    fn rotate(&self, wait: Duration) -> Rotated {
        rotate_log(&self.root, wait)
    }

    /// Lets the writers write, and rotates amid each batch.
    fn rotate_under(&self, writers: &mut [Writer], wait: Duration) {
        let began = Instant::now();
        for rotation in 0..ROTATIONS {
            writers.iter_mut().for_each(Writer::write_batch);
            while self.rotate(wait).how != How::Lease {
                assert!(began.elapsed() < DEADLINE, "rotation {rotation} did not come");
            }
        }
        writers.iter_mut().for_each(Writer::end);
        // Nobody holds anything any more.
        while !self.rotate(wait).notes.is_empty() {
            assert!(began.elapsed() < DEADLINE, "the old files did not go");
        }
    }

    /// The lines of each file, the oldest generation first and the live file last.
    fn files(&self) -> Vec<Vec<String>> {
        let number = |path: &PathBuf| -> usize {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.split('.').nth(1).map_or(0, |number| number.parse().unwrap())
        };
        let mut paths: Vec<_> = fs::read_dir(self.temp.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort_by_key(|path| std::cmp::Reverse(number(path)));
        paths.iter().map(|path| read(path).lines().map(str::to_owned).collect()).collect()
    }
}

fn rotate_log(root: &Root, wait: Duration) -> Rotated {
    let log = EventLog {
        path: "log".as_ref(),
        max_size: 4_000,
        keep_lines: 100,
        generations: 1_000,
        is_protected: &|_| false,
    };
    rotate(root, &log, Mode::Apply, Instant::now() + wait).unwrap()
}

fn read(path: &Path) -> String {
    let (mut text, mut file) = (String::new(), File::open(path).unwrap());
    if path.extension().is_some_and(|extension| extension == "gz") {
        GzDecoder::new(file).read_to_string(&mut text).unwrap();
    } else {
        file.read_to_string(&mut text).unwrap();
    }
    text
}

/// The numbers of a writer's lines.
fn numbers<'a>(lines: impl IntoIterator<Item = &'a String>, name: &str) -> Vec<usize> {
    let own = lines.into_iter().filter_map(|line| line.strip_prefix(name));
    own.map(|number| number.trim_start().parse().unwrap()).collect()
}

/// Each of the writer's lines is there once, and in order: over all files, or in each of them.
fn assert_whole(files: &[Vec<String>], writer: &Writer, is_ordered_over_all: bool) {
    let name = writer.name;
    let mut all = numbers(files.iter().flatten(), name);
    if !is_ordered_over_all {
        for file in files {
            assert!(numbers(file, name).is_sorted(), "{name}: out of order");
        }
        all.sort_unstable();
    }
    assert!(all == Vec::from_iter(0..LINES), "{name}: {} lines, not each once and in order", all.len());
}

/// Three kinds of writers with a log each, 60,000 lines in all.
fn lose_no_line(on: &Path) {
    thread::scope(|scope| {
        for (name, line) in [("reopens", REOPENS), ("holds", HOLDS), ("halves", HALVES)] {
            scope.spawn(move || {
                let world = World::new(on);
                let mut writers = [Writer::start(name, line, &world.log())];
                // Who holds the file does not let go: there is nothing to wait for.
                let wait = if line == REOPENS { Duration::from_secs(5) } else { Duration::from_millis(20) };
                world.rotate_under(&mut writers, wait);
                let files = world.files();
                assert!(files.len() > ROTATIONS, "{} files", files.len());
                assert_eq!(files.iter().map(Vec::len).sum::<usize>(), LINES, "{name}");
                assert_whole(&files, &writers[0], line == REOPENS);
            });
        }
    });
}

#[test]
fn no_line_is_lost_on_a_disk() {
    lose_no_line(Path::new(env!("CARGO_TARGET_TMPDIR")));
}

#[test]
fn no_line_is_lost_on_a_tmpfs() {
    let tmpfs = Path::new("/dev/shm");
    let kind = rustix::fs::statfs(tmpfs).unwrap().f_type;
    assert_eq!(kind, 0x0102_1994, "/dev/shm is no tmpfs: mount one there");
    lose_no_line(tmpfs);
}

#[test]
fn no_line_is_lost_of_several_writers_of_one_log() {
    let world = World::new(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let mut writers = [("a", REOPENS), ("b", HOLDS), ("c", REOPENS), ("d", HOLDS)]
        .map(|(name, line)| Writer::start(name, line, &world.log()));
    // Those that open it for each line must have time to write the one that they are at.
    world.rotate_under(&mut writers, Duration::from_secs(2));
    let files = world.files();
    assert_eq!(files.iter().map(Vec::len).sum::<usize>(), 4 * LINES);
    for writer in &writers {
        assert_whole(&files, writer, false);
    }
}

/// How many files a rotation has not finished with.
fn unfinished(folder: &Path) -> usize {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_str().unwrap().contains("rotating")).count()
}

#[test]
fn a_rotation_that_is_killed_loses_nothing() {
    if let Some(folder) = env::var_os(ROTATE_IN) {
        let root = Root::open(folder.as_ref()).unwrap();
        loop {
            rotate_log(&root, Duration::from_secs(5));
        }
    }
    let world = World::new(Path::new(env!("CARGO_TARGET_TMPDIR")));
    File::create(world.log()).unwrap();
    let inode = || fs::metadata(world.log()).unwrap().ino();
    let mut writer = Writer::start("reopens", REOPENS, &world.log());
    let began = Instant::now();
    let mut amid = 0;
    for kill in 0..ROTATIONS {
        let before = inode();
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "disk_rotate::a_rotation_that_is_killed_loses_nothing"]).stdout(Stdio::null());
        let mut rotating = command.env(ROTATE_IN, world.temp.path()).spawn().unwrap();
        writer.write_batch();
        // Each time a little later in what it does.
        while unfinished(world.temp.path()) == 0 && inode() == before {
            assert!(began.elapsed() < DEADLINE, "rotation {kill} did not come");
            thread::yield_now();
        }
        (0..kill * 50).for_each(|_| thread::yield_now());
        rotating.kill().unwrap();
        rotating.wait().unwrap();
        amid += usize::from(unfinished(world.temp.path()) > 0);
    }
    writer.end();
    assert!(amid > 0, "no rotation was caught");
    for _ in 0..2 {
        world.rotate(Duration::from_secs(5));
    }
    assert_eq!(unfinished(world.temp.path()), 0);
    // What was being brought may be there twice.
    let mut all = numbers(world.files().iter().flatten(), writer.name);
    all.sort_unstable();
    all.dedup();
    assert!(all == Vec::from_iter(0..LINES), "{} lines", all.len());
}
