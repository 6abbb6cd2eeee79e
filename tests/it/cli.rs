//! The command line, as a script sees it.

use std::path::Path;

use assert_cmd::Command;
use tempfile::TempDir;

/// Every subcommand, with those of `dead`, `blobs` and `volumes`.
const COMMANDS: [&str; 36] = [
    "demo",
    "init",
    "check",
    "up",
    "worker",
    "beat",
    "enqueue",
    "run",
    "jobs",
    "status",
    "history",
    "pause",
    "resume",
    "unlock",
    "dead",
    "dead ls",
    "dead retry",
    "dead drop",
    "blobs",
    "blobs put",
    "blobs get",
    "blobs ls",
    "blobs stat",
    "blobs explain",
    "blobs delete",
    "blobs finalize",
    "blobs release",
    "blobs touch",
    "blobs verify",
    "volumes",
    "volumes ls",
    "volumes remove",
    "volumes explain",
    "volumes migrate",
    "audit",
    "completions",
];

/// A job that deletes nothing, because nothing says how old is old enough.
const KEEPS_ALL: &str = "[jobs.old-runs]\nkind = \"retention\"\nschedule = \"@daily\"\nstore = \"memory:\"\n";

/// `janitor` in a folder of its own.
pub struct Cli {
    folder: TempDir,
}

impl Cli {
    /// With this configuration.
    pub fn with(config: &str) -> Self {
        let cli = Self { folder: TempDir::new().unwrap() };
        std::fs::write(cli.path().join("janitor.toml"), config).unwrap();
        cli
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// `janitor`, to be given arguments.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_janitor"));
        command.current_dir(self.path()).env_remove("JANITOR_CONFIG").env_remove("RUST_LOG");
        command.timeout(std::time::Duration::from_mins(1));
        command
    }

    /// The exit code, stdout and stderr of `janitor <line>`.
    pub fn run(&self, line: &str) -> (i32, String, String) {
        let output = self.command().args(line.split_whitespace()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    /// Stdout of what must exit 0.
    pub fn stdout(&self, line: &str) -> String {
        let (code, stdout, stderr) = self.run(line);
        assert_eq!(code, 0, "janitor {line}: {stderr}");
        stdout
    }

    /// Stdout of what must exit 0, as JSON.
    pub fn json(&self, line: &str) -> serde_json::Value {
        serde_json::from_str(&self.stdout(line)).unwrap()
    }
}

#[test]
fn every_help_has_an_example() {
    let cli = Cli::with("");
    assert!(cli.stdout("--help").contains("Example:\n  janitor "));
    for command in COMMANDS {
        assert!(cli.stdout(&format!("{command} --help")).contains("Example:\n  janitor "), "{command}");
    }
}

#[test]
fn wrong_usage_exits_2() {
    let cli = Cli::with(KEEPS_ALL);
    for line in [
        "",
        "sweep",
        "run",
        "run old-runs --before yesterday",
        "run old-runs --before 2026-01-01",
        "run old-runs --force",
        "pause",
        "pause old-runs --all",
        "history --limit 0",
        "enqueue old-runs --key=",
        "dead",
        "dead retry",
        "completions dos",
        "jobs -v --quiet",
    ] {
        let (code, stdout, stderr) = cli.run(line);
        assert_eq!((code, stdout.as_str()), (2, ""), "janitor {line}: {stderr}");
    }
}

#[test]
fn a_job_with_a_typo_exits_2_and_names_the_nearest() {
    let cli = Cli::with(KEEPS_ALL);
    for command in ["run", "enqueue", "history", "pause", "resume", "unlock"] {
        let (code, stdout, stderr) = cli.run(&format!("{command} old-rnus"));
        assert_eq!((code, stdout.as_str()), (2, ""), "{command}");
        assert_eq!(stderr, "error: no job named \"old-rnus\"; did you mean \"old-runs\"?\n");
    }
    assert!(cli.run("run zzzzzzzzzz").2.contains("there are: old-runs"));
}

#[test]
fn a_wrong_or_missing_file_exits_3_with_every_error() {
    let cli = Cli::with("[jobs.a]\nkind = \"retention\"\nstore = \"memory:\"\nretention_days = 0\nbatch_sise = 3\n");
    let (code, stdout, stderr) = cli.run("check");
    assert_eq!((code, stdout.as_str()), (3, ""));
    assert!(stderr.contains("retention_days") && stderr.contains("did you mean"), "{stderr}");
    let (code, _, stderr) = cli.run("jobs --config elsewhere.toml");
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("elsewhere.toml"));
}

#[test]
fn init_writes_a_file_once_that_is_valid() {
    let cli = Cli::with("");
    let path = cli.path().join("made.toml");
    let (code, stdout, stderr) = cli.run("init --config made.toml");
    assert_eq!((code, stdout.as_str()), (0, ""));
    assert!(stderr.contains("made.toml"));
    let mode = std::os::unix::fs::MetadataExt::mode(&path.metadata().unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, cli.stdout("init --print"));
    assert!(cli.stdout("jobs --config made.toml").starts_with("old-runs\t"));
    let (code, _, stderr) = cli.run("init --config made.toml");
    assert_eq!(code, 1);
    assert!(stderr.contains("left alone"), "{stderr}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn init_fills_the_file_that_the_shell_made_for_its_output() {
    let cli = Cli::with("");
    assert_eq!(cli.stdout("init"), "");
    assert_eq!(std::fs::read_to_string(cli.path().join("janitor.toml")).unwrap(), cli.stdout("init --print"));
}

#[test]
fn jobs_shows_lines_to_a_pipe_and_an_array_with_json() {
    let cli =
        Cli::with(&format!("{KEEPS_ALL}[jobs.by-hand]\nkind = \"retention\"\nenabled = false\nstore = \"memory:\"\n"));
    let lines = cli.stdout("jobs");
    let cells: Vec<_> = lines.lines().map(|line| line.split('\t').collect::<Vec<_>>()).collect();
    assert_eq!(cells[0], ["by-hand", "retention", "no", "-", "-", "-", "memory:"]);
    assert_eq!(cells[1][..5], ["old-runs", "retention", "yes", "@daily", "UTC"]);
    let jobs = cli.json("jobs --json");
    assert_eq!(jobs[1]["name"], "old-runs");
    assert_eq!(jobs[0]["next"], serde_json::Value::Null);
}

#[test]
fn completions_name_the_subcommands_in_every_shell() {
    let cli = Cli::with("");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(cli.stdout(&format!("completions {shell}")).contains("history"), "{shell}");
    }
}

#[test]
fn a_reader_that_goes_away_does_no_harm() {
    let cli = Cli::with(KEEPS_ALL);
    for line in ["completions bash", "jobs", "jobs --json", "init --print", "--help"] {
        let script = format!("{} {line} | true; exit ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_janitor"));
        let output = std::process::Command::new("bash").args(["-c", &script]).current_dir(cli.path()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), stderr.as_ref()), (Some(0), ""), "{line}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let cli = Cli::with(KEEPS_ALL);
    let script = format!("{} jobs > /dev/full", env!("CARGO_BIN_EXE_janitor"));
    let output = std::process::Command::new("bash").args(["-c", &script]).current_dir(cli.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("stdout: "));
}
