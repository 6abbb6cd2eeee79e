//! `${VAR}` and `${VAR:-default}` in the strings of a configuration.

/// The most bytes of a string with its variables filled in.
const TEXT_MAX: usize = 64 * 1024;

/// Looks an environment variable up.
pub(super) type Env<'e> = &'e dyn Fn(&str) -> Option<String>;

/// A string after its variables were filled in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expanded {
    /// What it says.
    pub(super) text: String,
    /// The variables that it names, in order.
    pub(super) vars: Vec<String>,
}

impl Expanded {
    /// Nothing was left of a string that names a variable: the key counts as absent.
    pub(super) fn is_unset(&self) -> bool {
        self.text.is_empty() && !self.vars.is_empty()
    }

    /// ` (from $A and $B)`, or nothing.
    pub(super) fn origin(&self) -> String {
        match self.vars.as_slice() {
            [] => String::new(),
            vars => format!(" (from {})", vars.iter().map(|var| format!("${var}")).collect::<Vec<_>>().join(" and ")),
        }
    }
}

/// Fills the variables of `raw` in. What a variable holds is taken as it is: a password may contain `$`.
pub(super) fn expand(raw: &str, env: Env<'_>) -> Result<Expanded, String> {
    let mut expanded = Expanded { text: String::new(), vars: Vec::new() };
    let mut rest = raw;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.text.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            expanded.text.push('$');
            rest = after;
        } else if let Some(after) = after.strip_prefix('{') {
            let (inside, after) = after.split_once('}').ok_or("has `${` without `}`; a `$` itself is written `$$`")?;
            let (name, default) = inside.split_once(":-").unwrap_or((inside, ""));
            if !is_name(name) || default.contains("${") {
                return Err("may hold ${VAR} or ${VAR:-default}, one not inside another".to_owned());
            }
            let value = env(name).filter(|value| !value.is_empty());
            expanded.text.push_str(value.as_deref().unwrap_or(default));
            expanded.vars.push(name.to_owned());
            rest = after;
        } else {
            expanded.text.push('$');
            rest = after;
        }
        // A value may stand in a file of 1 MiB a hundred thousand times.
        if !expanded.vars.is_empty() && expanded.text.len() > TEXT_MAX {
            return Err("must be 64 KiB at most with its variables filled in".to_owned());
        }
    }
    expanded.text.push_str(rest);
    Ok(expanded)
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "DAYS" => Some("30".to_owned()),
            "EMPTY" => Some(String::new()),
            "DOLLAR" => Some("p${DAYS}$$".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn fills_in_what_the_environment_holds() {
        for (raw, text) in [
            ("plain", "plain"),
            ("${DAYS}", "30"),
            ("a${DAYS}b${DAYS}c", "a30b30c"),
            ("${DAYS:-7}", "30"),
            ("${NONE:-7}", "7"),
            ("${EMPTY:-7}", "7"),
            ("${NONE}", ""),
            ("${NONE:-}", ""),
            ("${NONE:-a:-b$}", "a:-b$"),
            ("$$", "$"),
            ("$${DAYS}", "${DAYS}"),
            ("cost $5", "cost $5"),
            ("$", "$"),
            ("${DOLLAR}", "p${DAYS}$$"),
        ] {
            assert_eq!(expand(raw, &env).unwrap().text, text, "{raw}");
        }
    }

    #[test]
    fn is_unset_only_where_a_variable_left_nothing() {
        for (raw, unset) in
            [("${NONE}", true), ("${NONE}${EMPTY}", true), ("", false), (" ${NONE}", false), ("${DAYS}", false)]
        {
            assert_eq!(expand(raw, &env).unwrap().is_unset(), unset, "{raw}");
        }
    }

    #[test]
    fn refuses_what_grows_too_long() {
        let env = |_: &str| Some("x".repeat(1024));
        assert_eq!(expand(&"${A}".repeat(64), &env).unwrap().text.len(), TEXT_MAX);
        assert!(expand(&"${A}".repeat(65), &env).unwrap_err().contains("64 KiB"));
        assert_eq!(
            expand(&"x".repeat(TEXT_MAX + 1), &env).unwrap().text.len(),
            TEXT_MAX + 1,
            "the file has its own limit"
        );
    }

    #[test]
    fn refuses_what_is_half_a_variable() {
        for raw in ["${", "${DAYS", "${}", "${1}", "${DAYS-7}", "${DAYS:?no}", "${ DAYS }", "${NONE:-${DAYS}}"] {
            assert!(expand(raw, &env).is_err(), "{raw}");
        }
    }
}
