//! `janitor init`: a commented configuration file.

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use apalis_janitor::config::TEMPLATE;
use serde_json::json;

use crate::{
    app::{App, Fail, Reply},
    out::print,
};

/// The file's name, where `--config` names none.
const FILE: &str = "janitor.toml";
/// It may come to hold passwords.
const MODE: u32 = 0o600;

/// Write a commented janitor.toml; one that says anything is left alone
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor init && $EDITOR janitor.toml && janitor check")]
pub struct Args {
    /// Print it instead of writing it
    #[arg(long)]
    print: bool,
}

/// Writes it.
pub fn run(app: &App, args: &Args) -> Reply {
    if args.print {
        print(TEMPLATE.as_bytes())?;
        return Ok(0);
    }
    let path = app.config_path().unwrap_or(Path::new(FILE));
    let cannot = |text: &dyn std::fmt::Display| Fail::failed(format!("{}: {text}", path.display()));
    // `janitor init > janitor.toml` has made the file before this runs: an empty one is as good as none.
    let opened = OpenOptions::new().append(true).create(true).mode(MODE).open(path);
    let mut file = opened.map_err(|error| cannot(&error))?;
    if file.metadata().map_err(|error| cannot(&error))?.len() > 0 {
        return Err(cannot(&"is there already, and is left alone"));
    }
    file.write_all(TEMPLATE.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| cannot(&error))?;
    if app.out.is_json() {
        app.out.json(&json!({"path": path}))?;
    } else {
        app.out.note(&format!("{} written; next: edit it, then `janitor check`", path.display()));
    }
    Ok(0)
}
