//! What the client's errors say, in words.

use std::error::Error as _;

use object_store::Error;

/// What the client puts before an error that it has no kind for.
const GENERIC: &str = "Generic S3 error: ";

/// The error with its causes, each said once: some of the client's errors repeat their cause and some hide it.
pub(super) fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// The same for a person: where the server has answered with a document, its code and its message.
pub(super) fn shown(error: &Error) -> String {
    let text = told(error);
    match (element(&text, "Code"), element(&text, "Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        (None, _) => text.replace(GENERIC, ""),
    }
}

/// The text of the first such element, without the dot at its end.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (inner, _) = rest.split_once(&format!("</{name}>"))?;
    Some(inner.trim_end_matches('.')).filter(|inner| !inner.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_document_becomes_its_code_and_message() {
        let of = |text: &str| shown(&Error::Generic { store: "S3", source: text.into() });
        let document =
            "<Error><Code>NoSuchBucket</Code><Message>It does not exist.</Message><HostId>x</HostId></Error>";
        assert_eq!(of(&format!("404 Not Found: {document}")), "NoSuchBucket: It does not exist");
        assert_eq!(of("<Error><Code>SlowDown</Code><Message></Message></Error>"), "SlowDown");
        assert_eq!(of("<Code>cut"), "<Code>cut");
        assert_eq!(of("connection refused"), "connection refused");
    }
}
