//! `kled-agent status`: what the agent of this container says of itself, as JSON.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use kled_core::{Error, ErrorKind, Result};
use tokio::net::TcpStream;

use super::settings::{self, Variables, read_token};
use super::{print, runtime};
use crate::agent::AgentClient;

/// How long the agent may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// Asks the agent of this container and prints its answer.
pub(super) fn main() -> Result<()> {
    let variables = Variables(settings::of_process);
    let token = read_token(&variables.token_file())?;
    let address = reachable(variables.listen()?);
    let status = runtime()?.block_on(async {
        let ask = async { connect(address, &token).await?.status().await };
        tokio::time::timeout(LIMIT, ask).await.unwrap_or_else(|_| Err(Error::timeout("status", LIMIT)))
    })?;
    let text = serde_json::to_string_pretty(&status)
        .map_err(|cause| Error::new(ErrorKind::Internal, "the status cannot be written").because(cause))?;
    print(&text)
}

/// A client of the agent at `address`.
pub(super) async fn connect(address: SocketAddr, token: &crate::agent::Token) -> Result<AgentClient> {
    let stream = TcpStream::connect(address).await.map_err(|cause| {
        Error::new(ErrorKind::Unavailable, "the agent cannot be reached")
            .with("address", address)
            .because(cause)
    })?;
    // Small messages must not wait for more.
    let _not_tcp = stream.set_nodelay(true);
    AgentClient::connect(stream, token).await
}

/// Where something that listens on `address` is reached from the same container.
pub(super) fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        });
    }
    address
}
