//! URLs that stand in the file, in a variable, or in a file of their own (`url_file` beside `url`).

use std::{fs::File, io::Read, path::Path};

use super::{
    expand::expand,
    reader::{Found, Item, Section, quoted},
    scalar::Scalar,
    urls::SecretUrl,
};

/// The most bytes of a file that holds one URL.
const FILE_MAX: u64 = 64 * 1024;

impl Section<'_> {
    /// What `convert` makes of the URL at `key`, or of the one in the file that `key_file` names. One must be there.
    pub(super) fn require_url<T>(
        &self,
        key: &'static str,
        key_file: &'static str,
        example: &str,
        convert: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match (self.find(key), self.find(key_file)) {
            (Found::Given(_), Found::Given(file)) => {
                file.refuse(format!("stands beside `{key}`: give one of the two"));
                None
            }
            (Found::Given(item), _) => self.inline_url(&item, convert),
            (_, Found::Given(file)) => self.url_in_file(&file, convert),
            (Found::Refused, _) | (_, Found::Refused) => None,
            (missing, unset) => {
                let missing = if matches!(unset, Found::Unset { .. }) { unset } else { missing };
                self.missing(key, &missing, example);
                None
            }
        }
    }

    fn inline_url<T>(&self, item: &Item<'_>, convert: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let Scalar::Text { raw, expanded } = &item.scalar else {
            item.refuse("must be a string");
            return None;
        };
        // What a variable adds is not in the file.
        let inline = expand(raw, &|_| None).is_ok_and(|bare| SecretUrl::new(bare.text).has_password());
        if inline {
            self.reader.inline_password.set(true);
        }
        let refuse = |rule: String| {
            let shown = shown(&expanded.text, !expanded.vars.is_empty()) + &expanded.origin();
            item.refuse_as(shown, rule);
        };
        convert(&expanded.text).map_err(refuse).ok()
    }

    fn url_in_file<T>(&self, file: &Item<'_>, convert: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let Some(path) = file.scalar.text() else {
            file.refuse("must be a string");
            return None;
        };
        let url = content(&self.reader.folder.join(path)).map_err(|rule| file.refuse(rule)).ok()?;
        let refuse = |rule: String| file.refuse_as(format!("{} with {}", file.shown, shown(&url, true)), rule);
        convert(&url).map_err(refuse).ok()
    }
}

/// A URL as an error shows it. What came from elsewhere and is no URL may be a bare password.
fn shown(url: &str, from_elsewhere: bool) -> String {
    if url.contains("://") || url.contains('@') || !from_elsewhere {
        quoted(&SecretUrl::new(url).to_string())
    } else {
        quoted("***")
    }
}

fn content(path: &Path) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    let mut text = String::new();
    let read =
        File::open(path).map_err(unreadable)?.take(FILE_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    match text.trim_end() {
        _ if read as u64 > FILE_MAX => Err("must be a file of 64 KiB at most".to_owned()),
        "" => Err("is an empty file".to_owned()),
        url => Ok(url.to_owned()),
    }
}
