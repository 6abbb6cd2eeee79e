//! The owner's table as the database's own catalogue tells of it, and whether it can be used.

use super::dialect::Dialect;
use crate::config::ThreadsTable;

/// What kind of ids the table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdKind {
    /// Whole numbers.
    Signed,
    /// Whole numbers that are not below zero.
    Unsigned,
    /// Texts.
    Text,
    /// Texts that the database fills up with spaces.
    Padded,
    /// UUIDs.
    Uuid,
}

impl IdKind {
    /// Whether a text is an id of this kind as the database writes it: `007`, `+7` and ` 7` are none, though they would be
    /// read as 7.
    pub(super) fn is_own(self, id: &str) -> bool {
        match self {
            Self::Signed => id.parse::<i64>().is_ok_and(|number| number.to_string() == id),
            Self::Unsigned => id.parse::<u64>().is_ok_and(|number| number.to_string() == id),
            Self::Text | Self::Padded => !id.contains('\0'),
            Self::Uuid => {
                let is_hyphen = |at| matches!(at, 8 | 13 | 18 | 23);
                let is_digit = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
                id.len() == 36
                    && id
                        .bytes()
                        .enumerate()
                        .all(|(at, byte)| if is_hyphen(at) { byte == b'-' } else { is_digit(byte) })
            }
        }
    }

    /// Whether the column may take two texts for one.
    pub(super) const fn is_loose(self) -> bool {
        match self {
            Self::Text | Self::Padded => true,
            Self::Signed | Self::Unsigned | Self::Uuid => false,
        }
    }
}

/// What kind of time the column of marks keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MarkKind {
    /// An instant.
    Instant,
    /// What a clock in UTC shows.
    WallClock,
}

/// A column.
#[derive(Clone, Debug, Default)]
pub(super) struct Column {
    pub(super) name: String,
    /// The word of its type, in small letters; of SQLite what was declared.
    pub(super) kind: String,
    /// The type as its owner wrote it, or would.
    pub(super) shown: String,
    pub(super) is_nullable: bool,
    /// The words that an enumeration has.
    pub(super) words: Option<Vec<String>>,
}

/// An index.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    pub(super) name: String,
    /// Its columns; none for an expression.
    pub(super) columns: Vec<Option<String>>,
    pub(super) is_unique: bool,
    /// Whether it was built to its end.
    pub(super) is_valid: bool,
    /// Which rows are in it; none: all of them.
    pub(super) condition: Option<String>,
}

/// What the catalogue tells of a table.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) columns: Vec<Column>,
    pub(super) indexes: Vec<Index>,
    /// Why its rows cannot be held.
    pub(super) unheld: Option<String>,
    /// Whether Postgres keeps it in parts.
    pub(super) is_partitioned: bool,
}

/// How a table is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fit {
    pub(super) id: IdKind,
    /// None: the column of marks is missing.
    pub(super) removed_at: Option<MarkKind>,
}

impl Found {
    pub(super) fn column(&self, dialect: Dialect, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| is_same(dialect, &column.name, name))
    }

    /// How the table can be used; the error is the rule that it breaks.
    pub(super) fn fit(&self, dialect: Dialect, table: &ThreadsTable) -> Result<Fit, String> {
        let shown = table.name.join(".");
        if self.columns.is_empty() {
            return Err(format!("there is no table {shown:?}, or the user may not see it"));
        }
        if let Some(rule) = &self.unheld {
            return Err(format!("table {shown:?} {rule}"));
        }
        let column =
            |name: &str| self.column(dialect, name).ok_or_else(|| format!("table {shown:?} has no column {name:?}"));
        let (id, status) = (column(&table.id)?, column(&table.status)?);
        let kind = id_kind(dialect, &id.kind, &id.shown).ok_or_else(|| {
            format!("column {:?} is of type {}: ids must be whole numbers, texts or UUIDs", table.id, id.shown)
        })?;
        if !self.indexes.iter().any(|index| index.is_key(dialect, &table.id)) {
            return Err(format!(
                "column {:?} must be unique: make it the primary key, or give it a unique index",
                table.id
            ));
        }
        if !is_text(dialect, &status.kind) && status.words.is_none() {
            return Err(format!(
                "column {:?} is of type {}: must be a text or an enumeration",
                table.status, status.shown
            ));
        }
        if let Some(words) = status.words.as_ref().filter(|words| !words.contains(&table.closed)) {
            return Err(format!(
                "column {:?} is never {:?}: it may be {}",
                table.status,
                table.closed,
                words.join(", ")
            ));
        }
        let removed_at =
            self.column(dialect, &table.removed_at).map(|column| mark_kind(dialect, column)).transpose()?;
        Ok(Fit { id: kind, removed_at })
    }

    /// Whether the pages of closed threads without a mark have an index: one of just these, by id, or one that begins with
    /// what is asked.
    pub(super) fn has_page_index(&self, dialect: Dialect, table: &ThreadsTable) -> bool {
        let begins = |index: &Index, names: &[&str]| {
            let mut columns = index.columns.iter();
            names.iter().all(|name| columns.next().is_some_and(|column| is_named(dialect, column.as_deref(), name)))
        };
        let is_fit = |index: &Index| match &index.condition {
            None => begins(index, &[&table.status, &table.removed_at, &table.id]),
            Some(condition) => {
                let plain = condition.replace('"', "").to_lowercase();
                let says = |what: &str| plain.contains(&what.replace('"', "").to_lowercase());
                begins(index, &[&table.id])
                    && says(&table.status)
                    && says(&Dialect::literal(&table.closed))
                    && says(&format!("{} is null", table.removed_at))
            }
        };
        self.indexes.iter().any(|index| index.is_valid && is_fit(index))
    }
}

impl Index {
    /// Whether it has each value of this column once.
    fn is_key(&self, dialect: Dialect, name: &str) -> bool {
        let is_alone = self.columns.len() == 1 && is_named(dialect, self.columns[0].as_deref(), name);
        is_alone && self.is_unique && self.is_valid && self.condition.is_none()
    }
}

fn is_named(dialect: Dialect, column: Option<&str>, name: &str) -> bool {
    column.is_some_and(|column| is_same(dialect, column, name))
}

/// Whether two names are one: only Postgres tells quoted names apart by their case.
fn is_same(dialect: Dialect, one: &str, other: &str) -> bool {
    match dialect {
        Dialect::Postgres => one == other,
        Dialect::Sqlite | Dialect::Mysql => one.to_lowercase() == other.to_lowercase(),
    }
}

fn id_kind(dialect: Dialect, kind: &str, shown: &str) -> Option<IdKind> {
    match (dialect, kind) {
        (Dialect::Sqlite, _) => match Affinity::of(kind) {
            Affinity::Integer => Some(IdKind::Signed),
            Affinity::Text => Some(IdKind::Text),
            Affinity::Other => None,
        },
        (Dialect::Postgres, "int2" | "int4" | "int8") => Some(IdKind::Signed),
        (Dialect::Postgres, "bpchar") => Some(IdKind::Padded),
        (Dialect::Postgres | Dialect::Mysql, "uuid") => Some(IdKind::Uuid),
        // It shows its ids with zeros before them, and compares them without.
        (Dialect::Mysql, _) if shown.contains("zerofill") => None,
        (Dialect::Mysql, "tinyint" | "smallint" | "mediumint" | "int" | "bigint") => {
            Some(if shown.contains("unsigned") { IdKind::Unsigned } else { IdKind::Signed })
        }
        _ => is_text(dialect, kind).then_some(IdKind::Text),
    }
}

fn is_text(dialect: Dialect, kind: &str) -> bool {
    match dialect {
        Dialect::Sqlite => Affinity::of(kind) == Affinity::Text,
        Dialect::Postgres => matches!(kind, "text" | "varchar" | "bpchar"),
        Dialect::Mysql => matches!(kind, "char" | "varchar") || is_mysql_long(kind),
    }
}

/// Whether an index can have only the first characters of a column of this type.
pub(super) fn is_mysql_long(kind: &str) -> bool {
    matches!(kind, "tinytext" | "text" | "mediumtext" | "longtext")
}

/// What a column of marks keeps; the error is the rule that it breaks.
fn mark_kind(dialect: Dialect, column: &Column) -> Result<MarkKind, String> {
    let Column { name, kind, shown, .. } = column;
    let found = match (dialect, kind.as_str()) {
        // A number could be seconds or milliseconds: nobody could tell.
        (Dialect::Sqlite, _) if is_text(dialect, kind) => Some(MarkKind::WallClock),
        (Dialect::Sqlite, _) if kind.contains("time") && Affinity::of(kind) == Affinity::Other => {
            Some(MarkKind::WallClock)
        }
        (Dialect::Postgres, "timestamptz") => Some(MarkKind::Instant),
        (Dialect::Postgres | Dialect::Mysql, "timestamp") | (Dialect::Mysql, "datetime") => Some(MarkKind::WallClock),
        _ => None,
    };
    let found = found.ok_or_else(|| {
        let wanted = match dialect {
            Dialect::Sqlite => "TEXT, DATETIME or TIMESTAMP",
            Dialect::Postgres => "timestamptz or timestamp",
            Dialect::Mysql => "datetime or timestamp",
        };
        format!("column {name:?} is of type {shown}: must be {wanted}")
    })?;
    if column.is_nullable {
        Ok(found)
    } else {
        Err(format!("column {name:?} must allow NULL: a thread without a mark has it"))
    }
}

/// What SQLite makes of a declared type, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Affinity {
    Integer,
    Text,
    Other,
}

impl Affinity {
    /// By the rules of SQLite's manual, in their order.
    fn of(declared: &str) -> Self {
        let says = |words: &[&str]| words.iter().any(|word| declared.to_lowercase().contains(word));
        if says(&["int"]) {
            Self::Integer
        } else if says(&["char", "clob", "text"]) {
            Self::Text
        } else {
            Self::Other
        }
    }
}

#[cfg(test)]
mod tests;
