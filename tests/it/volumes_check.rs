//! What `janitor check` says of a job that removes volumes.

use std::collections::BTreeMap;

use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    cli::Cli,
    docker::{Dockerd, Mount, State},
};

/// A job whose table is in `app.db` beside the file.
fn cli(engine: &str, more: &str) -> Cli {
    Cli::with(&format!(
        "[jobs.v]\nkind = \"volumes\"\nengine = \"{engine}\"\nmarks = \"sqlite:app.db\"\nvolume = \"check_ws_{{id}}\"\n\
         {more}table = {{ name = \"threads\", closed = \"closed\", removed_at = \"gone_at\" }}\n"
    ))
}

async fn database(cli: &Cli, statements: &'static str) {
    let options = SqliteConnectOptions::new().filename(cli.path().join("app.db")).create_if_missing(true);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(statements).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn what_a_table_wants_is_a_warning_and_a_dead_engine_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let socket = format!("unix://{}", folder.path().join("none.sock").display());
    let cli = cli(&socket, "");
    database(&cli, "CREATE TABLE threads (id INTEGER PRIMARY KEY, status TEXT)").await;
    let (code, stdout, stderr) = cli.run("check");
    assert_eq!(code, 1, "{stdout}{stderr}");
    let wants = "warning\tjob v\tthe table wants (janitor volumes migrate does it): ";
    assert!(stdout.contains(&format!("{wants}ALTER TABLE \"threads\" ADD COLUMN \"gone_at\" TEXT NULL\n")), "{stdout}");
    assert!(stdout.contains(&format!("{wants}CREATE INDEX ")), "{stdout}");
    assert!(stdout.contains(&format!("error\tjob v\t{socket}: ")), "{stdout}");
    database(&cli, "DROP TABLE threads").await;
    let (code, stdout, _) = cli.run("check");
    assert!(code == 1 && stdout.contains("there is no table \"threads\""), "{stdout}");
}

#[tokio::test]
async fn threads_and_volumes_are_counted() {
    let server = Dockerd::shared().await;
    let labelled = BTreeMap::from([("app".to_owned(), "x".to_owned())]);
    server.make("check_ws_1", &labelled).await;
    server.make_all(["check_ws_2", "check_ws_3", "check_other"].map(str::to_owned)).await;
    server.contain("check_user", Mount::Volume("check_ws_3"), State::Created).await;
    let cli = cli(&server.url().to_string(), "require_label = \"app=x\"\n");
    database(
        &cli,
        "CREATE TABLE threads (id INTEGER PRIMARY KEY, status TEXT, gone_at TEXT);
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500)
        INSERT INTO threads SELECT i, CASE WHEN i > 2005 THEN 'open' ELSE 'closed' END,
            CASE WHEN i <= 3 THEN '2026-01-01 00:00:00' END FROM n;
        CREATE INDEX mine ON threads (status, gone_at, id)",
    )
    .await;
    let (code, stdout, stderr) = cli.run("check");
    assert_eq!(code, 0, "{stdout}{stderr}");
    let line = |part: &str| stdout.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{stdout}"));
    assert!(line("not marked").starts_with("ok\tjob v\tsqlite://"), "{stdout}");
    assert!(line("not marked").ends_with("app.db: 2002 closed threads are not marked yet"), "{stdout}");
    assert!(
        line("check_ws_{id}").ends_with("3 of them named check_ws_{id}, 1 of those in use by a container"),
        "{stdout}"
    );
    assert!(line("app=x").starts_with("warning\tjob v\t2 volumes lack the label app=x"), "{stdout}");
    assert!(!stdout.contains("the table wants"), "{stdout}");
}
