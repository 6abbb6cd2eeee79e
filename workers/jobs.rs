//! `janitor jobs`: the configured jobs and when they run next. It needs no server.

use apalis_janitor::config::{CatchUp, JobConfig, JobKind};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::{
    app::{App, Reply},
    out::instant,
};

/// List the configured jobs; no server is asked
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor jobs\n  janitor jobs --json | jq '.[].name'")]
pub struct Args {}

/// Lists them.
pub fn run(app: &App, _args: &Args) -> Reply {
    let config = app.config()?;
    if app.out.is_json() {
        app.out.json(&config.jobs.values().map(object).collect::<Vec<_>>())?;
        return Ok(0);
    }
    let rows: Vec<_> = config.jobs.values().map(row).collect();
    app.out.rows(["JOB", "KIND", "ENABLED", "SCHEDULE", "TIMEZONE", "NEXT", "TARGET"], &rows)?;
    Ok(0)
}

/// When the schedule's next tick is; none where there is no schedule or the job is not enabled.
pub fn next_tick(job: &JobConfig) -> Option<DateTime<Utc>> {
    let timing = job.timing.as_ref().filter(|_| job.enabled)?;
    timing.schedule.next_after(Utc::now(), timing.timezone)
}

fn target(job: &JobConfig) -> String {
    match &job.kind {
        JobKind::Retention(retention) => retention.store.to_string(),
        JobKind::Orphans(orphans) => orphans.blobs.objects.to_string(),
        JobKind::Disk(disk) => disk.root.display().to_string(),
        JobKind::Volumes(volumes) => volumes.engine.to_string(),
    }
}

fn row(job: &JobConfig) -> [String; 7] {
    let timing = job.timing.as_ref();
    [
        job.name.clone(),
        job.kind.as_str().to_owned(),
        if job.enabled { "yes" } else { "no" }.to_owned(),
        timing.map_or("-".to_owned(), |timing| timing.schedule.to_string()),
        timing.map_or("-".to_owned(), |timing| timing.timezone.to_string()),
        next_tick(job).map_or("-".to_owned(), instant),
        target(job),
    ]
}

fn object(job: &JobConfig) -> Value {
    let timing = job.timing.as_ref();
    json!({
        "name": job.name,
        "kind": job.kind.as_str(),
        "enabled": job.enabled,
        "schedule": timing.map(|timing| timing.schedule.to_string()),
        "timezone": timing.map(|timing| timing.timezone.to_string()),
        "catch_up": timing.map(|timing| match timing.catch_up {
            CatchUp::One => "one",
            CatchUp::None => "none",
        }),
        "jitter_secs": timing.map(|timing| timing.jitter.as_secs_f64()),
        "next": next_tick(job),
        "target": target(job),
    })
}
