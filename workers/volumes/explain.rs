//! `janitor volumes explain`: why a thread's volume goes or stays.

use apalis_janitor::config::{Config, JobConfig, VolumesConfig};
use serde_json::json;

use super::{
    fail, fit, ls, open,
    reasons::{Facts, explain},
};
use crate::{
    app::{App, Fail, Reply},
    out::{print, printable},
};

/// Say why a thread's volume goes or stays, rule by rule; works for an id without a volume or without a thread, too
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor volumes explain 7b7a")]
pub struct Args {
    /// The thread's id
    id: String,
}

/// Explains it.
pub async fn run(app: &App, config: &Config, job: &JobConfig, volumes: &VolumesConfig, args: &Args) -> Reply {
    fit(volumes, &args.id)?;
    let opened = open(config, job).await?;
    let known = opened.of(&args.id).await.map_err(|error| fail(error.into()))?;
    let is_paused = opened.ledger.is_paused(&job.name).await.map_err(|error| Fail::of(&error))?;
    let now = opened.clock.now();
    let told = explain(&Facts { id: &args.id, known: &known, job, config: volumes, is_paused, now });
    if app.out.is_json() {
        let found = known.found.as_ref().map(|found| ls::object(found, found.verdict(volumes, None, now)));
        app.out.json(&json!({
            "thread": args.id, "volume": known.volume.as_str(), "end": told.end, "because": told.because, "listed": found,
        }))?;
        return Ok(0);
    }
    print(format!("{}\n", told.end).as_bytes())?;
    for sentence in told.because {
        print(format!("- {}\n", printable(&sentence)).as_bytes())?;
    }
    Ok(0)
}
