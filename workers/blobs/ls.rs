//! `janitor blobs ls`: who refers to what.

use apalis_janitor::blobs::{BlobStore, Ref, catalog::Filter};
use chrono::{DateTime, Utc};
use indicatif::HumanDuration;
use serde_json::{Value, json};

use super::fail;
use crate::{
    app::{App, Reply},
    out::print,
};

/// How many refs are read at once. On a terminal each page is a table of its own.
const PAGE: usize = 1_000;
const HEADER: [&str; 9] = ["DIGEST", "SIZE", "TASK", "RUN", "ATTEMPT", "NAME", "TYPE", "FINAL", "AGE"];

/// List what tasks have put
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor blobs ls --task render-7\n  janitor blobs ls --json | jq '.[].digest'")]
pub struct Args {
    /// Of this task only
    #[arg(long)]
    task: Option<String>,
    /// Of this run only
    #[arg(long)]
    run: Option<String>,
}

/// Lists it, a page at a time.
pub async fn run(app: &App, store: &BlobStore, args: Args) -> Reply {
    let filter = Filter { task: args.task, run: args.run };
    let catalog = store.catalog();
    let now = catalog.now().await.map_err(fail)?;
    let mut after: Option<Ref> = None;
    loop {
        let page = catalog.list(&filter, after.as_ref(), PAGE).await.map_err(fail)?;
        let (is_first, is_last) = (after.is_none(), page.len() < PAGE);
        if app.out.is_json() {
            print(piece(&page, is_first, is_last).as_bytes())?;
        } else if is_first || !page.is_empty() {
            app.out.rows(HEADER, &page.iter().map(|held| row(held, now)).collect::<Vec<_>>())?;
        }
        after = page.into_iter().next_back();
        if is_last {
            return Ok(0);
        }
    }
}

/// A page's part of the one array.
fn piece(page: &[Ref], is_first: bool, is_last: bool) -> String {
    let mut text = if is_first { "[".to_owned() } else { String::new() };
    for (number, held) in page.iter().enumerate() {
        if number > 0 || !is_first {
            text.push(',');
        }
        text.push_str(&object(held).to_string());
    }
    if is_last {
        text.push_str("]\n");
    }
    text
}

/// A ref as JSON.
pub fn object(held: &Ref) -> Value {
    json!({
        "digest": held.digest,
        "id": held.blob.to_string(),
        "size": held.size,
        "task": held.tag.task,
        "run": held.tag.run,
        "attempt": held.tag.attempt,
        "name": held.tag.name,
        "content_type": held.tag.content_type,
        "final": held.is_final,
        "created_at": held.created_at,
    })
}

fn row(held: &Ref, now: DateTime<Utc>) -> [String; 9] {
    let or_dash = |text: Option<&str>| text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned();
    [
        held.digest.to_string(),
        held.size.to_string(),
        held.tag.task.clone(),
        or_dash(held.tag.run.as_deref()),
        held.tag.attempt.to_string(),
        or_dash(Some(&held.tag.name)),
        or_dash(held.tag.content_type.as_deref()),
        if held.is_final { "yes" } else { "no" }.to_owned(),
        age(held.created_at, now),
    ]
}

/// How long ago, in one unit.
pub fn age(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    format!("{:#}", HumanDuration((now - at).to_std().unwrap_or_default()))
}
