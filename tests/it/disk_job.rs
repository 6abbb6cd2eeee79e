//! Jobs of kind `disk` from the command line: what goes, what stays, and on which host.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use crate::{
    cli::Cli,
    process::{Process, comes, reports},
};

const DAY: Duration = Duration::from_hours(24);
/// How often the writer of a log has a line, so that the disk has room for them.
const WRITE_PAUSE: Duration = Duration::from_micros(100);
pub const MEDIA: &str = "media = { paths = [\"images\"], max_age = \"7d\", pressure_age = \"1d\" }\n";
pub const REFERENCES: &str = "references = [{ path = \"posts.json\", fields = [\"imageUrl\"] }]\n";

/// A small disk of its own, unmounted with its test.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: PathBuf, size: &str) -> Self {
        fs::create_dir(&path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&path);
        assert!(mount.status().unwrap().success(), "these tests mount a tmpfs, and need to be root for it");
        Self(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// The command line with a job `disk` that looks after the folder `data`.
pub fn world(head: &str, job: &str) -> Cli {
    Cli::with(&format!("{head}[jobs.disk]\nkind = \"disk\"\nroot = \"data\"\n{job}"))
}

/// Writes a file of so many bytes and so many days.
pub fn put(cli: &Cli, name: &str, bytes: usize, days: f64) {
    let path = cli.path().join("data").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, vec![b'x'; bytes]).unwrap();
    File::options().write(true).open(&path).unwrap().set_modified(SystemTime::now() - DAY.mul_f64(days)).unwrap();
}

pub fn posts(cli: &Cli, images: &[String]) {
    let posts: Vec<Value> = images.iter().map(|image| json!({"imageUrl": format!("https://cdn/{image}")})).collect();
    fs::write(cli.path().join("data/posts.json"), serde_json::to_string_pretty(&posts).unwrap()).unwrap();
}

/// What the posts refer to.
fn referenced(folder: &Path) -> Vec<String> {
    let posts: Vec<Value> = serde_json::from_slice(&fs::read(folder.join("posts.json")).unwrap()).unwrap();
    posts.iter().filter_map(|post| post["imageUrl"].as_str()).map(str::to_owned).collect()
}

pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

fn used_share(path: &Path) -> f64 {
    let told = rustix::fs::statvfs(path).unwrap();
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more digits")]
    let share = 1.0 - told.f_bavail as f64 / told.f_blocks as f64;
    share
}

/// Waits for the first report of a worker that ran the job. A tick that comes amid a sweep finds it busy.
async fn first_report(cli: &Cli) -> Value {
    let mut found = None;
    comes("a report of the job", async || {
        let ran = |report: &Value| report["outcome"] != "busy";
        found = reports(&cli.json("history disk --json")).into_iter().rfind(ran);
        found.is_some()
    })
    .await;
    found.unwrap()
}

/// `janitor up` with the job on a disk of 100 MB, until its first report.
async fn swept_by_up(job: &str, fill: impl FnOnce(&Cli)) -> (Cli, Disk, Value) {
    let cli = world("", &format!("schedule = \"every 1s\"\ninitial_delay = \"0s\"\n{MEDIA}{REFERENCES}{job}"));
    let disk = Disk::mount(cli.path().join("data"), "100m");
    fill(&cli);
    let up = Process::start(&cli, "up");
    let report = first_report(&cli).await;
    assert_eq!(up.stop().await.code, Some(0));
    (cli, disk, report)
}

/// Appends lines one by one, and opens the log anew for each, until it is told to stop; answers how many there are.
fn append(path: PathBuf, from: usize, line: fn(usize) -> String) -> (Arc<AtomicBool>, JoinHandle<usize>) {
    let is_over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&is_over);
    let writer = thread::spawn(move || {
        let mut next = from;
        while !told.load(Ordering::Relaxed) {
            let mut log = File::options().append(true).create(true).open(&path).unwrap();
            log.write_all(line(next).as_bytes()).unwrap();
            next += 1;
            thread::sleep(WRITE_PAUSE);
        }
        next
    });
    (is_over, writer)
}

#[tokio::test]
async fn a_long_log_makes_room_and_no_media_goes_for_it() {
    const LINES: usize = 530_000;
    let job = "event_logs = [{ path = \"events.jsonl\", max_size = \"50MB\", keep_lines = 10000 }]\n\
               pressure = { high = \"70%\", low = \"60%\" }\nprotect = [\"*.json\", \"agent-keypair.json\"]\n";
    let post = |number: usize| format!("{{\"type\":\"post\",\"n\":{number},\"text\":\"{}\"}}\n", "x".repeat(75));
    let mut live = None;
    let (cli, disk, report) = swept_by_up(job, |cli| {
        let lines: String = (0..LINES).map(post).collect();
        assert!(lines.len() > 56_000_000);
        fs::write(cli.path().join("data/events.jsonl"), lines).unwrap();
        for number in 0..18 {
            put(cli, &format!("images/{number:02}.png"), 1_000_000, 3.0);
        }
        put(cli, "agent-keypair.json", 64, 900.0);
        posts(cli, &["images/00.png".to_owned()]);
        assert!(used_share(&disk_of(cli)) > 0.7);
        live = Some(append(cli.path().join("data/events.jsonl"), LINES, post));
    })
    .await;
    let (is_over, writer) = live.unwrap();
    is_over.store(true, Ordering::Relaxed);
    let end = writer.join().unwrap();
    assert_eq!((&report["outcome"], &report["deleted"]["files"]), (&"done".into(), &0.into()), "{report}");
    assert!(report["bytes_freed"].as_u64().unwrap() > 50_000_000, "{report}");
    assert!(used_share(&disk.0) < 0.7, "{}", used_share(&disk.0));
    // The last lines of the moment, and all that came since: without a gap, and none twice.
    let first = usize::try_from(report["deleted"]["lines"].as_u64().unwrap()).unwrap();
    assert!((LINES - 10_000..end).contains(&first) && end > LINES, "{first} of {end}: {report}");
    let log = fs::read_to_string(disk.0.join("events.jsonl")).unwrap();
    assert!(log == (first..end).map(post).collect::<String>(), "not the lines {first} to {end}");
    assert_eq!((names(&disk.0.join("images")).len(), referenced(&disk.0).len()), (18, 1));
    assert_eq!(fs::read(cli.path().join("data/agent-keypair.json")).unwrap(), [b'x'; 64]);
}

pub fn disk_of(cli: &Cli) -> PathBuf {
    cli.path().join("data")
}

#[tokio::test]
async fn under_pressure_the_oldest_media_goes_and_no_reference_dangles() {
    let job = "pressure = { high = \"70%\", low = \"60%\" }\nprotect = [\"images/keep-*\"]\n";
    let image = |number: u8| format!("images/{number:02}.png");
    let (cli, disk, report) = swept_by_up(job, |cli| {
        for number in 0..84_u8 {
            // The last ones are too young to go.
            put(cli, &image(number), 1_000_000, if number < 80 { 90.0 - f64::from(number) } else { 0.5 });
        }
        put(cli, "images/keep-1.png", 1_000_000, 900.0);
        posts(cli, &(0..84).map(image).collect::<Vec<_>>());
    })
    .await;
    assert_eq!(report["outcome"], "done", "{report}");
    assert!((0.57..=0.6).contains(&used_share(&disk.0)), "{}", used_share(&disk.0));
    let left = names(&disk.0.join("images"));
    let gone = u8::try_from(85 - left.len()).unwrap();
    assert_eq!(
        (&report["deleted"]["files"], &report["deleted"]["references"]),
        (&gone.into(), &gone.into()),
        "{report}"
    );
    let mut expected: Vec<String> = (gone..84).map(|number| format!("{number:02}.png")).collect();
    expected.push("keep-1.png".to_owned());
    assert_eq!(left, expected, "the oldest go first");
    let kept: Vec<String> = (gone..84).map(|number| format!("https://cdn/{}", image(number))).collect();
    assert_eq!(referenced(&disk.0), kept);
    assert_eq!(fs::metadata(cli.path().join("data/images/keep-1.png")).unwrap().len(), 1_000_000);
}

#[test]
fn a_dry_run_names_what_the_sweep_deletes() {
    let cli = world("", &format!("{MEDIA}{REFERENCES}pressure = {{ high = \"70%\", low = \"60%\" }}\n"));
    let _disk = Disk::mount(disk_of(&cli), "10m");
    for number in 0..80 {
        put(&cli, &format!("images/{number:02}.png"), 100_000, 90.0 - f64::from(number));
    }
    put(&cli, "posts.json.tmp.1763000000000", 10, 30.0);
    put(&cli, "images/young.tmp.9999999999999", 10, 30.0);
    posts(&cli, &["images/03.png".to_owned()]);
    let dry = cli.stdout("run disk --dry-run --list");
    assert_eq!(names(&disk_of(&cli).join("images")).len(), 81);
    assert_eq!(cli.stdout("run disk --list"), dry);
    assert!(dry.lines().count() > 15 && dry.starts_with("posts.json.tmp.1763000000000\n"), "{dry}");
    assert!(names(&disk_of(&cli).join("images")).contains(&"young.tmp.9999999999999".to_owned()));
    assert_eq!(cli.json("run disk --json")["deleted"]["files"], 0);
}

#[test]
fn what_is_not_enough_is_an_alarm_that_names_the_largest() {
    let cli = world("", &format!("{MEDIA}pressure = {{ high = \"70%\", low = \"60%\" }}\n"));
    let _disk = Disk::mount(disk_of(&cli), "10m");
    put(&cli, "model.bin", 7_500_000, 90.0);
    put(&cli, "images/a.png", 100_000, 90.0);
    let (code, stdout, _) = cli.run("run disk --json");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &report["outcome"], &report["deleted"]["files"]), (1, &"failed".into(), &1.into()), "{report}");
    let failure = &report["failures"][0];
    assert_eq!(failure["item"], "pressure");
    let error = failure["error"].as_str().unwrap();
    assert!(
        error.contains("60% is wanted; nothing more may go") && error.contains("model.bin (7503872 bytes)"),
        "{error}"
    );
}

#[test]
fn what_a_process_holds_open_is_said() {
    let cli = world("", &format!("{MEDIA}pressure = {{ high = \"70%\", low = \"60%\" }}\n"));
    let _disk = Disk::mount(disk_of(&cli), "10m");
    put(&cli, "images/a.png", 7_500_000, 90.0);
    let held = File::open(disk_of(&cli).join("images/a.png")).unwrap();
    let (code, stdout, _) = cli.run("run disk --json");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let error = report["failures"][0]["error"].as_str().unwrap();
    assert_eq!((code, &report["deleted"]["files"]), (1, &1.into()), "{report}");
    let expected = format!("images/a.png by process {}", std::process::id());
    assert!(
        error.contains("1 deleted files take 7503872 bytes until they are closed") && error.contains(&expected),
        "{error}"
    );
    drop(held);
    assert_eq!(cli.run("run disk").0, 0);
}

#[test]
fn by_age_only_goes_what_the_remote_has_or_nothing_refers_to() {
    for (verify, same_size_goes) in [("size", true), ("hash", false)] {
        let remote = format!("remote = {{ objects = \"file:cdn\", verify = \"{verify}\" }}\n");
        let cli = world("", &format!("{MEDIA}{REFERENCES}{remote}"));
        for (name, days) in
            [("proven", 8.0), ("young", 6.0), ("absent", 8.0), ("shorter", 8.0), ("other", 8.0), ("crash", 8.0)]
        {
            put(&cli, &format!("images/{name}.png"), 10, days);
        }
        put(&cli, "crash.png", 10, 90.0);
        fs::create_dir_all(cli.path().join("cdn/images")).unwrap();
        for (name, bytes) in
            [("proven", "xxxxxxxxxx"), ("young", "xxxxxxxxxx"), ("shorter", "xxx"), ("other", "yyyyyyyyyy")]
        {
            fs::write(cli.path().join(format!("cdn/images/{name}.png")), bytes).unwrap();
        }
        posts(&cli, &["proven", "young", "absent", "shorter", "other"].map(|name| format!("images/{name}.png")));
        let report = cli.json("run disk --json");
        let mut left = vec!["absent.png", "other.png", "shorter.png", "young.png"];
        if same_size_goes {
            left.remove(1);
        }
        assert_eq!(names(&disk_of(&cli).join("images")), left, "{verify}: {report}");
        assert_eq!(report["kept"]["unproven"], left.len() - 1, "{report}");
        assert_eq!(referenced(&disk_of(&cli)).len(), 5, "what the remote has is there for who follows the reference");
        assert!(disk_of(&cli).join("crash.png").exists(), "it is in no folder of media");
        // Who refers to what cannot be told any more: nothing unproven goes.
        put(&cli, "images/crash.png", 10, 8.0);
        fs::write(disk_of(&cli).join("posts.json"), "[{").unwrap();
        let (code, stdout, _) = cli.run("run disk --json");
        let report: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!((code, &report["deleted"]["files"]), (1, &0.into()), "{report}");
        assert!(report["failures"][0]["error"].as_str().unwrap().contains("posts.json"), "{report}");
    }
}

#[test]
fn media_stays_where_what_refers_to_it_cannot_be_made_null() {
    let cli = world("", &format!("{MEDIA}{REFERENCES}pressure = {{ high = \"70%\", low = \"60%\" }}\n"));
    let _disk = Disk::mount(disk_of(&cli), "10m");
    put(&cli, "images/a.png", 7_500_000, 90.0);
    fs::write(disk_of(&cli).join("posts.json"), "[{\"imageUrl\": \"/images/a.png\"").unwrap();
    let (code, stdout, _) = cli.run("run disk --json");
    assert_eq!(code, 1, "{stdout}");
    assert!(disk_of(&cli).join("images/a.png").exists());
    assert_eq!(fs::read_to_string(disk_of(&cli).join("posts.json")).unwrap(), "[{\"imageUrl\": \"/images/a.png\"");
}

#[test]
fn a_reference_that_was_brought_back_becomes_null_in_the_next_sweep() {
    let cli = world("", &format!("{MEDIA}{REFERENCES}pressure = {{ high = \"70%\", low = \"60%\" }}\n"));
    let _disk = Disk::mount(disk_of(&cli), "10m");
    put(&cli, "images/a.png", 7_500_000, 90.0);
    posts(&cli, &["images/a.png".to_owned()]);
    let before = fs::read(disk_of(&cli).join("posts.json")).unwrap();
    assert_eq!(cli.json("run disk --json")["deleted"]["references"], 1);
    assert_eq!(referenced(&disk_of(&cli)), [""; 0]);
    // Somebody had read the list before the sweep, and writes it back.
    fs::write(disk_of(&cli).join("posts.json"), before).unwrap();
    assert_eq!(cli.json("run disk --json")["deleted"]["references"], 1);
    assert_eq!(referenced(&disk_of(&cli)), [""; 0]);
}

#[tokio::test]
async fn the_kill_switch_is_read_before_every_batch() {
    let remote = "remote = { objects = \"file:cdn\" }\nrate_limit = 2\n";
    let cli = world("", &format!("enabled = true\n{MEDIA}{REFERENCES}{remote}"));
    for number in 0..40 {
        put(&cli, &format!("images/{number:02}.png"), 10, 30.0);
    }
    posts(&cli, &[]);
    let run = Process::start(&cli, "run disk --json");
    comes("a first batch", async || names(&disk_of(&cli).join("images")).len() < 40).await;
    let file = cli.path().join("janitor.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("enabled = true", "enabled = false")).unwrap();
    let end = run.end().await;
    let report: Value = serde_json::from_str(&end.stdout).unwrap();
    assert_eq!((end.code, &report["reason"]), (Some(5), &"switched off on the way".into()), "{report}");
    let left = names(&disk_of(&cli).join("images")).len();
    assert!((1..40).contains(&left), "{left}");
    let report = cli.json("run disk --json");
    assert_eq!((&report["outcome"], &report["reason"]), (&"skipped".into(), &"the job is not enabled".into()));
    assert_eq!(names(&disk_of(&cli).join("images")).len(), left);
}

#[test]
fn a_folder_that_must_not_be_swept_is_refused() {
    for (root, told) in
        [("/", "neither `/` nor a home"), ("/root", "is a home"), ("data", "is not there"), ("", "must be a folder")]
    {
        let cli = Cli::with(&format!("[jobs.disk]\nkind = \"disk\"\nroot = \"{root}\"\n"));
        let (code, stdout, stderr) = cli.run("run disk");
        let is_config = ["/", ""].contains(&root);
        assert_eq!(code, if is_config { 3 } else { 6 }, "{root:?}: {stdout}{stderr}");
        assert!((stdout.clone() + &stderr).contains(told), "{root:?}: {stdout}{stderr}");
    }
}

#[test]
fn each_wrong_key_is_told() {
    let cli = Cli::with(
        "[jobs.disk]\nkind = \"disk\"\nroot = \"data\"\n\
         event_logs = [{ path = \"../e\", max_size = \"50Mb\" }, { path = \"e\" }]\n\
         media = { paths = [\"/abs\"], max_age = \"1d\", pressure_age = \"2d\" }\n\
         pressure = { high = \"60%\", low = \"70%\" }\nremote = { objects = \"ftp:x\", verify = \"date\" }\n\
         references = [{ path = \"posts.json\", fields = [] }]\nprotect = [\"a[\"]\nmedai = 1\n",
    );
    let (code, _, stderr) = cli.run("check");
    assert_eq!(code, 3);
    for told in [
        "event_logs[0].path = \"../e\": must be a path below the root",
        "event_logs[0].max_size = \"50Mb\": must be a whole number of bytes",
        "event_logs[1].max_size: is required",
        "media.paths[0] = \"/abs\": must be a path below the root",
        "media.pressure_age: must not be longer than max_age",
        "pressure.low: must be lower than high",
        "remote.objects = \"ftp:x\": must be file:///",
        "remote.verify = \"date\": must be \"size\" or \"hash\"",
        "references[0].fields: must name at least one field",
        "protect[0] = \"a[\": must be a pattern",
        "jobs.disk.medai: unknown key; did you mean `media`?",
    ] {
        assert!(stderr.contains(told), "{told}: {stderr}");
    }
}
