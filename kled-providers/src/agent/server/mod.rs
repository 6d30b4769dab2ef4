//! The side of the workspace: it runs commands, moves files, connects to ports and knows what is going on.

mod account;
mod call;
#[cfg(target_os = "linux")]
mod changes;
mod checkout;
mod command;
mod commands;
mod connect;
mod detached;
mod files;
mod setup;
mod usage;
mod watch;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;
use kled_core::provider::{LogLine, LogStream, Variables};
use kled_core::workspace::StopReason;
use kled_core::{Error, ErrorKind, WorkspaceId};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::net::Listener;
use tonic::{Request, Status};

use self::call::Calls;
use self::commands::Commands;
pub use self::setup::{has_setup, read_setup};
use super::Token;
use super::protocol::messages::agent_server::AgentServer;
use super::protocol::status_of;
use super::transport::{CONNECTION_WINDOW, FRAME_MAX, HEARTBEAT, HEARTBEAT_LIMIT, STREAM_WINDOW};

/// How many connections are served at once; more wait in the socket's queue.
const CONNECTIONS_MAX: usize = 256;

/// How many calls one connection may have at once.
const CALLS_MAX: u32 = 512;

/// Between two attempts to accept a connection when that fails.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long answers may take to be read when the workspace has ended.
const LAST_ANSWERS_LIMIT: Duration = Duration::from_secs(1);

/// The environment variable by which processes of a workspace are found again after a crash.
pub const WORKSPACE_ID: &str = "KLED_WORKSPACE_ID";

/// Takes the lines that the agent and detached commands write.
pub type Log = Arc<dyn Fn(LogLine) + Send + Sync>;

/// What an agent has to know.
#[derive(Clone)]
pub struct Configuration {
    /// The workspace.
    pub id: WorkspaceId,
    /// What a driver has to say.
    pub token: Token,
    /// Where the agent checks the repository out; absent where that is done from outside. It may be a mount point; what
    /// is in it belongs to the checkout. It needs a `state`.
    pub checkout: Option<PathBuf>,
    /// A folder for what the agents of the workspace have to remember. Without one each of them sets the project up anew.
    pub state: Option<PathBuf>,
    /// The folder in which commands begin: the checkout, or the sub-path of it.
    pub working_directory: PathBuf,
    /// What every command has in its environment.
    pub environment: Variables,
    /// Ends the workspace after so long without activity.
    pub idle_timeout: Option<Duration>,
    /// True where all processes that this one sees belong to the workspace: in a container or a sandbox with processes
    /// of its own. Else only those that descend from this one do.
    pub has_own_processes: bool,
    /// Whether drivers are asked now and then if they are still there: for connections whose end nobody tells. Their
    /// streams have to hold all that HTTP/2 lets the other end be ahead.
    pub drivers_are_far: bool,
    /// Where lines of the log go.
    pub log: Log,
}

impl fmt::Debug for Configuration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Configuration")
            .field("id", &self.id)
            .field("working_directory", &self.working_directory)
            .finish_non_exhaustive()
    }
}

/// The agent of one workspace.
#[derive(Clone, Debug)]
pub struct Agent(Arc<Commands>);

impl Agent {
    /// An agent that serves nobody yet.
    #[must_use]
    pub fn new(configuration: Configuration) -> Self {
        Self(Arc::new(Commands::new(configuration)))
    }

    /// Serves one driver until the connection or the workspace ends.
    pub async fn serve<S>(&self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let commands = Arc::clone(&self.0);
        let authenticate = move |request: Request<()>| authenticate(&commands, request);
        let calls = AgentServer::with_interceptor(Calls(Arc::clone(&self.0)), authenticate);
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_MAX)
            .keep_alive_interval(self.0.configuration.drivers_are_far.then_some(HEARTBEAT))
            .keep_alive_timeout(HEARTBEAT_LIMIT)
            .max_concurrent_streams(CALLS_MAX)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(calls));
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            // A broken connection ends the calls that it carried; there is nobody to tell.
            _broken = connection.as_mut() => {}
            () = self.0.ended_by_request() => {
                connection.as_mut().graceful_shutdown();
                let _late = tokio::time::timeout(LAST_ANSWERS_LIMIT, connection).await;
            }
        }
    }

    /// Serves whoever connects until the workspace ends: somebody asks for it, it is idle for too long, or the process
    /// is told to terminate, which leaves commands `grace` to end. Then nothing of the workspace runs any more.
    ///
    /// # Errors
    /// When the signals of the process cannot be heard.
    pub async fn run<L>(&self, listener: L, grace: Duration) -> io::Result<StopReason>
    where
        L: Listener,
        L::Io: Send + Unpin + 'static,
    {
        let terminate = signal(SignalKind::terminate())?;
        self.run_until(terminate, listener, grace).await
    }

    /// As [`run`](Self::run), for a caller that has listened for the signal from its own start: the first process of a
    /// container does not hear one that came before.
    pub(crate) async fn run_until<L>(
        &self,
        mut terminate: Signal,
        mut listener: L,
        grace: Duration,
    ) -> io::Result<StopReason>
    where
        L: Listener,
        L::Io: Send + Unpin + 'static,
    {
        let mut child_ended = signal(SignalKind::child())?;
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut changes = std::pin::pin!(self.follow_changes());
        let reason = loop {
            tokio::select! {
                accepted = accept(&mut listener, &places) => if let Some((stream, place)) = accepted {
                    let agent = self.clone();
                    tokio::spawn(async move {
                        agent.serve(stream).await;
                        drop(place);
                    });
                },
                reason = self.0.ending() => break reason,
                _ = terminate.recv() => break StopReason::Requested,
                _ = child_ended.recv() => self.0.reap_orphans(),
                () = changes.as_mut() => {}
            }
        };
        if reason == StopReason::Idle {
            self.log("idle for as long as its idle timeout: stopping");
        }
        // Who asked for the end has waited for this already; then there is nothing left to end.
        self.0.end_all(grace).await;
        self.0.announce_end(reason.clone());
        let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
        let _late = tokio::time::timeout(LAST_ANSWERS_LIMIT, places.acquire_many(all)).await;
        Ok(reason)
    }

    /// Ends the workspace as if somebody had asked for it.
    #[cfg(feature = "agent-program")]
    pub(crate) fn end(&self) {
        self.0.announce_end(StopReason::Requested);
    }

    /// Takes note of changes in the checkout that no command of this agent makes. Never ends.
    async fn follow_changes(&self) {
        #[cfg(target_os = "linux")]
        if let Some(folder) = &self.0.configuration.checkout {
            changes::follow(&self.0, folder.clone()).await;
        }
        std::future::pending().await
    }

    /// Writes a line of the agent itself to the log.
    pub fn log(&self, line: impl Into<String>) {
        self.0.log(LogStream::Supervisor, None, line.into());
    }
}

async fn accept<L: Listener>(
    listener: &mut L,
    places: &Arc<Semaphore>,
) -> Option<(L::Io, OwnedSemaphorePermit)> {
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

fn authenticate(commands: &Commands, request: Request<()>) -> Result<Request<()>, Status> {
    let given = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    if commands.configuration.token.is(given) {
        Ok(request)
    } else {
        Err(status_of(&Error::new(ErrorKind::PermissionDenied, "the token of the workspace is wrong")))
    }
}

/// A line of the log, now.
fn line(stream: LogStream, command: Option<String>, line: String) -> LogLine {
    LogLine { time: Timestamp::now(), stream, command, line }
}
