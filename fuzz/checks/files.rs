//! Files that others write: what cannot be read stays as it is, and what is changed is what it was.

use std::{fs, path::Path, sync::OnceLock, time::Duration};

use apalis_janitor::{
    host::{
        Root,
        references::{Source, null, read},
    },
    lock::Fence,
    runs::{RunStore, file::FileStore, layout::PYWORKFLOW},
};
use chrono::{DateTime, Utc};

/// Between the files in the input.
const BETWEEN: u8 = 0xff;
const LIMIT: Duration = Duration::from_secs(1);

/// The files of the input, in this order.
const FILES: [&str; 6] = [
    "runs/a.json",
    "signals/s.json",
    "subscriptions/b.json",
    "schedules/c.json",
    "_token_index.json",
    "hooks/a_h.json",
];

pub fn check(data: &[u8]) {
    let parts: Vec<&[u8]> = data.split(|byte| *byte == BETWEEN).collect();
    let folder = tempfile::tempdir_in(home()).expect("a folder");
    references(folder.path(), parts[0]);
    for name in
        ["runs", "events", "steps", "hooks", "schedules", "signals", "subscriptions", "acknowledgments", ".locks"]
    {
        fs::create_dir(folder.path().join(name)).expect("a folder");
    }
    for (name, part) in FILES.iter().zip(&parts) {
        fs::write(folder.path().join(name), part).expect("a file");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(sweep(folder.path(), parts[0]));
}

/// In memory where there is such a place.
fn home() -> &'static Path {
    static HOME: OnceLock<&Path> = OnceLock::new();
    HOME.get_or_init(|| Some(Path::new("/dev/shm")).filter(|path| path.is_dir()).unwrap_or(Path::new("/tmp")))
}

async fn sweep(folder: &Path, run: &[u8]) {
    let store = FileStore::open(folder, &PYWORKFLOW).await.expect("a store");
    let page = store.page(DateTime::<Utc>::MAX_UTC, None, 10).await.expect("a page");
    let found = store.find(&["a".to_owned()]).await.expect("an answer");
    let fence = Fence::for_test(1);
    store.raise("job", fence).await.expect("a first fence");
    // Nothing is ever due that could not be read.
    let deleted = store.delete("job", fence, &page.runs, LIMIT).await.expect("a batch");
    let is_there = fs::read(folder.join(FILES[0])).is_ok_and(|now| now == run);
    assert_eq!(is_there, deleted.runs.is_empty());
    assert!(deleted.runs.is_empty() || found.iter().any(|seen| seen.id == "a"));
    let mut after = None;
    for _ in 0..100 {
        let step = store.loose(Utc::now(), after.as_ref(), Some(("job", fence)), LIMIT).await.expect("a step");
        after = step.next;
        if after.is_none() {
            break;
        }
    }
    store.rest().await;
    store.check().await.expect("findings");
}

/// A document that refers to media: it is as long as before, and JSON where it was. One that is not whole is waited for, so
/// that few of those are tried.
fn references(folder: &Path, text: &[u8]) {
    let is_whole = serde_json::from_slice::<&serde_json::value::RawValue>(text.trim_ascii_start()).is_ok();
    if !is_whole && !text.len().is_multiple_of(16) {
        return;
    }
    let path = folder.join("posts.json");
    fs::write(&path, text).expect("a file");
    let root = Root::open(&folder.canonicalize().expect("a path")).expect("a root");
    let posts = [Source { path: "posts.json".into(), fields: vec!["imageUrl".to_owned(), "v".to_owned()] }];
    let before = read(&root, &posts);
    let nulled = null(&root, &posts, ["images/a.png"], Path::new(".janitor"));
    let now = fs::read(&path).expect("it is there");
    if before.unread().is_empty() {
        assert!(now.len() == text.len() && nulled.may_go(Path::new("images/a.png")));
        assert_eq!(read(&root, &posts).count(Path::new("images/a.png")), 0);
        assert_eq!(nulled.references == 0, now == text);
    } else {
        assert!(now == text && !nulled.may_go(Path::new("images/a.png")));
    }
    fs::remove_file(path).expect("a file");
}
