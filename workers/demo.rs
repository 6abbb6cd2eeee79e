//! `janitor demo`: every kind of job on made-up data in a temporary folder.

mod disk;
mod orphans;
mod volumes;

use std::{
    env, fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use apalis_janitor::{
    Janitor,
    config::Config,
    report::{Mode, Report},
    runs::sqlite::demo,
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use crate::{
    app::{App, Fail, Reply},
    out::{instant, report_lines},
    wire,
    worker::{Parts, serve},
};

const CONFIG: &str = include_str!("demo.toml");
/// What stands in it for a word that no other demo has.
const TOKEN: &str = "TOKEN";
/// What stands in it for the engine that the demo of volumes uses,
const ENGINE: &str = "ENGINE";
/// which is at the socket that this variable of Docker's own client names, or at the usual one.
const ENGINE_VARIABLE: &str = "DOCKER_HOST";
const ENGINE_USUAL: &str = "unix:///var/run/docker.sock";
/// How long the first tick and its sweep may take.
const TICK_MAX: Duration = Duration::from_mins(1);
/// How often the ledger is asked for the report.
const LOOK: Duration = Duration::from_millis(100);
/// How many names are tried for the folder.
const NAMES_MAX: u32 = 100;

/// Show every kind of job on made-up data in a temporary folder; no server is needed
///
/// Where a container engine answers at its usual socket, or at the one that `DOCKER_HOST` names, it gets a few volumes with a
/// name and a label of their own, which are removed at the end. Nothing else of it is touched.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor demo\n  janitor demo --keep --json")]
pub struct Args {
    /// Leave the folder, to go on by hand
    #[arg(long)]
    keep: bool,
}

/// Makes the data, and shows one kind of job after the other.
pub async fn run(app: &App, args: &Args) -> Reply {
    let folder = Folder::make(args.keep).map_err(|error| Fail::failed(format!("temporary folder: {error}")))?;
    let path = folder.path.join("janitor.toml");
    let token = Ulid::generate().to_string().to_lowercase();
    let named = env::var(ENGINE_VARIABLE).ok();
    let socket = named.filter(|url| url.starts_with("unix:///") && !url.contains(['"', '\\', '\n']));
    let engine = socket.unwrap_or_else(|| ENGINE_USUAL.to_owned());
    let text = CONFIG.replace(TOKEN, &token).replace(ENGINE, &engine);
    fs::write(&path, &text).map_err(|error| Fail::failed(format!("{}: {error}", path.display())))?;
    demo::make(&folder.path.join("app.db")).await.map_err(|error| Fail::of(&error))?;
    let config = Config::load(&path).map_err(|errors| Fail::config(errors.to_string()))?;
    let janitor = wire::connect(config).await?;
    tell(app, &format!("made {} with the runs of a shop, and {}:\n", folder.path.display(), path.display()))?;
    tell(app, &text)?;
    let mut reports = old_runs(app, &janitor).await?;
    reports.extend(orphans::show(app, &janitor).await?);
    reports.extend(disk::show(app, &janitor, &folder.path).await?);
    reports.extend(volumes::show(app, &janitor, &token).await?);
    if app.out.is_json() {
        app.out.json(&reports)?;
    }
    if args.keep {
        app.out.note(&format!("the folder stays; go on with: janitor --config {} history", path.display()));
    }
    Ok(reports.iter().map(|report: &Report| report.outcome.exit_code()).find(|code| *code != 0).unwrap_or(0))
}

/// Plans, lets the schedule delete, and plans again.
async fn old_runs(app: &App, janitor: &Janitor) -> Result<Vec<Report>, Fail> {
    tell(app, "$ janitor run old-runs --dry-run      # what would go")?;
    let planned = execute(app, janitor, "old-runs", Mode::DryRun).await?;
    tell(
        app,
        "$ janitor up                          # the schedule ticks, a worker takes the job's lock, and they go",
    )?;
    let swept = by_schedule(janitor).await?;
    let (tick, fence) = (swept.tick.map(instant).unwrap_or_default(), swept.fence.unwrap_or_default());
    tell(app, &format!("tick of {tick}, lock held with fence {fence}"))?;
    tell_report(app, &swept)?;
    let kept = |why| swept.kept.get(why);
    let (above, ruled) = (kept("parent_of_kept"), kept("rule"));
    tell(app, &format!("old enough, but it stays: {above} above a run that has not ended, {ruled} by the rules\n"))?;
    tell(app, "$ janitor run old-runs --dry-run      # nothing is left to do")?;
    Ok(vec![planned, swept, execute(app, janitor, "old-runs", Mode::DryRun).await?])
}

/// Runs a job here and now, and says what came of it.
async fn execute(app: &App, janitor: &Janitor, job: &str, mode: Mode) -> Result<Report, Fail> {
    let report = janitor.run(job, mode).await.map_err(|error| Fail::of(&error))?;
    tell_report(app, &report)?;
    Ok(report)
}

/// Runs a beat and a worker, as `janitor up` does, until a tick has become a report.
async fn by_schedule(janitor: &Janitor) -> Result<Report, Fail> {
    let stop = CancellationToken::new();
    let first = async {
        let report = timeout(TICK_MAX, first_of_a_tick(janitor)).await;
        stop.cancel();
        report
    };
    let (served, report) = tokio::join!(serve(janitor.clone(), None, Parts { beat: true }, stop.clone()), first);
    served?;
    report.map_err(|_| Fail::failed("no tick became a report in time"))?
}

async fn first_of_a_tick(janitor: &Janitor) -> Result<Report, Fail> {
    loop {
        let reports = janitor.ledger().reports("old-runs", 10).await.map_err(|error| Fail::of(&error))?;
        if let Some(report) = reports.into_iter().rev().find(|report| report.tick.is_some()) {
            return Ok(report);
        }
        sleep(LOOK).await;
    }
}

fn tell_report(app: &App, report: &Report) -> Result<(), Fail> {
    report_lines(report).iter().try_for_each(|line| tell(app, &format!("{line}\n")))
}

fn tell(app: &App, text: &str) -> Result<(), Fail> {
    if app.out.is_json() {
        return Ok(());
    }
    text.split('\n').try_for_each(|line| app.out.say(line))
}

/// A folder of its own, which goes with it.
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn make(keep: bool) -> io::Result<Self> {
        let within = env::temp_dir();
        let name = |number| within.join(format!("janitor-demo-{}-{number}", process::id()));
        let make = |path: &Path| fs::DirBuilder::new().mode(0o700).create(path);
        for path in (0..NAMES_MAX).map(name) {
            match make(&path) {
                Ok(()) => return Ok(Self { path, keep }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            // It is ours alone; where it cannot be removed, the system's own cleaner takes it.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
