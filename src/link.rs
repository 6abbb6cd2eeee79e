//! Connections to Redis: a pool for single commands, and a connection of one's own for what blocks.
//!
//! All keys are in one slot, so that a cluster is one server too, for us: the one that has the slot. It is found, as a master
//! is by Sentinels, before the first command, and again where it is not there or not the one any more: each connection asks
//! when it is taken from the pool.

mod place;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use deadpool_redis::{Hook, HookError, Manager, Pool, PoolError, Runtime};
use redis::{Client, ErrorKind, RedisError, RedisResult, ScriptInvocation, aio::MultiplexedConnection};
use tokio::sync::Mutex;

use self::place::{Place, connection};

/// How long a connection may take to come up.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// How long an answer may take; redis' own default of 0.5 s is too short for a busy server.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The most pooled connections of a process.
const POOL_MAX: usize = 8;

/// The oldest version that has what the queue needs.
const OLDEST: (u32, u32) = (6, 2);

/// What is wrong with a Redis. It names the place, and never the password.
///
/// ```
/// # use apalis_janitor::link::Link;
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let link = Link::new("redis://:secret@127.0.0.1:1", "janitor").unwrap();
/// assert_eq!(link.probe().await.unwrap_err().to_string(), "redis 127.0.0.1:1: does not answer");
/// # });
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The URL is none that a Redis can have.
    #[error("redis: invalid URL")]
    Url(#[source] RedisError),
    /// Nothing is there, or it stopped to answer.
    #[error("redis {place}: does not answer")]
    Silent {
        /// Its host and port.
        place: String,
        /// Why.
        source: RedisError,
    },
    /// It wants another user name or password, or wants one at all.
    #[error("redis {place}: login refused")]
    Login {
        /// Its host and port.
        place: String,
        /// What it says.
        source: RedisError,
    },
    /// Something else than a Redis listens there.
    #[error("redis {place}: what answers there is not a Redis")]
    NotRedis {
        /// Its host and port.
        place: String,
        /// What is odd about its answer.
        source: RedisError,
    },
    /// It lacks commands that the queue needs.
    #[error("redis {place}: version {version} is too old, 6.2 or newer is needed")]
    TooOld {
        /// Its host and port.
        place: String,
        /// What it says that it is.
        version: String,
    },
    /// It answered, and would not do it.
    #[error("redis {place}: refused")]
    Refused {
        /// Its host and port.
        place: String,
        /// What it says.
        source: RedisError,
    },
}

/// What a Redis tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Its version, such as `7.0.15`.
    pub version: String,
    /// What it does when its memory is full (`maxmemory-policy`), where it tells. Anything but `noeviction` may forget
    /// locks and requests.
    pub eviction: Option<String>,
    /// Its clock.
    pub now: DateTime<Utc>,
}

/// Whether the client can read `url`.
#[must_use]
pub fn is_url(url: &str) -> bool {
    Place::parse(url).is_ok()
}

/// Where Redis is, and under which keys.
///
/// ```
/// use apalis_janitor::link::Link;
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let link = Link::new("redis://:secret@127.0.0.1:6379", "janitor").unwrap();
/// assert_eq!((link.place(), link.key("paused")), ("127.0.0.1:6379".to_owned(), "{janitor}:paused".to_owned()));
/// # });
/// ```
#[derive(Clone)]
pub struct Link {
    place: Arc<Place>,
    /// The server that is spoken to; none: it is to be found.
    server: Arc<Mutex<Option<Server>>>,
    connections_max: usize,
    namespace: String,
}

/// A server with the connections to it.
#[derive(Clone)]
struct Server {
    client: Client,
    pool: Pool,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a password.
        f.debug_struct("Link").field("place", &self.place()).field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Link {
    /// A link to the server of `url`: `redis://`, `redis+sentinel://host,host/name` or `redis+cluster://host,host`, each with
    /// `rediss` for TLS. Nothing connects before it is used.
    ///
    /// # Errors
    /// [`LinkError::Url`], which does not show the URL.
    pub fn new(url: &str, namespace: &str) -> Result<Self, LinkError> {
        // The first call decides for the process; a provider that the program chose before is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let place = Arc::new(Place::parse(url).map_err(LinkError::Url)?);
        Ok(Self { place, server: Arc::default(), connections_max: POOL_MAX, namespace: namespace.to_owned() })
    }

    /// The same place with nothing shared: a pooled connection belongs to the runtime that made it.
    #[must_use]
    pub fn again(&self) -> Self {
        Self { server: Arc::default(), connections_max: 1, ..self.clone() }
    }

    /// The key `{namespace}:what`. The braces put all our keys into one slot of a cluster.
    #[must_use]
    pub fn key(&self, what: &str) -> String {
        format!("{{{}}}:{what}", self.namespace)
    }

    /// The server's host and port, or those of who knows it, for messages.
    #[must_use]
    pub fn place(&self) -> String {
        self.place.name()
    }

    /// Asks the server what it is, and whether it will do.
    ///
    /// # Errors
    /// Any [`LinkError`] but [`LinkError::Url`].
    pub async fn probe(&self) -> Result<Probe, LinkError> {
        // One after the other: the errors of a pipeline do not say what kind they are.
        let answers: RedisResult<_> = async {
            let mut connection = self.get().await?;
            let pong: String = redis::cmd("PING").query_async(&mut connection).await?;
            let info: String = redis::cmd("INFO").query_async(&mut connection).await?;
            let time: (i64, u32) = redis::cmd("TIME").query_async(&mut connection).await?;
            Ok((pong, info, time))
        }
        .await;
        let (pong, info, time) = answers.map_err(|error| self.explain(error))?;
        judge(&self.place(), &pong, &info, time)
    }

    /// What `error`, which came over this link, means.
    #[must_use]
    pub fn explain(&self, error: RedisError) -> LinkError {
        let place = self.place();
        match (error.kind(), error.code()) {
            (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS")) => {
                LinkError::Login { place, source: error }
            }
            (ErrorKind::Parse, _) => LinkError::NotRedis { place, source: error },
            (ErrorKind::Io, _) => LinkError::Silent { place, source: error },
            _ => LinkError::Refused { place, source: error },
        }
    }

    /// A pooled connection.
    pub async fn get(&self) -> RedisResult<deadpool_redis::Connection> {
        let server = self.server().await?;
        match server.pool.get().await {
            Err(PoolError::Backend(_) | PoolError::PostCreateHook(_)) if !self.place.is_fixed() => {
                self.leave(&server).await;
                self.server().await?.pool.get().await.map_err(pool_error)
            }
            answer => answer.map_err(pool_error),
        }
    }

    /// The server to speak to; it is found first, where it is not known.
    async fn server(&self) -> RedisResult<Server> {
        let mut known = self.server.lock().await;
        if let Some(server) = &*known {
            return Ok(server.clone());
        }
        let client = self.place.find(&self.slot()).await?;
        Ok(known.insert(Server { pool: self.pool(&client), client }).clone())
    }

    /// Does not speak to `server` any more: the next one to ask looks for another.
    async fn leave(&self, server: &Server) {
        let mut known = self.server.lock().await;
        if known.as_ref().is_some_and(|known| {
            known.client.get_connection_info().addr() == server.client.get_connection_info().addr()
        }) {
            *known = None;
        }
    }

    /// A key in the slot of all our keys.
    fn slot(&self) -> String {
        self.key("slot")
    }

    fn pool(&self, client: &Client) -> Pool {
        let manager = Manager::new_with_config(client.get_connection_info().clone(), connection(Duration::ZERO))
            .expect("a client was made of the same address before");
        let mut pool = Pool::builder(manager)
            .max_size(self.connections_max)
            .wait_timeout(Some(ANSWER_MAX))
            .create_timeout(Some(CONNECT_MAX))
            .recycle_timeout(Some(CONNECT_MAX))
            .runtime(Runtime::Tokio1);
        if !self.place.is_fixed() {
            pool = pool.post_create(self.proof()).pre_recycle(self.proof());
        }
        pool.build().expect("a pool with timeouts has a runtime")
    }

    /// Asks the server of each connection whether it still is the one.
    fn proof(&self) -> Hook {
        let (place, slot) = (Arc::clone(&self.place), self.slot());
        Hook::async_fn(move |connection: &mut MultiplexedConnection, _| {
            let (place, slot) = (Arc::clone(&place), slot.clone());
            Box::pin(async move { place.prove(connection, &slot).await.map_err(HookError::Backend) })
        })
    }

    /// Runs a script on a pooled connection.
    pub async fn invoke<T: redis::FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> RedisResult<T> {
        script.invoke_async(&mut self.get().await?).await
    }

    /// A connection of one's own, on which an answer may take `block` longer.
    pub async fn dedicated(&self, block: Duration) -> RedisResult<MultiplexedConnection> {
        let server = self.server().await?;
        match self.connect(&server, block).await {
            Err(_) if !self.place.is_fixed() => {
                self.leave(&server).await;
                self.connect(&self.server().await?, block).await
            }
            answer => answer,
        }
    }

    async fn connect(&self, server: &Server, block: Duration) -> RedisResult<MultiplexedConnection> {
        let mut connected = server.client.get_multiplexed_async_connection_with_config(&connection(block)).await?;
        self.place.prove(&mut connected, &self.slot()).await?;
        Ok(connected)
    }
}

fn pool_error(error: PoolError) -> RedisError {
    match error {
        PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => error,
        error => (ErrorKind::Io, "connect", error.to_string()).into(),
    }
}

/// Whether a server that answers so to PING, INFO and TIME will do.
fn judge(place: &str, pong: &str, info: &str, (seconds, micros): (i64, u32)) -> Result<Probe, LinkError> {
    let place = place.to_owned();
    let now = DateTime::from_timestamp(seconds, micros.saturating_mul(1_000));
    let (Some(version), Some(now), "PONG") = (field(info, "redis_version"), now, pong) else {
        let source = RedisError::from((ErrorKind::UnexpectedReturnType, "no PONG, no version or no time"));
        return Err(LinkError::NotRedis { place, source });
    };
    let version = version.to_owned();
    if release(&version).is_none_or(|release| release < OLDEST) {
        return Err(LinkError::TooOld { place, version });
    }
    Ok(Probe { version, eviction: field(info, "maxmemory_policy").map(str::to_owned), now })
}

/// A line `name:value` of the answer to INFO.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// The first two numbers of a version.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_version_before_the_oldest_that_will_do() {
        for (version, good) in [("6.2.0", true), ("6.1.99", false), ("7.0.15", true), ("10.0", true), ("x", false)] {
            let judged = judge("h:1", "PONG", &format!("redis_version:{version}\r\n"), (1_795_147_200, 5));
            match judged {
                Ok(probe) => assert_eq!((probe.version.as_str(), good), (version, true)),
                Err(error) => {
                    assert!(!good, "{version}");
                    let told = format!("redis h:1: version {version} is too old, 6.2 or newer is needed");
                    assert_eq!(error.to_string(), told);
                }
            }
        }
    }

    #[test]
    fn takes_what_has_no_version_for_something_else_than_a_redis() {
        let error = judge("h:1", "PONG", "", (1_795_147_200, 5)).expect_err("no version");
        assert_eq!(error.to_string(), "redis h:1: what answers there is not a Redis");
    }

    #[test]
    fn reads_a_field_of_info_by_its_whole_name() {
        let info = "# Server\r\nredis_version_old:1\r\nredis_version:7.0.15\r\n";
        assert_eq!(field(info, "redis_version"), Some("7.0.15"));
        assert_eq!(field(info, "redis_mode"), None);
    }
}
