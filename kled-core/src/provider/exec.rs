//! Commands: what to run, and the session of a running one.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{Error, ErrorKind, Result};

/// Environment variables. `Debug` shows the names only, since values may be secrets.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Variables(pub BTreeMap<String, String>);

impl fmt::Debug for Variables {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

impl Default for TerminalSize {
    fn default() -> Self {
        Self { rows: 24, columns: 80 }
    }
}

/// Where a command's standard input comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StandardInput {
    /// It is at its end from the start.
    #[default]
    Empty,
    /// [`ExecSession::stdin`].
    Piped,
}

/// A command as it travels to where it is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Command {
    /// The program and its arguments. No shell reads them.
    pub arguments: Vec<String>,
    /// Where it is run; relative to the checkout, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<String>,
    /// Added to the environment of the workspace.
    #[serde(default)]
    pub environment: Variables,
    /// Its standard input.
    #[serde(default)]
    pub stdin: StandardInput,
    /// A terminal of this size instead of three streams; standard error then arrives in standard output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
    /// It outlives the session; its output goes to the workspace's log.
    #[serde(default)]
    pub detached: bool,
}

/// A command to run, and how long to wait for its start.
///
/// ```
/// use kled_core::provider::ExecRequest;
///
/// let request = ExecRequest::new(["cargo", "test"]).working_directory("web").environment("RUST_LOG", "info");
/// assert_eq!(request.command.arguments, ["cargo", "test"]);
/// ```
#[derive(Clone, Debug)]
pub struct ExecRequest {
    /// What to run.
    pub command: Command,
    /// Until it is started; a running command has no limit. Default: 30 seconds.
    pub start_timeout: Duration,
}

impl ExecRequest {
    /// A program with its arguments; standard input is empty.
    pub fn new<I>(arguments: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self {
            command: Command {
                arguments: arguments.into_iter().map(Into::into).collect(),
                working_directory: None,
                environment: Variables::default(),
                stdin: StandardInput::Empty,
                terminal: None,
                detached: false,
            },
            start_timeout: Duration::from_secs(30),
        }
    }

    /// Runs it in this folder, relative to the checkout or absolute.
    #[must_use]
    pub fn working_directory(mut self, path: impl Into<String>) -> Self {
        self.command.working_directory = Some(path.into());
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn environment(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.command.environment.0.insert(name.into(), value.into());
        self
    }

    /// Opens [`ExecSession::stdin`].
    #[must_use]
    pub fn piped_stdin(mut self) -> Self {
        self.command.stdin = StandardInput::Piped;
        self
    }

    /// Attaches a terminal, with standard input.
    #[must_use]
    pub fn terminal(mut self, size: TerminalSize) -> Self {
        self.command.terminal = Some(size);
        self.piped_stdin()
    }

    /// Lets it outlive the session. Requires `capabilities().commands.detach`.
    #[must_use]
    pub fn detached(mut self) -> Self {
        self.command.detached = true;
        self
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ExitStatus {
    /// It exited with this code.
    Exited(i32),
    /// A signal of this number ended it.
    Signaled(i32),
}

impl ExitStatus {
    /// True for exit code 0.
    #[must_use]
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Exited(0))
    }

    /// The exit code as a shell gives it: 128 plus the signal for an end by a signal.
    #[must_use]
    pub const fn code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled(signal) => 128 + signal,
        }
    }
}

/// A signal that can be sent to a command, by its POSIX name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[non_exhaustive]
pub enum Signal {
    /// Hang up.
    Hup,
    /// Interrupt, as by Ctrl-C.
    Int,
    /// Quit.
    Quit,
    /// Terminate.
    Term,
    /// Kill.
    Kill,
}

impl Signal {
    /// The number that POSIX gives it.
    #[must_use]
    pub const fn number(self) -> i32 {
        match self {
            Self::Hup => 1,
            Self::Int => 2,
            Self::Quit => 3,
            Self::Kill => 9,
            Self::Term => 15,
        }
    }
}

/// What can be done to a running command besides its streams. Backends implement it.
#[async_trait]
pub trait CommandControl: fmt::Debug + Send + Sync {
    /// Gives the terminal a new size.
    async fn resize(&self, size: TerminalSize) -> Result<()>;

    /// Sends a signal to the command's process group.
    async fn signal(&self, signal: Signal) -> Result<()>;
}

type Reader = Pin<Box<dyn AsyncRead + Send>>;
type Writer = Pin<Box<dyn AsyncWrite + Send>>;

/// A running command.
///
/// Both outputs have to be read, as with pipes: a command whose output nobody takes stands still. Dropping the session
/// ends the command and all that it started, unless it is detached.
pub struct ExecSession {
    /// Its standard input, when it was asked for. Shut it down to let the command see the end.
    pub stdin: Option<Writer>,
    /// Its standard output, or its terminal.
    pub stdout: Reader,
    /// Its standard error. Empty with a terminal.
    pub stderr: Reader,
    control: Arc<dyn CommandControl>,
    exit: futures::future::Fuse<BoxFuture<'static, Result<ExitStatus>>>,
    status: Option<ExitStatus>,
}

impl ExecSession {
    /// For backends: a session from its parts. Dropping `exit` must end the command.
    pub fn new(
        stdin: Option<Writer>,
        stdout: Reader,
        stderr: Reader,
        control: Box<dyn CommandControl>,
        exit: BoxFuture<'static, Result<ExitStatus>>,
    ) -> Self {
        Self { stdin, stdout, stderr, control: Arc::from(control), exit: exit.fuse(), status: None }
    }

    /// Waits for the end. May be dropped and called again.
    ///
    /// # Errors
    /// When the connection to the command is lost, so that its end is not known.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let status = (&mut self.exit).await?;
        self.status = Some(status);
        Ok(status)
    }

    /// What resizes and signals the command, for a task that does so while another one reads and waits.
    #[must_use]
    pub fn control(&self) -> Arc<dyn CommandControl> {
        Arc::clone(&self.control)
    }

    /// Gives the terminal a new size.
    ///
    /// # Errors
    /// When there is no terminal or the command has ended.
    pub fn resize(&self, size: TerminalSize) -> impl Future<Output = Result<()>> + Send + use<> {
        // Not an `async fn`: that would borrow the session, whose streams no two tasks may share.
        let control = self.control();
        async move { control.resize(size).await }
    }

    /// Sends a signal to the command's process group.
    ///
    /// # Errors
    /// When the command has ended or the backend has no signals.
    pub fn signal(&self, signal: Signal) -> impl Future<Output = Result<()>> + Send + use<> {
        let control = self.control();
        async move { control.signal(signal).await }
    }

    /// Reads both outputs to their ends and waits for the end of the command.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when an output is longer than `limit` bytes; what [`wait`](Self::wait) answers.
    pub async fn output(mut self, limit: usize) -> Result<Output> {
        if let Some(mut stdin) = self.stdin.take() {
            // A command that has closed its input is no error.
            let _closed = stdin.shutdown().await;
        }
        let stdout = read_limited(&mut self.stdout, limit);
        let stderr = read_limited(&mut self.stderr, limit);
        let (stdout, stderr) = futures::future::try_join(stdout, stderr).await?;
        let status = self.wait().await?;
        Ok(Output { status, stdout, stderr })
    }
}

async fn read_limited(reader: &mut Reader, limit: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let take = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(take).read_to_end(&mut bytes).await.map_err(|cause| {
        Error::new(ErrorKind::Unavailable, "the command's output was cut off").during("exec").because(cause)
    })?;
    if bytes.len() > limit {
        return Err(Error::new(ErrorKind::InvalidInput, "the command's output is longer than allowed")
            .during("exec")
            .with("limit", limit)
            .hint("read the session's streams instead"));
    }
    Ok(bytes)
}

impl fmt::Debug for ExecSession {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ExecSession")
            .field("control", &self.control)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// What a command wrote and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// All of its standard error.
    pub stderr: Vec<u8>,
}
