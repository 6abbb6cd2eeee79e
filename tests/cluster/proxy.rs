//! A TCP proxy between a process and a server that can be slow, cut, or pass nothing in one direction or both.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::sleep,
};

/// What the proxy does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They pass.
    Open,
    /// Each piece of them passes this much later.
    Slow(Duration),
    /// Connections are closed, and new ones too.
    Cut,
    /// Connections stay and new ones are taken, and nothing passes: half-open.
    Silent,
    /// Only answers pass.
    NoRequests,
    /// Only requests pass.
    NoAnswers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Requests,
    Answers,
}

impl Way {
    fn passes(self, direction: Direction) -> bool {
        match self {
            Self::Open | Self::Slow(_) => true,
            Self::Cut | Self::Silent => false,
            Self::NoRequests => direction == Direction::Answers,
            Self::NoAnswers => direction == Direction::Requests,
        }
    }
}

/// A proxy on a loopback port. It ends with this.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    way: watch::Sender<Way>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy to a port of this machine.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let (way, seen) = watch::channel(Way::Open);
        Self { port: own, way, accepting: tokio::spawn(accept(listener, port, seen)) }
    }

    /// Its own port on 127.0.0.1.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// What it does from now on. What was held up passes once it may, as it does where packets were lost for a while.
    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, to: u16, way: watch::Receiver<Way>) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(serve(client, to, way.clone()));
    }
}

async fn serve(client: TcpStream, to: u16, mut way: watch::Receiver<Way>) {
    // What does not pass, the server does not even hear of.
    let knock = way.wait_for(|way| *way == Way::Cut || way.passes(Direction::Requests)).await.map(|way| *way);
    if knock.is_ok_and(|way| way == Way::Cut) {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    // The proxy must not be what is slow.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let both = async {
        tokio::join!(
            pump(from_client, to_server, way.clone(), Direction::Requests),
            pump(from_server, to_client, way.clone(), Direction::Answers)
        )
    };
    let mut cut = way.clone();
    tokio::select! { _ = both => {} _ = cut.wait_for(|way| *way == Way::Cut) => {} }
}

/// Passes bytes on until there are no more; the end of them is passed on as well.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut way: watch::Receiver<Way>,
    direction: Direction,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut buffer).await.unwrap_or(0);
        let Ok(now) = way.wait_for(|way| way.passes(direction)).await.map(|way| *way) else { return };
        if let Way::Slow(by) = now {
            sleep(by).await;
        }
        if count == 0 {
            // The other side may be gone already.
            let _ = to.shutdown().await;
            return;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// So long nothing comes where nothing passes.
    const NOTHING: Duration = Duration::from_millis(100);

    /// A server that sends back what it gets, behind a proxy, and a connection to it.
    async fn echo() -> (Proxy, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let proxy = Proxy::to(listener.local_addr().unwrap().port()).await;
        tokio::spawn(async move {
            while let Ok((mut one, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = one.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        let client = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        (proxy, client)
    }

    async fn says(client: &mut TcpStream, byte: u8) {
        client.write_all(&[byte]).await.unwrap();
    }

    async fn hears(client: &mut TcpStream) -> Option<u8> {
        timeout(NOTHING, client.read_u8()).await.ok().map(Result::unwrap)
    }

    #[tokio::test]
    async fn what_is_held_up_arrives_once_and_in_turn_when_the_way_opens() {
        for way in [Way::Silent, Way::NoRequests, Way::NoAnswers] {
            let (proxy, mut client) = echo().await;
            says(&mut client, 1).await;
            assert_eq!(client.read_u8().await.unwrap(), 1);
            proxy.set(way);
            says(&mut client, 2).await;
            assert_eq!(hears(&mut client).await, None, "{way:?}");
            says(&mut client, 3).await;
            proxy.set(Way::Open);
            assert_eq!((client.read_u8().await.unwrap(), client.read_u8().await.unwrap()), (2, 3), "{way:?}");
            assert_eq!(hears(&mut client).await, None, "{way:?}");
        }
    }

    #[tokio::test]
    async fn a_cut_ends_connections_and_new_ones_until_it_is_mended() {
        let (proxy, mut client) = echo().await;
        proxy.set(Way::Cut);
        assert!(client.read_u8().await.is_err());
        let mut another = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        assert!(another.read_u8().await.is_err());
        proxy.set(Way::Open);
        let mut third = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        says(&mut third, 4).await;
        assert_eq!(third.read_u8().await.unwrap(), 4);
    }

    #[tokio::test]
    async fn a_slow_way_takes_its_time_in_both_directions() {
        let (proxy, mut client) = echo().await;
        proxy.set(Way::Slow(NOTHING));
        let asked = tokio::time::Instant::now();
        says(&mut client, 5).await;
        assert_eq!(client.read_u8().await.unwrap(), 5);
        assert!(asked.elapsed() >= NOTHING * 2);
    }
}
