//! A sweeper that is stopped between its claim and its delete harms nobody who put the same bytes meanwhile.

use std::{process::Stdio, sync::Arc};

use apalis_janitor::{
    blobs::{Catalog, Digest, State, Tag, conformance::objects::digest},
    report::Report,
};
use futures::TryStreamExt;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use crate::blob_home::{Bytes, Home, Who};

const CONTENT: &[u8] = b"the same bytes";
/// What a request begins with that deletes many objects.
const DELETES: &[u8] = b"?delete";

/// A way to a server on which requests that delete wait.
struct Gate {
    port: u16,
    /// One for each such request that has come.
    came: Arc<Semaphore>,
    /// One for each that may pass.
    passes: Arc<Semaphore>,
}

impl Gate {
    async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (came, passes) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let gate = Self { port, came: Arc::clone(&came), passes: Arc::clone(&passes) };
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(&server).await.unwrap();
                tokio::spawn(relay(client, server, Arc::clone(&came), Arc::clone(&passes)));
            }
        });
        gate
    }
}

async fn relay(client: TcpStream, server: TcpStream, came: Arc<Semaphore>, passes: Arc<Semaphore>) {
    let ((mut asks, mut hears), (mut answers, mut gets)) = (client.into_split(), server.into_split());
    tokio::spawn(async move { tokio::io::copy(&mut answers, &mut hears).await });
    let mut piece = vec![0; 1 << 16];
    while let Ok(count @ 1..) = asks.read(&mut piece).await {
        if piece[..count].windows(DELETES.len()).any(|part| part == DELETES) {
            came.add_permits(1);
            passes.acquire().await.unwrap().forget();
        }
        if gets.write_all(&piece[..count]).await.is_err() {
            return;
        }
    }
}

async fn states(catalog: &dyn Catalog, digest: Digest) -> Vec<State> {
    catalog.blobs(digest).await.unwrap().into_iter().map(|blob| blob.state).collect()
}

async fn a_late_sweeper_harms_nobody(who: Who) {
    let mut home = Home::new(who, Bytes::S3).await;
    let gate = Gate::to(home.server()).await;
    home.configure("writer.toml", "data", "");
    home.endpoint = Some(format!("http://127.0.0.1:{}", gate.port));
    home.configure("sweeper.toml", "sweeper", "grace = \"0s\"");
    let catalog = home.catalog().await;
    let store = home.over(catalog.clone()).await;
    let old = store.put(CONTENT, &Tag::of("failed")).await.unwrap();
    store.release("failed", 1).await.unwrap();

    let mut sweeper = home.command("sweeper.toml");
    sweeper.args(["run", "sweep", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let sweeper = sweeper.spawn().unwrap();
    gate.came.acquire().await.unwrap().forget();
    let id = Pid::from_raw(sweeper.id().unwrap().try_into().unwrap()).unwrap();
    kill_process(id, Signal::STOP).unwrap();
    assert_eq!(states(&*catalog, old.digest).await, [State::Deleting]);

    let writer = async |line: &str| {
        let output = home.command("writer.toml").args(line.split(' ')).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    std::fs::write(home.path().join("content"), CONTENT).unwrap();
    writer("blobs put content --task good").await;
    writer("blobs finalize --task good").await;
    assert_eq!(states(&*catalog, old.digest).await, [State::Live, State::Deleting]);

    gate.passes.add_permits(1);
    kill_process(id, Signal::CONT).unwrap();
    let swept = sweeper.wait_with_output().await.unwrap();
    assert!(swept.status.success(), "{}", String::from_utf8_lossy(&swept.stderr));
    let report: Report = serde_json::from_slice(&swept.stdout).unwrap();
    assert_eq!(report.deleted.get("blobs"), 1, "it went on: {report:?}");
    assert_eq!(states(&*catalog, old.digest).await, [State::Live]);
    let bytes = store.get(old.digest).await.unwrap().try_collect::<Vec<_>>().await.unwrap().concat();
    assert_eq!((bytes.as_slice(), digest(&bytes)), (CONTENT, old.digest));
}

#[tokio::test]
async fn a_process_that_is_stopped_over_sqlite_deletes_no_new_bytes() {
    a_late_sweeper_harms_nobody(Who::Sqlite).await;
}

#[tokio::test]
async fn a_process_that_is_stopped_over_postgres_deletes_no_new_bytes() {
    a_late_sweeper_harms_nobody(Who::Postgres).await;
}
