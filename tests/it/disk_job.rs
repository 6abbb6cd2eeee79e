//! Jobs of kind `disk` from the command line: what goes, what stays, and on which host.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use crate::{
    cli::Cli,
    process::{Process, comes, reports},
    redis::RedisServer,
};

const DAY: Duration = Duration::from_hours(24);
const MEDIA: &str = "media = { paths = [\"images\"], max_age = \"7d\", pressure_age = \"1d\" }\n";
const REFERENCES: &str = "references = [{ path = \"posts.json\", fields = [\"imageUrl\"] }]\n";

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
fn world(head: &str, job: &str) -> Cli {
    Cli::with(&format!("{head}[jobs.disk]\nkind = \"disk\"\nroot = \"data\"\n{job}"))
}

/// Writes a file of so many bytes and so many days.
fn put(cli: &Cli, name: &str, bytes: usize, days: f64) {
    let path = cli.path().join("data").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, vec![b'x'; bytes]).unwrap();
    File::options().write(true).open(&path).unwrap().set_modified(SystemTime::now() - DAY.mul_f64(days)).unwrap();
}

fn posts(cli: &Cli, images: &[String]) {
    let posts: Vec<Value> = images.iter().map(|image| json!({"imageUrl": format!("https://cdn/{image}")})).collect();
    fs::write(cli.path().join("data/posts.json"), serde_json::to_string_pretty(&posts).unwrap()).unwrap();
}

/// What the posts refer to.
fn referenced(folder: &Path) -> Vec<String> {
    let posts: Vec<Value> = serde_json::from_slice(&fs::read(folder.join("posts.json")).unwrap()).unwrap();
    posts.iter().filter_map(|post| post["imageUrl"].as_str()).map(str::to_owned).collect()
}

fn names(folder: &Path) -> Vec<String> {
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

#[tokio::test]
async fn a_long_log_makes_room_and_no_media_goes_for_it() {
    let job = "event_logs = [{ path = \"events.jsonl\", max_size = \"50MB\", keep_lines = 10000 }]\n\
               pressure = { high = \"70%\", low = \"60%\" }\nprotect = [\"*.json\", \"agent-keypair.json\"]\n";
    let line = |number: usize| format!("{{\"type\":\"post\",\"n\":{number},\"text\":\"{}\"}}\n", "x".repeat(75));
    let (cli, disk, report) = swept_by_up(job, |cli| {
        let lines: String = (0..530_000).map(line).collect();
        assert!(lines.len() > 56_000_000);
        fs::write(cli.path().join("data/events.jsonl"), lines).unwrap();
        for number in 0..18 {
            put(cli, &format!("images/{number:02}.png"), 1_000_000, 3.0);
        }
        put(cli, "agent-keypair.json", 64, 900.0);
        posts(cli, &["images/00.png".to_owned()]);
        assert!(used_share(&disk_of(cli)) > 0.7);
    })
    .await;
    assert_eq!((&report["outcome"], &report["deleted"]["files"]), (&"done".into(), &0.into()), "{report}");
    assert_eq!(report["deleted"]["lines"], 520_000, "{report}");
    assert!(report["bytes_freed"].as_u64().unwrap() > 50_000_000, "{report}");
    assert!(used_share(&disk.0) < 0.6);
    let log = fs::read_to_string(disk.0.join("events.jsonl")).unwrap();
    assert_eq!(log, (520_000..530_000).map(line).collect::<String>());
    assert_eq!((names(&disk.0.join("images")).len(), referenced(&disk.0).len()), (18, 1));
    assert_eq!(fs::read(cli.path().join("data/agent-keypair.json")).unwrap(), [b'x'; 64]);
}

fn disk_of(cli: &Cli) -> PathBuf {
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

#[tokio::test]
async fn it_runs_on_the_host_that_is_asked() {
    let server = RedisServer::start().await;
    let host = |name: &str| {
        let head = format!("[redis]\nurl = \"{}\"\n[worker]\nhost = \"{name}\"\n", server.url());
        let cli = world(&head, "initial_delay = \"0s\"\n");
        put(&cli, "left.json.tmp.1763000000000", 10, 30.0);
        cli
    };
    let (one, other) = (host("w1"), host("w2"));
    let workers = [Process::start(&one, "worker"), Process::start(&other, "worker")];
    let report = one.json("enqueue disk --host w2 --wait --json");
    assert_eq!((&report["host"], &report["deleted"]["files"]), (&"w2".into(), &1.into()), "{report}");
    let is_left = |cli: &Cli| cli.path().join("data/left.json.tmp.1763000000000").exists();
    assert_eq!((is_left(&one), is_left(&other)), (true, false));
    let report = one.json("enqueue disk --wait --json");
    assert_eq!((&report["host"], is_left(&one)), (&"w1".into(), false), "{report}");
    for worker in workers {
        assert_eq!(worker.stop().await.code, Some(0));
    }
    let alone = world("", "");
    let (code, _, stderr) = alone.run("enqueue disk --host w9");
    assert!(code == 2 && stderr.contains("without [redis] there is this host alone"), "{stderr}");
}

#[tokio::test]
async fn each_host_ticks_its_own() {
    let server = RedisServer::start().await;
    let host = |name: &str| {
        let head = format!("[redis]\nurl = \"{}\"\n[worker]\nhost = \"{name}\"\n", server.url());
        world(&head, "schedule = \"every 1s\"\ninitial_delay = \"0s\"\n")
    };
    let both = [host("w1"), host("w2")];
    for cli in &both {
        fs::create_dir(disk_of(cli)).unwrap();
    }
    let workers: Vec<Process> = both.iter().map(|cli| Process::start(cli, "worker")).collect();
    let mut hosts = Vec::new();
    comes("a report of each host", async || {
        let all = reports(&both[0].json("history disk --limit 100 --json"));
        hosts = all.iter().filter(|report| report["tick"].is_string()).map(|report| report["host"].clone()).collect();
        hosts.contains(&"w1".into()) && hosts.contains(&"w2".into())
    })
    .await;
    for worker in workers {
        assert_eq!(worker.stop().await.code, Some(0));
    }
}

#[test]
fn what_is_published_is_proven_before_the_local_file_goes() {
    let cli = world("", "remote = { objects = \"file:cdn\", verify = \"hash\" }\nprotect = [\"keep-*\"]\n");
    put(&cli, "images/a.png", 10, 0.0);
    put(&cli, "images/keep-1.png", 10, 0.0);
    assert_eq!(cli.json("cache put images/a.png images/a.png --json")["state"], "moved");
    assert_eq!(cli.json("cache put images/keep-1.png k --json")["state"], "copied");
    assert_eq!(names(&disk_of(&cli).join("images")), ["keep-1.png"]);
    assert_eq!(fs::read(cli.path().join("cdn/images/a.png")).unwrap(), [b'x'; 10]);
    cli.stdout("cache get images/a.png images/b.png");
    assert_eq!(fs::read(disk_of(&cli).join("images/b.png")).unwrap(), [b'x'; 10]);
    assert_eq!(names(&disk_of(&cli).join("images")), ["b.png", "keep-1.png"]);

    cli.stdout("pause disk");
    assert_eq!(cli.json("cache put images/b.png b --json")["state"], "copied");
    assert!(disk_of(&cli).join("images/b.png").exists());
    for (line, told) in [
        ("cache put ../janitor.toml k", "no path below a folder"),
        ("cache put images/absent k", "is not there"),
        ("cache put images/b.png ../k", "key \"../k\": must be a path"),
        ("cache get absent images/c.png", "there is no \"absent\" at file://"),
    ] {
        let (code, _, stderr) = cli.run(line);
        assert!(code == 1 && stderr.contains(told), "{line}: {stderr}");
    }
    assert_eq!(names(&disk_of(&cli).join("images")), ["b.png", "keep-1.png"]);
    let alone = world("", "");
    put(&alone, "a.png", 10, 0.0);
    assert_eq!(alone.json("cache put a.png k --json")["state"], "kept");
    assert!(disk_of(&alone).join("a.png").exists());
}

#[test]
fn a_remote_that_fails_lets_nothing_go() {
    let cli = world("", &format!("{MEDIA}{REFERENCES}remote = {{ objects = \"file:cdn/file\" }}\n"));
    put(&cli, "images/a.png", 10, 30.0);
    posts(&cli, &[]);
    // What should be a folder cannot be looked into.
    fs::create_dir(cli.path().join("cdn")).unwrap();
    std::os::unix::fs::symlink("file", cli.path().join("cdn/file")).unwrap();
    let (code, stdout, _) = cli.run("run disk --json");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &report["deleted"]["files"]), (1, &0.into()), "{report}");
    assert_eq!(report["failures"][0]["item"], "images/a.png");
    let (code, _, _) = cli.run("cache put images/a.png images/a.png");
    assert!(code == 1 && disk_of(&cli).join("images/a.png").exists());
}
