//! `janitor volumes migrate`: what the table of threads lacks.

use apalis_janitor::{config::VolumesConfig, volumes::marks};
use serde_json::json;

use crate::{
    app::{App, Fail, Reply},
    out::print,
};

/// Add what the table of threads lacks: the column of the mark, and the index that finds closed threads without one
///
/// Nothing else ever changes the table's shape.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor volumes migrate --print\n  janitor volumes migrate")]
pub struct Args {
    /// Print the statements instead of executing them
    #[arg(long)]
    print: bool,
}

/// Adds it, or prints how.
pub async fn run(app: &App, volumes: &VolumesConfig, args: &Args) -> Reply {
    let marks = marks::open(&volumes.marks, &volumes.table, volumes.engine_timeout, 1).await;
    let marks = marks.map_err(|error| Fail::of(&error))?;
    let statements = if args.print { marks.missing().await } else { marks.migrate().await };
    let statements = statements.map_err(|error| Fail::of(&error))?;
    if app.out.is_json() {
        app.out.json(&json!({"executed": !args.print, "statements": statements}))?;
        return Ok(0);
    }
    for statement in &statements {
        print(format!("{statement};\n").as_bytes())?;
    }
    if statements.is_empty() {
        app.out.note("nothing is missing");
    } else if !args.print {
        app.out.note(&format!("{} executed", statements.len()));
    }
    Ok(0)
}
