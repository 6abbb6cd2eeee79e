//! What a worker, a beat and the embedded mode cost while nothing is to be done.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::{
    daemon::Daemon,
    world::{World, called},
};

/// How long a process may take to start, before it is looked at.
const START: Duration = Duration::from_secs(3);
/// A job that is not due for long, with a store of which nothing is asked meanwhile.
const JOB: &str =
    "[jobs.old-runs]\nkind = \"retention\"\nschedule = \"0 3 1 1 *\"\nstore = \"memory:\"\nretention_days = 30\n";
/// A job of the host's own, with a queue of its own.
const OF_HOST: &str = "[jobs.disk]\nkind = \"disk\"\nschedule = \"0 3 1 1 *\"\nroot = \".\"\nmedia = { paths = [\"images\"], max_age = \"7d\" }\n";

/// Prints it, all of them watched at once for so many seconds.
pub async fn cost(seconds: u32) {
    let both = format!("{JOB}{OF_HOST}");
    tokio::join!(
        of("a worker", "worker", JOB, true, seconds),
        of("a worker with a job of its host", "worker", &both, true, seconds),
        of("a beat", "beat", JOB, true, seconds),
        of("beat and worker, embedded", "up", JOB, false, seconds)
    );
}

async fn of(name: &str, command: &str, jobs: &str, is_over_redis: bool, seconds: u32) {
    let mut world = World::start().await;
    let redis = if is_over_redis { format!("[redis]\nurl = \"{}\"\n", world.server.url()) } else { String::new() };
    let daemon = Daemon::start(&format!("{redis}{jobs}"), command);
    sleep(START).await;
    let (calls, processor, began) = (world.calls().await, daemon.processor(), Instant::now());
    sleep(Duration::from_secs(seconds.into())).await;
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    let used = daemon.processor().saturating_sub(processor).as_secs_f64();
    let calls = called(&calls, &world.calls().await) as f64;
    println!(
        "{name}, idle for {seconds} s: {:.1} MB, {:.2} s of processor a minute, {:.1} commands a second",
        daemon.resident_kib() as f64 / 1024.0,
        used / minutes,
        calls / minutes / 60.0
    );
    daemon.stop();
}
