//! `/metrics` and `/healthz` over a real queue.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use apalis_janitor::{
    Janitor,
    clock::SystemClock,
    config::Config,
    ledger::redis::RedisLedger,
    link::Link,
    lock::redis::RedisLock,
    metrics::{MetricsError, Server},
    queue::{QueueOptions, conformance::report, redis::RedisQueue},
    report::{Mode, Outcome},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::redis::RedisServer;

/// How long an answer may take: the server's own limits are below it.
const ANSWER_MAX: Duration = Duration::from_secs(5);

struct World {
    redis: RedisServer,
    janitor: Janitor,
    address: SocketAddr,
    stop: CancellationToken,
}

impl World {
    async fn start() -> Self {
        let redis = RedisServer::start().await;
        let link = Link::new(&redis.url(), "j").unwrap();
        let text = "[jobs.old-runs]\nkind = \"retention\"\nstore = \"memory:\"\n";
        let config = Config::parse_with(text, "janitor.toml".as_ref(), &|_| None).unwrap();
        let options = QueueOptions { visibility: Duration::from_mins(1), max_deliveries: 3, backlog_max: 100 };
        let queue = Arc::new(RedisQueue::new(link.clone(), options));
        let (lock, ledger) = (Arc::new(RedisLock::new(link.clone())), Arc::new(RedisLedger::new(link)));
        let janitor = Janitor::over(config, queue, lock, ledger, Arc::new(SystemClock));
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let (address, stop) = (server.address(), CancellationToken::new());
        tokio::spawn(server.run(janitor.clone(), janitor.metrics().clone(), stop.clone()));
        Self { redis, janitor, address, stop }
    }

    /// The status line's code, and the body.
    async fn get(&self, path: &str) -> (u16, String) {
        let answer = timeout(ANSWER_MAX, async {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        });
        let answer = answer.await.expect("an answer in time");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    async fn health(&self) -> (u16, serde_json::Value) {
        let (code, body) = self.get("/healthz").await;
        (code, serde_json::from_str(&body).unwrap())
    }
}

#[tokio::test]
async fn shows_the_queue_and_the_last_success_of_any_host() {
    let world = World::start().await;
    world.janitor.enqueue("old-runs", Mode::Apply).await.unwrap();
    let done = report("01A", "old-runs", Outcome::Done);
    world.janitor.ledger().record(&done).await.unwrap();
    world.janitor.metrics().observe(&report("01B", "old-runs", Outcome::Failed));
    let (code, text) = world.get("/metrics").await;
    assert_eq!(code, 200);
    for line in [
        "janitor_queue_up 1".to_owned(),
        r#"janitor_queue_requests{state="waiting"} 1"#.to_owned(),
        r#"janitor_reports_total{job="old-runs",mode="apply",outcome="failed"} 1"#.to_owned(),
        format!(r#"janitor_last_success_timestamp_seconds{{job="old-runs"}} {}.0"#, done.started_at.timestamp()),
        "# EOF".to_owned(),
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}\nin {text}");
    }
    let (code, health) = world.health().await;
    assert_eq!((code, &health["status"]), (200, &"ok".into()));
    let job = &health["jobs"]["old-runs"];
    assert_eq!((&job["dead"], &job["oldest_due"]), (&0.into(), &serde_json::Value::Null));
    assert_eq!(
        job["last_success"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap(),
        done.started_at
    );
    assert_eq!(world.get("/").await.0, 404);
}

#[tokio::test]
async fn is_unhealthy_in_time_where_the_queue_is_gone_or_silent() {
    let mut world = World::start().await;
    assert_eq!(world.health().await.0, 200);
    world.redis.freeze();
    let (code, health) = world.health().await;
    assert_eq!((code, &health["status"]), (503, &"unavailable".into()));
    assert!(world.get("/metrics").await.1.contains("janitor_queue_up 0\n"));
    world.redis.thaw();
    world.redis.stop().await;
    assert_eq!(world.health().await.0, 503);
    world.redis.restart().await;
    assert_eq!(world.health().await.0, 200);
    world.stop.cancel();
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let first = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let error = Server::bind(first.address()).await.unwrap_err();
    assert!(matches!(error, MetricsError::Taken(address) if address == first.address()));
    assert!(error.to_string().contains(&first.address().to_string()));
    let error = Server::bind("192.0.2.1:80".parse().unwrap()).await.unwrap_err();
    assert!(matches!(error, MetricsError::Listen(..)), "{error}");
}
