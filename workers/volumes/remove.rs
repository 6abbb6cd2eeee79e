//! `janitor volumes remove`: one thread's volume, by the same rules as a sweep.

use apalis_janitor::{
    config::{Config, JobConfig, VolumesConfig},
    jobs::volumes::Fate,
};
use serde_json::json;

use super::{fail, fit};
use crate::{
    app::{App, Fail, Reply},
    wire,
};

/// Remove the volume of a closed thread and mark the thread, by the same rules as a sweep
///
/// It is tried though it failed before, and needs no lock. It exits 0 where the volume is gone, by this or before.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor volumes remove 7b7a")]
pub struct Args {
    /// The thread's id
    id: String,
}

/// Removes it.
pub async fn run(app: &App, config: &Config, job: &JobConfig, volumes: &VolumesConfig, args: &Args) -> Reply {
    fit(volumes, &args.id)?;
    let janitor = wire::connect(config.clone()).await?;
    let fate = janitor.remove_volume(&job.name, &args.id).await.map_err(fail)?;
    let Told { code, word, text } = told(&fate);
    if app.out.is_json() {
        app.out.json(&json!({"thread": args.id, "fate": word, "because": text}))?;
        return Ok(code);
    }
    let text = format!("{}: {text}", args.id);
    match code {
        0 => app.out.say(&text).map(|()| 0),
        CODE_BUSY => Err(Fail::busy(text)),
        _ => Err(Fail::refused(text)),
    }
}

const CODE_BUSY: u8 = 4;
const CODE_REFUSED: u8 = 6;

/// How a fate is said.
struct Told {
    code: u8,
    word: &'static str,
    text: String,
}

fn told(fate: &Fate) -> Told {
    let (code, word, text) = match fate {
        Fate::Removed => (0, "removed", "its volume is removed"),
        Fate::Absent => (0, "absent", "its volume was gone, and it is marked now"),
        Fate::Settled => (0, "settled", "its volume was gone before, and nothing was left to do"),
        Fate::Referenced(by) => return Told { code: CODE_REFUSED, word: "referenced", text: format!("in use: {by}") },
        Fate::Open => (CODE_REFUSED, "open", "the thread is open: its volume stays"),
        Fate::Unknown => (CODE_REFUSED, "unknown", "no thread has this id"),
        Fate::Unlabelled => (CODE_REFUSED, "unlabelled", "its volume lacks the label of require_label"),
        Fate::Changed => (CODE_BUSY, "busy", "somebody else has the thread in hand"),
        Fate::Off(why) => (CODE_REFUSED, "off", *why),
    };
    Told { code, word, text: text.to_owned() }
}
