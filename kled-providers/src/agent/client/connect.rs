//! A connection to a port of the workspace.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::StreamExt;
use kled_core::Result;
use kled_core::provider::ByteStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};
use tokio_util::sync::PollSender;

use super::Client;
use crate::agent::protocol::messages::ConnectRequest;
use crate::agent::protocol::messages::connect_request::Message as Said;
use crate::agent::protocol::messages::connect_response::Message as Answer;
use crate::agent::protocol::{broken_protocol, error_of, lost};

/// Chunks that wait to be sent.
const QUEUE: usize = 8;

pub(super) async fn connect(mut client: Client, port: u16) -> Result<ByteStream> {
    let (sender, receiver) = mpsc::channel::<Bytes>(QUEUE);
    let say = |said| ConnectRequest { message: Some(said) };
    let start = futures::stream::iter([say(Said::Start(port.into()))]);
    let said = start.chain(ReceiverStream::new(receiver).map(move |bytes| say(Said::Chunk(bytes))));
    let answers = client.connect(said).await.map_err(|status| error_of(&status))?;
    let mut answers = answers.into_inner();
    match answers.message().await.map_err(|status| error_of(&status))?.ok_or_else(lost)?.message {
        Some(Answer::Connected(_)) => {}
        _ => return Err(broken_protocol()),
    }
    let chunks = answers.map(|answer| match answer.map(|answer| answer.message) {
        Ok(Some(Answer::Chunk(bytes))) => Ok(bytes),
        Ok(_) => Err(io::Error::other(broken_protocol())),
        Err(status) => Err(io::Error::new(io::ErrorKind::ConnectionReset, error_of(&status))),
    });
    // Sends what is written at once: programs do not flush what they take for a socket.
    let sink = PollSender::new(sender);
    let sink = futures::SinkExt::sink_map_err(sink, |_| io::Error::from(io::ErrorKind::BrokenPipe));
    Ok(Box::pin(Joined {
        reader: Box::pin(StreamReader::new(chunks)),
        writer: Box::pin(SinkWriter::new(CopyToBytes::new(sink))),
    }))
}

/// Both directions of a connection.
struct Joined<R: ?Sized, W: ?Sized> {
    reader: Pin<Box<R>>,
    writer: Pin<Box<W>>,
}

impl<R: AsyncRead + ?Sized, W: ?Sized> AsyncRead for Joined<R, W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.reader.as_mut().poll_read(context, buffer)
    }
}

impl<R: ?Sized, W: AsyncWrite + ?Sized> AsyncWrite for Joined<R, W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let chunk = &bytes[..bytes.len().min(crate::agent::protocol::CHUNK)];
        self.writer.as_mut().poll_write(context, chunk)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.as_mut().poll_shutdown(context)
    }
}
