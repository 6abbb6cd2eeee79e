//! `_token_index.json`: which hook a token is of. PyWorkflow rewrites it with every hook, under a lock.

use std::time::{Duration, Instant};

use super::{Folders, folder::Folder, json, lock, owned::beginnings};
use crate::runs::StoreError;

/// The index, in the store's own folder. Its values are `<run>:<hook>`.
pub(super) const INDEX: &str = "_token_index.json";
const LOCK: &str = "token_index.lock";
/// The longest that a sweep waits at its end for the index in another's hands.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(2);

/// Removes the tokens of the runs that are `gone`; `false` where the index is in another's hands. With a colon in an id a
/// token may be of two runs: it goes with the last of them.
pub(super) fn remove(
    folders: &Folders,
    home: &Folder,
    wait: Duration,
    is_gone: impl Fn(&str) -> bool,
    stands: impl Fn(&str) -> bool,
) -> Result<bool, StoreError> {
    if !folders.root.has(INDEX)? {
        return Ok(true);
    }
    let Some(_held) = lock::take(&folders.locks, LOCK.to_owned(), Instant::now() + wait)? else {
        return Ok(false);
    };
    let Some(text) = folders.root.read(INDEX)? else { return Ok(true) };
    let goes = |value: &[u8]| {
        let Ok(Some(owner)) = json::text(Some(value)) else { return false };
        beginnings(&owner, ":").any(&is_gone) && !beginnings(&owner, ":").any(&stands)
    };
    let (mut kept, mut count) = (b"{".to_vec(), 0_usize);
    let whole = json::each_field(&text, |key, value| {
        if goes(value) {
            count += 1;
        } else {
            kept.extend_from_slice(if kept.len() == 1 { b"\n  " } else { b",\n  " });
            kept.extend_from_slice(key);
            kept.extend_from_slice(b": ");
            kept.extend_from_slice(value);
        }
    });
    // An index that cannot be read loses nothing: PyWorkflow cannot read it either.
    if whole.is_some() && count > 0 {
        kept.extend_from_slice(if kept.len() == 1 { b"}" } else { b"\n}" });
        folders.root.replace(INDEX, &kept, home)?;
    }
    Ok(true)
}

/// How large the index is, in bytes.
pub(super) fn size(folders: &Folders) -> u64 {
    folders.root.size(INDEX)
}
