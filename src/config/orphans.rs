//! `[blobs.NAME]`, and jobs of kind `orphans`, which name one.

use std::{collections::BTreeMap, num::NonZeroU64, time::Duration};

use super::{
    BlobsConfig, CatalogUrl, JobConfig, JobKind, ObjectsUrl, OrphansConfig, RetentionConfig, Schedule, Share,
    reader::Section,
    scalar::{duration, text, whole},
    values::{did_you_mean, name},
};

/// The longest span that a sweep waits: as long as retention may be.
const SPAN_MAX: Duration = Duration::from_hours(24 * 36_500);
/// When objects and catalog are compared where nothing says so.
const INVENTORY: &str = "@weekly";

/// What a job of this kind may name. What is there and wrong is there: its own errors are enough.
pub(super) struct Known<'a> {
    /// The blob stores by name; none: one that was refused.
    pub(super) blobs: &'a BTreeMap<String, Option<BlobsConfig>>,
    /// The names of the jobs of other kinds.
    pub(super) named: Vec<&'a str>,
    /// Those of them that were not refused.
    pub(super) others: &'a BTreeMap<String, JobConfig>,
}

/// Reads the blob stores; those that are refused stand without a value.
pub(super) fn stores(section: &Section<'_>) -> BTreeMap<String, Option<BlobsConfig>> {
    let store = |(title, section): (&str, Section<'_>)| {
        let title = name(title).map_err(|rule| section.refuse_all(format!("a blob store's name {rule}")));
        let store = store(title.clone().unwrap_or_default(), section);
        title.ok().map(|title| (title, store))
    };
    section.sections().into_iter().filter_map(store).collect()
}

fn store(name: String, section: Section<'_>) -> Option<BlobsConfig> {
    let folder = &section.reader.folder;
    let objects = section
        .require_url("objects", "objects_file", "objects = \"file:blobs\"", |url| ObjectsUrl::parse(url, folder));
    let catalog = section
        .require_url("catalog", "catalog_file", "catalog = \"sqlite:blobs.db\"", |url| CatalogUrl::parse(url, folder));
    if let (Some(ObjectsUrl::Folder(folder)), Some(CatalogUrl::Sqlite(file))) = (&objects, &catalog)
        && file.starts_with(folder)
    {
        section.refuse("catalog", "must not be in the folder of the objects");
    }
    section.finish();
    Some(BlobsConfig { name, objects: objects?, catalog: catalog? })
}

/// Reads what is a job of this kind's own.
pub(super) fn job(section: &Section<'_>, known: &Known<'_>) -> Option<OrphansConfig> {
    let span = |least| duration(least..=SPAN_MAX);
    let blobs = section.require("blobs", "blobs = \"artifacts\"", text(|name| blobs(name, known)));
    let grace = section.read("grace", span(Duration::ZERO));
    let abandoned_after = section.read("abandoned_after", span(Duration::from_secs(1)));
    let runs = section.read("runs", text(|name| runs(name, known)));
    let max_share = section.read("max_share", text(Share::parse));
    let inventory = section.read("inventory", text(inventory));
    let rate_limit = section.read("rate_limit", whole(0..=i64::MAX));
    let time_limit = section.read("time_limit", duration(Duration::from_millis(1)..=Duration::from_hours(24 * 365)));
    Some(OrphansConfig {
        blobs: blobs??,
        grace: grace.unwrap_or(Duration::from_hours(24)),
        abandoned_after: abandoned_after.unwrap_or(Duration::from_hours(7 * 24)),
        runs: runs.flatten(),
        max_share: max_share.unwrap_or_default(),
        inventory: inventory.unwrap_or_else(|| Schedule::parse(INVENTORY).ok()),
        rate_limit: rate_limit.and_then(|most| NonZeroU64::new(most.unsigned_abs())),
        time_limit: time_limit.unwrap_or(Duration::from_hours(1)),
    })
}

fn inventory(word: &str) -> Result<Option<Schedule>, String> {
    if word == "never" {
        Ok(None)
    } else {
        Schedule::parse(word).map(Some).map_err(|rule| format!("{rule}, or \"never\""))
    }
}

fn blobs(name: &str, known: &Known<'_>) -> Result<Option<BlobsConfig>, String> {
    let there = known.blobs.keys().map(String::as_str);
    known
        .blobs
        .get(name)
        .cloned()
        .ok_or_else(|| format!("must name a [blobs.NAME] of this file{}", did_you_mean(name, there)))
}

fn runs(name: &str, known: &Known<'_>) -> Result<Option<(String, Box<RetentionConfig>)>, String> {
    match known.others.get(name).map(|job| &job.kind) {
        Some(JobKind::Retention(retention)) => Ok(Some((name.to_owned(), retention.clone()))),
        // It has errors of its own.
        None if known.named.contains(&name) => Ok(None),
        Some(JobKind::Orphans(_) | JobKind::Disk(_) | JobKind::Volumes(_)) | None => {
            let hint = did_you_mean(name, known.named.iter().copied());
            Err(format!("must name a job of kind \"retention\" of this file{hint}"))
        }
    }
}
