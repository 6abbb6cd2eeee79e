//! `janitor cache`: publishes files of a host's folder to its remote, and brings them back.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use apalis_janitor::{
    config::{Config, JobConfig, JobKind},
    jobs::disk::{
        Switch,
        cache::{Cache, Published},
    },
};
use serde_json::json;

use crate::{
    app::{self, App, Fail, Reply},
    wire,
};

/// Publish files of a host's folder to its remote, and bring them back (jobs of kind disk)
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Example:\n  janitor cache put images/a.png images/a.png\n  janitor cache get images/a.png images/a.png"
)]
pub struct Args {
    /// The job, where more than one of kind disk is configured
    #[arg(long, global = true, value_name = "JOB")]
    job: Option<String>,
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Upload a file, have it proven, and delete it here; without a remote it stays
    #[command(after_help = "Example:\n  janitor cache put images/a.png images/a.png")]
    Put {
        /// The file, below the job's root
        file: PathBuf,
        /// Its key at the remote
        key: String,
    },
    /// Bring a file back
    #[command(after_help = "Example:\n  janitor cache get images/a.png images/a.png")]
    Get {
        /// Its key at the remote
        key: String,
        /// The file, below the job's root
        file: PathBuf,
    },
}

/// Does one of the two.
pub async fn run(app: &App, args: &Args) -> Reply {
    let config = app.config()?;
    let (job, disk) = app::chosen(&config, args.job.as_deref(), "disk", |kind| match kind {
        JobKind::Disk(disk) => Some(&**disk),
        JobKind::Retention(_) | JobKind::Orphans(_) | JobKind::Volumes(_) => None,
    })?;
    let switch = switch(config.clone(), job).await?;
    let root = disk.root.clone();
    let cache = Cache::open(disk.clone(), switch).await.map_err(|error| Fail::of(&error))?;
    match &args.action {
        Action::Put { file, key } => {
            let below = below(&root, file)?;
            let done = cache.publish(&below, key).await.map_err(|error| Fail::of(&error))?;
            let state = match done {
                Published::Moved => "moved",
                Published::Copied => "copied",
                Published::Kept => "kept",
            };
            let told = match done {
                Published::Moved => "is at the remote, and no longer here",
                Published::Copied => "is at the remote, and stays here",
                Published::Kept => "stays here: there is no remote",
            };
            if app.out.is_json() {
                app.out.json(&json!({"key": key, "state": state}))?;
            } else {
                app.out.say(&format!("{key}: {told}"))?;
            }
        }
        Action::Get { key, file } => {
            let below = below(&root, file)?;
            let size = cache.fetch(key, &below).await.map_err(|error| Fail::of(&error))?;
            if app.out.is_json() {
                app.out.json(&json!({"key": key, "state": "fetched", "bytes": size}))?;
            } else {
                app.out.say(&format!("{key}: fetched, {size} bytes"))?;
            }
        }
    }
    Ok(0)
}

/// Whether files may be deleted here: the job is enabled, asked anew each time, and not paused.
async fn switch(config: Config, job: &JobConfig) -> Result<Switch, Fail> {
    let janitor = wire::connect(config).await?;
    let is_paused = janitor.ledger().is_paused(&job.name).await.map_err(|error| Fail::of(&error))?;
    Ok(if is_paused { Arc::new(|| false) } else { janitor.switch(&job.name) })
}

/// The path of a file below the root. A relative one is below it already.
fn below(root: &Path, file: &Path) -> Result<PathBuf, Fail> {
    if file.is_relative() {
        return Ok(file.to_owned());
    }
    let below = file.strip_prefix(root).map(Path::to_owned);
    below.map_err(|_| Fail::usage(format!("{}: must be below {}", file.display(), root.display())))
}
