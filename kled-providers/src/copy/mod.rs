//! Copies of files between this machine and a workspace, on every backend.
//!
//! They go as `cp` goes: an existing folder as destination takes the copy into it, a source that ends in `/.` is what
//! is in the folder, modes, times and links are kept. Nothing of a copy is seen at its destination before all of it has
//! arrived, and none of it is ever held in memory as a whole.
//!
//! **A workspace is not trusted.** What it sends may have been made to write elsewhere: names that are absolute or
//! have `..`, links to follow, entries below links. [`unpack`] takes none of them; what it may do with links that lead
//! out of the copy is [`OutsideLinks`].

mod pack;
mod place;
#[cfg(test)]
mod tests;
mod unpack;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kled_core::provider::{DownloadRequest, Provider, UploadRequest};
use kled_core::{Error, ErrorKind, Result, WorkspaceName};
use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) use pack::write_archive;
pub use pack::{pack, pack_stream};
pub use place::Target;
pub use unpack::{Unpacked, unpack, unpack_file};

/// What is done with a link of a workspace whose target is not in the copy: another program that follows it would
/// find a file of this machine that the workspace has chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutsideLinks {
    /// The copy fails and leaves nothing.
    #[default]
    Refuse,
    /// It is left out.
    Skip,
    /// It is made as it is. Nothing is written through it.
    Keep,
}

/// How many bytes of files went by; may be read while the copy is under way.
#[derive(Clone, Debug, Default)]
pub struct Transferred(Arc<AtomicU64>);

impl Transferred {
    /// So many until now.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts what is read from `reader`.
    fn count<R: io::Read>(&self, reader: R) -> Counted<R> {
        Counted { reader, transferred: self.clone() }
    }
}

struct Counted<R> {
    reader: R,
    transferred: Transferred,
}

impl<R: io::Read> io::Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.transferred.add(count);
        Ok(count)
    }
}

/// How a copy is made.
#[derive(Clone, Debug)]
pub struct CopyOptions {
    /// The whole call into a workspace, and until the first byte comes out of one. Default: 1 hour.
    pub timeout: Duration,
    /// What to do with links that lead out of the copy. Default: refuse.
    pub outside_links: OutsideLinks,
    /// Counts the bytes.
    pub transferred: Transferred,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(3600),
            outside_links: OutsideLinks::default(),
            transferred: Transferred::default(),
        }
    }
}

/// Copies a file or folder of this machine into a workspace. Folders above `destination` are made where they are
/// missing. An empty `destination` is the checkout.
///
/// # Errors
/// `NotFound` (workspace, source, or a destination that ends in `/`), `InvalidInput`, `PermissionDenied`,
/// `StorageFull`, and those of [`Provider::upload`].
pub async fn copy_in(
    provider: &dyn Provider,
    name: &WorkspaceName,
    source: &Path,
    destination: &str,
    options: CopyOptions,
) -> Result<()> {
    let (folder, entry) = if is_contents(source) {
        (if destination.is_empty() { "." } else { destination }.to_owned(), None)
    } else {
        let (folder, entry) = place_in(provider, name, destination, &base_of(source)?).await?;
        (folder, Some(entry))
    };
    let archive = pack(source, entry.as_deref(), &options.transferred).await?;
    let request = UploadRequest { folder, archive, timeout: options.timeout };
    provider.upload(name, request).await.map(drop)
}

/// Copies what `reader` gives into a file of a workspace. It is kept in a temporary file first: an archive begins with
/// the length of the file.
///
/// # Errors
/// As [`copy_in`], and `InvalidInput` when `destination` is a folder.
pub async fn copy_stream_in(
    provider: &dyn Provider,
    name: &WorkspaceName,
    reader: impl AsyncRead + Send + Unpin,
    destination: &str,
    options: CopyOptions,
) -> Result<()> {
    let is_folder = destination.is_empty() || is_folder(provider, name, destination).await?;
    let place = split(destination).filter(|_| !is_folder);
    let (folder, entry) = place.ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, "the destination is a folder")
            .with("path", destination)
            .hint("name a file in it")
    })?;
    let archive = pack_stream(reader, &entry, &options.transferred).await?;
    let request = UploadRequest { folder, archive, timeout: options.timeout };
    provider.upload(name, request).await.map(drop)
}

/// Copies a file or folder of a workspace to this machine. An empty `source` is what is in the checkout.
///
/// # Errors
/// `NotFound` (workspace, source, folder above the destination), `InvalidInput` (an archive that is not safe to
/// unpack), `PermissionDenied`, `StorageFull`, and those of [`Provider::download`].
pub async fn copy_out(
    provider: &dyn Provider,
    name: &WorkspaceName,
    source: &str,
    destination: &Path,
    options: CopyOptions,
) -> Result<Unpacked> {
    let source = if source.is_empty() { "." } else { source };
    let base = if is_contents(Path::new(source)) { None } else { Some(base_of(Path::new(source))?) };
    let destination = owned(destination);
    let target = blocking(move || Target::find(&destination, base.as_deref())).await?;
    let request = DownloadRequest { path: source.to_owned(), timeout: options.timeout };
    let archive = provider.download(name, request).await?;
    unpack(archive, target, options.outside_links, &options.transferred).await
}

/// Copies a file of a workspace to `writer`.
///
/// # Errors
/// As [`copy_out`], and `InvalidInput` when `source` is no file.
pub async fn copy_stream_out(
    provider: &dyn Provider,
    name: &WorkspaceName,
    source: &str,
    writer: impl AsyncWrite + Send + Unpin,
    options: CopyOptions,
) -> Result<()> {
    let request = DownloadRequest { path: source.to_owned(), timeout: options.timeout };
    let archive = provider.download(name, request).await?;
    unpack_file(archive, writer, &options.transferred).await
}

/// True for `.` and what ends in `/.`: what is in the folder is meant.
fn is_contents(path: &Path) -> bool {
    let text = path.as_os_str().as_encoded_bytes();
    text == b"." || text.ends_with(b"/.") || text.ends_with(b"/./")
}

/// The last name of a path, which a copy into a folder has there.
fn base_of(path: &Path) -> Result<String> {
    let resolved = || path.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_owned()));
    let base = path.file_name().map(ToOwned::to_owned).or_else(resolved);
    base.and_then(|base| base.into_string().ok()).ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, "the source has no name that the copy could have")
            .with("path", path.display())
            .hint("name a file or folder; PATH/. is what is in a folder")
    })
}

/// Where in the workspace a copy goes: the folder, and its name there.
async fn place_in(
    provider: &dyn Provider,
    name: &WorkspaceName,
    destination: &str,
    base: &str,
) -> Result<(String, String)> {
    if destination.is_empty() {
        return Ok((".".into(), base.into()));
    }
    if is_folder(provider, name, destination).await? {
        return Ok((destination.into(), base.into()));
    }
    split(destination).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "no such folder in the workspace").with("path", destination)
    })
}

/// Asks for what is in a folder and looks only at whether the answer begins: this works on every backend, without any
/// program in the workspace, and follows links.
async fn is_folder(provider: &dyn Provider, name: &WorkspaceName, path: &str) -> Result<bool> {
    match provider.download(name, DownloadRequest::new(format!("{path}/."))).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(false),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // It may be the workspace that is missing, which must not look like a missing path.
            kled_core::provider::ProviderExt::status(provider, name).await.map(|_| false)
        }
        Err(error) => Err(error),
    }
}

/// Folder and name of a path that can be a file's.
fn split(path: &str) -> Option<(String, String)> {
    let (folder, name) = match path.rsplit_once('/') {
        None => (".", path),
        Some(("", name)) => ("/", name),
        Some((folder, name)) => (folder, name),
    };
    (!matches!(name, "" | "." | "..")).then(|| (folder.to_owned(), name.to_owned()))
}

/// An error of a file of this machine.
fn failed(what: &str, path: &Path, cause: io::Error) -> Error {
    let kind = match cause.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::PermissionDenied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists | io::ErrorKind::IsADirectory => {
            ErrorKind::InvalidInput
        }
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("cannot {what}")).with("path", path.display()).because(cause)
}

/// Runs what blocks on a thread for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "the thread of a copy ended")))
}

/// Read or written at once between a thread that packs or unpacks and the connection, and how many of these wait.
const CHUNK: usize = 256 << 10;
const QUEUE: usize = 4;

/// What is sent between the two.
type Chunk = io::Result<bytes::Bytes>;

/// A path that a blocking thread can own.
fn owned(path: &Path) -> PathBuf {
    path.to_owned()
}
