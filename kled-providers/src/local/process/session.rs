//! The client's side of a command.

use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{FutureExt, SinkExt, StreamExt};
use kled_core::agent::{AgentMessage, ClientMessage, FRAME_MAX};
use kled_core::provider::{
    Command, CommandControl, ExecSession, ExitStatus, Signal, StandardInput, TerminalSize,
};
use kled_core::{Error, ErrorKind, Result};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};
use tokio_util::sync::PollSender;

use super::layout::Folder;
use super::socket::{self, Connection};

/// Chunks of one stream that wait to be read or written.
const QUEUE: usize = 16;

/// Starts a command in a workspace.
pub(crate) async fn start(workspace: &Folder, command: Command) -> Result<ExecSession> {
    let (piped, detached) = (command.stdin == StandardInput::Piped, command.detached);
    let mut connection = socket::connect(workspace).await?;
    connection.send(ClientMessage::Exec(command)).await?;
    match connection.next().await {
        Some(Ok(AgentMessage::Started { .. })) => {}
        Some(Ok(AgentMessage::Failed(failure))) => return Err(failure.into()),
        Some(Err(error)) => return Err(error.into()),
        Some(Ok(_)) => return Err(Error::new(ErrorKind::Internal, "the workspace broke the protocol")),
        None => return Err(lost()),
    }
    Ok(if detached { detached_session() } else { attached_session(connection, piped) })
}

fn lost() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the workspace stopped, or its connection was lost, before the command ended",
    )
}

/// Nothing more is heard of a detached command; that it was started is its success.
fn detached_session() -> ExecSession {
    let exit = std::future::ready(Ok(ExitStatus::Exited(0))).boxed();
    ExecSession::new(None, Box::pin(tokio::io::empty()), Box::pin(tokio::io::empty()), Box::new(Gone), exit)
}

fn attached_session(connection: Connection, piped: bool) -> ExecSession {
    let (sink, source) = connection.split();
    let (stdout, stdout_reader) = mpsc::channel(QUEUE);
    let (stderr, stderr_reader) = mpsc::channel(QUEUE);
    let (input, input_reader) = mpsc::channel(QUEUE);
    let (control, control_reader) = mpsc::channel(QUEUE);
    let (exit, exit_reader) = oneshot::channel();
    let tasks = [
        AbortOnDrop(tokio::spawn(receive(source, stdout, stderr, exit))),
        AbortOnDrop(tokio::spawn(send(sink, input_reader, control_reader))),
    ];
    let stdin = piped.then(|| {
        let sink = PollSender::new(input).sink_map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe));
        Box::pin(SinkWriter::new(CopyToBytes::new(sink)))
            as std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>
    });
    let ended = async move {
        // Dropped with the session: the connection closes and the workspace ends the command.
        let _tasks = tasks;
        exit_reader.await.unwrap_or_else(|_| Err(lost()))
    };
    ExecSession::new(
        stdin,
        Box::pin(StreamReader::new(Chunks(stdout_reader))),
        Box::pin(StreamReader::new(Chunks(stderr_reader))),
        Box::new(Control(control)),
        ended.boxed(),
    )
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A queue of chunks as a stream for [`StreamReader`].
struct Chunks(mpsc::Receiver<Bytes>);

impl futures::Stream for Chunks {
    type Item = io::Result<Bytes>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|chunk| chunk.map(Ok))
    }
}

/// Sorts what arrives into the streams, then says how the command ended.
async fn receive(
    mut source: SplitStream<Connection>,
    stdout: mpsc::Sender<Bytes>,
    stderr: mpsc::Sender<Bytes>,
    exit: oneshot::Sender<Result<ExitStatus>>,
) {
    let result = loop {
        let (stream, bytes) = match source.next().await {
            Some(Ok(AgentMessage::Stdout(bytes))) => (&stdout, bytes),
            Some(Ok(AgentMessage::Stderr(bytes))) => (&stderr, bytes),
            Some(Ok(AgentMessage::Exited(status))) => break Ok(status),
            Some(Ok(AgentMessage::Failed(failure))) => break Err(failure.into()),
            Some(Ok(AgentMessage::Started { .. } | AgentMessage::Status(_))) => continue,
            Some(Err(error)) => break Err(error.into()),
            None => break Err(lost()),
        };
        // An empty chunk is a heartbeat. A stream that nobody reads any more lets its bytes go.
        if !bytes.is_empty() {
            let _unread = stream.send(bytes).await;
        }
    };
    // Nobody may be waiting.
    let _unwatched = exit.send(result);
}

/// Sends input and control messages, control first. Ends with the session.
async fn send(
    mut sink: SplitSink<Connection, ClientMessage>,
    mut input: mpsc::Receiver<Bytes>,
    mut control: mpsc::Receiver<ClientMessage>,
) {
    let mut open = true;
    loop {
        let message = tokio::select! {
            biased;
            message = control.recv() => match message {
                Some(message) => message,
                None => return,
            },
            bytes = input.recv(), if open => match bytes {
                Some(bytes) => ClientMessage::Stdin(bytes),
                None => {
                    open = false;
                    ClientMessage::StdinEnd
                }
            },
        };
        if send_in_frames(&mut sink, message).await.is_err() {
            return;
        }
    }
}

async fn send_in_frames(
    sink: &mut SplitSink<Connection, ClientMessage>,
    message: ClientMessage,
) -> Result<(), kled_core::agent::FrameError> {
    let ClientMessage::Stdin(mut bytes) = message else { return sink.send(message).await };
    while !bytes.is_empty() {
        let part = bytes.split_to(bytes.len().min(FRAME_MAX));
        sink.send(ClientMessage::Stdin(part)).await?;
    }
    Ok(())
}

#[derive(Debug)]
struct Control(mpsc::Sender<ClientMessage>);

impl Control {
    async fn say(&self, message: ClientMessage) -> Result<()> {
        self.0
            .send(message)
            .await
            .map_err(|_| Error::new(ErrorKind::InvalidState, "the command has ended").during("exec"))
    }
}

#[async_trait]
impl CommandControl for Control {
    async fn resize(&self, size: TerminalSize) -> Result<()> {
        self.say(ClientMessage::Resize(size)).await
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        self.say(ClientMessage::Signal(signal)).await
    }
}

/// The control of a command that nobody holds.
#[derive(Debug)]
struct Gone;

#[async_trait]
impl CommandControl for Gone {
    async fn resize(&self, _: TerminalSize) -> Result<()> {
        Err(Error::new(ErrorKind::InvalidState, "a detached command has no terminal").during("exec"))
    }

    async fn signal(&self, _: Signal) -> Result<()> {
        Err(Error::new(ErrorKind::InvalidState, "a detached command takes no signals").during("exec"))
    }
}
