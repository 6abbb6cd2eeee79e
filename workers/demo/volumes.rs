//! The demo of jobs of kind `volumes`: the volumes of a chat's threads, in an engine of this host where one answers.

use std::time::Duration;

use apalis_janitor::{
    Janitor,
    config::{JobKind, VolumeName, VolumesConfig},
    jobs::volumes::ThreadVolumes,
    report::{Mode, Report},
    volumes::demo,
};

use super::{execute, tell};
use crate::{
    app::{App, Fail, chain},
    volumes::ls,
};

/// The threads that get a volume: `demo.sql` has the first as open, two as closed, and none of the last.
const THREADS: [&str; 4] = ["ann", "ben", "cas", "eve"];
/// How long an engine has to answer.
const ANSWERS_MAX: Duration = Duration::from_secs(5);

/// Makes volumes, plans, sweeps, and removes what is left of its own.
pub(super) async fn show(app: &App, janitor: &Janitor, token: &str) -> Result<Vec<Report>, Fail> {
    let Some(config) = janitor.config().jobs.get("volumes").and_then(|job| match &job.kind {
        JobKind::Volumes(config) => Some(config),
        JobKind::Retention(_) | JobKind::Orphans(_) | JobKind::Disk(_) => None,
    }) else {
        return Err(Fail::failed("the demo has no job of kind volumes"));
    };
    let names: Vec<VolumeName> = THREADS.iter().filter_map(|thread| config.volume.volume(thread).ok()).collect();
    tell(
        app,
        "\n$ docker volume create …              # for ann, who is here, ben and cas, who have left, and eve, whom nobody knows",
    )?;
    if let Err(error) = demo::make(&config.engine, ANSWERS_MAX, &names, ("janitor-demo", token)).await {
        tell(app, &format!("left out: no container engine to show it with; {}\n", chain(&error)))?;
        // Some may have been made; where the engine has gone they stay, empty and named after the demo.
        let _ = clean(janitor, config, &names).await;
        return Ok(Vec::new());
    }
    let shown = sweep(app, janitor).await;
    clean(janitor, config, &names).await?;
    shown
}

async fn sweep(app: &App, janitor: &Janitor) -> Result<Vec<Report>, Fail> {
    let volumes = janitor.volumes("volumes").await.map_err(|error| Fail::of(&error))?;
    list(app, &volumes).await?;
    tell(app, "\n$ janitor run volumes --dry-run")?;
    let planned = execute(app, janitor, "volumes", Mode::DryRun).await?;
    tell(app, "$ janitor run volumes                 # dan, who has left, had no volume: that is written down, too")?;
    let swept = execute(app, janitor, "volumes", Mode::Apply).await?;
    list(app, &volumes).await?;
    Ok(vec![planned, swept])
}

async fn list(app: &App, volumes: &ThreadVolumes) -> Result<(), Fail> {
    tell(app, "$ janitor volumes ls")?;
    if app.out.is_json() { Ok(()) } else { ls::run(app, volumes).await.map(drop) }
}

/// Removes the volumes that the demo made and no sweep took.
async fn clean(janitor: &Janitor, config: &VolumesConfig, names: &[VolumeName]) -> Result<(), Fail> {
    let volumes = janitor.volumes("volumes").await.map_err(|error| Fail::of(&error))?;
    for name in names {
        volumes.engine.remove(name, config.engine_timeout).await.map_err(|error| Fail::of(&error))?;
    }
    Ok(())
}
