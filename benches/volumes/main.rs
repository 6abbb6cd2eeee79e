//! A sweep of a Docker Engine's volumes, against the same calls made by hand: two lists, and removals.
//!
//! `cargo bench --features full --bench volumes` takes a minute or two, `-- quick` less: one pair of times instead of many.
//! It runs as root and starts the engine that the tests use, from Debian's `docker.io` and `busybox-static`. The threads are
//! in SQLite, or in the database that `JANITOR_BENCH_POSTGRES` names. Each figure is a ratio of two times measured one after
//! the other on the same engine, and the median of the pairs.

#![allow(clippy::unwrap_used, reason = "a benchmark that panics fails, which is what is wanted")]

#[allow(dead_code, reason = "the tests need more of it")]
#[path = "../../tests/it/certificates.rs"]
mod certificates;
#[allow(dead_code, reason = "the tests need more of it")]
#[path = "../../tests/it/docker.rs"]
mod docker;

use std::{
    fs,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use apalis_janitor::{
    Janitor,
    config::{Config, EngineUrl},
    report::Mode,
};
use docker::{Dockerd, Mount, Options, State};
use futures::future::join_all;
use sqlx::{AnyConnection, AssertSqlSafe, Connection};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

const VOLUMES: usize = 2_000;
/// How many containers there are, each of which mounts a volume of its own.
const CONTAINERS: usize = 400;
/// The two lists.
const LISTED: [&str; 2] = ["/volumes", "/containers/json?all=1"];
/// How many pairs of lists, which are short.
const LISTS: usize = 25;
/// How many pairs of removals, and of how many volumes each.
const PAIRS: usize = 5;
const REMOVED: usize = 300;

#[tokio::main]
async fn main() {
    let is_quick = std::env::args().any(|argument| argument == "quick");
    let server = Dockerd::start_with(Options { is_silent: true, ..Options::default() }).await;
    server.make_all((0..VOLUMES).map(|number| format!("ha_ws_{number}"))).await;
    for number in 0..CONTAINERS {
        let volume = format!("ha_ws_{number}");
        server.contain(&format!("user-{number}"), Mount::Volume(&volume), State::Created).await;
    }
    lists(&server, if is_quick { 1 } else { LISTS }).await;
    for at_once in [1, 3, 8] {
        removals(&server, at_once, if is_quick { 1 } else { PAIRS }).await;
    }
}

/// Closed threads, with a job that removes their volumes.
struct World {
    janitor: Janitor,
    threads: AnyConnection,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new(server: &Dockerd, prefix: &str, threads: usize, at_once: usize) -> Self {
        sqlx::any::install_default_drivers();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("threads.db");
        fs::File::create(&file).unwrap();
        let url = std::env::var("JANITOR_BENCH_POSTGRES").unwrap_or_else(|_| format!("sqlite://{}", file.display()));
        let mut connection = AnyConnection::connect(&url).await.unwrap();
        let rows: Vec<_> = (0..threads).map(|thread| format!("('{thread}', 'closed')")).collect();
        let removed_at = if url.starts_with("sqlite") { "TEXT" } else { "TIMESTAMPTZ" };
        for text in [
            "DROP TABLE IF EXISTS janitor_bench_threads".to_owned(),
            format!(
                "CREATE TABLE janitor_bench_threads (id VARCHAR(20) PRIMARY KEY, status VARCHAR(20), volume_removed_at {removed_at})"
            ),
            format!("INSERT INTO janitor_bench_threads (id, status) VALUES {}", rows.join(", ")),
        ] {
            sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut connection).await.unwrap();
        }
        let config = folder.path().join("janitor.toml");
        let text = format!(
            "data_dir = \"home\"\n[jobs.volumes]\nkind = \"volumes\"\nengine = \"{}\"\nmarks = \"{url}\"\n\
             table = {{ name = \"janitor_bench_threads\", closed = \"closed\" }}\nvolume = \"{prefix}{{id}}\"\n\
             limit = 1000000\nconcurrency = {at_once}\n",
            server.url()
        );
        fs::write(&config, text).unwrap();
        let janitor = Janitor::connect(Config::load(&config).unwrap()).await.unwrap();
        Self { janitor, threads: connection, _folder: folder }
    }

    /// Forgets all marks.
    async fn unmark(&mut self) {
        let text = "UPDATE janitor_bench_threads SET volume_removed_at = NULL";
        sqlx::raw_sql(text).execute(&mut self.threads).await.unwrap();
    }
}

/// The median of pairs of times, as first by second.
fn median(name: &str, mut pairs: Vec<(Duration, Duration)>) {
    let ratio = |(ours, theirs): &(Duration, Duration)| ours.as_secs_f64() / theirs.as_secs_f64();
    pairs.sort_by(|one, other| ratio(one).total_cmp(&ratio(other)));
    let pair = pairs[pairs.len() / 2];
    println!("{name}: {:.1?} against {:.1?}, {:.2} x", pair.0, pair.1, ratio(&pair));
}

/// What a sweep knows before it removes: the engine's lists, the threads' rows, the back-offs; the other is both lists at
/// once, read and not understood.
async fn lists(server: &Dockerd, count: usize) {
    let world = World::new(server, "ha_ws_", VOLUMES, 3).await;
    let volumes = world.janitor.volumes("volumes").await.unwrap();
    let mut pairs = Vec::new();
    // The first of each is not measured.
    for turn in 0..=count {
        let bare = async {
            let began = Instant::now();
            let bytes: usize = join_all(LISTED.map(|path| list(server, path))).await.into_iter().sum();
            assert!(bytes > VOLUMES * 100, "{bytes} bytes");
            began.elapsed()
        };
        let ours = async {
            let began = Instant::now();
            let found = volumes.all().await.unwrap();
            assert_eq!(found.iter().filter(|found| found.users.is_empty()).count(), VOLUMES - CONTAINERS);
            began.elapsed()
        };
        // None is always the first.
        let pair = if turn % 2 == 0 {
            let bare = bare.await;
            (ours.await, bare)
        } else {
            (ours.await, bare.await)
        };
        pairs.push(pair);
    }
    pairs.remove(0);
    median(
        &format!("{VOLUMES} volumes with their threads and {CONTAINERS} containers against the two bare lists"),
        pairs,
    );
}

/// A sweep, which marks each thread; the other is the bare calls: both lists, then the removals, as many at once, on
/// connections that stay open.
async fn removals(server: &Dockerd, at_once: usize, count: usize) {
    let mut world = World::new(server, "goes_", REMOVED, at_once).await;
    let (mut pairs, mut idle) = (Vec::new(), Vec::new());
    for turn in 0..count {
        let mut times = [Duration::ZERO; 2];
        for way in [turn % 2, 1 - turn % 2] {
            let names: Vec<_> = (0..REMOVED).map(|number| format!("goes_{number}")).collect();
            server.make_all(names.clone()).await;
            world.unmark().await;
            rustix::fs::sync();
            let began = Instant::now();
            if way == 0 {
                let report = world.janitor.run("volumes", Mode::Apply).await.unwrap();
                assert_eq!(report.deleted.get("volumes"), REMOVED as u64, "{report:?}");
            } else {
                bare(server, &names, at_once).await;
            }
            times[way] = began.elapsed();
            assert_eq!(server.volumes("goes_").await, Vec::<String>::new());
        }
        pairs.push((times[0], times[1]));
        let began = Instant::now();
        world.janitor.run("volumes", Mode::Apply).await.unwrap();
        idle.push((began.elapsed(), times[1]));
    }
    median(&format!("sweep of {REMOVED} volumes, {at_once} at once, against the bare lists and removals"), pairs);
    median("the next sweep, which has nothing to remove, against the same", idle);
}

async fn bare(server: &Dockerd, names: &[String], at_once: usize) {
    join_all(LISTED.map(|path| list(server, path))).await;
    let next = AtomicUsize::new(0);
    let answers = Mutex::new(0);
    let work = (0..at_once).map(|_| async {
        let mut stream = UnixStream::connect(socket(server)).await.unwrap();
        let mut answer = [0; 1_024];
        while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
            let call = format!("DELETE /volumes/{name} HTTP/1.1\r\nHost: docker\r\n\r\n");
            stream.write_all(call.as_bytes()).await.unwrap();
            // An answer without a body comes in one piece.
            let length = stream.read(&mut answer).await.unwrap();
            assert!(answer[..length].starts_with(b"HTTP/1.1 204 ") && answer[..length].ends_with(b"\r\n\r\n"));
            *answers.lock().unwrap() += 1;
        }
    });
    join_all(work).await;
    assert_eq!(*answers.lock().unwrap(), names.len());
}

/// The length of a list's answer.
async fn list(server: &Dockerd, path: &str) -> usize {
    let mut stream = UnixStream::connect(socket(server)).await.unwrap();
    let call = format!("GET {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n");
    stream.write_all(call.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
    answer.len()
}

fn socket(server: &Dockerd) -> PathBuf {
    match server.url() {
        EngineUrl::Unix(path) => path,
        url @ EngineUrl::Tcp { .. } => panic!("{url}"),
    }
}
