//! A running command between the user's streams and the workspace: what `exec` and `shell` have in common.

use std::pin::Pin;
use std::time::Duration;

use futures::future::try_join;
use kled_core::provider::{ExecRequest, ExecSession, ExitStatus, Provider, Signal, TerminalSize};
use kled_core::{Error, ErrorKind, Result, WorkspaceName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{self, SignalKind};
use tokio::time::Instant;

use super::signals::{Signals, stream};
use crate::output::Failure;
use crate::surroundings::{Reader, Writer};
use crate::terminal::{self, RawMode};
use crate::{Context, Exit};

/// As large as a pipe's buffer on Linux: a larger one is never filled by one read.
const CHUNK: usize = 64 << 10;

/// Between the request to terminate and the end, where the command does not follow it.
const TERMINATION: Duration = Duration::from_secs(10);

/// The signal of a write that nobody reads.
const SIGPIPE: i32 = 13;

/// Attaches a terminal of the kind that the user has.
pub(super) fn with_terminal(request: ExecRequest, context: &Context, size: TerminalSize) -> ExecRequest {
    let kind = context.surroundings.variable("TERM").unwrap_or("xterm").to_owned();
    request.terminal(size).environment("TERM", kind)
}

/// Starts a command; an error has the exit code that `exec` documents.
pub(super) async fn start(
    provider: &dyn Provider,
    name: &WorkspaceName,
    request: ExecRequest,
    signals: &mut Option<Signals>,
) -> Result<ExecSession, Failure> {
    let started = tokio::select! {
        started = provider.exec(name, request) => started,
        signal = next_signal(signals) => return Err(Failure::Reported(Exit::of_signal(signal.number()))),
    };
    started.map_err(|error| {
        let exit = Exit::of_exec_error(&error);
        Failure::WithExit(error, exit)
    })
}

/// The signals of this process, where they are to be caught.
pub(super) fn signals(context: &Context) -> Result<Option<Signals>> {
    context.surroundings.catches_signals.then(Signals::listen).transpose()
}

/// Runs a command to its end.
pub(super) async fn run(
    context: &Context,
    provider: &dyn Provider,
    name: &WorkspaceName,
    request: ExecRequest,
) -> Result<Exit, Failure> {
    let terminal = request.command.terminal.is_some();
    let mut signals = signals(context)?;
    let session = start(provider, name, request, &mut signals).await?;
    let _raw = (terminal && context.surroundings.stdin.is_terminal()).then(RawMode::enter).transpose()?;
    let attached = Attached {
        session,
        signals,
        resizes: terminal.then(|| stream(SignalKind::window_change())).transpose()?,
        has_signals: provider.capabilities().commands.signals,
        asked_to_end: false,
        deadline: None,
    };
    attached.run(context).await
}

struct Attached {
    session: ExecSession,
    signals: Option<Signals>,
    resizes: Option<unix::Signal>,
    has_signals: bool,
    asked_to_end: bool,
    deadline: Option<Instant>,
}

impl Attached {
    async fn run(mut self, context: &Context) -> Result<Exit, Failure> {
        let surroundings = &context.surroundings;
        let stdin = self.session.stdin.take();
        let stdout = std::mem::replace(&mut self.session.stdout, Box::pin(tokio::io::empty()));
        let stderr = std::mem::replace(&mut self.session.stderr, Box::pin(tokio::io::empty()));
        let mut outputs = std::pin::pin!(try_join(
            pass_output(stdout, surroundings.stdout.writer()),
            pass_output(stderr, surroundings.stderr.writer()),
        ));
        let mut input = std::pin::pin!(async {
            if let Some(stdin) = stdin {
                pass_input(surroundings.stdin.reader(), stdin).await;
            }
        });
        let (mut status, mut outputs_end, mut input_end) = (None::<ExitStatus>, false, false);
        loop {
            if let (Some(status), true) = (status, outputs_end) {
                return Ok(Exit::of_command(status.code()));
            }
            tokio::select! {
                ended = &mut outputs, if !outputs_end => {
                    ended?;
                    outputs_end = true;
                }
                () = &mut input, if !input_end => input_end = true,
                ended = self.session.wait(), if status.is_none() => status = Some(ended?),
                signal = next_signal(&mut self.signals) => self.pass_signal(signal).await?,
                () = next_resize(&mut self.resizes) => self.resize().await,
                () = passed(self.deadline) => return Err(Failure::Reported(Exit::of_signal(Signal::Term.number()))),
            }
        }
    }

    /// The first signal is for the command. After a second one, or where the backend has no signals, dropping the
    /// session ends the command and all that it started.
    async fn pass_signal(&mut self, signal: Signal) -> Result<(), Failure> {
        let passed = !self.asked_to_end && self.has_signals && self.session.signal(signal).await.is_ok();
        if !passed {
            return Err(Failure::Reported(Exit::of_signal(signal.number())));
        }
        self.asked_to_end = true;
        // Who pressed Ctrl-C can press it again; who sent another signal may not be there any more.
        if signal != Signal::Int {
            self.deadline = Some(Instant::now() + TERMINATION);
        }
        Ok(())
    }

    async fn resize(&mut self) {
        if let Some(size) = terminal::size()
            && let Err(error) = self.session.resize(size).await
        {
            // The command may have ended meanwhile.
            tracing::debug!(%error, "the terminal was not resized");
        }
    }
}

/// The next signal; none where none are caught.
pub(super) async fn next_signal(signals: &mut Option<Signals>) -> Signal {
    match signals {
        Some(signals) => signals.next().await,
        None => std::future::pending().await,
    }
}

async fn next_resize(resizes: &mut Option<unix::Signal>) {
    let resized = match resizes {
        Some(resizes) => resizes.recv().await,
        None => None,
    };
    if resized.is_none() {
        std::future::pending::<()>().await;
    }
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Passes bytes on as they come, unchanged.
async fn pass_output(mut from: Pin<Box<dyn AsyncRead + Send>>, mut to: Writer) -> Result<(), Failure> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = from.read(&mut buffer).await.map_err(|cause| {
            Error::new(ErrorKind::Unavailable, "the command's output was cut off")
                .during("exec")
                .because(cause)
        })?;
        if count == 0 {
            return Ok(());
        }
        let chunk = buffer.get(..count).unwrap_or_default();
        // Flushed each time: somebody may be waiting for a prompt without a line end.
        let written = async { to.write_all(chunk).await.and(to.flush().await) }.await;
        written.map_err(|cause| match Failure::of_output(cause) {
            // What a command in a pipe gets when its reader is gone.
            Failure::OutputClosed(_) => Failure::OutputClosed(Exit::of_signal(SIGPIPE)),
            other => other,
        })?;
    }
}

/// Passes standard input on to its end. A command that has closed its input, or whose input cannot be read any more,
/// sees the end; that is no failure of the command.
async fn pass_input(mut from: Reader, mut to: Pin<Box<dyn AsyncWrite + Send>>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        let chunk = buffer.get(..count).unwrap_or_default();
        if to.write_all(chunk).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _closed = to.shutdown().await;
}
