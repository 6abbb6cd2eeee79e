//! `janitor pause` and `janitor resume`: whether a job may run.

use serde_json::json;

use crate::app::{self, App, Fail, Reply};

/// Pause a job on all hosts: its ticks are not enqueued and it deletes nothing; dry runs still work
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor pause old-runs\n  janitor pause --all")]
pub struct PauseArgs {
    #[command(flatten)]
    which: Which,
}

/// End a job's pause; it goes on with its next tick
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor resume old-runs\n  janitor resume --all")]
pub struct ResumeArgs {
    #[command(flatten)]
    which: Which,
}

#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
struct Which {
    /// The job's name
    job: Option<String>,
    /// All jobs of the configuration
    #[arg(long)]
    all: bool,
}

/// Pauses.
pub async fn pause(app: &App, args: &PauseArgs) -> Reply {
    set(app, &args.which, true).await
}

/// Ends pauses.
pub async fn resume(app: &App, args: &ResumeArgs) -> Reply {
    set(app, &args.which, false).await
}

async fn set(app: &App, which: &Which, paused: bool) -> Reply {
    let config = app.config()?;
    let names = app::jobs(&config, which.job.as_deref().filter(|_| !which.all))?;
    let janitor = crate::wire::connect(config).await?;
    let mut states = Vec::new();
    for job in names {
        let ledger = janitor.ledger();
        let changed = if paused { ledger.pause(&job).await } else { ledger.resume(&job).await };
        let changed = changed.map_err(|error| Fail::of(&error))?;
        if !app.out.is_json() {
            let state = if paused { "paused" } else { "not paused" };
            app.out.say(&format!("{job}: {state}{}", if changed { "" } else { ", as before" }))?;
        }
        states.push(json!({"job": job, "paused": paused, "changed": changed}));
    }
    if app.out.is_json() {
        app.out.json(&states)?;
    }
    Ok(0)
}
