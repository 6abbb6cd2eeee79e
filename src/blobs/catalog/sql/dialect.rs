//! Where SQLite and Postgres differ, as data.

use sqlx::{AnyConnection, Error};

use crate::config::CatalogUrl;

/// Which database it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    pub(super) const fn of(url: &CatalogUrl) -> Self {
        match url {
            CatalogUrl::Sqlite(_) => Self::Sqlite,
            CatalogUrl::Postgres(_) => Self::Postgres,
        }
    }

    /// The statement `text` for this database, on a clock that is `shift` milliseconds ahead. In it stand: `{now}` for the
    /// clock, `{list}` for the rows `value` of a JSON list of texts in `$1`, `{rows}` for those of a JSON list of lists,
    /// and `{lock}` for what locks the rows that a SELECT finds.
    pub(super) fn statement(self, text: &str, shift: i64) -> String {
        let (clock, list, rows, lock) = match self {
            // The write lock of the transaction covers all rows.
            Self::Sqlite => {
                ("CAST(round(unixepoch('subsec') * 1000) AS INTEGER)", "json_each($1)", "json_each($1)", "")
            }
            Self::Postgres => (
                "CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS BIGINT)",
                "json_array_elements_text(CAST($1 AS json))",
                "json_array_elements(CAST($1 AS json))",
                "FOR UPDATE",
            ),
        };
        text.replace("{now}", &format!("({clock} + {shift})"))
            .replace("{list}", list)
            .replace("{rows}", rows)
            .replace("{lock}", lock)
    }

    /// The statements of a migration. Texts are compared byte by byte, whatever the database's own order is: pages of
    /// both stores have the same one.
    pub(super) fn migration(self, text: &str) -> String {
        match self {
            Self::Sqlite => text.to_owned(),
            Self::Postgres => text.replace(" TEXT", " TEXT COLLATE \"C\""),
        }
    }

    /// Those of the blobs in `$1` that `{may}` allows, as a JSON list. Postgres holds them, and leaves out what somebody
    /// else holds, who puts or claims it; in SQLite the transaction holds all.
    pub(super) const fn hold_claimable(self) -> &'static str {
        match self {
            Self::Sqlite => {
                "SELECT json_group_array(b.id) FROM janitor_blob AS b WHERE b.id IN (SELECT value FROM {list}) AND ({may})"
            }
            Self::Postgres => {
                "SELECT CAST(coalesce(json_agg(c.id), '[]') AS TEXT) FROM (
                    SELECT b.id FROM janitor_blob AS b WHERE b.id IN (SELECT value FROM {list}) AND ({may})
                    ORDER BY b.id FOR UPDATE SKIP LOCKED
                ) AS c"
            }
        }
    }

    /// The rows of `page`, which has `columns` of `janitor_blob AS b`, as one JSON list of lists: the driver hands rows over
    /// one by one, and a sweep reads many.
    pub(super) fn packed(self, columns: &str, page: &str) -> String {
        match self {
            Self::Sqlite => format!("SELECT json_group_array(json_array({columns})) FROM ({page}) AS b"),
            Self::Postgres => {
                format!("SELECT CAST(coalesce(json_agg(json_build_array({columns})), '[]') AS TEXT) FROM ({page}) AS b")
            }
        }
    }

    /// What begins a transaction that writes.
    pub(super) const fn begin(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
            // The statements rely on seeing what was committed before each of them, not before the first.
            Self::Postgres => "BEGIN ISOLATION LEVEL READ COMMITTED",
        }
    }

    /// What each connection is set to. A Postgres connection that is stuck in a transaction loses it, so that a writer
    /// that was stopped in its tracks keeps nobody from its rows for ever.
    ///
    /// The blobs of one batch of a sweep lie on thousands of pages. SQLite writes those that its cache cannot hold more
    /// than once in a transaction, and copies each into the main file as often as its log is emptied: 16 and 40 MB do.
    pub(super) const fn settings(self) -> &'static str {
        match self {
            Self::Sqlite => {
                "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
                PRAGMA cache_size = -16000; PRAGMA wal_autocheckpoint = 10000"
            }
            Self::Postgres => "SET lock_timeout = '10s'; SET idle_in_transaction_session_timeout = '60s'",
        }
    }

    /// How many may write at a time from one process. SQLite has one writer, and who waits for it inside of the process
    /// need not ask the file again and again.
    pub(super) const fn writers_max(self) -> usize {
        match self {
            Self::Sqlite => 1,
            Self::Postgres => 8,
        }
    }

    /// The most connections of a process.
    pub(super) const fn connections_max(self) -> u32 {
        match self {
            Self::Sqlite => 4,
            Self::Postgres => 8,
        }
    }

    /// Keeps other processes from migrating until the transaction ends; SQLite's has done so when it began.
    pub(super) const fn migration_lock(self) -> Option<&'static str> {
        match self {
            Self::Sqlite => None,
            // "jani" and "blob" in ASCII.
            Self::Postgres => Some("SELECT pg_advisory_xact_lock(1784770153, 1651273570)"),
        }
    }

    /// Asks for the name of the table of versions; NULL where it is not there.
    pub(super) const fn find_schema(self) -> &'static str {
        match self {
            Self::Sqlite => "SELECT max(name) FROM sqlite_master WHERE type = 'table' AND name = 'janitor_blob_schema'",
            Self::Postgres => "SELECT CAST(to_regclass('janitor_blob_schema') AS TEXT)",
        }
    }

    /// What asks how a statement is carried out.
    #[cfg(feature = "test-util")]
    pub(super) const fn explain(self) -> &'static str {
        match self {
            Self::Sqlite => "EXPLAIN QUERY PLAN ",
            Self::Postgres => "EXPLAIN ",
        }
    }

    /// Whether the transaction failed only because of another one, so that it may go well the next time.
    pub(super) fn is_tie(self, error: &Error) -> bool {
        let Some(error) = error.as_database_error() else { return false };
        // Two blobs of a digest became live at the same moment: the next time the other one is seen.
        error.is_unique_violation()
            || match (self, error.code().as_deref()) {
                (Self::Sqlite, Some(code)) => matches!(primary(code), Some(5 | 6)),
                (Self::Postgres, Some(code)) => matches!(code, "40001" | "40P01"),
                (_, None) => false,
            }
    }

    /// Why the database cannot be opened, as what it means to who has to mend it.
    pub(super) fn what(self, error: &Error) -> &'static str {
        let Some(error) = error.as_database_error() else {
            return match error {
                Error::Configuration(_) => "its address cannot be read",
                Error::Io(_) | Error::PoolTimedOut => "does not answer",
                _ => "cannot be used",
            };
        };
        match (self, error.code().as_deref()) {
            (Self::Sqlite, Some(code)) => match primary(code) {
                Some(5 | 6) => "is locked by another process",
                Some(8) => "cannot be written: the file, its folder or the file system is read-only",
                Some(10) => "cannot be read or written (is the disk full?)",
                Some(11) => "is damaged",
                Some(13) => "cannot grow: the disk is full",
                Some(14) => "cannot be opened or made",
                Some(26) => "is not a SQLite database",
                Some(_) | None => "cannot be used",
            },
            (Self::Postgres, Some("28P01" | "28000")) => "refuses the user or the password",
            (Self::Postgres, Some("3D000")) => "there is no such database",
            (Self::Postgres, Some("42501")) => "the user may not make or use the tables",
            (Self::Postgres, Some("53300")) => "has no connection left",
            (Self::Postgres, Some("57P03")) => "is starting or stopping",
            (Self::Postgres, Some(_)) | (_, None) => "cannot be used",
        }
    }
}

/// The low byte of a SQLite code is the primary one, the rest tells its variants apart.
fn primary(code: &str) -> Option<u32> {
    code.parse::<u32>().ok().map(|code| code & 0xff)
}

/// Sets a new connection up.
pub(super) async fn settle(connection: &mut AnyConnection, dialect: Dialect) -> Result<(), Error> {
    sqlx::raw_sql(dialect.settings()).execute(connection).await.map(drop)
}
