//! How the API server is reached.

use std::future::{Ready, ready};
use std::task::{Context, Poll};

use http::header::UPGRADE;
use http::{Method, Request, Response};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::TokioExecutor;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ConfigExt};
use tower::retry::{Policy, RetryLayer};
use tower::{BoxError, Service, ServiceBuilder};

/// How often a question is asked whose connection was lost. Of the connections that are kept, several may be lost.
const LOST_MAX: u32 = 4;

/// The client that `kube` makes, but for this:
///
/// - Its sockets do not wait for the answer to one small packet before they send the next. What goes through a
///   port-forward are small packets; each that waits costs 40 ms.
/// - A connection on which a port-forward was asked for is used for nothing else. The API server closes one that it
///   refuses without saying so before, and whatever is asked on it next gets no answer.
/// - A question whose connection is lost is asked again.
pub(super) fn client(config: kube::Config) -> kube::Result<kube::Client> {
    if config.proxy_url.is_some() {
        return kube::Client::try_from(config);
    }
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(connector)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    let requests = builder.build(connector.clone());
    let upgrades = builder.pool_max_idle_per_host(0).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.default_retry.then(|| RetryLayer::new(RetryPolicy::server_retry())))
        .layer(RetryLayer::new(AskAgain { left: LOST_MAX }))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(Connections { requests, upgrades });
    Ok(kube::Client::new(service, config.default_namespace))
}

/// The connections to the API server.
#[derive(Clone)]
struct Connections<C> {
    requests: legacy::Client<C, Body>,
    /// Each for one request.
    upgrades: legacy::Client<C, Body>,
}

impl<C> Service<Request<Body>> for Connections<C>
where
    C: Connect + Clone + Send + Sync + 'static,
{
    type Response = <legacy::Client<C, Body> as Service<Request<Body>>>::Response;
    type Error = legacy::Error;
    type Future = legacy::ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // Both make connections as they are needed.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let client = if request.headers().contains_key(UPGRADE) { &self.upgrades } else { &self.requests };
        client.request(request)
    }
}

/// Asks again what was asked on a connection that was lost. Only questions: of a change, nobody knows whether it was made.
#[derive(Clone)]
struct AskAgain {
    left: u32,
}

impl<T> Policy<Request<Body>, Response<T>, BoxError> for AskAgain {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<Body>,
        result: &mut Result<Response<T>, BoxError>,
    ) -> Option<Self::Future> {
        let error = result.as_ref().err()?;
        self.left = self.left.checked_sub(1)?;
        is_lost(error.as_ref()).then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        if request.method() != Method::GET {
            return None;
        }
        // As for the answers of a server that is too busy.
        Policy::<_, Response<T>, _>::clone_request(&mut RetryPolicy::server_retry(), request)
    }
}

/// True for a connection that was there and is not any more.
fn is_lost(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| {
        let by_http = cause
            .downcast_ref::<hyper::Error>()
            .is_some_and(|error| error.is_incomplete_message() || error.is_closed() || error.is_canceled());
        let by_system = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        by_http || matches!(by_system, Some(BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::Value;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Answers the first request of each connection, and closes it at the next one.
    async fn answer_one(mut stream: TcpStream, asked: &AtomicUsize) {
        let mut request = [0; 4096];
        for answer in [Some("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"), None] {
            let mut length = 0;
            while !request[..length].ends_with(b"\r\n\r\n") {
                match stream.read(&mut request[length..]).await {
                    Ok(0) | Err(_) => return,
                    Ok(more) => length += more,
                }
            }
            asked.fetch_add(1, Ordering::SeqCst);
            if let Some(answer) = answer {
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    }

    async fn server() -> (kube::Client, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let asked = Arc::clone(&counted);
                tokio::spawn(async move { answer_one(stream, &asked).await });
            }
        });
        (client(kube::Config::new(address)).unwrap(), asked)
    }

    fn request(method: Method) -> Request<Vec<u8>> {
        Request::builder().method(method).uri("/api").body(Vec::new()).unwrap()
    }

    #[tokio::test]
    async fn a_question_whose_connection_is_lost_is_asked_again() {
        let (client, asked) = server().await;
        for _ in 0..3 {
            client.request::<Value>(request(Method::GET)).await.unwrap();
        }
        assert!(asked.load(Ordering::SeqCst) > 3, "no connection was used twice, so none was lost");
    }

    #[tokio::test]
    async fn a_change_whose_connection_is_lost_is_not_made_twice() {
        let (client, asked) = server().await;
        client.request::<Value>(request(Method::PATCH)).await.unwrap();
        let lost = client.request::<Value>(request(Method::PATCH)).await.unwrap_err();
        let kube::Error::Service(cause) = &lost else { panic!("another failure: {lost}") };
        assert!(is_lost(cause.as_ref()), "{cause:?}");
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_connection_on_which_an_upgrade_was_refused_is_not_used_again() {
        let (client, _) = server().await;
        let mut upgrade = Request::new(Body::empty());
        *upgrade.uri_mut() = "/api".parse().unwrap();
        upgrade.headers_mut().insert(UPGRADE, "websocket".parse().unwrap());
        let refused = client.send(upgrade).await.unwrap();
        assert_eq!(refused.status(), 200);
        drop(refused);
        client.request::<Value>(request(Method::PATCH)).await.unwrap();
    }
}
