//! Two sweeps and a coordinator over one real engine and one real Postgres.

use apalis_janitor::{Janitor, config::Config, jobs::volumes::Fate};
use futures::{StreamExt, stream};
use serde_json::Value;
use sqlx::AssertSqlSafe;

use crate::{cli::Cli, docker::Dockerd, postgres::Database, process::Process};

const THREADS: usize = 1_000;
/// How many of them the coordinator asks for, from the other end; each time the engine lists all that it has.
const BY_HAND: usize = 300;
/// How many at once.
const AT_ONCE: usize = 4;

/// A platform's table, which writes down each mark.
const TABLE: &str = "
CREATE TABLE threads (id BIGINT PRIMARY KEY, status TEXT NOT NULL, volume_removed_at TIMESTAMPTZ);
CREATE TABLE written (id BIGINT NOT NULL);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO written VALUES (NEW.id); RETURN NEW; END $$;
CREATE TRIGGER note AFTER UPDATE ON threads FOR EACH ROW EXECUTE FUNCTION note();";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_volume_is_removed_once_and_each_mark_written_once() {
    let engine = Dockerd::shared().await;
    let database = Database::new();
    let mut threads = database.connect().await;
    let prefix = format!("r{}_", ulid::Ulid::generate().to_string().to_lowercase());
    let fill = format!("{TABLE} INSERT INTO threads SELECT n, 'closed' FROM generate_series(1, {THREADS}) AS n");
    sqlx::raw_sql(AssertSqlSafe(fill)).execute(&mut threads).await.unwrap();
    let mut names: Vec<_> = (1..=THREADS).map(|id| format!("{prefix}{id}")).collect();
    engine.make_all(names.clone()).await;
    let mut removals = engine.removals().await;
    let config = format!(
        "[jobs.volumes]\nkind = \"volumes\"\nengine = \"{}\"\nmarks = \"{}\"\nvolume = \"{prefix}{{id}}\"\n\
         table = {{ name = \"threads\", closed = \"closed\" }}\nlimit = {THREADS}\n",
        engine.url(),
        database.url()
    );
    // Two that know nothing of each other's lock.
    let (one, other) = (Cli::with(&config), Cli::with(&config));
    let sweeps = [&one, &other].map(|cli| Process::start(cli, "run volumes --json"));
    let third = Cli::with(&config);
    let janitor = Janitor::connect(Config::load(third.path().join("janitor.toml")).unwrap()).await.unwrap();
    let fates: Vec<Fate> = stream::iter((1..=THREADS).rev().take(BY_HAND))
        .map(|id| {
            let janitor = janitor.clone();
            async move { janitor.remove_volume("volumes", &id.to_string()).await.unwrap() }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let gone = |fate: &Fate| matches!(fate, Fate::Removed | Fate::Absent | Fate::Settled);
    assert!(fates.iter().all(gone), "{fates:?}");
    let mut removed = fates.iter().filter(|fate| **fate == Fate::Removed).count() as u64;
    for sweep in sweeps {
        let end = sweep.end().await;
        let report: Value = serde_json::from_str(&end.stdout).unwrap();
        assert_eq!(end.code, Some(0), "{report}");
        removed += report["deleted"]["volumes"].as_u64().unwrap();
    }
    let mut told = removals.until_now(&prefix).await;
    told.sort_unstable();
    names.sort_unstable();
    assert!(told == names, "{} removals of {THREADS} volumes", told.len());
    assert_eq!(removed, THREADS as u64);
    let (marks, marked): (i64, i64) =
        sqlx::query_as("SELECT count(*), count(DISTINCT id) FROM written").fetch_one(&mut threads).await.unwrap();
    assert_eq!((marks, marked), (1_000, 1_000));
}
