//! Copies into the workspace and out of it, as tar archives.
//!
//! What is copied in arrives in a folder beside its place, and is moved to its place when all of it is there and its
//! digest is right: a copy that was cut off leaves nothing.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use kled_core::{Error, ErrorKind, Result};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::{StreamReader, SyncIoBridge};
use tonic::{Status, Streaming};

use super::call::{ANSWER_QUEUE, first};
use super::commands::Commands;
use crate::agent::protocol::messages::download_response::Message as Answer;
use crate::agent::protocol::messages::upload_request::Message as Said;
use crate::agent::protocol::messages::{DownloadResponse, TransferEnd, UploadRequest, UploadResponse};
use crate::agent::protocol::{CHUNK, broken_protocol, lost, status_of};
use crate::copy::{Transferred, write_archive};

/// Chunks that may be received and not yet unpacked.
const UNPACK_QUEUE: usize = 16;

/// The folder into which a copy arrives begins with this.
const ARRIVING: &str = ".kled-arriving-";

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
    Error::new(kind, format!("cannot {what} {}: {cause}", path.display()))
}

/// Takes an archive and answers what was taken.
pub(super) async fn upload(
    commands: &Arc<Commands>,
    mut source: Streaming<UploadRequest>,
) -> Result<UploadResponse, Status> {
    let Some(Said::Start(folder)) = first(&mut source).await?.message else {
        return Err(status_of(&broken_protocol()));
    };
    let folder = commands.configuration.working_directory.join(folder);
    let (archive, chunks) = mpsc::channel(UNPACK_QUEUE);
    let place = folder.clone();
    // It ends where the sender is dropped.
    let archived = SyncIoBridge::new(StreamReader::new(ReceiverStream::new(chunks).map(io::Result::Ok)));
    let unpacking = tokio::task::spawn_blocking(move || unpack(archived, &place));
    let received = receive(commands, &mut source, archive).await;
    let unpacked =
        unpacking.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "unpacking ended")));
    let moved = async {
        // An archive that cannot be unpacked is the reason why the rest of it was not taken.
        let arrived = unpacked?;
        let received = received?;
        let account = commands.preparation.applied().account;
        tokio::task::spawn_blocking(move || {
            if let Some(account) = account {
                account.own(arrived.path()).map_err(|cause| failed("give away", &folder, cause))?;
            }
            put_in_place(arrived.path(), &folder).map_err(|cause| failed("write to", &folder, cause))
        })
        .await
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "moving to its place ended")))?;
        Ok(received)
    };
    let end = moved.await.map_err(|error: Error| status_of(&error))?;
    Ok(UploadResponse { received: Some(end) })
}

/// Hands the archive on and checks its length and digest.
async fn receive(
    commands: &Commands,
    source: &mut Streaming<UploadRequest>,
    archive: mpsc::Sender<Bytes>,
) -> Result<TransferEnd> {
    let (mut digest, mut bytes) = (Sha256::new(), 0_u64);
    let mut unpacked = true;
    loop {
        match source.message().await.map_err(|_| lost())?.and_then(|message| message.message) {
            Some(Said::Chunk(chunk)) => {
                commands.touch();
                digest.update(&chunk);
                bytes += chunk.len() as u64;
                // What follows the end of the archive is padding.
                unpacked = unpacked && archive.send(chunk).await.is_ok();
            }
            Some(Said::End(end)) => {
                let received = TransferEnd { bytes, sha256: Bytes::copy_from_slice(&digest.finalize()) };
                return if received == end {
                    Ok(received)
                } else {
                    Err(Error::new(ErrorKind::Unavailable, "what arrived is not what was sent").temporary())
                };
            }
            Some(Said::Start(_)) => return Err(broken_protocol()),
            None => return Err(lost()),
        }
    }
}

/// Unpacks into a new folder inside `folder`.
fn unpack(mut archive: impl Read, folder: &Path) -> Result<tempfile::TempDir> {
    std::fs::create_dir_all(folder).map_err(|cause| failed("make the folder", folder, cause))?;
    let arriving = tempfile::Builder::new()
        .prefix(ARRIVING)
        .tempdir_in(folder)
        .map_err(|cause| failed("write to", folder, cause))?;
    let mut tar = tar::Archive::new(&mut archive);
    tar.set_preserve_permissions(true);
    tar.set_preserve_mtime(true);
    tar.set_overwrite(true);
    tar.unpack(arriving.path()).map_err(|cause| {
        let cause = root_cause(cause);
        match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::PermissionDenied => failed("write to", folder, cause),
            _ => Error::new(ErrorKind::InvalidInput, format!("the archive cannot be unpacked: {cause}")),
        }
    })?;
    // Whoever sends must not be stopped by padding that nobody reads.
    let _padding = io::copy(&mut archive, &mut io::sink());
    Ok(arriving)
}

/// The library wraps the error of the system in its own.
fn root_cause(cause: io::Error) -> io::Error {
    let inner =
        cause.get_ref().and_then(|inner| inner.source()).and_then(|inner| inner.downcast_ref::<io::Error>());
    match inner.and_then(io::Error::raw_os_error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => cause,
    }
}

/// Moves what is in `from` into `to`, file by file; folders that are there already are kept with what else they have.
fn put_in_place(from: &Path, to: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        let there = std::fs::symlink_metadata(&place).ok();
        if entry.file_type()?.is_dir() && there.as_ref().is_some_and(std::fs::Metadata::is_dir) {
            put_in_place(&entry.path(), &place)?;
        } else {
            std::fs::rename(entry.path(), &place)?;
        }
    }
    Ok(())
}

/// Begins to send an archive.
pub(super) fn download(
    commands: &Arc<Commands>,
    path: &str,
) -> Result<ReceiverStream<Result<DownloadResponse, Status>>, Status> {
    let path = commands.configuration.working_directory.join(path);
    let metadata =
        std::fs::symlink_metadata(&path).map_err(|cause| status_of(&failed("read", &path, cause)))?;
    let (answers, receiver) = mpsc::channel(ANSWER_QUEUE);
    let commands = Arc::clone(commands);
    tokio::task::spawn_blocking(move || {
        let mut sender = Sender { commands, answers, digest: Sha256::new(), bytes: 0, chunk: Vec::new() };
        let name = path.file_name().map_or(Path::new("."), Path::new);
        let packed = write_archive(&mut sender, &path, Some(name), &metadata, Transferred::default());
        let packed = packed.and_then(|()| sender.flush());
        let last = match packed {
            Ok(()) => Ok(DownloadResponse { message: Some(Answer::End(sender.end())) }),
            Err(cause) => Err(status_of(&failed("read", &path, cause))),
        };
        // Whoever asked may be gone.
        let _gone = sender.answers.blocking_send(last);
    });
    Ok(ReceiverStream::new(receiver))
}

/// Sends what is written to it.
struct Sender {
    commands: Arc<Commands>,
    answers: mpsc::Sender<Result<DownloadResponse, Status>>,
    digest: Sha256,
    bytes: u64,
    chunk: Vec<u8>,
}

impl Sender {
    fn end(&self) -> TransferEnd {
        TransferEnd { bytes: self.bytes, sha256: Bytes::copy_from_slice(&self.digest.clone().finalize()) }
    }
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
        let chunk = Bytes::from(std::mem::take(&mut self.chunk));
        self.chunk.reserve(CHUNK);
        self.commands.touch();
        self.digest.update(&chunk);
        self.bytes += chunk.len() as u64;
        self.answers
            .blocking_send(Ok(DownloadResponse { message: Some(Answer::Chunk(chunk)) }))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}
