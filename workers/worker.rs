//! `janitor worker`: runs what is on the queue.

use apalis_janitor::{Janitor, beat::run_beat, config::JobKind, host, metrics::Server};
use tokio_util::sync::CancellationToken;

use crate::{
    app::{self, App, Fail, Reply, chain},
    signals, wire,
};

/// Run what is on the queue, until SIGTERM or Ctrl-C
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor worker --name w1")]
pub struct Args {
    /// The worker's name in the log and on the queue [default: the host's]
    #[arg(long, value_name = "NAME", value_parser = app::label)]
    name: Option<String>,
}

/// What runs beside the worker.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// A beat.
    pub beat: bool,
}

/// Runs the worker. After a signal the batch in hand is finished; then it exits 0.
pub async fn run(app: &App, args: Args) -> Reply {
    let janitor = wire::connect(app.config()?).await?;
    serve(janitor, args.name, Parts { beat: false }, signals::stop()?).await
}

/// Runs a worker with its metrics, and a beat where one is wanted.
pub async fn serve(janitor: Janitor, name: Option<String>, parts: Parts, stop: CancellationToken) -> Reply {
    let server = match janitor.config().metrics {
        Some(metrics) => Some(Server::bind(metrics.listen).await.map_err(|error| Fail::of(&error))?),
        None => None,
    };
    let name = name.unwrap_or_else(|| janitor.config().worker.host.clone());
    wire::warn(janitor.config());
    audit(&janitor);
    // Where one of them ends by itself, the others must too.
    let all = stop.child_token();
    let work = async {
        let ended = wire::work(janitor.clone(), &name, all.clone()).await;
        all.cancel();
        ended
    };
    let beat = async {
        if parts.beat {
            run_beat(janitor.clone(), all.clone()).await;
        }
    };
    let metrics = async {
        if let Some(server) = server {
            server.run(janitor.clone(), janitor.metrics().clone(), all.clone()).await;
        }
    };
    let (worked, (), ()) = tokio::join!(work, beat, metrics);
    worked?;
    if stop.is_cancelled() { Ok(0) } else { Err(Fail::failed("the worker ended by itself")) }
}

/// Logs what fills the folders of this host's jobs, beside the work.
fn audit(janitor: &Janitor) {
    for job in janitor.config().jobs.values().filter(|job| job.enabled) {
        let JobKind::Disk(disk) = &job.kind else { continue };
        let (job, path) = (job.name.clone(), disk.root.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = host::audit(&path) {
                tracing::warn!(job, error = %chain(&error), "folder not audited");
            }
        });
    }
}
