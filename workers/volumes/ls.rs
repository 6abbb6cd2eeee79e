//! `janitor volumes ls`: the volumes of threads, and what is known of each.

use std::collections::HashSet;

use apalis_janitor::{
    jobs::volumes::{Found, ThreadVolumes, Verdict},
    volumes::User,
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::fail;
use crate::{
    app::{App, Fail, Reply},
    out::instant,
};

const HEADER: [&str; 7] = ["THREAD", "VOLUME", "STATE", "MARKED", "REFERENCES", "NEXT TRY", "SWEEP"];
/// How many closed threads are looked at for a volume.
const CLOSED_MAX: usize = 10_000;

/// List the volumes of threads: whose they are, who refers to them, and what a sweep would do
///
/// STATE is open, closed or unknown (no thread has the id); MARKED whether the thread's row says that its volume is gone; SWEEP
/// is goes, or why it stays.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor volumes ls\n  \
    janitor volumes ls --json | jq -r '.[] | select(.state == \"unknown\") | .volume'")]
pub struct Args {}

/// Lists them.
pub async fn run(app: &App, volumes: &ThreadVolumes) -> Reply {
    volumes.marks.prepare().await.map_err(|error| Fail::of(&error))?;
    let all = volumes.all().await.map_err(|error| fail(error.into()))?;
    let now = volumes.clock.now();
    let verdict = |found: &Found| found.verdict(&volumes.config, None, now);
    if app.out.is_json() {
        app.out.json(&all.iter().map(|found| object(found, verdict(found))).collect::<Vec<_>>())?;
        return Ok(0);
    }
    app.out.rows(HEADER, &all.iter().map(|found| row(found, verdict(found))).collect::<Vec<_>>())?;
    let closed = volumes.marks.unmarked(None, CLOSED_MAX).await.map_err(|error| Fail::of(&error))?;
    let listed: HashSet<&str> = all.iter().map(|found| found.thread.as_str()).collect();
    let without = closed.iter().filter(|thread| !listed.contains(thread.as_str())).count();
    if without > 0 {
        let least = if closed.len() == CLOSED_MAX { " or more" } else { "" };
        app.out.note(&format!(
            "{without}{least} closed threads have no volume, and no mark yet: the next sweep marks them"
        ));
    }
    Ok(0)
}

/// What the row of a thread says, in a word.
fn state(found: &Found) -> &'static str {
    match found.row {
        Some(thread) if thread.is_closed => "closed",
        Some(_) => "open",
        None => "unknown",
    }
}

fn next_try(found: &Found) -> Option<DateTime<Utc>> {
    found.backoff.as_ref().map(|backoff| backoff.next_at)
}

fn row(found: &Found, verdict: Verdict) -> [String; 7] {
    let names: Vec<_> = found.users.iter().map(|user| format!("{} ({})", called(user), user.state)).collect();
    let marked = found.row.map_or("-", |thread| if thread.is_marked { "yes" } else { "no" });
    [
        found.thread.clone(),
        found.volume.name.to_string(),
        state(found).to_owned(),
        marked.to_owned(),
        if names.is_empty() { "-".to_owned() } else { names.join(", ") },
        next_try(found).map_or("-".to_owned(), instant),
        verdict.kept_as().unwrap_or("goes").to_owned(),
    ]
}

/// A container's name, or its id.
fn called(user: &User) -> &str {
    if user.name.is_empty() { &user.id } else { &user.name }
}

/// A volume as JSON.
pub fn object(found: &Found, verdict: Verdict) -> Value {
    json!({
        "thread": found.thread,
        "volume": found.volume.name.as_str(),
        "created_at": found.volume.created_at,
        "state": state(found),
        "marked": found.row.map(|thread| thread.is_marked),
        "references": found.users.iter().map(|user| json!({"id": user.id, "name": user.name, "state": user.state})).collect::<Vec<_>>(),
        "attempts": found.backoff.as_ref().map_or(0, |backoff| backoff.attempts),
        "next_try": next_try(found),
        "sweep": verdict.kept_as().unwrap_or("goes"),
    })
}
