//! What a right configuration means, and that no file makes the reader panic.

use std::{path::Path, time::Duration};

use apalis_janitor::config::{
    CatchUp, Config, ConfigErrors, JobKind, Keep, RetentionConfig, RetentionDays, StoreUrl, TEMPLATE,
};
use proptest::prelude::*;

pub fn env(name: &str) -> Option<String> {
    let value = match name {
        "DAYS" => "90",
        "ZERO" => "0",
        "BLANK" => "  ",
        "EMPTY" => "",
        "URL" => "redis://app:hunter2@[db/0",
        "PASSWORD" => "hunter2",
        "OFF" => "false",
        _ => return None,
    };
    Some(value.to_owned())
}

pub fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse_with(text, Path::new("/etc/janitor/janitor.toml"), &env)
}

pub fn retention(lines: &str) -> RetentionConfig {
    let text = format!("[jobs.x]\nkind = \"retention\"\n{lines}\n");
    let JobKind::Retention(retention) = &parse(&text).unwrap().jobs["x"].kind else { panic!("another kind") };
    (**retention).clone()
}

#[test]
fn the_template_is_valid_and_shows_the_defaults() {
    let config = parse(TEMPLATE).unwrap();
    assert_eq!(config.warnings, []);
    let JobKind::Retention(job) = &config.jobs["old-runs"].kind else { panic!("another kind") };
    assert_eq!(job.retention_days.map(RetentionDays::get), Some(30));
    assert_eq!(job.store, StoreUrl::Sqlite("/etc/janitor/app.db".into()));

    // What is left out means what its comment shows, apart from `url` and the examples.
    let shown: String = TEMPLATE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase() || c == '[' || c == ']') => {
                format!("{key}\n")
            }
            Some(rule) if rule.starts_with("  {") => format!("{rule}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let full = parse(&shown).unwrap();
    let comparable = |config: &Config| {
        let mut job = config.jobs["old-runs"].clone();
        let JobKind::Retention(retention) = &mut job.kind else { panic!("another kind") };
        retention.rules.clear();
        let worker = (config.worker.concurrency, config.worker.lock_ttl, config.worker.visibility);
        format!("{job:?} {worker:?} {} {:?}", config.worker.max_deliveries, config.worker.drain)
    };
    assert_eq!(comparable(&full), comparable(&config));
    let JobKind::Retention(job) = &full.jobs["old-runs"].kind else { panic!("another kind") };
    assert_eq!(job.rules.len(), 2);
    let shortest = "[blobs.artifacts]\nobjects=\"file:blobs\"\ncatalog=\"sqlite:blobs.db\"\n[jobs.old-runs]\nkind=\"retention\"\nstore=\"sqlite:app.db\"\n\
                    retention_days=30\n[jobs.orphans]\nkind=\"orphans\"\nblobs=\"artifacts\"\nschedule=\"every 15m\"\nruns=\"old-runs\"";
    let orphans = |config: &Config| {
        format!("{:?} {:?}", config.blobs, config.jobs["orphans"]).replace(&format!("{:?}", job.rules), "[]")
    };
    assert_eq!(orphans(&full), orphans(&parse(shortest).unwrap()));
    let disk = |config: &Config| {
        let JobKind::Disk(disk) = &config.jobs["disk"].kind else { panic!("another kind") };
        (disk.initial_delay, disk.rate_limit, disk.time_limit, disk.media.clone(), disk.event_logs.clone())
    };
    let shortest = "[jobs.disk]\nkind=\"disk\"\nroot=\"/app/.data\"\nmedia={paths=[\"images\",\"videos\"]}\n\
                    event_logs=[{path=\"events.jsonl\",max_size=50000000}]";
    assert_eq!(disk(&full), disk(&parse(shortest).unwrap()));
    let volumes = |config: &Config| {
        let JobKind::Volumes(volumes) = &config.jobs["volumes"].kind else { panic!("another kind") };
        format!("{volumes:?}")
    };
    let shortest = "[jobs.volumes]\nkind=\"volumes\"\nmarks=\"postgresql://app@db/app\"\nvolume=\"ha_ws_{id}\"\n\
                    table={name=\"threads\",closed=\"closed\"}";
    assert_eq!(volumes(&full), volumes(&parse(shortest).unwrap()));
    assert_eq!((full.data_dir, full.worker.host.as_str()), (config.data_dir, "w1"));
    assert_eq!(full.redis.unwrap().namespace, "janitor");
    assert!(full.metrics.is_some());
}

#[test]
fn an_empty_file_is_the_embedded_mode_with_nothing_to_do() {
    let config = parse("").unwrap();
    assert_eq!(config.data_dir, Path::new("/etc/janitor/janitor-data"));
    assert!(config.redis.is_none() && config.metrics.is_none() && config.jobs.is_empty());
    assert_eq!((config.worker.concurrency, config.worker.max_deliveries), (2, 3));
    assert!(!config.worker.host.is_empty());
    assert_eq!(config.warnings[0].to_string(), "/etc/janitor/janitor.toml: has no [jobs.NAME]: there is nothing to do");
}

#[test]
fn a_url_may_stand_in_a_file_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("janitor.toml");
    std::fs::write(folder.path().join("url"), "redis://:hunter2@db\n").unwrap();
    std::fs::write(folder.path().join("bare"), "hunter2\n").unwrap();
    std::fs::write(folder.path().join("empty"), "\n").unwrap();
    let parse = |text: &str| Config::parse_with(text, &path, &env);
    let redis = parse("[redis]\nurl_file = \"url\"").unwrap().redis.unwrap();
    assert_eq!(redis.url.expose(), "redis://:hunter2@db");
    for (text, error) in [
        ("url_file = \"bare\"", "redis.url_file = \"bare\" with \"***\": must be redis://"),
        ("url_file = \"empty\"", "redis.url_file = \"empty\": is an empty file"),
        ("url_file = \"none\"", "redis.url_file = \"none\": cannot be read: No such file"),
        ("url_file = \".\"", "redis.url_file = \".\": cannot be read: Is a directory"),
        (
            "url = \"redis://h\"\nurl_file = \"url\"",
            "redis.url_file = \"url\": stands beside `url`: give one of the two",
        ),
        ("url = \"${NONE}\"\nurl_file = \"${EMPTY}\"", "redis.url: is required, and $EMPTY is unset or empty"),
    ] {
        let errors = parse(&format!("[redis]\n{text}")).unwrap_err().to_string();
        assert!(errors.contains(error) && !errors.contains("hunter2"), "{errors}");
    }
    assert!(parse("[redis]\nurl = \"${NONE}\"\nurl_file = \"url\"").is_ok());
}

#[test]
fn rules_are_read_in_order() {
    let job = retention(
        "store = \"memory:\"\nrules = [\n  { workflow = \"order_*\", status = [\"failed\"], retention_days = \"${DAYS}\" },\n  \
         { workflow = \"audit_*\", keep = true },\n  { workflow = \"*\", retention_days = 7 }, { retention_days = 8 } ]",
    );
    let rules: Vec<_> = job
        .rules
        .iter()
        .map(|rule| {
            let days = match rule.keep {
                Keep::Forever => 0,
                Keep::Days(days) => days.get(),
            };
            (rule.workflow.as_ref().map(glob::Pattern::as_str), rule.status.join(","), days)
        })
        .collect();
    assert_eq!(
        rules,
        [
            (Some("order_*"), "failed".to_owned(), 90),
            (Some("audit_*"), String::new(), 0),
            (Some("*"), String::new(), 7),
            (None, String::new(), 8),
        ]
    );
}

#[test]
fn a_job_that_keeps_for_ever_is_a_warning() {
    let warnings = |lines: &str| {
        let config = parse(&format!("[jobs.x]\nkind = \"retention\"\nstore = \"sqlite:a.db\"\n{lines}")).unwrap();
        config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let skipped = |unset: &str| {
        format!(
            "/etc/janitor/janitor.toml:1:7: jobs.x: neither it nor a rule sets retention_days{unset}: it keeps for ever and \
                 is skipped"
        )
    };
    assert_eq!(warnings(""), [skipped("")]);
    assert_eq!(warnings("retention_days = \"${NONE}\""), [skipped(" ($NONE is unset or empty)")]);
    assert_eq!(warnings("rules = [{ keep = true }]"), [skipped("")]);
    assert!(warnings("retention_days = 1").is_empty());
    assert!(warnings("rules = [{ retention_days = 1 }]").is_empty());
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("janitor.toml");
    let error = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Config::load(&path).unwrap_err().to_string().replace(&format!("{}", path.display()), "F")
    };
    assert_eq!(error(b"a = 1\nb = \xff"), "F:2:5: must be UTF-8");
    assert_eq!(error(&vec![b'#'; 1024 * 1024 + 1]), "F: must be 1 MiB at most");
    std::fs::write(&path, vec![b'#'; 1024 * 1024]).unwrap();
    Config::load(&path).unwrap();
    let missing = Config::load(folder.path().join("none.toml")).unwrap_err().to_string();
    assert!(missing.ends_with("none.toml: cannot be read: No such file or directory (os error 2)"), "{missing}");
    let directory = Config::load(folder.path()).unwrap_err().to_string();
    assert!(directory.ends_with(": is a directory; it must be a file"), "{directory}");

    let warnings = |text: &str, mode| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let warnings = Config::load(&path).unwrap().warnings;
        warnings.into_iter().filter(|warning| warning.text.contains("password")).map(|warning| warning.text).collect()
    };
    let inline = "[redis]\nurl = \"redis://:hunter2@db\"\n";
    let loose: Vec<String> = warnings(inline, 0o644);
    assert_eq!(loose, ["holds a password and can be read by others (mode 644): chmod 600, or use ${VAR}"]);
    assert_eq!(warnings(inline, 0o600), [""; 0]);
    assert_eq!(warnings("[redis]\nurl = \"redis://:${NONE:-hunter2}@db\"\n", 0o640).len(), 1);
    assert_eq!(warnings("[redis]\nurl = \"redis://db\"\n", 0o644), [""; 0]);
}

/// A configuration with one key of each sort, and what it must mean.
fn any_job() -> impl Strategy<Value = (String, [u64; 5])> {
    (1..=36_500_u64, 1..=1_000_000_u64, 10..=86_400_000_u64, 0..=3_600_000_u64, 0..=i64::MAX.unsigned_abs()).prop_map(
        |(days, size, time, pause, limit)| {
            let text = format!(
                "store = 'memory:'\nretention_days = {days}\nbatch_size = '{size}'\nbatch_time = '{time}ms'\n\
                 batch_pause = '${{NONE:-{pause}ms}}'\nrun_limit = {limit}\n"
            );
            (text, [days, size, time, pause, limit])
        },
    )
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}

proptest! {
    #[test]
    fn a_right_value_comes_back((text, expected) in any_job()) {
        let job = retention(&text);
        let limit = job.run_limit.map_or(0, std::num::NonZeroU64::get);
        let days = u64::from(job.retention_days.unwrap().get());
        let read = [days, job.batch_size.get() as u64, millis(job.batch_time), millis(job.batch_pause), limit];
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_damage_to_a_right_file_makes_it_panic(at in 0..TEMPLATE.len(), cut in 0..40_usize, paste in "\\PC{0,3}|[\\[\\]{}=\"'$\n#.]{0,5}") {
        let mut text: String = TEMPLATE.replace("\n#", "\n").chars().filter(char::is_ascii).collect();
        let at = at.min(text.len());
        text.replace_range(at..(at + cut).min(text.len()), &paste);
        let _ = parse(&text);
    }

    #[test]
    fn no_value_makes_it_panic(key in 0..14_usize, value in "\\PC{0,30}|\\$\\{[A-Z:-]{0,8}\\}?|every [0-9]{0,20}[a-z]{0,2}|[a-z+]{0,8}:/{0,3}[@:/?#a-z]{0,12}") {
        let keys = ["kind", "schedule", "timezone", "catch_up", "jitter", "enabled", "store", "layout", "retention_days",
            "batch_size", "batch_time", "run_limit", "time_limit", "store_file"];
        let value = toml_string(&value);
        let _ = parse(&format!("[jobs.x]\nkind = 'retention'\nstore = 'memory:'\n{} = {value}", keys[key]));
        let _ = parse(&format!("[jobs.x]\n{} = {value}\n[redis]\nurl = {value}", keys[key]));
    }

    #[test]
    fn no_url_shows_its_password(user in "[a-z]{0,4}", password in "[a-z/?#@:%]{0,4}SECRET[a-z/?#@:%]{0,4}", tail in "[a-z:/0-9]{0,8}", scheme in "redis|rediss|http|x") {
        let url = toml_string(&format!("{scheme}://{user}:{password}@{tail}"));
        if let Err(errors) = parse(&format!("[redis]\nurl = {url}")) {
            prop_assert!(!errors.to_string().contains("SECRET"), "{}", errors);
        }
    }
}

fn toml_string(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[test]
fn a_job_has_its_timing_where_it_has_a_schedule() {
    let timing = |lines: &str| {
        let text = format!("[jobs.x]\nkind = \"retention\"\nstore = \"memory:\"\n{lines}");
        let mut config = parse(&text).unwrap();
        let job = config.jobs.remove("x").unwrap();
        job.timing.map(|t| (t.schedule.to_string(), t.timezone.name(), t.catch_up, t.jitter, job.enabled))
    };
    assert_eq!(timing("timezone = \"Europe/Berlin\""), None);
    assert_eq!(timing("schedule = \"${NONE}\""), None);
    assert_eq!(timing("schedule = \"@daily\""), Some(("@daily".to_owned(), "UTC", CatchUp::One, Duration::ZERO, true)));
    assert_eq!(
        timing(
            "schedule = \"every 15m\"\ntimezone = \"Europe/Berlin\"\ncatch_up = \"none\"\njitter = \"5s\"\nenabled = \"${OFF}\""
        ),
        Some(("every 15m".to_owned(), "Europe/Berlin", CatchUp::None, Duration::from_secs(5), false))
    );
}
