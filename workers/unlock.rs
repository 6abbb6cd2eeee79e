//! `janitor unlock`: takes a job's lock from whoever holds it.

use serde_json::json;

use crate::app::{self, App, Fail, Reply};

/// Take a job's lock from its holder, which then stops before its next batch
///
/// A lock lapses by itself `lock_ttl` after its holder died; this is for those who cannot wait. It is safe: the next holder
/// has a higher fence, and stores refuse the lower one.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor unlock old-runs")]
pub struct Args {
    /// The job's name
    job: String,
}

/// Unlocks.
pub async fn run(app: &App, args: &Args) -> Reply {
    let config = app.config()?;
    let job = app::job(&config, &args.job)?.clone();
    let janitor = crate::wire::connect(config).await?;
    let was_held = janitor.lock().unlock(&janitor.lock_key(&job)).await.map_err(|error| Fail::of(&error))?;
    let job = job.name;
    if app.out.is_json() {
        app.out.json(&json!({"job": job, "was_held": was_held}))?;
    } else {
        app.out.say(&format!("{job}: {}", if was_held { "unlocked" } else { "was not locked" }))?;
    }
    Ok(0)
}
