//! Jobs of kind `volumes` from the command line, over a real engine, a real SQLite file and a real Postgres.

use std::{collections::BTreeMap, process::Command};

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    cli::Cli,
    docker::{Dockerd, Mount, State},
    postgres::Database,
    process::{Process, comes},
};

/// A platform's table.
const TABLE: &str = "CREATE TABLE threads (id TEXT PRIMARY KEY, status TEXT NOT NULL, volume_removed_at TEXT)";

/// Ends the connection of whoever changes a row.
const LOSES: &str = "
CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$;
CREATE TRIGGER loses BEFORE UPDATE ON threads FOR EACH ROW EXECUTE FUNCTION lose()";

/// A platform with its threads, whose volumes nobody else names like that.
pub struct Shop<'a> {
    pub cli: Cli,
    pub engine: &'a Dockerd,
    pub prefix: String,
}

/// The job, with more lines of its own.
fn job(engine: &Dockerd, prefix: &str, marks: &str, more: &str) -> String {
    let engine = engine.url();
    format!(
        "[jobs.volumes]\nkind = \"volumes\"\nengine = \"{engine}\"\nmarks = \"{marks}\"\n\
         table = {{ name = \"threads\", closed = \"closed\" }}\nvolume = \"{prefix}{{id}}\"\n{more}\n"
    )
}

fn prefix() -> String {
    format!("t{}_", ulid::Ulid::generate().to_string().to_lowercase())
}

impl<'a> Shop<'a> {
    pub async fn new(engine: &'a Dockerd, more: &str) -> Self {
        let prefix = prefix();
        let cli = Cli::with(&job(engine, &prefix, "sqlite:threads.db", more));
        let shop = Self { cli, engine, prefix };
        shop.sql(TABLE).await;
        shop
    }

    async fn connect(&self) -> SqliteConnection {
        let path = self.cli.path().join("threads.db");
        SqliteConnectOptions::new().filename(path).create_if_missing(true).connect().await.unwrap()
    }

    async fn sql(&self, text: &str) {
        let mut connection = self.connect().await;
        sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    pub async fn threads(&self, status: &str, ids: impl IntoIterator<Item = String>) {
        let rows: Vec<_> = ids.into_iter().map(|id| format!("('{id}', '{status}')")).collect();
        self.sql(&format!("INSERT INTO threads (id, status) VALUES {}", rows.join(", "))).await;
    }

    /// Closed threads with a volume each.
    pub async fn closed(&self, ids: impl IntoIterator<Item = String> + Clone) {
        self.threads("closed", ids.clone()).await;
        self.engine.make_all(ids.into_iter().map(|id| self.volume(&id))).await;
    }

    fn volume(&self, id: &str) -> String {
        format!("{}{id}", self.prefix)
    }

    /// The ids of the threads that are marked.
    pub async fn marked(&self) -> Vec<String> {
        let mut connection = self.connect().await;
        let rows = sqlx::query("SELECT id FROM threads WHERE volume_removed_at IS NOT NULL ORDER BY id");
        let rows = rows.fetch_all(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// The exit code and the report of a sweep.
    pub fn sweep(&self) -> (i32, Value) {
        let (code, stdout, stderr) = self.cli.run("run volumes --json");
        (code, serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}")))
    }

    /// The ids whose volumes are there.
    pub async fn left(&self) -> Vec<String> {
        let names = self.engine.volumes(&self.prefix).await;
        names.into_iter().map(|name| name[self.prefix.len()..].to_owned()).collect()
    }
}

pub fn numbers(range: std::ops::Range<u32>) -> impl Iterator<Item = String> + Clone {
    range.map(|number| format!("{number:03}"))
}

pub fn ids(range: std::ops::Range<u32>) -> Vec<String> {
    numbers(range).collect()
}

#[tokio::test]
async fn two_hundred_closed_threads_are_marked_once_and_no_restart_asks_again() {
    let engine = Dockerd::shared().await;
    let shop = Shop::new(engine, "").await;
    let mut removals = engine.removals().await;
    shop.closed(numbers(0..100)).await;
    shop.threads("closed", numbers(100..200)).await;
    shop.threads("open", ["open".to_owned()]).await;
    engine.make(&shop.volume("open"), &BTreeMap::new()).await;
    let (_, planned, _) = shop.cli.run("run volumes --dry-run --json");
    let planned: Value = serde_json::from_str(&planned).unwrap();
    assert_eq!(planned["planned"], json!({"absent": 100, "volumes": 100}));
    assert_eq!((shop.marked().await, engine.asked(&shop.prefix)), (vec![], vec![]));
    let (code, report) = shop.sweep();
    assert_eq!((code, &report["outcome"], &report["planned"]), (0, &json!("done"), &planned["planned"]), "{report}");
    assert_eq!(report["deleted"], json!({"absent": 100, "volumes": 100}));
    assert_eq!(shop.marked().await, ids(0..200));
    assert_eq!(shop.left().await, ["open"]);
    assert_eq!(removals.until_now(&shop.prefix).await.len(), 100);
    assert_eq!(engine.asked(&shop.prefix).len(), 100);
    for _ in 0..2 {
        let (code, report) = shop.sweep();
        assert_eq!((code, &report["deleted"]), (0, &json!({"absent": 0, "volumes": 0})), "{report}");
    }
    assert_eq!((engine.asked(&shop.prefix).len(), removals.until_now(&shop.prefix).await), (100, vec![]));
}

#[tokio::test]
async fn what_a_container_refers_to_is_neither_removed_nor_marked() {
    let engine = Dockerd::shared().await;
    let shop = Shop::new(engine, "").await;
    shop.closed(["created", "running", "exited", "from", "folder", "free"].map(str::to_owned)).await;
    let name = |thread: &str| shop.volume(thread);
    for (thread, state) in [("created", State::Created), ("running", State::Running), ("exited", State::Exited)] {
        engine.contain(&name(thread), Mount::Volume(&name(thread)), state).await;
    }
    let source = name("source");
    engine.contain(&source, Mount::Volume(&name("from")), State::Created).await;
    engine.contain(&name("from"), Mount::From(&source), State::Created).await;
    engine.discard(&source).await;
    engine.contain(&name("folder"), Mount::Folder(&engine.files_of(&name("folder"))), State::Created).await;
    let (code, report) = shop.sweep();
    assert_eq!((code, &report["kept"]["referenced"]), (0, &json!(5)), "{report}");
    assert_eq!((shop.left().await.len(), shop.marked().await), (5, vec!["free".to_owned()]));
    assert_eq!(engine.asked(&shop.prefix), [name("free")]);
    let listed = shop.cli.json("volumes ls --json");
    let running = listed.as_array().unwrap().iter().find(|volume| volume["thread"] == "running").unwrap();
    assert_eq!((&running["state"], &running["sweep"]), (&json!("closed"), &json!("referenced")));
    assert_eq!(running["references"][0]["state"], "running");
    let (code, stdout, stderr) = shop.cli.run("volumes remove exited");
    assert_eq!((code, stdout.as_str()), (6, ""));
    assert!(stderr.contains("exited: in use: container ") && stderr.contains(", exited)"), "{stderr}");
    for thread in ["created", "running", "exited", "from", "folder"] {
        engine.discard(&name(thread)).await;
    }
    assert_eq!(shop.sweep().1["deleted"]["volumes"], 5);
}

#[tokio::test]
async fn what_cannot_be_removed_waits_and_goes_once_it_can() {
    let engine = Dockerd::shared().await;
    let shop = Shop::new(engine, "").await;
    shop.closed(["stuck".to_owned(), "fine".to_owned()]).await;
    let file = engine.files_of(&shop.volume("stuck")).join("file");
    std::fs::write(&file, "mine").unwrap();
    let chattr = |flag: &str| assert!(Command::new("chattr").arg(flag).arg(&file).status().unwrap().success());
    chattr("+i");
    let (code, report) = shop.sweep();
    assert_eq!((code, &report["outcome"], &report["deleted"]["volumes"]), (1, &json!("failed"), &json!(1)));
    assert_eq!(report["failures"][0]["item"], shop.volume("stuck"));
    assert!(report["failures"][0]["error"].as_str().unwrap().contains("(status 500)"), "{report}");
    let (code, report) = shop.sweep();
    assert_eq!((code, &report["kept"]["waiting"]), (0, &json!(1)), "{report}");
    let known = &shop.cli.json("volumes ls --json")[0];
    assert_eq!(
        (&known["thread"], &known["attempts"], &known["sweep"]),
        (&json!("stuck"), &json!(1), &json!("waiting"))
    );
    let told = shop.cli.stdout("volumes explain stuck");
    assert!(told.contains("could not be removed 1 times in a row; the next try is from "), "{told}");
    let (code, _, stderr) = shop.cli.run("volumes remove stuck");
    assert_eq!((code, shop.cli.json("volumes ls --json")[0]["attempts"].clone()), (1, json!(2)), "{stderr}");
    assert_eq!(shop.marked().await, ["fine"]);
    chattr("-i");
    assert_eq!(shop.cli.stdout("volumes remove stuck"), "stuck: its volume is removed\n");
    assert_eq!(shop.marked().await, ["fine", "stuck"]);
}

#[tokio::test]
async fn a_database_that_goes_away_after_the_removal_is_told_of_it_by_the_next_sweep() {
    let engine = Dockerd::shared().await;
    let (database, prefix) = (Database::new(), prefix());
    let mut threads = database.connect().await;
    // Whoever writes a mark loses the connection.
    let table =
        format!("{}; INSERT INTO threads VALUES ('1', 'closed'); {LOSES}", TABLE.replace("at TEXT", "at TIMESTAMPTZ"));
    sqlx::raw_sql(AssertSqlSafe(table)).execute(&mut threads).await.unwrap();
    let cli = Cli::with(&job(engine, &prefix, &database.url(), ""));
    engine.make(&format!("{prefix}1"), &BTreeMap::new()).await;
    let (code, stdout, stderr) = cli.run("run volumes --json");
    let report: Value = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"));
    assert_eq!((code, &report["outcome"], &report["deleted"]["volumes"]), (1, &json!("failed"), &json!(1)), "{report}");
    assert_eq!(report["failures"][0]["item"], format!("{prefix}1"));
    let marked = "SELECT count(*) FROM threads WHERE volume_removed_at IS NOT NULL";
    let none: i64 = sqlx::query_scalar(marked).fetch_one(&mut threads).await.unwrap();
    assert_eq!((engine.volumes(&prefix).await, none), (vec![], 0));
    sqlx::raw_sql("DROP TRIGGER loses ON threads").execute(&mut threads).await.unwrap();
    let report: Value = serde_json::from_str(&cli.stdout("run volumes --json")).unwrap();
    assert_eq!(report["deleted"], json!({"absent": 1, "volumes": 0}));
    let one: i64 = sqlx::query_scalar(marked).fetch_one(&mut threads).await.unwrap();
    assert_eq!((engine.asked(&prefix).len(), one), (1, 1));
}

#[tokio::test]
async fn a_row_that_somebody_else_has_in_hand_is_left_for_the_next_sweep() {
    let engine = Dockerd::shared().await;
    let (database, prefix) = (Database::new(), prefix());
    let mut threads = database.connect().await;
    let table = format!("{}; INSERT INTO threads VALUES ('1', 'closed')", TABLE.replace("at TEXT", "at TIMESTAMPTZ"));
    sqlx::raw_sql(AssertSqlSafe(table)).execute(&mut threads).await.unwrap();
    let cli = Cli::with(&job(engine, &prefix, &database.url(), "engine_timeout = \"1s\""));
    engine.make(&format!("{prefix}1"), &BTreeMap::new()).await;
    // The platform is opening the thread.
    let mut opening = threads.begin().await.unwrap();
    sqlx::raw_sql("UPDATE threads SET status = 'open'").execute(&mut *opening).await.unwrap();
    let report: Value = serde_json::from_str(&cli.stdout("run volumes --json")).unwrap();
    assert_eq!((&report["kept"]["changed"], &report["deleted"]["volumes"]), (&json!(1), &json!(0)), "{report}");
    let (code, _, stderr) = cli.run("volumes remove 1");
    assert_eq!((code, stderr.as_str()), (4, "error: 1: somebody else has the thread in hand\n"));
    opening.commit().await.unwrap();
    let (code, _, stderr) = cli.run("volumes remove 1");
    assert_eq!((code, stderr.as_str()), (6, "error: 1: the thread is open: its volume stays\n"));
    assert_eq!((engine.volumes(&prefix).await.len(), engine.asked(&prefix).len()), (1, 0));
}

#[tokio::test]
async fn ids_are_exact_or_refused() {
    let engine = Dockerd::shared().await;
    let shop = Shop::new(engine, "").await;
    shop.closed(["1".to_owned()]).await;
    shop.threads("open", ["12".to_owned()]).await;
    engine.make(&shop.volume("12"), &BTreeMap::new()).await;
    for id in ["?force=1", "/", "", "1?force=1", "../1", "1/", "%31"] {
        for action in ["remove", "explain"] {
            let output = shop.cli.command().args(["volumes", action, id]).output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{action} {id:?}: {stderr}");
            assert!(stderr.starts_with(&format!("error: thread {id:?}: a")), "{stderr}");
        }
    }
    assert_eq!(shop.cli.stdout("volumes remove 1"), "1: its volume is removed\n");
    assert_eq!(shop.cli.stdout("volumes remove 1"), "1: its volume was gone before, and nothing was left to do\n");
    let (code, _, stderr) = shop.cli.run("volumes remove 12");
    assert_eq!((code, stderr.as_str()), (6, "error: 12: the thread is open: its volume stays\n"));
    let unknown = shop.cli.run("volumes remove 7 --json");
    assert_eq!(unknown.0, 6);
    let unknown: Value = serde_json::from_str(&unknown.1).unwrap();
    assert_eq!(unknown, json!({"thread": "7", "fate": "unknown", "because": "no thread has this id"}));
    assert_eq!((shop.left().await, engine.asked(&shop.prefix)), (vec!["12".to_owned()], vec![shop.volume("1")]));
}

#[tokio::test]
async fn each_state_is_listed_and_explained() {
    let engine = Dockerd::shared().await;
    let shop = Shop::new(engine, "schedule = \"every 1m\"").await;
    shop.closed(["a".to_owned()]).await;
    shop.threads("open", ["b".to_owned()]).await;
    shop.threads("closed", ["gone".to_owned()]).await;
    engine.make_all([shop.volume("b"), shop.volume("c")]).await;
    let (code, stdout, stderr) = shop.cli.run("volumes ls");
    let rows: Vec<_> = stdout.lines().map(|line| line.replace(&shop.prefix, "")).collect();
    assert_eq!(rows, ["a\ta\tclosed\tno\t-\t-\tgoes", "b\tb\topen\tno\t-\t-\topen", "c\tc\tunknown\t-\t-\t-\tunknown"]);
    assert_eq!(
        (code, stderr.as_str()),
        (0, "1 closed threads have no volume, and no mark yet: the next sweep marks them\n")
    );
    for (id, end, sentence) in [
        ("a", "goes", "a sweep removes it, if the engine agrees: the next tick of job \"volumes\" is "),
        ("b", "stays", "thread \"b\" is open: its volume stays"),
        ("c", "stays", "sweep_unknown is false: without a thread it stays"),
        ("gone", "is gone", "a sweep marks the thread, and removes nothing: the next tick of job \"volumes\" is "),
        ("nobody", "is unknown", "no thread has the id \"nobody\""),
    ] {
        let told = shop.cli.stdout(&format!("volumes explain {id}"));
        assert_eq!(told.lines().next(), Some(end), "{id}: {told}");
        assert!(told.contains(&format!("- {sentence}")), "{id}: {told}");
        assert_eq!(shop.cli.json(&format!("volumes explain {id} --json"))["end"], end);
    }
    shop.cli.stdout("pause volumes");
    let (code, _, stderr) = shop.cli.run("volumes remove a");
    assert_eq!((code, stderr.as_str()), (6, "error: a: the job is paused\n"));
    assert!(shop.cli.stdout("volumes explain a").contains("but job \"volumes\" is paused"));
}

#[tokio::test]
async fn the_table_is_changed_only_by_migrate() {
    let engine = Dockerd::shared().await;
    let shop = Shop::new(engine, "").await;
    shop.sql("DROP TABLE threads; CREATE TABLE threads (id INTEGER PRIMARY KEY, status TEXT NOT NULL)").await;
    shop.closed(["1".to_owned()]).await;
    let (code, report) = shop.sweep();
    assert_eq!(code, 1);
    assert!(report["reason"].as_str().unwrap().contains("janitor volumes migrate"), "{report}");
    let printed = shop.cli.stdout("volumes migrate --print");
    assert!(printed.contains("ALTER TABLE ") && printed.contains("volume_removed_at"), "{printed}");
    assert_eq!(shop.cli.stdout("volumes migrate --print"), printed, "nothing was executed");
    let (code, stdout, stderr) = shop.cli.run("volumes migrate");
    assert_eq!((code, stdout), (0, printed), "{stderr}");
    assert_eq!(shop.cli.run("volumes migrate"), (0, String::new(), "nothing is missing\n".to_owned()));
    assert_eq!(shop.sweep().1["deleted"]["volumes"], 1);
}

#[tokio::test]
async fn the_job_is_named_where_there_are_several() {
    let engine = Dockerd::shared().await;
    let shop = Shop::new(engine, "").await;
    let path = shop.cli.path().join("janitor.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, format!("{text}{}", text.replace("[jobs.volumes]", "[jobs.others]"))).unwrap();
    let (code, _, stderr) = shop.cli.run("volumes ls");
    assert_eq!((code, stderr.as_str()), (2, "error: which job? --job others or --job volumes\n"));
    assert_eq!(shop.cli.stdout("volumes ls --job others"), "");
    let (code, _, stderr) = shop.cli.run("volumes --job other ls");
    assert_eq!((code, stderr.as_str()), (2, "error: no job named \"other\"; did you mean \"others\"?\n"));
}

#[tokio::test]
async fn a_worker_ticks_the_job_of_its_own_host() {
    let engine = Dockerd::shared().await;
    let shop = Shop::new(engine, "schedule = \"every 1s\"").await;
    shop.closed(["1".to_owned()]).await;
    let up = Process::start(&shop.cli, "up");
    comes("a mark", async || shop.marked().await == ["1"]).await;
    up.stop().await;
    assert_eq!(shop.left().await, [""; 0]);
}
