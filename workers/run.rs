//! `janitor run`: executes a job here and now, without the queue but under its lock.

use std::{
    io::{self, BufWriter, Stdout, Write},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use apalis_janitor::{
    Ask,
    config::{JobConfig, JobKind},
    jobs::{Narrow, Watch},
    queue::Request,
    report::{Mode, Report},
};
use chrono::{DateTime, Utc};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::{
    app::{self, App, Fail, Reply},
    out::{complain, printable, report_lines, tolerate},
    signals, wire,
};

/// Run a job here and now: no queue, but its lock
///
/// The exit code says how it ended: 0 done or skipped, 1 failed, 4 busy, 5 limited, 6 refused. A signal ends it `limited`
/// after the batch in hand.
#[derive(clap::Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[command(after_help = "Example:\n  janitor run old-runs --dry-run --list\n  \
    janitor run old-runs --before 2026-01-01T00:00:00Z --json")]
pub struct Args {
    /// The job's name
    job: String,
    /// Plan only: nothing is deleted, no lock is taken
    #[arg(long)]
    dry_run: bool,
    /// Only what is older than this RFC 3339 instant too; a cutoff can become earlier, never later
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    before: Option<DateTime<Utc>>,
    /// Let more go than `max_share` allows, this once (jobs of kind orphans)
    #[arg(long)]
    allow_mass_delete: bool,
    /// Compare objects and catalog, though the time for it has not come (jobs of kind orphans)
    #[arg(long)]
    inventory: bool,
    /// Print each thing that is planned (dry run) or deleted, one id a line; the summary goes to stderr
    #[arg(long)]
    list: bool,
}

impl Args {
    /// Refuses what is for jobs of another kind.
    fn fit(&self, job: &JobConfig) -> Result<(), Fail> {
        let given = match job.kind {
            JobKind::Orphans(_) => None,
            JobKind::Retention(_) | JobKind::Disk(_) | JobKind::Volumes(_) if self.allow_mass_delete => {
                Some("--allow-mass-delete")
            }
            JobKind::Retention(_) | JobKind::Disk(_) | JobKind::Volumes(_) => self.inventory.then_some("--inventory"),
        };
        let JobConfig { name, kind, .. } = job;
        let wrong = |flag| {
            let kind = kind.as_str();
            Fail::usage(format!("{flag} is for jobs of kind \"orphans\", and {name:?} is of kind {kind:?}"))
        };
        given.map_or(Ok(()), |flag| Err(wrong(flag)))
    }
}

fn instant(text: &str) -> Result<DateTime<Utc>, String> {
    let parsed = DateTime::parse_from_rfc3339(text);
    parsed.map(|at| at.to_utc()).map_err(|error| format!("{error}: write it as 2026-01-31T00:00:00Z"))
}

/// Runs it.
pub async fn run(app: &App, args: &Args) -> Reply {
    let config = app.config()?;
    args.fit(app::job(&config, &args.job)?)?;
    let janitor = wire::connect(config).await?;
    let stop = signals::stop()?;
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Apply };
    let request = Request { job: args.job.clone(), mode, tick: None };
    let watch = Shown::new(app, args);
    let narrow = Narrow { before: args.before, allow_mass_delete: args.allow_mass_delete, inventory: args.inventory };
    let ended = janitor.execute(Ask { request: &request, attempt: 1, narrow, watch: &watch, stop: &stop }).await;
    watch.bar.finish_and_clear();
    let report = ended.map_err(|error| Fail::usage(error.to_string()))?.report;
    if let Err(error) = janitor.ledger().record(&report).await {
        // The job has run: its outcome counts, not that it is not remembered.
        complain(&format!("warning: not recorded: {}", printable(&app::chain(&error))));
    }
    watch.end()?;
    show(app, args.list, &report)?;
    Ok(report.outcome.exit_code())
}

fn show(app: &App, list: bool, report: &Report) -> Result<(), Fail> {
    if app.out.is_json() {
        return app.out.json(report);
    }
    for line in report_lines(report) {
        if list {
            app.out.note(&line);
        } else {
            app.out.say(&line)?;
        }
    }
    Ok(())
}

/// Shows what happens: ids on stdout, progress on stderr.
struct Shown {
    bar: ProgressBar,
    list: Option<Mutex<List>>,
    json: bool,
}

/// The list, until a write fails: the job goes on, and the error is told at its end.
struct List {
    stdout: BufWriter<Stdout>,
    written: io::Result<()>,
}

impl Shown {
    fn new(app: &App, args: &Args) -> Self {
        // A list on a terminal is progress enough, and a bar would tear it.
        let bar = if app.out.is_quiet() || (args.list && app.out.is_terminal()) {
            ProgressBar::hidden()
        } else {
            let style = ProgressStyle::with_template("{spinner} {prefix}: {msg} ({elapsed})");
            let bar = ProgressBar::new_spinner().with_style(style.expect("the template is a constant"));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar.with_prefix(args.job.clone())
        };
        let list = List { stdout: BufWriter::new(io::stdout()), written: Ok(()) };
        Self { bar, list: args.list.then(|| Mutex::new(list)), json: app.out.is_json() }
    }

    fn end(self) -> Result<(), Fail> {
        let Some(list) = self.list else { return Ok(()) };
        let mut list = list.into_inner().unwrap_or_else(PoisonError::into_inner);
        tolerate(list.written)?;
        tolerate(list.stdout.flush())
    }
}

impl Watch for Shown {
    fn item(&self, id: &str) {
        let Some(list) = &self.list else { return };
        let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
        if list.written.is_ok() {
            list.written = if self.json {
                writeln!(list.stdout, "{}", json!({"item": id}))
            } else {
                writeln!(list.stdout, "{}", printable(id))
            };
        }
    }

    fn progress(&self, planned: u64, deleted: u64) {
        if let Some(list) = &self.list {
            // A batch is over: whoever follows the list sees it whole.
            let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
            if list.written.is_ok() {
                list.written = list.stdout.flush();
            }
        }
        self.bar.set_message(format!("{planned} planned, {deleted} deleted"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_needs_its_zone() {
        assert_eq!(instant("2026-01-31T01:00:00+01:00").unwrap(), instant("2026-01-31T00:00:00Z").unwrap());
        for wrong in ["2026-01-31", "2026-01-31T00:00:00", "yesterday", ""] {
            assert!(instant(wrong).is_err(), "{wrong:?}");
        }
    }
}
