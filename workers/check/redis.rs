//! Whether Redis will keep what is entrusted to it, and whether its clock agrees with ours.

use apalis_janitor::{
    config::RedisConfig,
    link::{Link, LinkError, Probe},
};
use chrono::{DateTime, Utc};

use super::{Finding, Level, skewed};
use crate::app::chain;

/// Asks Redis.
pub async fn check(config: &RedisConfig) -> Vec<Finding> {
    let about = config.url.to_string();
    match ask(config).await {
        Ok(probe) => judge(&probe, Utc::now())
            .into_iter()
            .map(|(level, text)| Finding::new(level, about.clone(), text))
            .collect(),
        Err(error) => vec![Finding::new(Level::Error, about, chain(&error))],
    }
}

async fn ask(config: &RedisConfig) -> Result<Probe, LinkError> {
    Link::new(config.url.expose(), &config.namespace)?.probe().await
}

fn judge(probe: &Probe, now: DateTime<Utc>) -> Vec<(Level, String)> {
    let mut findings = vec![(Level::Ok, format!("version {}", probe.version))];
    match probe.eviction.as_deref() {
        Some("noeviction") => {}
        Some(policy) => findings.push((
            Level::Warning,
            format!("maxmemory-policy is {policy}: set noeviction, else it may drop locks and requests"),
        )),
        None => findings
            .push((Level::Warning, "it does not tell its maxmemory-policy: see that it is noeviction".to_owned())),
    }
    findings.extend(skewed(now, probe.now).map(|text| (Level::Warning, text)));
    findings
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn warnings(policy: Option<&str>, skew_secs: i64) -> usize {
        let now = DateTime::UNIX_EPOCH;
        let probe = Probe { version: "7.0.15".to_owned(), eviction: policy.map(str::to_owned), now };
        judge(&probe, now + TimeDelta::seconds(skew_secs)).iter().filter(|(level, _)| *level == Level::Warning).count()
    }

    #[test]
    fn warns_of_eviction_and_skew_and_of_nothing_else() {
        assert_eq!(warnings(Some("noeviction"), 10), 0);
        assert_eq!(warnings(Some("allkeys-lru"), -10), 1);
        assert_eq!(warnings(None, -11), 2);
    }
}
