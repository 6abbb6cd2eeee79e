//! What goes wrong with a database, and what is said of it.

use std::time::Duration;

use apalis_janitor::{
    config::{MarksUrl, SecretUrl},
    volumes::{
        Marks, MarksError,
        marks::{
            self, SqlMarks,
            conformance::{Held, Subject},
        },
    },
};

use super::{
    over_mysql, over_postgres, over_sqlite,
    owner::{Kind, Owner},
    table, told,
};
use crate::{mysql, postgres};

/// Makes a table with these closed threads.
async fn fill(owner: &Owner, ids: &[&str]) -> SqlMarks {
    let (text, at) = match owner.kind {
        Kind::Sqlite => ("TEXT", "TEXT"),
        Kind::Postgres => ("TEXT", "TIMESTAMPTZ"),
        Kind::Mysql => ("VARCHAR(9)", "DATETIME"),
    };
    owner.execute(&format!("CREATE TABLE threads (id INTEGER PRIMARY KEY, status {text}, removed_at {at})")).await;
    for id in ids {
        owner.set(&table(), id, "closed").await;
    }
    owner.marks(&table()).await
}

async fn refused(url: &MarksUrl) -> String {
    let opened = marks::open(url, &table(), Duration::from_secs(20), 1).await;
    told(&opened.expect_err("it cannot be opened"))
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_shown() {
    let (owner, database) = over_postgres();
    let url = database.url().replace("janitor:unasked", &format!("{}:hunter2", postgres::ASKED));
    let error = refused(&MarksUrl::Postgres(SecretUrl::new(&url))).await;
    assert!(error.contains("asked:***@") && error.contains("password authentication failed"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    assert!(!format!("{:?}", owner.marks(&table()).await).contains("unasked"));
    let (_, [database, _other]) = over_mysql();
    let error = refused(&MarksUrl::Mysql(SecretUrl::new(database.url_as("janitor", "hunter2")))).await;
    assert!(error.contains("janitor:***@") && error.contains("Access denied"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn what_is_not_there_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.db");
    let error = refused(&MarksUrl::Sqlite(path.clone())).await;
    assert!(error.starts_with(&format!("sqlite://{}: not connected: unavailable: ", path.display())), "{error}");
    assert!(!path.exists(), "it was made");
    for url in ["postgresql://a:hunter2@127.0.0.1:1/x", "postgresql://a:hunter2@127.0.0.1:none/x"] {
        let error = refused(&MarksUrl::Postgres(SecretUrl::new(url))).await;
        assert!(error.contains("not connected: unavailable") && !error.contains("hunter2"), "{error}");
    }
    let error = refused(&MarksUrl::Mysql(SecretUrl::new("mysql://a:hunter2@127.0.0.1:1/x"))).await;
    assert!(error.contains("not connected: unavailable") && !error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn who_may_only_read_is_told_before_anything_goes() {
    let (owner, database) = over_postgres();
    fill(&owner, &["1"]).await;
    // The role is the whole server's.
    let role = format!("reader_of_{}", database.url().rsplit('/').next().unwrap());
    owner.execute(&format!("CREATE ROLE {role} LOGIN; GRANT SELECT ON threads TO {role}")).await;
    let reader = Owner::postgres(database.url().replace("janitor:unasked", &role));
    denied(&owner, &reader).await;
    owner.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;

    let (owner, [database, _other]) = over_mysql();
    fill(&owner, &["1"]).await;
    let user = format!("r_{}", database.name);
    database.admin(&format!(
        "CREATE USER {user}@'127.0.0.1'; GRANT SELECT ON {}.threads TO {user}@'127.0.0.1'",
        database.name
    ));
    let reader = Owner::mysql(database.url_as(&user, ""), String::new());
    denied(&owner, &reader).await;
    database.admin(&format!("DROP USER {user}@'127.0.0.1'"));
}

async fn denied(owner: &Owner, reader: &Owner) {
    let marks = reader.marks(&table()).await;
    assert_eq!(marks.unmarked(None, 9).await.unwrap(), ["1"]);
    for error in [marks.prepare().await.unwrap_err(), marks.mark(&["1".to_owned()]).await.unwrap_err()] {
        assert!(matches!(error, MarksError::Failed { .. }) && told(&error).contains("denied"), "{}", told(&error));
    }
    assert_eq!(owner.stored_mark(&table(), "1").await, None);
}

#[tokio::test]
async fn a_server_that_is_gone_is_unavailable_and_serves_when_it_is_back() {
    let mut server = mysql::Server::start();
    let database = server.database();
    let mut owner = Owner::mysql(database.url(), String::new());
    owner.limits.statement = Duration::from_secs(5);
    let marks = fill(&owner, &["1", "2"]).await;
    let hold = Held::hold(&marks, "1").await.unwrap().unwrap();
    server.kill();
    for error in [hold.mark().await.unwrap_err(), Held::hold(&marks, "2").await.map(|hold| hold.is_some()).unwrap_err()]
    {
        assert!(matches!(error, MarksError::Unavailable { .. }), "{}", told(&error));
    }
    server.start_again();
    assert_eq!(marks.unmarked(None, 9).await.unwrap(), ["1", "2"]);
    assert!(Held::hold(&marks, "1").await.unwrap().unwrap().mark().await.unwrap());
}

#[tokio::test]
async fn a_session_that_was_ended_costs_its_hold_and_nothing_more() {
    let (owner, _database) = over_postgres();
    let marks = fill(&owner, &["1"]).await;
    let hold = Held::hold(&marks, "1").await.unwrap().unwrap();
    let end = "SELECT CAST(bool_and(pg_terminate_backend(pid, 20000)) AS TEXT) FROM pg_stat_activity \
               WHERE datname = current_database() AND application_name = 'apalis-janitor'";
    assert_eq!(owner.ask(end).await.as_deref(), Some("true"));
    let error = hold.mark().await.unwrap_err();
    assert!(matches!(error, MarksError::Unavailable { .. }), "{}", told(&error));
    assert_eq!(owner.stored_mark(&table(), "1").await, None);
    assert!(Held::hold(&marks, "1").await.unwrap().unwrap().mark().await.unwrap());
}

/// The owner gets its row back from a process that was stopped in its tracks.
#[tokio::test]
async fn a_hold_that_stands_too_long_is_ended_by_the_server() {
    let (postgres, _database) = over_postgres();
    let (mysql, _databases) = over_mysql();
    for mut owner in [postgres, mysql] {
        owner.limits.hold = Duration::from_secs(1);
        let marks = fill(&owner, &["1"]).await;
        let hold = Held::hold(&marks, "1").await.unwrap().unwrap();
        owner.set(&table(), "1", "open").await;
        let error = hold.mark().await.unwrap_err();
        assert!(matches!(error, MarksError::Unavailable { .. }), "{}", told(&error));
        assert_eq!(owner.stored_mark(&table(), "1").await, None);
    }
}

#[tokio::test]
async fn who_refers_to_a_held_thread_does_not_wait() {
    let (owner, _database) = over_postgres();
    let marks = fill(&owner, &["1"]).await;
    owner.execute("CREATE TABLE messages (thread INT REFERENCES threads (id))").await;
    let hold = Held::hold(&marks, "1").await.unwrap().unwrap();
    owner.execute("SET lock_timeout = '1s'; INSERT INTO messages VALUES (1)").await;
    assert!(hold.mark().await.unwrap());
}

#[tokio::test]
async fn two_threads_are_held_at_once_where_the_database_holds_rows() {
    let (postgres, _database) = over_postgres();
    let (mysql, _databases) = over_mysql();
    for owner in [postgres, mysql] {
        let marks = fill(&owner, &["1", "2", "3"]).await;
        let (one, two) =
            (Held::hold(&marks, "1").await.unwrap().unwrap(), Held::hold(&marks, "2").await.unwrap().unwrap());
        // The table can be read meanwhile.
        assert_eq!(marks.unmarked(None, 9).await.unwrap().len(), 3);
        assert!(one.mark().await.unwrap() && two.mark().await.unwrap());
    }
}

#[tokio::test]
async fn one_row_that_is_in_use_does_not_keep_others_from_their_marks() {
    let (postgres, _database) = over_postgres();
    let (mysql, _databases) = over_mysql();
    for owner in [postgres, mysql] {
        let marks = fill(&owner, &["1", "2", "3"]).await;
        let mut other = owner.connect().await;
        for text in ["BEGIN", "UPDATE threads SET status = 'open' WHERE id = 2"] {
            sqlx::raw_sql(text).execute(&mut other).await.unwrap();
        }
        assert_eq!(marks.mark(&["1", "2", "3"].map(str::to_owned)).await.unwrap(), 2);
        sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
        assert_eq!(owner.stored_mark(&table(), "2").await, None);
        assert!(owner.stored_mark(&table(), "3").await.is_some());
    }
}

#[tokio::test]
async fn a_busy_file_is_held_by_nobody() {
    let (owner, _folder) = over_sqlite();
    let marks = fill(&owner, &["1"]).await;
    let mut other = owner.connect().await;
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    assert!(Held::hold(&marks, "1").await.unwrap().is_none());
    let error = marks.mark(&["1".to_owned()]).await.unwrap_err();
    assert!(matches!(error, MarksError::Failed { .. }), "{}", told(&error));
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    assert!(Held::hold(&marks, "1").await.unwrap().unwrap().mark().await.unwrap());
}

#[tokio::test]
async fn holds_of_a_file_follow_each_other() {
    let (owner, _folder) = over_sqlite();
    let marks = fill(&owner, &["1", "2"]).await;
    let (one, other) = (Held::hold(&marks, "1").await.unwrap().unwrap(), marks.clone());
    let next = tokio::spawn(async move { Held::hold(&other, "2").await.unwrap().unwrap().mark().await.unwrap() });
    assert_eq!(marks.unmarked(None, 9).await.unwrap(), ["1", "2"]);
    assert!(one.mark().await.unwrap());
    assert!(next.await.unwrap());
    assert_eq!(marks.unmarked(None, 9).await.unwrap(), [""; 0]);
}
