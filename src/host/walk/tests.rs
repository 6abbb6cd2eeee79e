use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::ControlFlow::{Break, Continue},
    os::unix::fs::symlink,
    panic::{AssertUnwindSafe, catch_unwind},
};

use tempfile::TempDir;

use super::*;
use crate::host::{Act, sweep};

/// A folder with these files in it.
fn world(files: &[&str]) -> (TempDir, Root) {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    let root = Root::open(folder.path()).unwrap();
    (folder, root)
}

/// How often each file is shown, and what came of the walk.
fn shown(root: &Root, below: &[&str]) -> (BTreeMap<PathBuf, usize>, Walked) {
    let seen = Mutex::new(BTreeMap::new());
    let below: Vec<_> = below.iter().map(PathBuf::from).collect();
    let walked = walk(root, &below, &|entry| {
        *seen.lock().unwrap().entry(entry.path.to_path_buf()).or_default() += 1;
        Continue(())
    });
    (seen.into_inner().unwrap(), walked)
}

fn once(files: &[&str]) -> BTreeMap<PathBuf, usize> {
    files.iter().map(|file| (PathBuf::from(file), 1)).collect()
}

#[test]
fn shows_each_file_once_wherever_it_lies() {
    let (folder, root) = world(&["a", "images/b", "images/deep/c", "videos/d", "images-old/e"]);
    symlink("..", folder.path().join("videos/up")).unwrap();
    let (seen, walked) = shown(&root, &[""]);
    assert_eq!(seen, once(&["a", "images/b", "images/deep/c", "videos/d", "videos/up", "images-old/e"]));
    assert_eq!((walked.files, walked.folders, walked.failures.count, walked.is_stopped), (6, 5, 0, false));
    let (seen, walked) = shown(&root, &["./images/deep", "images/", "images", "absent", "images-old"]);
    assert_eq!(seen, once(&["images/b", "images/deep/c", "images-old/e"]));
    assert_eq!(walked.failures.count, 0);
}

#[test]
fn says_what_is_named_and_no_folder_of_its_own() {
    let (folder, root) = world(&["file", "images/b"]);
    symlink("images", folder.path().join("link")).unwrap();
    let (seen, walked) = shown(&root, &["file", "link", "../images", "/images", "images"]);
    assert_eq!(seen, once(&["images/b"]));
    let failed: BTreeSet<_> = walked.failures.first.iter().map(|failure| failure.item.as_str()).collect();
    assert_eq!(failed, BTreeSet::from(["file", "link", "../images", "/images"]));
    assert_eq!(walked.failures.count, 4);
}

#[test]
fn folders_may_be_many_and_deep() {
    let folder = tempfile::tempdir().unwrap();
    for wide in 0..300 {
        fs::create_dir(folder.path().join(format!("{wide}"))).unwrap();
        fs::write(folder.path().join(format!("{wide}/file")), "").unwrap();
    }
    // Deeper than folders are held open, in each of several.
    for wide in 0..4 {
        let mut path = folder.path().join(format!("{wide}"));
        for deep in 0..OPEN_MAX * 3 {
            path.push("d");
            fs::create_dir(&path).unwrap();
            fs::write(path.join(format!("{deep}")), "").unwrap();
        }
    }
    let (seen, walked) = shown(&Root::open(folder.path()).unwrap(), &[""]);
    assert_eq!(seen.len(), 300 + 4 * OPEN_MAX * 3);
    assert!(seen.values().all(|times| *times == 1));
    assert_eq!((walked.folders, walked.failures.count), (301 + 4 * OPEN_MAX as u64 * 3, 0));
}

#[test]
fn a_folder_that_no_path_reaches_is_counted_and_the_rest_goes_on() {
    let (folder, root) = world(&["near"]);
    let name = "x".repeat(255);
    let mut above = fs::File::open(folder.path()).unwrap();
    // Seventeen names of 255 bytes are more than a path may have.
    for _ in 0..17 {
        rustix::fs::mkdirat(&above, &*name, Mode::RWXU).unwrap();
        above = rustix::fs::openat(&above, &*name, FOLDER, Mode::empty()).unwrap().into();
    }
    let (seen, walked) = shown(&root, &[""]);
    assert_eq!(seen, once(&["near"]));
    assert_eq!((walked.failures.count, walked.failures.first.len()), (1, 1));
}

#[test]
fn ends_when_the_visitor_says_so() {
    let files: Vec<_> = (0..500).map(|number| format!("{}/{number}", number % 100)).collect();
    let (_folder, root) = world(&files.iter().map(String::as_str).collect::<Vec<_>>());
    let count = AtomicU64::new(0);
    let walked = walk(&root, &["".into()], &|_| {
        if count.fetch_add(1, Ordering::Relaxed) < 10 { Continue(()) } else { Break(()) }
    });
    assert!(walked.is_stopped);
    // Each thread ends after the one that it has in hand.
    assert!(walked.files <= 12, "{}", walked.files);
}

#[test]
fn a_visitor_that_panics_leaves_nobody_waiting() {
    let files: Vec<_> = (0..200).map(|number| format!("{number}/file")).collect();
    let (_folder, root) = world(&files.iter().map(String::as_str).collect::<Vec<_>>());
    let panicked = catch_unwind(AssertUnwindSafe(|| walk(&root, &["".into()], &|_| panic!("a visitor"))));
    assert!(panicked.is_err());
}

#[test]
fn a_dry_run_names_what_a_sweep_deletes() {
    let files: Vec<_> = (0..1_000).map(|number| format!("{}/{}/{number}", number % 5, number % 50)).collect();
    let (folder, root) = world(&files.iter().map(String::as_str).collect::<Vec<_>>());
    let run = |act| {
        let went = Mutex::new(BTreeSet::new());
        let goes = |entry: &Entry<'_>| Continue(entry.path.to_str().unwrap().ends_with('7'));
        let swept = sweep(&root, &["".into()], act, &goes, &|entry, freed| {
            assert!(went.lock().unwrap().insert((entry.path.to_path_buf(), freed)));
        });
        (swept.files, swept.freed_bytes, went.into_inner().unwrap())
    };
    let told = run(Act::Tell);
    assert_eq!(told.0, 100);
    assert!(told.1 > 0 && told.2.iter().all(|(path, _)| folder.path().join(path).exists()));
    assert_eq!(run(Act::Unlink), told);
    assert!(told.2.iter().all(|(path, _)| !folder.path().join(path).exists()));
    assert_eq!(shown(&root, &[""]).0.len(), 900);
    assert_eq!(run(Act::Unlink), (0, 0, BTreeSet::new()));
}

#[test]
fn a_folder_that_is_moved_away_is_left_alone() {
    let (folder, _) = world(&[]);
    fs::create_dir_all(folder.path().join("root/images")).unwrap();
    for number in 0..1_000 {
        fs::write(folder.path().join(format!("root/images/{number}")), "").unwrap();
    }
    let root = Root::open(&folder.path().join("root")).unwrap();
    let moved = folder.path().join("saved");
    let swept = sweep(&root, &["images".into()], Act::Unlink, &|_| Continue(true), &|_, _| {
        if !moved.exists() {
            fs::rename(folder.path().join("root/images"), &moved).unwrap();
        }
    });
    assert!(swept.files <= CHECKED_EVERY, "{}", swept.files);
    assert_eq!(fs::read_dir(&moved).unwrap().count() as u64, 1_000 - swept.files);
}
