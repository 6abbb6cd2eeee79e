//! Redis behind TLS, for a user of the least rights.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use crate::{
    certificates::certify,
    cli::Cli,
    process::{Process, comes},
    redis::{RedisOptions, RedisServer, free_port},
};

#[tokio::test]
async fn a_beat_and_a_worker_speak_to_it_where_they_know_its_authority() {
    let folder = tempfile::tempdir().unwrap();
    certify(Command::new("sh"), folder.path(), folder.path());
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (port, authority) = (free_port(), file("ca.crt"));
    let more = [
        ["--tls-port".to_owned(), port.to_string()],
        ["--tls-cert-file".to_owned(), file("server.crt")],
        ["--tls-key-file".to_owned(), file("server.key")],
        ["--tls-ca-cert-file".to_owned(), authority.clone()],
        ["--tls-auth-clients".to_owned(), "no".to_owned()],
    ];
    let server = RedisServer::start_with(RedisOptions { more: more.concat(), ..RedisOptions::default() }).await;
    let server = server.with_least().await;
    let cli = Cli::with(&format!(
        "[redis]\nurl = \"rediss://janitor:s3cret@127.0.0.1:{port}\"\n[jobs.old-runs]\nkind = \"retention\"\n\
         store = \"memory:\"\nretention_days = 30\nschedule = \"every 1s\"\n"
    ));
    let known = [("SSL_CERT_FILE", authority.as_str())];

    let stranger = Process::start_with(&cli, "check", &[("SSL_CERT_FILE", file("server.key").as_str())]).end().await;
    assert_ne!(stranger.code, Some(0), "{}", stranger.stdout);
    assert!(stranger.stdout.contains("invalid peer certificate"), "{}", stranger.stdout);
    let checked = Process::start_with(&cli, "check", &known).end().await;
    assert_eq!(checked.code, Some(0), "{}{}", checked.stdout, checked.stderr);

    let worker = Process::start_with(&cli, "worker", &known);
    let beat = Process::start_with(&cli, "beat", &known);
    comes("three reports", async || {
        server.cli(&["LLEN", "{janitor}:reports:old-runs"]).await.parse::<u32>().unwrap() >= 3
    })
    .await;
    let (beat, worker) = (beat.stop().await, worker.stop().await);
    assert_eq!((beat.code, worker.code), (Some(0), Some(0)), "{}{}", beat.stderr, worker.stderr);
    assert_eq!(server.cli(&["ACL", "LOG"]).await, "", "it asked for more than it may");
}
