//! References become null while other processes rewrite the document, at full speed.

use std::{
    env, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use apalis_janitor::host::{
    Root,
    references::{Nulled, ReferenceError, Source, null},
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How many posts a writer adds, each with a change of its own; then it changes them again.
const POSTS: u64 = 1_000;
const POSTS_IN_PLACE: u64 = 300;
/// So many changes mean that nobody stops the writer.
const CHANGES_MAX: u64 = 100_000;
/// How many files go while it writes.
const NULLINGS: u64 = 200;
/// How often a string becomes null that lies across two pages.
const CROSSINGS: u32 = 2_000;
/// Makes a test another process's part of it: the part, and the folder.
const PART: [&str; 2] = ["JANITOR_TEST_PART", "JANITOR_TEST_FOLDER"];
const BACKUPS: &str = ".janitor";

fn posts() -> Source {
    Source { path: "posts.json".into(), fields: vec!["imageUrl".to_owned()] }
}

fn null_now(root: &Root, files: &[String]) -> Nulled {
    null(root, &[posts()], files, Path::new(BACKUPS))
}

fn null_all(root: &Root, files: &[String]) -> u64 {
    let nulled = null_now(root, files);
    assert!(nulled.failures.is_empty(), "{:?}", nulled.failures);
    nulled.references
}

/// Another process that plays a part of this test; it ends with its test.
struct Other(Child);

impl Other {
    fn start(part: &str, test: &str, folder: &Path) -> Self {
        let (_, module) = module_path!().split_once("::").expect("a module in a crate");
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "--nocapture", "--test-threads=1", &format!("{module}::{test}")]);
        command.env(PART[0], part).env(PART[1], folder).stdin(Stdio::null()).stdout(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    fn ends_well(mut self) {
        assert!(self.0.wait().unwrap().success(), "a part of the test failed, and has said why");
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The part that this process has, with the folder; none in the test's own process.
fn part() -> Option<(String, PathBuf)> {
    Some((env::var(PART[0]).ok()?, env::var_os(PART[1])?.into()))
}

/// Makes changes by reading, changing and `write`, until it is told to stop and has made enough of them; then says how many.
fn change_posts(folder: &Path, count: u64, write: impl Fn(&[u8])) {
    let path = folder.join("posts.json");
    for change in 0..CHANGES_MAX {
        if change >= count && folder.join("stop").exists() {
            return fs::write(folder.join("changes"), change.to_string()).unwrap();
        }
        let mut posts: Vec<Value> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let post = json!({"change": change, "imageUrl": format!("/images/{}.png", change * 7 % NULLINGS)});
        match posts.get_mut(usize::try_from(change % count).unwrap()) {
            Some(old) => *old = post,
            None => posts.push(post),
        }
        write(&serde_json::to_vec(&posts).unwrap());
    }
    panic!("nobody stopped the writer");
}

/// Reads and parses until it is told to stop.
fn read_posts(folder: &Path) {
    let mut seen = 0;
    while !folder.join("stop-reading").exists() {
        let posts: Vec<Value> = serde_json::from_slice(&fs::read(folder.join("posts.json")).unwrap()).unwrap();
        assert!(posts.len() >= seen, "a change was lost");
        seen = posts.len();
    }
    assert!(seen > 0);
}

/// A folder with an empty document, and the files that posts will name.
fn world() -> (TempDir, Root, Vec<String>) {
    let temp = TempDir::new().unwrap();
    let folder = temp.path().canonicalize().unwrap();
    let root = Root::open(&folder).unwrap();
    fs::write(folder.join("posts.json"), "[]").unwrap();
    fs::create_dir(folder.join("images")).unwrap();
    let files: Vec<_> = (0..NULLINGS).map(|image| format!("images/{image}.png")).collect();
    for file in &files {
        fs::write(folder.join(file), "").unwrap();
    }
    (temp, root, files)
}

/// Nulls and deletes one file after the other, all of them once and then again until the writer has ended; answers how many
/// references became null.
fn null_while(root: &Root, files: &[String], mut writer: Other, is_always_whole: bool) -> u64 {
    let mut count = 0;
    for (round, file) in files.iter().cycle().enumerate() {
        if round == files.len() {
            fs::write(root.path().join("stop"), "").unwrap();
        }
        if round >= files.len() && writer.has_ended() {
            break;
        }
        let nulled = null_now(root, std::slice::from_ref(file));
        assert!(nulled.failures.is_empty() || !is_always_whole, "{:?}", nulled.failures);
        count += nulled.references;
        if nulled.may_go(file.as_ref()) {
            match fs::remove_file(root.path().join(file)) {
                Err(error) if error.kind() != ErrorKind::NotFound => panic!("{error}"),
                Ok(()) | Err(_) => {}
            }
            count += null_now(root, std::slice::from_ref(file)).references;
        }
    }
    writer.ends_well();
    // Who read before a nulling and wrote after it has brought some back.
    count + null_all(root, files)
}

/// Every change is there, and no reference.
fn assert_whole(root: &Root, files: &[String], posts: u64, count: u64) {
    let text = |name: &str| fs::read_to_string(root.path().join(name)).unwrap();
    let changes: u64 = text("changes").parse().unwrap();
    // Each post is as its last change has left it.
    let last = |post: u64| (changes - 1 - post) / posts * posts + post;
    let expected: Vec<_> = (0..posts).map(|post| json!({"change": last(post), "imageUrl": null})).collect();
    assert_eq!(serde_json::from_str::<Vec<Value>>(&text("posts.json")).unwrap(), expected);
    assert!(changes >= posts && count >= posts, "{count} references in {changes} changes");
    assert_eq!(null_all(root, files), 0);
}

#[test]
fn no_change_is_lost_and_no_read_is_torn() {
    const TEST: &str = "no_change_is_lost_and_no_read_is_torn";
    match part() {
        Some((part, folder)) if part == "writer" => {
            let [path, new] = ["posts.json", "posts.json.tmp"].map(|name| folder.join(name));
            return change_posts(&folder, POSTS, |text| {
                fs::write(&new, text).unwrap();
                fs::rename(&new, &path).unwrap();
            });
        }
        Some((_, folder)) => return read_posts(&folder),
        None => {}
    }
    let (_temp, root, files) = world();
    let writer = Other::start("writer", TEST, root.path());
    let reader = Other::start("reader", TEST, root.path());
    let count = null_while(&root, &files, writer, true);
    fs::write(root.path().join("stop-reading"), "").unwrap();
    reader.ends_well();
    assert_whole(&root, &files, POSTS, count);
}

#[test]
fn one_who_writes_in_place_loses_nothing_either() {
    const TEST: &str = "one_who_writes_in_place_loses_nothing_either";
    if let Some((_, folder)) = part() {
        return change_posts(&folder, POSTS_IN_PLACE, |text| fs::write(folder.join("posts.json"), text).unwrap());
    }
    let (_temp, root, files) = world();
    let writer = Other::start("writer", TEST, root.path());
    let count = null_while(&root, &files, writer, false);
    assert_whole(&root, &files, POSTS_IN_PLACE, count);
}

/// A filesystem in memory, for as long as it is held.
struct Mount(TempDir);

impl Mount {
    fn new() -> Self {
        let this = Self(TempDir::new().unwrap());
        this.run("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs"]);
        this
    }

    fn make_read_only(&self) {
        self.run("mount", &["-o", "remount,ro"]);
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let status = Command::new(program).args(arguments).arg(self.0.path()).status().unwrap();
        assert!(status.success(), "{program}: this test needs the right to mount");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn what_a_document_names_stays_where_it_cannot_be_written() {
    let mount = Mount::new();
    let folder = mount.0.path();
    let text = r#"[{"imageUrl": "/images/a.png"}]"#;
    fs::write(folder.join("posts.json"), text).unwrap();
    mount.make_read_only();
    let nulled = null(&Root::open(folder).unwrap(), &[posts()], ["images/a.png", "images/b.png"], Path::new(BACKUPS));
    assert!(matches!(&nulled.failures[..], [ReferenceError::Write { path, .. }] if path == Path::new("posts.json")));
    assert_eq!(["images/a.png", "images/b.png"].map(|file| nulled.may_go(Path::new(file))), [false, true]);
    assert_eq!(fs::read_to_string(folder.join("posts.json")).unwrap(), text);
}

#[test]
fn what_a_document_names_stays_where_the_disk_is_full() {
    let mount = Mount::new();
    let folder = mount.0.path();
    let text = r#"[{"imageUrl": "/images/a.png"}]"#;
    fs::write(folder.join("posts.json"), text).unwrap();
    fs::create_dir(folder.join("images")).unwrap();
    let filled = fs::write(folder.join("images/b.png"), vec![0; 2 << 20]).map_err(|error| error.kind());
    assert_eq!(filled, Err(ErrorKind::StorageFull));
    let root = Root::open(folder).unwrap();
    let files = ["images/a.png", "images/b.png"];
    let nulled = null(&root, &[posts()], files, Path::new(BACKUPS));
    assert!(matches!(&nulled.failures[..], [ReferenceError::Backup { .. }]), "{:?}", nulled.failures);
    assert_eq!(files.map(|file| nulled.may_go(Path::new(file))), [false, true]);
    assert_eq!(fs::read_to_string(folder.join("posts.json")).unwrap(), text);
    // What nothing names makes room, so that the rest can follow.
    fs::remove_file(folder.join("images/b.png")).unwrap();
    assert_eq!(null(&root, &[posts()], files, Path::new(BACKUPS)).references, 1);
}

#[test]
fn no_read_is_torn_where_a_string_lies_across_two_pages() {
    const PAGE: usize = 4096;
    let mount = Mount::new();
    let root = Root::open(mount.0.path()).unwrap();
    let [path, new] = ["posts.json", "posts.json.tmp"].map(|name| mount.0.path().join(name));
    let (before, after) = ("{\"imageUrl\": ", "\"/images/a.png\"}");
    let text = format!("{}{before}{after}", " ".repeat(PAGE - before.len() - after.len() / 2));
    fs::write(&path, &text).unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let text = fs::read(&path).unwrap();
                serde_json::from_slice::<Value>(&text).expect("a whole document");
            }
        });
        for _ in 0..CROSSINGS {
            fs::write(&new, &text).unwrap();
            fs::rename(&new, &path).unwrap();
            assert_eq!(null_all(&root, &["images/a.png".to_owned()]), 1);
            if reader.is_finished() {
                break;
            }
        }
        is_over.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
}
