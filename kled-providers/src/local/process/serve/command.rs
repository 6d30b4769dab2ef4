//! One command with a client attached.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::SplitStream;
use futures::{SinkExt, StreamExt};
use kled_core::agent::{AgentMessage, ClientMessage, Failure, FrameError};
use kled_core::provider::{Command, ExitStatus, StandardInput, TerminalSize, Variables};
use kled_core::{Error, ErrorKind, Result};
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::Child;
use tokio::sync::mpsc;

use super::Connection;
use super::commands::Commands;
use crate::local::proc;

/// The environment variable by which the processes that a command started are found.
const COMMAND: &str = "KLED_COMMAND";

/// What is read of an output at once.
const CHUNK: usize = 64 << 10;

/// After a command has ended, what it wrote is in the pipe already; a longer silence means that something it left
/// behind holds the pipe open.
const SILENCE: Duration = Duration::from_millis(50);

/// Chunks of standard input that wait for the command to read.
const INPUT_QUEUE: usize = 8;

/// While input waits nothing is read from the client, so its end is noticed by writing.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long a killed tree may take to end.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// End of transmission: what closes the input of a program on a terminal.
const END_OF_TRANSMISSION: &[u8] = b"\x04";

type Reader = Pin<Box<dyn AsyncRead + Send>>;
type Writer = Pin<Box<dyn AsyncWrite + Send>>;
type Sink = futures::stream::SplitSink<Connection, AgentMessage>;

/// A started command.
pub(super) struct Running {
    pub(super) child: Child,
    pub(super) process: u32,
    marker: String,
    input: Input,
    pub(super) stdout: Option<Reader>,
    pub(super) stderr: Option<Reader>,
}

enum Input {
    Empty,
    Pipe(Writer),
    Terminal(pty_process::OwnedWritePty),
}

/// Runs a command for the client of `connection` until it ends or the client goes.
pub(super) async fn run(commands: &Arc<Commands>, command: &Command, connection: Connection) {
    let (mut sink, source) = connection.split();
    let mut running = match start(commands, command) {
        Ok(running) => running,
        Err(error) => {
            let failure = Failure { kind: error.kind(), message: error.message().to_owned() };
            let _client_gone = sink.send(AgentMessage::Failed(failure)).await;
            return;
        }
    };
    let (process, marker) = (running.process, running.marker.clone());
    let input = std::mem::replace(&mut running.input, Input::Empty);
    let waiting = AtomicBool::new(false);
    let finished = tokio::select! {
        result = forward_output(&mut running, &mut sink, &waiting) => result.is_ok(),
        () = forward_input(source, input, process, &waiting) => false,
    };
    if !finished {
        kill_tree(process, &marker).await;
        // Nothing is left to say of a command whose client is gone.
        let _status = running.child.wait().await;
    }
    commands.ended(process);
}

/// Starts a command.
pub(super) fn start(commands: &Commands, command: &Command) -> Result<Running> {
    let (program, arguments) = command
        .arguments
        .split_first()
        .filter(|(program, _)| !program.is_empty())
        .ok_or_else(|| Error::new(ErrorKind::InvalidInput, "the command is empty"))?;
    let configuration = &commands.configuration;
    let folder = match &command.working_directory {
        Some(path) => configuration.working_directory.join(path),
        None => configuration.working_directory.clone(),
    };
    if !folder.is_dir() {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("the working directory {} does not exist", folder.display()),
        ));
    }
    let marker = format!("{}.{}", configuration.id, commands.next_number());
    let mut environment = configuration.environment.clone();
    environment.0.extend(command.environment.0.clone());
    environment.0.insert(COMMAND.into(), marker.clone());
    environment.0.insert("PWD".into(), folder.display().to_string());
    let running = match command.terminal {
        Some(size) => on_terminal(program, arguments, &environment, &folder, size),
        None => on_pipes(program, arguments, &environment, &folder, command.stdin),
    };
    let (child, input, stdout, stderr) = running.map_err(|cause| start_error(program, cause))?;
    let process = child.id().ok_or_else(|| Error::new(ErrorKind::Internal, "the command has no process"))?;
    commands.began(process);
    Ok(Running { child, process, marker, input, stdout, stderr })
}

type Parts = (Child, Input, Option<Reader>, Option<Reader>);

fn on_pipes(
    program: &str,
    arguments: &[String],
    environment: &Variables,
    folder: &std::path::Path,
    stdin: StandardInput,
) -> io::Result<Parts> {
    use std::process::Stdio;
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(&environment.0)
        .current_dir(folder)
        .process_group(0)
        .stdin(if stdin == StandardInput::Piped { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let input = child.stdin.take().map_or(Input::Empty, |stdin| Input::Pipe(Box::pin(stdin)));
    let stdout = child.stdout.take().map(|stdout| Box::pin(stdout) as Reader);
    let stderr = child.stderr.take().map(|stderr| Box::pin(stderr) as Reader);
    Ok((child, input, stdout, stderr))
}

fn on_terminal(
    program: &str,
    arguments: &[String],
    environment: &Variables,
    folder: &std::path::Path,
    size: TerminalSize,
) -> io::Result<Parts> {
    let (terminal, other_end) = pty_process::open().map_err(io::Error::other)?;
    terminal.resize(pty_process::Size::new(size.rows, size.columns)).map_err(io::Error::other)?;
    let child = pty_process::Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(&environment.0)
        .current_dir(folder)
        .spawn(other_end)
        .map_err(|error| match error {
            pty_process::Error::Io(cause) => cause,
            pty_process::Error::Rustix(cause) => cause.into(),
            other => io::Error::other(other),
        })?;
    let (output, input) = terminal.into_split();
    Ok((child, Input::Terminal(input), Some(Box::pin(output)), None))
}

fn start_error(program: &str, cause: io::Error) -> Error {
    let (kind, what) = match cause.kind() {
        io::ErrorKind::NotFound => (ErrorKind::CommandNotFound, "does not exist in the workspace".into()),
        io::ErrorKind::PermissionDenied => (ErrorKind::PermissionDenied, "may not be executed".into()),
        io::ErrorKind::InvalidInput => {
            (ErrorKind::InvalidInput, "or an argument of it has a NUL character".into())
        }
        io::ErrorKind::ArgumentListTooLong => {
            (ErrorKind::InvalidInput, "has arguments that are too long".into())
        }
        _ => (ErrorKind::Internal, format!("cannot be started: {cause}")),
    };
    Error::new(kind, format!("{program:?} {what}"))
}

/// Sends what the command writes, then how it ended.
async fn forward_output(
    running: &mut Running,
    sink: &mut Sink,
    waiting: &AtomicBool,
) -> Result<(), FrameError> {
    sink.send(AgentMessage::Started { process: running.process }).await?;
    let (mut stdout, mut stderr) = (running.stdout.take(), running.stderr.take());
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    let mut status = None;
    while stdout.is_some() || stderr.is_some() || status.is_none() {
        tokio::select! {
            chunk = read(&mut stdout) => match chunk {
                Some(bytes) => sink.send(AgentMessage::Stdout(bytes)).await?,
                None => stdout = None,
            },
            chunk = read(&mut stderr) => match chunk {
                Some(bytes) => sink.send(AgentMessage::Stderr(bytes)).await?,
                None => stderr = None,
            },
            ended = running.child.wait(), if status.is_none() => status = Some(exit_status(ended)),
            _ = heartbeat.tick(), if waiting.load(Ordering::Relaxed) => sink.send(AgentMessage::Stdout(Bytes::new())).await?,
            () = tokio::time::sleep(SILENCE), if status.is_some() => break,
        }
    }
    let message = match status {
        Some(Ok(status)) => AgentMessage::Exited(status),
        Some(Err(failure)) => AgentMessage::Failed(failure),
        None => return Ok(()),
    };
    sink.send(message).await
}

/// The next bytes; `None` at the end. Never ready for an output that has ended.
async fn read(reader: &mut Option<Reader>) -> Option<Bytes> {
    let Some(reader) = reader else { return std::future::pending().await };
    let mut buffer = BytesMut::with_capacity(CHUNK);
    // A terminal whose last program ended answers with an error: its end.
    match reader.read_buf(&mut buffer).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(buffer.freeze()),
    }
}

fn exit_status(ended: io::Result<std::process::ExitStatus>) -> std::result::Result<ExitStatus, Failure> {
    let lost =
        || Failure { kind: ErrorKind::Internal, message: "the end of the command is not known".into() };
    let ended = ended.map_err(|_| lost())?;
    let exited = ended.code().map(ExitStatus::Exited);
    exited.or_else(|| ended.signal().map(ExitStatus::Signaled)).ok_or_else(lost)
}

/// What waits for the command's standard input or terminal, in the order in which the client said it.
enum InputItem {
    Bytes(Bytes),
    Size(TerminalSize),
}

/// Carries out what the client says, until it is gone.
async fn forward_input(
    mut source: SplitStream<Connection>,
    input: Input,
    process: u32,
    waiting: &AtomicBool,
) {
    let (sender, receiver) = mpsc::channel(INPUT_QUEUE);
    let listen = async {
        let mut sender = Some(sender);
        while let Some(Ok(message)) = source.next().await {
            let item = match message {
                ClientMessage::Stdin(bytes) => InputItem::Bytes(bytes),
                ClientMessage::Resize(size) => InputItem::Size(size),
                ClientMessage::StdinEnd => {
                    sender = None;
                    continue;
                }
                ClientMessage::Signal(signal) => {
                    signal_group(process, signal);
                    continue;
                }
                ClientMessage::Authenticate(_)
                | ClientMessage::Exec(_)
                | ClientMessage::Status
                | ClientMessage::Shutdown { .. } => return,
            };
            if let Some(sender) = &sender {
                waiting.store(true, Ordering::Relaxed);
                // A command that has closed its input lets the rest go.
                let _closed = sender.send(item).await;
                waiting.store(false, Ordering::Relaxed);
            }
        }
    };
    tokio::select! {
        () = listen => {}
        () = write_input(receiver, input) => {}
    }
}

async fn write_input(mut receiver: mpsc::Receiver<InputItem>, mut input: Input) {
    while let Some(item) = receiver.recv().await {
        let open = match (&mut input, item) {
            (Input::Pipe(writer), InputItem::Bytes(bytes)) => writer.write_all(&bytes).await.is_ok(),
            (Input::Terminal(terminal), InputItem::Bytes(bytes)) => terminal.write_all(&bytes).await.is_ok(),
            (Input::Terminal(terminal), InputItem::Size(size)) => {
                terminal.resize(pty_process::Size::new(size.rows, size.columns)).is_ok()
            }
            (Input::Empty, _) | (Input::Pipe(_), InputItem::Size(_)) => true,
        };
        if !open {
            input = Input::Empty;
        }
    }
    if let Input::Terminal(terminal) = &mut input {
        let _ended = terminal.write_all(END_OF_TRANSMISSION).await;
    } else {
        // Closes the pipe: the command sees the end of its input.
        drop(input);
    }
    // The client's end, not this one, ends the command.
    std::future::pending().await
}

fn signal_group(process: u32, signal: kled_core::provider::Signal) {
    use kled_core::provider::Signal as Asked;
    let signal = match signal {
        Asked::Hup => Signal::HUP,
        Asked::Int => Signal::INT,
        Asked::Quit => Signal::QUIT,
        Asked::Kill => Signal::KILL,
        _ => Signal::TERM,
    };
    if let Some(group) = i32::try_from(process).ok().and_then(Pid::from_raw) {
        // A group that is gone meanwhile needs no signal.
        let _gone = rustix::process::kill_process_group(group, signal);
    }
}

/// Kills a command and all that it started, also what left its process group or lost its parent.
async fn kill_tree(process: u32, marker: &str) {
    let tree = || {
        let mut tree: BTreeSet<u32> = proc::descendants(process);
        tree.extend(proc::with_variable(COMMAND, marker));
        tree.extend(proc::running(process).then_some(process));
        tree
    };
    proc::kill_all(KILL_LIMIT, tree).await;
}
