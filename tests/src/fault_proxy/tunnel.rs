//! Connections that are no longer HTTP: bytes both ways, until one side ends or enough have passed.

use std::io;

use anyhow::Result;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the API server.
    ToServer,
    /// From the API server to the client.
    FromServer,
}

/// How many bytes may pass each way before both are cut off.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    to_server: u64,
    from_server: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { to_server: u64::MAX, from_server: u64::MAX }
    }
}

impl Limits {
    pub(super) fn set(&mut self, direction: Direction, bytes: u64) {
        match direction {
            Direction::ToServer => self.to_server = bytes,
            Direction::FromServer => self.from_server = bytes,
        }
    }
}

/// Passes bytes on. What ends it shows on both sides: they are closed.
pub(super) async fn run(client: OnUpgrade, server: OnUpgrade, limits: Limits) {
    let _ended = pass_on(client, server, limits).await;
}

async fn pass_on(client: OnUpgrade, server: OnUpgrade, limits: Limits) -> Result<()> {
    let (client, server) = tokio::try_join!(client, server)?;
    let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(client));
    let (mut from_server, mut to_server) = tokio::io::split(TokioIo::new(server));
    tokio::try_join!(
        copy(&mut from_client, &mut to_server, limits.to_server),
        copy(&mut from_server, &mut to_client, limits.from_server),
    )?;
    Ok(())
}

/// An error if the limit is reached.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    limit: u64,
) -> io::Result<()> {
    let mut from = from.take(limit);
    tokio::io::copy(&mut from, to).await?;
    if from.limit() == 0 {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    to.shutdown().await
}
