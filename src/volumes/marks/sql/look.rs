//! What the database's own catalogue tells of the owner's table.

use super::{
    SqlMarks,
    dialect::Dialect,
    statements::YES,
    table::{Column, Found, Index},
};
use crate::volumes::MarksError;

/// A row of the catalogue.
type Row = Vec<Option<String>>;

/// Of a table: its kind, and each column's name, type, whether it allows NULL, and the words of an enumeration. A domain counts
/// as what it is made of.
const POSTGRES_COLUMNS: &str = "
SELECT CAST(c.relkind AS TEXT), CAST(a.attname AS TEXT), CAST(b.typname AS TEXT),
    CAST(format_type(a.atttypid, a.atttypmod) AS TEXT), CASE WHEN a.attnotnull THEN 'n' ELSE 'y' END,
    (SELECT string_agg(CAST(e.enumlabel AS TEXT), chr(10) ORDER BY e.enumsortorder)
        FROM pg_catalog.pg_enum AS e WHERE e.enumtypid = b.oid)
FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid
    JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
    JOIN pg_catalog.pg_type AS b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
WHERE c.oid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped";

/// Of each index: its name, a column, whether it is unique, whether it is valid, which rows are in it.
const POSTGRES_INDEXES: &str = "
SELECT CAST(x.relname AS TEXT), CAST(a.attname AS TEXT), CASE WHEN i.indisunique THEN 'y' ELSE 'n' END,
    CASE WHEN i.indisvalid THEN 'y' ELSE 'n' END, CAST(pg_get_expr(i.indpred, i.indrelid) AS TEXT)
FROM pg_catalog.pg_index AS i
    JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid
    CROSS JOIN LATERAL generate_series(0, i.indnkeyatts - 1) AS k (at)
    LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.at]
WHERE i.indrelid = to_regclass($1)
ORDER BY x.relname, k.at";

/// Of each column: its name, type, whether it allows NULL, its place in the primary key.
const SQLITE_COLUMNS: &str = "
SELECT CAST(name AS TEXT), CAST(type AS TEXT), CASE WHEN \"notnull\" THEN 'n' ELSE 'y' END, CAST(pk AS TEXT)
FROM pragma_table_info({of})";
/// As of Postgres.
const SQLITE_INDEXES: &str = "
SELECT CAST(l.name AS TEXT), CAST(c.name AS TEXT), CASE WHEN l.\"unique\" THEN 'y' ELSE 'n' END, 'y',
    CASE WHEN l.partial THEN CAST((SELECT m.sql FROM {schema}sqlite_master AS m WHERE m.name = l.name) AS TEXT) END
FROM pragma_index_list({of}) AS l, pragma_index_info({of_index}) AS c
ORDER BY l.seq, c.seqno";

/// Of a table: its engine, and whether that has transactions.
const MYSQL_ENGINE: &str = "
SELECT CAST(t.engine AS CHAR), CASE WHEN e.transactions = 'YES' THEN 'y' ELSE 'n' END
FROM information_schema.tables AS t LEFT JOIN information_schema.engines AS e ON e.engine = t.engine
WHERE t.table_schema = {schema} AND t.table_name = ?";
/// Of each column: its name, its type in a word and whole, whether it allows NULL.
const MYSQL_COLUMNS: &str = "
SELECT CAST(column_name AS CHAR), CAST(data_type AS CHAR), CAST(column_type AS CHAR),
    CASE WHEN is_nullable = 'YES' THEN 'y' ELSE 'n' END
FROM information_schema.columns WHERE table_schema = {schema} AND table_name = ?";
/// As of Postgres. The beginnings of a column's texts may be unique, which is more than is asked.
const MYSQL_INDEXES: &str = "
SELECT CAST(index_name AS CHAR), CAST(column_name AS CHAR), CASE WHEN non_unique = 0 THEN 'y' ELSE 'n' END, 'y',
    CAST(NULL AS CHAR)
FROM information_schema.statistics WHERE table_schema = {schema} AND table_name = ?
ORDER BY index_name, seq_in_index";

impl SqlMarks {
    /// Reads what the catalogue tells.
    pub(super) async fn look(&self) -> Result<Found, MarksError> {
        match self.dialect {
            Dialect::Sqlite => self.look_sqlite().await,
            Dialect::Postgres => self.look_postgres().await,
            Dialect::Mysql => self.look_mysql().await,
        }
    }

    async fn read_catalogue(&self, text: String, binds: &[&str]) -> Result<Vec<Row>, MarksError> {
        self.rows("table not looked up", text, binds).await
    }

    async fn look_postgres(&self) -> Result<Found, MarksError> {
        let name = [self.statements.table()];
        let mut found = Found::default();
        for mut row in self.read_catalogue(POSTGRES_COLUMNS.to_owned(), &name).await? {
            if !matches!(row[0].as_deref(), Some("r" | "p")) {
                found.unheld = Some("is no table, so that none of its rows can be held".to_owned());
            }
            found.is_partitioned = row[0].as_deref() == Some("p");
            let words = row[5].take().map(|words| words.split('\n').map(str::to_owned).collect());
            let [name, kind, shown] = [1, 2, 3].map(|at| row[at].take().unwrap_or_default());
            found.columns.push(Column { name, kind, shown, is_nullable: is_yes(row[4].as_deref()), words });
        }
        found.indexes = indexes(self.read_catalogue(POSTGRES_INDEXES.to_owned(), &name).await?);
        Ok(found)
    }

    async fn look_sqlite(&self) -> Result<Found, MarksError> {
        // A pragma's second argument is the schema; the one of an index is found in the same one.
        let (of, of_index, schema) = match &self.table.name[..] {
            [schema, _] => ("$1, $2", "l.name, $2", format!("{}.", self.dialect.quoted(schema))),
            _ => ("$1", "l.name", String::new()),
        };
        let binds: Vec<&str> = self.table.name.iter().rev().map(String::as_str).collect();
        let mut found = Found::default();
        let mut key = Vec::new();
        for mut row in self.read_catalogue(SQLITE_COLUMNS.replace("{of}", of), &binds).await? {
            let [name, shown] = [0, 1].map(|at| row[at].take().unwrap_or_default());
            if row[3].as_deref().is_some_and(|place| place != "0") {
                key.push(Some(name.clone()));
            }
            let kind = shown.to_lowercase();
            let shown = if shown.is_empty() { "none".to_owned() } else { shown };
            found.columns.push(Column { name, kind, shown, is_nullable: is_yes(row[2].as_deref()), words: None });
        }
        let text = SQLITE_INDEXES.replace("{of}", of).replace("{of_index}", of_index).replace("{schema}", &schema);
        found.indexes = indexes(self.read_catalogue(text, &binds).await?);
        // The primary key of whole numbers is the table itself.
        found.indexes.push(Index { columns: key, is_unique: true, is_valid: true, ..Index::default() });
        Ok(found)
    }

    async fn look_mysql(&self) -> Result<Found, MarksError> {
        let schema = if self.table.name.len() > 1 { "?" } else { "DATABASE()" };
        let binds: Vec<&str> = self.table.name.iter().map(String::as_str).collect();
        let mut found = Found::default();
        let engine = self.read_catalogue(MYSQL_ENGINE.replace("{schema}", schema), &binds).await?;
        if let Some([engine, has_transactions]) = engine.first().map(Vec::as_slice)
            && !is_yes(has_transactions.as_deref())
        {
            let rule = "so that none of its rows can be held";
            found.unheld = Some(match engine {
                Some(engine) => format!("is of engine {engine}, {rule}: make it InnoDB"),
                None => format!("is a view, {rule}"),
            });
        }
        for mut row in self.read_catalogue(MYSQL_COLUMNS.replace("{schema}", schema), &binds).await? {
            let [name, kind, shown] = [0, 1, 2].map(|at| row[at].take().unwrap_or_default());
            let words = (kind == "enum").then(|| words(&shown));
            found.columns.push(Column {
                name,
                kind: kind.to_lowercase(),
                shown,
                is_nullable: is_yes(row[3].as_deref()),
                words,
            });
        }
        found.indexes = indexes(self.read_catalogue(MYSQL_INDEXES.replace("{schema}", schema), &binds).await?);
        Ok(found)
    }
}

fn is_yes(word: Option<&str>) -> bool {
    word == Some(YES)
}

/// The indexes whose columns these rows are, in their order.
fn indexes(rows: Vec<Row>) -> Vec<Index> {
    let mut indexes: Vec<Index> = Vec::new();
    for mut row in rows {
        let (name, column) = (row[0].take().unwrap_or_default(), row[1].take());
        match indexes.last_mut() {
            Some(last) if last.name == name => last.columns.push(column),
            _ => indexes.push(Index {
                name,
                columns: vec![column],
                is_unique: is_yes(row[2].as_deref()),
                is_valid: is_yes(row[3].as_deref()),
                condition: row[4].take(),
            }),
        }
    }
    indexes
}

/// The words of a type such as `enum('open','it''s closed')`.
fn words(shown: &str) -> Vec<String> {
    let list = shown.strip_prefix("enum('").and_then(|list| list.strip_suffix("')")).unwrap_or_default();
    list.split("','").map(|word| word.replace("''", "'")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_an_enumeration_are_taken_apart() {
        assert_eq!(words("enum('open','it''s closed')"), ["open", "it's closed"]);
        assert_eq!(words("enum('one')"), ["one"]);
    }

    #[test]
    fn the_columns_of_an_index_belong_together() {
        let row = |name: &str, column: Option<&str>| {
            vec![Some(name.to_owned()), column.map(str::to_owned), Some("n".to_owned()), Some("y".to_owned()), None]
        };
        let found = indexes(vec![row("a", Some("x")), row("a", None), row("b", Some("y"))]);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].columns, [Some("x".to_owned()), None]);
        assert!(found[0].is_valid && !found[0].is_unique);
    }
}
