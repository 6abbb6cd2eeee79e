//! A DynamoDB Local of the benchmark's own, and the distance to it.

use std::{
    net::{SocketAddr, TcpListener as Probe},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use aws_sdk_dynamodb::{
    Client, Config,
    config::{BehaviorVersion, Credentials, Region},
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

pub const REGION: &str = "us-east-1";
/// The server takes any.
pub const KEY: &str = "bench";

/// It ends with this.
pub struct Server {
    pub port: u16,
    child: Child,
}

impl Server {
    /// Starts the one that `tests/run` has put into the cache.
    pub async fn start() -> Self {
        let probe = Probe::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let port = probe.local_addr().unwrap().port();
        drop(probe);
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
        let lib = cache.join("janitor-tests/dynamodb/lib");
        assert!(lib.is_dir(), "there is no DynamoDB Local in {}: tests/run puts it there", lib.display());
        let child = Command::new("java")
            .arg(format!("-Djava.library.path={}", lib.display()))
            .arg("-cp")
            .arg(lib.join("*"))
            .arg("com.amazonaws.services.dynamodbv2.local.main.ServerRunner")
            .args(["-inMemory", "-sharedDb", "-disableTelemetry", "-port", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { port, child };
        while client(port).list_tables().send().await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A client of the server on this port.
pub fn client(port: u16) -> Client {
    let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let config = Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .credentials_provider(Credentials::new(KEY, KEY, None, None, "bench"))
        .region(Region::new(REGION))
        .endpoint_url(format!("http://127.0.0.1:{port}"))
        .http_client(http);
    Client::from_conf(config.build())
}

/// A port that leads to another one, whose answers come later by `latency`.
pub async fn delay(to: u16, latency: Duration) -> u16 {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            for stream in [&near, &far] {
                stream.set_nodelay(true).unwrap();
            }
            let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
            tokio::spawn(pass(from_near, to_far, Duration::ZERO));
            tokio::spawn(pass(from_far, to_near, latency));
        }
    });
    port
}

/// Passes bytes on; what comes in one piece waits once.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, latency: Duration) {
    let mut bytes = vec![0; 1 << 20];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        tokio::time::sleep(latency).await;
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
