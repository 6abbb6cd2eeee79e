//! An engine that dies or hangs on the way, and a janitor that is killed: nothing is marked that is there, and the next sweeps
//! finish.

use serde_json::{Value, json};

use crate::{
    cli_volumes::{Shop, ids, numbers},
    docker::Dockerd,
    process::{Process, comes},
};

/// One after the other, so many of them that the sweep is caught amid.
const MANY: std::ops::Range<u32> = 0..400;
const SLOW: &str = "limit = 1000\nconcurrency = 1\nengine_timeout = \"2s\"\n[worker]\nlock_ttl = \"4s\"";

/// A sweep that has settled a few volumes, and has many before it.
async fn amid(shop: &Shop<'_>) -> Process {
    shop.closed(numbers(MANY)).await;
    let sweep = Process::start(&shop.cli, "run volumes --json");
    comes("a first mark", async || !shop.marked().await.is_empty()).await;
    sweep
}

/// Nothing that is there is marked, and sweeps finish what is left.
async fn is_finished_later(shop: &Shop<'_>) {
    let (left, marked) = (shop.left().await, shop.marked().await);
    assert!(!left.is_empty() && !marked.is_empty(), "it was caught amid: {} left", left.len());
    assert!(marked.iter().all(|id| !left.contains(id)), "marked, and there: {marked:?}");
    // A dead janitor's lock ends with its ttl.
    comes("the lock", async || shop.sweep().1["outcome"] != "busy").await;
    // What was in the engine's hands when it went away is not due yet.
    for id in shop.left().await {
        shop.cli.stdout(&format!("volumes remove {id}"));
    }
    assert_eq!((shop.left().await, shop.sweep().0, shop.marked().await), (vec![], 0, ids(MANY)));
}

#[tokio::test]
async fn an_engine_that_is_killed_in_mid_sweep_ends_it() {
    let engine = Dockerd::start().await;
    let shop = Shop::new(&engine, SLOW).await;
    let sweep = amid(&shop).await;
    engine.kill().await;
    let end = sweep.end().await;
    let report: Value = serde_json::from_str(&end.stdout).unwrap();
    assert_eq!((end.code, &report["outcome"]), (Some(1), &json!("failed")), "{report}");
    assert!(report["reason"].as_str().unwrap().contains("unavailable"), "{report}");
    let (code, down) = shop.sweep();
    assert_eq!((code, &down["outcome"], &down["deleted"]), (1, &json!("failed"), &json!({})), "{down}");
    engine.restart().await;
    is_finished_later(&shop).await;
}

#[tokio::test]
async fn an_engine_that_hangs_in_mid_sweep_ends_it() {
    let engine = Dockerd::start().await;
    let shop = Shop::new(&engine, SLOW).await;
    let sweep = amid(&shop).await;
    engine.stop();
    let end = sweep.end().await;
    let report: Value = serde_json::from_str(&end.stdout).unwrap();
    assert_eq!((end.code, &report["outcome"]), (Some(1), &json!("failed")), "{report}");
    assert!(report["reason"].as_str().unwrap().contains("no answer within"), "{report}");
    engine.go_on();
    is_finished_later(&shop).await;
}

#[tokio::test]
async fn an_engine_that_hangs_from_the_start_has_nothing_marked() {
    let engine = Dockerd::start().await;
    let shop = Shop::new(&engine, "engine_timeout = \"1s\"\nconcurrency = 1").await;
    shop.closed(numbers(0..3)).await;
    shop.threads("closed", ["gone".to_owned()]).await;
    engine.stop();
    let (code, report) = shop.sweep();
    assert_eq!((code, &report["outcome"], shop.marked().await), (1, &json!("failed"), vec![]));
    assert!(report["reason"].as_str().unwrap().contains("no answer within 1s"), "{report}");
    engine.go_on();
    let (code, report) = shop.sweep();
    assert_eq!((code, &report["deleted"]), (0, &json!({"absent": 1, "volumes": 3})), "{report}");
}

#[tokio::test]
async fn a_janitor_that_is_killed_in_mid_sweep_has_it_finished_by_the_next() {
    let engine = Dockerd::shared().await;
    let shop = Shop::new(engine, SLOW).await;
    let mut removals = engine.removals().await;
    amid(&shop).await.kill().await;
    is_finished_later(&shop).await;
    let mut told = removals.until_now(&shop.prefix).await;
    told.sort_unstable();
    let names: Vec<_> = numbers(MANY).map(|id| format!("{}{id}", shop.prefix)).collect();
    assert_eq!(told, names, "each once");
}
