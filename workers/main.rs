//! The `janitor` command: arguments in, exit code out. Each subcommand is a file beside this one.
//!
//! Output goes to stdout; log, notes and progress go to stderr. Exit codes: 0 done or skipped, 1 failed, 2 usage,
//! 3 configuration, 4 busy, 5 limited, 6 refused by a guard.

mod app;
mod audit;
mod beat;
mod blobs;
mod cache;
mod check;
mod completions;
mod dead;
mod demo;
mod enqueue;
mod history;
mod init;
mod jobs;
mod log;
mod out;
mod pause;
mod run;
mod signals;
mod status;
mod unlock;
mod up;
mod volumes;
mod wire;
mod worker;

use std::{panic, process::ExitCode, time::Duration};

use app::{App, Fail, Global, Reply};
use clap::{Parser, Subcommand};

const LONG_ABOUT: &str = "Retention and orphan sweeps for task-queue clusters.\n\n\
    Exit codes: 0 done or skipped, 1 failed, 2 usage, 3 configuration, 4 busy (another worker has the lock), 5 limited \
    (more is left), 6 refused by a guard.";

const EXAMPLE: &str = "Example:\n  janitor init && janitor check && janitor run old-runs --dry-run";

/// How long what is still being read or written may take once a command is over.
const ENDS_MAX: Duration = Duration::from_secs(1);

#[derive(Debug, Parser)]
#[command(name = "janitor", version, about = "Retention and orphan sweeps for task-queue clusters", long_about = LONG_ABOUT)]
#[command(after_help = EXAMPLE, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Args),
    Init(init::Args),
    Check(check::Args),
    Up(up::Args),
    Worker(worker::Args),
    Beat(beat::Args),
    Enqueue(enqueue::Args),
    Run(run::Args),
    Jobs(jobs::Args),
    Status(status::Args),
    History(history::Args),
    Pause(pause::PauseArgs),
    Resume(pause::ResumeArgs),
    Unlock(unlock::Args),
    Dead(dead::Args),
    Blobs(blobs::Args),
    Volumes(volumes::Args),
    Cache(cache::Args),
    Audit(audit::Args),
    Completions(completions::Args),
}

fn main() -> ExitCode {
    // A panic has printed its message by then; a script sees a failure, not a code that means nothing to it.
    panic::catch_unwind(|| {
        let Cli { global, command } = Cli::parse();
        log::start(&global, command.is_daemon());
        let app = App::new(global);
        let reply = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => {
                let reply = runtime.block_on(command.run(&app));
                // A read of stdin that nobody ends would keep the process for ever.
                runtime.shutdown_timeout(ENDS_MAX);
                reply
            }
            Err(error) => Err(Fail::failed(format!("no runtime: {error}"))),
        };
        match reply {
            Ok(code) => ExitCode::from(code),
            Err(fail) => fail.print(),
        }
    })
    .unwrap_or(ExitCode::FAILURE)
}

impl Command {
    /// Whether it runs until it is told to stop, and says meanwhile what it does.
    const fn is_daemon(&self) -> bool {
        matches!(self, Self::Up(_) | Self::Worker(_) | Self::Beat(_))
    }

    async fn run(self, app: &App) -> Reply {
        match self {
            Self::Init(args) => init::run(app, &args),
            Self::Check(args) => check::run(app, &args).await,
            Self::Up(args) => up::run(app, args).await,
            Self::Worker(args) => worker::run(app, args).await,
            Self::Beat(args) => beat::run(app, &args).await,
            Self::Enqueue(args) => enqueue::run(app, &args).await,
            Self::Run(args) => run::run(app, &args).await,
            Self::Jobs(args) => jobs::run(app, &args),
            Self::Status(args) => status::run(app, &args).await,
            Self::History(args) => history::run(app, &args).await,
            Self::Pause(args) => pause::pause(app, &args).await,
            Self::Resume(args) => pause::resume(app, &args).await,
            Self::Unlock(args) => unlock::run(app, &args).await,
            Self::Dead(args) => dead::run(app, &args).await,
            Self::Blobs(args) => blobs::run(app, args).await,
            Self::Volumes(args) => volumes::run(app, &args).await,
            Self::Cache(args) => cache::run(app, &args).await,
            Self::Audit(args) => audit::run(app, args).await,
            Self::Demo(args) => Box::pin(demo::run(app, &args)).await,
            Self::Completions(args) => completions::run(app, &args),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
