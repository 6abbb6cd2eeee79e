//! An entry of the queue that any program wrote is a request that can be kept, or is refused in few words.

use apalis_janitor::{
    queue::{Request, conformance::read},
    report::{Outcome, Report},
};
use chrono::{DateTime, SecondsFormat};

/// One field a line, with `=` between its name and its value; a line without one is a name.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let field = |line: &str| {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        (name.to_owned(), value.to_owned())
    };
    match read(&text.split('\n').map(field).collect::<Vec<_>>()) {
        Err(reason) => assert!((1..=300).contains(&reason.chars().count()), "{reason}"),
        Ok(request) => is_kept(&request),
    }
}

/// As a message, and in a report.
fn is_kept(request: &Request) {
    let Request { job, mode, tick } = request;
    assert!((1..=200).contains(&job.len()) && !job.chars().any(char::is_control));
    let mut fields = vec![("mode", mode.as_str().to_owned()), ("job", job.clone())];
    fields.extend(tick.map(|tick| ("tick", tick.to_rfc3339_opts(SecondsFormat::AutoSi, true))));
    let fields: Vec<_> = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    assert_eq!(read(&fields).as_ref(), Ok(request));
    let report = Report { tick: *tick, ..Report::new(job, "retention", *mode, Outcome::Busy, DateTime::UNIX_EPOCH) };
    let written = serde_json::to_string(&report).expect("a report");
    assert_eq!(serde_json::from_str::<Report>(&written).expect("the same report"), report);
}
