//! Why a thread's volume goes or stays: pure, in sentences.

use apalis_janitor::{
    config::{JobConfig, VolumesConfig},
    jobs::volumes::{Found, Known, Verdict, named},
    volumes::Thread,
};
use chrono::{DateTime, Utc};

use crate::out::instant;

/// What is known.
pub struct Facts<'a> {
    /// The thread's id.
    pub id: &'a str,
    /// Its row and its volume.
    pub known: &'a Known,
    /// The job that sweeps them.
    pub job: &'a JobConfig,
    /// What is of its kind.
    pub config: &'a VolumesConfig,
    /// Whether it is paused.
    pub is_paused: bool,
    /// When it is asked.
    pub now: DateTime<Utc>,
}

/// What is said.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    /// In a word or two: `goes`, `stays`, `is gone`, `is unknown`.
    pub end: &'static str,
    /// Why, rule by rule.
    pub because: Vec<String>,
}

/// Says it.
pub fn explain(facts: &Facts<'_>) -> Told {
    let Facts { id, known, config, .. } = facts;
    let mut because = vec![about_row(id, known.row)];
    let Some(found) = &known.found else {
        because.push(format!("the engine lists no volume {}", known.volume));
        let end = match known.row {
            Some(Thread { is_closed: true, is_marked: false }) => {
                because.push(format!("a sweep marks the thread, and removes nothing: {}", tick(facts)));
                "is gone"
            }
            Some(Thread { is_closed: true, is_marked: true }) => "is gone",
            None => "is unknown",
            Some(Thread { is_closed: false, .. }) => {
                because.push("nothing is done for an open thread".to_owned());
                "stays"
            }
        };
        return Told { end, because };
    };
    because.push(about_volume(found));
    because.extend(about_label(found, config));
    because.push(match found.users.as_slice() {
        [] => "no container refers to it".to_owned(),
        users => format!("it stays while it is referred to by {}", named(users)),
    });
    because.extend(found.backoff.as_ref().map(|backoff| {
        let (times, next) = (backoff.attempts, instant(backoff.next_at));
        format!("it could not be removed {times} times in a row; the next try is from {next} on")
    }));
    let end = match found.verdict(config, None, facts.now) {
        Verdict::Goes | Verdict::Waiting(_) | Verdict::Newer => {
            because.push(format!("a sweep removes it, if the engine agrees: {}", tick(facts)));
            "goes"
        }
        Verdict::Open | Verdict::Unknown | Verdict::Unlabelled | Verdict::Referenced => "stays",
    };
    Told { end, because }
}

fn about_row(id: &str, row: Option<Thread>) -> String {
    match row {
        None => format!("no thread has the id {id:?}"),
        Some(Thread { is_closed: false, .. }) => format!("thread {id:?} is open: its volume stays"),
        Some(Thread { is_marked: false, .. }) => format!("thread {id:?} is closed, and not marked"),
        Some(Thread { is_marked: true, .. }) => {
            format!("thread {id:?} is closed, and marked: its volume was removed before, or was gone")
        }
    }
}

fn about_volume(found: &Found) -> String {
    let made = found.volume.created_at.map_or(String::new(), |made| format!(", made {}", instant(made)));
    let name = &found.volume.name;
    match found.row {
        Some(Thread { is_closed: true, is_marked: true }) => {
            format!("the engine lists {name}{made}: the thread was opened and closed again")
        }
        Some(_) | None => format!("the engine lists {name}{made}"),
    }
}

fn about_label(found: &Found, config: &VolumesConfig) -> Vec<String> {
    let mut because = Vec::new();
    if found.row.is_none() {
        because.push(if config.sweep_unknown {
            "sweep_unknown is true: it may go without a thread".to_owned()
        } else {
            "sweep_unknown is false: without a thread it stays".to_owned()
        });
    }
    if let Some((key, value)) = &config.require_label {
        because.push(if found.volume.labels.get(key) == Some(value) {
            format!("it has the label {key}={value}, as require_label wants")
        } else {
            format!("it lacks the label {key}={value}, which require_label wants: it stays")
        });
    }
    because
}

/// When the job comes round.
fn tick(facts: &Facts<'_>) -> String {
    let JobConfig { name, enabled, timing, .. } = facts.job;
    match timing {
        _ if !enabled => format!("but job {name:?} is not enabled"),
        _ if facts.is_paused => format!("but job {name:?} is paused"),
        None => format!("job {name:?} has no schedule: janitor run {name}"),
        Some(timing) => timing.schedule.next_after(facts.now, timing.timezone).map_or_else(
            || format!("the schedule of job {name:?} has no further tick"),
            |tick| format!("the next tick of job {name:?} is {}", instant(tick)),
        ),
    }
}
