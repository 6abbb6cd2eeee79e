//! A sweep by age against `find -delete`, and against two threads that delete without a look at what it is; how long a
//! writer waits beside a paced sweep; and how much memory a walk takes.
//!
//! `cargo bench --bench disk` takes some minutes, `-- quick` a tenth of the files, `-- /a/folder` does it there. Each ratio is
//! of two figures measured one after the other, each way on a tree of its own, made anew and synced; and the median of all
//! rounds.

#![allow(clippy::unwrap_used, reason = "a benchmark that panics fails, which is what is wanted")]

use std::{
    fs::{self, File},
    io::Write,
    mem::MaybeUninit,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use apalis_janitor::{
    Janitor,
    config::Config,
    host::{Act, Modified, Root, audit_of, sweep},
    report,
};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, openat, unlinkat};

const ROUNDS: usize = 5;
const FOLDERS: usize = 400;
/// How many files there are, and how many of them stay.
const FILES: usize = 210_000;
const YOUNG: usize = 10_000;
const SIZE: usize = 512;
const DAY: Duration = Duration::from_hours(24);
/// What the names of aged files begin with, for who does not look at their age.
const AGED: &[u8] = b"old";
const AUDITED: usize = 1_000_000;
/// How long a paced sweep lasts, and how often somebody writes meanwhile.
const PACED_SECS: usize = 10;
const WRITE_PAUSE: Duration = Duration::from_millis(1);

fn main() {
    let mut scale = 1;
    let mut place = std::env::temp_dir();
    for argument in std::env::args().skip(1).filter(|argument| !argument.starts_with("--")) {
        if argument == "quick" {
            scale = 10;
        } else {
            place = PathBuf::from(argument);
        }
    }
    let folder = tempfile::tempdir_in(place).unwrap();
    deletes(folder.path(), scale);
    beside_a_writer(folder.path(), scale);
    for folders in [1, 1_000] {
        memory(folder.path(), AUDITED / scale, folders);
    }
}

/// The three ways take turns, each on a tree of its own.
fn deletes(folder: &Path, scale: usize) {
    let (mut against_find, mut against_floor) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let mut times = [Duration::ZERO; 3];
        for turn in 0..3 {
            // None is always the first, or the last.
            let way = (turn + round) % 3;
            let place = folder.join("tree");
            tree(&place, FILES / scale, YOUNG / scale, FOLDERS);
            let began = Instant::now();
            match way {
                0 => ours(&place, (FILES - YOUNG) / scale),
                1 => find(&place),
                _ => floor(&place),
            }
            times[way] = began.elapsed();
            let left: usize =
                fs::read_dir(&place).unwrap().map(|one| fs::read_dir(one.unwrap().path()).unwrap().count()).sum();
            assert_eq!(left, YOUNG / scale);
            fs::remove_dir_all(&place).unwrap();
        }
        let [ours, find, floor] = times;
        println!("{ours:.3?} of ours, {find:.3?} of find, {floor:.3?} of the floor");
        against_find.push(find.as_secs_f64() / ours.as_secs_f64());
        against_floor.push(ours.as_secs_f64() / floor.as_secs_f64());
    }
    println!(
        "sweep of {} among {} files: {:.2} x as fast as find -delete, {:.2} x the time of the floor",
        (FILES - YOUNG) / scale,
        FILES / scale,
        median(against_find),
        median(against_floor)
    );
}

/// How long each write of a program takes, first alone and then beside a sweep of the job `disk` with a `rate_limit`.
fn beside_a_writer(folder: &Path, scale: usize) {
    let place = folder.join("data");
    let write = |synced: bool, is_over: &AtomicBool| {
        let mut took = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            let began = Instant::now();
            let mut log = File::options().create(true).append(true).open(place.join("events.jsonl")).unwrap();
            log.write_all(&[b'x'; 200]).unwrap();
            if synced {
                log.sync_data().unwrap();
            }
            took.push(began.elapsed());
            thread::sleep(WRITE_PAUSE);
        }
        took.sort_unstable();
        took[took.len() * 99 / 100]
    };
    let beside = |synced: bool, other: &mut dyn FnMut()| {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let writer = scope.spawn(|| write(synced, &is_over));
            other();
            is_over.store(true, Ordering::Relaxed);
            writer.join().unwrap()
        })
    };
    for (synced, what) in [(false, "appended"), (true, "appended and synced")] {
        let mut ratios = Vec::new();
        for _ in 0..ROUNDS {
            tree(&place, FILES / scale, YOUNG / scale, FOLDERS);
            let mut took = Duration::ZERO;
            let swept =
                beside(synced, &mut || took = paced(folder, FILES / scale / PACED_SECS, (FILES - YOUNG) / scale));
            let idle = beside(synced, &mut || thread::sleep(took));
            println!("99 of 100 lines {what} in {swept:.3?} beside a sweep of {took:.1?}, in {idle:.3?} alone");
            ratios.push(swept.as_secs_f64() / idle.as_secs_f64());
            fs::remove_dir_all(&place).unwrap();
        }
        println!("p99 of a line {what} beside a paced sweep: {:.2} x that alone", median(ratios));
    }
}

/// Sweeps `data` by the job, with so many files a second; answers how long it took.
fn paced(folder: &Path, rate: usize, expected: usize) -> Duration {
    let file = folder.join("janitor.toml");
    let job = format!("data_dir = \"home\"\n[jobs.disk]\nkind = \"disk\"\nroot = \"data\"\nrate_limit = {rate}\n");
    fs::write(&file, job).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let began = Instant::now();
    let done = runtime.block_on(async {
        let janitor = Janitor::connect(Config::load(&file).unwrap()).await.unwrap();
        janitor.run("disk", report::Mode::Apply).await.unwrap()
    });
    assert_eq!(done.deleted.get("files"), expected as u64, "{done:?}");
    began.elapsed()
}

fn median(mut ratios: Vec<f64>) -> f64 {
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

/// A tree on the disk, with the young among the aged, which are temporaries that their writer has left.
fn tree(place: &Path, files: usize, young: usize, folders: usize) {
    let aged = SystemTime::now() - 30 * DAY;
    for folder in 0..folders {
        let folder_path = place.join(format!("{folder:04}"));
        fs::create_dir_all(&folder_path).unwrap();
        for number in (folder..files).step_by(folders) {
            let is_young = number % (files / young) == 0;
            let name =
                if is_young { format!("new-{number}.png") } else { format!("old-{number}.png.tmp.1700000000000") };
            let mut file = File::create(folder_path.join(name)).unwrap();
            file.write_all(&[7; SIZE]).unwrap();
            if !is_young {
                file.set_modified(aged).unwrap();
            }
        }
    }
    rustix::fs::sync();
}

fn ours(place: &Path, expected: usize) {
    let cutoff = Modified::from(chrono::DateTime::<chrono::Utc>::from(SystemTime::now() - 7 * DAY));
    let root = Root::open(place).unwrap();
    let goes = |entry: &apalis_janitor::host::Entry<'_>| ControlFlow::Continue(entry.seen.modified < cutoff);
    let swept = sweep(&root, &[PathBuf::new()], Act::Unlink, &goes, &|_, _| ());
    assert_eq!((swept.files, swept.walked.failures.count), (expected as u64, 0));
}

fn find(place: &Path) {
    let arguments = ["-mindepth", "1", "-type", "f", "-mtime", "+7", "-delete"];
    assert!(Command::new("find").arg(place).args(arguments).status().unwrap().success());
}

/// Two threads that unlink by name alone.
fn floor(place: &Path) {
    let folders: Vec<_> = fs::read_dir(place).unwrap().map(|one| one.unwrap().path()).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut piece = vec![MaybeUninit::uninit(); 32 * 1024];
        while let Some(folder) = folders.get(next.fetch_add(1, Ordering::Relaxed)) {
            let handle = openat(CWD, folder, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
            let mut entries = RawDir::new(&handle, &mut piece);
            while let Some(entry) = entries.next() {
                let entry = entry.unwrap();
                if entry.file_name().to_bytes().starts_with(AGED) {
                    unlinkat(&handle, entry.file_name(), AtFlags::empty()).unwrap();
                }
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
}

/// How much memory an audit and a dry run of many files take.
fn memory(folder: &Path, files: usize, folders: usize) {
    let place = folder.join("many");
    let made = AtomicUsize::new(0);
    let failed = Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let number = made.fetch_add(1, Ordering::Relaxed);
                    if number >= files || failed.lock().unwrap().is_some() {
                        return;
                    }
                    let path = place.join(format!("{}", number % folders));
                    let is_made = fs::create_dir_all(&path).and_then(|()| File::create(path.join(format!("{number}"))));
                    if let Err(error) = is_made {
                        *failed.lock().unwrap() = Some(error);
                    }
                }
            });
        }
    });
    assert!(failed.into_inner().unwrap().is_none());
    let root = Root::open(&place).unwrap();
    // Only what is used from here on counts.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = peak();
    let began = Instant::now();
    assert_eq!(audit_of(&root).total.files, files as u64);
    let audited = began.elapsed();
    let told = sweep(&root, &[PathBuf::new()], Act::Tell, &|_| ControlFlow::Continue(true), &|_, _| ());
    assert_eq!(told.files, files as u64);
    println!(
        "audit of {files} files in {folders} folders: {audited:.2?}; at most {} KiB of memory, {before} before",
        peak()
    );
    fs::remove_dir_all(&place).unwrap();
}

/// The most memory that this process has had, in KiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
