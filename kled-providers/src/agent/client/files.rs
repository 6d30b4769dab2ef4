//! Copies into the workspace and out of it.

use std::io;

use bytes::{Bytes, BytesMut};
use futures::stream::unfold;
use kled_core::{Error, ErrorKind, Result};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;
use tonic::Streaming;

use super::Client;
use crate::agent::protocol::messages::download_response::Message as Answer;
use crate::agent::protocol::messages::upload_request::Message as Said;
use crate::agent::protocol::messages::{DownloadRequest, DownloadResponse, TransferEnd, UploadRequest};
use crate::agent::protocol::{CHUNK, broken_protocol, error_of, lost};

/// Chunks that wait to be sent.
const QUEUE: usize = 8;

pub(super) async fn upload<R>(mut client: Client, folder: &str, mut archive: R) -> Result<u64>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    let (sender, receiver) = mpsc::channel(QUEUE);
    let call = client.upload(ReceiverStream::new(receiver));
    let folder = folder.to_owned();
    let send = async move {
        let say = async |said| sender.send(UploadRequest { message: Some(said) }).await.is_ok();
        let (mut digest, mut bytes) = (Sha256::new(), 0_u64);
        let mut open = say(Said::Start(folder)).await;
        while open {
            let mut chunk = BytesMut::with_capacity(CHUNK);
            if archive.read_buf(&mut chunk).await? == 0 {
                let sha256 = Bytes::copy_from_slice(&digest.finalize());
                say(Said::End(TransferEnd { bytes, sha256 })).await;
                break;
            }
            digest.update(&chunk);
            bytes += chunk.len() as u64;
            open = say(Said::Chunk(chunk.freeze())).await;
        }
        Ok::<_, io::Error>(())
    };
    // The call's own answer says why it did not take the rest.
    let (sent, answer) = tokio::join!(send, call);
    sent.map_err(|cause| Error::new(ErrorKind::InvalidInput, "the archive cannot be read").because(cause))?;
    let received = answer.map_err(|status| error_of(&status))?.into_inner().received;
    received.map(|received| received.bytes).ok_or_else(broken_protocol)
}

/// What was received so far.
struct Download {
    answers: Streaming<DownloadResponse>,
    digest: Sha256,
    bytes: u64,
}

pub(super) async fn download(
    mut client: Client,
    path: &str,
) -> Result<impl AsyncRead + Send + Unpin + 'static> {
    let request = DownloadRequest { path: path.to_owned() };
    let answers = client.download(request).await.map_err(|status| error_of(&status))?.into_inner();
    let state = Some(Download { answers, digest: Sha256::new(), bytes: 0 });
    let chunks = unfold(state, |state| async {
        let mut download = state?;
        match download.next().await {
            Ok(Some(chunk)) => Some((Ok(chunk), Some(download))),
            Ok(None) => None,
            Err(error) => Some((Err(io::Error::other(error)), None)),
        }
    });
    Ok(StreamReader::new(Box::pin(chunks)))
}

impl Download {
    /// The next chunk; `None` when all of it is there and is what was sent.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let answer = self.answers.message().await.map_err(|status| error_of(&status))?.ok_or_else(lost)?;
        match answer.message {
            Some(Answer::Chunk(chunk)) => {
                self.digest.update(&chunk);
                self.bytes += chunk.len() as u64;
                Ok(Some(chunk))
            }
            Some(Answer::End(end)) => {
                let sha256 = Bytes::copy_from_slice(&self.digest.clone().finalize());
                if end == (TransferEnd { bytes: self.bytes, sha256 }) {
                    Ok(None)
                } else {
                    Err(Error::new(ErrorKind::Unavailable, "what arrived is not what was sent").temporary())
                }
            }
            None => Err(broken_protocol()),
        }
    }
}
