//! Jobs of kind `disk` on several hosts, and the folder as a cache of its remote.

use std::fs;

use serde_json::{Value, json};

use crate::{
    cli::Cli,
    disk_job::{MEDIA, REFERENCES, disk_of, names, posts, put, world},
    process::{Process, comes, reports},
    redis::RedisServer,
};

#[tokio::test]
async fn it_runs_on_the_host_that_is_asked() {
    let server = RedisServer::start().await;
    let host = |name: &str| {
        let head = format!("[redis]\nurl = \"{}\"\n[worker]\nhost = \"{name}\"\n", server.url());
        let cli = world(&head, "initial_delay = \"0s\"\n");
        put(&cli, "left.json.tmp.1763000000000", 10, 30.0);
        cli
    };
    let (one, other) = (host("w1"), host("w2"));
    let workers = [Process::start(&one, "worker"), Process::start(&other, "worker")];
    let report = one.json("enqueue disk --host w2 --wait --json");
    assert_eq!((&report["host"], &report["deleted"]["files"]), (&"w2".into(), &1.into()), "{report}");
    let is_left = |cli: &Cli| cli.path().join("data/left.json.tmp.1763000000000").exists();
    assert_eq!((is_left(&one), is_left(&other)), (true, false));
    let report = one.json("enqueue disk --wait --json");
    assert_eq!((&report["host"], is_left(&one)), (&"w1".into(), false), "{report}");
    for worker in workers {
        assert_eq!(worker.stop().await.code, Some(0));
    }
    let alone = world("", "");
    let (code, _, stderr) = alone.run("enqueue disk --host w9");
    assert!(code == 2 && stderr.contains("without [redis] there is this host alone"), "{stderr}");
}

#[tokio::test]
async fn what_waits_for_the_host_is_counted_there() {
    let server = RedisServer::start().await;
    let host = |name: &str| world(&format!("[redis]\nurl = \"{}\"\n[worker]\nhost = \"{name}\"\n", server.url()), "");
    let (one, other) = (host("w1"), host("w2"));
    fs::create_dir(disk_of(&one)).unwrap();
    fs::create_dir(disk_of(&other)).unwrap();
    one.stdout("enqueue disk");
    let waiting = |cli: &Cli| {
        let findings = cli.json("check --json");
        let queue = findings.as_array().unwrap().iter().find(|finding| finding["about"] == "queue").cloned();
        queue.unwrap()["text"].as_str().unwrap().to_owned()
    };
    assert_eq!(waiting(&one), "1 waiting, 0 running, 0 dead");
    assert_eq!(waiting(&other), "0 waiting, 0 running, 0 dead");
}

#[tokio::test]
async fn each_host_ticks_its_own() {
    let server = RedisServer::start().await;
    let host = |name: &str| {
        let head = format!("[redis]\nurl = \"{}\"\n[worker]\nhost = \"{name}\"\n", server.url());
        world(&head, "schedule = \"every 1s\"\ninitial_delay = \"0s\"\n")
    };
    let both = [host("w1"), host("w2")];
    for cli in &both {
        fs::create_dir(disk_of(cli)).unwrap();
    }
    let workers: Vec<Process> = both.iter().map(|cli| Process::start(cli, "worker")).collect();
    let mut hosts = Vec::new();
    comes("a report of each host", async || {
        let all = reports(&both[0].json("history disk --limit 100 --json"));
        hosts = all.iter().filter(|report| report["tick"].is_string()).map(|report| report["host"].clone()).collect();
        hosts.contains(&"w1".into()) && hosts.contains(&"w2".into())
    })
    .await;
    for worker in workers {
        worker.logs("janitor::audit").await;
        assert_eq!(worker.stop().await.code, Some(0));
    }
}

#[test]
fn what_is_published_is_proven_before_the_local_file_goes() {
    let cli = world("", "remote = { objects = \"file:cdn\", verify = \"hash\" }\nprotect = [\"keep-*\"]\n");
    put(&cli, "images/a.png", 10, 0.0);
    put(&cli, "images/keep-1.png", 10, 0.0);
    assert_eq!(cli.json("cache put images/a.png images/a.png --json")["state"], "moved");
    assert_eq!(cli.json("cache put images/keep-1.png k --json")["state"], "copied");
    assert_eq!(names(&disk_of(&cli).join("images")), ["keep-1.png"]);
    assert_eq!(fs::read(cli.path().join("cdn/images/a.png")).unwrap(), [b'x'; 10]);
    cli.stdout("cache get images/a.png images/b.png");
    assert_eq!(fs::read(disk_of(&cli).join("images/b.png")).unwrap(), [b'x'; 10]);
    assert_eq!(names(&disk_of(&cli).join("images")), ["b.png", "keep-1.png"]);

    cli.stdout("pause disk");
    assert_eq!(cli.json("cache put images/b.png b --json")["state"], "copied");
    assert!(disk_of(&cli).join("images/b.png").exists());
    for (line, told) in [
        ("cache put ../janitor.toml k", "no path below a folder"),
        ("cache put images/absent k", "is not there"),
        ("cache put images/b.png ../k", "key \"../k\": must be a path"),
        ("cache get absent images/c.png", "there is no \"absent\" at file://"),
    ] {
        let (code, _, stderr) = cli.run(line);
        assert!(code == 1 && stderr.contains(told), "{line}: {stderr}");
    }
    assert_eq!(names(&disk_of(&cli).join("images")), ["b.png", "keep-1.png"]);
    let alone = world("", "");
    put(&alone, "a.png", 10, 0.0);
    assert_eq!(alone.json("cache put a.png k --json")["state"], "kept");
    assert!(disk_of(&alone).join("a.png").exists());
}

#[test]
fn a_remote_that_fails_lets_nothing_go() {
    let cli = world("", &format!("{MEDIA}{REFERENCES}remote = {{ objects = \"file:cdn/file\" }}\n"));
    put(&cli, "images/a.png", 10, 30.0);
    posts(&cli, &[]);
    // What should be a folder cannot be looked into.
    fs::create_dir(cli.path().join("cdn")).unwrap();
    std::os::unix::fs::symlink("file", cli.path().join("cdn/file")).unwrap();
    let (code, stdout, _) = cli.run("run disk --json");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &report["deleted"]["files"]), (1, &0.into()), "{report}");
    assert_eq!(report["failures"][0]["item"], "images/a.png");
    let (code, _, _) = cli.run("cache put images/a.png images/a.png");
    assert!(code == 1 && disk_of(&cli).join("images/a.png").exists());
}

#[tokio::test]
async fn what_is_referred_to_since_it_was_planned_stays() {
    let cli = world("", &format!("rate_limit = 2\n{MEDIA}{REFERENCES}remote = {{ objects = \"file:cdn\" }}\n"));
    let all: Vec<String> = (0..40).map(|number| format!("images/{number:02}.png")).collect();
    for image in &all {
        put(&cli, image, 10, 30.0);
    }
    posts(&cli, &[]);
    let run = Process::start(&cli, "run disk --json");
    let images = disk_of(&cli).join("images");
    comes("a first batch", async || names(&images).len() < 40).await;
    // As its writer does: whole, or not at all.
    let new: Vec<Value> = all.iter().map(|image| json!({"imageUrl": image})).collect();
    fs::write(disk_of(&cli).join("new.json"), json!(new).to_string()).unwrap();
    fs::rename(disk_of(&cli).join("new.json"), disk_of(&cli).join("posts.json")).unwrap();
    let end = run.end().await;
    let report: Value = serde_json::from_str(end.stdout.trim()).unwrap();
    let left = names(&images).len();
    assert!(left > 0 && left < 40, "{report}");
    assert_eq!(
        (&report["deleted"]["files"], &report["kept"]["referenced"]),
        (&(40 - left).into(), &left.into()),
        "{report}"
    );
}
