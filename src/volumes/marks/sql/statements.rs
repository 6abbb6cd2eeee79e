//! The statements, with the owner's names in them.

use super::{dialect::Dialect, table::IdKind};
use crate::config::ThreadsTable;

/// How many ids a statement names: the smallest of these that are enough, so that there are few different statements.
const IDS: [usize; 4] = [1, 16, 64, IDS_MAX];
/// How many ids one statement names at most.
pub(super) const IDS_MAX: usize = 256;
/// What a column says where something is so; the texts of all databases are alike.
pub(super) const YES: &str = "y";

/// Makes statements for one table.
#[derive(Clone, Debug)]
pub(super) struct Statements {
    dialect: Dialect,
    /// The table and its columns, quoted.
    table: String,
    id: String,
    removed_at: String,
    /// That a thread is closed. Its word stands in the statement, or the index of the pages could not be used.
    closed: String,
}

impl Statements {
    pub(super) fn new(dialect: Dialect, table: &ThreadsTable) -> Self {
        let name = |name: &String| dialect.quoted(name);
        Self {
            dialect,
            table: table.name.iter().map(name).collect::<Vec<_>>().join("."),
            id: name(&table.id),
            removed_at: name(&table.removed_at),
            closed: format!("{} = {}", name(&table.status), Dialect::literal(&table.closed)),
        }
    }

    /// The table's name, quoted.
    pub(super) fn table(&self) -> &str {
        &self.table
    }

    /// Which rows the pages are about.
    pub(super) fn unmarked(&self) -> String {
        format!("{} AND {} IS NULL", self.closed, self.removed_at)
    }

    /// Reads the ids, whether each is closed, and whether it is marked, of so many ids.
    pub(super) fn read(&self, kind: IdKind, count: usize) -> String {
        let yes = |what: &str| format!("CASE WHEN {what} THEN '{YES}' ELSE 'n' END");
        format!(
            "SELECT {}, {}, {} FROM {} WHERE {}",
            self.dialect.text(&self.id),
            yes(&self.closed),
            yes(&format!("{} IS NOT NULL", self.removed_at)),
            self.table,
            self.among(kind, count)
        )
    }

    /// Holds those of so many threads that are closed and that nobody else holds, and reads what [`read`](Self::read) does.
    pub(super) fn hold(&self, kind: IdKind, count: usize) -> String {
        format!("{} AND {}{}", self.read(kind, count), self.closed, self.dialect.hold())
    }

    /// Reads a page of the closed threads without a mark, from the beginning or after the id that is bound.
    pub(super) fn page(&self, kind: IdKind, is_first: bool, limit: usize) -> String {
        let after = if is_first {
            String::new()
        } else {
            format!(" AND {} > {}", self.id, self.dialect.id(kind, &self.dialect.bind(1)))
        };
        // By the column: Postgres has its text under the same name, in another order.
        format!(
            "SELECT {} FROM {} AS t WHERE {}{after}{} ORDER BY t.{} LIMIT {limit}",
            self.dialect.text(&self.id),
            self.table,
            self.unmarked(),
            self.dialect.own(kind, &self.id),
            self.id
        )
    }

    /// Marks those of so many threads that are closed and not marked.
    pub(super) fn mark(&self, kind: IdKind, now: &str, count: usize) -> String {
        let Self { table, removed_at, .. } = self;
        format!("UPDATE {table} SET {removed_at} = {now} WHERE {} AND {}", self.among(kind, count), self.unmarked())
    }

    /// Asks how a mark would be written, which needs the same rights and does nothing; none where a hold asks for them.
    pub(super) fn may_mark(&self, now: &str) -> Option<String> {
        let Self { table, removed_at, .. } = self;
        match self.dialect {
            Dialect::Sqlite => None,
            Dialect::Postgres | Dialect::Mysql => {
                Some(format!("EXPLAIN UPDATE {table} SET {removed_at} = {now} WHERE 1 = 0"))
            }
        }
    }

    /// That the id is one of so many, by the index of its column, and exactly that.
    fn among(&self, kind: IdKind, count: usize) -> String {
        let binds: Vec<String> = (1..=count).map(|at| self.dialect.bind(at)).collect();
        let list = |one: &dyn Fn(&str) -> String| binds.iter().map(|bind| one(bind)).collect::<Vec<_>>().join(", ");
        let by_index = format!("{} IN ({})", self.id, list(&|bind| self.dialect.id(kind, bind)));
        if !kind.is_loose() {
            return by_index;
        }
        let (id, _) = self.dialect.exact(&self.id, "");
        format!("{by_index} AND {id} IN ({})", list(&|bind| self.dialect.exact("", bind).1))
    }

    /// What is bound to a statement that names so many of these ids: one that is named twice changes nothing.
    pub(super) fn binds<'i>(&self, kind: IdKind, ids: &[&'i str]) -> Vec<&'i str> {
        let count = IDS.into_iter().find(|count| *count >= ids.len()).unwrap_or(IDS_MAX);
        let last = ids.last().copied().unwrap_or_default();
        let filled: Vec<&str> = ids.iter().copied().chain(std::iter::repeat(last)).take(count).collect();
        let times = if kind.is_loose() && self.dialect.binds_by_place() { 2 } else { 1 };
        filled.repeat(times)
    }

    /// How many ids [`binds`](Self::binds) names.
    pub(super) fn count(ids: usize) -> usize {
        IDS.into_iter().find(|count| *count >= ids).unwrap_or(IDS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(dialect: Dialect) -> Statements {
        let table = ThreadsTable {
            name: vec!["a b".to_owned(), "th\"r`eads".to_owned()],
            id: "select".to_owned(),
            status: "st at".to_owned(),
            closed: "it's \\ \"closed\"".to_owned(),
            removed_at: "gone".to_owned(),
        };
        Statements::new(dialect, &table)
    }

    #[test]
    fn names_and_words_of_the_owner_are_quoted() {
        assert_eq!(
            statements(Dialect::Postgres).mark(IdKind::Signed, "clock_timestamp()", 2),
            "UPDATE \"a b\".\"th\"\"r`eads\" SET \"gone\" = clock_timestamp() \
             WHERE \"select\" IN (CAST($1 AS BIGINT), CAST($2 AS BIGINT)) \
             AND \"st at\" = 'it''s \\ \"closed\"' AND \"gone\" IS NULL"
        );
        assert_eq!(
            statements(Dialect::Mysql).page(IdKind::Text, false, 7),
            "SELECT CAST(`select` AS CHAR) FROM `a b`.`th\"r``eads` AS t WHERE `st at` = 'it''s \\ \"closed\"' \
             AND `gone` IS NULL AND `select` > ? ORDER BY t.`select` LIMIT 7"
        );
    }

    #[test]
    fn no_column_of_an_id_is_cast_where_its_index_is_to_be_used() {
        let postgres = statements(Dialect::Postgres);
        assert!(postgres.hold(IdKind::Uuid, 1).contains("WHERE \"select\" IN (CAST($1 AS UUID)) AND \"st at\""));
        let loose = statements(Dialect::Mysql).hold(IdKind::Text, 1);
        assert!(
            loose.contains(
                "WHERE `select` IN (?) AND CAST(CONVERT(`select` USING utf8mb4) AS BINARY) IN (CAST(? AS BINARY)) AND"
            ),
            "{loose}"
        );
    }

    #[test]
    fn there_are_few_different_statements() {
        let mysql = statements(Dialect::Mysql);
        assert_eq!(mysql.binds(IdKind::Text, &["a"]), ["a", "a"]);
        assert_eq!(mysql.binds(IdKind::Signed, &["1", "2"]).len(), 16);
        assert_eq!(statements(Dialect::Sqlite).binds(IdKind::Text, &["a"; 65]).len(), Statements::count(65));
        assert_eq!((Statements::count(1), Statements::count(2), Statements::count(65)), (1, 16, 256));
    }
}
