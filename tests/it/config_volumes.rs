//! Jobs of kind `volumes`: each key, its default, and what is said of what is wrong.

use std::{path::PathBuf, time::Duration};

use apalis_janitor::config::{EngineUrl, JobConfig, JobKind, MarksUrl, SecretUrl, ThreadsTable, VolumesConfig};

use crate::{config::parse, config_errors};

const HEAD: &str = "[jobs.v]\nkind = \"volumes\"\n";
const MARKS: &str = "marks = \"sqlite:app.db\"\n";
const TABLE: &str = "table = { name = \"threads\", closed = \"closed\" }\n";
const VOLUME: &str = "volume = \"ha_ws_{id}\"\n";

fn job(text: &str) -> JobConfig {
    parse(text).unwrap().jobs["v"].clone()
}

fn volumes(text: &str) -> VolumesConfig {
    let JobKind::Volumes(volumes) = job(text).kind else { panic!("another kind") };
    *volumes
}

/// What is said of a job with all that must be there and these lines.
fn refused(lines: &str) -> Vec<String> {
    errors(&format!("{HEAD}{MARKS}{TABLE}{VOLUME}{lines}\n"))
}

/// The errors of a file, without its name and the job's.
fn errors(text: &str) -> Vec<String> {
    let short = |error: &String| error.replace("janitor.toml:", "").replace("jobs.v.", "");
    config_errors::errors(text).iter().map(short).collect()
}

#[test]
fn what_is_left_out_has_its_default() {
    let job = volumes(&format!("{HEAD}{MARKS}{TABLE}{VOLUME}"));
    assert_eq!(job.engine, EngineUrl::Unix("/var/run/docker.sock".into()));
    assert_eq!(job.marks, MarksUrl::Sqlite("/etc/janitor/app.db".into()));
    let table = ThreadsTable {
        name: vec!["threads".to_owned()],
        id: "id".to_owned(),
        status: "status".to_owned(),
        closed: "closed".to_owned(),
        removed_at: "volume_removed_at".to_owned(),
    };
    assert_eq!(job.table, table);
    assert_eq!(job.volume.to_string(), "ha_ws_{id}");
    assert_eq!((job.require_label, job.sweep_unknown), (None, false));
    assert_eq!((job.limit.get(), job.concurrency.get()), (100, 3));
    assert_eq!((job.engine_timeout, job.time_limit), (Duration::from_secs(10), Duration::from_hours(1)));
}

#[test]
fn what_is_given_is_taken() {
    let text = "[jobs.v]\nkind = \"volumes\"\nengine = \"tcp://[::1]:2376\"\nengine_certs = \"certs\"\n\
                marks = \"mariadb://app:${PASSWORD}@db/app\"\nvolume = \"a.{id}-z\"\nrequire_label = \"app=x=y\"\n\
                sweep_unknown = \"true\"\nlimit = \"7\"\nconcurrency = 64\nengine_timeout = \"100ms\"\ntime_limit = \"5m\"\n\
                [jobs.v.table]\nname = \"my app.Threads\"\nid = \"thread id\"\nstatus = \"state\"\n\
                closed = \"it's \\\"closed\\\"\"\nremoved_at = \"gone at\"\n";
    let job = volumes(text);
    let certs = Some(PathBuf::from("/etc/janitor/certs"));
    assert_eq!(job.engine, EngineUrl::Tcp { address: "[::1]:2376".to_owned(), certs });
    assert_eq!(job.engine.to_string(), "tcp://[::1]:2376");
    assert_eq!(job.marks, MarksUrl::Mysql(SecretUrl::new("mariadb://app:hunter2@db/app")));
    assert_eq!(job.marks.to_string(), "mariadb://app:***@db/app");
    let table = ThreadsTable {
        name: vec!["my app".to_owned(), "Threads".to_owned()],
        id: "thread id".to_owned(),
        status: "state".to_owned(),
        closed: "it's \"closed\"".to_owned(),
        removed_at: "gone at".to_owned(),
    };
    assert_eq!(job.table, table);
    assert_eq!(job.volume.volume("1").unwrap().as_str(), "a.1-z");
    assert_eq!(job.require_label, Some(("app".to_owned(), "x=y".to_owned())));
    assert!(job.sweep_unknown);
    assert_eq!((job.limit.get(), job.concurrency.get()), (7, 64));
    assert_eq!((job.engine_timeout, job.time_limit), (Duration::from_millis(100), Duration::from_mins(5)));
    let unguarded = volumes(&format!("{HEAD}{MARKS}{TABLE}{VOLUME}require_label = \"\""));
    assert_eq!(unguarded.require_label, None);
    let postgres = volumes(&format!("{HEAD}marks = \"postgresql://app@db/app\"\n{TABLE}{VOLUME}"));
    assert!(matches!(postgres.marks, MarksUrl::Postgres(_)));
}

#[test]
fn a_job_is_its_hosts_where_its_engine_is() {
    let with = |engine: &str| job(&format!("{HEAD}engine = \"{engine}\"\n{MARKS}{TABLE}{VOLUME}"));
    assert_eq!(with("unix:///run/podman.sock").kind.as_str(), "volumes");
    assert!(with("unix:///run/podman.sock").kind.is_of_host());
    assert!(!with("tcp://docker:2375").kind.is_of_host());
}

#[test]
fn the_database_may_be_named_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("url");
    std::fs::write(&file, "postgresql://app:hunter2@db/app\n").unwrap();
    let job = volumes(&format!("{HEAD}marks_file = \"{}\"\n{TABLE}{VOLUME}", file.display()));
    assert_eq!(job.marks.to_string(), "postgresql://app:***@db/app");
    assert!(!format!("{job:?}").contains("hunter2"));
}

#[test]
fn what_must_be_there_is_missed() {
    for (lines, error) in [
        (format!("{TABLE}{VOLUME}"), "1:7: marks: is required, such as marks = \"postgresql://app@db/app\""),
        (
            format!("{MARKS}{VOLUME}"),
            "1:7: table: is required, such as table = { name = \"threads\", closed = \"closed\" }",
        ),
        (format!("{MARKS}{TABLE}"), "1:7: volume: is required, such as volume = \"ha_ws_{id}\""),
        (format!("{MARKS}{VOLUME}table = \"threads\""), "5:9: table: must be a table: [table]"),
        (
            format!("{MARKS}{VOLUME}table = {{ closed = \"c\" }}"),
            "5:1: table.name: is required, such as name = \"threads\"",
        ),
        (
            format!("{MARKS}{VOLUME}table = {{ name = \"t\" }}"),
            "5:1: table.closed: is required, such as closed = \"closed\"",
        ),
    ] {
        assert_eq!(errors(&format!("{HEAD}{lines}")), [error]);
    }
}

#[test]
fn each_key_has_its_rule() {
    let span = "must be a whole number with a unit (ms, s, m, h, d, w), such as \"90s\", \"15m\" or \"7d\"";
    let engine = "must be unix:///path/to/docker.sock or tcp://host:port";
    for (line, error) in [
        ("engine = \"/var/run/docker.sock\"", format!("6:10: engine = \"/var/run/docker.sock\": {engine}")),
        ("engine = \"unix://docker.sock\"", format!("6:10: engine = \"unix://docker.sock\": {engine}")),
        ("engine = \"tcp://docker\"", format!("6:10: engine = \"tcp://docker\": {engine}")),
        ("engine = \"tcp://:2375\"", format!("6:10: engine = \"tcp://:2375\": {engine}")),
        ("engine = \"tcp://docker:99999\"", format!("6:10: engine = \"tcp://docker:99999\": {engine}")),
        ("engine = \"tcp://docker/x:2375\"", format!("6:10: engine = \"tcp://docker/x:2375\": {engine}")),
        ("engine = \"http://docker:2375\"", format!("6:10: engine = \"http://docker:2375\": {engine}")),
        ("engine_certs = \"certs\"", "1:7: engine_certs: is for an engine at tcp://host:port only".to_owned()),
        ("engine_certs = 3", "6:16: engine_certs = 3: must be a string".to_owned()),
        (
            "require_label = \"app\"",
            "6:17: require_label = \"app\": must be \"key=value\", or empty for no guard".to_owned(),
        ),
        (
            "require_label = \"=x\"",
            "6:17: require_label = \"=x\": must be \"key=value\", or empty for no guard".to_owned(),
        ),
        ("sweep_unknown = \"yes\"", "6:17: sweep_unknown = \"yes\": must be true or false".to_owned()),
        ("limit = 0", "6:9: limit = 0: must be a whole number from 1 to 1000000".to_owned()),
        ("limit = 1000001", "6:9: limit = 1000001: must be a whole number from 1 to 1000000".to_owned()),
        ("concurrency = 0", "6:15: concurrency = 0: must be a whole number from 1 to 64".to_owned()),
        ("concurrency = 65", "6:15: concurrency = 65: must be a whole number from 1 to 64".to_owned()),
        ("engine_timeout = 10", format!("6:18: engine_timeout = 10: {span}")),
        ("engine_timeout = \"99ms\"", "6:18: engine_timeout = \"99ms\": must be from 100ms to 10m".to_owned()),
        ("engine_timeout = \"11m\"", "6:18: engine_timeout = \"11m\": must be from 100ms to 10m".to_owned()),
        ("time_limit = \"0s\"", "6:14: time_limit = \"0s\": must be from 1ms to 365d".to_owned()),
        ("force = true", {
            let own = "engine_certs, engine, marks, marks_file, table, volume, require_label, sweep_unknown, limit, concurrency, engine_timeout, time_limit";
            format!("6:1: force: unknown key; known here: kind, enabled, schedule, timezone, catch_up, jitter, {own}")
        }),
        ("limits = 3", "6:1: limits: unknown key; did you mean `limit`?".to_owned()),
    ] {
        assert_eq!(refused(line), [error]);
    }
}

#[test]
fn the_database_is_one_that_has_tables() {
    let rule =
        "must be postgresql://…, mysql://…, sqlite:///absolute/path or sqlite:relative/path: where the threads are";
    for url in ["memory:", "file:///x", "citus://db/app", "app.db", "postgres:/x", "redis://h"] {
        let found = errors(&format!("{HEAD}marks = \"{url}\"\n{TABLE}{VOLUME}"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(&format!("3:9: marks = \"{url}\": ")), "{found:?}");
        assert!(found[0].ends_with(rule) || url == "postgres:/x", "{found:?}");
    }
    let found = errors(&format!("{HEAD}marks = \"postgresql://\"\n{TABLE}{VOLUME}"));
    assert_eq!(found.len(), 1, "{found:?}");
    let found = errors(&format!("{HEAD}{MARKS}marks_file = \"x\"\n{TABLE}{VOLUME}"));
    assert_eq!(found, ["4:14: marks_file = \"x\": stands beside `marks`: give one of the two"]);
}

#[test]
fn names_of_tables_and_columns_are_whole_names() {
    let column = "must be a name of 1 to 63 characters without a control character";
    let closed = "must be the status of a closed thread, without a control character";
    let twice = "names one column twice: id, status and removed_at must be three";
    let long = "x".repeat(64);
    for (fields, error) in [
        ("name = \"\", closed = \"c\"", format!("5:18: table.name = \"\": {column}")),
        ("name = \"a.\", closed = \"c\"", format!("5:18: table.name = \"a.\": {column}")),
        (
            "name = \"a.b.c\", closed = \"c\"",
            "5:18: table.name = \"a.b.c\": must be a table, or schema.table".to_owned(),
        ),
        ("name = \"a\\nb\", closed = \"c\"", format!("5:18: table.name = \"a\\nb\": {column}")),
        ("name = \"t\", closed = \"\"", format!("5:32: table.closed = \"\": {closed}")),
        ("name = \"t\", closed = \"a\\u0000\"", format!("5:32: table.closed = \"a\\0\": {closed}")),
        ("name = \"t\", closed = true", "5:32: table.closed = true: must be a string".to_owned()),
        ("name = \"t\", closed = \"c\", id = \"\"", format!("5:42: table.id = \"\": {column}")),
        (&format!("name = \"t\", closed = \"c\", id = \"{long}\""), format!("5:42: table.id = \"{long}\": {column}")),
        ("name = \"t\", closed = \"c\", id = \"STATUS\"", format!("5:1: table: {twice}")),
        ("name = \"t\", closed = \"c\", removed_at = \"status\"", format!("5:1: table: {twice}")),
        ("name = \"t\", closed = \"c\", idd = \"x\"", "5:37: table.idd: unknown key; did you mean `id`?".to_owned()),
    ] {
        assert_eq!(errors(&format!("{HEAD}{MARKS}{VOLUME}table = {{ {fields} }}")), [error]);
    }
}

#[test]
fn a_pattern_is_a_volumes_name_with_the_id_in_it() {
    let rule =
        "must be a volume's name with `{id}` in it, once, and a letter or a digit at its start, such as \"ha_ws_{id}\"";
    for pattern in ["", "{id}", "ha_ws", "_{id}", "a{id}{id}", "a/{id}", "a{id}?force=1", "ä{id}"] {
        let found = errors(&format!("{HEAD}{MARKS}{TABLE}volume = \"{pattern}\""));
        assert_eq!(found, [format!("5:10: volume = \"{pattern}\": {rule}")]);
    }
}

#[test]
fn all_errors_of_a_job_are_told_at_once() {
    let found =
        errors(&format!("{HEAD}engine = 1\nengine_certs = \"c\"\nmarks = 2\ntable = 3\nvolume = 4\nlimit = 0\nx = 5"));
    assert_eq!(found.len(), 6, "{found:?}");
}
