//! `janitor demo`: every kind of job on made-up data in a temporary folder.

use std::{
    env, fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process,
};

use apalis_janitor::{
    config::Config,
    report::{Mode, Report},
    runs::sqlite::demo,
};

use crate::{
    app::{App, Fail, Reply},
    out::report_lines,
    wire,
};

const CONFIG: &str = include_str!("demo.toml");
/// How many names are tried for the folder.
const NAMES_MAX: u32 = 100;

/// Show every kind of job on made-up data in a temporary folder; no server is needed
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor demo\n  janitor demo --keep --json")]
pub struct Args {
    /// Leave the folder, to go on by hand
    #[arg(long)]
    keep: bool,
}

/// Makes the data, plans, deletes, and plans again.
pub async fn run(app: &App, args: &Args) -> Reply {
    let folder = Folder::make(args.keep).map_err(|error| Fail::failed(format!("temporary folder: {error}")))?;
    let path = folder.path.join("janitor.toml");
    fs::write(&path, CONFIG).map_err(|error| Fail::failed(format!("{}: {error}", path.display())))?;
    demo::make(&folder.path.join("app.db")).await.map_err(|error| Fail::of(&error))?;
    let config = Config::load(&path).map_err(|errors| Fail::config(errors.to_string()))?;
    let janitor = wire::connect(config).await?;
    tell(app, &format!("made {} with the runs of a shop, and {}:\n", folder.path.display(), path.display()))?;
    tell(app, CONFIG)?;
    let mut reports = Vec::new();
    for (mode, title) in [
        (Mode::DryRun, "$ janitor run old-runs --dry-run      # what would go"),
        (Mode::Apply, "$ janitor run old-runs                # it goes: the same runs, with all that is theirs"),
        (Mode::DryRun, "$ janitor run old-runs --dry-run      # nothing is left to do"),
    ] {
        tell(app, title)?;
        let report = janitor.run("old-runs", mode).await.map_err(|error| Fail::of(&error))?;
        for line in report_lines(&report) {
            tell(app, &format!("{line}\n"))?;
        }
        reports.push(report);
    }
    if app.out.is_json() {
        app.out.json(&reports)?;
    }
    if args.keep {
        app.out.note(&format!("the folder stays; go on with: janitor --config {} history", path.display()));
    }
    Ok(reports.iter().map(|report: &Report| report.outcome.exit_code()).find(|code| *code != 0).unwrap_or(0))
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
