//! `janitor beat`: enqueues the ticks of all schedules.

use apalis_janitor::beat::run_beat;

use crate::{
    app::{App, Reply},
    signals, wire,
};

/// Enqueue the ticks of all schedules, until SIGTERM or Ctrl-C; any number of beats may run
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor beat --config /etc/janitor/janitor.toml")]
pub struct Args {}

/// Runs the beat.
pub async fn run(app: &App, _args: &Args) -> Reply {
    let janitor = wire::connect(app.config()?).await?;
    wire::warn(janitor.config());
    run_beat(janitor, signals::stop()?).await;
    Ok(0)
}
