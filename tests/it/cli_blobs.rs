//! `janitor blobs`, over a real catalog and a real folder.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::cli::Cli;

const STORE: &str = "[blobs.artifacts]\nobjects = \"file:blobs\"\ncatalog = \"sqlite:blobs.db\"\n";
/// A digest that nothing has.
const UNKNOWN: &str = "00000000000000000000000000000000000000000000000000000000000000ff";
/// The SHA-256 of `hello\n`, by sha256sum.
const HELLO: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";

fn store(more: &str) -> Cli {
    let cli = Cli::with(&format!("{STORE}{more}"));
    fs::write(cli.path().join("hello.txt"), "hello\n").unwrap();
    cli
}

/// The objects that are there.
fn objects(cli: &Cli) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![cli.path().join("blobs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.parent().unwrap().file_name().unwrap().len() == 2 {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Flips a bit of a file in place.
fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[0] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn with_stdin(cli: &Cli, line: &str, stdin: &[u8]) -> Output {
    cli.command().args(line.split_whitespace()).write_stdin(stdin).output().unwrap()
}

#[test]
fn what_is_put_comes_back() {
    let cli = store("");
    let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(cli.path().join("big"), &bytes).unwrap();
    let (code, stdout, stderr) = cli.run("blobs put big --task t");
    assert_eq!(code, 0, "{stderr}");
    let digest = stdout.trim_end();
    assert_eq!(digest.len(), 64, "{stdout}");
    let out = cli.command().args(["blobs", "get", digest]).output().unwrap();
    assert!(out.status.success());
    assert!(out.stdout == bytes, "other bytes came back");
    assert_eq!(cli.stdout(&format!("blobs get {digest} -o back")), "");
    assert!(fs::read(cli.path().join("back")).unwrap() == bytes);
    let told = cli.json(&format!("blobs get sha256:{digest} -o back --json"));
    assert_eq!(told, serde_json::json!({"digest": digest, "size": bytes.len(), "file": "back"}));
}

#[test]
fn a_put_says_what_it_put() {
    let cli = store("");
    assert_eq!(cli.stdout("blobs put hello.txt --task t --quiet"), format!("{HELLO}\n"));
    let again = with_stdin(
        &cli,
        "blobs put - --task u --run r --attempt 2 --name a/b --content-type text/plain --json",
        b"hello\n",
    );
    let put: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!((&put["digest"], &put["size"], &put["shared"]), (&HELLO.into(), &6.into(), &true.into()));
    let stat = cli.json(&format!("blobs stat {HELLO} --json"));
    assert_eq!(stat["blobs"][0]["id"], put["id"]);
    assert_eq!((&stat["blobs"][0]["state"], stat["blobs"].as_array().unwrap().len()), (&"live".into(), 1));
    let empty = with_stdin(&cli, "blobs put - --task t", b"");
    let digest = String::from_utf8(empty.stdout).unwrap();
    assert_eq!(digest, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n");
    assert_eq!(cli.stdout(&format!("blobs get {digest}")), "");
    assert_eq!(objects(&cli).len(), 2);
}

#[test]
fn ls_lists_what_was_put_and_how() {
    let cli = store("");
    assert_eq!((cli.stdout("blobs ls"), cli.stdout("blobs ls --json")), (String::new(), "[]\n".to_owned()));
    cli.stdout("blobs put hello.txt --task t");
    with_stdin(&cli, "blobs put - --task u --run r --attempt 2 --name a/b --content-type text/plain", b"x");
    cli.stdout("blobs finalize --task u --attempt 2");
    let all = cli.json("blobs ls --json");
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), 2);
    let (t, u) = (&all[0], &all[1]);
    assert_eq!(
        (&t["task"], &t["name"], &t["final"], &t["run"]),
        (&"t".into(), &"hello.txt".into(), &false.into(), &Value::Null)
    );
    assert_eq!((&t["digest"], &t["size"], &t["attempt"]), (&HELLO.into(), &6.into(), &1.into()));
    assert_eq!(
        (&u["task"], &u["name"], &u["final"], &u["run"]),
        (&"u".into(), &"a/b".into(), &true.into(), &"r".into())
    );
    assert_eq!((&u["attempt"], &u["content_type"]), (&2.into(), &"text/plain".into()));
    let keys: Vec<_> = t.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["attempt", "content_type", "created_at", "digest", "final", "id", "name", "run", "size", "task"]);
    assert_eq!(cli.json("blobs ls --run r --json").as_array().unwrap(), std::slice::from_ref(u));
    assert_eq!(cli.json("blobs ls --task t --json").as_array().unwrap(), std::slice::from_ref(t));
    let line = cli.stdout("blobs ls --task t");
    assert!(line.starts_with(&format!("{HELLO}\t6\tt\t-\t1\thello.txt\t-\tno\t")), "{line}");
}

#[test]
fn a_task_finalizes_releases_and_deletes() {
    let cli = store("");
    cli.stdout("blobs put hello.txt --task t");
    assert_eq!(cli.stdout("blobs touch --task t"), "t: alive\n");
    assert_eq!(cli.stdout("blobs finalize --task t"), "t: 1 made final\n");
    assert_eq!(cli.json("blobs finalize --task t --json"), serde_json::json!({"task": "t", "attempt": 1, "refs": 0}));
    let released = serde_json::json!({"task": "t", "attempt": 1, "refs": 0, "blobs": 0});
    assert_eq!(cli.json("blobs release --task t --json"), released);
    let deleted = cli.stdout(&format!("blobs delete {HELLO} --task t"));
    assert_eq!(deleted, "t: 1 dropped, 1 of them referred to by nothing any more\n");
    let (code, stdout, stderr) = cli.run(&format!("blobs delete {HELLO} --task t"));
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("task \"t\" has put nothing"), "{stderr}");
    cli.stdout("blobs put hello.txt --task failed");
    assert_eq!(cli.json("blobs release --task failed --json")["refs"], 1);
    let (code, _, stderr) = cli.run("blobs put hello.txt --task failed");
    assert_eq!(code, 1);
    assert!(stderr.contains("a retry puts with a higher attempt"), "{stderr}");
    for line in ["blobs finalize --task nobody", "blobs touch --task nobody"] {
        let (code, _, stderr) = cli.run(line);
        assert_eq!(code, 1, "{line}");
        assert!(stderr.contains("task \"nobody\" has put nothing"), "{line}: {stderr}");
    }
}

#[test]
fn what_is_given_wrongly_exits_2_and_opens_nothing() {
    let cli = store("");
    for (line, says) in [
        ("blobs get e3b0c442", "digest \"e3b0c442\": must be a SHA-256, 64 hexadecimal digits"),
        ("blobs stat ../../etc/passwd", "must be a SHA-256"),
        ("blobs explain", "DIGEST"),
        ("blobs delete zz --task t", "must be a SHA-256"),
        ("blobs put hello.txt --task t --name ../x", "name \"../x\": must be relative"),
        ("blobs put hello.txt --task t --name /etc/passwd", "must be relative"),
        ("blobs put hello.txt --task t --attempt 0", "attempt 0: must be 1 or more"),
        ("blobs put hello.txt --task=", "task \"\": must be 1 to 255 bytes"),
        ("blobs put hello.txt", "--task"),
        ("blobs", "Commands:"),
    ] {
        let (code, stdout, stderr) = cli.run(line);
        assert_eq!((code, stdout.as_str()), (2, ""), "janitor {line}: {stderr}");
        assert!(stderr.contains(says), "janitor {line}: {stderr}");
    }
    assert!(!cli.path().join("blobs.db").exists() && !cli.path().join("blobs").exists());
    assert_eq!(cli.run(&format!("blobs get {HELLO} --json")).0, 2);
}

#[test]
fn a_file_that_cannot_be_put_is_named() {
    let cli = store("");
    for (line, says) in [
        ("blobs put nothing.txt --task t", "nothing.txt: No such file"),
        ("blobs put . --task t --name x", ".: is a folder"),
    ] {
        let (code, stdout, stderr) = cli.run(line);
        assert_eq!((code, stdout.as_str()), (1, ""), "{line}: {stderr}");
        assert!(stderr.contains(says), "{line}: {stderr}");
    }
}

#[test]
fn what_is_not_there_exits_1() {
    let cli = store("");
    cli.stdout("blobs put hello.txt --task t");
    for line in ["get", "stat", "explain"] {
        let (code, stdout, stderr) = cli.run(&format!("blobs {line} {UNKNOWN}"));
        assert_eq!((code, stdout.as_str()), (1, ""), "{line}");
        assert_eq!(stderr, format!("error: no blob {UNKNOWN}\n"), "{line}");
    }
    assert_eq!(cli.run(&format!("blobs get {UNKNOWN} -o back")).0, 1);
    assert!(!cli.path().join("back").exists());
}

#[test]
fn a_damaged_blob_leaves_no_file_and_says_so_on_a_pipe() {
    let cli = store("");
    cli.stdout("blobs put hello.txt --task t");
    damage(&objects(&cli)[0]);
    fs::write(cli.path().join("old"), "old").unwrap();
    for file in ["new", "old"] {
        let (code, _, stderr) = cli.run(&format!("blobs get {HELLO} -o {file}"));
        assert_eq!(code, 1);
        assert!(stderr.contains("damaged"), "{stderr}");
    }
    assert!(!cli.path().join("new").exists());
    assert_eq!(fs::read_to_string(cli.path().join("old")).unwrap(), "old");
    let names = fs::read_dir(cli.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.starts_with(".janitor-")).count(), 0);
    let (code, _, stderr) = cli.run(&format!("blobs get {HELLO}"));
    assert_eq!(code, 1);
    assert!(stderr.contains("damaged") && stderr.contains("what was written to stdout is not this blob"), "{stderr}");
}

#[test]
fn a_get_writes_over_no_device_and_through_a_link() {
    let cli = store("");
    cli.stdout("blobs put hello.txt --task t");
    fs::create_dir(cli.path().join("folder")).unwrap();
    let (code, _, stderr) = cli.run(&format!("blobs get {HELLO} -o folder"));
    assert_eq!(code, 1);
    assert!(stderr.contains("left alone"), "{stderr}");
    fs::write(cli.path().join("real"), "old").unwrap();
    std::os::unix::fs::symlink("real", cli.path().join("link")).unwrap();
    cli.stdout(&format!("blobs get {HELLO} -o link"));
    assert!(fs::symlink_metadata(cli.path().join("link")).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(cli.path().join("real")).unwrap(), "hello\n");
}

#[test]
fn verify_finds_a_flipped_bit_and_a_missing_object() {
    let cli = store("");
    for word in ["one", "two", "three", "four", "five", "six"] {
        assert!(with_stdin(&cli, "blobs put - --task t", word.as_bytes()).status.success());
    }
    assert_eq!(cli.stdout("blobs verify"), "6 blobs checked, 22 bytes are whole; 0 damaged or missing, 0 unreadable\n");
    assert_eq!(cli.stdout("blobs verify --quiet"), "");
    let objects = objects(&cli);
    damage(&objects[1]);
    fs::remove_file(&objects[4]).unwrap();
    let (code, stdout, stderr) = cli.run("blobs verify --json");
    assert_eq!(code, 1, "{stderr}");
    let told: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&told["checked"], &told["damaged"], &told["complete"]), (&6.into(), &2.into(), &true.into()));
    let mut failed: Vec<_> =
        told["failures"].as_array().unwrap().iter().map(|failure| failure["digest"].as_str().unwrap()).collect();
    failed.sort_unstable();
    let digest = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap()[..64].to_owned();
    assert_eq!(failed, [digest(&objects[1]), digest(&objects[4])]);
    let (code, stdout, _) = cli.run("blobs verify --quiet");
    assert_eq!((code, stdout.lines().count()), (1, 2), "{stdout}");
}

#[test]
fn explain_says_why_and_when() {
    let jobs = "[jobs.runs]\nkind = \"retention\"\nstore = \"memory:\"\nretention_days = 1\n\
        [jobs.sweep]\nkind = \"orphans\"\nblobs = \"artifacts\"\nschedule = \"@yearly\"\ntimezone = \"UTC\"\ngrace = \"2h\"\nruns = \"runs\"\n";
    let cli = store(jobs);
    cli.stdout("blobs put hello.txt --task t --run r9");
    let explain = format!("blobs explain {HELLO}");
    let told = cli.stdout(&explain);
    assert!(
        told.starts_with(
            "does not stay for good\n- task \"t\" put it as \"hello.txt\" in attempt 1 and has not finalized it; "
        ),
        "{told}"
    );
    assert!(told.contains("for job \"sweep\" it counts as failed if it is silent until 20"), "{told}");
    assert!(told.contains("the store of job \"runs\" has run \"r9\" as failed, cancelled or gone"), "{told}");
    cli.stdout("blobs release --task t");
    let told = cli.stdout(&explain);
    assert!(told.contains("- nothing has referred to it since 20"), "{told}");
    assert!(
        told.contains("- job \"sweep\" takes it from 20")
            && told.contains("its grace of 2 hours; its next tick then is 20"),
        "{told}"
    );
    assert!(told.contains("-01-01T00:00:00Z"), "{told}");
    cli.stdout("blobs put hello.txt --task u");
    cli.stdout("blobs finalize --task u");
    let told = cli.json(&format!("{explain} --json"));
    assert_eq!((&told["stays"], &told["digest"]), (&true.into(), &HELLO.into()));
    let because = told["because"].as_array().unwrap();
    assert_eq!(because.len(), 1, "{because:?}");
    assert_eq!(
        because[0],
        "task \"u\" put it as \"hello.txt\" in attempt 1 and finalized it: it stays until the task deletes it"
    );
    let unswept = Cli::with(STORE);
    with_stdin(&unswept, "blobs put - --task t", b"hello\n");
    assert!(unswept.stdout(&explain).contains("no job of kind \"orphans\" sweeps this store"));
}

#[test]
fn several_stores_need_a_name() {
    let cli = store("[blobs.media]\nobjects = \"file:media\"\ncatalog = \"sqlite:media.db\"\n");
    let (code, stdout, stderr) = cli.run("blobs put hello.txt --task t");
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert_eq!(stderr, "error: which blob store? --blobs with one of: artifacts, media\n");
    let (code, _, stderr) = cli.run("blobs ls --blobs meida");
    assert_eq!((code, stderr.as_str()), (2, "error: no blob store named \"meida\"; did you mean \"media\"?\n"));
    cli.stdout("blobs put hello.txt --task t --blobs media");
    assert_eq!(cli.json("blobs --blobs media ls --json").as_array().unwrap().len(), 1);
    assert_eq!(cli.json("blobs --blobs artifacts ls --json").as_array().unwrap().len(), 0);
}

#[test]
fn without_a_store_it_exits_3_with_an_example() {
    let cli = Cli::with("");
    let (code, stdout, stderr) = cli.run("blobs ls");
    assert_eq!((code, stdout.as_str()), (3, ""));
    assert!(stderr.contains("has no blob store") && stderr.contains("[blobs.artifacts]\nobjects = "), "{stderr}");
}

#[test]
fn a_folder_that_is_no_store_is_refused() {
    let cli = store("");
    fs::create_dir(cli.path().join("blobs")).unwrap();
    fs::write(cli.path().join("blobs/thesis.tex"), "mine").unwrap();
    let (code, stdout, stderr) = cli.run("blobs put hello.txt --task t");
    assert_eq!((code, stdout.as_str()), (6, ""), "{stderr}");
    assert_eq!(fs::read_to_string(cli.path().join("blobs/thesis.tex")).unwrap(), "mine");
}

#[test]
fn an_endpoint_where_nobody_listens_is_named_soon() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let objects = format!("s3://bucket/prefix?endpoint=http://127.0.0.1:{port}&region=eu-central-1");
    let cli = Cli::with(&format!("[blobs.artifacts]\nobjects = \"{objects}\"\ncatalog = \"sqlite:blobs.db\"\n"));
    fs::write(cli.path().join("hello.txt"), "hello\n").unwrap();
    let begun = Instant::now();
    let mut put = cli.command();
    put.args(["blobs", "put", "hello.txt", "--task", "t"]);
    let out = put.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "a-secret-key").output().unwrap();
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("s3://bucket/prefix") && !stderr.contains("a-secret-key"), "{stderr}");
    assert!(begun.elapsed() < Duration::from_secs(30), "it took {:?}", begun.elapsed());
}
