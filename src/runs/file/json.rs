//! Takes the fields of a JSON object apart without reading the rest.
//!
//! PyWorkflow writes what JSON has no word for, such as `NaN` in a run's context: what nobody asks for is skipped. A file
//! that is being written is cut short, and an object that is cut short has no end: it is no object.

/// The values of `keys` in the object that `text` is, as they are written; `None` where it is no whole object.
pub(super) fn fields<'a, const N: usize>(text: &'a [u8], keys: [&str; N]) -> Option<[Option<&'a [u8]>; N]> {
    let mut found = [None; N];
    each_field(text, |key, value| {
        let key = &key[1..key.len() - 1];
        if let Some(at) = keys.iter().position(|wanted| wanted.as_bytes() == key) {
            found[at] = Some(value);
        }
    })?;
    Some(found)
}

/// Shows each key, in its quotes, with its value, as they are written; `None` where `text` is no whole object.
pub(super) fn each_field<'a>(text: &'a [u8], mut show: impl FnMut(&'a [u8], &'a [u8])) -> Option<()> {
    let mut rest = space(space(text).strip_prefix(b"{")?);
    if let Some(end) = rest.strip_prefix(b"}") {
        return space(end).is_empty().then_some(());
    }
    loop {
        let (key, after) = value(space(rest)).filter(|(key, _)| key.starts_with(b"\""))?;
        let (value, after) = value(space(space(after).strip_prefix(b":")?))?;
        show(key, value);
        match space(after).split_first()? {
            (b',', after) => rest = after,
            (b'}', after) => return space(after).is_empty().then_some(()),
            _ => return None,
        }
    }
}

/// The items of the array that `text` is, as they are written; `None` where it is no whole array.
pub(super) fn items(text: &[u8]) -> Option<Vec<&[u8]>> {
    let mut found = Vec::new();
    let mut rest = space(space(text).strip_prefix(b"[")?);
    if let Some(end) = rest.strip_prefix(b"]") {
        return space(end).is_empty().then_some(found);
    }
    loop {
        let (item, after) = value(space(rest))?;
        found.push(item);
        match space(after).split_first()? {
            (b',', after) => rest = after,
            (b']', after) => return space(after).is_empty().then_some(found),
            _ => return None,
        }
    }
}

/// A value that may be text: `Ok(None)` where it is absent or null, `Err` where it is something else.
pub(super) fn text(value: Option<&[u8]>) -> Result<Option<String>, NotText> {
    value.map_or(Ok(None), |value| serde_json::from_slice::<Option<String>>(value).map_err(|_| NotText))
}

/// A number, an object, or text that is not Unicode.
#[derive(Debug)]
pub(super) struct NotText;

fn space(text: &[u8]) -> &[u8] {
    text.trim_ascii_start()
}

/// The value that `text` begins with, and what follows.
fn value(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        match *text.get(at)? {
            b'"' => at = string_end(text, at + 1)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                at += 1;
            }
            _ if depth > 0 => {
                at += 1;
                continue;
            }
            b',' | b':' | b'}' | b']' => return None,
            _ => at += text[at..].iter().position(|byte| b",:]} \t\r\n".contains(byte))?,
        }
        if depth == 0 {
            return Some(text.split_at(at));
        }
    }
}

/// Where the string ends whose first character is at `at`.
fn string_end(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += text.get(at..)?.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
        if text[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The id in an object; empty where it has none, and none where it is no object.
    fn id(text: &str) -> Option<String> {
        fields(text.as_bytes(), ["run_id"]).map(|[id]| super::text(id).unwrap().unwrap_or_default())
    }

    #[test]
    fn finds_a_field_of_the_object_itself_only() {
        let run = r#" {"context": {"run_id": "inner", "x": [1, {"y": "}\"]"}]}, "run_id": "a\"b\u00e4", "z": NaN} "#;
        assert_eq!(id(run), Some("a\"bä".to_owned()));
        assert_eq!(id(r#"{"run_id": null}"#), Some(String::new()));
        assert_eq!(id("{}"), Some(String::new()));
        assert_eq!(id(r#"{"run_id": "first", "run_id": "last"}"#), Some("last".to_owned()));
    }

    #[test]
    fn reads_nothing_into_what_was_cut_short() {
        let run = r#"{"run_id": "a", "context": {"x": [-Infinity, 1.5e9, true]}, "error": "b\\"}"#;
        assert_eq!(id(run), Some("a".to_owned()));
        for end in 0..run.len() {
            assert_eq!(id(&run[..end]), None, "{:?}", &run[..end]);
        }
        for text in ["null", "[]", "\"run_id\"", "{\"run_id\"}", "{\"run_id\": }", "{\"run_id\": 1,}", "{} {}", "{} x"]
        {
            assert_eq!(id(text), None, "{text}");
        }
    }

    #[test]
    fn tells_what_is_no_text() {
        for value in ["1", "true", "[\"a\"]", "\"\\ud800\""] {
            assert!(text(Some(value.as_bytes())).is_err(), "{value}");
        }
    }

    #[test]
    fn takes_an_array_apart() {
        let list = r#" [ {"a": [1, 2]}, "x,]", NaN ] "#;
        assert_eq!(items(list.as_bytes()).unwrap(), [&b"{\"a\": [1, 2]}"[..], b"\"x,]\"", b"NaN"]);
        assert_eq!(items(b"[]").unwrap(), [b""; 0]);
        for end in 1..list.len() - 1 {
            assert!(items(&list.as_bytes()[..end]).is_none());
        }
    }
}
