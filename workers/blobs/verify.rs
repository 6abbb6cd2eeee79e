//! `janitor blobs verify`: hashes every live blob anew.

use apalis_janitor::blobs::{Blob, BlobError, BlobStore, Digest, State};
use chrono::{DateTime, Utc};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::fail;
use crate::{
    app::{App, Fail, Reply, chain},
    out::{print, printable},
    signals,
};

/// How many blobs are read at once.
const AT_ONCE: usize = 4;
/// How many blobs of one shard are asked for at once.
const PAGE: usize = 1_000;
/// After so many that cannot be read it is the store that is broken, not a blob.
const UNREADABLE_MAX: usize = 100;
const BAR: &str = "{bar:30} {msg}, {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
/// The exit codes: something is wrong, and more is left.
const WRONG: u8 = 1;
const LIMITED: u8 = 5;

/// Hash every live blob anew, and list those that are damaged or missing
///
/// It exits 0 where all are whole, 1 where one is not, and 5 where a signal ended it and all were whole so far. Nothing is
/// ever deleted or repaired.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor blobs verify --json | jq '.failures[].digest'")]
pub struct Args {}

#[derive(Default)]
struct Found {
    checked: u64,
    bytes: u64,
    damaged: usize,
    unreadable: usize,
    failures: Vec<Value>,
}

/// Verifies all.
pub async fn run(app: &App, store: &BlobStore) -> Reply {
    let stop = signals::stop()?;
    let totals = store.catalog().totals().await.map_err(fail)?;
    let before = store.catalog().now().await.map_err(fail)?;
    let bar = if app.out.is_quiet() { ProgressBar::hidden() } else { ProgressBar::new(totals.bytes) };
    bar.set_style(ProgressStyle::with_template(BAR).expect("the template is a constant"));
    let verified = live(store, before).map_ok(|blob| verify(store, blob)).try_buffer_unordered(AT_ONCE);
    let mut verified = std::pin::pin!(verified.take_until(stop.cancelled()));
    let mut found = Found::default();
    while let Some((blob, result)) = verified.try_next().await.map_err(fail)? {
        found.take(app, &bar, &blob, result)?;
        bar.set_message(format!("{} of {} blobs", found.checked, totals.live));
        bar.inc(blob.size);
        if found.unreadable >= UNREADABLE_MAX {
            bar.finish_and_clear();
            return Err(Fail::failed(format!("given up: {UNREADABLE_MAX} blobs could not be read")));
        }
    }
    bar.finish_and_clear();
    found.end(app, !stop.is_cancelled())
}

/// All live blobs that were put before, a page at a time.
fn live(store: &BlobStore, before: DateTime<Utc>) -> impl Stream<Item = Result<Blob, BlobError>> {
    stream::iter(0..=u8::MAX).flat_map(move |shard| {
        let page = move |after: Option<Option<Digest>>| async move {
            let Some(after) = after else { return Ok(None) };
            let page = store.catalog().live(shard, before, after, PAGE).await?;
            let next = page.last().filter(|_| page.len() == PAGE).map(|last| Some(last.digest));
            Ok(Some((stream::iter(page.into_iter().map(Ok)), next)))
        };
        stream::try_unfold(Some(None), page).try_flatten()
    })
}

async fn verify(store: &BlobStore, blob: Blob) -> Result<(Blob, Result<(), BlobError>), BlobError> {
    let result = store.verify(&blob).await;
    // A sweep may have taken it while it was read.
    if result.is_err() {
        let now = store.catalog().blobs(blob.digest).await?;
        if !now.iter().any(|now| now.id == blob.id && now.state == State::Live) {
            return Ok((blob, Ok(())));
        }
    }
    Ok((blob, result))
}

impl Found {
    /// Counts one, and says what is wrong with it.
    fn take(&mut self, app: &App, bar: &ProgressBar, blob: &Blob, result: Result<(), BlobError>) -> Result<(), Fail> {
        self.checked += 1;
        let Err(error) = result else {
            self.bytes += blob.size;
            return Ok(());
        };
        match error {
            BlobError::Unavailable { .. } => self.unreadable += 1,
            _ => self.damaged += 1,
        }
        let text = chain(&error);
        if app.out.is_json() {
            self.failures.push(json!({"digest": blob.digest, "id": blob.id.to_string(), "error": text}));
            return Ok(());
        }
        bar.suspend(|| print(format!("{}\n", printable(&text)).as_bytes()))
    }

    fn end(self, app: &App, is_complete: bool) -> Reply {
        let Self { checked, bytes, damaged, unreadable, failures } = self;
        if app.out.is_json() {
            app.out.json(&json!({
                "checked": checked, "bytes": bytes, "damaged": damaged, "unreadable": unreadable, "complete": is_complete,
                "failures": failures,
            }))?;
        } else {
            let cut = if is_complete { "" } else { "stopped: " };
            let whole = format!("{cut}{checked} blobs checked, {bytes} bytes are whole");
            app.out.say(&format!("{whole}; {damaged} damaged or missing, {unreadable} unreadable"))?;
        }
        Ok(match (damaged + unreadable, is_complete) {
            (0, true) => 0,
            (0, false) => LIMITED,
            _ => WRONG,
        })
    }
}
