//! `janitor volumes`: shows, removes and explains the volumes of threads, one by one.

mod explain;
pub mod ls;
mod migrate;
mod reasons;
mod remove;

use apalis_janitor::{
    VolumesError,
    config::{Config, JobConfig, JobKind, VolumesConfig},
    jobs::{JobError, volumes::ThreadVolumes},
};

use crate::{
    app::{self, App, Fail, Reply},
    wire,
};

/// Show, remove and explain the volumes of threads, one by one (jobs of kind volumes)
///
/// It exits 0, 1 where it failed, 4 where somebody else has the thread in hand, and 6 where a guard refused: the thread is
/// open or unknown, a container refers to the volume, it lacks its label, or the job is switched off.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor volumes ls\n  janitor volumes remove 7b7a")]
pub struct Args {
    /// The job, where more than one of kind volumes is configured
    #[arg(long, global = true, value_name = "JOB")]
    job: Option<String>,
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    Ls(ls::Args),
    Remove(remove::Args),
    Explain(explain::Args),
    Migrate(migrate::Args),
}

/// Does one of them.
pub async fn run(app: &App, args: &Args) -> Reply {
    let config = app.config()?;
    let (job, volumes) = chosen(&config, args.job.as_deref())?;
    match &args.action {
        Action::Ls(_) => ls::run(app, &open(&config, job).await?).await,
        Action::Remove(args) => remove::run(app, &config, job, volumes, args).await,
        Action::Explain(args) => explain::run(app, &config, job, volumes, args).await,
        Action::Migrate(args) => migrate::run(app, volumes, args).await,
    }
}

/// The job of kind volumes that is meant.
fn chosen<'a>(config: &'a Config, wanted: Option<&str>) -> Result<(&'a JobConfig, &'a VolumesConfig), Fail> {
    app::chosen(config, wanted, "volumes", |kind| match kind {
        JobKind::Volumes(volumes) => Some(&**volumes),
        JobKind::Retention(_) | JobKind::Orphans(_) | JobKind::Disk(_) => None,
    })
}

async fn open(config: &Config, job: &JobConfig) -> Result<ThreadVolumes, Fail> {
    wire::connect(config.clone()).await?.volumes(&job.name).await.map_err(fail)
}

/// Refuses an id that no volume can be named after, before anything is opened.
fn fit(volumes: &VolumesConfig, id: &str) -> Result<(), Fail> {
    volumes.volume.volume(id).map(drop).map_err(|rule| Fail::usage(format!("thread {id:?}: {rule}")))
}

/// An error with its exit code.
fn fail(error: VolumesError) -> Fail {
    match error {
        VolumesError::Job(JobError::Refused(why)) => Fail::usage(why),
        error => Fail::of(&error),
    }
}
