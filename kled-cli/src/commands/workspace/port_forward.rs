//! `kled workspace port-forward`

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::str::FromStr;

use clap::Args;
use kled_core::provider::{Provider, ProviderExt};
use kled_core::workspace::Operation;
use kled_core::{Error, ErrorKind, Result};
use kled_providers::forward::forward;
use serde::Serialize;
use tokio::net::TcpListener;

use super::Named;
use crate::arguments::checked;
use crate::commands::session;
use crate::output::Failure;
use crate::{Context, Exit};

#[derive(Debug, Args)]
#[command(after_help = "\
It goes on until Ctrl-C, also while the workspace is stopped and started again: a connection that fails meanwhile is \
reported on standard error. LOCAL 0, or nothing before the colon, takes any free port. Everyone who reaches the \
address reaches the port of the workspace.

Examples:
  kled workspace port-forward demo 8080
  kled workspace port-forward demo 8080:80 0:3000
  kled workspace port-forward demo 5432 --address 0.0.0.0")]
pub(crate) struct PortForwardArguments {
    #[command(flatten)]
    workspace: Named,
    /// A port of the workspace, after the one of this machine where that is to be another
    #[arg(required = true, value_name = "[LOCAL:]REMOTE", value_parser = checked::<Pair>)]
    ports: Vec<Pair>,
    /// Listen on this address of this machine
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,
}

/// A port here, zero for any, and one there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair {
    local: u16,
    remote: NonZeroU16,
}

impl FromStr for Pair {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = match text.split_once(':') {
            None => text.parse().ok().map(|remote: NonZeroU16| Self { local: remote.get(), remote }),
            Some(("", remote)) => remote.parse().ok().map(|remote| Self { local: 0, remote }),
            Some((local, remote)) => {
                local.parse().ok().zip(remote.parse().ok()).map(|(local, remote)| Self { local, remote })
            }
        };
        parsed.ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "malformed pair of ports").hint("write 8080, 8080:80 or 0:80")
        })
    }
}

/// What is printed of each listener.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Forwarding {
    address: IpAddr,
    local_port: u16,
    remote_port: NonZeroU16,
}

impl PortForwardArguments {
    pub(crate) async fn run(&self, context: &Context) -> Result<Exit, Failure> {
        let mut signals = session::signals(context)?;
        tokio::select! {
            ended = self.forward(context) => match ended? {},
            signal = session::next_signal(&mut signals) => {
                Err(Failure::Reported(Exit::of_signal(signal.number())))
            }
        }
    }

    async fn forward(&self, context: &Context) -> Result<Infallible, Failure> {
        let (name, provider) = (&self.workspace.name, context.provider().await?);
        let workspace = provider.status(name).await?;
        if !provider.capabilities_of(&workspace.spec).connect {
            let error = Error::new(ErrorKind::Unsupported, "ports of this workspace cannot be connected to");
            return Err(error.with("workspace", name).with("provider", provider.name()).into());
        }
        if !workspace.status.is_running() {
            return Err(workspace.status.refusal(Operation::Connect, name).into());
        }
        let mut listeners = Vec::new();
        for pair in &self.ports {
            listeners.push((self.listen(pair.local).await?, pair.remote));
        }
        let mut forwards = Vec::new();
        for (listener, remote) in listeners {
            let local = listener.local_addr().map_err(|cause| refused(self.address, 0, cause))?;
            let forwarding =
                Forwarding { address: local.ip(), local_port: local.port(), remote_port: remote };
            context.print_item(&forwarding, |_| format!("Forwarding from {local} -> {remote}\n"))?;
            let report = |error: Error| context.report(&error);
            forwards.push(Box::pin(forward(provider.clone(), name.clone(), listener, remote, report)));
        }
        futures::future::join_all(forwards).await;
        Ok(std::future::pending().await)
    }

    async fn listen(&self, port: u16) -> Result<TcpListener> {
        let listener = TcpListener::bind(SocketAddr::new(self.address, port)).await;
        listener.map_err(|cause| refused(self.address, port, cause))
    }
}

fn refused(address: IpAddr, port: u16, cause: std::io::Error) -> Error {
    let (kind, hint) = match cause.kind() {
        std::io::ErrorKind::AddrInUse => {
            (ErrorKind::Conflict, "choose another port with LOCAL:REMOTE, or 0:REMOTE")
        }
        std::io::ErrorKind::PermissionDenied => (ErrorKind::PermissionDenied, "choose a port from 1024 on"),
        _ => (ErrorKind::InvalidInput, "name an address of this machine"),
    };
    Error::new(kind, "cannot listen there")
        .with("address", SocketAddr::new(address, port))
        .hint(hint)
        .because(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_one_port_or_two() {
        let pair = |text: &str| text.parse::<Pair>().map(|pair| (pair.local, pair.remote.get())).ok();
        assert_eq!(pair("8080"), Some((8080, 8080)));
        assert_eq!(pair("8080:80"), Some((8080, 80)));
        assert_eq!(pair("0:3000"), Some((0, 3000)));
        assert_eq!(pair(":3000"), Some((0, 3000)));
        for text in ["", "0", "8080:", "8080:0", "80:80:80", "65536", "http", "-1:80"] {
            assert_eq!(pair(text), None, "{text:?}");
        }
    }
}
