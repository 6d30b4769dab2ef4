//! One command with a client attached.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kled_core::provider::{Command, ExitStatus, StandardInput, TerminalSize, Variables};
use kled_core::{Error, ErrorKind, Result};
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::Child;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::account::Account;
use super::commands::Commands;
use crate::agent::proc;
use crate::agent::protocol::messages::exec_request::Message as Said;
use crate::agent::protocol::messages::exec_response::Message as Answer;
use crate::agent::protocol::messages::{ExecRequest, ExecResponse};
use crate::agent::protocol::{CHUNK, signal_of, status_of};

/// The environment variable by which the processes that a command started are found.
const COMMAND: &str = "KLED_COMMAND";

/// After a command has ended, what it wrote is in the pipe already; a longer silence means that something it left
/// behind holds the pipe open.
pub(super) const SILENCE: Duration = Duration::from_millis(50);

/// Chunks of standard input that wait for the command to read.
const INPUT_QUEUE: usize = 8;

/// How long a killed tree may take to end.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// End of transmission: what closes the input of a program on a terminal.
const END_OF_TRANSMISSION: &[u8] = b"\x04";

type Reader = Pin<Box<dyn AsyncRead + Send>>;
type Writer = Pin<Box<dyn AsyncWrite + Send>>;

/// Where answers go. Closed when the client's end of the call is gone.
pub(super) type Answers = mpsc::Sender<Result<ExecResponse, Status>>;

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

impl Running {
    /// Kills it and what it started.
    pub(super) async fn kill(&mut self) {
        kill_tree(self.process, &self.marker).await;
        // Nothing is left to say of a command that nobody waits for.
        let _status = self.child.wait().await;
    }
}

/// Serves the client of a started command until it ends or the client goes.
pub(super) async fn run(
    commands: &Arc<Commands>,
    mut running: Running,
    source: Streaming<ExecRequest>,
    answers: Answers,
) {
    let process = running.process;
    let input = std::mem::replace(&mut running.input, Input::Empty);
    let finished = tokio::select! {
        result = forward_output(commands, &mut running, &answers) => result.is_ok(),
        () = forward_input(commands, source, input, process) => false,
        () = answers.closed() => false,
    };
    if !finished {
        running.kill().await;
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
    let prepared = commands.preparation.applied();
    let folder = match &command.working_directory {
        Some(path) => configuration.working_directory.join(path),
        None => prepared.folder,
    };
    if !folder.is_dir() {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("the working directory {} does not exist", folder.display()),
        ));
    }
    let marker = format!("{}.{}", configuration.id, commands.next_number());
    let mut environment = prepared.environment;
    let account = prepared.account;
    environment.0.extend(command.environment.0.clone());
    environment.0.insert(COMMAND.into(), marker.clone());
    environment.0.insert("PWD".into(), folder.display().to_string());
    let running = match command.terminal {
        Some(size) => on_terminal(program, arguments, &environment, &folder, account, size),
        None => on_pipes(program, arguments, &environment, &folder, account, command.stdin),
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
    account: Option<Account>,
    stdin: StandardInput,
) -> io::Result<Parts> {
    use std::process::Stdio;
    let mut command = tokio::process::Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(&environment.0)
        .current_dir(folder)
        .process_group(0)
        .stdin(if stdin == StandardInput::Piped { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(account) = account {
        // SAFETY: `enter` makes system calls only, all of them async-signal-safe: no allocation, no lock.
        unsafe { command.pre_exec(move || account.enter()) };
    }
    let mut child = command.spawn()?;
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
    account: Option<Account>,
    size: TerminalSize,
) -> io::Result<Parts> {
    let (terminal, other_end) = pty_process::open().map_err(io::Error::other)?;
    terminal.resize(pty_process::Size::new(size.rows, size.columns)).map_err(io::Error::other)?;
    let mut command = pty_process::Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(&environment.0)
        .current_dir(folder);
    if let Some(account) = account {
        account.own_terminal(&other_end)?;
        // SAFETY: `enter` makes system calls only, all of them async-signal-safe: no allocation, no lock.
        command = unsafe { command.pre_exec(move || account.enter()) };
    }
    let child = command.spawn(other_end).map_err(|error| match error {
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

/// The client is gone.
struct Gone;

async fn say(answers: &Answers, answer: Answer) -> Result<(), Gone> {
    answers.send(Ok(ExecResponse { message: Some(answer) })).await.map_err(|_| Gone)
}

/// Sends what the command writes, then how it ended.
async fn forward_output(commands: &Commands, running: &mut Running, answers: &Answers) -> Result<(), Gone> {
    say(answers, Answer::Started(running.process)).await?;
    let (mut stdout, mut stderr) = (running.stdout.take(), running.stderr.take());
    let mut status = None;
    while stdout.is_some() || stderr.is_some() || status.is_none() {
        tokio::select! {
            chunk = read(&mut stdout) => match chunk {
                Some(bytes) => {
                    commands.touch();
                    say(answers, Answer::Stdout(bytes)).await?;
                }
                None => stdout = None,
            },
            chunk = read(&mut stderr) => match chunk {
                Some(bytes) => {
                    commands.touch();
                    say(answers, Answer::Stderr(bytes)).await?;
                }
                None => stderr = None,
            },
            ended = running.child.wait(), if status.is_none() => status = Some(exit_status(ended)),
            () = tokio::time::sleep(SILENCE), if status.is_some() => break,
        }
    }
    match status {
        Some(Ok(status)) => say(answers, Answer::Exited(status.into())).await,
        Some(Err(error)) => answers.send(Err(status_of(&error))).await.map_err(|_| Gone),
        None => Ok(()),
    }
}

/// The next bytes; `None` at the end. Never ready for an output that has ended.
pub(super) async fn read(reader: &mut Option<Reader>) -> Option<Bytes> {
    let Some(reader) = reader else { return std::future::pending().await };
    let mut buffer = BytesMut::with_capacity(CHUNK);
    // A terminal whose last program ended answers with an error: its end.
    match reader.read_buf(&mut buffer).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(buffer.freeze()),
    }
}

pub(super) fn exit_status(ended: io::Result<std::process::ExitStatus>) -> Result<ExitStatus> {
    let lost = || Error::new(ErrorKind::Internal, "the end of the command is not known");
    let ended = ended.map_err(|_| lost())?;
    let exited = ended.code().map(ExitStatus::Exited);
    exited.or_else(|| ended.signal().map(ExitStatus::Signaled)).ok_or_else(lost)
}

/// What waits for the command's standard input or terminal, in the order in which the client said it.
enum InputItem {
    Bytes(Bytes),
    Size(TerminalSize),
}

/// Carries out what the client says, until it is gone or says what it must not.
async fn forward_input(commands: &Commands, mut source: Streaming<ExecRequest>, input: Input, process: u32) {
    let (sender, receiver) = mpsc::channel(INPUT_QUEUE);
    let listen = async {
        let mut sender = Some(sender);
        loop {
            let item = match source.message().await {
                Ok(Some(ExecRequest { message: Some(said) })) => match said {
                    Said::Stdin(bytes) => InputItem::Bytes(bytes),
                    Said::Resize(size) => match size.try_into() {
                        Ok(size) => InputItem::Size(size),
                        Err(_) => return,
                    },
                    Said::Signal(name) => match signal_of(&name) {
                        Ok(signal) => {
                            signal_group(process, signal);
                            continue;
                        }
                        Err(_) => return,
                    },
                    Said::StdinEnd(_) => {
                        sender = None;
                        continue;
                    }
                    Said::Start(_) => return,
                },
                // The end of what it says is the end of standard input; its interest in the answers may go on.
                Ok(None) => {
                    drop(sender);
                    return std::future::pending().await;
                }
                Ok(Some(ExecRequest { message: None })) | Err(_) => return,
            };
            commands.touch();
            if let Some(sender) = &sender {
                // A command that has closed its input lets the rest go.
                let _closed = sender.send(item).await;
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
