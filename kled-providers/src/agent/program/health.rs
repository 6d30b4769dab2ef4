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
