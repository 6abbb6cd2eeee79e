//! What `janitor check` finds of a job that removes volumes: the table of threads, and the engine.

use std::time::{Duration, Instant};

use apalis_janitor::{
    config::VolumesConfig,
    runs::Findings,
    volumes::{self, EngineError, Marks, MarksError, marks},
};

/// How long the database has for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long is counted: a check is to answer soon.
const COUNT_MAX: Duration = Duration::from_secs(5);
/// How many threads one page has.
const PAGE: usize = 1_000;

/// Reaches the table, asks what it wants, and counts the threads whose volumes are to go. Never writes.
pub async fn check_table(config: &VolumesConfig) -> Result<Findings, MarksError> {
    let marks = marks::open(&config.marks, &config.table, ANSWER_MAX, 1).await?;
    let mut findings = Findings::default();
    let missing = marks.missing().await?;
    let wants = |statement: &String| format!("the table wants (janitor volumes migrate does it): {statement}");
    findings.warnings.extend(missing.iter().map(wants));
    match marks.prepare().await {
        Ok(()) => findings.facts.push(count(&*marks).await?),
        // What it lacks has been told, with what mends it.
        Err(MarksError::Unfit { .. }) if !missing.is_empty() => {}
        Err(error) => return Err(error),
    }
    Ok(findings)
}

async fn count(marks: &dyn Marks) -> Result<String, MarksError> {
    let (began, mut last, mut count) = (Instant::now(), None, 0);
    let more = loop {
        let mut page = marks.unmarked(last.as_deref(), PAGE).await?;
        count += page.len();
        if page.len() < PAGE {
            break "";
        }
        if began.elapsed() >= COUNT_MAX {
            break " or more";
        }
        last = page.pop();
    };
    Ok(format!("{}: {count}{more} closed threads are not marked yet", marks.name()))
}

/// Reaches the engine, and counts its volumes.
pub async fn check_engine(config: &VolumesConfig) -> Result<Findings, EngineError> {
    let engine = volumes::open(&config.engine, config.engine_timeout).await?;
    let look = engine.look().await?;
    let ours: Vec<_> = look.volumes.iter().filter(|volume| config.volume.thread(&volume.name).is_some()).collect();
    let in_use = ours.iter().filter(|volume| look.users.contains_key(&volume.name)).count();
    let (name, all, pattern) = (engine.name(), look.volumes.len(), &config.volume);
    let mut findings = Findings::default();
    let ours_count = ours.len();
    findings.facts.push(format!(
        "{name}: {all} volumes, {ours_count} of them named {pattern}, {in_use} of those in use by a container"
    ));
    if let Some((key, value)) = &config.require_label {
        let is_without = |volume: &&&volumes::Volume| volume.labels.get(key) != Some(value);
        let without = ours.iter().filter(is_without).count();
        if without > 0 {
            findings.warnings.push(format!("{without} volumes lack the label {key}={value}, so they stay"));
        }
    }
    Ok(findings)
}
