//! Everything that comes from outside has a limit, and says so where it is reached.

use std::fmt::Write;

use crate::{
    cli::Cli,
    config_errors::errors,
    process::{World, comes},
    redis::RedisServer,
};

const STREAM: &str = "{janitor}:queue:default";
const DEAD: &str = "{janitor}:queue:default:dead";

#[test]
fn a_file_has_so_many_jobs_and_no_more() {
    let jobs = |count| {
        (0..count).fold(String::new(), |mut text, number| {
            write!(text, "[jobs.j{number}]\nkind = \"retention\"\nstore = \"memory:\"\n").unwrap();
            text
        })
    };
    assert_eq!(crate::config::parse(&jobs(5_000)).unwrap().jobs.len(), 5_000);
    assert_eq!(errors(&jobs(5_001)), ["janitor.toml:1:2: jobs: has 5001 tables; must be 5000 at most"]);
}

#[test]
fn a_file_that_nests_for_ever_is_refused() {
    for (open, close) in [("[", "]"), ("{ a = ", " }")] {
        let text = format!("x = {}1{}\n", open.repeat(20_000), close.repeat(20_000));
        assert!(!errors(&text).is_empty());
    }
    let text = format!("[{}a]\n", "a.".repeat(20_000));
    assert!(!errors(&text).is_empty());
}

#[test]
fn names_of_the_command_line_are_checked() {
    let cli = Cli::with("[jobs.d]\nkind = \"disk\"\nroot = \"data\"\n");
    let long = "k".repeat(201);
    for line in [
        format!("enqueue d --key {long}"),
        format!("enqueue d --host {long}"),
        "enqueue d --host w1:x".to_owned(),
        "enqueue d --host ../w".to_owned(),
        format!("worker --name {long}"),
        format!("up --name {long}"),
    ] {
        let (code, stdout, stderr) = cli.run(&line);
        assert_eq!((code, stdout.as_str()), (2, ""), "{line}: {stderr}");
        assert!(stderr.contains("must be 1 to "), "{line}: {stderr}");
    }
}

#[tokio::test]
async fn a_message_of_any_size_takes_little_room_on_the_dead_list() {
    let redis = RedisServer::start().await;
    let world = World::new(Some(&redis), "", "", 20).await;
    let huge = "x".repeat(100_000);
    let many: Vec<String> = (0..1_000).map(|number| format!("field-{number}")).collect();
    let mut entry = vec!["XADD", STREAM, "*", "job", "old-runs", "mode", huge.as_str()];
    entry.extend(many.iter().map(String::as_str));
    redis.cli(&entry).await;
    redis.cli(&["XADD", STREAM, "*", "job", &huge, "mode", "apply"]).await;
    let worker = world.start("worker");
    comes("two dead entries", async || redis.cli(&["XLEN", DEAD]).await == "2").await;
    let dead = world.cli.json("dead ls --json");
    for entry in dead.as_array().unwrap() {
        let fields = entry["fields"].as_array().unwrap();
        assert!(fields.len() <= 32, "{} fields", fields.len());
        let longest =
            fields.iter().flat_map(|field| field.as_array().unwrap()).map(|text| text.as_str().unwrap().len());
        assert!(longest.max() <= Some(256));
        assert!(entry["reason"].as_str().unwrap().chars().count() <= 300);
    }
    assert!(redis.cli(&["MEMORY", "USAGE", DEAD]).await.parse::<u64>().unwrap() < 50_000);
    assert_eq!(world.cli.json("enqueue old-runs --wait --json")["deleted"]["runs"], 20, "the worker lives");
    worker.stop().await;
}
