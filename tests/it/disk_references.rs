//! References become null while other processes rewrite the document, at full speed.

use std::{
    env, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use apalis_janitor::host::{
    Root,
    references::{Nulled, ReferenceError, Source, null},
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How many changes the writer makes at least.
const CHANGES_MIN: u64 = 1_000;
/// So many changes mean that nobody stops the writer.
const CHANGES_MAX: u64 = 100_000;
/// How many files go while it writes.
const NULLINGS: u64 = 200;
/// Makes a test another process's part of it: the part, and the folder.
const PART: [&str; 2] = ["JANITOR_TEST_PART", "JANITOR_TEST_FOLDER"];
const BACKUPS: &str = ".janitor";

fn posts() -> Source {
    Source { path: "posts.json".into(), fields: vec!["imageUrl".to_owned()] }
}

fn null_all(root: &Root, files: &[String]) -> Nulled {
    let nulled = null(root, &[posts()], files, Path::new(BACKUPS));
    assert!(nulled.failures.is_empty(), "{:?}", nulled.failures);
    nulled
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

/// Adds posts by reading, changing and renaming, until it is told to stop and has made enough of them.
fn add_posts(folder: &Path) {
    let [path, new] = ["posts.json", "posts.json.tmp"].map(|name| folder.join(name));
    for change in 0..CHANGES_MAX {
        if change >= CHANGES_MIN && folder.join("stop").exists() {
            return;
        }
        let mut posts: Vec<Value> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let image = change * 7 % NULLINGS;
        posts.push(json!({"id": change, "imageUrl": format!("https://cdn/x/images/{image}.png"), "text": "ä"}));
        fs::write(&new, serde_json::to_vec(&posts).unwrap()).unwrap();
        fs::rename(&new, &path).unwrap();
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

#[test]
fn no_change_is_lost_and_no_read_is_torn() {
    const TEST: &str = "no_change_is_lost_and_no_read_is_torn";
    match part() {
        Some((part, folder)) if part == "writer" => return add_posts(&folder),
        Some((_, folder)) => return read_posts(&folder),
        None => {}
    }
    let temp = TempDir::new().unwrap();
    let folder = temp.path().canonicalize().unwrap();
    let root = Root::open(&folder).unwrap();
    fs::write(folder.join("posts.json"), "[]").unwrap();
    fs::create_dir(folder.join("images")).unwrap();
    let files: Vec<_> = (0..NULLINGS).map(|image| format!("images/{image}.png")).collect();
    for file in &files {
        fs::write(folder.join(file), "").unwrap();
    }
    let mut writer = Other::start("writer", TEST, &folder);
    let reader = Other::start("reader", TEST, &folder);

    let mut count = 0;
    for (round, file) in files.iter().cycle().enumerate() {
        if round == files.len() {
            fs::write(folder.join("stop"), "").unwrap();
        }
        if round >= files.len() && writer.has_ended() {
            break;
        }
        let file = std::slice::from_ref(file);
        let nulled = null_all(&root, file);
        assert!(nulled.may_go(file[0].as_ref()));
        match fs::remove_file(folder.join(&file[0])) {
            Err(error) if error.kind() != ErrorKind::NotFound => panic!("{error}"),
            Ok(()) | Err(_) => {}
        }
        count += nulled.references + null_all(&root, file).references;
    }
    writer.ends_well();
    // Who read before a nulling and renamed after it has brought some back.
    count += null_all(&root, &files).references;
    fs::write(folder.join("stop-reading"), "").unwrap();
    reader.ends_well();

    let posts: Vec<Value> = serde_json::from_slice(&fs::read(folder.join("posts.json")).unwrap()).unwrap();
    let expected: Vec<_> =
        (0..posts.len()).map(|change| json!({"id": change, "imageUrl": null, "text": "ä"})).collect();
    assert_eq!(posts, expected);
    assert!(posts.len() as u64 >= CHANGES_MIN && count >= posts.len() as u64, "{count} of {}", posts.len());
    assert_eq!(null_all(&root, &files).references, 0);
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
