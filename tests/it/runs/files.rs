//! A folder as PyWorkflow 0.4.0 writes it, and the program that writes it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use apalis_janitor::runs::{
    RunStore, StoreError,
    conformance::Subject,
    file::FileStore,
    layout::PYWORKFLOW,
    memory::{Run, Thing},
};
use async_trait::async_trait;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// The folders that PyWorkflow makes.
pub const FOLDERS: [&str; 11] = [
    "runs",
    "events",
    "steps",
    "hooks",
    "schedules",
    "checkpoints",
    ".locks",
    "streams",
    "signals",
    "subscriptions",
    "acknowledgments",
];

/// A folder with the store over it.
#[derive(Debug)]
pub struct FileWorld {
    pub store: Arc<FileStore>,
    pub path: PathBuf,
    _folder: TempDir,
}

/// Opens the store of a folder.
pub async fn open(path: &Path) -> Result<FileStore, StoreError> {
    FileStore::open(path, &PYWORKFLOW).await
}

impl FileWorld {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("pyworkflow_data");
        for name in FOLDERS {
            fs::create_dir_all(path.join(name)).expect("a folder");
        }
        let store = Arc::new(open(&path).await.expect("a store"));
        Self { store, path, _folder: folder }
    }

    /// The same folder after a new start of the process.
    pub async fn reopen(&mut self) {
        self.store = Arc::new(open(&self.path).await.expect("a store"));
    }

    /// Writes a file in place, as `json.dumps(…, indent=2)` would.
    fn write(&self, folder: &str, stem: &str, value: &Value) {
        let path = self.path.join(folder).join(format!("{stem}.json"));
        fs::write(&path, serde_json::to_string_pretty(value).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    fn lock(&self, name: &str) {
        let path = self.path.join(".locks").join(format!("{name}.lock"));
        fs::write(&path, "").unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    fn read(&self, folder: &str, stem: &str) -> Value {
        let text = fs::read(self.path.join(folder).join(format!("{stem}.json"))).unwrap_or_else(|_| b"null".to_vec());
        serde_json::from_slice(&text).unwrap()
    }

    /// The names of the files in a folder, without what they end in.
    pub fn stems(&self, folder: &str, suffix: &str) -> Vec<String> {
        let names = fs::read_dir(self.path.join(folder)).unwrap().map(|entry| entry.unwrap().file_name());
        let mut stems: Vec<String> =
            names.filter_map(|name| name.to_str().unwrap().strip_suffix(suffix).map(str::to_owned)).collect();
        stems.sort_unstable();
        stems
    }

    /// The token index.
    pub fn tokens(&self) -> Map<String, Value> {
        match self.read(".", "_token_index") {
            Value::Object(tokens) => tokens,
            _ => Map::new(),
        }
    }

    /// What `.janitor` holds beside the fences and an empty folder.
    pub fn marks(&self) -> Vec<String> {
        let mut marks = self.stems(".janitor", "");
        marks.retain(|name| !name.contains(".fence") && name != "spare");
        marks
    }

    fn put_owned(&self, kind: &str, run: &str, id: &str) {
        match kind {
            "events" => {
                let line =
                    json!({"event_id": id, "run_id": run, "type": "x", "sequence": 1, "timestamp": "", "data": {}});
                let path = self.path.join("events").join(format!("{run}.jsonl"));
                let before = fs::read_to_string(&path).unwrap_or_default();
                fs::write(&path, format!("{before}{line}\n")).unwrap();
                self.lock(&format!("events_{run}"));
            }
            "steps" => self.write("steps", id, &json!({"step_id": id, "run_id": run, "status": "completed"})),
            "hooks" => {
                let token = format!("{run}:{id}");
                let hook = json!({"hook_id": id, "run_id": run, "token": token, "status": "pending"});
                self.write("hooks", &format!("{run}__{id}"), &hook);
                let mut tokens = self.tokens();
                tokens.insert(token.clone(), token.into());
                self.write(".", "_token_index", &Value::Object(tokens));
                self.lock("token_index");
            }
            "cancellation_flags" => {
                fs::write(self.path.join("runs").join(format!("{run}.cancel")), "2026-01-01T00:00:00+00:00").unwrap();
                self.lock(&format!("{run}_cancel"));
            }
            kind => panic!("no kind of thing: {kind}"),
        }
    }

    /// The values of all files in a folder.
    fn all(&self, folder: &str) -> Vec<Value> {
        self.stems(folder, ".json").iter().map(|stem| self.read(folder, stem)).collect()
    }

    /// What belongs to runs, and checkpoints.
    pub fn owned(&self) -> impl Iterator<Item = Thing> {
        let thing = |kind: &str, value: &Value, id: &str| Thing::Owned {
            kind: kind.to_owned(),
            run: text(value, "run_id").unwrap(),
            id: text(value, id).unwrap(),
        };
        let mut things = Vec::new();
        for run in self.stems("events", ".jsonl") {
            let lines = fs::read_to_string(self.path.join("events").join(format!("{run}.jsonl"))).unwrap();
            for line in lines.lines() {
                things.push(thing("events", &serde_json::from_str(line).unwrap(), "event_id"));
            }
        }
        things.extend(self.all("steps").iter().map(|step| thing("steps", step, "step_id")));
        things.extend(self.all("hooks").iter().map(|hook| thing("hooks", hook, "hook_id")));
        let flag = |run| Thing::Owned { kind: "cancellation_flags".to_owned(), run, id: String::new() };
        things.extend(self.stems("runs", ".cancel").into_iter().map(flag));
        things.extend(self.stems("checkpoints", ".json").into_iter().map(|key| Thing::Checkpoint { key }));
        things.into_iter()
    }
}

fn text(value: &Value, key: &str) -> Option<String> {
    value[key].as_str().map(str::to_owned)
}

#[async_trait]
impl Subject for FileWorld {
    fn store(&self) -> Arc<dyn RunStore> {
        self.store.clone()
    }

    fn holds(&self, id: &str) -> bool {
        !id.contains('/') && id.len() < 100
    }

    async fn put(&self, thing: Thing) {
        match thing {
            Thing::Run(run) => {
                let value = json!({
                    "run_id": run.id, "workflow_name": run.workflow, "status": run.status,
                    "created_at": run.created_at, "updated_at": run.updated_at, "context": {"run_id": "another"},
                    "parent_run_id": run.parent, "continued_from_run_id": run.continued_from,
                });
                self.write("runs", &run.id, &value);
                self.lock(&run.id);
            }
            Thing::Owned { kind, run, id } => self.put_owned(&kind, &run, &id),
            Thing::Checkpoint { key } => {
                self.write("checkpoints", &key, &json!({"n": 1}));
                self.lock(&format!("checkpoint_{key}"));
            }
            Thing::Signal { id, stream, kind, at } => {
                let mut list = match self.read("signals", &stream) {
                    Value::Array(list) => list,
                    _ => Vec::new(),
                };
                let value = json!({"signal_id": id, "stream_id": stream, "signal_type": kind, "published_at": at});
                list.push(value);
                self.write("signals", &stream, &Value::Array(list));
                self.lock(&format!("signals_{stream}"));
            }
            Thing::Acknowledgement { signal, step_run, at } => {
                let value = json!({"signal_id": signal, "step_run_id": step_run, "acknowledged_at": at});
                self.write("acknowledgments", &format!("{signal}__{step_run}"), &value);
            }
            Thing::Subscription { stream, step_run, kinds, status, at } => {
                // PyWorkflow writes a list; what is none stands for one that cannot be read.
                let list: Value = serde_json::from_str(&kinds).unwrap_or_else(|_| kinds.clone().into());
                let value = json!({
                    "stream_id": stream, "step_run_id": step_run, "signal_types": list, "status": status,
                    "created_at": at, "text of signal_types": kinds,
                });
                self.write("subscriptions", &format!("{stream}__{step_run}"), &value);
                self.lock(&format!("sub_{stream}_{step_run}"));
            }
            Thing::Schedule { id, status, deleted_at } => {
                // PyWorkflow writes no time of deletion, but the one of the last update.
                let value = json!({"schedule_id": id, "status": status, "updated_at": deleted_at});
                self.write("schedules", &id, &value);
                self.lock(&format!("schedule_{id}"));
            }
        }
    }

    async fn remove(&self, run: &str) {
        fs::remove_file(self.path.join("runs").join(format!("{run}.json"))).unwrap();
    }

    async fn things(&self) -> BTreeSet<Thing> {
        let mut things: BTreeSet<Thing> = self.owned().collect();
        things.extend(self.all("runs").iter().map(|run| {
            Thing::Run(Run {
                id: text(run, "run_id").unwrap(),
                status: text(run, "status").unwrap(),
                workflow: text(run, "workflow_name").unwrap(),
                created_at: text(run, "created_at"),
                updated_at: text(run, "updated_at"),
                parent: text(run, "parent_run_id"),
                continued_from: text(run, "continued_from_run_id"),
            })
        }));
        for list in self.all("signals") {
            things.extend(list.as_array().unwrap().iter().map(|signal| Thing::Signal {
                id: text(signal, "signal_id").unwrap(),
                stream: text(signal, "stream_id").unwrap(),
                kind: text(signal, "signal_type").unwrap(),
                at: text(signal, "published_at"),
            }));
        }
        things.extend(self.all("acknowledgments").iter().map(|read| Thing::Acknowledgement {
            signal: text(read, "signal_id").unwrap(),
            step_run: text(read, "step_run_id").unwrap(),
            at: text(read, "acknowledged_at"),
        }));
        things.extend(self.all("subscriptions").iter().map(|subscription| Thing::Subscription {
            stream: text(subscription, "stream_id").unwrap(),
            step_run: text(subscription, "step_run_id").unwrap(),
            kinds: text(subscription, "text of signal_types").unwrap(),
            status: text(subscription, "status").unwrap(),
            at: text(subscription, "created_at"),
        }));
        things.extend(self.all("schedules").iter().map(|schedule| Thing::Schedule {
            id: text(schedule, "schedule_id").unwrap(),
            status: text(schedule, "status").unwrap(),
            deleted_at: text(schedule, "updated_at"),
        }));
        things
    }
}
