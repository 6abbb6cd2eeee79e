//! `janitor blobs explain`: why a blob stays or goes, and when.

use std::collections::BTreeMap;

use apalis_janitor::{
    blobs::{BlobStore, Digest},
    config::{BlobsConfig, Config, JobKind},
};
use serde_json::json;

use super::{
    fail, ls,
    reasons::{Facts, Sweep, explain},
    show,
};
use crate::{
    app::{App, Reply},
    out::{print, printable},
};

/// Say why a blob stays or goes, and when
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor blobs explain \"$DIGEST\"")]
pub struct Args {
    /// The SHA-256 of its bytes
    digest: Digest,
}

/// Explains it.
pub async fn run(app: &App, config: &Config, named: &BlobsConfig, store: &BlobStore, args: &Args) -> Reply {
    let known = show::known(store, args.digest).await?;
    let catalog = store.catalog();
    let mut tasks = BTreeMap::new();
    for held in known.refs.iter().filter(|held| !held.is_final) {
        let task = &held.tag.task;
        if !tasks.contains_key(task)
            && let Some(open) = catalog.open_task(task).await.map_err(fail)?
        {
            tasks.insert(task.clone(), open);
        }
    }
    let sweeps: Vec<_> = config
        .jobs
        .values()
        .filter_map(|job| match &job.kind {
            JobKind::Orphans(orphans) if orphans.blobs.name == named.name => Some(Sweep { job, orphans }),
            JobKind::Orphans(_) | JobKind::Retention(_) | JobKind::Disk(_) | JobKind::Volumes(_) => None,
        })
        .collect();
    let now = catalog.now().await.map_err(fail)?;
    let facts =
        Facts { now, blobs: &known.blobs, refs: &known.refs, has_more: known.has_more, tasks: &tasks, sweeps: &sweeps };
    let told = explain(&facts);
    if app.out.is_json() {
        app.out.json(&json!({
            "digest": args.digest, "stays": told.stays, "because": told.because,
            "blobs": known.blobs.iter().map(show::object).collect::<Vec<_>>(),
            "refs": known.refs.iter().map(ls::object).collect::<Vec<_>>(),
            "more_refs": known.has_more,
        }))?;
        return Ok(0);
    }
    print(if told.stays { b"stays\n" } else { b"does not stay for good\n" })?;
    for sentence in told.because {
        print(format!("- {}\n", printable(&sentence)).as_bytes())?;
    }
    Ok(0)
}
