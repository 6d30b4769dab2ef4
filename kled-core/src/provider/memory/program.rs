//! The built-in programs of a workspace in memory.
//!
//! Nothing is spawned: a program is a future that reads and writes pipes, and whoever reads, writes or waits drives it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio_util::sync::CancellationToken;

use super::backend::{MemoryBackend, Record};
use crate::provider::{
    Command, CommandControl, ExecSession, ExitStatus, Signal, StandardInput, TerminalSize,
};
use crate::workspace::Workspace;
use crate::{Error, ErrorKind, Result, WorkspaceId, WorkspaceName};

/// What a pipe of Linux holds.
const PIPE_BYTES: usize = 64 << 10;

/// The most that one file takes: 64 MiB.
const FILE_BYTES_MAX: usize = 64 << 20;

/// Where commands find the files of the workspace.
const CHECKOUT: &str = "/workspace";

/// What a command finds around it.
pub(super) struct Surroundings {
    backend: MemoryBackend,
    name: WorkspaceName,
    id: WorkspaceId,
    environment: BTreeMap<String, String>,
    directory: String,
}

impl Surroundings {
    pub(super) fn new(
        backend: &MemoryBackend,
        workspace: &Workspace,
        environment: BTreeMap<String, String>,
    ) -> Self {
        let (name, id) = (workspace.name.clone(), workspace.id);
        Self { backend: backend.clone(), name, id, environment, directory: CHECKOUT.into() }
    }

    fn enter(&mut self, path: &str) -> Result<()> {
        let directory = resolved(CHECKOUT, path);
        let inside = format!("{directory}/");
        let has_files = |record: &Record| record.files.keys().any(|file| file.starts_with(&inside));
        if directory != CHECKOUT && !self.backend.read(&self.name, self.id, has_files).unwrap_or_default() {
            return Err(Error::new(ErrorKind::InvalidInput, "the working directory does not exist")
                .during("exec")
                .with("path", format!("{path:?}")));
        }
        self.directory = directory;
        Ok(())
    }

    fn read_at(&self, path: &str, offset: usize) -> Option<Vec<u8>> {
        let path = resolved(&self.directory, path);
        let piece = |bytes: &Vec<u8>| {
            let end = bytes.len().min(offset.saturating_add(PIPE_BYTES));
            bytes.get(offset..end).unwrap_or_default().to_vec()
        };
        self.backend.read(&self.name, self.id, |record| record.files.get(&path).map(piece)).flatten()
    }

    /// Empties the file, then appends each of the pieces that follow.
    fn write(&self, path: &str, bytes: Option<&[u8]>) -> Result<(), &'static str> {
        let path = resolved(&self.directory, path);
        let written = self.backend.change(&self.name, self.id, |record| {
            let file = record.files.entry(path).or_default();
            match bytes {
                None => file.clear(),
                Some(bytes) if file.len() + bytes.len() > FILE_BYTES_MAX => {
                    return Err("no space left on device");
                }
                Some(bytes) => file.extend_from_slice(bytes),
            }
            Ok(())
        });
        written.unwrap_or(Err("stale file handle"))
    }
}

/// An absolute path without `.` and `..`.
fn resolved(directory: &str, path: &str) -> String {
    let base = if path.starts_with('/') { "" } else { directory };
    let mut parts: Vec<&str> = Vec::new();
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

/// A program with its arguments.
enum Program {
    Echo(Vec<String>),
    Cat(Vec<String>),
    Tee(Vec<String>),
    Head(u64, Option<String>),
    Environment,
    Directory,
    Sleep(Duration),
    Exit(i32),
    /// It was called wrongly, and this is what it says.
    Misused(String),
}

impl Program {
    fn parse(arguments: &[String]) -> Result<Self> {
        let Some((program, arguments)) = arguments.split_first() else {
            return Err(Error::new(ErrorKind::InvalidInput, "the command is empty").during("exec"));
        };
        let misused = |reason: &str| Self::Misused(format!("{program}: {reason}\n"));
        Ok(match (program.as_str(), arguments) {
            ("echo", words) => Self::Echo(words.to_vec()),
            ("cat", files) => Self::Cat(files.to_vec()),
            ("tee", files) => Self::Tee(files.to_vec()),
            ("env", []) => Self::Environment,
            ("pwd", []) => Self::Directory,
            ("true", _) => Self::Exit(0),
            ("false", _) => Self::Exit(1),
            ("sleep", [seconds]) => {
                match seconds.parse().ok().and_then(|text| Duration::try_from_secs_f64(text).ok()) {
                    Some(duration) => Self::Sleep(duration),
                    None => misused("invalid time interval"),
                }
            }
            ("head", [option, count, files @ ..]) if option == "-c" && files.len() <= 1 => {
                match count.parse() {
                    Ok(count) => Self::Head(count, files.first().cloned()),
                    Err(_) => misused("invalid number of bytes"),
                }
            }
            ("env" | "pwd" | "sleep" | "head", _) => misused("not understood by the in-memory provider"),
            _ => {
                return Err(Error::new(ErrorKind::CommandNotFound, "the command does not exist")
                    .during("exec")
                    .with("command", format!("{program:?}")));
            }
        })
    }
}

/// The other ends of a command's three streams.
struct Pipes {
    stdin: Option<DuplexStream>,
    stdout: DuplexStream,
    stderr: DuplexStream,
}

impl Pipes {
    /// The next bytes of a file or of standard input; empty at the end.
    async fn read(
        &mut self,
        surroundings: &Surroundings,
        file: Option<&str>,
        offset: usize,
    ) -> std::io::Result<Vec<u8>> {
        match file {
            Some("/dev/zero") => Ok(vec![0; PIPE_BYTES]),
            Some(path) => surroundings.read_at(path, offset).ok_or(std::io::ErrorKind::NotFound.into()),
            None => {
                let Some(stdin) = &mut self.stdin else { return Ok(Vec::new()) };
                let mut bytes = Vec::with_capacity(PIPE_BYTES);
                stdin.read_buf(&mut bytes).await?;
                Ok(bytes)
            }
        }
    }

    /// Copies a file or standard input to standard output, `limit` bytes at most.
    async fn copy(
        &mut self,
        surroundings: &Surroundings,
        file: Option<&str>,
        limit: u64,
    ) -> std::io::Result<()> {
        let mut copied = 0_usize;
        loop {
            let left = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(copied);
            if left == 0 {
                return Ok(());
            }
            let bytes = self.read(surroundings, file, copied).await?;
            if bytes.is_empty() {
                return Ok(());
            }
            let bytes = &bytes[..bytes.len().min(left)];
            self.stdout.write_all(bytes).await?;
            copied += bytes.len();
        }
    }

    async fn complain(&mut self, message: &str) -> i32 {
        // Nobody reads: then nobody misses it.
        let _closed = self.stderr.write_all(message.as_bytes()).await;
        1
    }
}

async fn run(program: Program, surroundings: Surroundings, mut pipes: Pipes) -> i32 {
    let result = match program {
        Program::Echo(words) => pipes.stdout.write_all(format!("{}\n", words.join(" ")).as_bytes()).await,
        Program::Directory => {
            pipes.stdout.write_all(format!("{}\n", surroundings.directory).as_bytes()).await
        }
        Program::Environment => {
            let line = |(name, value): (&String, &String)| format!("{name}={value}\n");
            let lines: String = surroundings.environment.iter().map(line).collect();
            pipes.stdout.write_all(lines.as_bytes()).await
        }
        Program::Cat(files) => return concatenate(&files, &surroundings, &mut pipes).await,
        Program::Tee(files) => return tee(&files, &surroundings, &mut pipes).await,
        Program::Head(count, file) => pipes.copy(&surroundings, file.as_deref(), count).await,
        Program::Sleep(duration) => {
            tokio::time::sleep(duration).await;
            Ok(())
        }
        Program::Exit(code) => return code,
        Program::Misused(message) => return pipes.complain(&message).await,
    };
    match result {
        Ok(()) => 0,
        Err(cause) => pipes.complain(&format!("{cause}\n")).await,
    }
}

async fn concatenate(files: &[String], surroundings: &Surroundings, pipes: &mut Pipes) -> i32 {
    if files.is_empty() {
        return i32::from(pipes.copy(surroundings, None, u64::MAX).await.is_err());
    }
    let mut code = 0;
    for file in files {
        let file_or_stdin = (file != "-").then_some(file.as_str());
        if let Err(cause) = pipes.copy(surroundings, file_or_stdin, u64::MAX).await {
            code = pipes.complain(&format!("cat: {file}: {cause}\n")).await;
        }
    }
    code
}

async fn tee(files: &[String], surroundings: &Surroundings, pipes: &mut Pipes) -> i32 {
    let mut piece: Option<Vec<u8>> = None;
    loop {
        for file in files {
            if let Err(reason) = surroundings.write(file, piece.as_deref()) {
                return pipes.complain(&format!("tee: {file}: {reason}\n")).await;
            }
        }
        match pipes.read(surroundings, None, 0).await {
            Ok(bytes) if bytes.is_empty() => return 0,
            Ok(bytes) if pipes.stdout.write_all(&bytes).await.is_ok() => piece = Some(bytes),
            _ => return 1,
        }
    }
}

type Running = Shared<BoxFuture<'static, ExitStatus>>;

/// Starts a command in the workspace whose commands end with `run`.
pub(super) fn start(
    command: &Command,
    mut surroundings: Surroundings,
    run_token: &CancellationToken,
) -> Result<ExecSession> {
    let program = Program::parse(&command.arguments)?;
    if let Some(path) = &command.working_directory {
        surroundings.enter(path)?;
    }
    let (stdout, program_stdout) = tokio::io::duplex(PIPE_BYTES);
    let (stderr, program_stderr) = tokio::io::duplex(PIPE_BYTES);
    let (stdin, program_stdin) = match command.stdin {
        StandardInput::Empty => (None, None),
        StandardInput::Piped => Some(tokio::io::duplex(PIPE_BYTES)).unzip(),
    };
    let pipes = Pipes { stdin: program_stdin, stdout: program_stdout, stderr: program_stderr };
    let killed = run_token.child_token();
    let running: Running = {
        let killed = killed.clone();
        let program = async move { killed.run_until_cancelled(run(program, surroundings, pipes)).await };
        let status =
            |code: Option<i32>| code.map_or(ExitStatus::Signaled(Signal::Kill.number()), ExitStatus::Exited);
        program.map(status).boxed().shared()
    };
    let driven = |stream| Driven { running: Some(running.clone()), stream };
    let (stdout, stderr) = (Box::pin(driven(stdout)), Box::pin(driven(stderr)));
    let stdin = stdin.map(|stdin| Box::pin(driven(stdin)) as Pin<Box<dyn AsyncWrite + Send>>);
    // The session owns the guard through `exit`, so that dropping it ends the program whoever holds its streams.
    let guard = killed.drop_guard();
    let exit = async move {
        let status = running.await;
        drop(guard);
        Ok(status)
    };
    Ok(ExecSession::new(stdin, stdout, stderr, Box::new(NoControl), exit.boxed()))
}

/// One end of a pipe that drives the program at the other end.
struct Driven {
    running: Option<Running>,
    stream: DuplexStream,
}

impl Driven {
    fn drive(&mut self, context: &mut Context<'_>) {
        if let Some(running) = &mut self.running
            && running.poll_unpin(context).is_ready()
        {
            self.running = None;
        }
    }
}

impl AsyncRead for Driven {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.drive(context);
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Driven {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.drive(context);
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.drive(context);
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.drive(context);
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Built-in programs have neither terminals nor signals.
#[derive(Debug)]
struct NoControl;

#[async_trait]
impl CommandControl for NoControl {
    async fn resize(&self, _: TerminalSize) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "commands in memory have no terminal").during("exec"))
    }

    async fn signal(&self, _: Signal) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "commands in memory take no signals").during("exec"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_cannot_leave_the_root() {
        for (path, expected) in [
            ("a", "/workspace/a"),
            ("./a/../b", "/workspace/b"),
            ("/a//b/", "/a/b"),
            ("../../../a", "/a"),
            ("", "/workspace"),
        ] {
            assert_eq!(resolved(CHECKOUT, path), expected, "{path:?}");
        }
    }

    #[test]
    fn a_program_that_is_misused_is_started_and_says_so() {
        for arguments in
            [vec!["sleep", "soon"], vec!["head", "-c", "many"], vec!["sleep"], vec!["head", "-n", "1"]]
        {
            let arguments: Vec<_> = arguments.into_iter().map(String::from).collect();
            assert!(matches!(Program::parse(&arguments), Ok(Program::Misused(_))), "{arguments:?}");
        }
    }
}
