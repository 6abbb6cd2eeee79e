//! Connections to Redis: a pool for single commands, and a connection of one's own for what blocks.

use std::time::Duration;

use deadpool_redis::{Manager, Pool, Runtime};
use redis::{AsyncConnectionConfig, Client, RedisResult, ScriptInvocation, aio::MultiplexedConnection};

/// How long a connection may take to come up.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// How long an answer may take; redis' own default of 0.5 s is too short for a busy server.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The most pooled connections of a process.
const POOL_MAX: usize = 8;

/// Where Redis is, and under which keys.
#[derive(Clone)]
pub struct Link {
    client: Client,
    pool: Pool,
    namespace: String,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a password.
        f.debug_struct("Link").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Link {
    /// A link to the server of `url` (`redis://` or `rediss://`); nothing connects before it is used.
    pub fn new(url: &str, namespace: &str) -> RedisResult<Self> {
        // The first call decides for the process; a provider that the program chose before is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::open(url)?;
        Ok(Self { pool: pool(&client, POOL_MAX), client, namespace: namespace.to_owned() })
    }

    /// The same place with nothing shared: a pooled connection belongs to the runtime that made it.
    pub fn again(&self) -> Self {
        Self { client: self.client.clone(), pool: pool(&self.client, 1), namespace: self.namespace.clone() }
    }

    /// The key `{namespace}:what`. The braces put all our keys into one slot of a cluster.
    pub fn key(&self, what: &str) -> String {
        format!("{{{}}}:{what}", self.namespace)
    }

    /// A pooled connection.
    pub async fn get(&self) -> RedisResult<deadpool_redis::Connection> {
        self.pool.get().await.map_err(|error| match error {
            deadpool_redis::PoolError::Backend(error) => error,
            error => (redis::ErrorKind::Io, "connect", error.to_string()).into(),
        })
    }

    /// Runs a script on a pooled connection.
    pub async fn invoke<T: redis::FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> RedisResult<T> {
        script.invoke_async(&mut self.get().await?).await
    }

    /// A connection of one's own, on which an answer may take `block` longer.
    pub async fn dedicated(&self, block: Duration) -> RedisResult<MultiplexedConnection> {
        self.client.get_multiplexed_async_connection_with_config(&connection(block)).await
    }
}

fn pool(client: &Client, max_size: usize) -> Pool {
    let manager = Manager::new_with_config(client.get_connection_info().clone(), connection(Duration::ZERO))
        .expect("a client was made of the same address before");
    Pool::builder(manager)
        .max_size(max_size)
        .wait_timeout(Some(ANSWER_MAX))
        .create_timeout(Some(CONNECT_MAX))
        .recycle_timeout(Some(CONNECT_MAX))
        .runtime(Runtime::Tokio1)
        .build()
        .expect("a pool with timeouts has a runtime")
}

/// How a connection behaves on which an answer may take `block` longer.
fn connection(block: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_MAX))
        .set_response_timeout(Some(ANSWER_MAX + block))
}
