//! The embedded mode end to end: processes of the binary, one SQLite file, no server.

use serde_json::Value;
use sqlx::{ConnectOptions, Connection, sqlite::SqliteConnectOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    cli::Cli,
    process::{Process, Signal, World, comes, deleted},
    redis::free_port,
};

/// Small batches, so that a sweep takes a while.
const SLOW: &str = "batch_size = 1\nbatch_time = \"10ms\"";

#[tokio::test]
async fn up_sweeps_on_its_schedule_and_leaves_nothing_behind() {
    let world = World::new(None, "", "schedule = \"every 1s\"", 500).await;
    let up = world.start("up");
    comes("a sweep", async || world.store.left().await == 0).await;
    comes("its report", async || world.history().iter().any(|report| deleted(report) == 500)).await;
    let report = world.history().into_iter().find(|report| deleted(report) == 500).unwrap();
    assert_eq!(
        (&report["outcome"], &report["mode"], &report["kind"]),
        (&"done".into(), &"apply".into(), &"retention".into())
    );
    assert!(report["tick"].is_string() && report["fence"].is_u64(), "{report}");
    assert_eq!(report["planned"]["runs"], 500);
    for (kind, count) in [("events", 1_500), ("steps", 1_000), ("hooks", 500), ("checkpoints", 500)] {
        assert_eq!(report["deleted"][kind], count, "{kind}");
    }
    world.store.assert_swept().await;
    let status = &world.cli.json("status --json")[0];
    assert_eq!(
        (&status["job"], &status["dead"], &status["problems"]),
        (&"old-runs".into(), &0.into(), &Value::Array(vec![]))
    );
    assert!(status["last_success"].is_string() && status["next"].is_string(), "{status}");
    up.stop().await;
    assert_eq!(world.cli.json("status --json")[0]["locked"], false);
    assert_eq!(world.cli.run("status --check").0, 0);
    for left in ["app.db-journal", "app.db-wal"] {
        assert!(!world.cli.path().join(left).exists(), "{left} was left behind");
    }
    let options = SqliteConnectOptions::new().filename(world.cli.path().join("janitor-data/janitor.db"));
    let mut connection = options.connect().await.unwrap();
    let sound: String = sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut connection).await.unwrap();
    assert_eq!(sound, "ok");
}

#[tokio::test]
async fn check_counts_what_is_due_and_writes_nothing() {
    let world = World::new(None, "", "", 500).await;
    let before = std::fs::read(world.cli.path().join("app.db")).unwrap();
    let told = world.cli.stdout("check");
    assert!(told.contains("ok\tjob old-runs\t500 runs are due now, the oldest was last written 2"), "{told}");
    assert!(std::fs::read(world.cli.path().join("app.db")).unwrap() == before, "the store was written");
    world.configure("retention_days", "# retention_days");
    let told = world.cli.stdout("check");
    assert!(told.contains("ok\tjob old-runs\tretention_days is unset: every run stays"), "{told}");
}

#[tokio::test]
async fn two_runs_at_once_are_one_sweep_and_one_busy() {
    let world = World::new(None, "", SLOW, 2_000).await;
    let first = world.start("run old-runs --json");
    world.is_amid().await;
    let (code, stdout, _) = world.cli.run("run old-runs --json");
    let busy: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &busy["outcome"], &busy["fence"]), (4, &"busy".into(), &Value::Null));
    let dry = world.cli.json("run old-runs --dry-run --json");
    assert_eq!((&dry["outcome"], &dry["fence"], &dry["deleted"]["runs"]), (&"done".into(), &Value::Null, &Value::Null));
    assert!(dry["planned"]["runs"].as_u64().unwrap() > 0, "it was over too soon");
    first.signal(Signal::TERM);
    let end = first.end().await;
    assert_eq!(end.code, Some(5), "{}", end.stderr);
    let report: Value = serde_json::from_str(&end.stdout).unwrap();
    assert_eq!((&report["outcome"], &report["reason"]), (&"limited".into(), &"asked to stop".into()));
    assert_eq!(deleted(&report), 2_000 - world.store.left().await);
    world.store.assert_whole().await;
}

#[tokio::test]
async fn a_dry_run_names_what_the_run_after_it_deletes_in_a_store_with_families() {
    let world = World::new(None, "", "", 700).await;
    let list = |line: &str| {
        let mut ids: Vec<_> = world.cli.stdout(line).lines().map(str::to_owned).collect();
        ids.sort_unstable();
        ids
    };
    let planned = list("run old-runs --dry-run --list");
    assert_eq!(world.store.left().await, 700);
    assert_eq!(list("run old-runs --list"), planned);
    assert_eq!(planned, (0..700).map(|number| format!("due-{number:06}")).collect::<Vec<_>>());
    world.store.assert_swept().await;
    assert_eq!(deleted(&world.cli.json("run old-runs --json")), 0, "the second time there is nothing to do");
}

#[tokio::test]
async fn retention_that_is_not_configured_opens_no_store() {
    let cli = Cli::with(
        "[jobs.old-runs]\nkind = \"retention\"\nstore = \"sqlite:nowhere/none.db\"\nretention_days = \"${NOT_SET:-}\"\n",
    );
    let report = cli.json("run old-runs --json");
    assert_eq!((&report["outcome"], &report["reason"]), (&"skipped".into(), &"retention is not configured".into()));
    assert_eq!(cli.json("run old-runs --dry-run --json")["outcome"], "skipped");
    let up = Process::start(&cli, "up");
    assert_eq!(cli.json("enqueue old-runs --wait --json")["reason"], "retention is not configured");
    up.stop().await;
    assert!(!cli.path().join("nowhere").exists());
}

#[tokio::test]
async fn metrics_of_up_grow_with_a_sweep() {
    let listen = format!("127.0.0.1:{}", free_port());
    let world = World::new(None, &format!("[metrics]\nlisten = \"{listen}\""), "", 300).await;
    let up = world.start("up");
    up.logs("metrics served").await;
    let before = get(&listen, "/metrics").await;
    assert!(before.starts_with("HTTP/1.1 200") && before.contains("janitor_queue_up 1"), "{before}");
    assert_eq!(deleted(&world.cli.json("enqueue old-runs --wait --json")), 300);
    let after = get(&listen, "/metrics").await;
    for line in [
        r#"janitor_reports_total{job="old-runs",mode="apply",outcome="done"} 1"#,
        r#"janitor_queue_requests{state="waiting"} 0"#,
    ] {
        assert!(after.contains(line) && !before.contains("janitor_reports_total{"), "{line}\n{after}");
    }
    assert!(after.lines().any(|line| line.starts_with("janitor_deleted_total{") && line.ends_with(" 300")), "{after}");
    let health = get(&listen, "/healthz").await;
    let body: Value = serde_json::from_str(health.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert!(health.starts_with("HTTP/1.1 200") && body["jobs"]["old-runs"]["last_success"].is_string(), "{health}");
    up.stop().await;
    assert!(TcpStream::connect(&listen).await.is_err(), "the port is free again");
}

#[tokio::test]
async fn up_that_is_stopped_amid_a_sweep_is_finished_by_the_next_one() {
    let world = World::new(None, "", SLOW, 2_000).await;
    world.cli.stdout("enqueue old-runs");
    let first = world.start("up");
    world.is_amid().await;
    first.stop().await;
    let left = world.store.left().await;
    assert!(left > 0, "it was over too soon");
    assert_eq!(world.cli.json("status --json")[0]["locked"], false);
    assert!(world.cli.run("status").2.contains("queue: 0 waiting, 1 running, 0 dead"), "handed back");
    world.hurry(SLOW);
    let second = world.start("up");
    comes("the report", async || !world.history().is_empty()).await;
    second.stop().await;
    let history = world.history();
    assert_eq!((history.len(), &history[0]["outcome"], deleted(&history[0])), (1, &"done".into(), left));
    world.store.assert_swept().await;
}

#[tokio::test]
async fn a_store_that_its_owner_keeps_locked_fails_and_is_named() {
    let world = World::new(None, "", "", 100).await;
    let held = world.store.hold().await;
    let (code, stdout, stderr) = world.cli.run("run old-runs --json");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &report["outcome"]), (1, &"failed".into()), "{stderr}");
    let reason = report["reason"].as_str().unwrap();
    assert!(reason.starts_with("sqlite: unavailable: ") && reason.contains("app.db: database is locked"), "{reason}");
    assert_eq!(world.cli.json("run old-runs --dry-run --json")["planned"]["runs"], 100, "a plan only reads");
    held.close().await.unwrap();
    world.cli.stdout("run old-runs");
    world.store.assert_swept().await;
}

/// The whole answer to a GET.
async fn get(listen: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(listen).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {listen}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
