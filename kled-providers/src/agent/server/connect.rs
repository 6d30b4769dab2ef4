//! Connections to ports of the workspace.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use kled_core::{Error, ErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::call::{ANSWER_QUEUE, first};
use super::commands::Commands;
use crate::agent::protocol::messages::connect_request::Message as Said;
use crate::agent::protocol::messages::connect_response::Message as Answer;
use crate::agent::protocol::messages::{ConnectRequest, ConnectResponse};
use crate::agent::protocol::{CHUNK, broken_protocol, status_of};

/// How long a program of the workspace may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

type Answers = mpsc::Sender<Result<ConnectResponse, Status>>;

/// Connects and carries bytes both ways until both directions have ended or the driver is gone.
pub(super) async fn connect(
    commands: &Arc<Commands>,
    mut source: Streaming<ConnectRequest>,
) -> Result<ReceiverStream<Result<ConnectResponse, Status>>, Status> {
    let Some(Said::Start(port)) = first(&mut source).await?.message else {
        return Err(status_of(&broken_protocol()));
    };
    let port = u16::try_from(port).map_err(|_| status_of(&broken_protocol()))?;
    let stream = open(port).await.map_err(|error| status_of(&error))?;
    let (answers, receiver) = mpsc::channel(ANSWER_QUEUE);
    // There is room for it.
    let _queued = answers.try_send(Ok(ConnectResponse { message: Some(Answer::Connected(true)) }));
    let commands = Arc::clone(commands);
    tokio::spawn(async move {
        commands.connected();
        let (reader, writer) = stream.into_split();
        // Each ends with its direction, and both when the driver is gone.
        tokio::join!(from_driver(&commands, source, writer), to_driver(&commands, reader, answers));
        commands.disconnected();
    });
    Ok(ReceiverStream::new(receiver))
}

/// Connects to whichever loopback address is listened on.
async fn open(port: u16) -> Result<TcpStream, Error> {
    let refused = |cause| {
        Error::new(ErrorKind::Unavailable, format!("nothing in the workspace listens on port {port}"))
            .because(cause)
    };
    let open = async {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
            Ok(stream) => Ok(stream),
            Err(cause) => TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.map_err(|_| refused(cause)),
        }
    };
    let stream = tokio::time::timeout(CONNECT_LIMIT, open).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Timeout, format!("port {port} of the workspace does not answer")))
    })?;
    // Small messages of interactive protocols must not wait for more.
    let _not_tcp = stream.set_nodelay(true);
    Ok(stream)
}

async fn from_driver(commands: &Commands, mut source: Streaming<ConnectRequest>, mut writer: OwnedWriteHalf) {
    while let Ok(Some(ConnectRequest { message: Some(Said::Chunk(bytes)) })) = source.message().await {
        commands.touch();
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
    // It may have closed both ways already.
    let _closed = writer.shutdown().await;
}

async fn to_driver(commands: &Commands, mut reader: OwnedReadHalf, answers: Answers) {
    loop {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        let read = tokio::select! {
            read = reader.read_buf(&mut buffer) => read,
            () = answers.closed() => return,
        };
        let answer = match read {
            Ok(0) => return,
            Ok(_) => Ok(ConnectResponse { message: Some(Answer::Chunk(buffer.freeze())) }),
            Err(cause) => {
                Err(status_of(&Error::new(ErrorKind::Unavailable, format!("the connection broke: {cause}"))))
            }
        };
        commands.touch();
        let broke = answer.is_err();
        if answers.send(answer).await.is_err() || broke {
            return;
        }
    }
}
