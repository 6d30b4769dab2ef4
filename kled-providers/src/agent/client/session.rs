//! The client's side of a command.

use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, SinkExt};
use kled_core::provider::{
    Command, CommandControl, ExecSession, ExitStatus, Signal, StandardInput, TerminalSize,
};
use kled_core::{Error, ErrorKind, Result};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};
use tokio_util::sync::PollSender;
use tonic::Streaming;

use super::Client;
use crate::agent::protocol::messages::exec_request::Message as Said;
use crate::agent::protocol::messages::exec_response::Message as Answer;
use crate::agent::protocol::messages::{ExecRequest, ExecResponse};
use crate::agent::protocol::{CHUNK, broken_protocol, error_of, lost, signal_name};

/// Chunks of one stream that wait to be read or written.
const QUEUE: usize = 16;

/// Starts a command in a workspace.
pub(super) async fn start(mut client: Client, command: Command) -> Result<ExecSession> {
    let (piped, detached) = (command.stdin == StandardInput::Piped, command.detached);
    let (sender, receiver) = mpsc::channel(QUEUE);
    // There is room for it.
    let _queued = sender.try_send(ExecRequest { message: Some(Said::Start(command.into())) });
    let answers = client.exec(ReceiverStream::new(receiver)).await.map_err(|status| error_of(&status))?;
    let mut answers = answers.into_inner();
    match answers.message().await.map_err(|status| error_of(&status))?.ok_or_else(lost)?.message {
        Some(Answer::Started(_)) => {}
        _ => return Err(broken_protocol()),
    }
    Ok(if detached { detached_session() } else { attached_session(sender, answers, piped) })
}

/// Nothing more is heard of a detached command; that it was started is its success.
fn detached_session() -> ExecSession {
    let exit = std::future::ready(Ok(ExitStatus::Exited(0))).boxed();
    ExecSession::new(None, Box::pin(tokio::io::empty()), Box::pin(tokio::io::empty()), Box::new(Gone), exit)
}

fn attached_session(
    sender: mpsc::Sender<ExecRequest>,
    answers: Streaming<ExecResponse>,
    piped: bool,
) -> ExecSession {
    let (stdout, stdout_reader) = mpsc::channel(QUEUE);
    let (stderr, stderr_reader) = mpsc::channel(QUEUE);
    let (input, input_reader) = mpsc::channel(QUEUE);
    let (control, control_reader) = mpsc::channel(QUEUE);
    let (exit, exit_reader) = oneshot::channel();
    let tasks = [
        AbortOnDrop(tokio::spawn(receive(answers, stdout, stderr, exit))),
        AbortOnDrop(tokio::spawn(send(sender, input_reader, control_reader))),
    ];
    let stdin = piped.then(|| {
        let sink = PollSender::new(input).sink_map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe));
        Box::pin(SinkWriter::new(CopyToBytes::new(sink)))
            as std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>
    });
    let ended = async move {
        // Dropped with the session: the call is reset and the workspace ends the command.
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
    mut answers: Streaming<ExecResponse>,
    stdout: mpsc::Sender<Bytes>,
    stderr: mpsc::Sender<Bytes>,
    exit: oneshot::Sender<Result<ExitStatus>>,
) {
    let result = loop {
        let (stream, bytes) = match answers.message().await {
            Ok(Some(ExecResponse { message: Some(answer) })) => match answer {
                Answer::Stdout(bytes) => (&stdout, bytes),
                Answer::Stderr(bytes) => (&stderr, bytes),
                Answer::Exited(status) => break status.try_into(),
                Answer::Started(_) => break Err(broken_protocol()),
            },
            Ok(Some(ExecResponse { message: None })) => break Err(broken_protocol()),
            Ok(None) => break Err(lost()),
            Err(status) => break Err(error_of(&status)),
        };
        // A stream that nobody reads any more lets its bytes go.
        let _unread = stream.send(bytes).await;
    };
    // Nobody may be waiting.
    let _unwatched = exit.send(result);
}

/// Sends input and control messages, control first. Ends with the session.
async fn send(
    sender: mpsc::Sender<ExecRequest>,
    mut input: mpsc::Receiver<Bytes>,
    mut control: mpsc::Receiver<Said>,
) {
    let mut open = true;
    loop {
        let said = tokio::select! {
            biased;
            said = control.recv() => match said {
                Some(said) => said,
                None => return,
            },
            bytes = input.recv(), if open => match bytes {
                Some(bytes) => Said::Stdin(bytes),
                None => {
                    open = false;
                    Said::StdinEnd(true)
                }
            },
        };
        if send_in_chunks(&sender, said).await.is_err() {
            return;
        }
    }
}

async fn send_in_chunks(
    sender: &mpsc::Sender<ExecRequest>,
    said: Said,
) -> Result<(), mpsc::error::SendError<ExecRequest>> {
    let Said::Stdin(mut bytes) = said else { return sender.send(ExecRequest { message: Some(said) }).await };
    while !bytes.is_empty() {
        let chunk = bytes.split_to(bytes.len().min(CHUNK));
        sender.send(ExecRequest { message: Some(Said::Stdin(chunk)) }).await?;
    }
    Ok(())
}

#[derive(Debug)]
struct Control(mpsc::Sender<Said>);

impl Control {
    async fn say(&self, said: Said) -> Result<()> {
        self.0
            .send(said)
            .await
            .map_err(|_| Error::new(ErrorKind::InvalidState, "the command has ended").during("exec"))
    }
}

#[async_trait]
impl CommandControl for Control {
    async fn resize(&self, size: TerminalSize) -> Result<()> {
        self.say(Said::Resize(size.into())).await
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        self.say(Said::Signal(signal_name(signal).into())).await
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
