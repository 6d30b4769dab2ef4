//! The health of the agent, for the kubelet's `grpc` probe: gRPC's own protocol for it, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;

/// The kubelet connects anew for each probe, and what is reached without a token has to be bounded.
const CONNECTIONS_MAX: usize = 32;

/// The longest that one connection may take.
const CONNECTION_LIMIT: Duration = Duration::from_secs(15);

const CALLS_MAX: u32 = 4;

/// Between two attempts to accept a connection when that fails.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the health until the runtime ends. The reporter says what it is; it begins as healthy.
pub(super) fn serve(listener: TcpListener) -> HealthReporter {
    let (reporter, service) = tonic_health::server::health_reporter();
    tokio::spawn(accept(listener, service));
    reporter
}

async fn accept<H: Health>(listener: TcpListener, service: HealthServer<H>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let connection = connection(stream, service.clone());
        tokio::spawn(async move {
            // Whoever probes sees by itself that it was cut off.
            let _cut_off = tokio::time::timeout(CONNECTION_LIMIT, connection).await;
            drop(place);
        });
    }
}

async fn connection<H: Health>(stream: TcpStream, service: HealthServer<H>) {
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(CALLS_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    // A probe that went away.
    let _broken = connection.await;
}

#[cfg(test)]
mod tests {
    use tonic_health::ServingStatus;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus as Said;
    use tonic_health::pb::health_client::HealthClient;

    use super::*;
    use crate::agent::transport::{self, Heartbeat};

    /// As the kubelet's probe does: without a token, for the process or for a service.
    async fn ask(address: std::net::SocketAddr, service: &str) -> Result<i32, tonic::Code> {
        let channel =
            transport::connect(TcpStream::connect(address).await.unwrap(), Heartbeat::None).await.unwrap();
        let mut client = HealthClient::with_origin(channel, http::Uri::from_static("http://kled.agent"));
        let request = HealthCheckRequest { service: service.to_owned() };
        client.check(request).await.map(|answer| answer.into_inner().status).map_err(|status| status.code())
    }

    #[tokio::test]
    async fn a_probe_is_told_the_health_of_the_process_and_of_what_is_known() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let health = serve(listener);
        assert_eq!(ask(address, "").await, Ok(Said::Serving.into()));
        assert_eq!(ask(address, "agent").await, Err(tonic::Code::NotFound));
        health.set_service_status("agent", ServingStatus::Serving).await;
        assert_eq!(ask(address, "agent").await, Ok(Said::Serving.into()));
        health.set_service_status("", ServingStatus::NotServing).await;
        assert_eq!(ask(address, "").await, Ok(Said::NotServing.into()));
    }

    #[tokio::test]
    async fn nothing_else_is_served_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let _health = serve(listener);
        let stream = TcpStream::connect(address).await.unwrap();
        let client =
            crate::agent::AgentClient::connect(stream, &crate::agent::Token::random()).await.unwrap();
        assert!(client.status().await.is_err());
    }
}
