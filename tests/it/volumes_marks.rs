//! Marks in memory, in real SQLite files, a real Postgres and a real MariaDB.

mod faults;
mod owner;
mod types;

use std::sync::Arc;

use apalis_janitor::{
    config::ThreadsTable,
    marks_conformance,
    volumes::marks::{conformance::Subject, memory::MemoryMarks},
};
use tempfile::TempDir;

use self::owner::Owner;
use crate::{mysql::Database as Mariadb, postgres::Database, told::told};

marks_conformance!(memory, async { (Arc::new(MemoryMarks::default()), ()) });
marks_conformance!(sqlite, async { subject(over_sqlite()) });
marks_conformance!(postgres, async { subject(over_postgres()) });
marks_conformance!(mysql, async { subject(over_mysql()) });

/// What must live as long as an owner of a MariaDB: two databases.
type Mysql = [Mariadb; 2];

fn over_sqlite() -> (Owner, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // A file of its owner's is there.
    let path = folder.path().join("app.db");
    std::fs::write(&path, "").expect("written");
    (Owner::sqlite(path), folder)
}

fn over_postgres() -> (Owner, Database) {
    let database = Database::new();
    (Owner::postgres(database.url()), database)
}

fn over_mysql() -> (Owner, Mysql) {
    let [database, other] = [Mariadb::new(), Mariadb::new()];
    (Owner::mysql(database.url(), other.name.clone()), [database, other])
}

fn subject<K>((owner, kept): (Owner, K)) -> (Arc<dyn Subject>, K) {
    (Arc::new(owner), kept)
}

fn table() -> ThreadsTable {
    ThreadsTable { removed_at: "removed_at".to_owned(), ..ThreadsTable::new(vec!["threads".to_owned()], "closed") }
}
