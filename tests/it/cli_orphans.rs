//! Jobs of kind `orphans` from the command line: what they list and report, over each queue, and what `check` says.

use std::{fs, path::PathBuf};

use serde_json::Value;

use crate::{
    cli::Cli,
    process::{Process, reports},
    redis::{RedisServer, free_port},
};

const STORE: &str = "[blobs.artifacts]\nobjects = \"file:blobs\"\ncatalog = \"sqlite:blobs.db\"\n";
const JOB: &str = "[jobs.orphans]\nkind = \"orphans\"\nblobs = \"artifacts\"\ngrace = \"0s\"\n";

/// A store with a job that sweeps it at once; `failed` has put `words` and failed, `other` has finalized what it put.
fn world(head: &str, words: &[&str]) -> Cli {
    let cli = Cli::with(&format!("{head}{STORE}{JOB}"));
    for word in words {
        put(&cli, "failed", word);
    }
    cli.stdout("blobs release --task failed");
    put(&cli, "other", "kept");
    cli.stdout("blobs finalize --task other");
    cli
}

/// Puts a word, and answers the name that a sweep gives the blob.
fn put(cli: &Cli, task: &str, word: &str) -> String {
    let mut command = cli.command();
    let output = command.args(["blobs", "put", "-", "--task", task, "--json"]).write_stdin(word).output().unwrap();
    let put: Value = serde_json::from_slice(&output.stdout).unwrap();
    format!("{}.{}", put["digest"].as_str().unwrap(), put["id"].as_str().unwrap())
}

/// Where the object of that name is.
fn object(cli: &Cli, name: &str) -> PathBuf {
    cli.path().join("blobs").join(&name[..2]).join(name)
}

#[test]
fn a_dry_run_lists_what_the_sweep_deletes() {
    let cli = Cli::with(&format!("{STORE}{JOB}"));
    let mut names = ["one", "two", "three"].map(|word| put(&cli, "failed", word));
    let kept = put(&cli, "other", "kept");
    cli.stdout("blobs release --task failed");
    names.sort_unstable();
    let (code, dry, stderr) = cli.run("run orphans --dry-run --list");
    assert_eq!(code, 0, "{stderr}");
    let sorted = |list: &str| {
        let mut lines: Vec<_> = list.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    assert_eq!(sorted(&dry), names);
    assert!(stderr.contains("orphans (dry run): done; planned 3 blobs; deleted -; kept 1 referenced"), "{stderr}");
    assert!(names.iter().all(|name| object(&cli, name).exists()));

    let stdout = cli.stdout("run orphans --list --json");
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut items: Vec<_> = lines[..3].iter().map(|line| line["item"].as_str().unwrap()).collect();
    items.sort_unstable();
    assert_eq!(items, names);
    let report = &lines[3];
    assert_eq!((&report["kind"], &report["deleted"]["blobs"]), (&"orphans".into(), &3.into()), "{report}");
    assert_eq!((&report["bytes_freed"], lines.len()), (&11.into(), 4));
    assert!(names.iter().all(|name| !object(&cli, name).exists()) && object(&cli, &kept).exists());
    assert_eq!(cli.json("history orphans --limit 1 --json")[0], *report);
    assert!(cli.stdout("history").contains("\torphans\tapply\tdone\t"), "{}", cli.stdout("history"));
}

#[test]
fn jobs_and_status_show_it() {
    let cli = world("", &["one"]);
    let line = cli.stdout("jobs");
    let cells: Vec<_> = line.trim_end().split('\t').collect();
    assert_eq!(cells[..6], ["orphans", "orphans", "yes", "-", "-", "-"]);
    assert!(cells[6].starts_with("file://") && cells[6].ends_with("/blobs"), "{line}");
    cli.stdout("run orphans");
    let status = &cli.json("status --json")[0];
    assert_eq!((&status["job"], &status["last_outcome"]), (&"orphans".into(), &"done".into()));
    assert_eq!(cli.run("status --check").0, 0);
}

#[test]
fn an_earlier_instant_keeps_more() {
    let cli = world("", &["one"]);
    let planned = |line: &str| cli.json(line)["planned"]["blobs"].clone();
    assert_eq!(planned("run orphans --dry-run --json --before 2020-01-01T00:00:00Z"), 0);
    assert_eq!(planned("run orphans --dry-run --json --before 2120-01-01T00:00:00Z"), 1);
}

#[test]
fn what_is_for_another_kind_exits_2_and_says_for_which() {
    let retention = "[jobs.old-runs]\nkind = \"retention\"\nstore = \"memory:\"\nretention_days = 1\n";
    let cli = world(retention, &[]);
    for flag in ["--allow-mass-delete", "--inventory"] {
        let (code, stdout, stderr) = cli.run(&format!("run old-runs {flag}"));
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        let says =
            format!("error: {flag} is for jobs of kind \"orphans\", and \"old-runs\" is of kind \"retention\"\n");
        assert_eq!(stderr, says);
        assert_eq!(cli.run(&format!("run orphans {flag}")).0, 0);
    }
    assert_eq!(reports(&cli.json("history old-runs --json")), Vec::<Value>::new(), "it has not begun");
}

#[tokio::test]
async fn a_worker_over_redis_sweeps_what_is_enqueued() {
    let redis = RedisServer::start().await;
    let cli = world(&format!("[redis]\nurl = \"{}\"\n", redis.url()), &["one", "two"]);
    let worker = Process::start(&cli, "worker --name w1");
    let dry = cli.json("enqueue orphans --dry-run --wait --json");
    assert_eq!((&dry["planned"]["blobs"], &dry["fence"]), (&2.into(), &Value::Null), "{dry}");
    let report = cli.json("enqueue orphans --wait --json");
    assert_eq!((&report["outcome"], &report["deleted"]["blobs"]), (&"done".into(), &2.into()), "{report}");
    worker.stop().await;
    assert_eq!(cli.json("blobs ls --json").as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn up_sweeps_what_is_enqueued() {
    let cli = world("", &["one", "two"]);
    let up = Process::start(&cli, "up");
    let report = cli.json("enqueue orphans --wait --json");
    assert_eq!((&report["outcome"], &report["deleted"]["blobs"]), (&"done".into(), &2.into()), "{report}");
    up.stop().await;
    assert_eq!(cli.json("status --json")[0]["last_outcome"], "done");
}

#[test]
fn check_reaches_the_catalog_and_the_objects() {
    let cli = world("", &["one"]);
    let told = cli.stdout("check");
    assert!(told.contains("ok\tjob orphans\t2 blobs, 7 bytes, 1 of them referred to\n"), "{told}");
    let unswept = Cli::with(STORE);
    let told = unswept.stdout("check");
    assert!(told.contains("ok\tblobs artifacts\t0 blobs, 0 bytes"), "{told}");
    assert!(told.contains("warning\tblobs artifacts\tno job of kind \"orphans\" sweeps it"), "{told}");
}

#[test]
fn check_fails_where_the_objects_are_not_there() {
    let cli = world("", &["one"]);
    fs::rename(cli.path().join("blobs"), cli.path().join("away")).unwrap();
    let (code, stdout, stderr) = cli.run("check");
    assert_eq!(code, 1, "{stdout}{stderr}");
    let folder = cli.path().join("blobs");
    let says = format!("error\tjob orphans\tfile://{} is empty, and its catalog has 2 blobs", folder.display());
    assert!(stdout.contains(&says), "{stdout}");
    let (code, stdout, _) = cli.run("run orphans");
    assert_eq!(code, 6, "{stdout}");
}

#[test]
fn check_names_a_catalog_that_is_not_there_and_no_password() {
    let (port, store) = (free_port(), "[blobs.artifacts]\nobjects = \"file:blobs\"\ncatalog = ");
    let cli = Cli::with(&format!("{store}\"postgresql://app:hunter2hunter2@127.0.0.1:{port}/app\"\n{JOB}"));
    for line in ["check", "run orphans", "blobs ls", "check -vv", "run orphans -vv --json"] {
        let (code, stdout, stderr) = cli.run(line);
        let told = stdout + &stderr;
        assert_eq!(code, 1, "{line}: {told}");
        assert!(told.contains(&format!("postgresql://app:***@127.0.0.1:{port}/app")), "{line}: {told}");
        assert!(told.contains("onnection refused") && !told.contains("hunter2hunter2"), "{line}: {told}");
    }
}
