//! One `[jobs.NAME]` of the configuration.

use std::{collections::BTreeMap, num::NonZeroU64, time::Duration};

use chrono_tz::{TZ_VARIANTS, Tz};

use super::{
    BatchSize, BlobsConfig, CatchUp, JobConfig, JobKind, Keep, RetentionConfig, RetentionDays, Rule, Schedule,
    StoreUrl, Timing, disk,
    orphans::{self, Known},
    reader::{Found, Section},
    scalar::{Scalar, duration, flag, text, whole},
    values::{did_you_mean, name},
    volumes,
};

/// The statuses in which a run of the layout `pyworkflow` has ended.
const PYWORKFLOW_ENDED: [&str; 5] = ["completed", "failed", "cancelled", "continued_as_new", "interrupted"];

/// The most rules of a job.
const RULES_MAX: usize = 1_000;

const RULES_RULE: &str = "must be a list of tables, such as [{ workflow = \"order_*\", retention_days = 90 }]";

/// The words that `kind` may be.
const KINDS: [&str; 4] = ["retention", "orphans", "disk", "volumes"];

/// Reads the jobs by name.
pub(super) fn read_all(
    section: &Section<'_>,
    blobs: &BTreeMap<String, Option<BlobsConfig>>,
) -> BTreeMap<String, JobConfig> {
    // A job of kind `orphans` may name another: the others come first.
    let (orphans, others): (Vec<_>, Vec<_>) =
        section.sections().into_iter().partition(|(_, job)| is_of_kind(job, "orphans"));
    let named = others.iter().map(|(title, _)| *title).collect();
    let read_others = |(title, job): (&str, Section<'_>)| {
        let (is_disk, is_volumes) = (is_of_kind(&job, "disk"), is_of_kind(&job, "volumes"));
        read(title, job, |job| {
            if is_disk {
                disk::job(job).map(|own| JobKind::Disk(Box::new(own)))
            } else if is_volumes {
                volumes::job(job).map(|own| JobKind::Volumes(Box::new(own)))
            } else {
                retention(job).map(|own| JobKind::Retention(Box::new(own)))
            }
        })
    };
    let others: BTreeMap<_, _> = others.into_iter().filter_map(read_others).collect();
    let known = Known { blobs, named, others: &others };
    let read_orphans = |(title, job): (&str, Section<'_>)| {
        read(title, job, |job| orphans::job(job, &known).map(|own| JobKind::Orphans(Box::new(own))))
    };
    let orphans: Vec<_> = orphans.into_iter().filter_map(read_orphans).collect();
    others.into_iter().chain(orphans).collect()
}

fn is_of_kind(section: &Section<'_>, kind: &str) -> bool {
    matches!(section.find("kind"), Found::Given(item) if item.scalar.text() == Some(kind))
}

/// Reads a job with its name; none where something in it is too wrong to go on.
fn read(
    title: &str,
    section: Section<'_>,
    own: impl FnOnce(&Section<'_>) -> Option<JobKind>,
) -> Option<(String, JobConfig)> {
    let title = name(title).map_err(|rule| section.refuse_all(format!("a job's name {rule}")));
    let missing = matches!(section.find("kind"), Found::Absent | Found::Unset { .. });
    if section.require("kind", "kind = \"retention\"", text(kind)).is_none() && !missing {
        // Which keys it should have is not known.
        return None;
    }
    let enabled = section.read("enabled", flag).unwrap_or(true);
    let timing = timing(&section);
    let kind = own(&section);
    section.finish();
    let (name, kind) = (title.ok()?, kind?);
    Some((name.clone(), JobConfig { name, enabled, timing, kind }))
}

fn kind(word: &str) -> Result<(), String> {
    match word {
        "volumes" if !cfg!(feature = "docker") => {
            Err("built without `docker`: rebuild with --features docker".to_owned())
        }
        word if KINDS.contains(&word) => Ok(()),
        other => {
            let hint = did_you_mean(other, KINDS);
            Err(format!("must be \"retention\", \"orphans\", \"disk\" or \"volumes\"{hint}"))
        }
    }
}

fn timing(section: &Section<'_>) -> Option<Timing> {
    let schedule = section.read("schedule", text(Schedule::parse));
    let timezone = section.read("timezone", text(timezone)).unwrap_or(Tz::UTC);
    let catch_up = section.read("catch_up", text(catch_up)).unwrap_or_default();
    let jitter = section.read("jitter", duration(Duration::ZERO..=Duration::from_hours(24))).unwrap_or_default();
    Some(Timing { schedule: schedule?, timezone, catch_up, jitter })
}

fn timezone(text: &str) -> Result<Tz, String> {
    let hint = || did_you_mean(text, TZ_VARIANTS.iter().map(|zone| zone.name()));
    text.parse().map_err(|_| format!("must be an IANA time zone, such as \"Europe/Berlin\"{}", hint()))
}

fn catch_up(word: &str) -> Result<CatchUp, String> {
    match word {
        "one" => Ok(CatchUp::One),
        "none" => Ok(CatchUp::None),
        _ => Err("must be \"one\" (the latest missed tick is made up) or \"none\"".to_owned()),
    }
}

fn retention(section: &Section<'_>) -> Option<RetentionConfig> {
    let folder = &section.reader.folder;
    let store =
        section.require_url("store", "store_file", "store = \"sqlite:app.db\"", |url| StoreUrl::parse(url, folder));
    let layout = section.read("layout", text(layout)).unwrap_or_else(|| "pyworkflow".to_owned());
    let unset_days = match section.find("retention_days") {
        Found::Unset { vars, .. } => format!(" (${} is unset or empty)", vars.join(", $")),
        Found::Absent | Found::Refused | Found::Given(_) => String::new(),
    };
    let day = Duration::from_hours(24);
    let (size, time, pause) = store.as_ref().unwrap_or(&StoreUrl::Memory).pace();
    let config = RetentionConfig {
        store: store.clone().unwrap_or(StoreUrl::Memory),
        layout,
        retention_days: section.read("retention_days", days),
        batch_size: section.read("batch_size", batch_size).unwrap_or(size),
        batch_time: section.read("batch_time", duration(Duration::from_millis(10)..=day)).unwrap_or(time),
        batch_pause: section.read("batch_pause", duration(Duration::ZERO..=Duration::from_hours(1))).unwrap_or(pause),
        run_limit: section.read("run_limit", whole(0..=i64::MAX)).and_then(|most| NonZeroU64::new(most.unsigned_abs())),
        time_limit: section
            .read("time_limit", duration(Duration::from_millis(1)..=365 * day))
            .unwrap_or(Duration::from_hours(1)),
        rules: rules(section),
    };
    if config.retention_days.is_none() && !config.rules.iter().any(|rule| matches!(rule.keep, Keep::Days(_))) {
        section
            .warn(format!("neither it nor a rule sets retention_days{unset_days}: it keeps for ever and is skipped"));
    }
    if store? == StoreUrl::Memory {
        section.warn("the store `memory:` is for tests and the demo: it is empty at every start");
    }
    Some(config)
}

fn layout(word: &str) -> Result<String, String> {
    match word {
        "pyworkflow" => Ok(word.to_owned()),
        other => Err(format!(
            "must be \"pyworkflow\", the one layout of this version{}",
            did_you_mean(other, ["pyworkflow"])
        )),
    }
}

fn days(scalar: &Scalar) -> Result<RetentionDays, String> {
    scalar.whole().ok_or_else(RetentionDays::rule).and_then(RetentionDays::new)
}

fn batch_size(scalar: &Scalar) -> Result<BatchSize, String> {
    BatchSize::new(whole(1..=BatchSize::MAX)(scalar)?)
}

fn rules(section: &Section<'_>) -> Vec<Rule> {
    let tables = section.tables("rules", RULES_RULE);
    if tables.len() > RULES_MAX {
        section.refuse("rules", format!("must be {RULES_MAX} rules at most"));
        return Vec::new();
    }
    let mut rules: Vec<(String, Rule)> = Vec::new();
    for table in tables {
        let (path, at) = (table.path.clone(), table.at);
        // What is wrong in itself is not compared with the others.
        let Some(rule) = rule(table) else { continue };
        if let Some((earlier, _)) = rules.iter().find(|(_, earlier)| covers(earlier, &rule)) {
            let rule = format!("can never match: {earlier} takes all such runs; put the narrower rule first");
            section.reader.refuse(at, Some(&path), None, rule);
        }
        rules.push((path, rule));
    }
    rules.into_iter().map(|(_, rule)| rule).collect()
}

/// Reads one rule; none where something in it is wrong.
fn rule(table: Section<'_>) -> Option<Rule> {
    let errors = || table.reader.errors.borrow().len();
    let errors_before = errors();
    // Without its workflow a rule would take every run: a variable must not be able to widen it.
    if let found @ Found::Unset { .. } = table.find("workflow") {
        table.missing("workflow", &found, "");
    }
    let workflow = table.read("workflow", text(workflow));
    let status = status(&table);
    let days = table.read("retention_days", days);
    let keep = table.read("keep", flag).unwrap_or(false);
    if errors() == errors_before && days.is_some() == keep {
        table.refuse_all("must have exactly one of `retention_days` and `keep = true`");
    }
    let right = errors() == errors_before;
    table.finish();
    right.then(|| Rule { workflow, status, keep: days.map_or(Keep::Forever, Keep::Days) })
}

fn workflow(text: &str) -> Result<glob::Pattern, String> {
    if text.is_empty() {
        return Err("must be a workflow's name, or a pattern such as \"order_*\"".to_owned());
    }
    glob::Pattern::new(text).map_err(|error| format!("must be a pattern such as \"order_*\": {}", error.msg))
}

fn status(table: &Section<'_>) -> Vec<String> {
    let ended = PYWORKFLOW_ENDED.join(", ");
    let rule = format!("must be a list of statuses in which a run has ended: {ended}");
    let Some(found) = table.list("status", &rule) else { return Vec::new() };
    if found.is_empty() {
        table.refuse("status", format!("names no status: leave it out for all, or give some of {ended}"));
    }
    let each = |found: Found<'_>| match found {
        Found::Given(item) => match item.scalar.text() {
            Some(word) if PYWORKFLOW_ENDED.contains(&word) => Some(word.to_owned()),
            word => {
                let hint = did_you_mean(word.unwrap_or_default(), PYWORKFLOW_ENDED);
                item.refuse(format!("must be a status in which a run has ended: {ended}{hint}"));
                None
            }
        },
        Found::Unset { .. } => {
            table.missing("status", &found, "");
            None
        }
        Found::Absent | Found::Refused => None,
    };
    found.into_iter().filter_map(each).collect()
}

/// Whether `earlier` takes every run that `later` would match.
fn covers(earlier: &Rule, later: &Rule) -> bool {
    let workflows = earlier.workflow.is_none() || earlier.workflow == later.workflow || {
        // A run may have no workflow's name, so a star is less than no pattern.
        earlier.workflow.as_ref().is_some_and(|glob| glob.as_str() == "*") && later.workflow.is_some()
    };
    let takes = |status: &&str| earlier.status.is_empty() || earlier.status.iter().any(|taken| taken == status);
    let later: Vec<&str> = match later.status.as_slice() {
        [] => PYWORKFLOW_ENDED.to_vec(),
        some => some.iter().map(String::as_str).collect(),
    };
    workflows && later.iter().all(takes)
}
