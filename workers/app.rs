//! What all subcommands share: the global arguments, the configuration, and how they fail.

use std::{
    error::Error,
    fmt::{self, Display},
    path::{Path, PathBuf},
    process::ExitCode,
};

use apalis_janitor::{
    Janitor,
    config::{Config, JobConfig, JobKind},
};

use crate::{
    out::{Out, printable},
    wire,
};

/// A subcommand's end: an exit code, or why there is none of its own.
pub type Reply = Result<u8, Fail>;

const CONFIG_HELP: &str =
    "The configuration file [default: $JANITOR_CONFIG, ./janitor.toml, /etc/janitor/janitor.toml]";

/// The arguments that every subcommand takes.
#[derive(clap::Args, Debug)]
pub struct Global {
    /// The configuration file.
    #[arg(long, global = true, value_name = "FILE", help = CONFIG_HELP)]
    pub config: Option<PathBuf>,
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// Print results and errors only: no notes, no progress, no log
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Log more; twice: everything
    #[arg(long, short, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
}

/// Why a command failed, with its exit code.
#[derive(Debug)]
pub struct Fail {
    code: u8,
    text: String,
}

impl Fail {
    /// It was tried and did not work: exit code 1.
    pub fn failed(text: impl Into<String>) -> Self {
        Self { code: 1, text: text.into() }
    }

    /// An error of the library, with its sources: exit code 1.
    pub fn of(error: &dyn Error) -> Self {
        Self::failed(chain(error))
    }

    /// It was asked for wrongly: exit code 2.
    pub fn usage(text: impl Into<String>) -> Self {
        Self { code: 2, text: text.into() }
    }

    /// The configuration does not allow it: exit code 3.
    pub fn config(text: impl Into<String>) -> Self {
        Self { code: 3, text: text.into() }
    }

    /// Somebody else is at it: exit code 4.
    pub fn busy(text: impl Into<String>) -> Self {
        Self { code: 4, text: text.into() }
    }

    /// A guard said no: exit code 6.
    pub fn refused(text: impl Into<String>) -> Self {
        Self { code: 6, text: text.into() }
    }

    /// Says why on stderr, and gives the exit code.
    pub fn print(&self) -> ExitCode {
        for (number, line) in self.text.lines().enumerate() {
            crate::out::complain(&format!("{}{}", if number == 0 { "error: " } else { "" }, printable(line)));
        }
        ExitCode::from(self.code)
    }
}

impl Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What a subcommand works with.
#[derive(Debug)]
pub struct App {
    global: Global,
    /// Where results go.
    pub out: Out,
}

impl App {
    /// Looks at stdout to know who reads.
    pub fn new(global: Global) -> Self {
        let out = Out::new(global.json, global.quiet);
        Self { global, out }
    }

    /// The file that was named on the command line.
    pub fn config_path(&self) -> Option<&Path> {
        self.global.config.as_deref()
    }

    /// The validated configuration; its warnings are for `check`, and for the log of what runs on.
    pub fn config(&self) -> Result<Config, Fail> {
        wire::load(self.config_path())
    }

    /// The configured jobs with their queue, lock and ledger.
    pub async fn janitor(&self) -> Result<Janitor, Fail> {
        wire::connect(self.config()?).await
    }
}

/// Reads a key or a worker's name, which become a part of what is kept.
pub fn label(text: &str) -> Result<String, String> {
    let is_label = (1..=200).contains(&text.len()) && !text.chars().any(char::is_control);
    if is_label { Ok(text.to_owned()) } else { Err("must be 1 to 200 bytes without a control character".to_owned()) }
}

/// The job of that name, or an error that names the nearest one.
pub fn job<'a>(config: &'a Config, name: &str) -> Result<&'a JobConfig, Fail> {
    config.jobs.get(name).ok_or_else(|| unknown("job", name, config.jobs.keys()))
}

/// The job of a kind that is meant, with what is of that kind: the named one, or the only one.
pub fn chosen<'a, K>(
    config: &'a Config,
    wanted: Option<&str>,
    kind: &str,
    of: impl Fn(&'a JobKind) -> Option<&'a K>,
) -> Result<(&'a JobConfig, &'a K), Fail> {
    if let Some(name) = wanted {
        let job = job(config, name)?;
        let wrong = || Fail::usage(format!("{name:?} is of kind {:?}, not {kind:?}", job.kind.as_str()));
        return of(&job.kind).map(|own| (job, own)).ok_or_else(wrong);
    }
    let mut all = config.jobs.values().filter_map(|job| Some((job, of(&job.kind)?)));
    match (all.next(), all.next()) {
        (None, _) => Err(Fail::usage(format!("no job of kind {kind:?} is configured"))),
        (Some(only), None) => Ok(only),
        (Some(first), Some(second)) => {
            let names: Vec<_> = [first, second].into_iter().chain(all).map(|(job, _)| job.name.as_str()).collect();
            Err(Fail::usage(format!("which job? --job {}", names.join(" or --job "))))
        }
    }
}

/// There is none of that name, and what there is.
pub fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a String> + Clone) -> Fail {
    let nearest = known.clone().map(|known| (strsim::damerau_levenshtein(known, name), known)).min();
    let hint = match nearest {
        Some((distance, near)) if distance <= 3 || near.starts_with(name) => format!("; did you mean {near:?}?"),
        Some(_) => {
            let all: Vec<_> = known.take(20).map(String::as_str).collect();
            format!("; there are: {}", all.join(", "))
        }
        None => format!("; the configuration has no {what}s"),
    };
    Fail::usage(format!("no {what} named {name:?}{hint}"))
}

/// The jobs that `JOB` or `--all` means.
pub fn jobs(config: &Config, name: Option<&str>) -> Result<Vec<String>, Fail> {
    match name {
        Some(name) => Ok(vec![job(config, name)?.name.clone()]),
        None => Ok(config.jobs.keys().cloned().collect()),
    }
}

/// An error with its sources on one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        // Some libraries print their source themselves: never say a thing twice.
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}
