//! The library, as a program of somebody's own uses it: another backend, a monitor, a store of its own.

use std::sync::Arc;

use apalis_core::{
    backend::{TaskSink, memory::MemoryStorage},
    monitor::Monitor,
    worker::{builder::WorkerBuilder, context::WorkerContext},
};
use apalis_janitor::{
    Janitor,
    config::{BatchSize, Config},
    handle,
    queue::{Enqueued, Request},
    report::{Mode, Outcome},
    runs::{layout, sqlite::SqliteStore},
};
use tokio::time::timeout;

use crate::{
    process::{COMES_MAX, World, comes},
    redis::RedisServer,
};

async fn connect(world: &World) -> Janitor {
    let config = Config::load(world.cli.path().join("janitor.toml")).unwrap();
    Janitor::connect(config).await.unwrap()
}

#[tokio::test]
async fn a_foreign_backend_runs_jobs_of_an_embedded_janitor() {
    let world = World::new(None, "", "", 200).await;
    let janitor = connect(&world).await;
    let mut storage = MemoryStorage::new();
    for mode in [Mode::DryRun, Mode::Apply] {
        storage.push(Request { job: "old-runs".to_owned(), mode, tick: None }).await.unwrap();
    }
    let context = WorkerContext::new("w1");
    let worker = WorkerBuilder::new(&context).backend(storage).data(janitor.clone()).build(handle);
    let running = tokio::spawn(worker.run());
    comes("two reports", async || janitor.ledger().reports("old-runs", 10).await.unwrap().len() == 2).await;
    context.stop().unwrap();
    timeout(COMES_MAX, running).await.unwrap().unwrap().unwrap();
    let reports = janitor.ledger().reports("old-runs", 10).await.unwrap();
    let apply = reports.iter().find(|report| report.mode == Mode::Apply).unwrap();
    assert_eq!((apply.outcome, apply.deleted.get("runs"), apply.attempt), (Outcome::Done, 200, 1));
    assert_eq!(world.history().len(), 2, "the command line reads the same ledger");
    world.store.assert_swept().await;
}

#[tokio::test]
async fn a_monitor_runs_a_janitors_worker_over_redis() {
    let redis = RedisServer::start().await;
    let world = World::new(Some(&redis), "", "", 200).await;
    let janitor = connect(&world).await;
    let enqueued = janitor.enqueue("old-runs", Mode::Apply).await.unwrap();
    let Enqueued::New(id) = enqueued else { panic!("the first of its kind: {enqueued:?}") };
    assert_eq!(janitor.enqueue("old-runs", Mode::Apply).await.unwrap(), Enqueued::Merged(id.clone()));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let registered = janitor.clone();
    let monitor = Monitor::new().register(move |_| registered.worker("mine"));
    let running = tokio::spawn(monitor.run_with_signal(async {
        let _ = stopped.await;
        Ok(())
    }));
    comes("an empty queue", async || !janitor.queue().has(&id).await.unwrap()).await;
    stop.send(()).unwrap();
    timeout(COMES_MAX, running).await.unwrap().unwrap().unwrap();
    let reports = janitor.ledger().reports("old-runs", 10).await.unwrap();
    assert_eq!((reports.len(), reports[0].outcome, reports[0].deleted.get("runs")), (1, Outcome::Done, 200));
    assert_eq!(world.cli.json("history --json")[0]["id"], reports[0].id.as_str());
    world.store.assert_swept().await;
}

#[tokio::test]
async fn a_store_of_ones_own_takes_the_place_of_the_configured_one() {
    let world = World::new(None, "", "", 200).await;
    let path = world.cli.path().join("app.db");
    world.configure("sqlite:app.db", "sqlite:nowhere.db");
    let janitor = connect(&world).await;
    assert_eq!(janitor.run("old-runs", Mode::Apply).await.unwrap().outcome, Outcome::Failed);
    let store = SqliteStore::open(&path, &layout::PYWORKFLOW, BatchSize::default()).await.unwrap();
    let mine = janitor.clone().with_store("old-runs", Arc::new(store));
    let report = mine.run("old-runs", Mode::Apply).await.unwrap();
    assert_eq!((report.outcome, report.deleted.get("runs")), (Outcome::Done, 200), "{report:?}");
    assert_eq!(janitor.run("old-runs", Mode::Apply).await.unwrap().outcome, Outcome::Failed, "the first has its own");
    let unknown = mine.run("old-rnus", Mode::Apply).await.unwrap_err();
    assert_eq!(unknown.to_string(), "no job named \"old-rnus\" in the configuration; did you mean \"old-runs\"?");
    world.store.assert_swept().await;
}
