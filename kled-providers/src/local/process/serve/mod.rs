//! The process inside the sandbox: it runs the commands of one workspace and answers on a socket.
//!
//! It gets the listening socket as its standard input, its configuration in one environment variable, and tells the
//! supervisor outside what happens as lines of JSON on its standard output.

mod command;
mod commands;
mod detached;

use std::os::fd::AsFd;
use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use kled_core::agent::{AgentMessage, ClientMessage, Failure, FrameCodec, Token};
use kled_core::provider::{LogLine, LogStream, Variables};
use kled_core::workspace::StopReason;
use kled_core::{Error, ErrorKind, Result, WorkspaceId, WorkspaceName};
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::codec::Framed;

use self::commands::Commands;
use super::sandbox::{Sandbox, View};

/// The environment variable that holds the [`Configuration`]. Commands do not get it.
pub(crate) const CONFIGURATION: &str = "KLED_SERVE";

/// The environment variable by which processes of a workspace are found again after a crash.
pub(crate) const WORKSPACE_ID: &str = "KLED_WORKSPACE_ID";

/// How long a client may take to say what it wants.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// Between two attempts to accept a connection when that fails.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How many connections are served at once; more wait in the socket's queue.
const CONNECTIONS_MAX: usize = 256;

/// What the process inside has to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Configuration {
    pub(crate) name: WorkspaceName,
    pub(crate) id: WorkspaceId,
    pub(crate) sandbox: Sandbox,
    pub(crate) view: View,
    /// The folder in which commands begin: the checkout, or the sub-path of it.
    pub(crate) working_directory: PathBuf,
    /// What every command has in its environment.
    pub(crate) environment: Variables,
    pub(crate) idle_timeout: Option<Duration>,
    /// What a client has to say first.
    pub(crate) token: Token,
}

/// What the process inside tells the supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "report")]
pub(crate) enum Report {
    /// The socket is served.
    Ready,
    /// The sandbox could not be entered.
    Failed(Failure),
    /// A line for the log.
    Log(LogLine),
    /// It ends, and why.
    Ending {
        #[serde(flatten)]
        reason: StopReason,
    },
}

type Connection = Framed<UnixStream, FrameCodec<ClientMessage>>;

/// Serves until it is told to end. Returns the exit code of the process.
pub(crate) fn main() -> u8 {
    match serve() {
        Ok(()) => 0,
        Err(error) => {
            report(&Report::Failed(Failure { kind: error.kind(), message: error.to_string() }));
            1
        }
    }
}

fn serve() -> Result<()> {
    let internal =
        |cause: std::io::Error| Error::new(ErrorKind::Internal, "cannot serve the workspace").because(cause);
    let text = std::env::var(CONFIGURATION)
        .map_err(|cause| Error::new(ErrorKind::Internal, "the configuration is missing").because(cause))?;
    let configuration: Configuration = serde_json::from_str(&text)
        .map_err(|cause| Error::new(ErrorKind::Internal, "malformed configuration").because(cause))?;
    let listener = StdListener::from(std::io::stdin().as_fd().try_clone_to_owned().map_err(internal)?);
    listener.set_nonblocking(true).map_err(internal)?;
    stay_with_parent(configuration.sandbox).map_err(internal)?;
    // Before the runtime: Landlock holds for the calling thread and what it starts.
    configuration.sandbox.enter(&configuration.view)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(internal)?;
    runtime.block_on(run(configuration, listener)).map_err(internal)
}

/// Where the sandbox has no process numbers of its own, orphans come here instead of escaping to the machine's first
/// process, and the supervisor's end is this one's.
fn stay_with_parent(sandbox: Sandbox) -> std::io::Result<()> {
    if sandbox.has_own_processes() {
        return Ok(());
    }
    let parent = rustix::process::getppid();
    #[cfg(target_os = "linux")]
    {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    }
    // The parent may have ended before the signal was asked for.
    if rustix::process::getppid() == parent {
        Ok(())
    } else {
        Err(std::io::Error::other("the supervisor has ended"))
    }
}

async fn run(configuration: Configuration, listener: StdListener) -> std::io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut child_ended = signal(SignalKind::child())?;
    let commands = Arc::new(Commands::new(configuration));
    let places = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    report(&Report::Ready);
    let reason = loop {
        tokio::select! {
            accepted = accept(&listener, &places) => if let Some((stream, place)) = accepted {
                let commands = Arc::clone(&commands);
                tokio::spawn(async move {
                    answer(stream, &commands).await;
                    drop(place);
                });
            },
            reason = commands.ending() => break reason,
            _ = terminate.recv() => break StopReason::Requested,
            _ = child_ended.recv() => commands.reap_orphans(),
        }
    };
    if reason == StopReason::Idle {
        commands::log(LogStream::Supervisor, None, "idle for as long as its idle timeout: stopping".into());
    }
    // Who asked for the end has waited for this already; then there is nothing left to end.
    commands.end_all(Duration::from_secs(1)).await;
    report(&Report::Ending { reason });
    Ok(())
}

async fn accept(
    listener: &UnixListener,
    places: &Arc<tokio::sync::Semaphore>,
) -> Option<(UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(_) => {
            // Out of descriptors, say: asked again at once it would fail again.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn answer(stream: UnixStream, commands: &Arc<Commands>) {
    let mut connection = Framed::new(stream, FrameCodec::new());
    let asked = async { Some((connection.next().await?.ok()?, connection.next().await?.ok()?)) };
    let Ok(Some((first, request))) = tokio::time::timeout(REQUEST_LIMIT, asked).await else { return };
    let known = ClientMessage::Authenticate(commands.configuration.token.clone());
    let result = match request {
        _ if first != known => {
            Err(Error::new(ErrorKind::PermissionDenied, "the token of the workspace is wrong"))
        }
        ClientMessage::Exec(command) if command.detached => detached::start(commands, &command),
        ClientMessage::Exec(command) => {
            command::run(commands, &command, connection).await;
            return;
        }
        ClientMessage::Status => Ok(AgentMessage::Status(commands.status())),
        ClientMessage::Shutdown { grace_milliseconds } => {
            commands.end_all(Duration::from_millis(grace_milliseconds)).await;
            // Answered before the end is announced, so that the client sees an answer and not a broken connection.
            let _client_gone = connection.send(AgentMessage::Status(commands.status())).await;
            commands.announce_end(StopReason::Requested);
            return;
        }
        _ => Err(Error::new(ErrorKind::Internal, "a request was expected")),
    };
    let message = result.unwrap_or_else(|error| {
        AgentMessage::Failed(Failure { kind: error.kind(), message: error.message().to_owned() })
    });
    let _client_gone = connection.send(message).await;
}

/// Tells the supervisor. When it is gone this process is about to end as well.
fn report(report: &Report) {
    use std::io::Write;
    let Ok(mut line) = serde_json::to_vec(report) else { return };
    line.push(b'\n');
    let mut output = std::io::stdout().lock();
    let _supervisor_gone = output.write_all(&line).and_then(|()| output.flush());
}
