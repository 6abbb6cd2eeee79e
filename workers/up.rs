//! `janitor up`: beat and worker in one process.

use crate::{
    app::{self, App, Reply},
    signals, wire,
    worker::{Parts, serve},
};

/// Run beat and worker in one process, until SIGTERM or Ctrl-C
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor up --config /etc/janitor/janitor.toml")]
pub struct Args {
    /// The worker's name in the log and on the queue [default: the host's]
    #[arg(long, value_name = "NAME", value_parser = app::label)]
    name: Option<String>,
}

/// Runs both. After a signal the batch in hand is finished; then it exits 0.
pub async fn run(app: &App, args: Args) -> Reply {
    let janitor = wire::connect(app.config()?).await?;
    serve(janitor, args.name, Parts { beat: true }, signals::stop()?).await
}
