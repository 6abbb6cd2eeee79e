//! The demo of jobs of kind `disk`: a log that has grown, and media of which a remote has one file.

use std::{
    fs::{self, File},
    io,
    path::Path,
    time::{Duration, SystemTime},
};

use apalis_janitor::{
    Janitor,
    report::{Mode, Report},
};

use super::{execute, tell};
use crate::app::{App, Fail};

/// More than the size that `demo.toml` allows.
const LINES: usize = 40_000;
/// Older than the age that `demo.toml` allows.
const OLD: Duration = Duration::from_hours(10 * 24);

/// Fills a folder, plans, and sweeps.
pub(super) async fn show(app: &App, janitor: &Janitor, folder: &Path) -> Result<Vec<Report>, Fail> {
    fill(folder).map_err(|error| Fail::failed(format!("{}: {error}", folder.display())))?;
    tell(
        app,
        "$ ls data/images                      # ten days old; the remote has film.mp4, and posts.json names poster.png",
    )?;
    tell(app, &names(folder)?)?;
    tell(app, "\n$ janitor run disk --dry-run")?;
    let planned = execute(app, janitor, "disk", Mode::DryRun).await?;
    tell(app, "$ janitor run disk")?;
    let swept = execute(app, janitor, "disk", Mode::Apply).await?;
    tell(app, "$ ls data/images")?;
    tell(app, &names(folder)?)?;
    Ok(vec![planned, swept])
}

fn fill(folder: &Path) -> io::Result<()> {
    let (images, remote) = (folder.join("data/images"), folder.join("cdn/images"));
    fs::create_dir_all(&images)?;
    fs::create_dir_all(&remote)?;
    let line = |number: usize| format!("{{\"type\":\"scan\",\"n\":{number},\"text\":\"nothing new\"}}\n");
    fs::write(folder.join("data/events.jsonl"), (0..LINES).map(line).collect::<String>())?;
    fs::write(
        folder.join("data/posts.json"),
        "[{\"imageUrl\": \"/images/poster.png\"}, {\"imageUrl\": \"/images/film.mp4\"}]",
    )?;
    for name in ["film.mp4", "poster.png", "raw.mp4"] {
        let path = images.join(name);
        fs::write(&path, name)?;
        File::options().write(true).open(&path)?.set_modified(SystemTime::now() - OLD)?;
    }
    fs::write(remote.join("film.mp4"), "film.mp4")
}

fn names(folder: &Path) -> Result<String, Fail> {
    let read = || {
        let entries = fs::read_dir(folder.join("data/images"))?;
        let mut names = entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort_unstable();
        Ok::<_, io::Error>(names.join("  "))
    };
    read().map_err(|error| Fail::failed(format!("{}: {error}", folder.display())))
}
