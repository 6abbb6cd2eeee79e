//! A folder as PyWorkflow fills it: random ids, ten events and a hook for each run, and lock files that stay.

use std::{
    collections::HashSet,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};

const FOLDERS: [&str; 10] = [
    "runs",
    "events",
    "steps",
    "hooks",
    "schedules",
    "checkpoints",
    ".locks",
    "signals",
    "subscriptions",
    "acknowledgments",
];
const TERMINAL: [&str; 5] = ["completed", "failed", "cancelled", "continued_as_new", "interrupted"];
/// How often the other writer writes.
const WRITE_EVERY: Duration = Duration::from_millis(10);

/// A filled folder.
pub struct Store {
    path: PathBuf,
    /// How many runs are due at 30 days.
    pub due: u64,
}

fn text(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, false)
}

fn write(path: &Path, value: &Value) {
    fs::write(path, serde_json::to_string_pretty(value).unwrap()).unwrap();
}

impl Store {
    /// Makes `runs` runs with so many steps each, of which about half are due.
    pub fn fill(path: &Path, runs: u32, steps: u32) -> Self {
        for name in FOLDERS {
            fs::create_dir_all(path.join(name)).unwrap();
        }
        let (mut due, mut tokens) = (0, serde_json::Map::new());
        for at in 0..runs {
            let id = format!("run_{:016x}", rand::random::<u64>());
            let is_old = at % 20 < 11;
            let is_ended = at % 10 != 9;
            due += u64::from(is_old && is_ended);
            let age = TimeDelta::minutes(i64::from(at)) + TimeDelta::days(if is_old { 40 } else { 1 });
            let (written, made) = (text(Utc::now() - age), text(Utc::now() - age - TimeDelta::minutes(10)));
            let status = if is_ended { TERMINAL[at as usize % 3] } else { "running" };
            let run = json!({
                "run_id": id, "workflow_name": "order", "status": status, "created_at": made, "updated_at": written,
                "input_kwargs": format!("{{\"pad\": \"{:100}\"}}", "x"), "result": format!("{:100}", "r"), "error": null,
                "context": {}, "parent_run_id": null, "nesting_depth": 0,
            });
            write(&path.join("runs").join(format!("{id}.json")), &run);
            let event = json!({"run_id": id, "type": "step.completed", "timestamp": written, "data": {"pad": format!("{:100}", "e")}});
            fs::write(path.join("events").join(format!("{id}.jsonl")), format!("{event}\n").repeat(10)).unwrap();
            for _ in 0..steps {
                let step = format!("step_charge_{:016x}", rand::random::<u64>());
                write(&path.join("steps").join(format!("{step}.json")), &json!({"step_id": step, "run_id": id}));
            }
            let token = format!("{id}:hook_0");
            let hook = json!({"hook_id": "hook_0", "run_id": id, "token": token, "status": "received"});
            write(&path.join("hooks").join(format!("{id}__hook_0.json")), &hook);
            tokens.insert(token.clone(), token.into());
            for lock in [id.clone(), format!("events_{id}")] {
                fs::write(path.join(".locks").join(format!("{lock}.lock")), "").unwrap();
            }
        }
        write(&path.join("_token_index.json"), &Value::Object(tokens));
        Self { path: path.to_owned(), due }
    }

    /// A fresh copy beside the folder.
    pub fn copy(&self, name: &str) -> PathBuf {
        let copy = self.path.with_file_name(name);
        let _ = fs::remove_dir_all(&copy);
        for name in FOLDERS {
            fs::create_dir_all(copy.join(name)).unwrap();
            for entry in fs::read_dir(self.path.join(name)).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), copy.join(name).join(entry.file_name())).unwrap();
            }
        }
        fs::copy(self.path.join("_token_index.json"), copy.join("_token_index.json")).unwrap();
        // What was written must not wait for the disk within the time that is measured.
        rustix::fs::sync();
        copy
    }

    /// Removes the folder.
    pub fn remove(self) {
        fs::remove_dir_all(self.path).unwrap();
    }
}

/// The baseline: one walk over each folder, as a script of a few lines does it; answers how many runs went.
pub fn delete_plainly(path: &Path) -> u64 {
    let cutoff = Utc::now() - TimeDelta::days(30);
    let files = |folder: &str| fs::read_dir(path.join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: &Path| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
    let mut gone = HashSet::new();
    for file in files("runs") {
        let run = read(&file);
        let at = DateTime::parse_from_rfc3339(run["updated_at"].as_str().unwrap()).unwrap();
        if TERMINAL.contains(&run["status"].as_str().unwrap()) && at < cutoff {
            gone.insert(run["run_id"].as_str().unwrap().to_owned());
        }
    }
    for folder in ["steps", "hooks"] {
        for file in files(folder) {
            if gone.contains(read(&file)["run_id"].as_str().unwrap()) {
                fs::remove_file(file).unwrap();
            }
        }
    }
    for file in files(".locks") {
        let name = file.file_stem().unwrap().to_str().unwrap();
        if gone.contains(name.strip_prefix("events_").unwrap_or(name)) {
            fs::remove_file(file).unwrap();
        }
    }
    let index = path.join("_token_index.json");
    let mut tokens = read(&index);
    tokens
        .as_object_mut()
        .unwrap()
        .retain(|_, value| !gone.contains(value.as_str().unwrap().split(':').next().unwrap()));
    write(&index, &tokens);
    for run in &gone {
        for (folder, end) in [("events", "jsonl"), ("runs", "json")] {
            fs::remove_file(path.join(folder).join(format!("{run}.{end}"))).unwrap();
        }
    }
    gone.len() as u64
}

/// Somebody else who writes to the folder.
pub struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Writer {
    /// Makes a run and a hook every 10 ms, under PyWorkflow's locks.
    pub fn start(path: &Path) -> Self {
        let (path, stop) = (path.to_owned(), Arc::new(AtomicBool::new(false)));
        let is_over = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut worst = Duration::ZERO;
            for at in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                let (began, id) = (Instant::now(), format!("run_new_{at}"));
                locked(&path, &id, || {
                    let run = json!({"run_id": id, "status": "running", "created_at": text(Utc::now())});
                    write(&path.join("runs").join(format!("{id}.json")), &run);
                });
                locked(&path, "token_index", || {
                    let index = path.join("_token_index.json");
                    let mut tokens: Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
                    tokens[&id] = format!("{id}:hook").into();
                    write(&index, &tokens);
                });
                worst = worst.max(began.elapsed());
                thread::sleep(WRITE_EVERY);
            }
            worst
        });
        Self { stop, thread }
    }

    /// Stops it; answers the longest that a write took.
    pub fn stop(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn locked(path: &Path, name: &str, work: impl FnOnce()) {
    let path = path.join(".locks").join(format!("{name}.lock"));
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap();
    file.lock().unwrap();
    work();
}
