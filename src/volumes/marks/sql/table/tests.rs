use super::*;

fn table() -> ThreadsTable {
    ThreadsTable { removed_at: "removed_at".to_owned(), ..ThreadsTable::new(vec!["threads".to_owned()], "closed") }
}

fn column(name: &str, kind: &str) -> Column {
    Column { name: name.to_owned(), kind: kind.to_owned(), shown: kind.to_owned(), is_nullable: true, words: None }
}

fn found(id: &str, status: &str, removed_at: &str) -> Found {
    let columns = vec![column("id", id), column("status", status), column("removed_at", removed_at)];
    let key = Index { columns: vec![Some("id".to_owned())], is_unique: true, is_valid: true, ..Index::default() };
    Found { columns, indexes: vec![key], ..Found::default() }
}

#[test]
fn only_what_the_database_would_write_is_an_id_of_it() {
    for (kind, own) in [
        (IdKind::Signed, &["0", "7", "-7", "9223372036854775807", "-9223372036854775808"][..]),
        (IdKind::Unsigned, &["0", "7", "18446744073709551615"]),
        (IdKind::Uuid, &["0f8fad5b-d9cb-469f-a165-70867728950e"]),
        (IdKind::Text, &["a", "007", " 7", "\u{e4}"]),
    ] {
        assert!(own.iter().all(|id| kind.is_own(id)), "{kind:?}");
    }
    for (kind, foreign) in [
        (IdKind::Signed, &["", "abc", "007", "+7", " 7", "7 ", "-0", "7.0", "1e3", "9223372036854775808"][..]),
        (IdKind::Unsigned, &["-7", "18446744073709551616", "00"]),
        (
            IdKind::Uuid,
            &[
                "0F8FAD5B-D9CB-469F-A165-70867728950E",
                "0f8fad5bd9cb469fa16570867728950e",
                "0f8fad5b-d9cb-469f-a165-70867728950",
                "{0f8fad5b-d9cb-469f-a165-70867728950}",
                "0f8fad5b-d9cb-469f-a165-7086772895-e",
            ],
        ),
        (IdKind::Text, &["a\0b"]),
    ] {
        assert!(!foreign.iter().any(|id| kind.is_own(id)), "{kind:?}");
    }
}

#[test]
fn each_database_has_its_types() {
    use Dialect::{Mysql, Postgres, Sqlite};
    for (dialect, id, status, removed_at, expected) in [
        (Sqlite, "integer", "text", "text", IdKind::Signed),
        (Sqlite, "bigint", "varchar(9)", "datetime", IdKind::Signed),
        (Sqlite, "varchar(36)", "text", "timestamp", IdKind::Text),
        (Postgres, "int2", "text", "timestamptz", IdKind::Signed),
        (Postgres, "int8", "bpchar", "timestamp", IdKind::Signed),
        (Postgres, "uuid", "varchar", "timestamptz", IdKind::Uuid),
        (Postgres, "bpchar", "varchar", "timestamptz", IdKind::Padded),
        (Mysql, "int", "char", "datetime", IdKind::Signed),
        (Mysql, "varchar", "text", "timestamp", IdKind::Text),
    ] {
        let fit = found(id, status, removed_at).fit(dialect, &table()).unwrap();
        assert_eq!(fit.id, expected, "{dialect:?} {id}");
        assert!(fit.removed_at.is_some());
    }
    let mut unsigned = found("bigint", "varchar", "datetime");
    unsigned.columns[0].shown = "bigint(20) unsigned".to_owned();
    assert_eq!(unsigned.fit(Mysql, &table()).unwrap().id, IdKind::Unsigned);
}

#[test]
fn what_is_unfit_is_named() {
    use Dialect::{Mysql, Postgres, Sqlite};
    let ids = "ids must be whole numbers, texts or UUIDs";
    for (dialect, id, status, removed_at, rule) in [
        (Sqlite, "uuid", "text", "text", format!("column \"id\" is of type uuid: {ids}")),
        (Postgres, "numeric", "text", "timestamptz", format!("column \"id\" is of type numeric: {ids}")),
        (Mysql, "binary", "varchar", "datetime", format!("column \"id\" is of type binary: {ids}")),
        (
            Postgres,
            "int8",
            "bool",
            "timestamptz",
            "column \"status\" is of type bool: must be a text or an enumeration".to_owned(),
        ),
        (
            Sqlite,
            "int",
            "text",
            "integer",
            "column \"removed_at\" is of type integer: must be TEXT, DATETIME or TIMESTAMP".to_owned(),
        ),
        (
            Sqlite,
            "int",
            "text",
            "date",
            "column \"removed_at\" is of type date: must be TEXT, DATETIME or TIMESTAMP".to_owned(),
        ),
        (
            Postgres,
            "int8",
            "text",
            "date",
            "column \"removed_at\" is of type date: must be timestamptz or timestamp".to_owned(),
        ),
        (
            Mysql,
            "int",
            "text",
            "bigint",
            "column \"removed_at\" is of type bigint: must be datetime or timestamp".to_owned(),
        ),
    ] {
        assert_eq!(found(id, status, removed_at).fit(dialect, &table()).unwrap_err(), rule);
    }
    let mut zeros = found("int", "text", "datetime");
    zeros.columns[0].shown = "int(4) unsigned zerofill".to_owned();
    assert_eq!(
        zeros.fit(Mysql, &table()).unwrap_err(),
        format!("column \"id\" is of type int(4) unsigned zerofill: {ids}")
    );
    let mut full = found("int8", "text", "timestamptz");
    full.columns[2].is_nullable = false;
    assert!(full.fit(Postgres, &table()).unwrap_err().starts_with("column \"removed_at\" must allow NULL"));
    full.indexes.clear();
    assert!(full.fit(Postgres, &table()).unwrap_err().starts_with("column \"id\" must be unique"));
    full.columns.remove(1);
    assert_eq!(full.fit(Postgres, &table()).unwrap_err(), "table \"threads\" has no column \"status\"");
    let none = Found::default().fit(Postgres, &table()).unwrap_err();
    assert_eq!(none, "there is no table \"threads\", or the user may not see it");
}

#[test]
fn an_enumeration_must_have_the_word() {
    let mut found = found("int8", "state", "timestamptz");
    found.columns[1].words = Some(vec!["open".to_owned(), "shut".to_owned()]);
    let rule = found.fit(Dialect::Postgres, &table()).unwrap_err();
    assert_eq!(rule, "column \"status\" is never \"closed\": it may be open, shut");
    found.columns[1].words = Some(vec!["open".to_owned(), "closed".to_owned()]);
    assert!(found.fit(Dialect::Postgres, &table()).is_ok());
}

#[test]
fn an_index_that_does_as_well_is_recognised() {
    let index = |columns: &[&str], condition: Option<&str>| Found {
        indexes: vec![Index {
            columns: columns.iter().map(|name| Some((*name).to_owned())).collect(),
            is_valid: true,
            condition: condition.map(str::to_owned),
            ..Index::default()
        }],
        ..Found::default()
    };
    let own = "((status = 'closed'::text) AND (removed_at IS NULL))";
    for (columns, condition, is_one) in [
        (&["id"][..], Some(own), true),
        (&["id", "status"], Some("\"status\" = 'closed' and \"removed_at\" is null"), true),
        (&["status", "removed_at", "id"], None, true),
        (&["status", "removed_at"], None, false),
        (&["id"], None, false),
        (&["status"], Some(own), false),
        (&["id"], Some("(removed_at IS NULL)"), false),
        (&["id"], Some("((status = 'open'::text) AND (removed_at IS NULL))"), false),
    ] {
        let found = index(columns, condition);
        assert_eq!(found.has_page_index(Dialect::Postgres, &table()), is_one, "{columns:?} {condition:?}");
    }
    let mut broken = index(&["id"], Some(own));
    broken.indexes[0].is_valid = false;
    assert!(!broken.has_page_index(Dialect::Postgres, &table()));
}
