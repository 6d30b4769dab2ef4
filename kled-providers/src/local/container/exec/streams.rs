//! Between the engine's one connection and a session's three streams.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error as ApiError;
use bollard::exec::StartExecResults;
use bytes::{Buf, Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use kled_core::provider::{ExecSession, ExitStatus};
use kled_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncWrite, AsyncWriteExt, DuplexStream};

use super::control::{Control, EndOnDrop};
use super::{Engine, Failed, Running, attach, status};

/// What waits in each direction of each stream.
const BUFFER: usize = 256 << 10;

/// How soon, and then how often, the engine is asked for the end of a command whose streams have ended.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LOOK_MAX: Duration = Duration::from_millis(500);

/// A command's connection.
pub(super) struct Attached {
    pub(super) input: Pin<Box<dyn AsyncWrite + Send>>,
    pub(super) output: BoxStream<'static, std::result::Result<LogOutput, ApiError>>,
    /// What has arrived and belongs to the command's own output.
    pub(super) stdout: BytesMut,
    stderr: BytesMut,
}

/// What came in place of a greeting.
#[derive(Debug)]
pub(super) struct Said(String);

impl fmt::Display for Said {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.trim())
    }
}

impl std::error::Error for Said {}

impl Attached {
    pub(super) async fn start(engine: &Engine, exec: &str, terminal: bool) -> Result<Self> {
        match attach(engine, exec, terminal).await? {
            StartExecResults::Attached { output, input } => {
                Ok(Self { input, output, stdout: BytesMut::new(), stderr: BytesMut::new() })
            }
            StartExecResults::Detached => {
                Err(Error::new(ErrorKind::Internal, "the engine detached a command by itself"))
            }
        }
    }

    /// The next line of standard output; what there is at the end of it.
    pub(super) async fn line(&mut self, limit: usize) -> Result<String> {
        loop {
            let end = self.stdout.iter().position(|byte| *byte == b'\n').map(|end| end + 1);
            if let Some(end) = end.or((self.stdout.len() > limit).then_some(limit)) {
                return Ok(String::from_utf8_lossy(&self.stdout.split_to(end)).into_owned());
            }
            match self.output.next().await {
                Some(Ok(LogOutput::StdErr { message })) => self.stderr.extend_from_slice(&message),
                Some(Ok(other)) => self.stdout.extend_from_slice(other.as_ref()),
                Some(Err(error)) => return Err(Failed::plain(error)),
                None => return Ok(String::from_utf8_lossy(&self.stdout.split()).into_owned()),
            }
        }
    }

    /// All that comes, for an error.
    pub(super) async fn rest(&mut self, mut said: String, limit: usize) -> Said {
        while let Ok(line) = self.line(limit).await {
            if line.is_empty() || said.len() > limit {
                break;
            }
            said.push_str(&line);
        }
        said.push_str(&String::from_utf8_lossy(&self.stderr));
        Said(said)
    }

    /// Reads to the end and forgets.
    pub(super) async fn drain(mut self) {
        while let Some(Ok(_)) = self.output.next().await {}
    }
}

/// A session of an attached command.
pub(super) fn session(
    attached: Attached,
    piped: bool,
    has_terminal: bool,
    running: Running,
    mut end: EndOnDrop,
) -> ExecSession {
    let (stdin, input) = tokio::io::duplex(BUFFER);
    let (stdout, to_stdout) = tokio::io::duplex(BUFFER);
    let (stderr, to_stderr) = tokio::io::duplex(BUFFER);
    let control = Control { running: running.clone(), has_terminal };
    // A task, so that output flows while nobody waits for the end. It ends with the connection, or when the session is
    // dropped: then the command is ended, and with it the connection.
    let pump = tokio::spawn(pump(attached, input, to_stdout, to_stderr));
    let exit = async move {
        if pump.await.is_err() {
            return Err(Error::new(ErrorKind::Internal, "the connection's task ended"));
        }
        let status = exit_status(&running.engine, &running.exec).await?;
        end.disarm();
        Ok(status)
    };
    let stdin = piped.then(|| Box::pin(stdin) as Pin<Box<dyn AsyncWrite + Send>>);
    ExecSession::new(stdin, Box::pin(stdout), Box::pin(stderr), Box::new(control), exit.boxed())
}

/// A session of a command that needs none.
pub(super) fn detached_session(running: Running) -> ExecSession {
    let control = Control { running: running.clone(), has_terminal: false };
    let exit = async move { exit_status(&running.engine, &running.exec).await };
    let (stdout, stderr) = (Box::pin(tokio::io::empty()), Box::pin(tokio::io::empty()));
    ExecSession::new(None, stdout, stderr, Box::new(control), exit.boxed())
}

/// Moves bytes in all directions until the command's output ends.
async fn pump(attached: Attached, mut from: DuplexStream, to_stdout: DuplexStream, to_stderr: DuplexStream) {
    let Attached { mut input, mut output, stdout, stderr } = attached;
    let feed = async {
        // A command that ends without reading its input is no failure; the end of its output says more.
        let _closed = tokio::io::copy(&mut from, &mut input).await;
        let _closed = input.shutdown().await;
        // Stays, so that a writer is not told of an end before the command has ended.
        std::future::pending::<()>().await;
    };
    let take = async {
        let (mut to_stdout, mut to_stderr) = (Sink(Some(to_stdout)), Sink(Some(to_stderr)));
        to_stdout.put(stdout.freeze()).await;
        to_stderr.put(stderr.freeze()).await;
        while let Some(Ok(piece)) = output.next().await {
            match piece {
                LogOutput::StdErr { message } => to_stderr.put(message).await,
                other => to_stdout.put(other.into_bytes()).await,
            }
        }
    };
    tokio::select! {
        () = take => {}
        () = feed => {}
    }
}

/// An output of a session. Once its reader is gone, what comes is dropped.
struct Sink(Option<DuplexStream>);

impl Sink {
    async fn put(&mut self, mut bytes: Bytes) {
        if let Some(stream) = &mut self.0
            && bytes.has_remaining()
            && stream.write_all_buf(&mut bytes).await.is_err()
        {
            self.0 = None;
        }
    }
}

/// Waits for the end of a command and gives it. An engine adds 128 to the number of a signal.
pub(super) async fn exit_status(engine: &Engine, exec: &str) -> Result<ExitStatus> {
    let mut pause = FIRST_LOOK;
    loop {
        let state = engine.docker.inspect_exec(exec).await.map_err(|error| match status(&error) {
            Some(404) => {
                Error::new(ErrorKind::Unavailable, "the command's workspace was stopped").because(error)
            }
            _ => Failed::plain(error),
        })?;
        if state.running == Some(false) {
            let code = state.exit_code.and_then(|code| i32::try_from(code).ok());
            return code.map(ExitStatus::Exited).ok_or_else(|| {
                Error::new(ErrorKind::Unavailable, "the engine does not know how the command ended")
            });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOK_MAX);
    }
}
