//! `janitor status`: how each job is doing, and with `--check` whether somebody should look.

use std::collections::BTreeMap;

use apalis_janitor::{
    Janitor,
    config::JobConfig,
    queue::Dead,
    report::{Mode, Outcome, Report},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use crate::{
    app::{App, Fail, Reply},
    jobs::next_tick,
    out::{complain, instant, printable},
};

/// A tick that is this late, with its jitter, was missed.
const LATE: TimeDelta = TimeDelta::minutes(2);
/// How many reports are looked through for the last execution that ran.
const LOOK_BACK: usize = 20;
/// The most entries of the dead list that are looked at.
const DEAD_MAX: usize = 1_000;

/// Show how each job is doing
///
/// With `--check` it exits 1 where somebody should look: a tick was missed, a request is dead, or the last execution
/// left what was due (it ended limited, failed or refused). The problems go to stderr.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor status\n  janitor status --check --quiet || page-somebody")]
pub struct Args {
    /// Exit 1 on a missed tick, a dead request or an overdue backlog
    #[arg(long)]
    check: bool,
}

#[derive(Debug, Serialize)]
struct Status {
    job: String,
    enabled: bool,
    paused: bool,
    locked: bool,
    last_run: Option<DateTime<Utc>>,
    last_outcome: Option<Outcome>,
    last_success: Option<DateTime<Utc>>,
    next: Option<DateTime<Utc>>,
    dead: u64,
    problems: Vec<String>,
}

/// Shows the state of all jobs.
pub async fn run(app: &App, args: &Args) -> Reply {
    let janitor = app.janitor().await?;
    let dead = janitor.dead(DEAD_MAX).await.map_err(|error| Fail::of(&error))?;
    let stats = janitor.stats().await.map_err(|error| Fail::of(&error))?;
    let (by_job, stray) = count(&janitor, &dead);
    let mut all = Vec::new();
    for job in janitor.config().jobs.values() {
        all.push(status(&janitor, job, by_job.get(&job.name).copied().unwrap_or(0)).await.map_err(Fail::failed)?);
    }
    if app.out.is_json() {
        app.out.json(&all)?;
    } else {
        let rows: Vec<_> = all.iter().map(row).collect();
        app.out.rows(["JOB", "STATE", "LAST RUN", "OUTCOME", "LAST SUCCESS", "NEXT", "DEAD"], &rows)?;
        app.out.note(&format!("queue: {} waiting, {} running, {} dead", stats.waiting, stats.running, stats.dead));
    }
    let mut problems: Vec<_> =
        all.iter().flat_map(|job| job.problems.iter().map(move |problem| format!("{}: {problem}", job.job))).collect();
    if stray > 0 {
        problems.push(format!("{stray} dead requests for no job of this configuration: see `janitor dead ls`"));
    }
    for problem in problems.iter().filter(|_| args.check || !app.out.is_quiet()) {
        complain(&format!("problem: {}", printable(problem)));
    }
    Ok(u8::from(args.check && !problems.is_empty()))
}

/// The dead requests of each configured job, and how many are of none.
fn count(janitor: &Janitor, dead: &[Dead]) -> (BTreeMap<String, u64>, u64) {
    let (mut by_job, mut stray) = (BTreeMap::new(), 0);
    for entry in dead {
        let job = entry.fields.iter().find(|(field, _)| field == "job").map(|(_, job)| job);
        match job.filter(|job| janitor.config().jobs.contains_key(*job)) {
            Some(job) => *by_job.entry(job.clone()).or_default() += 1,
            None => stray += 1,
        }
    }
    (by_job, stray)
}

async fn status(janitor: &Janitor, job: &JobConfig, dead: u64) -> Result<Status, String> {
    let (ledger, name) = (janitor.ledger(), job.name.as_str());
    let fail = |error: &dyn std::error::Error| crate::app::chain(error);
    let paused = ledger.is_paused(name).await.map_err(|error| fail(&error))?;
    let reports = ledger.reports(name, LOOK_BACK).await.map_err(|error| fail(&error))?;
    let last_success = ledger.last_success(name).await.map_err(|error| fail(&error))?;
    let locked = janitor.lock().held_for(&janitor.lock_key(job)).await.map_err(|error| fail(&error))?.is_some();
    let mut problems = Vec::new();
    if job.enabled && !paused && job.timing.is_some() {
        let now = janitor.clock().now();
        if let Some(last) = janitor.for_job(job).queue().last_tick(name).await.map_err(|error| fail(&error))? {
            problems.extend(missed(job, last, now).map(|tick| format!("the tick of {} was missed", instant(tick))));
            if last - now > LATE {
                problems.push(format!("the last tick, {}, lies ahead: nothing is enqueued before it", instant(last)));
            }
        }
    }
    if dead > 0 {
        problems.push(format!("{dead} dead: see `janitor dead ls`"));
    }
    problems.extend(overdue(&reports));
    Ok(Status {
        job: job.name.clone(),
        enabled: job.enabled,
        paused,
        locked,
        last_run: reports.first().map(|report| report.started_at),
        last_outcome: reports.first().map(|report| report.outcome),
        last_success,
        next: next_tick(job).filter(|_| !paused),
        dead,
        problems,
    })
}

/// The tick that should have been enqueued by now and was not.
fn missed(job: &JobConfig, last: DateTime<Utc>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let timing = job.timing.as_ref()?;
    let late = LATE + TimeDelta::from_std(timing.jitter).unwrap_or(TimeDelta::MAX);
    let tick = timing.schedule.next_after(last, timing.timezone)?;
    (now - tick > late).then_some(tick)
}

/// What the last execution that ran left to do.
fn overdue(reports: &[Report]) -> Option<String> {
    let ran = |report: &&Report| match report.outcome {
        Outcome::Busy | Outcome::Skipped => false,
        Outcome::Done | Outcome::Limited | Outcome::Refused | Outcome::Failed => report.mode == Mode::Apply,
    };
    let last = reports.iter().find(ran)?;
    match last.outcome {
        Outcome::Limited | Outcome::Refused | Outcome::Failed => {
            let reason = last.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            Some(format!("overdue, the run of {} ended {}{reason}", instant(last.started_at), last.outcome))
        }
        Outcome::Done | Outcome::Busy | Outcome::Skipped => None,
    }
}

fn row(status: &Status) -> [String; 7] {
    let state = match (status.enabled, status.paused, status.locked) {
        (_, _, true) => "running",
        (false, _, false) => "disabled",
        (true, true, false) => "paused",
        (true, false, false) => "ready",
    };
    let shown = |at: Option<DateTime<Utc>>| at.map_or("-".to_owned(), instant);
    [
        status.job.clone(),
        state.to_owned(),
        shown(status.last_run),
        status.last_outcome.map_or("-".to_owned(), |outcome| outcome.to_string()),
        shown(status.last_success),
        shown(status.next),
        status.dead.to_string(),
    ]
}
