//! Holders that are frozen past their leases, of each store with a fence and many at once, while others sweep: who is stale
//! deletes nothing.
//!
//! `JANITOR_TESTS_STALE` says how often that is tried with each store; [`TRIES`] times otherwise. Each test prints how often it
//! was.

use std::{collections::BTreeSet, fmt::Write, fs};

use apalis_janitor::runs::{
    conformance::{Subject, text},
    memory::{Run, Thing},
};
use chrono::{TimeDelta, Utc};
use serde_json::Value;

use crate::{
    cli::Cli,
    dynamodb::{KEY_ID, REGION, SECRET},
    process::{Process, Signal, comes},
    redis::RedisServer,
    runs::{
        cassandra::world::CassandraWorld,
        dynamodb::DynamoWorld,
        files::FileWorld,
        mysql::MysqlWorld,
        postgres_world::{FRESH, PostgresWorld},
        world::SqliteWorld,
    },
};

/// How often it is tried with each store, unless the environment says so.
const TRIES: usize = 4;
/// The most holders that are frozen at once, each of a store of its own.
const AT_ONCE: usize = 5;
/// How many runs are due in each store when its holder starts.
const DUE: usize = 120;
/// How many of them the others take while the holder is frozen.
const TAKEN: usize = 5;
/// A holder that takes a run at a time, and is mostly between two of them.
const SLOW: &str = "batch_size = 1\nbatch_time = \"10ms\"\nbatch_pause = \"60ms\"";

/// A store, where the command line finds it.
struct Place {
    subject: Box<dyn Subject>,
    url: String,
}

impl Place {
    fn new(subject: impl Subject + 'static, url: String) -> Self {
        Self { subject: Box::new(subject), url }
    }

    /// Puts runs there that are due, until there are enough.
    async fn fill(&self, turn: usize) {
        for number in self.runs().await..DUE {
            let at = Some(text(
                Utc::now() - TimeDelta::days(60) - TimeDelta::minutes((turn * DUE + number).try_into().unwrap()),
            ));
            let run = Run {
                id: format!("due-{turn}-{number}"),
                status: "completed".to_owned(),
                workflow: "order".to_owned(),
                created_at: at.clone(),
                updated_at: at,
                parent: None,
                continued_from: None,
            };
            let event =
                Thing::Owned { kind: "events".to_owned(), run: run.id.clone(), id: format!("event of {}", run.id) };
            self.subject.put(Thing::Run(run)).await;
            self.subject.put(event).await;
        }
    }

    async fn things(&self) -> BTreeSet<Thing> {
        self.subject.things().await
    }

    /// How many runs a page shows: unlike `things`, it may be asked while somebody deletes.
    async fn runs(&self) -> usize {
        let (store, mut runs, mut after) = (self.subject.store(), 0, None);
        loop {
            let page = store.page(Utc::now(), after.as_ref(), DUE).await.unwrap();
            runs += page.runs.len();
            after = page.next;
            if after.is_none() {
                return runs;
            }
        }
    }
}

/// What came of the tries with a store.
#[derive(Debug, Default)]
struct Tried {
    /// Holders that were stale when they went on: somebody else had swept meanwhile.
    tries: usize,
    /// Those of them that deleted something nevertheless.
    deletes: usize,
    /// Those of them that only the store's own fence kept from it.
    fenced: usize,
    /// Holders that were frozen amid a write, which let nobody else in, or that had ended: they are not stale.
    alone: usize,
}

/// Tries with stores of one kind until it is enough, and sees that none lost anything to who was stale.
async fn is_never_swept_by_who_is_stale(name: &str, make: impl AsyncFn() -> Place) {
    let wanted = std::env::var("JANITOR_TESTS_STALE").map_or(TRIES, |tries| tries.parse().expect("a number of tries"));
    let redis = RedisServer::start().await;
    let mut places = Vec::new();
    for _ in 0..wanted.min(AT_ONCE) {
        places.push(make().await);
    }
    let cli = Cli::with(&config(&redis, &places, SLOW));
    let others = config(&redis, &places, &format!("batch_pause = \"0s\"\nrun_limit = {TAKEN}"));
    fs::write(cli.path().join("others.toml"), others).unwrap();
    let (mut tried, mut turn) = (Tried::default(), 0);
    while tried.tries < wanted {
        assert!(turn < 2 + 3 * wanted / places.len(), "too few holders were frozen where others can get in: {tried:?}");
        for place in &places {
            place.fill(turn).await;
        }
        freeze_all(&redis, &cli, &places, &mut tried).await;
        turn += 1;
    }
    let Tried { tries, deletes, fenced, alone } = tried;
    println!(
        "{name}: {tries} stale holders, {} frozen at once: {deletes} stale deletes; the store itself refused {fenced}; {alone} more were not stale",
        places.len()
    );
    assert_eq!(deletes, 0, "{name}: who was stale deleted something");
}

/// Freezes a holder of each store amid its sweep, lets others sweep once the locks have lapsed, and thaws them.
async fn freeze_all(redis: &RedisServer, cli: &Cli, places: &[Place], tried: &mut Tried) {
    let start = |more: &str| -> Vec<Process> {
        (0..places.len())
            .map(|job| Process::start_with(cli, &format!("run job-{job} --json{more}"), &credentials()))
            .collect()
    };
    let holders = start("");
    for (holder, place) in holders.iter().zip(places) {
        comes("a first deleted run", async || place.runs().await < DUE || is_lost(holder)).await;
    }
    for holder in &holders {
        holder.signal(Signal::STOP);
    }
    // On a machine that is too busy to renew a lock some end by themselves: they are no try.
    let were_amid: Vec<_> = holders.iter().map(|holder| !is_lost(holder)).collect();
    let locks: Vec<_> = (0..places.len()).map(|job| format!("{{janitor}}:lock:job-{job}")).collect();
    let asked: Vec<_> = std::iter::once("EXISTS").chain(locks.iter().map(String::as_str)).collect();
    comes("locks that have lapsed", async || redis.cli(&asked).await == "0").await;
    let mut got_in = Vec::new();
    for (other, was_amid) in start(" --config others.toml").into_iter().zip(were_amid) {
        // Limited: it took what it may.
        got_in.push(other.end().await.code == Some(5) && was_amid);
    }
    let mut before = Vec::new();
    for place in places {
        before.push(place.things().await);
    }
    for holder in &holders {
        holder.signal(Signal::CONT);
    }
    for (((holder, place), before), got_in) in holders.into_iter().zip(places).zip(before).zip(got_in) {
        let end = holder.end().await;
        if !got_in {
            tried.alone += 1;
            continue;
        }
        let report: Value = serde_json::from_str(&end.stdout).unwrap_or_else(|error| panic!("{error}: {}", end.stderr));
        assert_eq!((end.code, &report["outcome"]), (Some(1), &"failed".into()), "it was not stale: {report}");
        tried.tries += 1;
        tried.deletes += usize::from(place.things().await != before);
        tried.fenced += usize::from(report["reason"].as_str().is_some_and(|reason| reason.contains(" is stale, ")));
    }
}

fn is_lost(holder: &Process) -> bool {
    holder.log().contains("lock lost")
}

/// A job for each store.
fn config(redis: &RedisServer, places: &[Place], keys: &str) -> String {
    let mut text = format!("[redis]\nurl = \"{}\"\n[worker]\nlock_ttl = \"2s\"\n", redis.url());
    for (job, Place { url, .. }) in places.iter().enumerate() {
        write!(text, "[jobs.job-{job}]\nkind = \"retention\"\nstore = \"{url}\"\nretention_days = 30\n{keys}\n")
            .unwrap();
    }
    text
}

/// What the command line needs for DynamoDB.
fn credentials() -> [(&'static str, &'static str); 2] {
    [("AWS_ACCESS_KEY_ID", KEY_ID), ("AWS_SECRET_ACCESS_KEY", SECRET)]
}

#[tokio::test]
async fn a_stale_holder_deletes_nothing_from_sqlite() {
    is_never_swept_by_who_is_stale("sqlite", async || {
        let world = SqliteWorld::new("wal").await;
        let url = format!("sqlite://{}", world.path.display());
        Place::new(world, url)
    })
    .await;
}

#[tokio::test]
async fn a_stale_holder_deletes_nothing_from_files() {
    is_never_swept_by_who_is_stale("file", async || {
        let world = FileWorld::new().await;
        let url = format!("file://{}", world.path.display());
        Place::new(world, url)
    })
    .await;
}

#[tokio::test]
async fn a_stale_holder_deletes_nothing_from_postgres() {
    is_never_swept_by_who_is_stale("postgres", async || {
        let world = PostgresWorld::new(FRESH).await;
        let url = world.url.clone();
        Place::new(world, url)
    })
    .await;
}

#[tokio::test]
async fn a_stale_holder_deletes_nothing_from_citus() {
    is_never_swept_by_who_is_stale("citus", async || {
        let world = PostgresWorld::on_citus().await;
        let url = world.url.clone();
        Place::new(world, url)
    })
    .await;
}

#[tokio::test]
async fn a_stale_holder_deletes_nothing_from_mysql() {
    is_never_swept_by_who_is_stale("mysql", async || {
        let world = MysqlWorld::new().await;
        let url = world.database.url();
        Place::new(world, url)
    })
    .await;
}

#[tokio::test]
async fn a_stale_holder_deletes_nothing_from_dynamodb() {
    is_never_swept_by_who_is_stale("dynamodb", async || {
        let world = DynamoWorld::new().await;
        let url = format!("dynamodb://{REGION}/{}?endpoint={}", world.table.name, world.table.endpoint());
        Place::new(world, url)
    })
    .await;
}

#[tokio::test]
async fn a_stale_holder_deletes_nothing_from_cassandra() {
    is_never_swept_by_who_is_stale("cassandra", async || {
        let world = CassandraWorld::new().await;
        let url = world.keyspace.url();
        Place::new(world, url)
    })
    .await;
}
