//! `janitor completions`: a script that makes a shell complete arguments.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::{
    app::{App, Reply},
    out::print,
};

/// Print a completion script for a shell
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor completions bash > /etc/bash_completion.d/janitor")]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub fn run(_app: &App, args: &Args) -> Reply {
    let mut script = Vec::new();
    generate(args.shell, &mut crate::Cli::command(), "janitor", &mut script);
    print(&script)?;
    Ok(0)
}
