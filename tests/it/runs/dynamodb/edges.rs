//! Tables that are not as they should be, and items that look like others.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use apalis_janitor::{
    lock::Fence,
    report::Counts,
    runs::{
        RunStore, StoreError,
        conformance::{Order, Subject, sweep_at},
        dynamodb::{DynamoStore, TableUrl},
        layout::PYWORKFLOW,
        memory::{Run, Thing},
    },
};

use super::{
    DynamoWorld,
    crashes::{expired, now, owned, whole},
    of,
    proxy::{Act, Proxy},
    text,
};
use crate::dynamodb::{KEY_ID, REGION, SECRET, Table};

pub(super) const JOB: &str = "old-runs";
const LONG: Duration = Duration::from_mins(1);

fn running(run: Run) -> Run {
    Run { status: "running".to_owned(), ..run }
}

fn below(parent: &str, run: Run) -> Run {
    Run { parent: Some(parent.to_owned()), ..run }
}

pub(super) fn told(error: &StoreError, table: &Table) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{source}").replace(&table.name, "TABLE").replace(&table.endpoint(), "PLACE")
}

#[tokio::test]
async fn says_what_is_wrong_with_a_table_that_is_no_store() {
    let table = Table::make().await;
    let nowhere = Table { name: "no-table".to_owned(), ..table.clone() };
    let error = nowhere.open().await.unwrap_err();
    assert_eq!(told(&error, &nowhere), "dynamodb: table \"TABLE\" in PLACE: there is none");
    let bare = Table::without_indexes(table.port, &["PK", "SK"]).await;
    let error = bare.open().await.unwrap_err();
    assert_eq!(told(&error, &bare), "dynamodb: table \"TABLE\" in PLACE: no index GSI1, which finds runs");
    let other = Table::without_indexes(table.port, &["id"]).await;
    let error = other.open().await.unwrap_err();
    let expected =
        "dynamodb: table \"TABLE\" in PLACE: its keys are not PK and SK: not a store of layout \"pyworkflow\"";
    assert_eq!(told(&error, &other), expected);
}

#[tokio::test]
async fn says_whose_key_is_refused_and_never_shows_the_secret() {
    let table = Table::make().await;
    let endpoint = table.endpoint();
    let url = TableUrl { region: REGION, table: &table.name, endpoint: Some(&endpoint) };
    let error = DynamoStore::with_credentials(url, &PYWORKFLOW, "not a key!", "s3cret").await.unwrap_err();
    let told = told(&error, &table);
    assert!(
        told.starts_with("dynamodb: unavailable: table \"TABLE\" in PLACE: UnrecognizedClientException: "),
        "{told}"
    );
    assert!(!told.contains("s3cret"), "{told}");
}

#[tokio::test]
async fn says_that_nobody_is_there() {
    let table = Table { port: crate::redis::free_port(), ..Table::make().await };
    let told = told(&table.open().await.unwrap_err(), &table);
    assert!(told.starts_with("dynamodb: unavailable: table \"TABLE\" in PLACE: "), "{told}");
    assert!(told.contains("Connection refused"), "{told}");
}

#[tokio::test]
async fn check_says_what_a_sweep_reads() {
    let world = DynamoWorld::new().await;
    let found = world.store.check().await.unwrap();
    assert!(found.facts[0].ends_with("the keys and indexes of layout \"pyworkflow\" are there"), "{:?}", found.facts);
    assert_eq!(found.facts[2], "dynamodb: pays per request");
    assert_eq!(found.warnings, [""; 0]);
}

#[tokio::test]
async fn knows_the_servers_clock() {
    let world = DynamoWorld::new().await;
    let clock = world.store.now().await.unwrap().unwrap();
    assert!((chrono::Utc::now() - clock).abs() < chrono::TimeDelta::seconds(30), "{clock}");
}

/// More runs than one transaction holds, all of one family, one of which is revived between two transactions.
#[tokio::test]
async fn a_run_that_is_revived_between_two_transactions_holds_all_above_it() {
    let table = Table::make().await;
    let proxy = Proxy::before(table.port).await;
    let store = Arc::new(table.open_by(&proxy.endpoint()).await.unwrap());
    let world = Arc::new(DynamoWorld::over(table, store));
    let id = |at: usize| format!("run {at:03}");
    for at in 0..120 {
        let run = expired(&id(at));
        world.put(Thing::Run(if at > 0 { below(&id(at - 1), run) } else { run })).await;
        world.put(owned("events", &id(at), "event")).await;
    }
    let runs = world.store.page(now(), None, 1_000).await.unwrap().runs;
    let fence = Fence::for_test(1);
    world.store.raise(JOB, fence).await.unwrap();
    let (owner, count) = (world.clone(), Arc::new(AtomicUsize::new(0)));
    proxy.set_async(move |asked| {
        let is_second = asked.operation == "TransactWriteItems" && count.fetch_add(1, Ordering::Relaxed) == 1;
        let owner = owner.clone();
        Box::pin(async move {
            if is_second {
                owner.put(Thing::Run(running(below("run 010", expired("run 011"))))).await;
            }
            Act::Pass
        })
    });
    let deleted = world.store.delete(JOB, fence, &runs, LONG).await.unwrap();
    assert_eq!((deleted.runs.len(), deleted.changed, deleted.held), (108, 1, 11));
    let left: BTreeSet<Thing> = world.things().await;
    let events = (0..12).map(|at| owned("events", &id(at), "event"));
    let chain = (0..11).map(|at| if at > 0 { below(&id(at - 1), expired(&id(at))) } else { expired(&id(at)) });
    let revived = running(below("run 010", expired("run 011")));
    assert_eq!(left, chain.chain([revived]).map(Thing::Run).chain(events).collect());
}

/// Of many runs the children are found in one page of the index by parent, or, where it is larger than a page, one by one.
#[tokio::test]
async fn finds_the_children_of_many_runs_in_a_small_index_and_in_a_large_one() {
    for fillers in [0, 4] {
        let world = DynamoWorld::new().await;
        let data = "x".repeat(300_000);
        for at in 0..fillers {
            let (partition, entry) = (format!("FILLER#{at}"), format!("CHILD#{at}"));
            let texts = [("PK", &*partition), ("SK", "#"), ("GSI4PK", "PARENT#x"), ("GSI4SK", &entry), ("data", &data)];
            world.write(&texts.map(|(name, value)| (name, Some(value)))).await;
        }
        let ids: Vec<String> = (0..70).map(|at| format!("run {at:02}")).collect();
        for id in &ids {
            world.put(Thing::Run(expired(id))).await;
        }
        for at in 0..5 {
            let child = below("run 07", expired(&format!("child {at}")));
            world.put(Thing::Run(if at == 4 { running(child) } else { child })).await;
        }
        let (mut children, mut after) = (Vec::new(), None);
        loop {
            let page = world.store.children(&ids, after.as_ref(), 2).await.unwrap();
            children.extend(page.runs.into_iter().map(|run| run.id));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        children.sort_unstable();
        assert_eq!(children, ["child 0", "child 1", "child 2", "child 3", "child 4"]);
        // Planned without the child that stays: the delete looks for itself.
        let runs = world.store.page(now(), None, 100).await.unwrap().runs;
        let runs: Vec<_> = runs.into_iter().filter(|run| run.status == "completed").collect();
        let fence = Fence::for_test(1);
        world.store.raise(JOB, fence).await.unwrap();
        let deleted = world.store.delete(JOB, fence, &runs, LONG).await.unwrap();
        assert_eq!((deleted.runs.len(), deleted.changed, deleted.held), (73, 0, 1));
        let left: Vec<String> = world.store.find(&ids).await.unwrap().into_iter().map(|run| run.id).collect();
        assert_eq!(left, ["run 07"]);
    }
}

/// In `HOOK#a#b#c` the run may be `a` or `a#b`: the hook's own attribute says which.
#[tokio::test]
async fn takes_hooks_and_tokens_that_name_the_run_and_no_others() {
    let world = DynamoWorld::new().await;
    for id in ["a", "a#b"] {
        world.put(Thing::Run(if id == "a" { expired(id) } else { running(expired(id)) })).await;
    }
    world.put(owned("hooks", "a", "own")).await;
    world.put(owned("hooks", "a#b", "c")).await;
    // A hook of another run that is filed under this one, and a token that leads elsewhere.
    let hook = [
        ("PK", "HOOK#a#d"),
        ("SK", "#METADATA"),
        ("hook_id", "d"),
        ("run_id", "a#b"),
        ("token", "t"),
        ("GSI1PK", "RUN_HOOKS#a"),
        ("GSI1SK", "x#"),
    ];
    world.write(&hook.map(|(name, value)| (name, Some(value)))).await;
    let token = [("PK", "TOKEN#t"), ("SK", "HOOK#a#d"), ("hook_id", "d"), ("run_id", "a#b")];
    world.write(&token.map(|(name, value)| (name, Some(value)))).await;
    // What versions before wrote: without the run in the key and in the token.
    let old = [
        ("PK", "HOOK#old"),
        ("SK", "#METADATA"),
        ("hook_id", "old"),
        ("run_id", "a"),
        ("token", "u"),
        ("GSI1PK", "RUN_HOOKS#a"),
        ("GSI1SK", "y#"),
    ];
    world.write(&old.map(|(name, value)| (name, Some(value)))).await;
    world.write(&[("PK", Some("TOKEN#u")), ("SK", Some("HOOK#old")), ("hook_id", Some("old"))]).await;
    sweep_at(world.store(), &Order::default(), now(), true).await;
    let items = world.items().await;
    let mut left: Vec<&str> =
        items.iter().map(|item| of(item, "PK")).filter(|key| !key.starts_with("JANITOR")).collect();
    left.sort_unstable();
    assert_eq!(left, ["HOOK#a#b#c", "HOOK#a#d", "RUN#a#b", "TOKEN#a#b:c", "TOKEN#t"]);
}

/// Of a schedule's own events nothing goes: they stand where a run's would, and there is no run.
#[tokio::test]
async fn leaves_events_that_no_run_owns() {
    let world = DynamoWorld::new().await;
    world.put(owned("events", "a schedule", "triggered")).await;
    world.put(Thing::Run(expired("a"))).await;
    assert_eq!(sweep_at(world.store(), &Order::default(), now(), true).await.ids, ["a"]);
    assert_eq!(world.things().await, BTreeSet::from([owned("events", "a schedule", "triggered")]));
}

/// More items than a request writes, and more bytes than one reads; the loose ones are found over several steps.
#[tokio::test]
async fn reads_and_deletes_over_many_pages() {
    let world = DynamoWorld::new().await;
    let filler = "x".repeat(50_000);
    world.put(Thing::Run(expired("large"))).await;
    for at in 0..60 {
        let sort = format!("EVENT#{at:05}");
        world
            .write(&[
                ("PK", Some("RUN#large")),
                ("SK", Some(&sort)),
                ("run_id", Some("large")),
                ("data", Some(&filler)),
            ])
            .await;
    }
    for at in 0..30 {
        let (signal, at) = (format!("signal {at}"), Some("2026-01-01T00:00:00+00:00".to_owned()));
        world
            .put(Thing::Acknowledgement { signal: signal.clone(), step_run: "reader".to_owned(), at: at.clone() })
            .await;
        world.put(Thing::Signal { id: signal, stream: "stream".to_owned(), kind: "paid".to_owned(), at }).await;
    }
    let (mut after, mut counts, mut steps) = (None, Counts::default(), 0);
    loop {
        let step = world.store.loose(now(), after.as_ref(), None, Duration::ZERO).await.unwrap();
        counts.merge(&step.counts);
        steps += 1;
        after = step.next;
        if after.is_none() {
            break;
        }
    }
    assert!(steps >= 5, "{steps} steps");
    assert_eq!((counts.get("signals"), counts.get("acknowledgements")), (30, 30));
    let swept = sweep_at(world.store(), &Order::default(), now(), true).await;
    assert_eq!((swept.tally.deleted.get("events"), swept.tally.deleted.get("signals")), (60, 30));
    assert!(world.things().await.is_empty());
}

/// A step of another scan, or of a store that was opened since, knows nothing of what came before: the scan starts anew.
#[tokio::test]
async fn a_scan_that_was_left_starts_anew() {
    let world = DynamoWorld::new().await;
    let at = Some("2026-01-01T00:00:00+00:00".to_owned());
    world.put(Thing::Acknowledgement { signal: "s".to_owned(), step_run: "reader".to_owned(), at: at.clone() }).await;
    world
        .put(Thing::Subscription {
            stream: "t".to_owned(),
            step_run: "reader".to_owned(),
            kinds: "[\"paid\"]".to_owned(),
            status: "waiting".to_owned(),
            at: None,
        })
        .await;
    world.put(Thing::Signal { id: "s".to_owned(), stream: "t".to_owned(), kind: "paid".to_owned(), at: None }).await;
    let (before, fence) = (world.things().await, Fence::for_test(1));
    world.store.raise(JOB, fence).await.unwrap();
    let mut after = world.store.loose(now(), None, Some((JOB, fence)), LONG).await.unwrap().next;
    world.store.rest().await;
    for _ in 0..10 {
        let step = world.store.loose(now(), after.as_ref(), Some((JOB, fence)), LONG).await.unwrap();
        after = step.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(after, None);
    assert_eq!(world.things().await, before);
}

/// What is filed under no status or no time is counted or passed by, and does not stop a sweep.
#[tokio::test]
async fn passes_by_entries_that_are_none_of_pyworkflows() {
    let world = DynamoWorld::new().await;
    world.put(Thing::Run(expired("a"))).await;
    for (id, entry) in [("no hash", "odd"), ("two", "a#b#2026-01-01"), ("empty", "#"), ("late", "completed#later")] {
        let partition = format!("RUN#{id}");
        let texts =
            [("PK", partition.as_str()), ("SK", "#METADATA"), ("run_id", id), ("GSI1PK", "RUNS"), ("GSI1SK", entry)];
        world.write(&texts.map(|(name, value)| (name, Some(value)))).await;
    }
    let texts = [("PK", "ODD"), ("SK", "#METADATA"), ("GSI1PK", "RUNS"), ("GSI1SK", "completed#2026-01-01")];
    world.write(&texts.map(|(name, value)| (name, Some(value)))).await;
    assert_eq!(world.store.unpaged(100).await.unwrap(), 1);
    let swept = sweep_at(world.store(), &Order::default(), now(), true).await;
    assert_eq!((swept.ids, swept.tally.kept.get("unreadable_time")), (vec!["a".to_owned()], 1));
}

#[tokio::test]
async fn a_numeric_time_is_no_time() {
    let world = DynamoWorld::new().await;
    world.put(Thing::Run(expired("a"))).await;
    let key = |name| text(if name == "PK" { "RUN#a" } else { "#METADATA" });
    let update =
        world.table.client.update_item().table_name(&world.table.name).key("PK", key("PK")).key("SK", key("SK"));
    let number = aws_sdk_dynamodb::types::AttributeValue::N("1700000000".to_owned());
    update.update_expression("SET updated_at = :n").expression_attribute_values(":n", number).send().await.unwrap();
    let swept = sweep_at(world.store(), &Order::default(), now(), true).await;
    assert_eq!((swept.ids, swept.tally.kept.get("unreadable_time")), (Vec::new(), 1));
}

#[tokio::test]
async fn answers_through_the_environments_credentials() {
    // The command line has no other way; what it prints has neither the key nor the secret.
    let table = Table::make().await;
    let world = DynamoWorld::over(table.clone(), Arc::new(table.open().await.unwrap()));
    for thing in whole(expired("one")) {
        world.put(thing).await;
    }
    let config = format!(
        "[jobs.old-runs]\nkind = \"retention\"\nretention_days = 30\nstore = \"dynamodb://{REGION}/{}?endpoint={}\"\n",
        table.name,
        table.endpoint()
    );
    let cli = crate::cli::Cli::with(&config);
    let run = |line: &str, env: &[(&str, &str)]| {
        let output = cli.command().args(line.split(' ')).env_clear().envs(env.iter().copied()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout) + &text(output.stderr))
    };
    let key = [("AWS_ACCESS_KEY_ID", KEY_ID), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    let without = [("AWS_EC2_METADATA_DISABLED", "true")];
    let (code, told) = run("run old-runs --list", &without);
    assert!(
        code == 1 && told.contains("dynamodb: unavailable: no credentials: set AWS_ACCESS_KEY_ID"),
        "{code}: {told}"
    );
    for line in ["check", "-vv run old-runs --dry-run --list", "-vv run old-runs --list"] {
        let (code, told) = run(line, &key);
        assert_eq!(code, 0, "{line}: {told}");
        assert!(!told.contains(SECRET), "{line}: {told}");
    }
    assert!(world.things().await.is_empty());
}
