//! A port-forward: bytes to and from a port of a pod, in the messages of a WebSocket to the API server.
//!
//! `kube` has one of its own, in which a message that cannot be sent keeps those that have arrived from being taken. An
//! agent and a driver that both have much to say would then wait for one another for ever. Here the two directions know
//! nothing of each other, and the driver's side takes more than the other may ever be ahead.

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, Stream, StreamExt};
use kled_core::{Error, ErrorKind, Result};
use kube::core::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Message;

use super::error::from_kube;
use crate::agent::DRIVER_BUFFER;

/// What is sent at once. Copies into a pod are faster than with 128 KiB, which the proxies on the way take in as a whole.
const MESSAGE: usize = 32 << 10;

/// The channel of the first port's data, and that of what is wrong with it.
const DATA: u8 = 0;
const ERROR: u8 = 1;

/// The first message of each channel names the port in two bytes.
const PORT_LENGTH: usize = 2;

/// An open port-forward.
pub(super) struct Forward {
    /// The bytes. It ends when the pod, the kubelet or the API server ends it.
    pub(super) stream: DuplexStream,
    /// What the kubelet says when the port cannot be reached.
    pub(super) refused: oneshot::Receiver<String>,
}

/// Asks for a port of a pod. Whether somebody listens there is seen later.
pub(super) async fn open(client: &kube::Client, pods: &str, pod: &str, port: u16) -> Result<Forward> {
    let request = Request::new(pods).portforward(pod, &[port]);
    let malformed =
        |cause| Error::new(ErrorKind::Internal, "the port-forward cannot be asked for").because(cause);
    let connection = client.connect(request.map_err(malformed)?).await.map_err(from_kube)?;
    let (messages, incoming) = connection.into_stream().split();
    let (stream, far) = tokio::io::duplex(DRIVER_BUFFER);
    let (reader, writer) = tokio::io::split(far);
    let (refuse, refused) = oneshot::channel();
    tokio::spawn(async move {
        // The end of either is the end of both: HTTP/2 needs no half of a connection.
        tokio::select! {
            () = to_pod(reader, messages) => {}
            () = from_pod(incoming, writer, refuse) => {}
        }
    });
    Ok(Forward { stream, refused })
}

async fn to_pod<S>(mut reader: ReadHalf<DuplexStream>, mut messages: S)
where
    S: SinkExt<Message> + Unpin,
{
    loop {
        let mut message = BytesMut::with_capacity(MESSAGE);
        message.extend_from_slice(&[DATA]);
        match reader.read_buf(&mut message).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        if messages.send(Message::Binary(message.freeze())).await.is_err() {
            return;
        }
    }
    // Whoever has the other end may be gone already.
    let _gone = messages.close().await;
}

async fn from_pod<S, E>(mut incoming: S, mut writer: WriteHalf<DuplexStream>, refuse: oneshot::Sender<String>)
where
    S: Stream<Item = Result<Message, E>> + Unpin,
{
    let mut refuse = Some(refuse);
    let mut begun = [false; 2];
    while let Some(Ok(message)) = incoming.next().await {
        let mut bytes: Bytes = match message {
            Message::Binary(bytes) if !bytes.is_empty() => bytes,
            Message::Close(_) => return,
            _ => continue,
        };
        let channel = bytes.split_to(1)[0];
        let Some(begun) = begun.get_mut(usize::from(channel)) else { continue };
        if !*begun {
            *begun = true;
            bytes = bytes.split_off(bytes.len().min(PORT_LENGTH));
        }
        match channel {
            DATA if writer.write_all(&bytes).await.is_err() => return,
            ERROR if !bytes.is_empty() => {
                if let Some(refuse) = refuse.take() {
                    // Nobody may be listening any more.
                    let _unheard = refuse.send(String::from_utf8_lossy(&bytes).into_owned());
                }
            }
            _ => {}
        }
    }
}
