//! A file of any bytes is a configuration that holds together, or is refused with one line for each error.

use std::path::Path;

use apalis_janitor::config::{Config, name};
use chrono::DateTime;

/// Where a schedule is asked for its ticks: before two clocks change.
const ASKED: [&str; 2] = ["2026-03-28T23:30:00Z", "2026-10-24T23:30:00Z"];

pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let env = |name: &str| match name {
        "DAYS" => Some("90".to_owned()),
        "EMPTY" => Some(String::new()),
        "ODD" => Some("${DAYS}\n\0\"=".to_owned()),
        _ => None,
    };
    match Config::parse_with(text, Path::new("/etc/janitor/janitor.toml"), &env) {
        Ok(config) => holds_together(&config),
        Err(errors) => {
            let lines = text.split('\n').count();
            assert_ne!(errors.iter().count(), 0);
            assert_eq!(errors.to_string().lines().count(), errors.iter().count(), "{errors}");
            for error in &errors {
                assert!(error.line.is_none_or(|line| (1..=lines).contains(&line)), "{error}");
                assert!(!error.rule.is_empty());
            }
        }
    }
}

fn holds_together(config: &Config) {
    assert!(name(&config.worker.host).is_ok() && config.worker.lock_ttl.as_secs() >= 1);
    for (title, job) in &config.jobs {
        assert!(*title == job.name && name(title).is_ok());
        let Some(timing) = &job.timing else { continue };
        for asked in ASKED {
            let mut at = DateTime::parse_from_rfc3339(asked).expect("an instant").to_utc();
            for _ in 0..5 {
                let Some(next) = timing.schedule.next_after(at, timing.timezone) else { break };
                assert!(next > at);
                assert_eq!(timing.schedule.latest_at_or_before(next, timing.timezone, at), Some(next));
                at = next;
            }
        }
    }
    for warning in &config.warnings {
        assert_eq!(warning.to_string().lines().count(), 1, "{warning}");
    }
}
