//! `janitor check`: validates the configuration, connects to what it names, and warns.

mod disk;
mod due;
mod redis;
mod volumes;

use std::{os::unix::fs::MetadataExt, path::Path};

use apalis_janitor::{
    Janitor,
    blobs::{BlobError, BlobStore, Totals},
    config::{BlobsConfig, Config, JobConfig, JobKind},
    runs::{self, Findings},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use crate::{
    app::{App, Reply, chain},
    wire,
};

/// Clocks that differ by more deserve a warning: ticks a minute ahead wait, and at 5 minutes jobs refuse to run.
const SKEW_MAX: TimeDelta = TimeDelta::seconds(10);

/// Validate the configuration, connect to everything it names, and warn of what will hurt later
///
/// Warnings exit 0. It exits 3 where the file is wrong, 1 where something cannot be reached or read.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor check --config /etc/janitor/janitor.toml")]
pub struct Args {}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and will hurt later.
    Warning,
    /// It does not work.
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub struct Finding {
    level: Level,
    about: String,
    text: String,
}

impl Finding {
    /// What was found about something.
    pub fn new(level: Level, about: impl Into<String>, text: impl Into<String>) -> Self {
        Self { level, about: about.into(), text: text.into() }
    }
}

/// Checks all of it.
pub async fn run(app: &App, _args: &Args) -> Reply {
    let config = app.config()?;
    let mut findings = about_config(&config);
    if let Some(config) = &config.redis {
        findings.extend(redis::check(config).await);
    }
    match wire::connect(config).await {
        Ok(janitor) => findings.extend(about_janitor(&janitor).await),
        Err(fail) => findings.push(Finding::new(Level::Error, "connect", fail.to_string())),
    }
    let failed = findings.iter().any(|finding| finding.level == Level::Error);
    if app.out.is_json() {
        app.out.json(&findings)?;
    } else {
        let rows: Vec<_> = findings.into_iter().map(row).collect();
        app.out.rows(["", "WHAT", "FOUND"], &rows)?;
    }
    Ok(u8::from(failed))
}

/// Reaches a job's store or its table, compares its clock with ours and its schema with the layout.
async fn about_job(janitor: &Janitor, job: &JobConfig) -> Result<Findings, String> {
    let retention = match &job.kind {
        JobKind::Retention(retention) => retention,
        JobKind::Orphans(orphans) => return about_blobs(&orphans.blobs).await.map_err(|error| chain(&error)),
        JobKind::Disk(disk) => return disk::check(disk).map_err(|error| chain(&error)),
        JobKind::Volumes(volumes) => return volumes::check_table(volumes).await.map_err(|error| chain(&error)),
    };
    let store = runs::open(retention).await.map_err(|error| chain(&error))?;
    let mut findings = store.check().await.map_err(|error| chain(&error))?;
    let theirs = store.now().await.map_err(|error| chain(&error))?;
    findings.warnings.extend(theirs.and_then(|theirs| skewed(janitor.clock().now(), theirs)));
    let due = due::due(janitor, job, retention, store).await.map_err(|error| chain(&error))?;
    findings.facts.push(due);
    Ok(findings)
}

/// Reaches a blob store, and asks whether its objects are there and its catalog's own.
async fn about_blobs(config: &BlobsConfig) -> Result<Findings, BlobError> {
    let store = BlobStore::open(config).await?;
    let totals = store.catalog().totals().await?;
    store.guard().await?;
    let (blobs, Totals { bytes, referenced, .. }) = (totals.blobs(), totals);
    let mut findings = Findings::default();
    findings.facts.push(format!("{blobs} blobs, {bytes} bytes, {referenced} of them referred to"));
    Ok(findings)
}

/// Reaches the blob stores that no job names.
async fn about_unswept(config: &Config) -> Vec<Finding> {
    let is_swept = |store: &BlobsConfig| {
        config.jobs.values().any(|job| match &job.kind {
            JobKind::Orphans(orphans) => orphans.blobs.name == store.name,
            JobKind::Retention(_) | JobKind::Disk(_) | JobKind::Volumes(_) => false,
        })
    };
    let mut findings = Vec::new();
    for store in config.blobs.values().filter(|store| !is_swept(store)) {
        let about = format!("blobs {}", store.name);
        let mut found = about_blobs(store).await.map_err(|error| chain(&error));
        if let Ok(found) = &mut found {
            found.warnings.push("no job of kind \"orphans\" sweeps it, so what failed tasks leave stays".to_owned());
        }
        findings.extend(told(&about, found));
    }
    findings
}

/// What was found about a store, one by one.
fn told(about: &str, found: Result<Findings, String>) -> Vec<Finding> {
    let (facts, warnings, errors) = match found {
        Ok(Findings { facts, warnings, .. }) => (facts, warnings, Vec::new()),
        Err(text) => (Vec::new(), Vec::new(), vec![text]),
    };
    let all = [(Level::Ok, facts), (Level::Warning, warnings), (Level::Error, errors)];
    let of = |(level, texts): (Level, Vec<String>)| texts.into_iter().map(move |text| Finding::new(level, about, text));
    all.into_iter().flat_map(of).collect()
}

fn about_config(config: &Config) -> Vec<Finding> {
    let mut findings = vec![Finding::new(Level::Ok, "configuration", format!("valid, {} jobs", config.jobs.len()))];
    let warning = |text: String| Finding::new(Level::Warning, "configuration", text);
    findings.extend(config.warnings.iter().map(|found| warning(found.to_string())));
    if config.jobs.is_empty() {
        findings.push(warning("it has no jobs, so nothing will ever be deleted".to_owned()));
    }
    if let Some((path, mode)) = config.path.as_deref().and_then(|path| Some((path, mode(path)?)))
        && mode & 0o022 != 0
    {
        let text = format!("{}: mode {mode:03o}: others may write it, and so decide what goes", path.display());
        findings.push(warning(text));
    }
    findings
}

/// Says so where this host's clock and another one are too far apart.
fn skewed(ours: DateTime<Utc>, theirs: DateTime<Utc>) -> Option<String> {
    let skew = ours - theirs;
    let side = if skew > TimeDelta::zero() { "ahead of" } else { "behind" };
    (skew.abs() > SKEW_MAX).then(|| format!("this host's clock is {} s {side} its clock", skew.num_seconds().abs()))
}

fn mode(path: &Path) -> Option<u32> {
    path.metadata().ok().map(|meta| meta.mode() & 0o777)
}

async fn about_janitor(janitor: &Janitor) -> Vec<Finding> {
    let mut findings = vec![match janitor.stats().await {
        Ok(stats) => {
            let text = format!("{} waiting, {} running, {} dead", stats.waiting, stats.running, stats.dead);
            let level = if stats.dead > 0 { Level::Warning } else { Level::Ok };
            Finding::new(level, "queue", text)
        }
        Err(error) => Finding::new(Level::Error, "queue", chain(&error)),
    }];
    for job in janitor.config().jobs.values() {
        let about = format!("job {}", job.name);
        findings.extend(told(&about, about_job(janitor, job).await));
        if let JobKind::Volumes(volumes) = &job.kind {
            findings.extend(told(&about, volumes::check_engine(volumes).await.map_err(|error| chain(&error))));
        }
    }
    findings.extend(about_unswept(janitor.config()).await);
    findings
}

fn row(finding: Finding) -> [String; 3] {
    let level = match finding.level {
        Level::Ok => "ok",
        Level::Warning => "warning",
        Level::Error => "error",
    };
    [level.to_owned(), finding.about, finding.text]
}
