//! A password is in no output of any subcommand, however much is logged.

use std::collections::BTreeSet;

use crate::{
    cli::Cli,
    process::Process,
    redis::{RedisOptions, RedisServer},
};

/// Needs no escaping in a URL, and stands in nothing else.
pub const PASSWORD: &str = "hunter2hunter2";
const JOB: &str =
    "[jobs.old-runs]\nkind = \"retention\"\nschedule = \"every 1s\"\nstore = \"sqlite:none.db\"\nretention_days = 30\n";

/// A line for each subcommand that ends by itself.
pub const LINES: [&str; 22] = [
    "init --print",
    "check",
    "check --json",
    "enqueue old-runs",
    "run old-runs",
    "run old-runs --dry-run --json",
    "jobs",
    "jobs --json",
    "status",
    "status --json",
    "history",
    "pause old-runs",
    "resume --all",
    "unlock old-runs",
    "dead ls",
    "dead retry 1-1",
    "dead drop 1-1",
    "audit .",
    "cache put a.png images/a.png",
    "completions bash",
    "enqueue no-such-job",
    "--version",
];
/// Those that open a blob store.
pub const BLOBS: [&str; 6] =
    ["blobs ls", "blobs verify", "blobs release --task t", "run orphans", "run orphans --json", "check --json"];
/// Those that open a table of threads.
pub const VOLUMES: [&str; 7] = [
    "volumes ls",
    "volumes remove 1",
    "volumes explain 1 --json",
    "volumes migrate",
    "volumes migrate --print",
    "run volumes",
    "check --json",
];
/// Those that run until they are stopped, with what they log once they work.
const DAEMONS: [(&str, &str); 3] = [("beat", "beat started"), ("worker", "job ended"), ("up", "beat started")];

/// All that `line` prints and logs, at most talkative.
pub fn output(cli: &Cli, line: &str, log: &str) -> String {
    let mut command = cli.command();
    command.args(["-vv"]).args(line.split(' ')).env("RUST_LOG", log);
    let output = command.output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn no_output_of_any_subcommand_has_the_password() {
    let options = RedisOptions { password: Some(PASSWORD.to_owned()), ..RedisOptions::default() };
    let redis = RedisServer::start_with(options).await;
    let configurations = [
        redis.url(),
        redis.url().replace("redis://:", "redis://default:"),
        // Refused, silent, and no URL at all.
        redis.url().replace(PASSWORD, &format!("{PASSWORD}x")),
        format!("redis://:{PASSWORD}@127.0.0.1:1"),
        format!("redis://:{PASSWORD}@127.0.0.1:port/x"),
        format!("redis://{PASSWORD}@[::1"),
        format!("http://:{PASSWORD}@127.0.0.1:1"),
    ];
    for url in configurations {
        let cli = Cli::with(&format!("[redis]\nurl = \"{url}\"\n{JOB}"));
        for line in LINES {
            for log in ["", "trace"] {
                let told = output(&cli, line, log);
                assert!(!told.contains(PASSWORD), "{line} with {url}:\n{told}");
            }
        }
    }
    let cli = Cli::with(&format!("[redis]\nurl = \"{}\"\n{JOB}", redis.url()));
    assert!(output(&cli, "check", "").contains("redis://:***@127.0.0.1"), "the URL is shown without it");
    for (line, working) in DAEMONS {
        let daemon = Process::start(&cli, &format!("{line} -vv"));
        cli.stdout("enqueue old-runs");
        daemon.logs(working).await;
        let end = daemon.stop().await;
        assert!(!(end.stdout + &end.stderr).contains(PASSWORD), "{line}");
    }
}

#[test]
fn no_output_has_the_password_of_a_catalog() {
    for url in [
        format!("postgresql://app:{PASSWORD}@127.0.0.1:1/app"),
        format!("postgresql://app:{PASSWORD}@127.0.0.1:port/app"),
        format!("postgresql://app:{PASSWORD}@[::1"),
        format!("mysql://app:{PASSWORD}@127.0.0.1:1/app"),
    ] {
        let cli = Cli::with(&format!(
            "[blobs.a]\nobjects = \"file:blobs\"\ncatalog = \"{url}\"\n\
             [jobs.orphans]\nkind = \"orphans\"\nblobs = \"a\"\n"
        ));
        for line in BLOBS {
            for log in ["", "trace"] {
                let told = output(&cli, line, log);
                assert!(!told.contains(PASSWORD), "{line} with {url}:\n{told}");
                assert!(told.contains("***"), "the URL is shown without it: {told}");
            }
        }
    }
}

#[test]
fn no_output_has_the_password_of_the_marks() {
    for url in [
        format!("postgresql://app:{PASSWORD}@127.0.0.1:1/app"),
        format!("mysql://app:{PASSWORD}@127.0.0.1:1/app"),
        format!("mysql://app:{PASSWORD}@127.0.0.1:port/app"),
        format!("sqlite://app:{PASSWORD}@127.0.0.1/app"),
    ] {
        let cli = Cli::with(&format!(
            "[jobs.volumes]\nkind = \"volumes\"\nengine = \"unix:///none.sock\"\nmarks = \"{url}\"\n\
             table = {{ name = \"threads\", closed = \"closed\" }}\nvolume = \"ws_{{id}}\"\n"
        ));
        for line in VOLUMES {
            for log in ["", "trace"] {
                let told = output(&cli, line, log);
                assert!(!told.contains(PASSWORD), "{line} with {url}:\n{told}");
            }
        }
    }
}

#[test]
fn every_subcommand_is_tried() {
    let help = Cli::with("").stdout("--help");
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // A line that goes on with a description is indented further.
    let names = listed.filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')));
    let names: BTreeSet<_> = names.filter_map(|line| line.split_whitespace().next()).collect();
    let tried = LINES.iter().chain(&BLOBS).chain(&VOLUMES).chain(DAEMONS.iter().map(|(line, _)| line));
    let tried: BTreeSet<_> = tried.filter_map(|line| line.split_whitespace().next()).collect();
    // The demo reads no configuration; it has no password to show.
    let left: Vec<_> = names.difference(&tried).filter(|name| !["help", "demo"].contains(name)).collect();
    assert!(!names.is_empty() && left.is_empty(), "not tried: {left:?}");
}
