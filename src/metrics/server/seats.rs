//! A listener with so many connections at once and no more, each of which ends where nothing comes for long: who opens many
//! takes none of the files that the worker needs.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep},
};

/// The most connections at once; another one waits until one of them ends.
pub(super) const SEATS_MAX: usize = 64;
/// How long a connection may say nothing: longer than the pause between two looks of who looks all the time.
const SILENCE_MAX: Duration = Duration::from_mins(2);

/// The listener.
#[derive(Debug)]
pub(super) struct Seats {
    listener: TcpListener,
    free: Arc<Semaphore>,
}

impl Seats {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self { listener, free: Arc::new(Semaphore::new(SEATS_MAX)) }
    }
}

impl Listener for Seats {
    type Io = Seated;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Seated, SocketAddr) {
        let seat = Arc::clone(&self.free).acquire_owned().await.expect("nobody closes it");
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (Seated { stream, silence: Box::pin(sleep(SILENCE_MAX)), _seat: seat }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that has its seat.
#[derive(Debug)]
pub(super) struct Seated {
    stream: TcpStream,
    silence: Pin<Box<Sleep>>,
    _seat: OwnedSemaphorePermit,
}

impl Seated {
    /// What came of reading or writing; an error where nothing could be done for too long.
    fn heard<T>(&mut self, context: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.silence.as_mut().reset(Instant::now() + SILENCE_MAX);
            return done;
        }
        ready!(self.silence.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Seated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.heard(context, done)
    }
}

impl AsyncWrite for Seated {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.heard(context, done)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, time::timeout};

    use super::*;

    async fn seats() -> (Seats, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Seats::new(listener), address)
    }

    #[tokio::test]
    async fn one_too_many_waits_for_a_seat() {
        let (mut seats, address) = seats().await;
        let (mut clients, mut seated) = (Vec::new(), Vec::new());
        for _ in 0..SEATS_MAX {
            clients.push(TcpStream::connect(address).await.unwrap());
            seated.push(seats.accept().await);
        }
        clients.push(TcpStream::connect(address).await.unwrap());
        assert!(timeout(Duration::from_millis(50), seats.accept()).await.is_err());
        seated.pop();
        timeout(Duration::from_secs(10), seats.accept()).await.expect("a seat is free");
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_loses_the_seat() {
        let (mut seats, address) = seats().await;
        let _client = TcpStream::connect(address).await.unwrap();
        let (mut seated, _) = seats.accept().await;
        let began = Instant::now();
        let error = seated.read_u8().await.unwrap_err();
        assert_eq!((error.kind(), began.elapsed() >= SILENCE_MAX), (io::ErrorKind::TimedOut, true));
    }
}
