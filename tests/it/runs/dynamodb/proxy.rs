//! Stands before the real server, and does to single requests what a network or a busy service does.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Act {
    /// It goes to the server.
    Pass,
    /// The server does not get it, and this error is the answer.
    Fail(&'static str),
    /// The server gets it, and its answer is lost.
    Lose,
    /// The server gets it, and there is no answer.
    Hang,
    /// The server does not get it, and there is no answer but an end.
    Drop,
    /// The server gets half of what a batch names.
    Half,
}

/// A request: its operation, and its number, from 0 on.
#[derive(Clone, Debug)]
pub struct Asked {
    pub operation: String,
    pub number: usize,
}

type Judge = dyn Fn(Asked) -> BoxFuture<'static, Act> + Send + Sync;

/// A proxy before the server on a port.
#[derive(Clone)]
pub struct Proxy {
    port: u16,
    server: u16,
    judge: Arc<Mutex<(usize, Arc<Judge>)>>,
}

impl Proxy {
    /// One that passes everything on.
    pub async fn before(server: u16) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let judge: Arc<Judge> = Arc::new(|_| Box::pin(async { Act::Pass }));
        let proxy = Self { port, server, judge: Arc::new(Mutex::new((0, judge))) };
        let own = proxy.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let proxy = own.clone();
                tokio::spawn(async move { proxy.serve(stream).await });
            }
        });
        proxy
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on `judge` says what becomes of each request; they are numbered anew.
    pub fn set(&self, judge: impl Fn(Asked) -> Act + Send + Sync + 'static) {
        self.set_async(move |asked| {
            let act = judge(asked);
            Box::pin(async { act })
        });
    }

    /// Likewise, with a judge that does something first.
    pub fn set_async(&self, judge: impl Fn(Asked) -> BoxFuture<'static, Act> + Send + Sync + 'static) {
        *self.judge.lock().unwrap() = (0, Arc::new(judge));
    }

    /// How many requests there were since the judge was set.
    pub fn count(&self) -> usize {
        self.judge.lock().unwrap().0
    }

    /// One request; the connection ends with it.
    async fn serve(&self, mut stream: TcpStream) {
        let Some((head, body)) = read(&mut stream).await else { return };
        let is_target = |line: &&str| line.to_ascii_lowercase().starts_with("x-amz-target:");
        let operation =
            head.lines().find(is_target).and_then(|line| line.rsplit_once('.')).map_or("", |(_, name)| name);
        let (number, judge) = {
            let mut judge = self.judge.lock().unwrap();
            judge.0 += 1;
            (judge.0 - 1, judge.1.clone())
        };
        let act = judge(Asked { operation: operation.trim().to_owned(), number }).await;
        let told = match act {
            Act::Drop => return,
            Act::Fail(code) => answer(
                400,
                &json!({"__type": format!("com.amazonaws.dynamodb.v20120810#{code}"), "message": "said the test"}),
            ),
            Act::Pass => self.ask(&head, &body).await,
            Act::Half => self.ask_half(&head, &body).await,
            Act::Lose => {
                self.ask(&head, &body).await;
                return;
            }
            Act::Hang => {
                self.ask(&head, &body).await;
                std::future::pending::<()>().await;
                return;
            }
        };
        // The other end may have gone.
        let _ = stream.write_all(&told).await;
    }

    /// What the server answers.
    async fn ask(&self, head: &str, body: &[u8]) -> Vec<u8> {
        let is_kept = |line: &&str| {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            !["content-length", "connection"].contains(&name.as_str())
        };
        let kept: Vec<&str> = head.lines().filter(is_kept).collect();
        let (kept, length) = (kept.join("\r\n"), body.len());
        let request = format!("{kept}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
        let mut server = TcpStream::connect(("127.0.0.1", self.server)).await.unwrap();
        server.write_all(request.as_bytes()).await.unwrap();
        server.write_all(body).await.unwrap();
        let mut told = Vec::new();
        server.read_to_end(&mut told).await.unwrap();
        told
    }

    /// Gives the server every other thing of a batch, and the rest back as not done.
    async fn ask_half(&self, head: &str, body: &[u8]) -> Vec<u8> {
        let mut request: Value = serde_json::from_slice(body).unwrap();
        let is_read = request["RequestItems"].as_object().unwrap().values().all(Value::is_object);
        let mut left = request["RequestItems"].clone();
        for (table, asked) in request["RequestItems"].as_object_mut().unwrap() {
            let (asked, left) = if is_read {
                (asked["Keys"].as_array_mut().unwrap(), left[table]["Keys"].as_array_mut().unwrap())
            } else {
                (asked.as_array_mut().unwrap(), left[table].as_array_mut().unwrap())
            };
            let at = asked.len().div_ceil(2);
            left.drain(..at);
            asked.truncate(at);
            if left.is_empty() {
                return self.ask(head, body).await;
            }
        }
        let told = self.ask(head, &serde_json::to_vec(&request).unwrap()).await;
        let end = told.windows(4).position(|end| end == b"\r\n\r\n").unwrap();
        let mut told: Value = serde_json::from_slice(&told[end + 4..]).unwrap();
        told[if is_read { "UnprocessedKeys" } else { "UnprocessedItems" }] = left;
        answer(200, &told)
    }
}

fn answer(status: u16, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let head = "content-type: application/x-amz-json-1.0\r\nconnection: close";
    format!("HTTP/1.1 {status} X\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// A request's head and body; none where the other end had nothing to ask.
async fn read(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut body = bytes.split_off(end + 4);
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(|text| text.trim().to_owned()));
    let length: usize = length.map_or(0, |text| text.parse().unwrap());
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some((head, body))
}
