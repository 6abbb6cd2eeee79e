//! `janitor history`: what jobs did, from the ledger.

use crate::app::{self, App, Fail, Reply};

/// Show what jobs did, newest first
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor history old-runs --limit 5\n  janitor history --json | jq '.[0]'")]
pub struct Args {
    /// Only this job
    job: Option<String>,
    /// The most reports that are shown
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    limit: u16,
}

/// Shows reports.
pub async fn run(app: &App, args: &Args) -> Reply {
    let config = app.config()?;
    let names = app::jobs(&config, args.job.as_deref())?;
    let janitor = crate::wire::connect(config).await?;
    let limit = usize::from(args.limit);
    let mut reports = Vec::new();
    for job in names {
        reports.extend(janitor.ledger().reports(&job, limit).await.map_err(|error| Fail::of(&error))?);
    }
    // Equal instants keep each job's own order.
    reports.sort_by_key(|report| std::cmp::Reverse(report.started_at));
    reports.truncate(limit);
    if app.out.is_json() {
        app.out.json(&reports)?;
    } else {
        let rows: Vec<_> = reports.iter().map(crate::out::report_row).collect();
        app.out
            .rows(["STARTED", "JOB", "MODE", "OUTCOME", "SECONDS", "PLANNED", "DELETED", "KEPT", "REASON"], &rows)?;
    }
    Ok(0)
}
