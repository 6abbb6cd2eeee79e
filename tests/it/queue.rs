//! The queue's suite on a real Redis, alone and as a cluster, and on a real `SQLite` file.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use apalis_janitor::{
    clock::SystemClock,
    embedded,
    link::Link,
    queue::{
        Claim, Enqueued, Queue, QueueOptions, Request, Stats,
        conformance::{World, report},
        redis::RedisQueue,
        sqlite::SqliteQueue,
    },
    queue_conformance,
    report::{Mode, Outcome, Report},
};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::SqlitePool;
use tempfile::TempDir;

use crate::redis::RedisServer;

/// A Redis of one's own.
pub struct RedisWorld {
    pub server: RedisServer,
}

impl RedisWorld {
    async fn start() -> Self {
        Self { server: RedisServer::start().await }
    }

    async fn start_cluster() -> Self {
        Self { server: RedisServer::start_cluster().await }
    }

    async fn start_with_least() -> Self {
        Self { server: RedisServer::start_with_least().await }
    }
}

#[async_trait]
impl World for RedisWorld {
    fn queue(&self, options: QueueOptions) -> Arc<dyn Queue> {
        Arc::new(RedisQueue::new(Link::new(&self.server.url(), "janitor").unwrap(), options))
    }

    async fn append(&self, fields: &[(&str, &str)]) {
        let mut command = vec!["XADD", "{janitor}:queue:default", "*"];
        command.extend(fields.iter().flat_map(|(name, value)| [*name, *value]));
        self.server.cli(&command).await;
    }

    async fn reports(&self, job: &str) -> Vec<Report> {
        let bodies = self.server.cli(&["LRANGE", &format!("{{janitor}}:reports:{job}"), "0", "-1"]).await;
        bodies.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn success(&self, job: &str) -> Option<DateTime<Utc>> {
        let at = self.server.cli(&["HGET", "{janitor}:success", job]).await;
        if at.is_empty() { None } else { Some(at.parse().unwrap()) }
    }
}

/// A file of one's own.
pub struct SqliteWorld {
    pool: SqlitePool,
    _folder: TempDir,
}

impl SqliteWorld {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { pool: embedded::open(folder.path()).await.unwrap(), _folder: folder }
    }
}

#[async_trait]
impl World for SqliteWorld {
    fn queue(&self, options: QueueOptions) -> Arc<dyn Queue> {
        Arc::new(SqliteQueue::new(self.pool.clone(), options, Arc::new(SystemClock)))
    }

    async fn append(&self, fields: &[(&str, &str)]) {
        let value = |name: &str| fields.iter().find(|field| field.0 == name).unwrap().1;
        sqlx::query("INSERT INTO request (job, mode) VALUES (?, ?)")
            .bind(value("job"))
            .bind(value("mode"))
            .execute(&self.pool)
            .await
            .unwrap();
    }

    async fn reports(&self, job: &str) -> Vec<Report> {
        let newest = "SELECT body FROM report WHERE job = ? ORDER BY rowid DESC";
        let bodies: Vec<String> = sqlx::query_scalar(newest).bind(job).fetch_all(&self.pool).await.unwrap();
        bodies.iter().map(|body| serde_json::from_str(body).unwrap()).collect()
    }

    async fn success(&self, job: &str) -> Option<DateTime<Utc>> {
        let at = "SELECT at FROM success WHERE job = ?";
        let at: Option<String> = sqlx::query_scalar(at).bind(job).fetch_optional(&self.pool).await.unwrap();
        at.map(|at| at.parse().unwrap())
    }
}

queue_conformance!(on_redis, RedisWorld::start().await);
queue_conformance!(on_a_cluster, RedisWorld::start_cluster().await);
queue_conformance!(with_least_privileges, RedisWorld::start_with_least().await);
queue_conformance!(on_sqlite, SqliteWorld::start().await);

/// Behind a long backlog the search would keep every other client of the server waiting.
#[tokio::test]
async fn a_request_merges_with_one_of_the_newest_that_wait() {
    let world = RedisWorld::start().await;
    let options = QueueOptions { visibility: Duration::from_mins(1), max_deliveries: 3, backlog_max: 100_000 };
    let queue = world.queue(options);
    let others = async |count: &str| {
        let append = "for _ = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'job', 'other', 'mode', 'apply') end";
        world.server.cli(&["EVAL", append, "1", "{janitor}:queue:default", count]).await;
    };
    let request = Request { job: "a".to_owned(), mode: Mode::Apply, tick: None };
    let Enqueued::New(id) = queue.enqueue(&request, None).await.unwrap() else { panic!("nothing waited") };
    others("9999").await;
    assert_eq!(queue.enqueue(&request, None).await.unwrap(), Enqueued::Merged(id));
    others("1").await;
    assert!(matches!(queue.enqueue(&request, None).await.unwrap(), Enqueued::New(_)));
}

/// A round trip for each request, and now and then a claim that looks for stale deliveries.
#[tokio::test]
async fn a_settling_brings_the_next_request_along() {
    let world = RedisWorld::start().await;
    let queue = world.queue(QueueOptions { visibility: Duration::from_mins(1), max_deliveries: 3, backlog_max: 1_000 });
    for _ in 0..100 {
        world.append(&[("job", "a"), ("mode", "apply")]).await;
    }
    let (mut along, mut claim) = (0, Claim::Empty);
    for number in 0..100 {
        if claim == Claim::Empty {
            claim = queue.claim("w", false).await.unwrap();
        } else {
            along += 1;
        }
        let Claim::Run(delivery) = claim else { panic!("{claim:?}") };
        let done = report(&number.to_string(), "a", Outcome::Done);
        let (is_ours, next) = queue.finish_then_claim("w", &delivery.id, &done).await.unwrap();
        assert!(is_ours);
        claim = next;
    }
    assert!(along >= 50, "{along} of 99 came along");
    assert_eq!((claim, queue.stats().await.unwrap()), (Claim::Empty, Stats::default()));
}
