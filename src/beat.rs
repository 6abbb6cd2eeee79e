//! Turns time into requests: each tick of a schedule is enqueued once, however many beats run.
//!
//! A beat keeps nothing of its own. The queue knows each job's last tick and takes only a later one, in one step, so
//! beats may be started, killed and doubled at will. The clock is read anew at every wake: where it leaps back nothing
//! runs twice, where it leaps ahead the latest tick that was missed is made up (or none, as `catch_up` says).

mod plan;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio_util::sync::CancellationToken;

use crate::{
    Janitor,
    beat::plan::{Due, Plan, Planner},
    clock::Clock,
    config::{JobConfig, JobKind},
    queue::{Request, Ticked},
    report::{Mode, chain},
};

/// The longest sleep: after a leap of the clock a tick is this late at most.
const SLEEP_MAX: Duration = Duration::from_secs(1);
/// The pause after the first error of the queue; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause after errors of the queue: it is back, and so long after that there are ticks again.
const PAUSE_MAX: Duration = Duration::from_secs(4);
/// A clock that moved this much further than the beat slept has leapt.
const LEAP: TimeDelta = TimeDelta::minutes(1);

/// Enqueues the ticks of all enabled jobs that have a schedule, until `stop` is cancelled. Those of the jobs that belong to
/// a host are left to that host's worker.
///
/// It outlives every error of the queue: it says so in the log and tries again, with longer and longer pauses.
pub async fn run_beat(janitor: Janitor, stop: CancellationToken) {
    beat(&janitor, |job| !job.kind.is_of_host(), stop).await;
}

/// Enqueues the ticks of this host's own jobs on the queue of `janitor`, each from its `initial_delay` on.
pub async fn run_host_beat(janitor: Janitor, stop: CancellationToken) {
    let own = janitor.config().jobs.values().filter_map(|job| match &job.kind {
        JobKind::Disk(disk) => Some((job.name.clone(), disk.initial_delay)),
        JobKind::Volumes(_) if job.kind.is_of_host() => Some((job.name.clone(), Duration::ZERO)),
        JobKind::Retention(_) | JobKind::Orphans(_) | JobKind::Volumes(_) => None,
    });
    let beats = own.map(|(name, delay)| {
        let (janitor, stop) = (&janitor, stop.clone());
        async move {
            tokio::select! { () = tokio::time::sleep(delay) => {} () = stop.cancelled() => return }
            beat(janitor, |job| job.name == name, stop).await;
        }
    });
    futures::future::join_all(beats).await;
}

async fn beat(janitor: &Janitor, is_ours: impl Fn(&JobConfig) -> bool, stop: CancellationToken) {
    let clock = janitor.clock().clone();
    let enabled = janitor.config().jobs.values().filter(|job| job.enabled && is_ours(job));
    let timed = enabled.filter_map(|job| Some((job.name.clone(), job.timing.clone()?)));
    let mut planner = Planner::new(timed, clock.now());
    tracing::info!(jobs = planner.len(), "beat started");
    let mut pause = PAUSE_MIN;
    loop {
        // Each step is one step of the queue's store: cut short, nothing is half done.
        let ended = tokio::select! { ended = round(janitor, &mut planner, clock.now()) => ended, () = stop.cancelled() => break };
        let sleep = match ended {
            Ok(true) => {
                pause = PAUSE_MIN;
                let now = clock.now();
                rest(&planner.plan(now), now)
            }
            Ok(false) => back_off(&mut pause),
            Err(error) => {
                let sleep = back_off(&mut pause);
                tracing::warn!(%error, retry_in_secs = sleep.as_secs(), "beat: trying again");
                sleep
            }
        };
        let (before, slept) = (clock.now(), tokio::time::Instant::now());
        tokio::select! { () = tokio::time::sleep(sleep) => {} () = stop.cancelled() => break }
        if leapt(&*clock, before, slept.elapsed()) {
            tracing::warn!(from = %before, to = %clock.now(), "beat: the clock leapt ahead");
            planner.leapt(clock.now());
        }
    }
    tracing::info!("beat stopped");
}

/// Enqueues what is due at `now`; `false` where the queue found a tick ahead of its own clock.
async fn round(janitor: &Janitor, planner: &mut Planner, now: DateTime<Utc>) -> Result<bool, String> {
    for job in planner.unknown() {
        let last = janitor.queue().start(planner.name(job), now).await.map_err(|error| chain(&error))?;
        planner.settle(job, last);
    }
    let mut in_time = true;
    for due in planner.plan(now).due {
        in_time &= offer(janitor, planner, due).await?;
    }
    Ok(in_time)
}

/// Offers one tick to the queue, unless its job is paused.
async fn offer(janitor: &Janitor, planner: &mut Planner, Due { job, tick }: Due) -> Result<bool, String> {
    let name = planner.name(job).to_owned();
    if janitor.ledger().is_paused(&name).await.map_err(|error| chain(&error))? {
        tracing::debug!(job = name, %tick, "tick left out: the job is paused");
        planner.settle(job, tick);
        return Ok(true);
    }
    let request = Request { job: name.clone(), mode: Mode::Apply, tick: Some(tick) };
    match janitor.queue().tick(&request).await.map_err(|error| chain(&error))? {
        Ticked::New(id) => tracing::info!(job = name, %tick, id, "tick enqueued"),
        Ticked::Old => tracing::debug!(job = name, %tick, "tick was enqueued before"),
        Ticked::Ahead => {
            tracing::warn!(job = name, %tick, "tick lies ahead of the queue's clock: this host's clock is wrong");
            planner.hold(job, tick);
            return Ok(false);
        }
    }
    planner.settle(job, tick);
    Ok(true)
}

/// How long to sleep at `now`, never longer than [`SLEEP_MAX`]; not at all where a tick came due during the round before.
fn rest(plan: &Plan, now: DateTime<Utc>) -> Duration {
    if plan.due.is_empty() {
        plan.wake.map_or(SLEEP_MAX, |wake| (wake - now).to_std().unwrap_or_default().min(SLEEP_MAX))
    } else {
        Duration::ZERO
    }
}

/// Whether the clock moved further from `before` than time went by.
fn leapt(clock: &dyn Clock, before: DateTime<Utc>, slept: Duration) -> bool {
    let slept = TimeDelta::from_std(slept).unwrap_or(TimeDelta::MAX);
    clock.now() - before > slept.checked_add(&LEAP).unwrap_or(TimeDelta::MAX)
}

fn back_off(pause: &mut Duration) -> Duration {
    std::mem::replace(pause, (*pause * 2).min(PAUSE_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_that_came_due_during_a_round_is_not_slept_over() {
        let now = DateTime::UNIX_EPOCH;
        let wake = Some(now + TimeDelta::milliseconds(300));
        let due = vec![Due { job: 0, tick: now }];
        assert_eq!(rest(&Plan { due: Vec::new(), wake }, now), Duration::from_millis(300));
        assert_eq!(rest(&Plan { due: due.clone(), wake }, now), Duration::ZERO);
        assert_eq!(rest(&Plan { due, wake: None }, now), Duration::ZERO);
        assert_eq!(rest(&Plan::default(), now), SLEEP_MAX);
    }

    #[test]
    fn a_queue_that_was_away_for_long_is_found_again_within_seconds() {
        let mut pause = PAUSE_MIN;
        let pauses: Vec<_> = (0..5).map(|_| back_off(&mut pause).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 4, 4]);
    }
}
