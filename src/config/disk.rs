//! Jobs of kind `disk`.

use std::{
    path::{Component, Path, PathBuf},
    time::Duration,
};

use super::{
    DiskConfig, EventLogConfig, MediaConfig, ObjectsUrl, PressureConfig, ReferencesConfig, RemoteConfig, Share, Verify,
    reader::{Found, Section},
    scalar::{Scalar, duration, text, whole},
    values::size,
};

const DAY: Duration = Duration::from_hours(24);
/// The longest age: as long as retention may be.
const AGE_MAX: Duration = Duration::from_hours(24 * 36_500);

const PATHS_RULE: &str = "must be a list of paths below the root, such as [\"images\", \"videos\"]";
const LOGS_RULE: &str = "must be a list of tables, such as [{ path = \"events.jsonl\", max_size = \"50MB\" }]";
const REFERENCES_RULE: &str = "must be a list of tables, such as [{ path = \"posts.json\", fields = [\"imageUrl\"] }]";
const FIELDS_RULE: &str = "must be a list of names of fields, such as [\"imageUrl\"]";
const PROTECT_RULE: &str = "must be a list of patterns, such as [\"*.json\", \"keys/*\"]";

/// Reads what is a job of this kind's own.
pub(super) fn job(section: &Section<'_>) -> Option<DiskConfig> {
    let errors = || section.reader.errors.borrow().len();
    let errors_before = errors();
    let root = section.require("root", "root = \"/app/.data\"", text(root));
    let event_logs = section.tables("event_logs", LOGS_RULE).into_iter().filter_map(event_log).collect::<Vec<_>>();
    let media = section.section("media").and_then(media);
    let pressure = section.section("pressure").and_then(pressure);
    let remote = section.section("remote").and_then(remote);
    let references = section.tables("references", REFERENCES_RULE).into_iter().filter_map(references).collect();
    let protect = list(section, "protect", PROTECT_RULE, pattern);
    let initial_delay = section.read("initial_delay", duration(Duration::ZERO..=DAY));
    let rate_limit = section.read("rate_limit", whole(0..=i64::MAX));
    let time_limit = section.read("time_limit", duration(Duration::from_millis(1)..=365 * DAY));
    if errors() == errors_before {
        if pressure.is_some() && media.is_none() {
            section.refuse("media", "is required where `pressure` is set: it says what may go");
        }
        if let (Some(root), Some(RemoteConfig { objects: ObjectsUrl::Folder(folder), .. })) = (&root, &remote) {
            let root = section.reader.folder.join(root);
            let is_media = |path: &PathBuf| folder.starts_with(root.join(path));
            if *folder == root || media.iter().flat_map(|media| &media.paths).any(is_media) {
                section
                    .refuse("remote", "must not be the root, nor in a folder of media: what is there would be swept");
            }
        }
        if event_logs.is_empty() && media.is_none() {
            section.warn("has neither event_logs nor media: it looks for leaked temporaries only");
        } else if media.is_some() && pressure.is_none() && remote.is_none() {
            section.warn("media goes by age only with `remote`, and under `pressure`: it has neither");
        }
    }
    let root = root?;
    Some(DiskConfig {
        root: section.reader.folder.join(root),
        event_logs,
        media,
        pressure,
        remote,
        references,
        protect: protect.unwrap_or_default(),
        initial_delay: initial_delay.unwrap_or(Duration::from_mins(1)),
        rate_limit: rate_limit.and_then(|most| std::num::NonZeroU64::new(most.unsigned_abs())),
        time_limit: time_limit.unwrap_or(Duration::from_hours(1)),
    })
}

fn root(text: &str) -> Result<PathBuf, String> {
    let rule = "must be a folder, neither `/` nor a home, such as \"/app/.data\"";
    let path = Path::new(text);
    let is_plain = path.components().all(|part| !matches!(part, Component::ParentDir));
    if text.trim().is_empty() || text.contains('\0') || !is_plain || path.parent().is_none() {
        return Err(rule.to_owned());
    }
    Ok(path.to_owned())
}

/// A path below the root.
fn below(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let is_below = path.components().all(|part| matches!(part, Component::Normal(_)));
    if text.is_empty() || text.contains('\0') || !is_below {
        return Err("must be a path below the root, without `..`".to_owned());
    }
    Ok(path.to_owned())
}

fn event_log(table: Section<'_>) -> Option<EventLogConfig> {
    let path = table.require("path", "path = \"events.jsonl\"", text(below));
    let max_size = table.require("max_size", "max_size = \"50MB\"", |scalar: &Scalar| match size(scalar)? {
        0 => Err("must be a size above 0".to_owned()),
        bytes => Ok(bytes),
    });
    let keep_lines = table.read("keep_lines", whole(0..=i64::MAX));
    let generations = table.read("generations", whole(0..=1_000));
    table.finish();
    Some(EventLogConfig {
        path: path?,
        max_size: max_size?,
        keep_lines: keep_lines.map_or(10_000, i64::unsigned_abs),
        generations: generations.and_then(|count| u32::try_from(count).ok()).unwrap_or(0),
    })
}

fn media(table: Section<'_>) -> Option<MediaConfig> {
    let paths = list(&table, "paths", PATHS_RULE, below);
    if matches!(table.find("paths"), Found::Absent) {
        table.refuse("paths", "is required, such as paths = [\"images\"]");
    }
    let age = || duration(Duration::from_secs(1)..=AGE_MAX);
    let max_age = table.read("max_age", age()).unwrap_or(7 * DAY);
    let pressure_age = table.read("pressure_age", duration(Duration::ZERO..=AGE_MAX)).unwrap_or(DAY);
    if pressure_age > max_age {
        table.refuse("pressure_age", "must not be longer than max_age");
    }
    table.finish();
    let paths = paths?;
    Some(MediaConfig { paths, max_age, pressure_age })
}

fn pressure(table: Section<'_>) -> Option<PressureConfig> {
    let high = table.require("high", "high = \"70%\"", text(Share::parse));
    let low = table.require("low", "low = \"60%\"", text(Share::parse));
    if let (Some(high), Some(low)) = (high, low)
        && low >= high
    {
        table.refuse("low", "must be lower than high");
    }
    table.finish();
    Some(PressureConfig { high: high?, low: low? })
}

fn remote(table: Section<'_>) -> Option<RemoteConfig> {
    let folder = &table.reader.folder;
    let objects = table
        .require_url("objects", "objects_file", "objects = \"s3://cdn/media\"", |url| ObjectsUrl::parse(url, folder));
    let verify = table.read("verify", text(verify)).unwrap_or_default();
    table.finish();
    Some(RemoteConfig { objects: objects?, verify })
}

fn verify(word: &str) -> Result<Verify, String> {
    match word {
        "size" => Ok(Verify::Size),
        "hash" => Ok(Verify::Hash),
        _ => Err("must be \"size\" or \"hash\"".to_owned()),
    }
}

fn references(table: Section<'_>) -> Option<ReferencesConfig> {
    let path = table.require("path", "path = \"posts.json\"", text(below));
    let fields = list(&table, "fields", FIELDS_RULE, |name| match name {
        "" => Err("must be the name of a field".to_owned()),
        name => Ok(name.to_owned()),
    });
    if fields.as_ref().is_none_or(Vec::is_empty) && !matches!(table.find("fields"), Found::Refused) {
        table.refuse("fields", "must name at least one field, such as fields = [\"imageUrl\"]");
    }
    table.finish();
    Some(ReferencesConfig { path: path?, fields: fields? })
}

fn pattern(text: &str) -> Result<glob::Pattern, String> {
    if text.is_empty() {
        return Err("must be a pattern such as \"*.json\"".to_owned());
    }
    glob::Pattern::new(text).map_err(|error| format!("must be a pattern such as \"*.json\": {}", error.msg))
}

/// The list at `key`, without what `convert` refuses; none where there is no list.
fn list<T>(
    section: &Section<'_>,
    key: &'static str,
    rule: &str,
    convert: impl Fn(&str) -> Result<T, String>,
) -> Option<Vec<T>> {
    let each = |found: Found<'_>| match found {
        Found::Given(item) => item
            .scalar
            .text()
            .ok_or_else(|| "must be a string".to_owned())
            .and_then(&convert)
            .map_err(|rule| item.refuse(rule))
            .ok(),
        Found::Unset { .. } => {
            section.missing(key, &found, "");
            None
        }
        Found::Absent | Found::Refused => None,
    };
    Some(section.list(key, rule)?.into_iter().filter_map(each).collect())
}
