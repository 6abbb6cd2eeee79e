//! Reads a TOML tree key by key, and collects everything that is wrong with it.

use std::{
    cell::{Cell, RefCell},
    path::PathBuf,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    errors::{ConfigError, ConfigWarning},
    expand::{Env, expand},
    scalar::Scalar,
    urls::SecretUrl,
    values,
};

/// The most characters of a value that an error shows.
const SHOWN_MAX: usize = 80;
/// The most tables with a name of their own: jobs, or blob stores.
const TABLES_MAX: usize = 5_000;

/// One file that is being read.
pub(super) struct Reader<'a> {
    text: &'a str,
    file: String,
    pub(super) folder: PathBuf,
    pub(super) env: Env<'a>,
    line_starts: Vec<usize>,
    pub(super) errors: RefCell<Vec<ConfigError>>,
    pub(super) warnings: RefCell<Vec<ConfigWarning>>,
    /// Whether a URL in the file itself holds a password.
    pub(super) inline_password: Cell<bool>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str, file: String, folder: PathBuf, env: Env<'a>) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self {
            text,
            file,
            folder,
            env,
            line_starts,
            errors: RefCell::default(),
            warnings: RefCell::default(),
            inline_password: Cell::new(false),
        }
    }

    /// The line and the column of a byte, both from 1.
    fn position(&self, at: usize) -> (usize, usize) {
        let line = self.line_starts.partition_point(|start| *start <= at);
        let start = self.line_starts[line - 1];
        let column = self.text.get(start..at).map_or(0, |before| before.chars().count());
        (line, column + 1)
    }

    pub(super) fn refuse(&self, at: usize, key: Option<&str>, value: Option<String>, rule: impl Into<String>) {
        let (line, column) = self.position(at);
        self.errors.borrow_mut().push(ConfigError {
            file: self.file.clone(),
            line: Some(line),
            column: Some(column),
            // A quoted key may hold a line break.
            key: key.map(|key| key.escape_debug().to_string()),
            value,
            rule: rule.into(),
        });
    }

    pub(super) fn warn(&self, at: Option<usize>, key: Option<&str>, text: impl Into<String>) {
        let position = at.map(|at| self.position(at));
        self.warnings.borrow_mut().push(ConfigWarning {
            file: self.file.clone(),
            line: position.map(|(line, _)| line),
            column: position.map(|(_, column)| column),
            key: key.map(str::to_owned),
            text: text.into(),
        });
    }

    /// What stands at `path`, with its variables filled in.
    fn found<'r>(&'r self, path: &str, value: &'r Spanned<DeValue<'r>>) -> Found<'r> {
        let at = value.span().start;
        let given = |scalar, shown| Found::Given(Item { reader: self, path: path.to_owned(), at, shown, scalar });
        match value.get_ref() {
            DeValue::String(raw) => match expand(raw, self.env) {
                Ok(expanded) if expanded.is_unset() => Found::Unset { at, vars: expanded.vars },
                Ok(expanded) => {
                    let shown = quoted(&expanded.text) + &expanded.origin();
                    given(Scalar::Text { raw, expanded }, shown)
                }
                Err(rule) => {
                    self.refuse(at, Some(path), Some(quoted(&SecretUrl::new(raw.as_ref()).to_string())), rule);
                    Found::Refused
                }
            },
            // A number that is too large for any key is refused by the key's own rule.
            DeValue::Integer(whole) => {
                let number = i64::from_str_radix(whole.as_str(), whole.radix()).ok();
                given(number.map_or(Scalar::Other, Scalar::Whole), self.source(value))
            }
            DeValue::Boolean(flag) => given(Scalar::Flag(*flag), flag.to_string()),
            DeValue::Float(_) | DeValue::Datetime(_) => given(Scalar::Other, self.source(value)),
            // What is inside could be a password.
            DeValue::Array(_) => given(Scalar::Other, "a list".to_owned()),
            DeValue::Table(_) => given(Scalar::Other, "a table".to_owned()),
        }
    }

    fn source(&self, value: &Spanned<DeValue<'_>>) -> String {
        self.text.get(value.span()).unwrap_or_default().to_owned()
    }
}

/// A string as an error shows it: in quotes, without a password, and not too long.
pub(super) fn quoted(text: &str) -> String {
    let masked = if text.contains("://") { SecretUrl::new(text).to_string() } else { text.to_owned() };
    match masked.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{:?}…", &masked[..end]),
        None => format!("{masked:?}"),
    }
}

/// What a key has.
pub(super) enum Found<'r> {
    /// The key is absent.
    Absent,
    /// It only names variables that are unset or empty, so it counts as absent.
    Unset {
        /// Where the value is.
        at: usize,
        /// The variables.
        vars: Vec<String>,
    },
    /// It was refused already.
    Refused,
    /// A value.
    Given(Item<'r>),
}

/// A value and where it came from.
pub(super) struct Item<'r> {
    reader: &'r Reader<'r>,
    path: String,
    at: usize,
    pub(super) shown: String,
    pub(super) scalar: Scalar<'r>,
}

impl Item<'_> {
    /// Records that the value breaks `rule`.
    pub(super) fn refuse(&self, rule: impl Into<String>) {
        self.refuse_as(self.shown.clone(), rule);
    }

    /// The same, with another way to show the value.
    pub(super) fn refuse_as(&self, shown: String, rule: impl Into<String>) {
        self.reader.refuse(self.at, Some(&self.path), Some(shown), rule);
    }

    fn accept<T>(&self, convert: impl FnOnce(&Scalar) -> Result<T, String>) -> Option<T> {
        convert(&self.scalar).map_err(|rule| self.refuse(rule)).ok()
    }
}

/// One table of the file. Each key that is read is known; [`Section::finish`] refuses the others.
pub(super) struct Section<'r> {
    pub(super) reader: &'r Reader<'r>,
    pub(super) path: String,
    pub(super) at: usize,
    table: &'r DeTable<'r>,
    known: RefCell<Vec<&'static str>>,
}

impl<'r> Section<'r> {
    pub(super) fn new(reader: &'r Reader<'r>, path: String, at: usize, table: &'r DeTable<'r>) -> Self {
        Self { reader, path, at, table, known: RefCell::default() }
    }

    /// The full name of a key in this table.
    pub(super) fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// What `key` has.
    pub(super) fn find(&self, key: &'static str) -> Found<'r> {
        match self.value(key) {
            Some(value) => self.reader.found(&self.key(key), value),
            None => Found::Absent,
        }
    }

    fn value(&self, key: &'static str) -> Option<&'r Spanned<DeValue<'r>>> {
        let mut known = self.known.borrow_mut();
        if !known.contains(&key) {
            known.push(key);
        }
        self.table.get(key)
    }

    /// What `convert` makes of `key`; none where it is absent or refused.
    pub(super) fn read<T>(&self, key: &'static str, convert: impl FnOnce(&Scalar) -> Result<T, String>) -> Option<T> {
        match self.find(key) {
            Found::Given(item) => item.accept(convert),
            Found::Absent | Found::Unset { .. } | Found::Refused => None,
        }
    }

    /// The same for a key that must be there.
    pub(super) fn require<T>(
        &self,
        key: &'static str,
        example: &str,
        convert: impl FnOnce(&Scalar) -> Result<T, String>,
    ) -> Option<T> {
        match self.find(key) {
            Found::Given(item) => item.accept(convert),
            Found::Refused => None,
            missing @ (Found::Absent | Found::Unset { .. }) => {
                self.missing(key, &missing, example);
                None
            }
        }
    }

    /// Records that a key which must be there is not.
    pub(super) fn missing(&self, key: &str, found: &Found<'_>, example: &str) {
        match found {
            Found::Unset { at, vars } => {
                let vars = vars.iter().map(|var| format!("${var}")).collect::<Vec<_>>().join(" and ");
                let rule = format!("is required, and {vars} is unset or empty");
                self.reader.refuse(*at, Some(&self.key(key)), None, rule);
            }
            Found::Absent | Found::Refused | Found::Given(_) => {
                self.refuse(key, format!("is required, such as {example}"));
            }
        }
    }

    /// Records an error about `key` at this table's head.
    pub(super) fn refuse(&self, key: &str, rule: impl Into<String>) {
        self.reader.refuse(self.at, Some(&self.key(key)), None, rule);
    }

    /// Records an error about this table.
    pub(super) fn refuse_all(&self, rule: impl Into<String>) {
        self.reader.refuse(self.at, Some(&self.path), None, rule);
    }

    /// Records a warning about this table.
    pub(super) fn warn(&self, text: impl Into<String>) {
        self.reader.warn(Some(self.at), Some(&self.path), text);
    }

    /// The table at `key`.
    pub(super) fn section(&self, key: &'static str) -> Option<Section<'r>> {
        let value = self.value(key)?;
        let at = self.table.get_key_value(key).map_or(value.span().start, |(key, _)| key.span().start);
        let DeValue::Table(table) = value.get_ref() else {
            self.reader.refuse(value.span().start, Some(&self.key(key)), None, format!("must be a table: [{key}]"));
            return None;
        };
        Some(Section::new(self.reader, self.key(key), at, table))
    }

    /// All tables in this one, by name; none of them where there are too many.
    pub(super) fn sections(&self) -> Vec<(&'r str, Section<'r>)> {
        if self.table.len() > TABLES_MAX {
            self.refuse_all(format!("has {} tables; must be {TABLES_MAX} at most", self.table.len()));
            return Vec::new();
        }
        let each = self.table.iter().filter_map(|(name, value)| {
            let path = self.key(name.get_ref());
            let DeValue::Table(table) = value.get_ref() else {
                let rule = format!("must be a table: [{path}]");
                self.reader.refuse(value.span().start, Some(&path), None, rule);
                return None;
            };
            Some((name.get_ref().as_ref(), Section::new(self.reader, path, name.span().start, table)))
        });
        each.collect()
    }

    /// The tables in the list at `key`.
    pub(super) fn tables(&self, key: &'static str, rule: &str) -> Vec<Section<'r>> {
        let table = |(path, value): (String, &'r Spanned<DeValue<'r>>)| {
            let at = value.span().start;
            let DeValue::Table(table) = value.get_ref() else {
                self.reader.refuse(at, Some(&path), None, rule);
                return None;
            };
            Some(Section::new(self.reader, path, at, table))
        };
        self.elements(key, rule).into_iter().flatten().filter_map(table).collect()
    }

    /// What the elements of the list at `key` have; none where there is no list.
    pub(super) fn list(&self, key: &'static str, rule: &str) -> Option<Vec<Found<'r>>> {
        let elements = self.elements(key, rule)?;
        Some(elements.into_iter().map(|(path, value)| self.reader.found(&path, value)).collect())
    }

    fn elements(&self, key: &'static str, rule: &str) -> Option<Vec<(String, &'r Spanned<DeValue<'r>>)>> {
        let value = self.value(key)?;
        let DeValue::Array(array) = value.get_ref() else {
            match self.reader.found(&self.key(key), value) {
                Found::Given(item) => item.refuse(rule),
                Found::Unset { at, .. } => self.reader.refuse(at, Some(&self.key(key)), None, rule),
                Found::Absent | Found::Refused => {}
            }
            return None;
        };
        Some(array.iter().enumerate().map(|(index, value)| (format!("{}[{index}]", self.key(key)), value)).collect())
    }

    /// Refuses the keys that nobody read.
    pub(super) fn finish(self) {
        let known = self.known.borrow();
        for (key, _) in self.table {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            let rule = match values::suggest(name, known.iter().copied()) {
                Some(meant) => format!("unknown key; did you mean `{meant}`?"),
                None => format!("unknown key; known here: {}", known.join(", ")),
            };
            self.reader.refuse(key.span().start, Some(&self.key(name)), None, rule);
        }
    }
}
