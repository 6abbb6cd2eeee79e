//! The direction of the crate: each room imports from the rooms below it, and only some rooms name a foreign crate.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Each room with those that it may import, all of which stand below it.
const ROOMS: [(&str, &[&str]); 19] = [
    ("connect", &["janitor", "embedded", "queue", "lock", "ledger", "config", "link", "clock"]),
    ("worker", &["janitor", "beat", "jobs", "queue", "ledger", "config", "report", "clock"]),
    ("beat", &["janitor", "queue", "ledger", "config", "report", "clock"]),
    // What serves the numbers; what counts them is `metrics`.
    ("metrics server", &["janitor", "metrics", "queue", "ledger", "report"]),
    (
        "janitor",
        &["jobs", "runs", "blobs", "volumes", "metrics", "queue", "lock", "ledger", "config", "report", "clock"],
    ),
    ("jobs", &["runs", "blobs", "host", "volumes", "lock", "ledger", "config", "report", "clock"]),
    ("runs", &["lock", "config", "report", "clock"]),
    ("blobs", &["config", "clock"]),
    ("host", &["report", "clock"]),
    ("volumes", &["config", "clock"]),
    ("metrics", &["queue", "report"]),
    // The one file of the embedded mode, with the queue, the lock and the ledger that live in it.
    ("embedded", &["queue", "lock", "ledger", "report", "clock"]),
    ("queue", &["ledger", "link", "report", "clock"]),
    ("lock", &["link", "report", "clock"]),
    ("ledger", &["link", "report", "clock"]),
    ("config", &["link"]),
    ("report", &[]),
    ("link", &[]),
    ("clock", &[]),
];

/// Foreign crates with the places that may name them.
const FOREIGN: [(&str, &[&str]); 14] = [
    ("apalis", &["queue", "worker", "beat"]),
    ("apalis_core", &["queue", "worker", "beat"]),
    ("sqlx", &["runs", "blobs/catalog", "volumes/marks", "embedded"]),
    ("object_store", &["blobs/objects"]),
    ("bollard", &["volumes/docker"]),
    ("aws_config", &["runs/dynamodb"]),
    ("aws_sdk_dynamodb", &["runs/dynamodb"]),
    ("aws_smithy_http_client", &["runs/dynamodb"]),
    ("redis", &["link", "lock/redis", "ledger/redis", "queue/redis"]),
    ("deadpool_redis", &["link"]),
    ("libc", &["host/lease"]),
    ("flate2", &["host/rotate/generations"]),
    ("axum", &["metrics server"]),
    ("prometheus_client", &["metrics"]),
];

/// A source file: its path below `src` without `.rs`, and its code without comments and tests.
struct Source {
    path: String,
    code: String,
}

/// All files of Rust below a folder of the crate.
fn files(below: &str) -> Vec<PathBuf> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(below)];
    let mut files: Vec<PathBuf> = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn sources() -> Vec<Source> {
    let (root, files) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), files("src"));
    let name = |path: &Path| path.strip_prefix(&root).unwrap().with_extension("").display().to_string();
    let sources = files.iter().map(|path| Source { path: name(path), code: code(&fs::read_to_string(path).unwrap()) });
    // Tests and the suites that are tests may reach for anything; `lib` names all rooms.
    let is_test = |path: &str| path.ends_with("tests") || path.contains("/conformance");
    sources.filter(|source| source.path != "lib" && !is_test(&source.path)).collect()
}

/// The text without comments, attributes and what follows `#[cfg(test)]` at the end of a file.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let is_code = |line: &&str| !line.trim_start().starts_with("//") && !line.trim_start().starts_with("#[");
    text.lines().filter(is_code).collect::<Vec<_>>().join("\n")
}

/// The module path of a file: `queue/backend/mod` is `queue::backend`.
fn module(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| *part != "mod").collect()
}

/// The room of a path below the crate's root; none where it is no room's.
fn room(path: &[&str]) -> Option<&'static str> {
    let name = match path {
        ["execute" | "janitor" | "Janitor" | "UnknownJob" | "RunError" | "Ask" | "Ended" | "Next", ..] => "janitor",
        ["handle" | "run_worker", ..] => "worker",
        ["ConnectError", ..] => "connect",
        ["queue" | "lock" | "ledger", "sqlite", ..] => "embedded",
        ["metrics", "server" | "Server" | "off", ..] => "metrics server",
        [first, ..] => first.strip_suffix("_conformance").unwrap_or(first),
        [] => return None,
    };
    ROOMS.iter().map(|(room, _)| *room).find(|room| *room == name)
}

/// Every path that begins with `start`, such as `crate::`, with its groups taken apart.
fn paths(code: &str, start: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(start) {
        let is_whole = !code[..at].ends_with(|before: char| before.is_alphanumeric() || "_:$".contains(before));
        if is_whole {
            tree(&code[at + start.len()..], &mut Vec::new(), &mut found);
        }
    }
    found
}

/// Reads `a::{b, c::d}` and what is like it; answers the rest of the text.
fn tree<'a>(text: &'a str, above: &mut Vec<String>, found: &mut Vec<Vec<String>>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start();
            if let Some(after) = rest.strip_prefix('}') {
                return after;
            }
            rest = tree(rest, above, found).trim_start();
            match rest.strip_prefix(',') {
                Some(after) => rest = after,
                None if rest.starts_with('}') => {}
                None => return rest,
            }
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    above.push(name.to_owned());
    let rest = match rest.strip_prefix("::") {
        Some(below) if !below.starts_with(['<', '*']) => tree(below, above, found),
        // Type arguments, or all that is there: the path ends.
        Some(_) | None => {
            found.push(above.clone());
            rest
        }
    };
    above.pop();
    rest
}

/// What a file imports, as paths below the crate's root.
fn imports(source: &Source) -> Vec<Vec<String>> {
    let mut all = paths(&source.code, "crate::");
    let own = module(&source.path);
    for (ups, start) in ["super::", "super::super::", "super::super::super::"].iter().enumerate() {
        let Some(base) = own.len().checked_sub(ups + 1) else { continue };
        let below = paths(&source.code, start).into_iter().filter(|path| path[0] != "super");
        all.extend(below.map(|path| own[..base].iter().map(|part| (*part).to_owned()).chain(path).collect()));
    }
    all
}

#[test]
fn the_list_of_rooms_has_no_way_up() {
    for (at, (room, below)) in ROOMS.iter().enumerate() {
        for import in *below {
            assert!(
                ROOMS[at + 1..].iter().any(|(name, _)| name == import),
                "{room} may import {import}, which is above"
            );
        }
    }
}

#[test]
fn no_room_imports_from_above() {
    let mut seen = BTreeSet::new();
    for source in sources() {
        let own =
            room(&module(&source.path)).unwrap_or_else(|| panic!("src/{}.rs is in no room: name it", source.path));
        for path in imports(&source) {
            let names: Vec<_> = path.iter().map(String::as_str).collect();
            let Some(theirs) = room(&names) else { continue };
            seen.insert((own, theirs));
            let (_, allowed) = ROOMS.iter().find(|(room, _)| *room == own).unwrap();
            let told = names.join("::");
            assert!(
                theirs == own || allowed.contains(&theirs),
                "src/{}.rs ({own}) imports {told} ({theirs})",
                source.path
            );
        }
    }
    // The test itself: these are there, so their like would be found.
    for edge in [
        ("jobs", "runs"),
        ("jobs", "blobs"),
        ("runs", "lock"),
        ("embedded", "lock"),
        ("janitor", "jobs"),
        ("worker", "janitor"),
    ] {
        assert!(seen.contains(&edge), "{edge:?} was not found: {seen:?}");
    }
}

#[test]
fn few_rooms_name_a_foreign_crate() {
    for source in sources() {
        let own = room(&module(&source.path)).unwrap();
        for (name, places) in FOREIGN {
            let is_named = !paths(&source.code, &format!("{name}::")).is_empty();
            let is_allowed = places.iter().any(|place| *place == own || source.path.starts_with(place));
            assert!(!is_named || is_allowed, "src/{}.rs ({own}) names {name}", source.path);
        }
    }
}

#[test]
fn one_block_is_unsafe() {
    // The lint denies all of it, but for who says otherwise.
    assert!(include_str!("../../Cargo.toml").contains("[lints.rust]\nunsafe_code = \"deny\"\n"));
    let mut allowed = Vec::new();
    for path in ["src", "workers", "benches", "tests"].iter().flat_map(|folder| files(folder)) {
        let text = fs::read_to_string(&path).unwrap();
        let own = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().display().to_string();
        let is_named = |line: &&str| line.contains("unsafe_code") && own != "tests/it/layers.rs";
        allowed.extend(text.lines().filter(is_named).map(|line| format!("{own}: {}", line.trim())));
    }
    let lease = "src/host/lease.rs: #[expect(unsafe_code, reason = \"no safe function has these commands\")]";
    assert_eq!(allowed, [lease]);
    let text = include_str!("../../src/host/lease.rs");
    let is_block =
        |line: &&str| line.contains("unsafe {") || line.contains("unsafe fn") || line.contains("unsafe impl");
    assert_eq!(text.lines().filter(is_block).count(), 1);
    assert!(text.contains("// SAFETY: "));
}

#[test]
fn paths_are_taken_apart() {
    let code = "use crate::{\n    Janitor,\n    queue::{self, Queue, sqlite::SqliteQueue},\n};\nlet x = crate::lock::with::<T>(y); $crate::no::z";
    let found: Vec<_> = paths(code, "crate::").iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["Janitor", "queue::self", "queue::Queue", "queue::sqlite::SqliteQueue", "lock::with"]);
    assert_eq!(room(&["queue", "sqlite", "SqliteQueue"]), Some("embedded"));
    assert_eq!(module("queue/backend/mod"), ["queue", "backend"]);
}
