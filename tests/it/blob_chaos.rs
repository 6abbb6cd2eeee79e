//! Writers and sweepers of one store that are killed and stopped at any moment: what was finalized reads back, and of the
//! rest nothing stays.

use std::{
    collections::BTreeSet,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use apalis_janitor::{
    blobs::{
        BlobStore, Catalog, Digest,
        catalog::{Filter, SqlCatalog},
        conformance::objects::{all, bytes, digest},
    },
    jobs::Narrow,
    report::Outcome,
};
use futures::{TryStreamExt, future::join_all};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::AsyncWriteExt,
    process::Child,
    select,
    sync::mpsc::{Receiver, Sender, channel},
    time::{Instant, sleep, sleep_until},
};

use crate::blob_home::{Bytes, Home, Who};

const WRITERS: usize = 8;
const SWEEPERS: usize = 3;
const CONTENTS: u8 = 50;
/// No content has more bytes; the small ones are many.
const SIZE_MAX: usize = 300_000;
/// How many tasks a writer keeps: of an older one it deletes what was finalized.
const KEPT_MAX: usize = 2;
/// How long the chaos lasts and how often it strikes, in seconds and milliseconds; `JANITOR_CHAOS_SECS` makes it last
/// longer and strike once a second.
const SHORT: (u64, u64) = (6, 200);
/// How long a sweeper is stopped that is not killed.
const STOPPED: Duration = Duration::from_secs(2);
const JOB: &str = "grace = \"0s\"\nabandoned_after = \"1s\"";

/// What happens to a process.
#[derive(Clone, Copy, Debug)]
enum Blow {
    Kill,
    Stop,
}

/// A task's hold on a content.
type Held = (String, u32, Digest);

/// What a writer or a sweeper has done.
#[derive(Debug, Default)]
struct Done {
    puts: u32,
    finalizes: u32,
    releases: u32,
    deletes: u32,
    sweeps: u32,
    swept: u64,
    kills: u32,
    stops: u32,
    /// What a task was told: it is over, since it was silent.
    closed: u32,
    kept: BTreeSet<Held>,
    /// Its process was killed: nobody knows whether it is final.
    unknown: BTreeSet<Held>,
}

/// How a process ended.
struct End {
    status: ExitStatus,
    is_killed: bool,
    stdout: String,
    stderr: String,
}

/// Somebody who starts one process after the other.
struct Actor {
    home: Arc<Home>,
    store: BlobStore,
    number: usize,
    random: StdRng,
    blows: Receiver<Blow>,
    until: Instant,
    done: Done,
}

fn content(number: u8) -> Vec<u8> {
    let size = if number.is_multiple_of(10) { SIZE_MAX } else { usize::from(number) * 37 };
    bytes(number, size)
}

fn signal(child: &Child, signal: Signal) {
    // One that has ended is not waited for yet: its id is nobody else's.
    if let Some(id) = child.id().and_then(|id| Pid::from_raw(id.try_into().unwrap())) {
        kill_process(id, signal).unwrap();
    }
}

impl Actor {
    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Runs `janitor <line>` until it ends by itself or is killed.
    async fn run(&mut self, file: &str, line: &str, stdin: &[u8]) -> End {
        let mut command = self.home.command(file);
        command.args(line.split_whitespace()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let [mut stdout, mut stderr] = [Vec::new(), Vec::new()];
        let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let talk = async {
            let write = async {
                // A process that was killed takes no more.
                let _ = input.write_all(stdin).await;
                drop(input);
            };
            let (out, err) = (tokio::io::copy(&mut out, &mut stdout), tokio::io::copy(&mut err, &mut stderr));
            let ((), out, err) = tokio::join!(write, out, err);
            (out.unwrap(), err.unwrap())
        };
        let suffer = async {
            let mut is_killed = false;
            loop {
                select! {
                    status = child.wait() => return (status.unwrap(), is_killed),
                    Some(blow) = self.blows.recv(), if !is_killed => match blow {
                        Blow::Kill => {
                            signal(&child, Signal::KILL);
                            (is_killed, self.done.kills) = (true, self.done.kills + 1);
                        }
                        Blow::Stop => {
                            signal(&child, Signal::STOP);
                            self.done.stops += 1;
                            sleep(STOPPED).await;
                            signal(&child, Signal::CONT);
                        }
                    },
                }
            }
        };
        let ((status, is_killed), _) = tokio::join!(suffer, talk);
        // The kill may have come too late.
        let is_killed = is_killed && status.code().is_none();
        let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        End { status, is_killed, stdout, stderr }
    }

    /// Whether it went well. If not, it was killed or told that the attempt is over, and nothing else.
    fn went_well(&mut self, line: &str, end: &End) -> bool {
        if end.status.success() || end.is_killed {
            return end.status.success();
        }
        let is_closed = end.status.code() == Some(1) && end.stderr.contains("is over (up to ");
        assert!(is_closed, "janitor {line}: {}: {}", end.status, end.stderr);
        self.done.closed += 1;
        false
    }

    async fn write(mut self) -> Done {
        let mut tasks: Vec<Vec<Held>> = Vec::new();
        for number in 0.. {
            if self.is_over() {
                break;
            }
            let task = format!("writer-{}-task-{number}", self.number);
            let kept = self.task(&task).await;
            tasks.push(kept);
            if tasks.len() > KEPT_MAX {
                for held in tasks.remove(0) {
                    self.delete(held).await;
                }
            }
        }
        self.done
    }

    /// One task with its retries; answers what it has finalized.
    async fn task(&mut self, task: &str) -> Vec<Held> {
        for attempt in 1..=3 {
            let mut put = BTreeSet::new();
            let mut is_whole = true;
            for _ in 0..self.random.random_range(1..=3) {
                let bytes = content(self.random.random_range(0..CONTENTS));
                let held = (task.to_owned(), attempt, digest(&bytes));
                let line = format!("blobs put - --task {task} --attempt {attempt} --name {}", held.2);
                let end = self.run("writer.toml", &line, &bytes).await;
                if self.went_well(&line, &end) {
                    self.done.puts += 1;
                    put.insert(held);
                } else {
                    is_whole = false;
                    // It may have put nevertheless.
                    self.done.unknown.insert(held);
                }
            }
            let mut is_final = false;
            // Most finalize, though something may be missing; the others fail, and some of them say so.
            match self.random.random_range(0..10) {
                0..=6 if is_whole || self.random.random() => is_final = self.finalize(task, attempt, &put).await,
                7 | 8 => {
                    let line = format!("blobs release --task {task} --attempt {attempt}");
                    let end = self.run("writer.toml", &line, b"").await;
                    self.done.releases += u32::from(self.went_well(&line, &end));
                }
                _ => {}
            }
            if is_final {
                return put.into_iter().collect();
            }
        }
        Vec::new()
    }

    async fn finalize(&mut self, task: &str, attempt: u32, put: &BTreeSet<Held>) -> bool {
        if put.is_empty() {
            return false;
        }
        let line = format!("blobs finalize --task {task} --attempt {attempt}");
        let end = self.run("writer.toml", &line, b"").await;
        let is_final = self.went_well(&line, &end);
        if is_final {
            self.done.finalizes += 1;
            reads_back(&self.store, put).await;
            self.done.kept.extend(put.iter().cloned());
        } else if end.is_killed {
            self.done.unknown.extend(put.iter().cloned());
        }
        is_final
    }

    /// The task lets go of what it has finalized, which was there until then.
    async fn delete(&mut self, held: Held) {
        reads_back(&self.store, std::iter::once(&held)).await;
        let line = format!("blobs delete {} --task {}", held.2, held.0);
        let end = self.run("writer.toml", &line, b"").await;
        self.done.kept.remove(&held);
        if self.went_well(&line, &end) {
            self.done.deletes += 1;
        } else {
            self.done.unknown.insert(held);
        }
    }

    async fn sweep(mut self) -> Done {
        let file = format!("sweeper-{}.toml", self.number);
        let (number, mut hosts) = (self.number, 0_u32..);
        // Each has a lock of its own, so that they sweep at the same time, and a killed one's lock holds up nobody.
        let mut data_dir = || format!("data-{number}-{}", hosts.next().unwrap());
        self.home.configure(&file, &data_dir(), JOB);
        while !self.is_over() {
            let inventory = if self.random.random_range(0..8) == 0 { " --inventory" } else { "" };
            let line = format!("run sweep --allow-mass-delete --json{inventory}");
            let end = self.run(&file, &line, b"").await;
            if end.is_killed {
                self.home.configure(&file, &data_dir(), JOB);
                continue;
            }
            // An inventory that misses an object exits 1.
            assert!(end.status.success(), "janitor {line}: {}: {}{}", end.status, end.stdout, end.stderr);
            let report: serde_json::Value = serde_json::from_str(&end.stdout).unwrap();
            self.done.sweeps += 1;
            self.done.swept += report["deleted"]["blobs"].as_u64().unwrap();
        }
        self.done
    }
}

async fn reads_back(store: &BlobStore, kept: impl IntoIterator<Item = &Held>) {
    for held in kept {
        let bytes = store.get(held.2).await.unwrap_or_else(|error| panic!("{held:?} was finalized: {error}"));
        let read = bytes.try_collect::<Vec<_>>().await.unwrap_or_else(|error| panic!("{held:?}: {error}"));
        assert_eq!(digest(&read.concat()), held.2);
    }
}

/// Strikes one of the actors again and again. Only a sweeper is stopped: it may go on whenever it likes.
async fn strike(actors: &[Sender<Blow>], mut random: impl Rng, every: Duration, until: Instant) {
    loop {
        sleep_until((Instant::now() + every).min(until)).await;
        if Instant::now() >= until {
            return;
        }
        let number = random.random_range(0..actors.len());
        let blow = if number >= WRITERS && random.random() { Blow::Stop } else { Blow::Kill };
        // One that still has to feel the last blow is spared.
        let _ = actors[number].try_send(blow);
    }
}

impl Done {
    fn sum(all: Vec<Self>) -> Self {
        let mut sum = Self::default();
        for done in all {
            sum.puts += done.puts;
            sum.finalizes += done.finalizes;
            sum.releases += done.releases;
            sum.deletes += done.deletes;
            sum.sweeps += done.sweeps;
            sum.swept += done.swept;
            sum.kills += done.kills;
            sum.stops += done.stops;
            sum.closed += done.closed;
            sum.kept.extend(done.kept);
            sum.unknown.extend(done.unknown);
        }
        sum
    }
}

async fn chaos(home: Home) {
    let seed = std::env::var("JANITOR_CHAOS_SEED").map_or_else(|_| rand::rng().random(), |text| text.parse().unwrap());
    let long = std::env::var("JANITOR_CHAOS_SECS").ok().map(|text| (text.parse().unwrap(), 1_000));
    let (secs, every) = long.unwrap_or(SHORT);
    println!("JANITOR_CHAOS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let until = Instant::now() + Duration::from_secs(secs);
    let home = Arc::new(home);
    let catalog = home.catalog().await;
    let store = home.over(catalog.clone()).await;
    home.configure("writer.toml", "data", JOB);
    let (mut ends, mut writers, mut sweepers) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..WRITERS + SWEEPERS {
        let (sender, blows) = channel(1);
        let (home, store, random) = (Arc::clone(&home), store.clone(), StdRng::from_rng(&mut random));
        let actor = Actor { home, store, number, random, blows, until, done: Done::default() };
        ends.push(sender);
        if number < WRITERS {
            writers.push(actor.write());
        } else {
            sweepers.push(actor.sweep());
        }
    }
    let strike = strike(&ends, random, Duration::from_millis(every), until);
    let (writers, sweepers, ()) = tokio::join!(join_all(writers), join_all(sweepers), strike);
    let done = Done::sum(writers.into_iter().chain(sweepers).collect());
    let Done { puts, finalizes, releases, deletes, sweeps, swept, kills, stops, closed, kept, unknown } = &done;
    println!(
        "{secs} s: {puts} puts, {finalizes} finalizes, {releases} releases, {deletes} deletes, {closed} too late; {sweeps} sweeps \
         of {swept} blobs; {kills} kills, {stops} stops; {} final refs at the end, {} unknown",
        kept.len(),
        unknown.len()
    );
    assert!(*puts > 0 && *finalizes > 0 && *swept > 0 && *kills > 0, "that was no chaos: {done:?}");
    check(&home, &catalog, &store, &done).await;
}

/// Every final ref reads back; then everything else goes.
async fn check(home: &Home, catalog: &SqlCatalog, store: &BlobStore, done: &Done) {
    reads_back(store, &done.kept).await;
    // What is silent has failed; then what it held, and what crashes left, is old enough to go.
    for days in [2, 2] {
        catalog.advance(Duration::from_hours(24 * days));
        let narrow = Narrow { allow_mass_delete: true, inventory: true, ..Narrow::default() };
        let report = home.sweep(store, JOB, narrow).await.report;
        assert_eq!((report.outcome, report.failures), (Outcome::Done, Vec::new()));
    }
    let refs = catalog.list(&Filter::default(), None, 100_000).await.unwrap();
    assert!(refs.iter().all(|it| it.is_final), "{refs:?}");
    let held: BTreeSet<Held> = refs.iter().map(|it| (it.tag.task.clone(), it.tag.attempt, it.digest)).collect();
    assert_eq!(done.kept.difference(&held).collect::<Vec<_>>(), Vec::<&Held>::new(), "finalized, and gone");
    let more: Vec<_> = held.iter().filter(|held| !done.kept.contains(held) && !done.unknown.contains(held)).collect();
    assert_eq!(more, Vec::<&Held>::new(), "never finalized, and there");
    reads_back(store, &held).await;
    let totals = catalog.totals().await.unwrap();
    assert_eq!((totals.live, totals.pending, totals.deleting), (totals.referenced, 0, 0));
    let mut expected = BTreeSet::new();
    for (_, _, digest) in &held {
        expected.extend(catalog.blobs(*digest).await.unwrap().iter().map(|blob| blob.key().path()));
    }
    assert_eq!(totals.live, expected.len() as u64);
    assert_eq!(all(&**store.objects()).await, expected);
    assert_eq!(home.spooled(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_nothing_is_left_in_sqlite_and_a_folder() {
    chaos(Home::new(Who::Sqlite, Bytes::Folder).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_nothing_is_left_in_postgres_and_s3() {
    chaos(Home::new(Who::Postgres, Bytes::S3).await).await;
}
