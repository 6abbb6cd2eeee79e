//! A cluster end to end: beat and worker processes of the binary around a real Redis.

use serde_json::Value;

use crate::{
    cli::Cli,
    process::{World, comes, deleted},
    redis::{RedisOptions, RedisServer},
};

const STREAM: &str = "{janitor}:queue:default";
/// Requests that a worker had come back soon.
const QUICK: &str = "[worker]\nvisibility = \"1s\"\nlock_ttl = \"1s\"\nmax_deliveries = 2";

/// Appends an entry to the queue, as any program can.
async fn append(redis: &RedisServer, fields: &[&str]) -> String {
    redis.cli(&[&["XADD", STREAM, "*"], fields].concat()).await
}

/// Waits until so many reports of the job are there; answers them, newest first.
async fn reports(world: &World, count: usize) -> Vec<Value> {
    comes(&format!("report number {count}"), async || world.history().len() >= count).await;
    let history = world.history();
    assert_eq!(history.len(), count, "{history:?}");
    history
}

#[tokio::test]
async fn a_request_from_anywhere_becomes_one_report() {
    let redis = RedisServer::start().await;
    let world = World::new(Some(&redis), QUICK, "run_limit = 100", 350).await;
    let worker = world.start("worker --name w1");
    append(&redis, &["job", "old-runs", "mode", "dry_run"]).await;
    let dry = &reports(&world, 1).await[0];
    assert_eq!((&dry["mode"], &dry["planned"]["runs"], &dry["fence"]), (&"dry_run".into(), &100.into(), &Value::Null));
    assert_eq!((deleted(dry), world.store.left().await), (0, 350));

    append(&redis, &["job", "old-runs", "mode", "apply"]).await;
    let raw = &reports(&world, 2).await[0];
    assert_eq!((&raw["outcome"], deleted(raw), &raw["tick"]), (&"limited".into(), 100, &Value::Null), "{raw}");

    assert!(world.cli.stdout("enqueue old-runs").starts_with("old-runs: enqueued as "));
    assert_eq!(deleted(&reports(&world, 3).await[0]), 100);
    let (code, stdout, _) = world.cli.run("enqueue old-runs --wait --json");
    let waited: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, deleted(&waited)), (5, 100), "{waited}");
    assert_eq!(waited, reports(&world, 4).await[0]);
    let rest = world.cli.json("enqueue old-runs --wait --json");
    assert_eq!((&rest["outcome"], deleted(&rest)), (&"done".into(), 50), "nothing is left: {rest}");
    world.store.assert_swept().await;
    worker.stop().await;
    assert_eq!(redis.cli(&["XLEN", STREAM]).await, "0");
    assert_eq!(redis.cli(&["EXISTS", "{janitor}:lock:old-runs"]).await, "0");
    assert_eq!(redis.cli(&["XPENDING", STREAM, "workers"]).await.lines().next(), Some("0"));
}

#[tokio::test]
async fn what_cannot_be_read_or_is_not_known_dies_and_the_worker_lives() {
    let redis = RedisServer::start().await;
    let world = World::new(Some(&redis), QUICK, "", 20).await;
    let unreadable = append(&redis, &["foo", "bar"]).await;
    let unknown = append(&redis, &["job", "no-such-job", "mode", "apply"]).await;
    let worker = world.start("worker --name w1");
    let dead = |count: usize| {
        let cli = &world.cli;
        async move {
            comes("dead entries", async || cli.json("dead ls --json").as_array().unwrap().len() == count).await;
            cli.json("dead ls --json")
        }
    };
    let list = dead(2).await;
    let of = |id: &str| list.as_array().unwrap().iter().find(|entry| entry["id"] == id).unwrap_or(&Value::Null);
    assert_eq!(of(&unreadable)["reason"], "the field \"job\" is missing");
    let reason = of(&unknown)["reason"].as_str().unwrap();
    assert!(reason.contains("no job named \"no-such-job\""), "{reason}");
    assert_eq!(of(&unknown)["deliveries"], 2);
    // The command line shows the reports of configured jobs; this one is in the ledger all the same.
    let stored = redis.cli(&["LRANGE", "{janitor}:reports:no-such-job", "0", "-1"]).await;
    let report: Value = serde_json::from_str(&stored).unwrap();
    assert_eq!(
        (&report["outcome"], &report["attempt"], &report["kind"]),
        (&"failed".into(), &2.into(), &"unknown".into())
    );
    assert_eq!(world.cli.run("status --check").0, 1);

    assert_eq!(world.cli.run(&format!("dead retry {unknown}")).0, 0);
    let list = dead(2).await;
    let again = list.as_array().unwrap().iter().find(|entry| entry["id"] != unreadable.as_str()).unwrap();
    assert_ne!(again["id"], unknown.as_str(), "it was tried again, and died again under a new id");
    for id in [unreadable.as_str(), again["id"].as_str().unwrap()] {
        assert_eq!(world.cli.stdout(&format!("dead drop {id}")), format!("{id}: dropped\n"));
    }
    dead(0).await;
    assert_eq!(deleted(&world.cli.json("enqueue old-runs --wait --json")), 20, "the worker lives");
    worker.stop().await;
}

#[tokio::test]
async fn a_store_that_is_away_is_tried_again_and_dies_with_a_failed_report() {
    let redis = RedisServer::start().await;
    let world = World::new(Some(&redis), QUICK, "", 20).await;
    let (app, away) = (world.cli.path().join("app.db"), world.cli.path().join("away.db"));
    std::fs::rename(&app, &away).unwrap();
    let worker = world.start("worker --name w1");
    let (code, stdout, stderr) = world.cli.run("enqueue old-runs --wait --json");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &report["outcome"], &report["attempt"]), (1, &"failed".into(), &2.into()), "{stderr}");
    assert!(report["reason"].as_str().unwrap().starts_with("sqlite: unavailable: "), "{report}");
    std::fs::rename(&away, &app).unwrap();
    let dead = world.cli.json("dead ls --json");
    assert_eq!(dead[0]["reason"], report["reason"]);
    assert_eq!(world.cli.run(&format!("dead retry {}", dead[0]["id"].as_str().unwrap())).0, 0);
    assert_eq!(deleted(&reports(&world, 2).await[0]), 20);
    world.store.assert_swept().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_pause_holds_the_beat_and_every_request_until_it_ends() {
    let redis = RedisServer::start().await;
    let world = World::new(Some(&redis), QUICK, "schedule = \"every 1s\"", 20).await;
    assert_eq!(world.cli.run("pause old-runs").0, 0);
    let beat = world.start("beat -v");
    beat.logs("tick left out: the job is paused").await;
    assert_eq!(redis.cli(&["XLEN", STREAM]).await, "0");
    let worker = world.start("worker --name w1");
    let report = world.cli.json("enqueue old-runs --wait --json");
    assert_eq!((&report["outcome"], &report["reason"]), (&"skipped".into(), &"the job is paused".into()));
    assert_eq!(world.cli.json("enqueue old-runs --dry-run --wait --json")["planned"]["runs"], 20, "a plan is harmless");
    assert_eq!((world.history().len(), world.store.left().await), (2, 20));
    let ticked = redis.cli(&["HGET", "{janitor}:ticks", "old-runs"]).await;
    assert_eq!(world.cli.run("resume old-runs").0, 0);
    comes("a sweep", async || world.history().iter().any(|report| deleted(report) == 20)).await;
    let report = world.history().into_iter().find(|report| deleted(report) == 20).unwrap();
    let tick: chrono::DateTime<chrono::Utc> = report["tick"].as_str().unwrap().parse().unwrap();
    assert!(tick.timestamp_millis() > ticked.parse().unwrap(), "a tick of the pause is not made up");
    beat.stop().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_pause_ends_a_sweep_after_the_batch_in_hand() {
    let redis = RedisServer::start().await;
    let world = World::new(Some(&redis), QUICK, "batch_size = 1\nbatch_time = \"10ms\"", 3_000).await;
    let worker = world.start("worker --name w1");
    world.cli.stdout("enqueue old-runs");
    world.is_amid().await;
    world.cli.stdout("pause old-runs");
    let report = &reports(&world, 1).await[0];
    assert_eq!((&report["outcome"], &report["reason"]), (&"limited".into(), &"paused on the way".into()));
    assert_eq!(deleted(report), 3_000 - world.store.left().await);
    assert!(world.store.left().await > 0, "it was over too soon");
    world.store.assert_whole().await;
    worker.stop().await;
}

#[tokio::test]
async fn unlock_stops_the_holder_before_its_next_batch() {
    let redis = RedisServer::start().await;
    let world = World::new(Some(&redis), QUICK, "batch_size = 1\nbatch_time = \"10ms\"", 3_000).await;
    let holder = world.start("run old-runs --json");
    world.is_amid().await;
    assert_eq!(world.cli.run("run old-runs").0, 4);
    assert_eq!(world.cli.stdout("unlock old-runs"), "old-runs: unlocked\n");
    let end = holder.end().await;
    let report: Value = serde_json::from_str(&end.stdout).unwrap();
    assert_eq!((end.code, &report["outcome"]), (Some(1), &"failed".into()), "{report}");
    assert!(report["reason"].as_str().unwrap().contains("lost after fence"), "{report}");
    assert_eq!(deleted(&report), 3_000 - world.store.left().await);
    world.store.assert_whole().await;
}

#[tokio::test]
async fn a_password_is_asked_for_clearly_and_another_namespace_is_empty() {
    let options = RedisOptions { password: Some("s3cret".to_owned()), ..RedisOptions::default() };
    let redis = RedisServer::start_with(options).await;
    let job = "[jobs.old-runs]\nkind = \"retention\"\nstore = \"memory:\"\n";
    let port = redis.port();
    for login in ["", ":wr0ng@", "janitor:wr0ng@"] {
        let cli = Cli::with(&format!("[redis]\nurl = \"redis://{login}127.0.0.1:{port}\"\n{job}"));
        for line in ["status", "worker", "beat", "up", "run old-runs", "check"] {
            let (code, stdout, stderr) = cli.run(line);
            let told = stdout + &stderr;
            assert_eq!(code, 1, "{line}: {told}");
            assert!(told.contains(&format!("redis 127.0.0.1:{port}: login refused: ")), "{line}: {told}");
            assert!(!told.contains("wr0ng"), "{line}: {told}");
        }
    }
    let cli = Cli::with(&format!("[redis]\nurl = \"{}\"\n{job}", redis.url()));
    cli.stdout("enqueue old-runs");
    assert!(cli.run("status").2.contains("queue: 1 waiting, 0 running, 0 dead"));
    let other = Cli::with(&format!("[redis]\nurl = \"{}\"\nnamespace = \"other\"\n{job}", redis.url()));
    assert!(other.run("status").2.contains("queue: 0 waiting, 0 running, 0 dead"));
}
