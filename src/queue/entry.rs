//! The fields of an entry, which any program may have written, as a request.

use std::str::FromStr;

use chrono::{DateTime, Datelike, SecondsFormat, Utc};

use super::{QueueError, Request};
use crate::report::Mode;

impl Request {
    /// Reads an entry's fields. What they say beyond the request is left alone; the error says what is wrong with them.
    pub(super) fn read(fields: &[(String, String)]) -> Result<Self, String> {
        // Any program can append: the reason quotes the entry, which may be of any length.
        Self::parse(fields).map_err(|reason| reason.chars().take(REASON_MAX).collect())
    }

    fn parse(fields: &[(String, String)]) -> Result<Self, String> {
        let one = |name: &str| {
            let mut values = fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str());
            match (values.next(), values.next()) {
                (value, None) => Ok(value),
                (_, Some(_)) => Err(format!("the field {name:?} is there twice")),
            }
        };
        let needed = |name: &str| match one(name)? {
            Some(value) if !value.is_empty() => Ok(value),
            Some(_) => Err(format!("the field {name:?} is empty")),
            None => Err(format!("the field {name:?} is missing")),
        };
        let tick = one("tick")?.map(|text| match DateTime::parse_from_rfc3339(text) {
            // In another zone its year may have five digits, and then it could not be read again.
            Ok(tick) if (0..=9_999).contains(&tick.to_utc().year()) => Ok(tick.to_utc()),
            Ok(_) => Err(format!("tick {text:?} is beyond the years that can be written")),
            Err(error) => Err(format!("tick {text:?} is no RFC 3339 instant: {error}")),
        });
        let job = needed("job")?;
        // Reports are kept by job: a name that no configuration can have should not become a key.
        if !is_name(job) {
            return Err(format!("job {job:?} is no name of a job"));
        }
        Ok(Self { job: job.to_owned(), mode: Mode::from_str(needed("mode")?)?, tick: tick.transpose()? })
    }
}

/// An instant as it stands in messages: RFC 3339 in UTC.
pub(super) fn rfc3339(instant: DateTime<Utc>) -> String {
    instant.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// Refuses a request that could not be read again, and a key to merge by that is none.
pub(super) fn check(request: &Request, key: Option<&str>) -> Result<(), QueueError> {
    let rule = format!("must be 1 to {NAME_MAX_BYTES} bytes without a control character");
    // What it is stays unsaid: it may be of any length.
    if !is_name(&request.job) {
        return Err(QueueError::Invalid(format!("a job's name {rule}")));
    }
    match key {
        Some(key) if !is_name(key) => Err(QueueError::Invalid(format!("a key {rule}"))),
        Some(_) | None => Ok(()),
    }
}

fn is_name(text: &str) -> bool {
    (1..=NAME_MAX_BYTES).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// The longest name of a job and the longest key to merge by, in bytes.
const NAME_MAX_BYTES: usize = 200;

/// The longest reason that quotes an entry, in characters.
const REASON_MAX: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[(&str, &str)]) -> Result<Request, String> {
        let owned: Vec<_> = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Request::read(&owned)
    }

    #[test]
    fn reads_what_any_program_can_write() {
        let request = Request { job: "old-runs".to_owned(), mode: Mode::DryRun, tick: None };
        assert_eq!(read(&[("job", "old-runs"), ("mode", "dry_run"), ("note", "x")]), Ok(request));
    }

    #[test]
    fn refuses_what_could_not_be_read_again() {
        let request = |job: &str| Request { job: job.to_owned(), mode: Mode::Apply, tick: None };
        assert!(check(&request("a"), None).is_ok() && check(&request("a"), Some("k")).is_ok());
        let told = check(&request("a\nb"), None).unwrap_err().to_string();
        assert_eq!(told, "queue: a job's name must be 1 to 200 bytes without a control character");
        assert!(check(&request("a"), Some("")).unwrap_err().to_string().starts_with("queue: a key must be"));
    }

    #[test]
    fn reads_a_tick_in_any_zone() {
        let request = read(&[("job", "a"), ("mode", "apply"), ("tick", "2026-11-20T04:00:00+01:00")]).unwrap();
        assert_eq!(request.tick.map(rfc3339).as_deref(), Some("2026-11-20T03:00:00Z"));
    }

    #[test]
    fn says_what_is_wrong_with_an_entry() {
        assert_eq!(read(&[("mode", "apply")]).unwrap_err(), "the field \"job\" is missing");
        assert_eq!(read(&[("job", ""), ("mode", "apply")]).unwrap_err(), "the field \"job\" is empty");
        assert_eq!(read(&[("job", "a"), ("job", "b")]).unwrap_err(), "the field \"job\" is there twice");
        assert!(read(&[("job", "a"), ("mode", "delete")]).unwrap_err().starts_with("mode \"delete\" is neither"));
        assert!(read(&[("job", "a\nb"), ("mode", "apply")]).unwrap_err().ends_with("is no name of a job"));
        assert!(read(&[("job", "a"), ("mode", &"x".repeat(5_000))]).unwrap_err().len() <= REASON_MAX);
        assert!(read(&[("job", &"a".repeat(NAME_MAX_BYTES + 1)), ("mode", "apply")]).is_err());
        assert!(read(&[("job", "a"), ("mode", "apply"), ("tick", "soon")]).unwrap_err().starts_with("tick \"soon\""));
        let late = [("job", "a"), ("mode", "apply"), ("tick", "9999-12-31T23:59:59-23:59")];
        assert!(read(&late).unwrap_err().ends_with("beyond the years that can be written"));
    }
}
