//! Types of columns, indexes, and what the clock writes.

use apalis_janitor::volumes::{
    Marks, MarksError, Thread,
    marks::{SqlMarks, conformance::Held},
};

use super::{
    over_mysql, over_postgres, over_sqlite,
    owner::{Kind, Owner},
    table, told,
};

/// Makes a table with a closed thread, and marks it.
async fn mark(owner: &Owner, create: &str, id: &str) -> SqlMarks {
    owner.execute(create).await;
    owner.execute(&format!("INSERT INTO threads (id, status) VALUES ('{id}', 'closed')")).await;
    let marks = owner.marks(&table()).await;
    marks.prepare().await.unwrap_or_else(|error| panic!("{create}: {}", told(&error)));
    let id = id.to_owned();
    assert_eq!(marks.unmarked(None, 9).await.unwrap(), [id.as_str()], "{create}");
    assert_eq!(marks.mark(std::slice::from_ref(&id)).await.unwrap(), 1, "{create}");
    assert_eq!(marks.unmarked(Some(&id), 9).await.unwrap(), [""; 0], "{create}");
    let threads = marks.threads(std::slice::from_ref(&id)).await.unwrap();
    assert_eq!(threads[&id], Thread { is_closed: true, is_marked: true }, "{create}");
    let is_now = match owner.kind {
        Kind::Sqlite => {
            "SELECT CAST(removed_at LIKE '____-__-__ __:__:__' AND abs(julianday(removed_at) - julianday('now')) < 0.001 AS TEXT) FROM threads"
        }
        Kind::Postgres => {
            "SELECT CAST(CAST(abs(extract(epoch FROM removed_at - \
                CASE WHEN pg_typeof(removed_at) = 'timestamp'::regtype THEN now() AT TIME ZONE 'UTC' ELSE now() END)) < 60 AS INT) AS TEXT) \
             FROM threads"
        }
        Kind::Mysql => "SELECT CAST(ABS(TIMESTAMPDIFF(SECOND, removed_at, UTC_TIMESTAMP())) < 60 AS CHAR) FROM threads",
    };
    assert_eq!(owner.ask(is_now).await.as_deref(), Some("1"), "{create}");
    assert!(Held::hold(&marks, &id).await.unwrap().is_some(), "{create}");
    marks
}

#[tokio::test]
async fn sqlite_has_types_by_their_affinity() {
    for (id, value, removed_at) in [
        ("INTEGER PRIMARY KEY", "-7", "TEXT"),
        ("BIGINT UNIQUE", "9223372036854775807", "DATETIME"),
        ("VARCHAR(36) PRIMARY KEY", "0f8fad5b-d9cb-469f-a165-70867728950e", "TIMESTAMP"),
        ("TEXT NOT NULL UNIQUE", "7", "DATETIME DEFAULT NULL"),
    ] {
        let (owner, _folder) = over_sqlite();
        mark(&owner, &format!("CREATE TABLE threads (id {id}, status TEXT, removed_at {removed_at})"), value).await;
    }
}

#[tokio::test]
async fn sqlite_rows_of_another_type_than_their_column_are_no_threads() {
    let (owner, _folder) = over_sqlite();
    owner.execute("CREATE TABLE threads (id BIGINT UNIQUE, status TEXT, removed_at TEXT)").await;
    owner.execute("INSERT INTO threads VALUES ('abc', 'closed', NULL), (NULL, 'closed', NULL), (1.5, 'closed', NULL), (2, 'closed', NULL)").await;
    let marks = owner.marks(&table()).await;
    assert_eq!(marks.unmarked(None, 9).await.unwrap(), ["2"]);
    let asked = ["abc", "1.5", "1", "2"].map(str::to_owned);
    assert_eq!(marks.threads(&asked).await.unwrap().into_keys().collect::<Vec<_>>(), ["2"]);
}

#[tokio::test]
async fn postgres_has_enumerations_domains_and_clocks() {
    for (id, value, status, removed_at) in [
        ("SMALLINT", "-7", "VARCHAR(9)", "TIMESTAMP"),
        ("INTEGER", "2147483647", "status", "TIMESTAMPTZ"),
        ("BIGSERIAL", "7", "word", "TIMESTAMPTZ(0)"),
        ("CHAR(40)", "0f8fad5b-d9cb-469f-a165-70867728950e", "CHAR(9)", "TIMESTAMP(3)"),
        ("UUID", "0f8fad5b-d9cb-469f-a165-70867728950e", "TEXT", "TIMESTAMPTZ"),
        ("word", "a b", "TEXT", "TIMESTAMPTZ"),
    ] {
        let (owner, _database) = over_postgres();
        owner.execute("CREATE TYPE status AS ENUM ('open', 'closed'); CREATE DOMAIN word AS TEXT").await;
        let create = format!("CREATE TABLE threads (id {id} PRIMARY KEY, status {status}, removed_at {removed_at})");
        let marks = mark(&owner, &create, value).await;
        assert_eq!(marks.migrate().await.unwrap().len(), 1, "{create}");
        assert_eq!(marks.missing().await.unwrap(), [""; 0], "{create}");
    }
}

#[tokio::test]
async fn a_table_in_parts_is_one_table() {
    let (owner, _database) = over_postgres();
    let create = "CREATE TABLE threads (id BIGINT PRIMARY KEY, status TEXT, removed_at TIMESTAMPTZ) PARTITION BY HASH (id); \
                  CREATE TABLE one PARTITION OF threads FOR VALUES WITH (MODULUS 2, REMAINDER 0); \
                  CREATE TABLE two PARTITION OF threads FOR VALUES WITH (MODULUS 2, REMAINDER 1)";
    let marks = mark(&owner, create, "7").await;
    assert_eq!(marks.migrate().await.unwrap().len(), 1);
    assert_eq!(marks.missing().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn mariadb_has_enumerations_unsigned_numbers_and_clocks() {
    for (id, value, status, removed_at) in [
        ("TINYINT", "-7", "ENUM('open', 'closed')", "TIMESTAMP NULL"),
        ("BIGINT UNSIGNED", "18446744073709551615", "VARCHAR(9)", "DATETIME"),
        ("CHAR(36)", "0f8fad5b-d9cb-469f-a165-70867728950e", "TEXT", "DATETIME(6)"),
        ("UUID", "0f8fad5b-d9cb-469f-a165-70867728950e", "CHAR(9)", "TIMESTAMP(6) NULL"),
        ("VARCHAR(40) CHARACTER SET latin1", "a b", "VARCHAR(9) CHARACTER SET latin1", "DATETIME(3)"),
    ] {
        let (owner, _databases) = over_mysql();
        let create = format!("CREATE TABLE threads (id {id} PRIMARY KEY, status {status}, removed_at {removed_at})");
        let marks = mark(&owner, &create, value).await;
        assert_eq!(marks.migrate().await.unwrap().len(), 1, "{create}");
        assert_eq!(marks.missing().await.unwrap(), [""; 0], "{create}");
    }
}

/// What is said of a table.
async fn unfit(owner: &Owner, create: &str) -> String {
    owner.execute(create).await;
    match owner.marks(&table()).await.prepare().await {
        Err(MarksError::Unfit { marks, rule }) => {
            assert_eq!(marks, owner.url.to_string());
            rule
        }
        other => panic!("{create}: {other:?}"),
    }
}

#[tokio::test]
async fn a_table_that_cannot_be_used_is_told_why() {
    let (postgres, _database) = over_postgres();
    let (mysql, _databases) = over_mysql();
    let (sqlite, _folder) = over_sqlite();
    for (owner, none) in [(&sqlite, "SELECT 1"), (&postgres, "SELECT 1"), (&mysql, "DO 1")] {
        assert_eq!(unfit(owner, none).await, "there is no table \"threads\", or the user may not see it");
    }
    for (owner, columns, rule) in [
        (&sqlite, "id INTEGER PRIMARY KEY, removed_at TEXT", "table \"threads\" has no column \"status\""),
        (
            &sqlite,
            "id UUID PRIMARY KEY, status TEXT, removed_at TEXT",
            "column \"id\" is of type UUID: ids must be whole numbers, texts or UUIDs",
        ),
        (
            &sqlite,
            "id TEXT, status TEXT, removed_at TEXT",
            "column \"id\" must be unique: make it the primary key, or give it a unique index",
        ),
        (
            &sqlite,
            "id INTEGER PRIMARY KEY, status TEXT, removed_at INTEGER",
            "column \"removed_at\" is of type INTEGER: must be TEXT, DATETIME or TIMESTAMP",
        ),
        (
            &postgres,
            "id NUMERIC(9) PRIMARY KEY, status TEXT, removed_at TIMESTAMPTZ",
            "column \"id\" is of type numeric(9,0): ids must be whole numbers, texts or UUIDs",
        ),
        (
            &postgres,
            "id INT, tenant INT, status TEXT, removed_at TIMESTAMPTZ, PRIMARY KEY (id, tenant)",
            "column \"id\" must be unique: make it the primary key, or give it a unique index",
        ),
        (
            &postgres,
            "id INT PRIMARY KEY, status BOOLEAN, removed_at TIMESTAMPTZ",
            "column \"status\" is of type boolean: must be a text or an enumeration",
        ),
        (
            &postgres,
            "id INT PRIMARY KEY, status TEXT, removed_at TIMESTAMPTZ NOT NULL",
            "column \"removed_at\" must allow NULL: a thread without a mark has it",
        ),
        (
            &mysql,
            "id BINARY(16) PRIMARY KEY, status CHAR(9), removed_at DATETIME",
            "column \"id\" is of type binary(16): ids must be whole numbers, texts or UUIDs",
        ),
        (
            &mysql,
            "id INT PRIMARY KEY, status ENUM('open', 'shut'), removed_at DATETIME",
            "column \"status\" is never \"closed\": it may be open, shut",
        ),
        (
            &mysql,
            "id INT PRIMARY KEY, status CHAR(9), removed_at DATE",
            "column \"removed_at\" is of type date: must be datetime or timestamp",
        ),
    ] {
        assert_eq!(unfit(owner, &format!("CREATE TABLE threads ({columns})")).await, rule);
        owner.execute("DROP TABLE threads").await;
    }
    let engine = "CREATE TABLE threads (id INT PRIMARY KEY, status CHAR(9), removed_at DATETIME) ENGINE = MyISAM";
    assert!(unfit(&mysql, engine).await.contains("is of engine MyISAM"));
    let view = "CREATE TABLE t (id INT PRIMARY KEY, status TEXT, removed_at TIMESTAMPTZ); CREATE VIEW threads AS SELECT * FROM t";
    assert!(unfit(&postgres, view).await.contains("is no table"));
}

#[tokio::test]
async fn pages_are_read_from_the_index_that_was_proposed() {
    let (sqlite, _folder) = over_sqlite();
    let (postgres, _database) = over_postgres();
    let (mysql, _databases) = over_mysql();
    let numbers = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)";
    for (owner, columns, fill, analyze) in [
        (
            &sqlite,
            "id INTEGER PRIMARY KEY, status TEXT, removed_at TEXT",
            format!("{numbers} INSERT INTO threads SELECT i, 'closed', '2026-01-01' FROM n"),
            "ANALYZE",
        ),
        (
            &postgres,
            "id INTEGER PRIMARY KEY, status TEXT, removed_at TIMESTAMPTZ",
            "INSERT INTO threads SELECT i, 'closed', now() FROM generate_series(1, 3000) AS i".to_owned(),
            "VACUUM ANALYZE threads",
        ),
        (
            &mysql,
            "id INTEGER PRIMARY KEY, status VARCHAR(9), removed_at DATETIME",
            format!("INSERT INTO threads {numbers} SELECT i, 'closed', NOW() FROM n"),
            "ANALYZE TABLE threads",
        ),
    ] {
        owner.execute(&format!("CREATE TABLE threads ({columns})")).await;
        if owner.kind == Kind::Mysql {
            owner.execute(&format!("SET SESSION max_recursive_iterations = 9999; {fill}")).await;
        } else {
            owner.execute(&fill).await;
        }
        let marks = owner.marks(&table()).await;
        // As a person does it who pastes them.
        let missing = marks.missing().await.unwrap();
        assert_eq!(missing.len(), 1, "{missing:?}");
        owner.execute(&missing[0]).await;
        owner.execute(analyze).await;
        assert_eq!(marks.missing().await.unwrap(), [""; 0]);
        let plan = marks.plan().await.unwrap().join("\n");
        assert!(plan.contains("janitor_threads_"), "{plan}");
    }
}

#[tokio::test]
async fn an_index_of_the_owners_own_that_does_as_well_is_enough() {
    let (sqlite, _folder) = over_sqlite();
    let (postgres, _database) = over_postgres();
    let (mysql, _databases) = over_mysql();
    for (owner, columns, index) in [
        (
            &sqlite,
            "id INTEGER PRIMARY KEY, status TEXT, removed_at TEXT",
            "mine ON threads (id) WHERE removed_at is null and status='closed'",
        ),
        (
            &postgres,
            "id INTEGER PRIMARY KEY, status VARCHAR(9), removed_at TIMESTAMPTZ",
            "mine ON threads (id) WHERE removed_at IS NULL AND status = 'closed'",
        ),
        (
            &postgres,
            "id INTEGER PRIMARY KEY, status TEXT, removed_at TIMESTAMPTZ",
            "mine ON threads (status, removed_at, id, (id + 1))",
        ),
        (
            &mysql,
            "id INTEGER PRIMARY KEY, status VARCHAR(9), removed_at DATETIME",
            "mine ON threads (status, removed_at, id)",
        ),
    ] {
        owner.execute(&format!("CREATE TABLE threads ({columns})")).await;
        let marks = owner.marks(&table()).await;
        assert_eq!(marks.missing().await.unwrap().len(), 1);
        owner.execute(&format!("CREATE INDEX {index}")).await;
        assert_eq!(marks.missing().await.unwrap(), [""; 0], "{index}");
        owner.execute("DROP TABLE threads").await;
    }
}

#[tokio::test]
async fn an_index_that_was_not_built_to_its_end_is_built_again() {
    let (owner, _database) = over_postgres();
    owner.execute("CREATE TABLE threads (id INT PRIMARY KEY, status TEXT, removed_at TIMESTAMPTZ)").await;
    let marks = owner.marks(&table()).await;
    let create = marks.migrate().await.unwrap();
    // As a server leaves it that was killed.
    owner.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid::regclass::text LIKE 'janitor%'").await;
    let again = marks.migrate().await.unwrap();
    assert!(again.len() == 2 && again[0].starts_with("DROP INDEX CONCURRENTLY") && again[1] == create[0], "{again:?}");
    assert_eq!(marks.missing().await.unwrap(), [""; 0]);
}
