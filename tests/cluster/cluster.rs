//! A cluster of real processes: starts it, breaks it, waits for it, and collects what it did.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    check::{Summary, check},
    history::{Asked, Fault, History, Millis, Told},
    host::{Host, Part},
    proxy::{Proxy, Way},
    read::{asked, told, told_in_log},
    stores::Audited,
};

/// How many hosts there are, each with a worker and a beat.
const HOSTS: usize = 3;
/// How many ticks each scenario must have executed.
pub const TICKS: usize = 100;
/// After this a worker's request is another's, and its lock free.
pub const LEASE: Duration = Duration::from_secs(2);
/// The most runs that a tick deletes.
pub const RUN_LIMIT: u64 = 4;
/// How long a case waits for what must come.
const COMES_MAX: Duration = Duration::from_mins(1);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(100);

/// What is broken, and what that may cost.
#[derive(Clone, Copy, Debug)]
pub struct Harm {
    what: &'static str,
    blind: Option<Duration>,
    forgets: bool,
    mutes_store: bool,
}

impl Harm {
    /// It costs nothing but time.
    pub const fn of(what: &'static str) -> Self {
        Self { what, blind: None, forgets: false, mutes_store: false }
    }

    /// No tick may be asked for until so long after it; the latest is made up then.
    pub const fn blinds(self, until: Duration) -> Self {
        Self { blind: Some(until), ..self }
    }

    /// Redis forgets: what is in flight may double, or be lost.
    pub const fn forgets(self) -> Self {
        Self { forgets: true, ..self }
    }

    /// The store may do what it cannot answer any more.
    pub const fn mutes_store(self) -> Self {
        Self { mutes_store: true, ..self }
    }
}

/// A cluster that runs.
#[derive(Debug)]
pub struct Cluster {
    /// Its hosts.
    pub hosts: Vec<Host>,
    /// The store of each job.
    pub stores: Vec<Audited>,
    /// What chance decides.
    pub random: StdRng,
    /// The way to the stores, where they are on a server.
    pub store_way: Option<Proxy>,
    name: &'static str,
    began: Instant,
    history: History,
    effective: BTreeSet<(String, Millis)>,
    _folder: TempDir,
}

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where Redis is; empty: the hosts are one, and the queue is a file.
    pub redis: String,
    /// Its port, where each host has a way of its own to it.
    pub through: Option<u16>,
    /// More of the configuration's beginning.
    pub head: String,
    /// More jobs of each host, where `{host}` stands for its name.
    pub tail: String,
    /// Whether the stores are in Postgres.
    pub is_postgres: bool,
    /// How many jobs there are that delete runs.
    pub jobs: usize,
    /// The seconds between two ticks of each.
    pub every_secs: u32,
    /// Runs that each one's store has; more than there will be time for.
    pub due: u64,
}

impl Default for Plan {
    fn default() -> Self {
        let (redis, head, tail) = (String::new(), String::new(), String::new());
        Self { redis, through: None, head, tail, is_postgres: false, jobs: 20, every_secs: 2, due: 400 }
    }
}

/// The number that decides what chance decides: `JANITOR_TESTS_SEED`, or the time.
fn seed() -> u64 {
    let set = std::env::var("JANITOR_TESTS_SEED").ok();
    set.map_or_else(|| u64::try_from(now()).unwrap(), |set| set.parse().expect("JANITOR_TESTS_SEED is a number"))
}

/// Now, as a history has it.
pub fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Millis::try_from(since.as_millis()).unwrap()
}

/// A span, as a history has it.
pub fn millis(span: Duration) -> Millis {
    Millis::try_from(span.as_millis()).unwrap()
}

impl Cluster {
    /// Starts a cluster over a Redis, each host with a worker and a beat, and waits for the first ticks.
    pub async fn start(name: &'static str, plan: Plan) -> Self {
        let mut cluster = Self::idle(name, plan).await;
        for host in &mut cluster.hosts {
            host.start(Part::Beat);
            host.start(Part::Worker);
        }
        cluster.more(cluster.stores.len()).await;
        cluster
    }

    /// The same with nothing that runs yet.
    pub async fn idle(name: &'static str, plan: Plan) -> Self {
        let seed = seed();
        println!("{name}: JANITOR_TESTS_SEED={seed}");
        let folder = tempfile::tempdir().unwrap();
        let mut store_way = None;
        if plan.is_postgres {
            store_way = Some(Proxy::to(Audited::postgres_port()).await);
        }
        let mut stores = Vec::new();
        for number in 0..plan.jobs {
            let job = format!("job-{number:02}");
            stores.push(match &store_way {
                Some(way) => Audited::postgres(&job, plan.due, way.port()).await,
                None => Audited::sqlite(folder.path(), &job, plan.due).await,
            });
        }
        let mut hosts = Vec::new();
        for number in 0..if plan.redis.is_empty() { 1 } else { HOSTS } {
            let host = format!("h{number}");
            let proxy = match plan.through {
                Some(port) => Some(Proxy::to(port).await),
                None => None,
            };
            let config = config(&plan, &host, proxy.as_ref(), &stores);
            hosts.push(Host::new(&host, proxy, &config));
        }
        let history = History { every: Millis::from(plan.every_secs) * 1_000, ..History::default() };
        Self {
            hosts,
            stores,
            random: StdRng::seed_from_u64(seed),
            store_way,
            name,
            began: Instant::now(),
            history,
            effective: BTreeSet::new(),
            _folder: folder,
        }
    }

    /// A host that chance decides.
    pub fn any(&mut self) -> usize {
        self.random.random_range(0..self.hosts.len())
    }

    /// Waits for a moment amid the work that each tick begins.
    pub async fn strike(&mut self) {
        let every = self.history.every;
        let wait = every - now() % every + self.random.random_range(50..400);
        sleep(Duration::from_millis(u64::try_from(wait).unwrap())).await;
    }

    /// Waits until so many more ticks have been executed.
    pub async fn more(&mut self, ticks: usize) {
        let wanted = self.effective.len() + ticks;
        let deadline = Instant::now() + COMES_MAX;
        loop {
            self.read();
            if self.effective.len() >= wanted {
                return;
            }
            let (name, had) = (self.name, self.effective.len());
            if Instant::now() > deadline {
                let tails: Vec<_> = self.hosts.iter().map(Host::tails).collect();
                panic!("{name}: {had} ticks executed, and not {wanted}, after {COMES_MAX:?}\n{}", tails.concat());
            }
            sleep(LOOK).await;
        }
    }

    /// Reads what the processes have logged meanwhile.
    fn read(&mut self) {
        for host in &mut self.hosts {
            for line in host.news() {
                self.history.asked.extend(asked(&line, &host.name));
                let Some(told) = told_in_log(&line, &host.name) else { continue };
                if let (true, Some(tick)) = (told.is_effective(), told.tick) {
                    self.effective.insert((told.job.clone(), tick));
                }
                self.history.told.push(told);
            }
        }
    }

    /// Breaks something, for as long as `work` takes, which mends it.
    pub async fn harm<T>(&mut self, harm: Harm, work: impl AsyncFnOnce(&mut Self) -> T) -> T {
        let from = now();
        let done = work(self).await;
        let Harm { what, blind, forgets, mutes_store } = harm;
        self.history.faults.push(Fault { what, from, to: now(), blind: blind.map(millis), forgets, mutes_store });
        done
    }

    /// Sets the way of a host to Redis.
    pub fn way(&self, host: usize, way: Way) {
        self.hosts[host].proxy.as_ref().expect("a host with a way of its own").set(way);
    }

    /// Asks by hand for a job that chance decides.
    pub async fn ask(&mut self) {
        let (host, job) = (self.any(), self.random.random_range(0..self.stores.len()));
        let job = self.stores[job].job.clone();
        let at = now();
        let (code, stdout, stderr) = self.hosts[host].run(&format!("enqueue {job} --json")).await;
        assert_eq!(code, 0, "{stderr}");
        let answer: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        let id = answer["id"].as_str().unwrap().to_owned();
        // A request that still waits is merged with the new one.
        if !self.history.asked.iter().any(|asked| asked.id == id) {
            self.history.asked.push(Asked { job, tick: None, id, at });
        }
    }

    /// Ends the beats, lets the workers finish what was asked for, ends them, and judges what they all did.
    pub async fn prove(mut self) -> History {
        self.more(TICKS.saturating_sub(self.effective.len())).await;
        for host in &mut self.hosts {
            host.stop_all(&[Part::Beat]).await;
        }
        self.history.until = now();
        for host in 0..self.hosts.len() {
            if self.hosts[host].parts().contains(&Part::Up) {
                self.harm(Harm::of("SIGTERM"), async |cluster: &mut Self| cluster.hosts[host].stop(Part::Up).await)
                    .await;
                self.hosts[host].start(Part::Worker);
            }
        }
        self.is_idle().await;
        for host in &mut self.hosts {
            host.stop_all(&[Part::Worker]).await;
        }
        self.collect().await;
        for store in &self.stores {
            store.assert_whole().await;
            assert!(store.left().await > 0, "{}: {} ran out of work", self.name, store.job);
        }
        let summary = Summary::of(&self.history);
        println!("{}: {summary}; {:.1} s", self.name, self.began.elapsed().as_secs_f64());
        let breaches = check(&self.history);
        assert!(breaches.is_empty(), "{}", self.explain(&breaches));
        assert!(summary.effective >= TICKS, "{}: only {summary}", self.name);
        self.history
    }

    /// Waits until the queue is empty and nobody has a lock.
    async fn is_idle(&self) {
        let deadline = Instant::now() + COMES_MAX;
        loop {
            let (_, _, told) = self.hosts[0].run("status").await;
            let jobs = self.hosts[0].json("status --json").await;
            let is_locked = jobs.as_array().unwrap().iter().any(|job| job["locked"] == true);
            if told.contains("queue: 0 waiting, 0 running, 0 dead") && !is_locked {
                return;
            }
            assert!(Instant::now() < deadline, "{}: it does not come to rest: {told}{jobs}", self.name);
            sleep(LOOK * 3).await;
        }
    }

    /// What the ledger and the stores know.
    async fn collect(&mut self) {
        self.read();
        let reports = self.hosts[0].json("history --json --limit 65535").await;
        let recorded: Vec<Told> = reports.as_array().unwrap().iter().map(told).collect();
        // The ledger knows more of a report than the log; what it forgot, and only that, comes from the log.
        let known: BTreeSet<_> = recorded.iter().map(Told::key).collect();
        self.history.told.retain(|logged| !known.contains(&logged.key()));
        self.history.told.extend(recorded);
        for store in &self.stores {
            self.history.seen.extend(store.seen().await);
        }
    }

    /// What was found, with all that is known of the jobs and times that it is about.
    fn explain(&self, breaches: &[crate::check::Breach]) -> String {
        let mut text = format!("{}: {} breaches\n", self.name, breaches.len());
        for breach in breaches.iter().take(20) {
            let _ = writeln!(text, "{breach:?}");
        }
        for fault in &self.history.faults {
            let _ = writeln!(text, "{fault:?}");
        }
        let name = format!("{:?}", breaches[0]);
        for told in self.history.told.iter().filter(|told| name.contains(&told.job)) {
            let _ = writeln!(text, "{told:?}");
        }
        for seen in self.history.seen.iter().filter(|seen| name.contains(&seen.job) && seen.run.is_none()) {
            let _ = writeln!(text, "{seen:?}");
        }
        text
    }
}

fn config(plan: &Plan, host: &str, proxy: Option<&Proxy>, stores: &[Audited]) -> String {
    let mut text = plan.head.clone();
    if !plan.redis.is_empty() {
        let url = proxy.map_or_else(|| plan.redis.clone(), |proxy| format!("redis://127.0.0.1:{}", proxy.port()));
        let _ = writeln!(text, "[redis]\nurl = \"{url}\"");
    }
    let (lease, every) = (LEASE.as_secs(), plan.every_secs);
    let _ = writeln!(
        text,
        "[worker]\nhost = \"{host}\"\nlock_ttl = \"{lease}s\"\nvisibility = \"{lease}s\"\nmax_deliveries = 20\nconcurrency = 20"
    );
    for Audited { job, url, .. } in stores {
        let _ = writeln!(
            text,
            "[jobs.{job}]\nkind = \"retention\"\nschedule = \"every {every}s\"\nstore = \"{url}\"\nretention_days = 30\n\
             batch_size = 1\nbatch_pause = \"100ms\"\nrun_limit = {RUN_LIMIT}"
        );
    }
    text + &plan.tail.replace("{host}", host)
}
