//! Two versions of the binary at once: what this version wrote is read, with what a newer one may have added to it.
//!
//! `tests/data/version_0_1` is what version 0.1 leaves in a Redis and in the file of the embedded mode, and stays as it is.

use std::{path::Path, time::Duration};

use apalis_janitor::{
    Janitor,
    config::Config,
    ledger::Backoff,
    lock::{LockKey, Token},
    queue::{Claim, Dead, Enqueued, Request, Ticked},
    report::{Mode, Report},
};
use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, sqlite::SqliteConnectOptions};

use crate::{process::World, redis::RedisServer};

/// A report as version 0.1 writes it.
const REPORT: &str = include_str!("../data/version_0_1/report.json");
/// Its id, and that of one with more in it.
const OLD: &str = "01M7XRZB2BA8J5D0Q03EJ5Q1N1";
const NEW: &str = "01M7XRZB2BA8J5D0Q03EJ5Q1N2";

fn instant(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn request(mode: Mode, tick: Option<&str>) -> Request {
    Request { job: "old-runs".to_owned(), mode, tick: tick.map(instant) }
}

async fn connect(folder: &Path) -> Janitor {
    Janitor::connect(Config::load(folder.join("janitor.toml")).unwrap()).await.unwrap()
}

/// All that version 0.1 left is understood. `ids` are those of its queue, with its dead one first.
async fn reads_all(janitor: &Janitor, ids: [&str; 4], reports: &[&str]) {
    let (queue, ledger, lock) = (janitor.queue(), janitor.ledger(), janitor.lock());
    let read = ledger.reports("old-runs", 10).await.unwrap();
    assert_eq!(read.iter().map(|report| report.id.as_str()).collect::<Vec<_>>(), reports);
    assert_eq!(serde_json::to_string(read.last().unwrap()).unwrap(), REPORT.trim_end(), "it is written as it was");
    assert_eq!(ledger.last_success("old-runs").await.unwrap(), Some(instant("2026-11-21T00:44:19.403092593Z")));
    assert!(ledger.is_paused("held").await.unwrap() && !ledger.is_paused("old-runs").await.unwrap());
    let backoff = Backoff { attempts: 2, next_at: instant("2026-11-21T00:44:19.403Z") };
    assert_eq!(ledger.backoffs("volumes").await.unwrap(), [("7b7a".to_owned(), backoff)].into());

    let last = instant("2026-11-21T03:00:00Z");
    assert_eq!(queue.last_tick("old-runs").await.unwrap(), Some(last));
    let again = request(Mode::Apply, Some("2026-11-21T03:00:00Z"));
    assert_eq!(queue.tick(&again).await.unwrap(), Ticked::Old, "the tick was enqueued by the other version");
    let fields = [("job", "old-rnus"), ("mode", "apply")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let dead = Dead {
        id: ids[0].to_owned(),
        reason: "no job named \"old-rnus\"".to_owned(),
        deliveries: 3,
        at: instant("2026-11-21T00:36:40Z"),
        fields: fields.to_vec(),
    };
    assert_eq!(queue.dead(10).await.unwrap(), [dead]);

    let key = LockKey::job("old-runs");
    assert!(lock.held_for(&key).await.unwrap().is_some());
    assert_eq!(lock.acquire(&key, &Token::random(), Duration::from_secs(30)).await.unwrap(), None);
    assert!(lock.unlock(&key).await.unwrap());
    let fence = lock.acquire(&key, &Token::random(), Duration::from_secs(30)).await.unwrap().unwrap();
    assert!(fence.get() > 1_795_221_859_403, "{fence:?}");

    for (mode, key, id) in [(Mode::DryRun, None, ids[1]), (Mode::Apply, Some("nightly"), ids[3])] {
        let merged = queue.enqueue(&request(mode, None), key).await.unwrap();
        assert_eq!(merged, Enqueued::Merged(id.to_owned()));
    }
    let tick = Some("2026-11-21T03:00:00Z");
    for (id, expected) in ids[1..].iter().zip([(Mode::DryRun, None), (Mode::Apply, tick), (Mode::Apply, None)]) {
        let Claim::Run(delivery) = queue.claim("w", false).await.unwrap() else { panic!("{id} is no request") };
        let expected = request(expected.0, expected.1);
        assert_eq!((delivery.id.as_str(), delivery.request, delivery.number), (*id, expected, 1));
    }
}

/// What the newer version appended: a request with more in it, and one that is none for us.
async fn reads_the_newer(janitor: &Janitor) {
    let queue = janitor.queue();
    let Claim::Run(delivery) = queue.claim("w", false).await.unwrap() else { panic!("it is a request") };
    assert_eq!(delivery.request, request(Mode::Apply, Some("2026-11-21T03:00:00.250Z")));
    let Claim::Unreadable { id, reason } = queue.claim("w", false).await.unwrap() else { panic!("it is none for us") };
    assert_eq!(reason, "mode \"rehearse\" is neither \"apply\" nor \"dry_run\"");
    assert!(queue.bury("w", &id, &reason, None).await.unwrap());
    assert!(queue.dead_retry(&id).await.unwrap(), "the newer version can have it back");
    // What is written beside it goes on working.
    let report = Report { id: "01M7XRZB2BA8J5D0Q03EJ5Q1N4".to_owned(), ..serde_json::from_str(REPORT).unwrap() };
    assert!(queue.finish("w", &delivery.id, &report).await.unwrap());
    assert_eq!(janitor.ledger().reports("old-runs", 10).await.unwrap()[0], report);
}

/// Does what each line says, whose words have tabs between them.
async fn load(redis: &RedisServer, commands: &str) {
    for line in commands.lines() {
        redis.cli(&line.split('\t').collect::<Vec<_>>()).await;
    }
}

async fn over_redis(is_newer: bool) {
    let redis = RedisServer::start().await;
    load(&redis, include_str!("../data/version_0_1/redis.tsv")).await;
    if is_newer {
        load(&redis, include_str!("../data/version_0_1/redis_newer.tsv")).await;
    }
    let world = World::new(Some(&redis), "", "", 1).await;
    let janitor = connect(world.cli.path()).await;
    let ids = ["1795221000000-0", "1795221392574-0", "1795221392575-0", "1795221392576-0"];
    reads_all(&janitor, ids, if is_newer { &[NEW, OLD] } else { &[OLD] }).await;
    if is_newer {
        reads_the_newer(&janitor).await;
    }
}

async fn over_a_file(is_newer: bool) {
    let world = World::new(None, "", "", 1).await;
    let folder = world.cli.path().join("janitor-data");
    std::fs::create_dir(&folder).unwrap();
    let options = SqliteConnectOptions::new().filename(folder.join("janitor.db")).create_if_missing(true);
    let mut file = options.connect().await.unwrap();
    for (text, is_ours) in [
        (include_str!("../data/version_0_1/embedded.sql"), true),
        (include_str!("../data/version_0_1/embedded_newer.sql"), is_newer),
    ] {
        if is_ours {
            file.execute(sqlx::raw_sql(AssertSqlSafe(text.to_owned()))).await.unwrap();
        }
    }
    drop(file);
    let janitor = connect(world.cli.path()).await;
    reads_all(&janitor, ["99", "1", "2", "3"], if is_newer { &[NEW, OLD] } else { &[OLD] }).await;
    if is_newer {
        reads_the_newer(&janitor).await;
    }
}

#[tokio::test]
async fn what_this_version_left_in_redis_is_read() {
    over_redis(false).await;
}

#[tokio::test]
async fn what_a_newer_version_adds_in_redis_is_left_alone() {
    over_redis(true).await;
}

#[tokio::test]
async fn what_this_version_left_in_its_file_is_read() {
    over_a_file(false).await;
}

#[tokio::test]
async fn what_a_newer_version_adds_to_the_file_is_left_alone() {
    over_a_file(true).await;
}
