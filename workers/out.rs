//! Results on stdout: a table for a person, plain lines for a pipe, one JSON document with `--json`.
//!
//! A reader that has seen enough (`| head`) is no error. Text that others wrote is shown without control characters.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, ErrorKind, IsTerminal, Write},
};

use apalis_janitor::report::{Counts, Mode, Report};
use chrono::{DateTime, SecondsFormat, Utc};
use comfy_table::{ContentArrangement, Table, presets::UTF8_NO_BORDERS};
use serde::Serialize;

use crate::app::Fail;

/// The narrowest terminal that rows are folded for.
const WIDTH_MIN: u16 = 60;

/// Where results go, and in which shape.
#[derive(Clone, Copy, Debug)]
pub struct Out {
    json: bool,
    quiet: bool,
    person: bool,
}

impl Out {
    /// Looks at stdout to know who reads.
    pub fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet, person: io::stdout().is_terminal() }
    }

    /// Whether `--json` was given.
    pub const fn is_json(self) -> bool {
        self.json
    }

    /// Whether stdout is a terminal.
    pub const fn is_terminal(self) -> bool {
        self.person
    }

    /// Whether notes and progress are wanted.
    pub const fn is_quiet(self) -> bool {
        self.quiet
    }

    /// One JSON document, on one line.
    #[expect(clippy::unused_self, reason = "it stands beside `say` and `rows`, which look at who reads")]
    pub fn json(self, document: &impl Serialize) -> Result<(), Fail> {
        let text = serde_json::to_string(document).map_err(|error| Fail::of(&error))?;
        line(&text)
    }

    /// One line for a person or a script that did not ask for JSON; nothing with `--quiet`.
    pub fn say(self, text: &str) -> Result<(), Fail> {
        if self.quiet { Ok(()) } else { line(&printable(text)) }
    }

    /// Rows under a header for a person, rows with tabs for a pipe.
    pub fn rows<const N: usize>(self, header: [&str; N], rows: &[[String; N]]) -> Result<(), Fail> {
        if self.person {
            if rows.is_empty() {
                return self.say("none");
            }
            let mut table = Table::new();
            table.load_style(UTF8_NO_BORDERS).set_header(header);
            // A terminal that does not know its width says 0: then a row is as long as it is.
            if table.width().is_some_and(|width| width >= WIDTH_MIN) {
                table.set_content_arrangement(ContentArrangement::Dynamic);
            }
            for row in rows {
                table.add_row(row.iter().map(|cell| printable(cell).into_owned()));
            }
            return line(&table.to_string());
        }
        let mut text = String::new();
        for row in rows {
            let cells: Vec<_> = row.iter().map(|cell| printable(cell)).collect();
            let _ = writeln!(text, "{}", cells.join("\t"));
        }
        print(text.as_bytes())
    }

    /// A remark on stderr; nothing with `--quiet`.
    pub fn note(self, text: &str) {
        if !self.quiet {
            complain(&printable(text));
        }
    }
}

/// Text on stdout, as it is, with a line's end.
fn line(text: &str) -> Result<(), Fail> {
    print(format!("{text}\n").as_bytes())
}

/// Bytes on stdout.
pub fn print(bytes: &[u8]) -> Result<(), Fail> {
    let mut stdout = io::stdout().lock();
    tolerate(stdout.write_all(bytes).and_then(|()| stdout.flush()))
}

/// A line on stderr. Nobody is left to be told where that fails.
pub fn complain(text: &str) {
    let _ = io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

/// A reader that went away is no error; a full disk is.
pub fn tolerate(written: io::Result<()>) -> Result<(), Fail> {
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Fail::failed(format!("stdout: {error}"))),
        Err(_) | Ok(()) => Ok(()),
    }
}

/// The text with each byte that does not print as `\xHH`.
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().all(prints) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for char in text.chars() {
        if prints(char) {
            shown.push(char);
        } else {
            for byte in char.encode_utf8(&mut [0; 4]).bytes() {
                let _ = write!(shown, "\\x{byte:02X}");
            }
        }
    }
    Cow::Owned(shown)
}

/// Whether a character shows as itself: not a control, and none that hides or turns the text around it.
fn prints(char: char) -> bool {
    let hides = matches!(char, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}');
    !char.is_control() && !hides
}

/// An instant for a person and a script: RFC 3339 in UTC, whole seconds.
pub fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Counts as `1101 runs, 12 events`; a dash where there are none.
pub fn counts(counts: &Counts) -> String {
    let shown: Vec<_> =
        counts.iter().filter(|(_, count)| *count > 0).map(|(kind, count)| format!("{count} {kind}")).collect();
    if shown.is_empty() { "-".to_owned() } else { shown.join(", ") }
}

/// A report as a row of `history`.
pub fn report_row(report: &Report) -> [String; 9] {
    [
        instant(report.started_at),
        report.job.clone(),
        report.mode.to_string(),
        report.outcome.to_string(),
        format!("{:.2}", report.seconds),
        counts(&report.planned),
        counts(&report.deleted),
        counts(&report.kept),
        report.reason.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

/// A report as text: one line, then one for each failure.
pub fn report_lines(report: &Report) -> Vec<String> {
    let dry = match report.mode {
        Mode::Apply => "",
        Mode::DryRun => " (dry run)",
    };
    let reason = report.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let mut lines = vec![format!(
        "{}{dry}: {}{reason}; planned {}; deleted {}; kept {}; {:.2} s",
        report.job,
        report.outcome,
        counts(&report.planned),
        counts(&report.deleted),
        counts(&report.kept),
        report.seconds
    )];
    lines.extend(report.failures.iter().map(|failure| format!("{}: {}", failure.item, failure.error)));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_each_byte_that_does_not_print() {
        assert_eq!(printable("run-1 é 漢"), "run-1 é 漢");
        assert_eq!(printable("a\nb\x1b[31m\0"), "a\\x0Ab\\x1B[31m\\x00");
        assert_eq!(printable("x\u{202e}y\u{85}"), "x\\xE2\\x80\\xAEy\\xC2\\x85");
    }

    #[test]
    fn a_reader_that_went_away_is_no_error_and_a_full_disk_is() {
        assert!(tolerate(Err(ErrorKind::BrokenPipe.into())).is_ok());
        assert!(tolerate(Err(ErrorKind::StorageFull.into())).is_err());
    }
}
