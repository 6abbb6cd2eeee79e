//! Which server is to be spoken to: the one that a URL names, the master that Sentinels know, or the master of a cluster
//! that has the slot of our keys.

use std::time::Duration;

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisError,
    RedisResult, aio::MultiplexedConnection,
};

use super::{ANSWER_MAX, CONNECT_MAX};

const SENTINEL_PORT: u16 = 26_379;
const CLUSTER_PORT: u16 = 6_379;
/// How long a server that is asked where to go may take.
const FIND_MAX: Duration = Duration::from_secs(2);

/// Where a Redis is found.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// `redis://`, `rediss://`: that server.
    Server(Box<ConnectionInfo>),
    /// `redis+sentinel://[user:password@]h1,h2/name[/database]`: whichever server is the master of that name. The login is
    /// the server's; `node` is how it is spoken to, wherever it is.
    Sentinel { sentinels: Vec<ConnectionInfo>, master: String, node: Box<ConnectionInfo> },
    /// `redis+cluster://[user:password@]h1,h2`: whichever server has the slot. All our keys are in one.
    Cluster { seeds: Vec<ConnectionInfo> },
}

impl Place {
    /// Reads a URL.
    ///
    /// # Errors
    /// Where it is none; the error does not show it.
    pub(super) fn parse(url: &str) -> RedisResult<Self> {
        let Some((kind, rest)) = url.split_once("://").filter(|(scheme, _)| scheme.contains('+')) else {
            return url.into_connection_info().map(|server| Self::Server(Box::new(server)));
        };
        let (login, rest) = rest.rsplit_once('@').map_or(("", rest), |(login, rest)| (login, rest));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let at = if login.is_empty() { String::new() } else { format!("{login}@") };
        let (scheme, kind) = kind.split_once('+').expect("it has one");
        let of = |at: &str, host: &str, path: &str| format!("{scheme}://{at}{host}/{path}").into_connection_info();
        match kind {
            "sentinel" => {
                let (master, database) = path.split_once('/').unwrap_or((path, ""));
                if master.is_empty() {
                    return Err(invalid("names no master: redis+sentinel://host,host/name"));
                }
                let at_sentinel = match query.split_once('=') {
                    None if query.is_empty() => String::new(),
                    Some(("sentinel_password", password)) => format!(":{password}@"),
                    _ => return Err(invalid("takes the option sentinel_password only")),
                };
                let sentinels = each(hosts, SENTINEL_PORT, |host| of(&at_sentinel, host, ""))?;
                let node = Box::new(of(&at, "localhost", database)?);
                Ok(Self::Sentinel { sentinels, master: master.to_owned(), node })
            }
            "cluster" if path.is_empty() && query.is_empty() => {
                Ok(Self::Cluster { seeds: each(hosts, CLUSTER_PORT, |host| of(&at, host, ""))? })
            }
            "cluster" => Err(invalid("names a database or an option, which a cluster has not")),
            _ => Err(invalid("must be redis+sentinel or redis+cluster")),
        }
    }

    /// Whether it is always the same server.
    pub(super) const fn is_fixed(&self) -> bool {
        matches!(self, Self::Server(_))
    }

    /// Its hosts and ports, for messages.
    pub(super) fn name(&self) -> String {
        let hosts = |all: &[ConnectionInfo]| all.iter().map(|one| one.addr().to_string()).collect::<Vec<_>>().join(",");
        match self {
            Self::Server(server) => server.addr().to_string(),
            Self::Sentinel { sentinels, master, .. } => format!("{}/{master}", hosts(sentinels)),
            Self::Cluster { seeds } => hosts(seeds),
        }
    }

    /// The server that is to be spoken to now about `key`.
    pub(super) async fn find(&self, key: &str) -> RedisResult<Client> {
        let asked = match self {
            Self::Server(server) => return Client::open(ConnectionInfo::clone(server)),
            Self::Sentinel { sentinels, .. } => sentinels,
            Self::Cluster { seeds } => seeds,
        };
        let mut last = silent("no server is named");
        for server in asked {
            match tokio::time::timeout(FIND_MAX, self.find_by(server, key)).await {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(error)) => last = error,
                Err(_) => last = silent("no answer in time"),
            }
        }
        Err(last)
    }

    /// The server that this one knows, proven to be the one.
    async fn find_by(&self, server: &ConnectionInfo, key: &str) -> RedisResult<Client> {
        let client = Client::open(server.clone())?;
        let mut asked = client.get_multiplexed_async_connection_with_config(&connection(Duration::ZERO)).await?;
        let found = match self {
            Self::Sentinel { master, node, .. } => {
                let mut ask = redis::cmd("SENTINEL");
                ask.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
                let told: Option<(String, u16)> = ask.query_async(&mut asked).await?;
                let (host, port) = told.ok_or_else(|| silent("the sentinel knows no master of that name"))?;
                moved_to(node, host, port)
            }
            Self::Server(_) | Self::Cluster { .. } => match self.prove(&mut asked, key).await {
                Ok(()) => return Ok(client),
                Err(error) => {
                    let (host, port) = owner(&error).ok_or(error)?;
                    // A server that does not know its own address names none.
                    let host = if host.is_empty() { host_of(server) } else { host };
                    moved_to(server, host, port)
                }
            },
        };
        let found = Client::open(found)?;
        let mut connection = found.get_multiplexed_async_connection_with_config(&connection(Duration::ZERO)).await?;
        self.prove(&mut connection, key).await?;
        Ok(found)
    }

    /// Asks a server whether it is the one to be spoken to about `key`.
    pub(super) async fn prove(&self, connection: &mut MultiplexedConnection, key: &str) -> RedisResult<()> {
        match self {
            Self::Server(_) => Ok(()),
            Self::Sentinel { .. } => {
                let role: Vec<redis::Value> = redis::cmd("ROLE").query_async(connection).await?;
                let is_master =
                    |word: &redis::Value| matches!(word, redis::Value::BulkString(word) if word == b"master");
                if role.first().is_some_and(is_master) {
                    Ok(())
                } else {
                    Err(silent("the server is no master any more"))
                }
            }
            // Its master answers, every other server names the master.
            Self::Cluster { .. } => redis::cmd("EXISTS").arg(key).query_async::<i64>(connection).await.map(drop),
        }
    }
}

/// The server that an error names as the one to go to.
fn owner(error: &RedisError) -> Option<(String, u16)> {
    let (host, port) = error.redirect_node()?.0.rsplit_once(':')?;
    Some((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port.parse().ok()?))
}

fn host_of(server: &ConnectionInfo) -> String {
    match server.addr() {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host.clone(),
        _ => String::new(),
    }
}

/// The same way to speak to another server.
fn moved_to(server: &ConnectionInfo, to_host: String, to_port: u16) -> ConnectionInfo {
    let mut address = server.addr().clone();
    match &mut address {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            (*host, *port) = (to_host, to_port);
        }
        _ => {}
    }
    server.clone().set_addr(address)
}

/// Each host of a list, with a port where it has none.
fn each(hosts: &str, port: u16, one: impl Fn(&str) -> RedisResult<ConnectionInfo>) -> RedisResult<Vec<ConnectionInfo>> {
    let has_port = |host: &str| host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    hosts.split(',').map(|host| if has_port(host) { one(host) } else { one(&format!("{host}:{port}")) }).collect()
}

fn invalid(what: &'static str) -> RedisError {
    (ErrorKind::InvalidClientConfig, what).into()
}

fn silent(what: &'static str) -> RedisError {
    (ErrorKind::Io, what).into()
}

/// How a connection behaves on which an answer may take `block` longer.
pub(super) fn connection(block: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_MAX))
        .set_response_timeout(Some(ANSWER_MAX + block))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_one_server_sentinels_or_a_cluster() {
        for (url, name, is_fixed) in [
            ("redis://h", "h:6379", true),
            ("redis+sentinel://:pw@h1,h2:1/main", "h1:26379,h2:1/main", false),
            ("rediss+sentinel://u:p@w@h1/main/3?sentinel_password=x", "h1:26379/main", false),
            ("redis+cluster://u:pw@h1:7000,h2,[::1]:7002", "h1:7000,h2:6379,::1:7002", false),
        ] {
            let place = Place::parse(url).unwrap();
            assert_eq!((place.name(), place.is_fixed()), (name.to_owned(), is_fixed), "{url}");
        }
    }

    #[test]
    fn who_logs_in_where_is_kept_apart() {
        let Place::Sentinel { sentinels, node, .. } =
            Place::parse("redis+sentinel://u:pw@h1/main/3?sentinel_password=x").unwrap()
        else {
            panic!("another kind")
        };
        let (server, sentinel) = (node.redis_settings(), sentinels[0].redis_settings());
        assert_eq!((server.username(), server.password(), server.db()), (Some("u"), Some("pw"), 3));
        assert_eq!((sentinel.username(), sentinel.password(), sentinel.db()), (None, Some("x"), 0));
    }

    #[test]
    fn what_lacks_a_part_or_has_one_too_many_is_refused() {
        for url in [
            "redis+sentinel://h1",
            "redis+sentinel://h1/",
            "redis+sentinel://h1/main?x=1",
            "redis+sentinel:///main",
            "redis+cluster://h1/1",
            "redis+cluster://",
            "redis+other://h1",
        ] {
            assert!(Place::parse(url).is_err(), "{url}");
        }
    }
}
