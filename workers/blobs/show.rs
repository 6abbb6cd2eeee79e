//! `janitor blobs stat`: the blobs of a digest and who refers to them.

use apalis_janitor::blobs::{Blob, BlobError, BlobStore, Digest, Ref};
use serde_json::{Value, json};

use super::{fail, ls};
use crate::{
    app::{App, Fail, Reply},
    out::instant,
};

/// The most refs that are shown of one digest.
const REFS_MAX: usize = 1_000;

/// Show the blobs of a digest and who refers to them
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor blobs stat \"$DIGEST\"")]
pub struct Args {
    /// The SHA-256 of its bytes
    digest: Digest,
}

/// What the catalog has of a digest.
pub struct Known {
    /// The live one first.
    pub blobs: Vec<Blob>,
    /// The oldest first.
    pub refs: Vec<Ref>,
    /// Whether there are more refs than these.
    pub has_more: bool,
}

/// Reads it; without any blob it is an error.
pub async fn known(store: &BlobStore, digest: Digest) -> Result<Known, Fail> {
    let catalog = store.catalog();
    let blobs = catalog.blobs(digest).await.map_err(fail)?;
    if blobs.is_empty() {
        return Err(fail(BlobError::NotFound(digest)));
    }
    let mut refs = catalog.refs(digest, REFS_MAX + 1).await.map_err(fail)?;
    let has_more = refs.len() > REFS_MAX;
    refs.truncate(REFS_MAX);
    Ok(Known { blobs, refs, has_more })
}

/// Shows it.
pub async fn run(app: &App, store: &BlobStore, args: &Args) -> Reply {
    let known = known(store, args.digest).await?;
    if app.out.is_json() {
        let blobs: Vec<_> = known.blobs.iter().map(object).collect();
        let refs: Vec<_> = known.refs.iter().map(ls::object).collect();
        app.out.json(&json!({"digest": args.digest, "blobs": blobs, "refs": refs, "more_refs": known.has_more}))?;
        return Ok(0);
    }
    let blobs: Vec<_> = known.blobs.iter().map(blob_row).collect();
    app.out.rows(["BLOB", "STATE", "SIZE", "CREATED", "TOUCHED", "UNREFERENCED SINCE", "TRIES"], &blobs)?;
    let refs: Vec<_> = known.refs.iter().map(ref_row).collect();
    app.out.rows(["REF", "TASK", "ATTEMPT", "NAME", "FINAL", "CREATED"], &refs)?;
    if known.has_more {
        app.out.note(&format!("only the first {REFS_MAX} refs"));
    }
    Ok(0)
}

/// A blob as JSON.
pub fn object(blob: &Blob) -> Value {
    json!({
        "id": blob.id.to_string(),
        "state": blob.state,
        "size": blob.size,
        "created_at": blob.created_at,
        "touched_at": blob.touched_at,
        "zero_since": blob.zero_since,
        "attempts": blob.attempts,
        "next_at": blob.next_at,
        "error": blob.error,
    })
}

fn blob_row(blob: &Blob) -> [String; 7] {
    [
        blob.id.to_string(),
        blob.state.to_string(),
        blob.size.to_string(),
        instant(blob.created_at),
        instant(blob.touched_at),
        blob.zero_since.map_or("-".to_owned(), instant),
        blob.attempts.to_string(),
    ]
}

fn ref_row(held: &Ref) -> [String; 6] {
    let name = if held.tag.name.is_empty() { "-" } else { &held.tag.name };
    [
        held.blob.to_string(),
        held.tag.task.clone(),
        held.tag.attempt.to_string(),
        name.to_owned(),
        if held.is_final { "yes" } else { "no" }.to_owned(),
        instant(held.created_at),
    ]
}
