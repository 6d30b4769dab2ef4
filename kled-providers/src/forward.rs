//! A port of this machine that leads to a port of a workspace.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use kled_core::provider::{ConnectRequest, Provider};
use kled_core::{Error, ErrorKind, Result, WorkspaceName};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Connections at once; further ones wait in the system's queue of the listener.
pub const CONNECTIONS_MAX: usize = 256;

/// Read at once in each direction of a connection.
const BUFFER: usize = 32 << 10;

/// Between two tries to accept where the system refuses, as it does when there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connects everyone who comes to `listener` to `port` of a workspace, at most [`CONNECTIONS_MAX`] at once. It never
/// ends; dropping the future ends it and every connection.
///
/// What goes wrong with a connection is given to `failed`, is seen by its peer as a reset and concerns no other: the
/// workspace may be stopped and started again meanwhile.
///
/// ```no_run
/// # async fn example(provider: std::sync::Arc<dyn kled_core::provider::Provider>) -> Result<(), Box<dyn std::error::Error>> {
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
/// let (name, port) = ("demo".parse()?, 3000.try_into()?);
/// kled_providers::forward::forward(provider, name, listener, port, |error| eprintln!("{error}")).await;
/// # Ok(())
/// # }
/// ```
pub async fn forward(
    provider: Arc<dyn Provider>,
    name: WorkspaceName,
    listener: TcpListener,
    port: NonZeroU16,
    mut failed: impl FnMut(Error) + Send,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(ended) = connections.join_next() => {
                // A task that panicked has said so.
                if let Ok(Err(error)) = ended {
                    failed(error);
                }
            }
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((peer, _)) => {
                    connections.spawn(carry(Arc::clone(&provider), name.clone(), peer, port));
                }
                Err(cause) => {
                    failed(Error::new(ErrorKind::Unavailable, "a connection cannot be accepted").because(cause));
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Carries one connection to its end.
async fn carry(
    provider: Arc<dyn Provider>,
    name: WorkspaceName,
    mut peer: TcpStream,
    port: NonZeroU16,
) -> Result<()> {
    let carried = exchange(&provider, &name, &mut peer, port).await;
    if carried.is_err() {
        // An orderly end would tell the peer that it has received everything.
        let _gone = peer.set_zero_linger();
    }
    carried
}

async fn exchange(
    provider: &dyn Provider,
    name: &WorkspaceName,
    peer: &mut TcpStream,
    port: NonZeroU16,
) -> Result<()> {
    let mut stream = provider.connect(name, ConnectRequest::new(port)).await?;
    // Small messages of interactive protocols must not wait for more.
    let _not_tcp = peer.set_nodelay(true);
    match tokio::io::copy_bidirectional_with_sizes(peer, &mut stream, BUFFER, BUFFER).await {
        Ok(_) => Ok(()),
        // Only the peer's own socket has errors of the system; a peer that hangs up is no failure.
        Err(cause) if cause.raw_os_error().is_some() => Ok(()),
        Err(cause) => Err(Error::new(ErrorKind::Unavailable, "a forwarded connection broke")
            .with("workspace", name)
            .with("port", port)
            .because(cause)),
    }
}
