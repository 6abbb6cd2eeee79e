//! `janitor audit`: what fills a folder.

use std::path::PathBuf;

use apalis_janitor::host::{self, Amount, Audit};
use indicatif::HumanBytes;

use crate::{
    app::{App, Fail, Reply},
    out::{complain, printable},
};

const HEADER: [&str; 5] = ["WHAT", "NAME", "FILES", "SIZE", "ON DISK"];
/// How many folders a person is shown.
const FOLDERS_SHOWN: usize = 20;

/// Show what fills a folder: in all, by folder, and the ten largest files
///
/// It only reads. Symbolic links are not followed and other filesystems not entered; a file with several names counts once. It
/// exits 1 where a folder could not be read.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  janitor audit /app/.data\n  janitor audit /app/.data --json | jq '.largest[0]'")]
pub struct Args {
    /// The folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Shows it.
pub async fn run(app: &App, args: Args) -> Reply {
    let audit = tokio::task::spawn_blocking(move || host::audit(&args.folder)).await;
    let audit = audit.map_err(|error| Fail::of(&error))?.map_err(|error| Fail::of(&error))?;
    if app.out.is_json() {
        app.out.json(&audit)?;
    } else {
        app.out.rows(HEADER, &rows(&audit, app.out.is_terminal()))?;
        notes(app, &audit);
        for failure in &audit.failures {
            complain(&printable(&format!("{}: {}", failure.item, failure.error)));
        }
    }
    Ok(u8::from(audit.failed > 0))
}

/// For a person the larger part, with units; for a script all, in bytes.
fn rows(audit: &Audit, is_person: bool) -> Vec<[String; 5]> {
    let bytes = |count: u64| if is_person { HumanBytes(count).to_string() } else { count.to_string() };
    let row = |what: &str, name: &str, amount: Amount| {
        let Amount { files, size_bytes, allocated_bytes } = amount;
        [what.to_owned(), name.to_owned(), files.to_string(), bytes(size_bytes), bytes(allocated_bytes)]
    };
    let shown = if is_person { FOLDERS_SHOWN } else { usize::MAX };
    let mut rows = vec![row("total", &audit.path, audit.total)];
    rows.extend(audit.by_folder.iter().take(shown).map(|one| row("folder", &one.folder, one.amount)));
    rows.extend(audit.largest.iter().map(|large| {
        let amount = Amount { files: 1, size_bytes: large.size_bytes, allocated_bytes: large.allocated_bytes };
        row("file", &large.path, amount)
    }));
    rows
}

/// What the rows leave out.
fn notes(app: &App, audit: &Audit) {
    let note = |is_so: bool, text: &str| {
        if is_so {
            app.out.note(text);
        }
    };
    let more = audit.by_folder.len().saturating_sub(FOLDERS_SHOWN);
    note(app.out.is_terminal() && more > 0, &format!("{more} more folders: --json names them"));
    let Amount { files, allocated_bytes, .. } = audit.other_folders;
    note(files > 0, &format!("{files} files in further folders take {allocated_bytes} bytes"));
    note(audit.hard_links > 0, &format!("{} more names of the same files are not counted", audit.hard_links));
    let many = audit.unmatched_links;
    note(many > 0, &format!("{many} names of files that have several were counted each: too many to remember"));
    note(audit.failed > 0, &format!("{} could not be read", audit.failed));
}
