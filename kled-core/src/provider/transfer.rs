//! Bytes on their way into a workspace and out of it: connections to its ports, and copies of files.

use std::num::NonZeroU16;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

/// Both directions of a connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<S: AsyncRead + AsyncWrite + Send + ?Sized> Duplex for S {}

/// A connection to a port of a workspace. Shutting it down ends the direction towards the workspace; dropping it ends
/// both.
pub type ByteStream = Pin<Box<dyn Duplex>>;

/// Bytes to be read to their end.
pub type ByteReader = Pin<Box<dyn AsyncRead + Send>>;

/// A port to connect to.
#[derive(Clone, Debug)]
pub struct ConnectRequest {
    /// The TCP port on which something in the workspace listens, on its loopback address at least.
    pub port: NonZeroU16,
    /// Until it is connected. Default: 30 seconds.
    pub timeout: Duration,
}

impl ConnectRequest {
    /// A connection to `port`.
    #[must_use]
    pub const fn new(port: NonZeroU16) -> Self {
        Self { port, timeout: Duration::from_secs(30) }
    }
}

/// A tar archive to unpack in a workspace.
pub struct UploadRequest {
    /// The folder below which it is unpacked; relative to the checkout, or absolute. It is made where it is missing.
    pub folder: String,
    /// The archive.
    pub archive: ByteReader,
    /// The whole call. Default: 1 hour.
    pub timeout: Duration,
}

impl UploadRequest {
    /// Unpacks `archive` below `folder`.
    pub fn new(folder: impl Into<String>, archive: impl AsyncRead + Send + 'static) -> Self {
        Self { folder: folder.into(), archive: Box::pin(archive), timeout: Duration::from_secs(3600) }
    }
}

impl std::fmt::Debug for UploadRequest {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("UploadRequest")
            .field("folder", &self.folder)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// A file or folder to pack.
#[derive(Clone, Debug)]
pub struct DownloadRequest {
    /// Relative to the checkout, or absolute.
    pub path: String,
    /// Until the archive begins. Default: 30 seconds.
    pub timeout: Duration,
}

impl DownloadRequest {
    /// Packs what is at `path`.
    pub fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), timeout: Duration::from_secs(30) }
    }
}
