//! `janitor enqueue`: puts a request on the queue, for any worker.

use std::time::Duration;

use apalis_janitor::{
    Janitor, config,
    queue::{Enqueued, Request},
    report::{Mode, Report},
};
use serde_json::json;

use crate::{
    app::{self, App, Fail, Reply},
    out::report_lines,
    signals, wire,
};

/// How often the ledger is asked for the report.
const LOOK: Duration = Duration::from_millis(300);
/// How many reports are looked through: more than a job writes between two looks.
const LOOK_BACK: usize = 50;

/// Put a request on the queue; one for the same job and mode that still waits is merged with it
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor enqueue old-runs\n  janitor enqueue old-runs --dry-run --wait --json")]
pub struct Args {
    /// The job's name
    job: String,
    /// Ask for a plan only: nothing is deleted
    #[arg(long)]
    dry_run: bool,
    /// The host whose worker shall run it (jobs that belong to a host); this one where it is not given
    #[arg(long, value_name = "HOST", value_parser = config::name)]
    host: Option<String>,
    /// Merge only with a waiting request of the same key
    #[arg(long, value_name = "KEY", value_parser = app::label)]
    key: Option<String>,
    /// Wait until it has run, print its report and exit as `run` would
    #[arg(long)]
    wait: bool,
}

/// Enqueues.
pub async fn run(app: &App, args: &Args) -> Reply {
    let config = app.config()?;
    let job = app::job(&config, &args.job)?.clone();
    let janitor = wire::connect(config).await?;
    let janitor = match &args.host {
        None => janitor.for_job(&job),
        Some(_) if !job.kind.is_of_host() => {
            let (name, kind) = (job.name, job.kind.as_str());
            return Err(Fail::usage(format!(
                "--host is for jobs that belong to a host, and {name:?} is of kind {kind:?}"
            )));
        }
        Some(host) if *host == janitor.config().worker.host => janitor.for_job(&job),
        Some(host) => janitor.of_host(host).ok_or_else(|| {
            Fail::usage(format!(
                "--host {host:?}: without [redis] there is this host alone, {:?}",
                janitor.config().worker.host
            ))
        })?,
    };
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Apply };
    let request = Request { job: args.job.clone(), mode, tick: None };
    let enqueued = janitor.queue().enqueue(&request, args.key.as_deref()).await.map_err(|error| Fail::of(&error))?;
    let (id, merged) = match enqueued {
        Enqueued::New(id) => (id, false),
        Enqueued::Merged(id) => (id, true),
    };
    let state = if merged { "waits already" } else { "enqueued" };
    if args.wait {
        app.out.note(&format!("{}: {state} as {id}", args.job));
        return wait(app, &janitor, &request.job, &id).await;
    }
    if app.out.is_json() {
        app.out.json(&json!({"job": args.job, "mode": mode, "id": id, "merged": merged}))?;
    } else {
        app.out.say(&format!("{}: {state} as {id}", args.job))?;
    }
    Ok(0)
}

/// Waits until the request has left the queue: its report was written in the same step.
async fn wait(app: &App, janitor: &Janitor, job: &str, id: &str) -> Reply {
    let stop = signals::stop()?;
    loop {
        let is_gone = !wire::is_queued(janitor, id).await?;
        if is_gone {
            let reports = janitor.ledger().reports(job, LOOK_BACK).await.map_err(|error| Fail::of(&error))?;
            let ours = reports.into_iter().find(|report| report.request.as_deref() == Some(id));
            let report = ours.ok_or_else(|| Fail::failed(format!("request {id} left the queue without a report")))?;
            return show(app, &report);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.cancelled() => return Err(Fail::failed(format!("not waited for: {id} is still on the queue"))),
        }
    }
}

fn show(app: &App, report: &Report) -> Reply {
    if app.out.is_json() {
        app.out.json(report)?;
    } else {
        for line in report_lines(report) {
            app.out.say(&line)?;
        }
    }
    Ok(report.outcome.exit_code())
}
