//! Files of this machine as an archive.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use bytes::{Bytes, BytesMut};
use kled_core::provider::ByteReader;
use kled_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;

use super::{CHUNK, Chunk, QUEUE, Transferred, blocking, failed, owned};

/// The mode of a file that came from a stream.
const STREAM_MODE: u32 = 0o644;

/// A tar archive of a file or folder, made while it is read. Its top entry is `name`; without one it has what is in the
/// folder. `path` itself may be a link; links below it stay links. Sockets, pipes and devices are left out.
///
/// # Errors
/// `NotFound`, `PermissionDenied`. What cannot be read later on is an error of the reader.
pub async fn pack(path: &Path, name: Option<&str>, transferred: &Transferred) -> Result<ByteReader> {
    let path = owned(path);
    let (path, metadata) = blocking(move || match fs::metadata(&path) {
        // Whether it can be read is to be known before anything is sent.
        Ok(metadata) if metadata.is_file() || metadata.is_dir() => {
            let opened = File::open(&path).map_err(|cause| failed("read", &path, cause));
            opened.map(|_| (path, metadata))
        }
        Ok(_) => Err(Error::new(ErrorKind::InvalidInput, "this is neither a file nor a folder")
            .with("path", path.display())),
        Err(cause) => Err(failed("read", &path, cause)),
    })
    .await?;
    let (name, transferred) = (name.map(str::to_owned), transferred.clone());
    Ok(packed(move |writer| {
        write_archive(writer, &path, name.as_deref().map(Path::new), &metadata, transferred)
    }))
}

/// Writes the archive of what `metadata` says of `path`. Its top entry is `name`; without one it has what is in the
/// folder. It blocks.
pub(crate) fn write_archive(
    writer: impl Write,
    path: &Path,
    name: Option<&Path>,
    metadata: &Metadata,
    transferred: Transferred,
) -> io::Result<()> {
    let mut packer = Packer { tar: tar::Builder::new(writer), transferred };
    packer.tar.mode(tar::HeaderMode::Complete);
    match name {
        Some(name) => packer.append(path, name, metadata)?,
        None => packer.append_entries(path, Path::new(""))?,
    }
    packer.tar.finish()
}

/// A tar archive of one file, `name`, with what `reader` gives.
///
/// # Errors
/// `StorageFull` for the temporary file, `InvalidInput` when `reader` cannot be read.
pub async fn pack_stream(
    mut reader: impl AsyncRead + Send + Unpin,
    name: &str,
    transferred: &Transferred,
) -> Result<ByteReader> {
    let temporary = std::env::temp_dir();
    let written = |cause| failed("write a temporary file", &temporary, cause);
    let file =
        blocking(|| tempfile::tempfile().map_err(|cause| failed("write", &std::env::temp_dir(), cause)))
            .await?;
    let mut file = tokio::fs::File::from_std(file);
    let mut buffer = BytesMut::with_capacity(CHUNK);
    let mut size = 0_u64;
    loop {
        buffer.clear();
        let read = reader.read_buf(&mut buffer).await;
        let read = read.map_err(|cause| {
            Error::new(ErrorKind::InvalidInput, "the source cannot be read").because(cause)
        })?;
        if read == 0 {
            break;
        }
        file.write_all(&buffer).await.map_err(written)?;
        size += read as u64;
    }
    file.flush().await.map_err(written)?;
    let (mut file, name, transferred) = (file.into_std().await, name.to_owned(), transferred.clone());
    Ok(packed(move |writer| {
        file.rewind()?;
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&file.metadata()?);
        header.set_mode(STREAM_MODE);
        header.set_size(size);
        let mut tar = tar::Builder::new(writer);
        tar.append_data(&mut header, &name, transferred.count(file))?;
        tar.finish()
    }))
}

/// What `pack` writes, as a reader. A reader that is dropped ends it.
fn packed(pack: impl FnOnce(&mut Sender) -> io::Result<()> + Send + 'static) -> ByteReader {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::task::spawn_blocking(move || {
        let mut sender = Sender { sender, chunk: BytesMut::new() };
        if let Err(cause) = pack(&mut sender).and_then(|()| sender.flush()) {
            // Whoever reads may be gone.
            let _gone = sender.sender.blocking_send(Err(cause));
        }
    });
    Box::pin(StreamReader::new(ReceiverStream::new(receiver)))
}

/// Sends what is written to it.
struct Sender {
    sender: mpsc::Sender<Chunk>,
    chunk: BytesMut,
}

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk: Bytes = self.chunk.split().freeze();
        self.sender.blocking_send(Ok(chunk)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

struct Packer<W: Write> {
    tar: tar::Builder<W>,
    transferred: Transferred,
}

impl<W: Write> Packer<W> {
    fn append(&mut self, path: &Path, name: &Path, metadata: &Metadata) -> io::Result<()> {
        let kind = metadata.file_type();
        let mut header = tar::Header::new_gnu();
        header.set_metadata(metadata);
        if kind.is_symlink() {
            header.set_size(0);
            let target = fs::read_link(path).map_err(|cause| about(path, cause))?;
            self.tar.append_link(&mut header, name, target)
        } else if kind.is_dir() {
            self.tar.append_data(&mut header, name, io::empty())?;
            self.append_entries(path, name)
        } else if kind.is_file() {
            let file = File::open(path).map_err(|cause| about(path, cause))?;
            let content = Exactly { left: metadata.len(), file: self.transferred.count(file), path };
            self.tar.append_data(&mut header, name, content)
        } else {
            tracing::debug!(path = %path.display(), "neither file, folder nor link: left out");
            Ok(())
        }
    }

    fn append_entries(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = entries.map_err(|cause| about(path, cause))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            match entry.metadata() {
                Ok(metadata) => self.append(&entry.path(), &name.join(entry.file_name()), &metadata)?,
                // Removed since the folder was read.
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
                Err(cause) => return Err(about(&entry.path(), cause)),
            }
        }
        Ok(())
    }
}

/// A file of the length that stands in its header already.
struct Exactly<'a, R> {
    left: u64,
    file: R,
    path: &'a Path,
}

impl<R: Read> Read for Exactly<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // What is appended meanwhile belongs to no copy that began before.
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let Some(buffer) = buffer.get_mut(..most).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        let count = self.file.read(buffer).map_err(|cause| about(self.path, cause))?;
        if count == 0 {
            return Err(about(self.path, io::Error::other("it became shorter while it was read")));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// Says which file it was.
fn about(path: &Path, cause: io::Error) -> io::Error {
    io::Error::new(cause.kind(), format!("{}: {cause}", path.display()))
}
