//! References become null, and nothing else changes.

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    os::unix::{
        ffi::OsStringExt,
        fs::{MetadataExt, PermissionsExt, symlink},
    },
};

use proptest::{collection::vec, prelude::*, sample::select, test_runner::TestRunner};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

const BACKUPS: &str = ".janitor";

/// A folder with JSON files in it.
struct World {
    temp: TempDir,
    root: Root,
}

impl World {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let root = Root::open(&temp.path().canonicalize().unwrap()).unwrap();
        Self { temp, root }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.temp.path().join(below)
    }

    fn write(&self, below: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(below), text).unwrap();
    }

    fn text(&self, below: &str) -> String {
        fs::read_to_string(self.path(below)).unwrap()
    }

    fn null(&self, sources: &[Source], gone: &[&str]) -> Nulled {
        null(&self.root, sources, gone, Path::new(BACKUPS))
    }

    /// `posts.json` as it is in the middle of an edit.
    fn document(&self) -> Document {
        Document::read(&self.root, &posts(), Access::Write).unwrap()
    }

    /// The names of the backups.
    fn backups(&self) -> BTreeSet<String> {
        match fs::read_dir(self.path(BACKUPS)) {
            Ok(entries) => entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect(),
            Err(error) if error.kind() == ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => panic!("{error}"),
        }
    }
}

fn source(path: &str) -> Source {
    Source { path: path.into(), fields: ["imageUrl", "videoUrl", "variants"].map(str::to_owned).to_vec() }
}

fn posts() -> Source {
    source("posts.json")
}

fn may_go(nulled: &Nulled, files: &[&str]) -> Vec<bool> {
    files.iter().map(|file| nulled.may_go(Path::new(file))).collect()
}

/// The first failure, and no other.
fn failure(nulled: &Nulled) -> &ReferenceError {
    assert_eq!(nulled.failures.len(), 1, "{:?}", nulled.failures);
    &nulled.failures[0]
}

#[test]
fn only_what_names_the_file_becomes_null() {
    let world = World::new();
    world.write(
        "posts.json",
        r#"[
  {"id": "1", "text": "/images/a.png", "imageUrl": "https://cdn/x/images/a.png?v=2", "videoUrl": "/videos/a.png"},
  {"id": "2", "imageUrl": ".data\/images/\u0061.png", "variants": ["/images/a.png", "/images/b.png", 1, "/images/a.png"]}
]
"#,
    );
    let inode = || fs::metadata(world.path("posts.json")).unwrap().ino();
    fs::set_permissions(world.path("posts.json"), fs::Permissions::from_mode(0o640)).unwrap();
    let (before, first) = (world.text("posts.json"), inode());
    let nulled = world.null(&[posts()], &["images/a.png", "images/none.png"]);
    assert_eq!((nulled.references, nulled.failures.len()), (4, 0));
    assert_eq!(may_go(&nulled, &["images/a.png", "images/none.png"]), [true, true]);
    let after = world.text("posts.json");
    assert_eq!(
        after,
        r#"[
  {"id": "1", "text": "/images/a.png", "imageUrl": null                            , "videoUrl": "/videos/a.png"},
  {"id": "2", "imageUrl": null                      , "variants": [null           , "/images/b.png", 1, null           ]}
]
"#
    );
    assert_eq!(inode(), first);
    assert_eq!(fs::metadata(world.path("posts.json")).unwrap().mode() & 0o777, 0o640);
    assert_eq!(world.backups(), BTreeSet::from(["posts.json.1".to_owned()]));
    assert_eq!(world.text(".janitor/posts.json.1"), before);

    assert_eq!(world.null(&[posts()], &["images/a.png"]).references, 0);
    assert_eq!((world.text("posts.json"), world.backups().len()), (after, 1));
}

#[test]
fn reads_what_is_named_and_what_is_not_known() {
    let world = World::new();
    world.write("posts.json", r#"[{"imageUrl": "/images/a.png"}, {"imageUrl": "https://cdn/images/a.png"}]"#);
    world.write("bids.json", r#"{"somebody": {"imageUrl": "/bid-images/1.png"}}"#);
    let answers = |references: &References| {
        ["images/a.png", "bid-images/1.png", "videos/a.png", "../a"].map(|file| references.referenced(Path::new(file)))
    };
    let references = read(&world.root, &[posts(), source("bids.json")]);
    assert_eq!(references.count(Path::new("images/a.png")), 2);
    assert!(references.unread().is_empty());
    assert_eq!(answers(&references), [Referenced::Yes, Referenced::Yes, Referenced::No, Referenced::Unknown]);

    // What cannot be read may name anything.
    world.write("bids.json", r#"{"somebody": {"imageUrl": "/bid-im"#);
    let references = read(&world.root, &[source("bids.json"), posts(), source("none.json")]);
    let unknown = Referenced::Unknown;
    assert_eq!(answers(&references), [Referenced::Yes, unknown, unknown, unknown]);
    assert!(matches!(
        references.unread(),
        [ReferenceError::Malformed { .. }, ReferenceError::Missing { path }] if path == Path::new("none.json")
    ));
}

#[test]
fn a_document_that_is_not_whole_is_left_alone_and_said() {
    let world = World::new();
    for text in
        ["", "[", r#"[{"imageUrl": "/images/a.png"}"#, "[{\"imageUrl\": \"/images/a.png\"}]\0\0", "{\"a\": NaN}"]
    {
        world.write("posts.json", text);
        world.write("other.json", r#"{"imageUrl": "/images/a.png"}"#);
        let nulled = world.null(&[posts(), source("other.json")], &["images/a.png"]);
        assert!(matches!(failure(&nulled), ReferenceError::Malformed { .. }), "{nulled:?}");
        assert_eq!(failure(&nulled).path(), Path::new("posts.json"));
        assert_eq!(may_go(&nulled, &["images/a.png", "images/b.png"]), [false, false]);
        assert_eq!(world.text("posts.json"), text);
        // The other one is served all the same.
        assert_eq!((nulled.references, world.text("other.json").contains("null")), (1, true));
    }
}

#[test]
fn a_document_that_is_not_there_names_nothing() {
    let world = World::new();
    let nulled = world.null(&[posts(), source("no/folder.json")], &["images/a.png"]);
    assert_eq!((nulled.references, nulled.failures.len()), (0, 0));
    assert_eq!(may_go(&nulled, &["images/a.png", "../a"]), [true, false]);
    assert!(world.backups().is_empty());
}

#[test]
fn what_is_no_file_is_neither_followed_nor_waited_for() {
    let world = World::new();
    let outside = World::new();
    let text = r#"{"imageUrl": "/images/a.png"}"#;
    outside.write("posts.json", text);
    let is_refused = |path: &str, is_right: fn(&ReferenceError) -> bool| {
        let nulled = world.null(&[source(path)], &["images/a.png"]);
        assert!(is_right(failure(&nulled)), "{path}: {:?}", nulled.failures);
        assert_eq!(may_go(&nulled, &["images/a.png"]), [false]);
        assert_eq!(outside.text("posts.json"), text);
    };
    let no_file = |error: &ReferenceError| matches!(error, ReferenceError::NoFile { .. });
    let unread = |error: &ReferenceError| matches!(error, ReferenceError::Read { .. });
    symlink(outside.path("posts.json"), world.path("link.json")).unwrap();
    is_refused("link.json", unread);
    symlink(outside.temp.path(), world.path("linked")).unwrap();
    is_refused("linked/posts.json", unread);
    is_refused(&format!("../{}/posts.json", outside.temp.path().file_name().unwrap().display()), unread);
    fs::create_dir(world.path("folder.json")).unwrap();
    is_refused("folder.json", no_file);
    mknodat(CWD, world.path("pipe.json"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    is_refused("pipe.json", no_file);
}

#[test]
fn what_is_too_large_or_too_deep_is_left_alone() {
    let world = World::new();
    world.write("posts.json", format!("{}{}", "[".repeat(200), "]".repeat(200)));
    assert!(matches!(failure(&world.null(&[posts()], &["images/a.png"])), ReferenceError::Deep { .. }));
    fs::File::create(world.path("posts.json")).unwrap().set_len(document::SIZE_MAX + 1).unwrap();
    assert!(matches!(failure(&world.null(&[posts()], &["images/a.png"])), ReferenceError::Large { .. }));
}

#[test]
fn without_a_backup_what_is_named_stays_and_the_rest_may_go() {
    let world = World::new();
    let text = r#"[{"imageUrl": "/images/a.png"}, {"imageUrl": "/images/b.png"}]"#;
    world.write("posts.json", text);
    world.write(BACKUPS, "a file where the folder would be");
    let nulled = world.null(&[posts()], &["images/a.png", "images/c.png"]);
    let error = failure(&nulled);
    assert!(matches!(error, ReferenceError::Backup { .. }), "{error:?}");
    assert_eq!(error.to_string(), "posts.json: no backup could be made in .janitor, so what it names stays");
    assert_eq!(may_go(&nulled, &["images/a.png", "images/c.png"]), [false, true]);
    assert_eq!((world.text("posts.json"), nulled.references), (text.to_owned(), 0));
}

#[test]
fn what_was_changed_in_place_meanwhile_is_not_overwritten() {
    let world = World::new();
    let text = r#"[{"imageUrl": "/images/a.png"}, {"imageUrl": "/images/b.png"}]"#;
    for (changed, expected) in [
        // The second reference is another one, of the same length.
        (
            text.replace("b.png", "c.png"),
            r#"[{"imageUrl": null           }, {"imageUrl": "/images/c.png"}]"#.to_owned(),
        ),
        // Something was put before both.
        (text.replace('[', "[{}, "), text.replace('[', "[{}, ")),
        // It was cut to write it anew.
        (String::new(), String::new()),
        (text[..20].to_owned(), text[..20].to_owned()),
    ] {
        world.write("posts.json", text);
        let document = world.document();
        let ranges: Vec<_> = document.tokens().iter().map(|token| token.range.clone()).collect();
        world.write("posts.json", changed);
        assert!(document.overwrite(&ranges, || Ok(true)).unwrap() < 2);
        assert_eq!(world.text("posts.json"), expected);
    }
}

#[test]
fn one_who_holds_the_file_open_is_waited_for_but_not_for_ever() {
    let world = World::new();
    let text = r#"{"imageUrl": "/images/a.png"}"#;
    world.write("posts.json", text);
    let _held = fs::File::open(world.path("posts.json")).unwrap();
    let document = world.document();
    let ranges = [document.tokens()[0].range.clone()];
    // Nobody waits for a file that is not the path's any more.
    assert_eq!(document.overwrite(&ranges, || Ok(false)).unwrap(), 0);
    assert_eq!(world.text("posts.json"), text);
    assert_eq!(document.overwrite(&ranges, || Ok(true)).unwrap(), 1);
    assert_eq!(world.text("posts.json"), r#"{"imageUrl": null           }"#);
}

#[test]
fn what_was_renamed_over_it_meanwhile_is_seen() {
    let world = World::new();
    world.write("posts.json", "[]");
    let is_at = |document: &Document| document.is_at(&world.root, "posts.json".as_ref()).unwrap();
    let document = world.document();
    assert!(is_at(&document));
    world.write("posts.json.tmp", "[]");
    fs::rename(world.path("posts.json.tmp"), world.path("posts.json")).unwrap();
    assert!(!is_at(&document));
    let document = world.document();
    fs::remove_file(world.path("posts.json")).unwrap();
    assert!(is_at(&document));
}

#[test]
fn names_of_any_bytes_become_null() {
    let world = World::new();
    world.write("posts.json", r#"[{"imageUrl": "/images/%FF%0A.png"}, {"imageUrl": "/images/a\n\"b.png"}]"#);
    let gone =
        [&b"images/\xff\n.png"[..], b"images/a\n\"b.png"].map(|name| std::ffi::OsString::from_vec(name.to_vec()));
    let nulled = null(&world.root, &[posts()], gone, Path::new(BACKUPS));
    assert_eq!(nulled.references, 2);
    let after: Value = serde_json::from_str(&world.text("posts.json")).unwrap();
    assert_eq!(after, json!([{"imageUrl": null}, {"imageUrl": null}]));
}

/// Strings with whether they name `images/a.png`.
const TEXTS: [(&str, bool); 12] = [
    ("/images/a.png", true),
    ("https://cdn/x/images/a.png?v=1#top", true),
    (".data/images/a.png", true),
    ("ä\"\\\u{1f600}/images/a.png", true),
    ("/images/%61.png", true),
    ("/videos/a.png", false),
    ("/images/b.png", false),
    ("a.png", false),
    ("", false),
    ("null", false),
    ("[{\"imageUrl\": \"/images/a.png\"}]", false),
    ("ä\n\u{1f600}", false),
];

/// A document as somebody may have written it.
#[derive(Clone, Debug)]
enum Doc {
    Word(&'static str),
    /// A string, and whether all of it is escaped.
    Text(usize, bool),
    Array(Vec<Doc>),
    Object(Vec<(&'static str, bool, Doc)>),
}

impl Doc {
    fn any() -> impl Strategy<Value = Self> {
        let word = select(vec!["null", "true", "0", "-1.5e9", "1e999", "\"\\ud83d\""]).prop_map(Self::Word);
        let text = (0..TEXTS.len(), any::<bool>()).prop_map(|(text, is_escaped)| Self::Text(text, is_escaped));
        prop_oneof![1 => word, 3 => text].prop_recursive(6, 60, 6, |inner| {
            let key = select(vec!["imageUrl", "variants", "text", "imageurl", "ä\"", ""]);
            prop_oneof![
                vec(inner.clone(), 0..6).prop_map(Self::Array),
                vec((key, any::<bool>(), inner), 0..6).prop_map(Self::Object),
            ]
        })
    }

    /// Writes the document down; answers how many references it has. With `is_after` they are null.
    fn write(&self, is_named: bool, is_after: bool, to: &mut String) -> u64 {
        match self {
            Self::Word(word) => to.push_str(word),
            Self::Text(text, is_escaped) => {
                let (text, is_reference) = TEXTS[*text];
                let token = quoted(text, *is_escaped);
                if is_reference && is_named {
                    let null = format!("{:1$}", "null", token.len());
                    to.push_str(if is_after { &null } else { &token });
                    return 1;
                }
                to.push_str(&token);
            }
            Self::Array(items) => {
                to.push('[');
                let mut count = 0;
                for (at, item) in items.iter().enumerate() {
                    to.push_str(if at == 0 { "\n  " } else { ",\n  " });
                    count += item.write(is_named, is_after, to);
                }
                to.push(']');
                return count;
            }
            Self::Object(fields) => {
                to.push('{');
                let mut count = 0;
                for (at, (key, is_escaped, value)) in fields.iter().enumerate() {
                    to.push_str(if at == 0 { " " } else { " , " });
                    to.push_str(&quoted(key, *is_escaped));
                    to.push_str(": ");
                    count += value.write(["imageUrl", "variants"].contains(key), is_after, to);
                }
                to.push('}');
                return count;
            }
        }
        0
    }
}

fn quoted(text: &str, is_escaped: bool) -> String {
    if !is_escaped {
        return serde_json::to_string(text).unwrap();
    }
    let units: Vec<_> = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
    format!("\"{}\"", units.concat())
}

#[test]
fn in_any_document_the_references_and_nothing_else_become_null() {
    let world = World::new();
    let mut runner = TestRunner::new(ProptestConfig { cases: 100, failure_persistence: None, ..Default::default() });
    let run = runner.run(&(Doc::any(), any::<bool>()), |(document, has_mark)| {
        let mark = if has_mark { "\u{feff}" } else { "" };
        let [(before, count), (after, _)] = [false, true].map(|is_after| {
            let mut text = mark.to_owned();
            let count = document.write(false, is_after, &mut text);
            (text, count)
        });
        world.write("posts.json", &before);
        prop_assert_eq!(read(&world.root, &[posts()]).count(Path::new("images/a.png")), count);
        let nulled = world.null(&[posts()], &["images/a.png"]);
        prop_assert!(nulled.may_go(Path::new("images/a.png")));
        prop_assert_eq!(nulled.references, count);
        prop_assert_eq!(world.text("posts.json"), &*after);
        // `1e999` and halves of surrogate pairs are JSON, though no value.
        prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(after.strip_prefix(mark).unwrap()).is_ok());
        prop_assert_eq!(read(&world.root, &[posts()]).count(Path::new("images/a.png")), 0);
        Ok(())
    });
    run.unwrap();
}
