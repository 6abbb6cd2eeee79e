//! What is wrong with a configuration, and where.

use std::fmt::{self, Display};

use serde::Serialize;

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigError {
    /// The file.
    pub file: String,
    /// The line, from 1; none where the file as a whole is meant.
    pub line: Option<usize>,
    /// The column in characters, from 1.
    pub column: Option<usize>,
    /// The key with its tables, such as `jobs.old-runs.retention_days`.
    pub key: Option<String>,
    /// The value as it is understood, with passwords as `***` and the variables that it came from.
    pub value: Option<String>,
    /// The rule that it breaks.
    pub rule: String,
}

impl Display for ConfigError {
    /// `janitor.toml:12:18: jobs.old-runs.retention_days = 0: must be …`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_place(f, &self.file, self.line.zip(self.column), self.key.as_deref())?;
        match &self.value {
            Some(value) => write!(f, " = {value}: {}", self.rule),
            None => write!(f, ": {}", self.rule),
        }
    }
}

impl std::error::Error for ConfigError {}

/// All that is wrong with a configuration, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    pub(super) fn new(mut errors: Vec<ConfigError>) -> Self {
        errors.sort_by_key(|error| (error.line, error.column));
        // A key that is read twice is refused twice.
        errors.dedup();
        Self(errors)
    }

    /// An error of the file as a whole.
    pub(super) fn of_file(file: impl Display, rule: String) -> Self {
        Self(vec![ConfigError { file: file.to_string(), line: None, column: None, key: None, value: None, rule }])
    }

    /// Each of them; there is at least one.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }
}

impl<'e> IntoIterator for &'e ConfigErrors {
    type Item = &'e ConfigError;
    type IntoIter = std::slice::Iter<'e, ConfigError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Display for ConfigErrors {
    /// One line each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            Display::fmt(error, f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Something in a valid configuration that is probably not meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigWarning {
    /// The file.
    pub file: String,
    /// The line, from 1; none where the file as a whole is meant.
    pub line: Option<usize>,
    /// The column in characters, from 1.
    pub column: Option<usize>,
    /// The key or table.
    pub key: Option<String>,
    /// What to know.
    pub text: String,
}

impl Display for ConfigWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_place(f, &self.file, self.line.zip(self.column), self.key.as_deref())?;
        write!(f, ": {}", self.text)
    }
}

fn write_place(
    f: &mut fmt::Formatter<'_>,
    file: &str,
    position: Option<(usize, usize)>,
    key: Option<&str>,
) -> fmt::Result {
    f.write_str(file)?;
    if let Some((line, column)) = position {
        write!(f, ":{line}:{column}")?;
    }
    key.map_or(Ok(()), |key| write!(f, ": {key}"))
}
