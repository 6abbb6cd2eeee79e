//! The corpus of the fuzz targets, replayed: what each of them checks is in `fuzz/checks`.

use std::{fs, panic::catch_unwind, path::Path};

#[path = "../../fuzz/checks/config.rs"]
mod config;
#[path = "../../fuzz/checks/files.rs"]
mod files;
#[path = "../../fuzz/checks/message.rs"]
mod message;
#[path = "../../fuzz/checks/names.rs"]
mod names;

/// The fewest inputs of a target.
const INPUTS_MIN: usize = 10;

fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(paths.len() >= INPUTS_MIN, "{} inputs", paths.len());
    for path in paths {
        let input = fs::read(&path).unwrap();
        assert!(catch_unwind(|| check(&input)).is_ok(), "{}", path.display());
    }
}

#[test]
fn configurations_hold() {
    replay("config", config::check);
}

#[test]
fn files_hold() {
    replay("files", files::check);
}

#[test]
fn messages_hold() {
    replay("message", message::check);
}

#[test]
fn names_hold() {
    replay("names", names::check);
}
