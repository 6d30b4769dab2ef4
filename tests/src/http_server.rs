//! The accept loop of the harness's own HTTP servers.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// Any body.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A body that is there already.
pub(crate) fn whole(content: impl Into<Bytes>) -> Body {
    Full::new(content.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Connections and whatever else lasts as long; ended together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections(Arc<Mutex<JoinSet<()>>>);

impl Connections {
    pub(crate) fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(connection);
    }

    /// Cuts them all off.
    pub(crate) fn cut(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

/// A server of HTTP/1.1 without TLS. Dropping it ends it with all its connections.
#[derive(Debug)]
pub(crate) struct HttpServer {
    address: SocketAddr,
    connections: Connections,
    accepting: JoinHandle<()>,
}

impl HttpServer {
    /// Listens on a free port; an error of `answer` cuts the connection off.
    pub(crate) async fn start<Answer, Ending>(
        address: Ipv4Addr,
        connections: Connections,
        answer: Answer,
    ) -> Result<Self>
    where
        Answer: Fn(Request<Incoming>) -> Ending + Clone + Send + 'static,
        Ending: Future<Output = Result<Response<Body>>> + Send + 'static,
    {
        let listener =
            TcpListener::bind((address, 0)).await.with_context(|| format!("listen on {address}"))?;
        let address = listener.local_addr()?;
        let accepting = tokio::spawn(accept(listener, connections.clone(), answer));
        Ok(Self { address, connections, accepting })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.accepting.abort();
        self.connections.cut();
    }
}

async fn accept<Answer, Ending>(listener: TcpListener, connections: Connections, answer: Answer)
where
    Answer: Fn(Request<Incoming>) -> Ending + Clone + Send + 'static,
    Ending: Future<Output = Result<Response<Body>>> + Send + 'static,
{
    while let Ok((stream, _)) = listener.accept().await {
        let answer = answer.clone();
        connections.spawn(async move {
            // Small answers must not wait for an acknowledgement of the one before.
            let _slower = stream.set_nodelay(true);
            let service = service_fn(move |request| {
                let answered = answer(request);
                async move { answered.await.map_err(|error| io::Error::other(format!("{error:#}"))) }
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // Whoever is cut off, or goes away, is the one to notice.
            let _cut = connection.with_upgrades().await;
        });
    }
}
