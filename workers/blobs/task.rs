//! `janitor blobs finalize`, `release`, `touch` and `delete`: what a task says of what it put.

use apalis_janitor::blobs::{BlobStore, Digest, Released};
use serde_json::json;

use super::fail;
use crate::app::{App, Fail, Reply};

/// What `release` does; it takes the arguments of `finalize`.
pub const RELEASE: &str =
    "Say that a task failed: what it put and did not finalize is dropped, and goes after the grace";
/// Its example.
pub const RELEASE_EXAMPLE: &str = "Example:\n  janitor blobs release --task render-7 --attempt 1";

/// Say that a task succeeded: what it put stays, and what its lower attempts left is dropped
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor blobs finalize --task render-7 --attempt 2")]
pub struct AttemptArgs {
    /// The task
    #[arg(long)]
    task: String,
    /// Which try of it
    #[arg(long, default_value_t = 1)]
    attempt: u32,
}

/// Say that a task is alive, though it puts nothing
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor blobs touch --task render-7")]
pub struct TouchArgs {
    /// The task
    #[arg(long)]
    task: String,
}

/// Drop what a task put of one digest, final or not; the bytes go after the grace, once nothing else refers to them
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor blobs delete \"$DIGEST\" --task render-7")]
pub struct DeleteArgs {
    /// The SHA-256 of its bytes
    digest: Digest,
    /// The task
    #[arg(long)]
    task: String,
}

/// Makes a task's refs final.
pub async fn finalize(app: &App, store: &BlobStore, args: &AttemptArgs) -> Reply {
    let refs = store.finalize(&args.task, args.attempt).await.map_err(fail)?;
    if app.out.is_json() {
        app.out.json(&json!({"task": args.task, "attempt": args.attempt, "refs": refs}))?;
    } else if refs == 0 {
        app.out.say(&format!("{}: was final already", args.task))?;
    } else {
        app.out.say(&format!("{}: {refs} made final", args.task))?;
    }
    Ok(0)
}

/// Drops those that are not.
pub async fn release(app: &App, store: &BlobStore, args: &AttemptArgs) -> Reply {
    let released = store.release(&args.task, args.attempt).await.map_err(fail)?;
    if app.out.is_json() {
        let Released { refs, blobs } = released;
        app.out.json(&json!({"task": args.task, "attempt": args.attempt, "refs": refs, "blobs": blobs}))?;
    } else {
        app.out.say(&dropped(&args.task, released))?;
    }
    Ok(0)
}

/// Sees a task alive.
pub async fn touch(app: &App, store: &BlobStore, args: &TouchArgs) -> Reply {
    if !store.touch(&args.task).await.map_err(fail)? {
        return Err(Fail::failed(format!("task {:?} has put nothing", args.task)));
    }
    if app.out.is_json() {
        app.out.json(&json!({"task": args.task, "touched": true}))?;
    } else {
        app.out.say(&format!("{}: alive", args.task))?;
    }
    Ok(0)
}

/// Drops a task's refs to one digest.
pub async fn delete(app: &App, store: &BlobStore, args: &DeleteArgs) -> Reply {
    let released = store.delete(&args.task, args.digest).await.map_err(fail)?;
    if app.out.is_json() {
        let Released { refs, blobs } = released;
        app.out.json(&json!({"task": args.task, "digest": args.digest, "refs": refs, "blobs": blobs}))?;
    } else {
        app.out.say(&dropped(&args.task, released))?;
    }
    Ok(0)
}

fn dropped(task: &str, released: Released) -> String {
    let Released { refs, blobs } = released;
    format!("{task}: {refs} dropped, {blobs} of them referred to by nothing any more")
}
