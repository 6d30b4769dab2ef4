//! How much of what a client sent waits, and a client that is heard slowly while that is much.
//!
//! SSH has a window for each channel, but the library grants it anew whatever is done with the data. What is left is the
//! connection: not read at all, it would carry neither the news that the client has room for output nor a signal. So it
//! is read on, and slowly.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// From here on a connection is read slowly.
const MUCH: u64 = 64 << 20;

/// Bytes in a second: little enough that [`LIMIT`](super::spool::LIMIT) takes half an hour, and enough for what other
/// channels of the connection say.
const SLOW: u64 = 512 << 10;

/// Bytes that wait in all channels of a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting(Arc<AtomicU64>);

impl Waiting {
    pub(super) fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn remove(&self, bytes: u64) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn is_much(&self) -> bool {
        self.0.load(Ordering::Relaxed) > MUCH
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A client's stream that is read slowly while much waits. What is written to it passes as it is.
pub(super) struct Throttled<S> {
    stream: S,
    waiting: Waiting,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<S> Throttled<S> {
    pub(super) fn new(stream: S, waiting: Waiting) -> Self {
        Self { stream, waiting, pause: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Throttled<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let read = (buffer.filled().len() - before) as u64;
        if read > 0 && self.waiting.is_much() {
            let pause = Duration::from_micros(read * 1_000_000 / SLOW);
            self.pause = Some(Box::pin(tokio::time::sleep(pause)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Throttled<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    const SIZE: usize = 4 << 20;

    async fn time_to_read(waiting: u64) -> Duration {
        let (mut client, server) = tokio::io::duplex(64 << 10);
        let all = Waiting::default();
        all.add(waiting);
        let mut stream = Throttled::new(server, all);
        let writing = tokio::spawn(async move { client.write_all(&vec![1; SIZE]).await });
        let (begun, mut bytes) = (Instant::now(), Vec::new());
        stream.read_to_end(&mut bytes).await.unwrap();
        writing.await.unwrap().unwrap();
        assert!(bytes.len() == SIZE && bytes.iter().all(|byte| *byte == 1));
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_read_slowly_only_while_much_waits() {
        assert_eq!(time_to_read(MUCH).await, Duration::ZERO);
        let expected = Duration::from_secs(SIZE as u64 / SLOW);
        let slow = time_to_read(MUCH + 1).await;
        assert!(slow >= expected && slow < expected * 2, "{slow:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_written_does_not_wait() {
        let (mut client, server) = tokio::io::duplex(64 << 10);
        let all = Waiting::default();
        all.add(MUCH + 1);
        let mut stream = Throttled::new(server, all);
        client.write_all(&[0; 1024]).await.unwrap();
        stream.read_exact(&mut [0; 1024]).await.unwrap();
        let begun = Instant::now();
        stream.write_all(b"output").await.unwrap();
        client.read_exact(&mut [0; 6]).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
