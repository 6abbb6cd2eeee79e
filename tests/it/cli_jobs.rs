//! Jobs on a real store from the command line: exit codes, lists, locks, signals, the queue.

use std::{
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use apalis_janitor::{
    clock::SystemClock,
    embedded,
    lock::{Lock, LockKey, Token, sqlite::SqliteLock},
    metrics::Server,
};
use serde_json::Value;
use sqlx::{SqlitePool, sqlite::SqliteConnectOptions};

use crate::{
    cli::Cli,
    docker::Dockerd,
    redis::{RedisOptions, RedisServer},
};

/// How long a case waits for what must come.
const COMES_MAX: Duration = Duration::from_secs(20);

const JOB: &str = "[jobs.old-runs]\nkind = \"retention\"\nstore = \"sqlite:app.db\"\nretention_days = 30\n";

/// A job, and a store with ended runs that are due and `fresh`, which is not.
async fn with_runs(config: &str, due: &[&str]) -> Cli {
    let cli = Cli::with(config);
    let options = SqliteConnectOptions::new().filename(cli.path().join("app.db")).create_if_missing(true);
    let pool = SqlitePool::connect_with(options).await.unwrap();
    let tables = "CREATE TABLE workflow_runs (run_id TEXT PRIMARY KEY, workflow_name TEXT NOT NULL, status TEXT NOT NULL, \
        created_at TIMESTAMP NOT NULL, updated_at TIMESTAMP NOT NULL, parent_run_id TEXT);\n\
        CREATE TABLE events (event_id TEXT PRIMARY KEY, run_id TEXT NOT NULL);";
    sqlx::raw_sql(tables).execute(&pool).await.unwrap();
    let insert = "INSERT INTO workflow_runs VALUES (?, 'flow', 'completed', ?, ?, NULL)";
    for id in due {
        let at = "2020-01-01T00:00:00+00:00";
        sqlx::query(insert).bind(id).bind(at).bind(at).execute(&pool).await.unwrap();
    }
    let now = chrono::Utc::now().to_rfc3339();
    sqlx::query(insert).bind("fresh").bind(&now).bind(&now).execute(&pool).await.unwrap();
    pool.close().await;
    cli
}

async fn runs(cli: &Cli) -> Vec<String> {
    let pool = SqlitePool::connect_with(SqliteConnectOptions::new().filename(cli.path().join("app.db"))).await.unwrap();
    sqlx::query_scalar("SELECT run_id FROM workflow_runs ORDER BY run_id").fetch_all(&pool).await.unwrap()
}

/// A process that is killed with its test.
struct Running(Option<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

fn start(cli: &Cli, line: &str) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_janitor"));
    command.args(line.split(' ')).current_dir(cli.path()).env_remove("JANITOR_CONFIG");
    Running(Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()))
}

fn terminate(running: &Running) {
    let child = running.0.as_ref().unwrap();
    let id = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
}

/// The exit code, stdout and stderr of a process that ends.
fn end(mut running: Running) -> (i32, String, String) {
    let output = running.0.take().unwrap().wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

async fn comes(what: &str, mut is_there: impl FnMut() -> bool) {
    let deadline = Instant::now() + COMES_MAX;
    while !is_there() {
        assert!(Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_dry_run_lists_what_the_run_after_it_deletes() {
    let cli = with_runs(JOB, &["a", "b\n\x1b[31m", "é"]).await;
    let (code, dry, stderr) = cli.run("run old-runs --dry-run --list");
    assert_eq!(code, 0, "{stderr}");
    let mut ids: Vec<_> = dry.lines().collect();
    ids.sort_unstable();
    assert_eq!(ids, ["a", "b\\x0A\\x1B[31m", "é"]);
    assert!(stderr.contains("old-runs (dry run): done; planned 3 runs; deleted -"), "{stderr}");
    assert_eq!(runs(&cli).await.len(), 4);
    let (code, real, stderr) = cli.run("run old-runs --list");
    assert_eq!((code, real), (0, dry), "{stderr}");
    assert_eq!(runs(&cli).await, ["fresh"]);
    let history = cli.json("history --json");
    assert_eq!((&history[0]["mode"], &history[1]["mode"]), (&"apply".into(), &"dry_run".into()));
    assert_eq!(history[0]["deleted"]["runs"], 3);
}

#[tokio::test]
async fn a_list_with_json_is_an_item_a_line_and_the_report_last() {
    let cli = with_runs(JOB, &["a", "b\n"]).await;
    let (code, stdout, _) = cli.run("run old-runs --list --json --before 2020-01-01T00:00:01Z");
    assert_eq!(code, 0);
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    let mut items: Vec<_> = lines[..2].iter().map(|line| line["item"].as_str().unwrap()).collect();
    items.sort_unstable();
    assert_eq!(items, ["a", "b\n"]);
    assert_eq!((&lines[2]["outcome"], &lines[2]["deleted"]["runs"]), (&"done".into(), &2.into()));
    assert_eq!(cli.json("history --limit 1 --json")[0], lines[2]);
    let nothing = cli.json("run old-runs --before 2019-01-01T00:00:00Z --json");
    assert_eq!(nothing["planned"]["runs"], 0);
}

#[tokio::test]
async fn the_exit_code_says_how_it_ended() {
    let cli = with_runs(&format!("{JOB}run_limit = 1\n"), &["a", "b"]).await;
    assert_eq!(cli.run("run old-runs").0, 5);
    assert_eq!(cli.run("status --check").0, 1, "more is left");
    assert_eq!(cli.run("run old-runs --quiet").1, "");
    assert_eq!(cli.run("run old-runs").0, 0);
    assert_eq!(cli.run("status --check").0, 0);
    let keeps = Cli::with("[jobs.keeps]\nkind = \"retention\"\nstore = \"sqlite:none.db\"\n");
    let (code, stdout, _) = keeps.run("run keeps");
    assert_eq!(code, 0);
    assert!(stdout.starts_with("keeps: skipped: "), "{stdout}");
    let (code, stdout, _) = Cli::with(JOB).run("run old-runs");
    assert_eq!(code, 1);
    assert!(stdout.starts_with("old-runs: failed: sqlite: "), "{stdout}");
}

#[tokio::test]
async fn a_held_lock_is_busy_and_unlock_frees_it() {
    let cli = with_runs(JOB, &["a"]).await;
    let pool = embedded::open(&cli.path().join("janitor-data")).await.unwrap();
    let lock = SqliteLock::new(pool, Arc::new(SystemClock));
    lock.acquire(&LockKey::job("old-runs"), &Token::random(), Duration::from_mins(1)).await.unwrap().unwrap();
    assert_eq!(cli.run("run old-runs").0, 4);
    assert_eq!(cli.run("run old-runs --dry-run").0, 0, "a plan takes no lock");
    assert_eq!(cli.json("status --json")[0]["locked"], true);
    assert_eq!(cli.stdout("unlock old-runs"), "old-runs: unlocked\n");
    assert_eq!(cli.stdout("unlock old-runs"), "old-runs: was not locked\n");
    assert_eq!(cli.run("run old-runs").0, 0);
}

#[tokio::test]
async fn a_paused_job_is_skipped_until_it_is_resumed() {
    let cli = with_runs(JOB, &["a"]).await;
    assert_eq!(cli.stdout("pause old-runs"), "old-runs: paused\n");
    assert_eq!(cli.stdout("pause --all"), "old-runs: paused, as before\n");
    assert_eq!(cli.json("run old-runs --json")["outcome"], "skipped");
    assert_eq!(cli.json("status --json")[0]["paused"], true);
    assert_eq!(cli.json("resume --all --json")[0]["changed"], true);
    assert_eq!(cli.json("run old-runs --json")["outcome"], "done");
}

#[tokio::test]
async fn a_reader_of_the_list_that_goes_away_does_not_stop_the_job() {
    let ids: Vec<_> = (0..3_000).map(|number| format!("a-run-with-quite-a-long-name-{number}")).collect();
    let cli = with_runs(JOB, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let script =
        format!("{} run old-runs --list --json | true; exit ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_janitor"));
    let output = Command::new("bash").args(["-c", &script]).current_dir(cli.path()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), stderr.as_ref()), (Some(0), ""));
    assert_eq!(runs(&cli).await, ["fresh"]);
}

#[tokio::test]
async fn a_signal_ends_a_run_limited_after_the_batch_in_hand() {
    let ids: Vec<_> = (0..200).map(|number| format!("run-{number:03}")).collect();
    let slow = format!("{JOB}batch_size = 1\nbatch_pause = \"1s\"\n");
    let cli = with_runs(&slow, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let child = start(&cli, "run old-runs --json");
    let deadline = Instant::now() + COMES_MAX;
    while runs(&cli).await.len() > 199 {
        assert!(Instant::now() < deadline, "nothing was deleted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    terminate(&child);
    let (code, stdout, stderr) = end(child);
    assert_eq!(code, 5, "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["outcome"], "limited");
    let left = u64::try_from(runs(&cli).await.len()).unwrap();
    assert_eq!(report["deleted"]["runs"].as_u64().unwrap(), 201 - left);
    assert!(left > 100);
}

#[tokio::test]
async fn up_runs_what_is_enqueued_and_drains_on_sigterm() {
    let cli = with_runs(JOB, &["a"]).await;
    let id = cli.json("enqueue old-runs --dry-run --json")["id"].as_str().unwrap().to_owned();
    assert_eq!(cli.stdout("enqueue old-runs --dry-run"), format!("old-runs: waits already as {id}\n"));
    let up = start(&cli, "up");
    let report = cli.json("enqueue old-runs --wait --json");
    assert_eq!((&report["outcome"], &report["deleted"]["runs"]), (&"done".into(), &1.into()));
    assert_eq!(report["mode"], "apply");
    let status = cli.json("status --json");
    assert_eq!((&status[0]["last_outcome"], &status[0]["dead"]), (&"done".into(), &0.into()));
    terminate(&up);
    let (code, stdout, stderr) = end(up);
    assert_eq!((code, stdout.as_str()), (0, ""), "{stderr}");
    assert_eq!(runs(&cli).await, ["fresh"]);
}

#[tokio::test]
async fn dead_requests_are_listed_retried_and_dropped() {
    let more = ["--maxmemory-policy", "allkeys-lru"].map(str::to_owned).to_vec();
    let server = RedisServer::start_with(RedisOptions { more, ..RedisOptions::default() }).await;
    let cli = with_runs(&format!("[redis]\nurl = \"{}\"\n{JOB}", server.url()), &[]).await;
    server.cli(&["XADD", "{janitor}:queue:default", "*", "job", "x\x1b[31m\ty", "mode", "delete"]).await;
    let worker = start(&cli, "worker --name w1");
    comes("a dead request", || !cli.stdout("dead ls").is_empty()).await;
    terminate(&worker);
    assert_eq!(end(worker).0, 0);
    let listed = cli.stdout("dead ls");
    let cells: Vec<_> = listed.trim_end().split('\t').collect();
    assert_eq!((cells.len(), cells[2], cells[3]), (6, "x\\x1B[31m\\x09y", "delete"), "{listed}");
    assert_eq!(cli.run("status --check").0, 1);
    assert_eq!(cli.run("dead drop 1-1").0, 1);
    assert_eq!(cli.stdout(&format!("dead retry {}", cells[0])), format!("{}: retried\n", cells[0]));
    assert_eq!(cli.stdout("dead ls"), "");
    assert_eq!(cli.run("status --check").0, 0);
    let (code, stdout, stderr) = cli.run("check");
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains("warning\tredis://") && stdout.contains("allkeys-lru"), "{stdout}");
}

#[tokio::test]
async fn a_metrics_port_that_is_taken_stops_the_worker_at_its_start() {
    let other = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let cli = Cli::with(&format!("[metrics]\nlisten = \"{}\"\n", other.address()));
    let (code, _, stderr) = cli.run("worker");
    assert_eq!(code, 1);
    assert!(stderr.contains("is taken by another program"), "{stderr}");
}

#[tokio::test]
async fn a_redis_that_is_gone_fails_and_is_named() {
    let mut server = RedisServer::start().await;
    let cli = with_runs(&format!("[redis]\nurl = \"{}\"\n{JOB}", server.url()), &["a"]).await;
    server.stop().await;
    for line in ["status", "enqueue old-runs", "history", "dead ls", "pause old-runs", "run old-runs", "check"] {
        let (code, stdout, stderr) = cli.run(line);
        assert_eq!(code, 1, "{line}: {stdout}{stderr}");
        assert!(!(stdout + &stderr).contains("panic"), "{line}");
    }
    assert_eq!(runs(&cli).await.len(), 2);
}

#[test]
fn the_demo_deletes_what_it_planned_and_leaves_nothing_behind() {
    let cli = Cli::with("");
    let demo = |line: &str| {
        let output = cli
            .command()
            .env("TMPDIR", cli.path())
            .env("DOCKER_HOST", "unix:///no/docker.sock")
            .args(line.split(' '))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let reports: Value = serde_json::from_str(&demo("demo --json")).unwrap();
    assert_eq!(reports[0]["planned"]["runs"], 1_050);
    assert_eq!(reports[1]["deleted"]["runs"], 1_050);
    assert_eq!(reports[1]["kept"]["parent_of_kept"], 1);
    assert_eq!(reports[2]["planned"]["runs"], 0);
    let counts = |report: &Value, part: &str, kind: &str| report[part][kind].as_u64().unwrap_or(0);
    for (report, planned, deleted) in [(&reports[3], 1, 0), (&reports[4], 1, 1)] {
        assert_eq!((counts(report, "planned", "blobs"), counts(report, "deleted", "blobs")), (planned, deleted));
    }
    assert_eq!((counts(&reports[4], "deleted", "refs"), counts(&reports[4], "kept", "referenced")), (1, 2));
    // A machine that stands still between the two lets the short grace pass.
    let released = counts(&reports[5], "kept", "grace") + counts(&reports[5], "planned", "blobs");
    assert_eq!((released, counts(&reports[5], "kept", "referenced")), (1, 1));
    let told = demo("demo");
    for line in [
        "$ janitor run old-runs --dry-run",
        "$ janitor run orphans --dry-run",
        "film.mp4 stays: its task finalized it",
        "draft.mp4 went: its task failed",
        "cut.mp4 stays in its grace",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert!(told.contains("left out: no container engine"), "{told}");
    assert_eq!(std::fs::read_dir(cli.path()).unwrap().count(), 1, "only janitor.toml");
}

#[tokio::test]
async fn the_demo_shows_volumes_where_an_engine_answers_and_leaves_none_behind() {
    let (cli, engine) = (Cli::with(""), Dockerd::shared().await);
    let mut command = cli.command();
    let output = command.env("TMPDIR", cli.path()).env("DOCKER_HOST", engine.url().to_string()).arg("demo").output();
    let output = output.unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    let swept = "volumes: done; planned 1 absent, 2 volumes; deleted 1 absent, 2 volumes; kept 1 open, 1 unknown;";
    assert!(told.contains(swept) && told.contains("_ann\topen\tno"), "{told}");
    assert_eq!(engine.volumes("janitor-demo-").await, Vec::<String>::new());
}
