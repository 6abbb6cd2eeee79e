//! Blob stores and the jobs that sweep them: what is right, and what is said of what is not.

use std::time::Duration;

use apalis_janitor::config::{CatalogUrl, JobKind, ObjectsUrl, OrphansConfig};

use crate::{config::parse, config_errors};

const STORE: &str = "[blobs.a]\nobjects = \"file:blobs\"\ncatalog = \"sqlite:blobs.db\"\n";

fn orphans(lines: &str) -> OrphansConfig {
    let text = format!("{STORE}[jobs.x]\nkind = \"orphans\"\nblobs = \"a\"\n{lines}\n");
    let JobKind::Orphans(orphans) = &parse(&text).unwrap().jobs["x"].kind else { panic!("another kind") };
    (**orphans).clone()
}

/// The errors of a file, without its name.
fn errors(text: &str) -> Vec<String> {
    config_errors::errors(text).iter().map(|error| error.replace("janitor.toml:", "")).collect()
}

#[test]
fn what_is_left_out_has_its_default() {
    let job = orphans("");
    assert_eq!((job.grace, job.abandoned_after), (Duration::from_hours(24), Duration::from_hours(168)));
    assert_eq!(job.max_share.to_string(), "50%");
    assert_eq!(job.inventory.unwrap().to_string(), "@weekly");
    assert!(job.runs.is_none() && job.rate_limit.is_none());
    assert_eq!(job.blobs.objects, ObjectsUrl::Folder("/etc/janitor/blobs".into()));
    assert_eq!(job.blobs.catalog, CatalogUrl::Sqlite("/etc/janitor/blobs.db".into()));
}

#[test]
fn what_is_given_is_taken() {
    let job = orphans("grace = \"0s\"\nmax_share = \"0%\"\ninventory = \"never\"\nrate_limit = 7");
    assert_eq!(job.grace, Duration::ZERO);
    assert!(job.max_share.is_exceeded(1, 1_000_000));
    assert!(job.inventory.is_none());
    assert_eq!(job.rate_limit.unwrap().get(), 7);
    // The job that it names may stand before it or behind it.
    for name in ["a-runs", "z-runs"] {
        let text = format!(
            "{STORE}[jobs.x]\nkind = \"orphans\"\nblobs = \"a\"\nruns = \"{name}\"\n[jobs.{name}]\nkind = \"retention\"\nstore = \"sqlite:r.db\"\nretention_days = 1"
        );
        let config = parse(&text).unwrap();
        let JobKind::Orphans(job) = &config.jobs["x"].kind else { panic!("another kind") };
        assert_eq!(job.runs.as_ref().unwrap().0, name);
    }
}

#[test]
fn an_s3_url_is_taken_apart() {
    let objects = |url: &str| {
        let text = format!("[blobs.a]\nobjects = \"{url}\"\ncatalog = \"sqlite:b.db\"");
        parse(&text).unwrap().blobs["a"].objects.clone()
    };
    let full = objects("s3://cdn.example/a/b/?endpoint=http://127.0.0.1:9000/&region=eu-west-1");
    assert_eq!(full.to_string(), "s3://cdn.example/a/b");
    let ObjectsUrl::S3 { endpoint, region, .. } = full else { panic!("another kind") };
    assert_eq!((endpoint.as_deref(), region.as_deref()), (Some("http://127.0.0.1:9000"), Some("eu-west-1")));
    assert_eq!(objects("s3://cdn").to_string(), "s3://cdn");
}

#[test]
fn each_key_has_its_rule() {
    let head = format!("{STORE}[jobs.x]\nkind = \"orphans\"\n");
    let span = "must be a whole number with a unit (ms, s, m, h, d, w), such as \"90s\", \"15m\" or \"7d\"";
    for (lines, error) in [
        ("", "4:7: jobs.x.blobs: is required, such as blobs = \"artifacts\""),
        ("blobs = \"b\"", "6:9: jobs.x.blobs = \"b\": must name a [blobs.NAME] of this file; did you mean \"a\"?"),
        ("blobs = \"a\"\ngrace = 1", &format!("7:9: jobs.x.grace = 1: {span}")),
        ("blobs = \"a\"\ngrace = \"-1s\"", &format!("7:9: jobs.x.grace = \"-1s\": {span}")),
        ("blobs = \"a\"\nabandoned_after = \"0s\"", "7:19: jobs.x.abandoned_after = \"0s\": must be from 1s to 36500d"),
        (
            "blobs = \"a\"\nmax_share = \"101%\"",
            "7:13: jobs.x.max_share = \"101%\": must be a share from \"0%\" to \"100%\", in whole percent",
        ),
        ("blobs = \"a\"\nmax_share = 0.5", "7:13: jobs.x.max_share = 0.5: must be a string"),
        ("blobs = \"a\"\nruns = \"x\"", "7:8: jobs.x.runs = \"x\": must name a job of kind \"retention\" of this file"),
        (
            "blobs = \"a\"\nretention_days = 3",
            "7:1: jobs.x.retention_days: unknown key; known here: kind, enabled, schedule, timezone, catch_up, jitter, blobs, grace, abandoned_after, runs, max_share, inventory, rate_limit, time_limit",
        ),
        ("blobs = \"a\"\nrate_limit = -1", "7:14: jobs.x.rate_limit = -1: must be a whole number, 0 or more"),
        ("blobs = \"a\"\ntime_limit = \"0s\"", "7:14: jobs.x.time_limit = \"0s\": must be from 1ms to 365d"),
    ] {
        assert_eq!(errors(&format!("{head}{lines}")), [error]);
    }
    let inventory = errors(&format!("{head}blobs = \"a\"\ninventory = \"often\""));
    assert!(
        inventory[0].starts_with("7:13: jobs.x.inventory = \"often\"") && inventory[0].ends_with("or \"never\""),
        "{inventory:?}"
    );
}

#[test]
fn each_url_has_its_rule() {
    for (objects, catalog, error) in [
        (
            "blobs",
            "sqlite:b.db",
            "2:11: blobs.a.objects = \"blobs\": must be file:///absolute/folder, file:relative/folder or s3://bucket/prefix[?endpoint=…&region=…]",
        ),
        (
            "fil:blobs",
            "sqlite:b.db",
            "2:11: blobs.a.objects = \"fil:blobs\": must be file:///absolute/folder, file:relative/folder or s3://bucket/prefix[?endpoint=…&region=…]; did you mean \"file\"?",
        ),
        (
            "file://blobs",
            "sqlite:b.db",
            "2:11: blobs.a.objects = \"file://blobs\": has two slashes: a relative path is file:path, an absolute one file:///path",
        ),
        (
            "file:blobs?x",
            "sqlite:b.db",
            "2:11: blobs.a.objects = \"file:blobs?x\": must name a folder; it takes no options",
        ),
        (
            "file:blobs",
            "mysql://h/d",
            "3:11: blobs.a.catalog = \"mysql://h/d\": must be sqlite:///absolute/path, sqlite:relative/path or postgresql://[user[:password]@]host[:port]/database",
        ),
        ("file:blobs", "sqlite:blobs/b.db", "1:8: blobs.a.catalog: must not be in the folder of the objects"),
    ] {
        assert_eq!(errors(&format!("[blobs.a]\nobjects = \"{objects}\"\ncatalog = \"{catalog}\"")), [error]);
    }
    for (objects, error) in [
        ("s3://A/b", "names a bucket that must be 3 to 63 small letters, digits, `.` or `-`"),
        ("s3://abc/../b", "has a prefix with an empty part, `.` or `..`"),
        ("s3://abc?endpoint=h:1", "has an endpoint that must be http://host[:port] or https://, without a login"),
        (
            "s3://abc?secret_access_key=x",
            "takes the options endpoint and region only; credentials come from AWS_ACCESS_KEY_ID and the like",
        ),
    ] {
        let found = errors(&format!("[blobs.a]\nobjects = \"{objects}\"\ncatalog = \"sqlite:b.db\""));
        assert!(found.len() == 1 && found[0].ends_with(error), "{found:?}");
    }
}

#[test]
fn a_job_is_not_blamed_for_what_it_names() {
    let text = "[blobs.a]\nobjects = 3\ncatalog = \"sqlite:b.db\"\n[jobs.r]\nkind = \"retention\"\n[jobs.x]\nkind = \"orphans\"\nblobs = \"a\"\nruns = \"r\"";
    let found = errors(text);
    assert_eq!(
        found,
        [
            "2:11: blobs.a.objects = 3: must be a string",
            "4:7: jobs.r.store: is required, such as store = \"sqlite:app.db\""
        ]
    );
}

#[test]
fn a_catalogs_password_is_not_shown() {
    let text = "[blobs.a]\nobjects = \"file:blobs\"\ncatalog = \"postgresql://app:hunter2@db/app\"";
    let config = parse(text).unwrap();
    assert_eq!(config.blobs["a"].catalog.to_string(), "postgresql://app:***@db/app");
    assert!(!format!("{config:?}").contains("hunter2"));
}
