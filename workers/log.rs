//! The log: lines on stderr, coloured for a person, JSON with `--json`.

use std::{
    env,
    io::{self, IsTerminal},
};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::app::Global;

/// Starts the log. `RUST_LOG` has the last word on what is in it.
pub fn start(global: &Global, daemon: bool) {
    let level = match (global.quiet, global.verbose, daemon) {
        (true, ..) => LevelFilter::ERROR,
        (false, 0, false) => LevelFilter::WARN,
        (false, 0, true) => LevelFilter::INFO,
        (false, 1, _) => LevelFilter::DEBUG,
        (false, ..) => LevelFilter::TRACE,
    };
    let ours = format!("{},apalis_janitor={level},janitor={level}", level.min(LevelFilter::WARN));
    let wanted = env::var("RUST_LOG").ok().filter(|wanted| !wanted.is_empty()).unwrap_or(ours);
    let colour = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let log =
        tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(colour).with_env_filter(EnvFilter::new(wanted));
    if global.json {
        log.json().flatten_event(true).init();
    } else {
        log.init();
    }
}
