//! What a wrong configuration says: each key's rule, and where the value is.

use apalis_janitor::config::RetentionDays;

use crate::config::{parse, retention};

/// The errors of a file, without its folder.
pub fn errors(text: &str) -> Vec<String> {
    let errors = parse(text).expect_err(text);
    errors.iter().map(|error| error.to_string().replace("/etc/janitor/", "")).collect()
}

/// The errors of a retention job with these lines more, without the file's name and the job's.
fn job_errors(lines: &str) -> Vec<String> {
    let text = format!("[jobs.x]\nkind = \"retention\"\nstore = \"memory:\"\n{lines}\n");
    let short = |error: String| error.replace("janitor.toml:", "").replace("jobs.x.", "");
    errors(&text).into_iter().map(short).collect()
}

#[test]
fn days_are_positive_whole_numbers_or_absent() {
    let rule = "must be a whole number of days from 1 to 36500; leave it out to keep for ever";
    for (written, shown) in [
        ("0", "0"),
        ("-1", "-1"),
        ("0.5", "0.5"),
        ("true", "true"),
        ("\"30d\"", "\"30d\""),
        ("1e6", "1e6"),
        ("36501", "36501"),
        ("99999999999", "99999999999"),
        ("99999999999999999999", "99999999999999999999"),
        ("\"\"", "\"\""),
        ("\"  \"", "\"  \""),
        ("2026-11-20", "2026-11-20"),
        ("[30]", "a list"),
        ("{ n = 30 }", "a table"),
        ("\"${ZERO}\"", "\"0\" (from $ZERO)"),
        ("\"${NONE:-0}\"", "\"0\" (from $NONE)"),
        ("\"${BLANK}\"", "\"  \" (from $BLANK)"),
        ("\"${DAYS}${ZERO}0.\"", "\"9000.\" (from $DAYS and $ZERO)"),
    ] {
        assert_eq!(
            job_errors(&format!("retention_days = {written}")),
            [format!("4:18: retention_days = {shown}: {rule}")]
        );
    }
    for (written, days) in [
        ("1", Some(1)),
        ("36500", Some(36_500)),
        ("\"30\"", Some(30)),
        ("\"${DAYS}\"", Some(90)),
        ("\"${NONE:-30}\"", Some(30)),
        ("0x1E", Some(30)),
        ("\"${NONE}\"", None),
        ("\"${EMPTY}\"", None),
        ("\"${NONE:-}\"", None),
    ] {
        let job = retention(&format!("store = \"memory:\"\nretention_days = {written}"));
        assert_eq!(job.retention_days.map(RetentionDays::get), days, "{written}");
    }
}

#[test]
fn each_key_of_a_job_has_its_rule() {
    let duration = "must be a whole number with a unit (ms, s, m, h, d, w), such as \"90s\", \"15m\" or \"7d\"";
    for (line, error) in [
        ("batch_size = 0", "4:14: batch_size = 0: must be a whole number from 1 to 1000000"),
        ("batch_size = 1000001", "4:14: batch_size = 1000001: must be a whole number from 1 to 1000000"),
        ("batch_time = \"9ms\"", "4:14: batch_time = \"9ms\": must be from 10ms to 1d"),
        ("batch_time = 250", &format!("4:14: batch_time = 250: {duration}")),
        ("batch_pause = \"-1s\"", &format!("4:15: batch_pause = \"-1s\": {duration}")),
        ("batch_pause = \"1.5s\"", &format!("4:15: batch_pause = \"1.5s\": {duration}")),
        ("batch_pause = \"61m\"", "4:15: batch_pause = \"61m\": must be from 0s to 1h"),
        ("run_limit = -1", "4:13: run_limit = -1: must be a whole number, 0 or more"),
        ("time_limit = \"0s\"", "4:14: time_limit = \"0s\": must be from 1ms to 365d"),
        ("time_limit = \"1M\"", &format!("4:14: time_limit = \"1M\": {duration}; there are no months or years")),
        ("time_limit = \"1y\"", &format!("4:14: time_limit = \"1y\": {duration}; there are no months or years")),
        ("time_limit = \"99999999999999999w\"", &format!("4:14: time_limit = \"99999999999999999w\": {duration}")),
        ("jitter = \"25h\"", "4:10: jitter = \"25h\": must be from 0s to 1d"),
        ("enabled = 1", "4:11: enabled = 1: must be true or false"),
        ("enabled = \"no\"", "4:11: enabled = \"no\": must be true or false"),
        (
            "catch_up = \"all\"",
            "4:12: catch_up = \"all\": must be \"one\" (the latest missed tick is made up) or \"none\"",
        ),
        (
            "timezone = \"Europe/Berlim\"",
            "4:12: timezone = \"Europe/Berlim\": must be an IANA time zone, such as \"Europe/Berlin\"; did you mean \
             \"Europe/Berlin\"?",
        ),
        ("timezone = \"+02:00\"", "4:12: timezone = \"+02:00\": must be an IANA time zone, such as \"Europe/Berlin\""),
        ("schedule = \"0 0 31 2 *\"", "4:12: schedule = \"0 0 31 2 *\": never comes: no month has such a day"),
        (
            "schedule = \"every 0s\"",
            "4:12: schedule = \"every 0s\": the interval must be whole seconds, from 1s to 366d",
        ),
        (
            "schedule = \"0 0 3 * * *\"",
            "4:12: schedule = \"0 0 3 * * *\": must be a cron expression of five fields (\"0 3 * * *\"), @hourly, @daily, \
             @weekly, @monthly, @yearly or \"every 15m\"; it has 6 fields",
        ),
        ("layout = \"celery\"", "4:10: layout = \"celery\": must be \"pyworkflow\", the one layout of this version"),
        ("retention_day = 3", "4:1: retention_day: unknown key; did you mean `retention_days`?"),
        ("retentionDays = 3", "4:1: retentionDays: unknown key; did you mean `retention_days`?"),
        (
            "[jobs.y]\nkind = \"retention\"\nstore=\"memory:\"\nttl = 1",
            "7:1: jobs.y.ttl: unknown key; known here: kind, enabled, \
          schedule, timezone",
        ),
    ] {
        let errors = job_errors(line);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with(error), "{}\n{error}", errors[0]);
    }
}

#[test]
fn each_key_of_the_process_has_its_rule() {
    let name = "must be 1 to 64 letters, digits, `_`, `.` or `-`, and begin with a letter or a digit";
    for (text, error) in [
        ("[worker]\nlock_ttl = \"999ms\"", "2:12: worker.lock_ttl = \"999ms\": must be from 1s to 1h"),
        ("[worker]\nlock_ttl = \"61m\"", "2:12: worker.lock_ttl = \"61m\": must be from 1s to 1h"),
        ("[worker]\nvisibility = \"0s\"", "2:14: worker.visibility = \"0s\": must be from 1s to 1d"),
        ("[worker]\nconcurrency = 0", "2:15: worker.concurrency = 0: must be a whole number from 1 to 64"),
        ("[worker]\nconcurrency = 65", "2:15: worker.concurrency = 65: must be a whole number from 1 to 64"),
        ("[worker]\nmax_deliveries = 101", "2:18: worker.max_deliveries = 101: must be a whole number from 1 to 100"),
        ("[worker]\nhost = \"a b\"", &format!("2:8: worker.host = \"a b\": {name}")),
        ("worker = 3", "1:10: worker: must be a table: [worker]"),
        ("[wroker]", "1:2: wroker: unknown key; did you mean `worker`?"),
        ("\"a\\nb\" = 1", "1:1: a\\nb: unknown key; known here: data_dir, redis, worker, metrics, blobs, jobs"),
        ("[queue]", "1:2: queue: unknown key; known here: data_dir, redis, worker, metrics, blobs, jobs"),
        ("data_dir = \"\"", "1:12: data_dir = \"\": must name a folder"),
        (
            "[metrics]\nlisten = \"localhost:1\"",
            "2:10: metrics.listen = \"localhost:1\": must be an IP address and a port, \
          such as \"127.0.0.1:9464\"",
        ),
        ("[redis]", "1:2: redis.url: is required, such as url = \"redis://127.0.0.1:6379\""),
        ("[redis]\nurl = \"${NONE}\"", "2:7: redis.url: is required, and $NONE is unset or empty"),
        ("[redis]\nurl = \"redis://h\"\nnamespace = \"{a}\"", &format!("3:13: redis.namespace = \"{{a}}\": {name}")),
        ("jobs = 3", "1:8: jobs: must be a table: [jobs]"),
        ("jobs.x = 3", "1:10: jobs.x: must be a table: [jobs.x]"),
        ("[jobs.x]\nkind = \"retention\"", "1:7: jobs.x.store: is required, such as store = \"sqlite:app.db\""),
        ("[jobs.x]\nstore = \"memory:\"", "1:7: jobs.x.kind: is required, such as kind = \"retention\""),
        (
            "[jobs.x]\nkind = \"retenton\"\nfoo = 1",
            "2:8: jobs.x.kind = \"retenton\": must be \"retention\", \"orphans\", \"disk\" or \"volumes\"; did you mean \
          \"retention\"?",
        ),
        (
            "[jobs.x]\nkind = \"disk\"\nroot = \"/\"",
            "3:8: jobs.x.root = \"/\": must be a folder, neither `/` nor a home, such as \"/app/.data\"",
        ),
        (
            "[jobs.x]\nkind = \"disk\"\nroot = \"/app\"\nremote = { objects = \"file:///app\" }",
            "1:7: jobs.x.remote: must not be the root, nor in a folder of media: what is there would be swept",
        ),
        (
            "[jobs.x]\nkind = \"disk\"\nroot = \"/app\"\nmedia = { paths = [\"m\"] }\nremote = { objects = \"file:/app/m/x\" }",
            "1:7: jobs.x.remote: must not be the root, nor in a folder of media: what is there would be swept",
        ),
        (
            "[jobs.\"my job\"]\nkind = \"retention\"\nstore = \"memory:\"",
            &format!("1:7: jobs.my job: a job's name {name}"),
        ),
        (
            "a = \"${X\"\n[worker]\nhost = \"${X\"",
            "1:1: a: unknown key; known here: data_dir, redis, worker, metrics, blobs, jobs",
        ),
        ("[worker]\nhost = \"${X\"", "2:8: worker.host = \"${X\": has `${` without `}`; a `$` itself is written `$$`"),
    ] {
        let errors = errors(text);
        assert_eq!(errors[0], format!("janitor.toml:{error}"));
        assert_eq!(errors.len(), if text.starts_with("a =") { 2 } else { 1 }, "{errors:?}");
    }
}

#[test]
fn toml_that_is_broken_says_where() {
    for (text, place) in [
        ("a = ", "1:"),
        ("[worker]\nconcurrency = 2\nconcurrency = 3", "3:1: is no valid TOML: duplicate key"),
        ("[worker\n", "1:"),
        ("[worker]\nhost = \"w1\n", "2:"),
        ("\u{feff}[worker]\nhost = \"ü\" x", "2:12: "),
        ("a = \u{0}", "1:"),
    ] {
        let errors = errors(text);
        assert!(errors[0].starts_with(&format!("janitor.toml:{place}")), "{errors:?}");
        assert!(errors[0].contains("is no valid TOML"), "{errors:?}");
    }
}

#[test]
fn no_error_shows_a_password() {
    for (text, error) in [
        (
            "[redis]\nurl = \"redis://app:hunter2@[db/0\"",
            "2:7: redis.url = \"redis://app:***@[db/0\": must be redis://[user:password@]host[:port][/database], redis+sentinel://host,host/master or redis+cluster://host,host, with rediss for TLS; in a password, write a special character as %XX",
        ),
        (
            "[redis]\nurl = \"${URL}\"",
            "2:7: redis.url = \"redis://app:***@[db/0\" (from $URL): must be redis://[user:password@]host[:port][/database], redis+sentinel://host,host/master or redis+cluster://host,host, with rediss for TLS; in a password, write a special character as %XX",
        ),
        (
            "[redis]\nurl = \"${PASSWORD}\"",
            "2:7: redis.url = \"***\" (from $PASSWORD): must be redis://[user:password@]host[:port][/database], redis+sentinel://host,host/master or redis+cluster://host,host, with rediss for TLS",
        ),
        (
            "[redis]\nurl = \"app:hunter2@db\"",
            "2:7: redis.url = \"***@db\": must be redis://[user:password@]host[:port][/database], redis+sentinel://host,host/master or redis+cluster://host,host, with rediss for TLS",
        ),
        (
            "[redis]\nurl = \"redis://hunter2@db\"",
            "2:7: redis.url = \"redis://***@db\": names a user and no password; a password alone is written \
             redis://:password@host",
        ),
        (
            "[redis]\nurl = \"redis+sentinel://:hunter2@a,b\"",
            "2:7: redis.url = \"redis+sentinel://:***@a,b\": must be redis://[user:password@]host[:port][/database], redis+sentinel://host,host/master or redis+cluster://host,host, with rediss for TLS; in a password, write a special character as %XX",
        ),
        (
            "[jobs.x]\nkind = \"retention\"\nstore = \"postgresql://app:hunter2@db\"",
            "3:9: jobs.x.store = \"postgresql://app:***@db\": must be postgresql://[user[:password]@]host[:port]/database",
        ),
        (
            "[worker]\nhost = \"redis://:hunter2@db\"",
            "2:8: worker.host = \"redis://:***@db\": must be 1 to 64 letters, digits, `_`, `.` or `-`, and begin with a letter \
             or a digit",
        ),
        (
            "[redis]\nurl = \"redis://:hunter2@db\"\npasword = \"hunter2\"",
            "3:1: redis.pasword: unknown key; known here: url, \
          url_file, namespace",
        ),
        (
            "[redis]\nurl = \"redis://:hunter2@${db\"",
            "2:7: redis.url = \"redis://:***@${db\": has `${` without `}`; a `$` itself is written `$$`",
        ),
    ] {
        let errors = errors(text);
        assert_eq!(errors, [format!("janitor.toml:{error}")]);
    }
    let config = parse("[redis]\nurl = \"redis://:${PASSWORD}@db\"").unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    assert_eq!(config.redis.unwrap().url.expose(), "redis://:hunter2@db");
}

#[test]
fn a_store_says_what_this_version_has() {
    let rule = "must be postgresql://…, citus://…, mysql://…, sqlite:///absolute/path, sqlite:relative/path, \
                file:///absolute/folder, dynamodb://region/table, cassandra://host/keyspace or memory:";
    let table = "must be 3 to 255 letters, digits, `_`, `.` or `-`";
    for (store, error) in [
        ("app.db", rule),
        ("mongodb://db", rule),
        ("sqllite:app.db", &format!("{rule}; did you mean \"sqlite\"?")),
        ("sqlite://app.db", "has two slashes: a relative path is sqlite:path, an absolute one sqlite:///path"),
        ("sqlite:app.db?mode=ro", "must name a file; it takes no options"),
        ("sqlite:", "must name a file; it takes no options"),
        ("sqlite::memory:", "must be `memory:` for a store in memory"),
        ("memory:x", "must be `memory:` and nothing more"),
        ("file://app", "has two slashes: a relative path is file:path, an absolute one file:///path"),
        ("mysql://h", "must be mysql://[user[:password]@]host[:port]/database"),
        ("mysql:///app", "must be mysql://[user[:password]@]host[:port]/database"),
        ("citus://h/a/b", "must be citus://[user[:password]@]host[:port]/database"),
        ("cassandra://h", "must be cassandra://[user:password@]host[:port][,host…]/keyspace[?consistency=…&serial=…]"),
        ("dynamodb://pyworkflow", "must be dynamodb://region/table[?endpoint=http://host:port]"),
        ("dynamodb://EU/app", "names a region that must be small letters, digits and `-`"),
        ("dynamodb://eu-west-1/ab", &format!("names a table that {table}")),
        (
            "dynamodb://eu-west-1/app?endpoint=h:1",
            "has an endpoint that must be http://host[:port] or https://, without a login",
        ),
        (
            "dynamodb://eu-west-1/app?profile=x",
            "takes the option endpoint only; credentials come from AWS_ACCESS_KEY_ID and the like",
        ),
        ("", rule),
    ] {
        let errors = errors(&format!("[jobs.x]\nkind = \"retention\"\nstore = \"{store}\""));
        assert_eq!(errors, [format!("janitor.toml:3:9: jobs.x.store = \"{store}\": {error}")]);
    }
    let login = errors("[jobs.x]\nkind = \"retention\"\nstore = \"dynamodb://eu-west-1/app?endpoint=http://u:p@h:1\"")
        .remove(0);
    assert!(
        login.contains(":***@h:1\": has an endpoint that must be ") && login.ends_with(", without a login"),
        "{login}"
    );
}

#[test]
fn a_rule_that_is_wrong_says_why() {
    let ended = "completed, failed, cancelled, continued_as_new, interrupted";
    let one = "must have exactly one of `retention_days` and `keep = true`";
    for (rules, error) in [
        ("3", "4:9: rules = 3: must be a list of tables, such as [{ workflow = \"order_*\", retention_days = 90 }]"),
        ("[3]", "4:10: rules[0]: must be a list of tables, such as [{ workflow = \"order_*\", retention_days = 90 }]"),
        ("[{}]", &format!("4:10: rules[0]: {one}")),
        ("[{ keep = false }]", &format!("4:10: rules[0]: {one}")),
        ("[{ keep = true, retention_days = 3 }]", &format!("4:10: rules[0]: {one}")),
        ("[{ retention_days = \"${NONE}\" }]", &format!("4:10: rules[0]: {one}")),
        (
            "[{ status = [\"running\"], keep = true }]",
            &format!("4:22: rules[0].status[0] = \"running\": must be a status in which a run has ended: {ended}"),
        ),
        (
            "[{ status = [\"canceled\"], keep = true }]",
            &format!(
                "4:22: rules[0].status[0] = \"canceled\": must be a status in which a run has ended: {ended}; did you mean \
                 \"cancelled\"?"
            ),
        ),
        (
            "[{ status = \"failed\", keep = true }]",
            &format!(
                "4:21: rules[0].status = \"failed\": must be a list of statuses in which a run has ended: {ended}"
            ),
        ),
        (
            "[{ status = [], keep = true }]",
            &format!("4:10: rules[0].status: names no status: leave it out for all, or give some of {ended}"),
        ),
        (
            "[{ status = [\"${NONE}\"], retention_days = 1 }]",
            "4:22: rules[0].status: is required, and $NONE is unset or empty",
        ),
        (
            "[{ workflow = \"${NONE}\", retention_days = 1 }]",
            "4:23: rules[0].workflow: is required, and $NONE is unset or empty",
        ),
        (
            "[{ workflow = \"a***\", keep = true }]",
            "4:23: rules[0].workflow = \"a***\": must be a pattern such as \"order_*\": wildcards are either regular `*` or \
             recursive `**`",
        ),
        ("[{ workflw = \"a\", keep = true }]", "4:12: rules[0].workflw: unknown key; did you mean `workflow`?"),
        (
            "[{ keep = true }, { workflow = \"a\", retention_days = 1 }]",
            "4:27: rules[1]: can never match: rules[0] takes all such runs; put the narrower rule first",
        ),
        (
            "[{ workflow = \"a\", status = [\"failed\"], keep = true }, { workflow = \"a\", status = [\"failed\"], \
             retention_days = 1 }]",
            "4:64: rules[1]: can never match: rules[0] takes all such runs; put the narrower rule first",
        ),
    ] {
        let errors = job_errors(&format!("rules = {rules}"));
        let errors: Vec<_> =
            errors.iter().map(|error| error.replace("jobs.x.rules[0] takes", "rules[0] takes")).collect();
        assert_eq!(errors, [error]);
    }
}

#[test]
fn all_errors_of_a_file_are_reported_at_once() {
    let text = "data_dir = 1\ncolour = 2\n[redis]\nurl = \"http://h\"\nnamespace = \"\"\n[worker]\nconcurrency = \"many\"\n\
                lock_ttl = 30\nvisibility = \"1 s\"\nmax_deliveries = 0\ndrain = true\nhost = 7\n[metrics]\nlisten = 9464\n\
                [jobs.a]\nkind = \"retention\"\nschedule = \"daily\"\ntimezone = \"CEST\"\ncatch_up = true\njitter = \"x\"\n\
                store = \"app.db\"\nlayout = \"\"\nretention_days = 0\nbatch_size = 0\nbatch_time = \"0s\"\nrules = [{}]\n";
    let errors = parse(text).unwrap_err();
    let keys: Vec<_> = errors.iter().map(|error| error.key.as_deref().unwrap().replace("jobs.", "")).collect();
    assert_eq!(
        keys,
        [
            "data_dir",
            "colour",
            "redis.url",
            "redis.namespace",
            "worker.concurrency",
            "worker.lock_ttl",
            "worker.visibility",
            "worker.max_deliveries",
            "worker.drain",
            "worker.host",
            "metrics.listen",
            "a.schedule",
            "a.timezone",
            "a.catch_up",
            "a.jitter",
            "a.store",
            "a.layout",
            "a.retention_days",
            "a.batch_size",
            "a.batch_time",
            "a.rules[0]",
        ]
    );
    assert_eq!(errors.to_string().lines().count(), keys.len());
    let first = serde_json::to_value(&errors).unwrap()[0].clone();
    let expected = serde_json::json!({"file": "/etc/janitor/janitor.toml", "line": 1, "column": 12, "key": "data_dir",
        "value": "1", "rule": "must be a string"});
    assert_eq!(first, expected);
}
