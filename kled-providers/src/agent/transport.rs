//! HTTP/2 over any stream of bytes.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kled_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::body::Body;
use tower_service::Service;

/// How much a sender may be ahead of a receiver: in one call, and in all calls of a connection. Drivers over a network
/// hold as much beside the connection, see [`Heartbeat`].
pub(super) const STREAM_WINDOW: u32 = 4 << 20;
pub(super) const CONNECTION_WINDOW: u32 = 8 << 20;

/// What the stream of a driver over a network may hold in each direction: more than HTTP/2 lets the other be ahead, with
/// what it says besides.
#[cfg(any(feature = "kubernetes", feature = "local-container"))]
pub(crate) const DRIVER_BUFFER: usize = 2 * CONNECTION_WINDOW as usize;

/// A chunk of a copy fits in one frame, so that proxies on the way pass on few large messages instead of many small ones.
pub(super) const FRAME_MAX: u32 = 128 << 10;

/// How often one end asks whether the other is still there, and how long the answer may take.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(10);
pub(super) const HEARTBEAT_LIMIT: Duration = Duration::from_secs(20);

/// Whether a driver asks now and then whether the agent is still there.
///
/// An end that has to answer such a question and cannot write reads nothing more until it can (`h2` does so). Where
/// both ends have much to say that is for ever, unless one of them takes in all that the other may send. So only those
/// ask whose drivers have a stream that holds at least [`CONNECTION_WINDOW`] in each direction: a local socket that ends
/// is known to have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heartbeat {
    /// Never: the system itself tells the end of the stream.
    None,
    /// Every ten seconds.
    Regular,
}

/// One connection, used by any number of calls at once.
#[derive(Clone, Debug)]
pub(super) struct Channel(SendRequest<Body>);

/// Shakes hands on `stream`. The connection lives until it breaks or the last clone of the channel is dropped.
pub(super) async fn connect<S>(stream: S, heartbeat: Heartbeat) -> Result<Channel>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_MAX)
        .keep_alive_interval((heartbeat == Heartbeat::Regular).then_some(HEARTBEAT))
        .keep_alive_timeout(HEARTBEAT_LIMIT)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|cause| {
            Error::new(ErrorKind::Unavailable, "the workspace does not answer").because(cause)
        })?;
    // Its end is seen by the calls.
    tokio::spawn(async move { drop(connection.await) });
    Ok(Channel(sender))
}

impl Channel {
    /// True when no further call can succeed.
    pub(super) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
