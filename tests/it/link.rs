//! A link to Redis says what is wrong with it, and never its password.

use std::{error::Error, time::Duration};

use apalis_janitor::link::{Link, LinkError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::redis::{RedisOptions, RedisServer, free_port};

const PASSWORD: &str = "s3cret-s3cret";

fn link(url: &str) -> Link {
    Link::new(url, "janitor").expect("a valid URL")
}

/// The probe's error; neither it nor its sources show the password.
async fn refused(url: &str) -> LinkError {
    let link = link(url);
    let error = link.probe().await.expect_err("it is no good Redis");
    let mut told = format!("{link:?} {error:?} {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        told += &cause.to_string();
        source = cause.source();
    }
    assert!(!told.contains(PASSWORD), "{told}");
    error
}

async fn with_password() -> RedisServer {
    RedisServer::start_with(RedisOptions { password: Some(PASSWORD.to_owned()), ..RedisOptions::default() }).await
}

#[tokio::test]
async fn tells_what_a_server_is() {
    let more = ["--maxmemory-policy", "allkeys-lru"].map(str::to_owned).to_vec();
    let server = RedisServer::start_with(RedisOptions { more, ..RedisOptions::default() }).await;
    let probe = link(&server.url()).probe().await.expect("a good Redis");
    assert_eq!(probe.eviction.as_deref(), Some("allkeys-lru"));
    assert!(server.cli(&["INFO", "server"]).await.contains(&format!("redis_version:{}", probe.version)));
    assert!((chrono::Utc::now() - probe.now).num_seconds().abs() < 60, "{}", probe.now);
}

#[tokio::test]
async fn tells_it_to_who_may_do_no_more_than_is_needed() {
    let server = RedisServer::start_with_least().await;
    link(&server.url()).probe().await.expect("a good Redis");
}

#[tokio::test]
async fn tells_it_to_who_has_the_password() {
    let server = with_password().await;
    link(&server.url()).probe().await.expect("a good Redis");
}

#[tokio::test]
async fn names_a_wrong_or_missing_password_without_showing_it() {
    let server = with_password().await;
    let place = format!("127.0.0.1:{}", server.port());
    for login in [format!(":{PASSWORD}x@"), format!("somebody:{PASSWORD}@"), String::new()] {
        let error = refused(&format!("redis://{login}{place}")).await;
        assert_eq!(error.to_string(), format!("redis {place}: login refused"));
    }
}

#[tokio::test]
async fn names_a_place_where_nothing_listens() {
    let place = format!("127.0.0.1:{}", free_port());
    let error = refused(&format!("redis://:{PASSWORD}@{place}")).await;
    assert_eq!(error.to_string(), format!("redis {place}: does not answer"));
}

#[tokio::test]
async fn names_a_server_that_is_frozen() {
    let server = RedisServer::start().await;
    server.freeze();
    let error = tokio::time::timeout(Duration::from_secs(20), refused(&server.url())).await.expect("an error in time");
    assert_eq!(error.to_string(), format!("redis 127.0.0.1:{}: does not answer", server.port()));
}

/// Somebody who gives this answer to whatever comes.
async fn somebody(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free loopback port");
    let place = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut asked = [0; 1024];
                while matches!(stream.read(&mut asked).await, Ok(1..)) {
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    place
}

#[tokio::test]
async fn names_what_is_not_a_redis() {
    let place = somebody("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    let error = refused(&format!("redis://:{PASSWORD}@{place}")).await;
    assert_eq!(error.to_string(), format!("redis {place}: what answers there is not a Redis"));
}

#[tokio::test]
async fn names_what_a_user_may_not_do() {
    let server = with_password().await;
    server.cli(&["ACL", "SETUSER", "weak", "on", &format!(">{PASSWORD}"), "+ping"]).await;
    let place = format!("127.0.0.1:{}", server.port());
    let error = refused(&format!("redis://weak:{PASSWORD}@{place}")).await;
    assert_eq!(error.to_string(), format!("redis {place}: refused"));
    assert!(error.source().expect("a source").to_string().contains("'info' command"), "{error:?}");
}

#[test]
fn refuses_a_url_that_no_redis_has_without_showing_it() {
    for url in ["", "redis://", "http://:s3cret-s3cret@h", "redis://:s3cret-s3cret@h:port", "s3cret-s3cret"] {
        let error = Link::new(url, "janitor").expect_err("no URL of a Redis");
        assert!(matches!(error, LinkError::Url(_)), "{url}");
        assert!(!format!("{error:?} {error}").contains(PASSWORD), "{error:?}");
    }
}
