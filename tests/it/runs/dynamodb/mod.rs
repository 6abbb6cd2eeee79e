//! A DynamoDB table as PyWorkflow 0.4.0 makes it, and the program that writes it.

mod crashes;
mod edges;
mod proxy;
mod rights;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use apalis_janitor::runs::{
    RunStore,
    conformance::Subject,
    dynamodb::DynamoStore,
    memory::{Run, Thing},
};
use async_trait::async_trait;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};

use crate::dynamodb::Table;

pub type Item = HashMap<String, AttributeValue>;

/// The longest id that fits into an index, with what stands before it.
const ID_MAX: usize = 1_000;

/// A table with the store over it.
#[derive(Debug)]
pub struct DynamoWorld {
    pub store: Arc<DynamoStore>,
    pub table: Table,
    signals: AtomicUsize,
}

impl DynamoWorld {
    pub async fn new() -> Self {
        let table = Table::make().await;
        let store = Arc::new(table.open().await.expect("a store"));
        Self::over(table, store)
    }

    /// A world whose store reaches the table in a way of its own.
    pub fn over(table: Table, store: Arc<DynamoStore>) -> Self {
        Self { store, table, signals: AtomicUsize::new(0) }
    }

    /// Writes an item with these texts; what is none is left out.
    pub async fn write(&self, texts: &[(&str, Option<&str>)]) {
        let texts = texts.iter().filter_map(|(name, value)| Some(((*name).to_owned(), text((*value)?))));
        self.table.client.put_item().table_name(&self.table.name).set_item(Some(texts.collect())).send().await.unwrap();
    }

    /// Everything that is in the table.
    pub async fn items(&self) -> Vec<Item> {
        let scan = self.table.client.scan().table_name(&self.table.name).consistent_read(true);
        let (mut items, mut next) = (Vec::new(), None);
        loop {
            let page = scan.clone().set_exclusive_start_key(next).send().await.unwrap();
            items.extend(page.items.unwrap_or_default());
            next = page.last_evaluated_key;
            if next.is_none() {
                return items;
            }
        }
    }

    /// What is there of our own, but for the fences.
    pub async fn markers(&self) -> usize {
        self.items().await.iter().filter(|item| of(item, "PK") == "JANITOR#MARKER").count()
    }

    async fn put_run(&self, run: Run) {
        let partition = format!("RUN#{}", run.id);
        let made = run.created_at.as_deref();
        // What Python makes of a time that is none.
        let entry = format!("{}#{}", run.status, made.unwrap_or("None"));
        let workflow = format!("WORKFLOW#{}", run.workflow);
        let parent = run.parent.as_deref().filter(|id| !id.is_empty());
        let (above, child) = (parent.map(|id| format!("PARENT#{id}")), format!("CHILD#{}", run.id));
        self.write(&[
            ("PK", Some(&partition)),
            ("SK", Some("#METADATA")),
            ("entity_type", Some("run")),
            ("run_id", Some(&run.id)),
            ("workflow_name", Some(&run.workflow)),
            ("status", Some(&run.status)),
            ("created_at", made),
            ("updated_at", run.updated_at.as_deref()),
            ("parent_run_id", run.parent.as_deref()),
            ("continued_from_run_id", run.continued_from.as_deref()),
            ("GSI1PK", Some("RUNS")),
            ("GSI1SK", Some(&entry)),
            ("GSI2PK", Some(&workflow)),
            ("GSI2SK", made.filter(|made| !made.is_empty()).or(Some("None"))),
            ("GSI4PK", above.as_deref()),
            ("GSI4SK", above.as_ref().map(|_| child.as_str())),
        ])
        .await;
    }

    async fn put_event(&self, run: &str, id: &str) {
        let key =
            |sort: &str| HashMap::from([("PK".to_owned(), text(&format!("RUN#{run}"))), ("SK".to_owned(), text(sort))]);
        let count = self.table.client.update_item().table_name(&self.table.name).set_key(Some(key("#EVENT_COUNTER")));
        let count = count
            .update_expression("ADD seq :one")
            .expression_attribute_values(":one", AttributeValue::N("1".to_owned()));
        let count = count.return_values(ReturnValue::UpdatedNew).send().await.unwrap().attributes.unwrap();
        let number: usize = count["seq"].as_n().unwrap().parse().unwrap();
        let (partition, sort) = (format!("RUN#{run}"), format!("EVENT#{:05}", number - 1));
        let texts = [("PK", &*partition), ("SK", &sort), ("entity_type", "event"), ("event_id", id), ("run_id", run)];
        self.write(&texts.map(|(name, value)| (name, Some(value)))).await;
    }

    async fn put_owned(&self, kind: &str, run: &str, id: &str) {
        let texts = match kind {
            "events" => return self.put_event(run, id).await,
            "steps" => vec![("PK", format!("RUN#{run}")), ("SK", format!("STEP#{id}")), ("step_id", id.to_owned())],
            "hooks" => {
                let (hook, token) = (format!("HOOK#{run}#{id}"), format!("{run}:{id}"));
                self.write(&[
                    ("PK", Some(&format!("TOKEN#{token}"))),
                    ("SK", Some(&hook)),
                    ("entity_type", Some("hook_token")),
                    ("hook_id", Some(id)),
                    ("run_id", Some(run)),
                ])
                .await;
                vec![
                    ("PK", hook),
                    ("SK", "#METADATA".to_owned()),
                    ("hook_id", id.to_owned()),
                    ("token", token),
                    ("GSI1PK", format!("RUN_HOOKS#{run}")),
                    ("GSI1SK", "pending#".to_owned()),
                ]
            }
            "cancellation_flags" => vec![("PK", format!("CANCEL#{run}")), ("SK", "#FLAG".to_owned())],
            kind => panic!("no kind of thing: {kind}"),
        };
        let mut texts: Vec<(&str, Option<&str>)> =
            texts.iter().map(|(name, value)| (*name, Some(value.as_str()))).collect();
        texts.push(("run_id", Some(run)));
        self.write(&texts).await;
    }
}

pub fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

/// The text of an attribute; empty where there is none.
pub fn of<'a>(item: &'a Item, name: &str) -> &'a str {
    item.get(name).and_then(|value| value.as_s().ok()).map_or("", String::as_str)
}

fn has(item: &Item, name: &str) -> Option<String> {
    item.get(name).and_then(|value| value.as_s().ok()).cloned()
}

/// What an item is; none where it is only a way to something else.
fn thing(item: &Item, partitions: &HashSet<(&str, &str)>) -> Option<Thing> {
    let word = |name| of(item, name).to_owned();
    let owned =
        |kind: &str, id: &'static str| Some(Thing::Owned { kind: kind.to_owned(), run: word("run_id"), id: word(id) });
    let (kind, rest) = of(item, "PK").split_once('#').unwrap();
    match (kind, of(item, "SK").split_once('#').unwrap_or_default()) {
        ("RUN", ("", "METADATA")) => Some(Thing::Run(Run {
            id: word("run_id"),
            status: word("status"),
            workflow: word("workflow_name"),
            created_at: has(item, "created_at"),
            updated_at: has(item, "updated_at"),
            parent: has(item, "parent_run_id"),
            continued_from: has(item, "continued_from_run_id"),
        })),
        ("RUN", ("EVENT", _)) => owned("events", "event_id"),
        ("RUN", ("STEP", _)) => owned("steps", "step_id"),
        ("RUN", _) if partitions.contains(&(of(item, "PK"), "EVENT#00000")) => None,
        ("HOOK", _) => owned("hooks", "hook_id"),
        ("TOKEN", _) if partitions.contains(&(of(item, "SK"), "#METADATA")) => None,
        ("CANCEL", _) => owned("cancellation_flags", "none"),
        ("CHECKPOINT", _) => Some(Thing::Checkpoint { key: rest.to_owned() }),
        ("STREAM_RUN", _) => Some(Thing::Signal {
            id: word("signal_id"),
            stream: word("stream_id"),
            kind: word("signal_type"),
            at: has(item, "published_at"),
        }),
        ("SIGACK", _) => Some(Thing::Acknowledgement {
            signal: word("signal_id"),
            step_run: word("step_run_id"),
            at: has(item, "acknowledged_at"),
        }),
        ("STREAMSUB", _) => Some(Thing::Subscription {
            stream: word("stream_id"),
            step_run: word("step_run_id"),
            kinds: word("signal_types"),
            status: word("status"),
            at: has(item, "created_at"),
        }),
        ("SCHEDULE", _) => Some(Thing::Schedule {
            id: word("schedule_id"),
            status: word("status"),
            deleted_at: has(item, "updated_at"),
        }),
        ("FILLER", _) => None,
        ("JANITOR", _) if of(item, "PK") == "JANITOR#FENCE" => None,
        // A token without its hook, a counter without its events, a marker: something was left behind.
        (kind, (sort, _)) => {
            Some(Thing::Owned { kind: format!("{kind} {sort}"), run: rest.to_owned(), id: word("SK") })
        }
    }
}

#[async_trait]
impl Subject for DynamoWorld {
    fn store(&self) -> Arc<dyn RunStore> {
        self.store.clone()
    }

    async fn put(&self, thing: Thing) {
        match thing {
            Thing::Run(run) => self.put_run(run).await,
            Thing::Owned { kind, run, id } => self.put_owned(&kind, &run, &id).await,
            Thing::Checkpoint { key } => {
                self.write(&[
                    ("PK", Some(&format!("CHECKPOINT#{key}"))),
                    ("SK", Some("#DATA")),
                    ("step_run_id", Some(&key)),
                ])
                .await;
            }
            Thing::Signal { id, stream, kind, at } => {
                let number = self.signals.fetch_add(1, Ordering::Relaxed);
                self.write(&[
                    ("PK", Some("STREAM_RUN#sr")),
                    ("SK", Some(&format!("SIGNAL#{number:08}"))),
                    ("signal_id", Some(&id)),
                    ("stream_id", Some(&stream)),
                    ("signal_type", Some(&kind)),
                    ("published_at", at.as_deref()),
                ])
                .await;
            }
            Thing::Acknowledgement { signal, step_run, at } => {
                self.write(&[
                    ("PK", Some(&format!("SIGACK#{signal}"))),
                    ("SK", Some(&format!("STEP#{step_run}"))),
                    ("signal_id", Some(&signal)),
                    ("step_run_id", Some(&step_run)),
                    ("acknowledged_at", at.as_deref()),
                ])
                .await;
            }
            Thing::Subscription { stream, step_run, kinds, status, at } => {
                self.write(&[
                    ("PK", Some(&format!("STREAMSUB#{stream}"))),
                    ("SK", Some(&format!("STEP#{step_run}"))),
                    ("stream_id", Some(&stream)),
                    ("step_run_id", Some(&step_run)),
                    ("signal_types", Some(&kinds)),
                    ("status", Some(&status)),
                    ("created_at", at.as_deref()),
                ])
                .await;
            }
            Thing::Schedule { id, status, deleted_at } => {
                self.write(&[
                    ("PK", Some(&format!("SCHEDULE#{id}"))),
                    ("SK", Some("#METADATA")),
                    ("schedule_id", Some(&id)),
                    ("status", Some(&status)),
                    ("updated_at", deleted_at.as_deref()),
                    ("GSI1PK", Some("SCHEDULES")),
                    ("GSI1SK", Some(&format!("{status}#2026-01-01T00:00:00+00:00"))),
                ])
                .await;
            }
        }
    }

    async fn remove(&self, run: &str) {
        let (own, hook) = (format!("RUN#{run}"), format!("HOOK#{run}#"));
        for item in self.items().await {
            let (partition, sort) = (of(&item, "PK"), of(&item, "SK"));
            if partition == own
                || partition == format!("CANCEL#{run}")
                || partition.starts_with(&hook)
                || sort.starts_with(&hook)
            {
                let request = self.table.client.delete_item().table_name(&self.table.name);
                request.key("PK", text(partition)).key("SK", text(sort)).send().await.unwrap();
            }
        }
    }

    async fn things(&self) -> BTreeSet<Thing> {
        let items = self.items().await;
        let keys: HashSet<(&str, &str)> = items.iter().map(|item| (of(item, "PK"), of(item, "SK"))).collect();
        items.iter().filter_map(|item| thing(item, &keys)).collect()
    }

    fn holds(&self, id: &str) -> bool {
        id.len() <= ID_MAX
    }

    fn shows_latest_first(&self) -> bool {
        false
    }
}
