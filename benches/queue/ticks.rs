//! How late a tick is: from its instant to its report, and to the queue where a thousand jobs tick at once.

use std::{
    collections::BTreeMap,
    fmt::Write,
    time::{Duration, Instant},
};

use apalis_janitor::report::Report;
use chrono::{DateTime, Utc};
use tokio::time::sleep;

use crate::{
    daemon::Daemon,
    world::{JOB, STREAM, World, called, connect, percentile},
};

/// How many ticks of each job a beat is watched for, and how far they are apart, in seconds.
const ROUNDS: usize = 6;
const EVERY: u32 = 5;

/// Prints how long after its instant a tick's report is there: a beat, the queue, a worker with the job's lock, the ledger.
pub async fn latency(ticks: usize) {
    let world = World::start().await;
    let config = config(&world, &[JOB.to_owned()], 1);
    let (beat, worker) = (Daemon::start(&config, "beat"), Daemon::start(&config, "worker"));
    let mut ledger = connect(&world.server).await;
    let mut spans = Vec::new();
    // The first is not measured: every connection is new.
    for tick in 0..=ticks {
        let (_, report): (String, String) = redis::cmd("BLPOP")
            .arg(&[format!("{{janitor}}:reports:{JOB}"), "10".to_owned()])
            .query_async(&mut ledger)
            .await
            .expect("a report");
        let now = Utc::now();
        let report: Report = serde_json::from_str(&report).unwrap();
        if tick > 0 {
            spans.push((now - report.tick.expect("only a beat enqueues")).to_std().unwrap());
        }
    }
    println!(
        "{ticks} ticks, from their instants to their reports: {:.1?} (median), {:.1?} (p99)",
        percentile(&mut spans, 0.5),
        percentile(&mut spans, 0.99)
    );
    beat.stop();
    worker.stop();
}

/// Prints how long it takes to enqueue the ticks of so many jobs that all tick at once, and what that costs.
pub async fn rounds(jobs: usize) {
    for beats in [1, 2] {
        let mut world = World::start().await;
        let names: Vec<_> = (0..jobs).map(|number| format!("job-{number}")).collect();
        let config = config(&world, &names, EVERY);
        let running: Vec<_> = (0..beats).map(|_| Daemon::start(&config, "beat")).collect();
        until(&mut world, jobs).await;
        let (calls, used, began) = (world.calls().await, processor(&running), Instant::now());
        until(&mut world, jobs * (1 + ROUNDS)).await;
        let took = began.elapsed().as_secs_f64();
        let (calls, used) = (called(&calls, &world.calls().await), processor(&running).saturating_sub(used));
        let mut lasted = lasted(&mut world, jobs).await;
        println!(
            "{beats} beats with {jobs} jobs, each every {EVERY} s: a round is on the queue after {:.0?} (median), {:.0?} (longest); {:.0} commands and {:.1} ms of processor a second, {:.1} MB",
            percentile(&mut lasted, 0.5),
            percentile(&mut lasted, 1.0),
            calls as f64 / took,
            used.as_secs_f64() * 1e3 / took,
            running.iter().map(Daemon::resident_kib).max().unwrap() as f64 / 1024.0
        );
        running.into_iter().for_each(Daemon::stop);
    }
}

/// Waits until so many ticks are on the queue.
async fn until(world: &mut World, ticks: usize) {
    while redis::cmd("XLEN").arg(STREAM).query_async::<usize>(&mut world.client).await.unwrap() < ticks {
        sleep(Duration::from_millis(100)).await;
    }
}

/// How long after its instant each round was on the queue as a whole. One amid which the beats began is left out.
async fn lasted(world: &mut World, jobs: usize) -> Vec<Duration> {
    let mut rounds = BTreeMap::<DateTime<Utc>, (usize, Duration)>::new();
    let entries: Vec<(String, BTreeMap<String, String>)> =
        redis::cmd("XRANGE").arg(&[STREAM, "-", "+"]).query_async(&mut world.client).await.unwrap();
    for (id, fields) in entries {
        let tick: DateTime<Utc> = fields["tick"].parse().unwrap();
        let at = DateTime::from_timestamp_millis(id.split_once('-').unwrap().0.parse().unwrap()).unwrap();
        let (ticks, lasted) = rounds.entry(tick).or_default();
        // The server's clock stands still while it serves: it may seem to have been a moment before.
        (*ticks, *lasted) = (*ticks + 1, (at - tick).to_std().unwrap_or_default());
    }
    rounds.into_values().filter(|(ticks, _)| *ticks == jobs).map(|(_, lasted)| lasted).collect()
}

fn processor(beats: &[Daemon]) -> Duration {
    beats.iter().map(Daemon::processor).sum()
}

/// Jobs with nothing to do, each every so many seconds.
fn config(world: &World, jobs: &[String], every: u32) -> String {
    let mut text = format!("[redis]\nurl = \"{}\"\n", world.server.url());
    for job in jobs {
        write!(text, "[jobs.{job}]\nkind = \"retention\"\nstore = \"memory:\"\nretention_days = 30\nschedule = \"every {every}s\"\n").unwrap();
    }
    text
}
