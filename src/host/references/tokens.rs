//! The strings that the named fields of a JSON document hold, with where they stand in it.
//!
//! The parser is `serde_json`: what it takes as raw text is checked and borrowed from the document, so that its address says
//! where it stands. Nothing but the keys and the wanted strings is decoded, so that a number that is too large or half of a
//! surrogate pair somewhere else in the document is in nobody's way.

use std::{borrow::Cow, fmt, ops::Range};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// How deep objects and arrays may nest.
pub(super) const DEPTH_MAX: usize = 128;
/// The bytes of `null`: in a shorter token there is no room for it.
const TOKEN_MIN: usize = 4;
/// What some editors put before a text.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// A string in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// Its bytes in the document, quotes included: four at least.
    pub(super) range: Range<usize>,
    /// What it says. Half of a surrogate pair is as it would be in UTF-8.
    pub(super) value: Vec<u8>,
}

/// Why a document was not read.
#[derive(Debug)]
pub(super) enum Unread {
    /// It is not JSON, or not all of it is there.
    Malformed(serde_json::Error),
    /// It nests deeper than [`DEPTH_MAX`].
    Deep,
}

/// The strings that fields of these names hold, at any depth: the field's own value, or the items of its array, of the arrays
/// in that too. An object in such a field has fields of its own, with their own names. A key that comes twice counts twice.
pub(super) fn scan(document: &[u8], fields: &[String]) -> Result<Vec<Token>, Unread> {
    let text = document.strip_prefix(BYTE_ORDER_MARK).unwrap_or(document);
    let whole: &RawValue = serde_json::from_slice(text).map_err(Unread::Malformed)?;
    let mut walk = Walk { start: document.as_ptr().addr(), fields, found: Vec::new(), is_deep: false };
    walk.value(whole, false, 0).map_err(Unread::Malformed)?;
    if walk.is_deep { Err(Unread::Deep) } else { Ok(walk.found) }
}

/// A walk through a document that is known to be whole.
struct Walk<'f> {
    /// The address of the document.
    start: usize,
    fields: &'f [String],
    found: Vec<Token>,
    is_deep: bool,
}

impl Walk<'_> {
    fn value(&mut self, value: &RawValue, is_named: bool, depth: usize) -> serde_json::Result<()> {
        let text = value.get();
        let mut document = serde_json::Deserializer::from_str(text);
        match text.as_bytes().first() {
            Some(b'"') if is_named && text.len() >= TOKEN_MIN => {
                let Text(value) = Text::deserialize(&mut document)?;
                let start = text.as_ptr().addr() - self.start;
                self.found.push(Token { range: start..start + text.len(), value: value.into_owned() });
                Ok(())
            }
            Some(b'{' | b'[') if depth == DEPTH_MAX => {
                self.is_deep = true;
                Ok(())
            }
            Some(b'{') => document.deserialize_map(Fields { walk: self, depth: depth + 1 }),
            Some(b'[') => document.deserialize_seq(Items { walk: self, is_named, depth: depth + 1 }),
            _ => Ok(()),
        }
    }
}

/// Walks through the fields of an object.
struct Fields<'w, 'f> {
    walk: &'w mut Walk<'f>,
    depth: usize,
}

impl<'de> Visitor<'de> for Fields<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((Text(key), value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
            let is_named = self.walk.fields.iter().any(|field| field.as_bytes() == &*key);
            self.walk.value(value, is_named, self.depth).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

/// Walks through the items of an array.
struct Items<'w, 'f> {
    walk: &'w mut Walk<'f>,
    is_named: bool,
    depth: usize,
}

impl<'de> Visitor<'de> for Items<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(value) = items.next_element::<&'de RawValue>()? {
            self.walk.value(value, self.is_named, self.depth).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

/// A decoded string, as bytes: a writer that cut its text in the middle of an emoji left half of a surrogate pair.
struct Text<'a>(Cow<'a, [u8]>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(TextBytes)
    }
}

struct TextBytes;

impl<'de> Visitor<'de> for TextBytes {
    type Value = Text<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed(bytes)))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(bytes.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a document holds in `imageUrl` and `variants`, each as its token and its value.
    fn found(document: &str) -> Vec<(&str, String)> {
        let tokens = scan(document.as_bytes(), &["imageUrl".to_owned(), "variants".to_owned()]).unwrap();
        let shown = |token: Token| (&document[token.range], String::from_utf8(token.value).unwrap());
        tokens.into_iter().map(shown).collect()
    }

    fn is_malformed(document: &[u8]) -> bool {
        matches!(scan(document, &["a".to_owned()]), Err(Unread::Malformed(_)))
    }

    #[test]
    fn finds_the_named_fields_at_any_depth() {
        let document = r#" [ {"imageUrl" : "/images/a.png", "text": "imageUrl", "other": "/images/b.png"},
            {"x": {"y": [[{"imageUrl": "deep"}]]}, "imageUrl": null}, {"imageUrl": 12345, "z": "imageUrl"} ] "#;
        let expected = [("\"/images/a.png\"", "/images/a.png".to_owned()), ("\"deep\"", "deep".to_owned())];
        assert_eq!(found(document), expected);
    }

    #[test]
    fn finds_each_string_of_an_array_in_a_named_field() {
        let document = r#"{"variants": ["one", 2, null, ["two"], {"three": "no", "imageUrl": "four"}], "not": ["no"]}"#;
        let values: Vec<_> = found(document).into_iter().map(|(_, value)| value).collect();
        assert_eq!(values, ["one", "two", "four"]);
    }

    #[test]
    fn decodes_keys_and_values_but_not_tokens() {
        let document = r#"{"image\u0055rl": "\/images\/\u00e4.png", "imageUrl": "ä\n"}"#;
        let expected = [(r#""\/images\/\u00e4.png""#, "/images/ä.png".to_owned()), (r#""ä\n""#, "ä\n".to_owned())];
        assert_eq!(found(document), expected);
    }

    #[test]
    fn counts_a_key_that_comes_twice_twice() {
        let values: Vec<_> = found(r#"{"imageUrl": "one", "imageUrl": "two"}"#).into_iter().map(|(_, v)| v).collect();
        assert_eq!(values, ["one", "two"]);
    }

    #[test]
    fn leaves_out_tokens_without_room_for_null() {
        assert_eq!(
            found(r#"[{"imageUrl": ""}, {"imageUrl": "a"}, {"imageUrl": "ab"}]"#),
            [("\"ab\"", "ab".to_owned())]
        );
    }

    #[test]
    fn a_byte_order_mark_moves_what_follows() {
        let document = "\u{feff}{\"imageUrl\": \"/images/a.png\"}";
        assert_eq!(found(document), [("\"/images/a.png\"", "/images/a.png".to_owned())]);
    }

    #[test]
    fn half_a_surrogate_pair_and_a_large_number_are_in_nobodys_way() {
        let document = r#"{"text": "\ud83d", "\udc00": 1e999, "imageUrl": "/images/a.png"}"#;
        assert_eq!(found(document), [("\"/images/a.png\"", "/images/a.png".to_owned())]);
        let tokens = scan(br#"{"imageUrl": "\ud83d"}"#, &["imageUrl".to_owned()]).unwrap();
        assert_eq!(tokens, [Token { range: 13..21, value: b"\xed\xa0\xbd".to_vec() }]);
    }

    #[test]
    fn what_was_cut_short_is_malformed() {
        let document = r#"[{"a": "/images/ä.png", "b": [1.5, true, {"c": "\u00e4"}]}]"#.as_bytes();
        assert!(!is_malformed(document));
        for end in 0..document.len() {
            assert!(is_malformed(&document[..end]), "{}", String::from_utf8_lossy(&document[..end]));
        }
    }

    #[test]
    fn what_is_no_json_is_malformed() {
        let texts: [&[u8]; 11] = [
            b"{} {}",
            b"[1,]",
            b"{\"a\": 1,}",
            b"{a: 1}",
            b"[NaN]",
            b"[01]",
            b"[\"\n\"]",
            b"[\"\\x\"]",
            b"[\"\xff\"]",
            b"// comment\n[]",
            b"[]\0\0\0\0",
        ];
        for text in texts {
            assert!(is_malformed(text), "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn nests_as_deep_as_it_may_and_no_deeper() {
        let nested = |depth: usize| {
            let document = format!("{}{{\"a\": \"deep\"}}{}", "[".repeat(depth - 1), "]".repeat(depth - 1));
            scan(document.as_bytes(), &["a".to_owned()])
        };
        assert_eq!(nested(DEPTH_MAX).unwrap().len(), 1);
        assert!(matches!(nested(DEPTH_MAX + 1), Err(Unread::Deep)));
        // As deep as this it may neither end the process nor take its time.
        assert!(matches!(nested(100_000), Err(Unread::Deep)));
    }
}
