//! `janitor audit`, as a script sees it.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt};

use serde_json::{Value, json};

use crate::cli::Cli;

/// A folder `data` with a file of each kind of name.
fn cli() -> Cli {
    let cli = Cli::with("");
    let data = cli.path().join("data");
    fs::create_dir_all(data.join("images")).unwrap();
    fs::write(data.join("images").join(OsStr::from_bytes(b"\xff\n.png")), vec![7; 40_000]).unwrap();
    fs::write(data.join("events.jsonl"), vec![7; 9_000]).unwrap();
    fs::hard_link(data.join("events.jsonl"), data.join("images/again")).unwrap();
    std::os::unix::fs::symlink("data", cli.path().join("link")).unwrap();
    cli
}

#[test]
fn a_pipe_gets_lines_in_bytes() {
    let cli = cli();
    let (code, stdout, stderr) = cli.run("audit data");
    assert_eq!(code, 0, "{stderr}");
    let rows: Vec<Vec<_>> = stdout.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(rows[0][..4], ["total", "data", "2", "49000"]);
    assert_eq!(rows[1][..2], ["folder", "images"]);
    assert_eq!(rows.iter().filter(|row| row[0] == "folder").count(), rows.len() - 3);
    let (largest, next) = (&rows[rows.len() - 2], &rows[rows.len() - 1]);
    assert_eq!(largest[..4], ["file", "images/\\xFF\\x0A.png", "1", "40000"]);
    assert_eq!((next[0], next[3]), ("file", "9000"));
    assert_eq!(stderr, "1 more names of the same files are not counted\n");
}

#[test]
fn json_is_one_document_and_the_log_one_line() {
    let cli = cli();
    let (code, stdout, stderr) = cli.run("audit data --json -v");
    assert_eq!(code, 0, "{stderr}");
    let audit: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&audit["files"], &audit["size_bytes"], &audit["hard_links"]), (&json!(2), &json!(49_000), &json!(1)));
    assert_eq!(audit["largest"][0]["path"], "images/\\xFF\n.png");
    assert_eq!(audit["by_folder"][0]["folder"], "images");
    assert_eq!(audit["failures"], json!([]));
    let logged: Vec<Value> = stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ours: Vec<_> = logged.iter().filter(|line| line["target"] == "janitor::audit").collect();
    assert_eq!(ours.len(), 1, "{stderr}");
    assert_eq!((&ours[0]["files"], &ours[0]["size_bytes"]), (&json!(2), &json!(49_000)));
    let largest: Value = serde_json::from_str(ours[0]["largest"].as_str().unwrap()).unwrap();
    assert_eq!(largest[0][0], "images/\\xFF\n.png");
}

#[test]
fn what_is_no_folder_exits_1_and_says_why() {
    let cli = cli();
    for (path, why) in [
        ("absent", "is not there"),
        ("link", "is a symbolic link"),
        ("link/", "is a symbolic link"),
        ("data/events.jsonl", "is no folder"),
    ] {
        let (code, stdout, stderr) = cli.run(&format!("audit {path}"));
        assert_eq!((code, stdout.as_str()), (1, ""), "{path}: {stderr}");
        assert!(stderr.starts_with(&format!("error: {path:?}: {why}")), "{stderr}");
    }
    // A home is only read.
    cli.command().args(["audit", "."]).env("HOME", cli.path()).assert().success();
}
