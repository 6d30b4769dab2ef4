//! The side of whoever drives a workspace.

mod connect;
mod files;
mod session;
mod setup;

use std::time::Duration;

use futures::StreamExt;
use futures::stream::{BoxStream, unfold};
use jiff::Timestamp;
use kled_core::provider::{AgentStatus, ByteStream, Command, ExecSession, Usage};
use kled_core::workspace::Source;
use kled_core::{Error, ErrorKind, Result, Secret};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};

pub use setup::{SetupOptions, SetupProgress, SetupSummary};

use super::Token;
use super::protocol::messages::agent_client::AgentClient as Calls;
use super::protocol::messages::{self, ShutdownRequest, StatusRequest, StatusResponse, WatchRequest};
use super::protocol::{broken_protocol, error_of};
use super::transport::{self, Channel, Heartbeat};

/// Drives one workspace over one connection, which any number of calls share. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct AgentClient {
    calls: Calls<InterceptedService<Channel, Authentication>>,
    channel: Channel,
}

/// Says the token with every call.
#[derive(Clone)]
struct Authentication(MetadataValue<Ascii>);

impl std::fmt::Debug for Authentication {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Authentication([redacted])")
    }
}

impl Interceptor for Authentication {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// A login for a repository, used for one call and kept nowhere.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The user.
    pub username: String,
    /// The password or token.
    pub password: Secret,
}

/// What was checked out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedOut {
    /// The full identity of the commit.
    pub commit: String,
    /// Where commands find the files.
    pub path: String,
}

impl AgentClient {
    /// Shakes hands with the agent at the other end of `stream`. Whether the token is right is seen by the first call.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when nobody answers there in HTTP/2.
    pub async fn connect<S>(stream: S, token: &Token) -> Result<Self>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self::over(stream, token, Heartbeat::None).await
    }

    /// The same over a stream that holds at least `CONNECTION_WINDOW` in each direction, whose end nobody tells.
    #[cfg(any(feature = "kubernetes", feature = "local-container"))]
    pub(crate) async fn connect_far<S>(stream: S, token: &Token) -> Result<Self>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self::over(stream, token, Heartbeat::Regular).await
    }

    async fn over<S>(stream: S, token: &Token, heartbeat: Heartbeat) -> Result<Self>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let value = format!("Bearer {}", token.expose()).parse::<MetadataValue<Ascii>>();
        let mut value =
            value.map_err(|_| Error::new(ErrorKind::InvalidInput, "malformed token of a workspace"))?;
        value.set_sensitive(true);
        let channel = transport::connect(stream, heartbeat).await?;
        let service = InterceptedService::new(channel.clone(), Authentication(value));
        let origin = http::Uri::from_static("http://kled.agent");
        Ok(Self { calls: Calls::with_origin(service, origin), channel })
    }

    /// True when the connection has ended: no further call can succeed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.channel.is_closed()
    }

    /// What goes on in the workspace.
    ///
    /// # Errors
    /// `Unavailable` when the connection is lost, `PermissionDenied` for a wrong token.
    pub async fn status(&self) -> Result<AgentStatus> {
        let answer = self.calls.clone().status(StatusRequest {}).await.map_err(|status| error_of(&status))?;
        agent_status(answer.into_inner())
    }

    /// What goes on in the workspace, at once, then whenever a command or connection begins or ends there, and at least
    /// in every `interval`. The last item is the error that ended it, also when the workspace itself has ended.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub async fn watch(&self, interval: Duration) -> Result<BoxStream<'static, Result<AgentStatus>>> {
        let interval_milliseconds = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        let answers = self.calls.clone().watch(WatchRequest { interval_milliseconds }).await;
        let answers = answers.map_err(|status| error_of(&status))?.into_inner();
        let statuses = unfold(Some(answers), |answers| async {
            let mut answers = answers?;
            match answers.message().await {
                Ok(Some(answer)) => Some((agent_status(answer), Some(answers))),
                Ok(None) => Some((Err(super::protocol::lost()), None)),
                Err(status) => Some((Err(error_of(&status)), None)),
            }
        });
        Ok(statuses.boxed())
    }

    /// Starts a command.
    ///
    /// # Errors
    /// `CommandNotFound`, `InvalidInput`, `PermissionDenied`, `Unavailable`.
    pub async fn exec(&self, command: Command) -> Result<ExecSession> {
        session::start(self.calls.clone(), command).await
    }

    /// Ends all commands, then the agent. Returns when no command is left.
    ///
    /// # Errors
    /// `Unavailable` when the connection is lost before.
    pub async fn shut_down(&self, grace: Duration) -> Result<()> {
        let grace_milliseconds = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let answer = self.calls.clone().shutdown(ShutdownRequest { grace_milliseconds }).await;
        answer.map(drop).map_err(|status| error_of(&status))
    }

    /// Connects to a TCP port on which something in the workspace listens.
    ///
    /// # Errors
    /// `Unavailable` when nothing listens there, or the connection is lost.
    pub async fn connect_port(&self, port: u16) -> Result<ByteStream> {
        connect::connect(self.calls.clone(), port).await
    }

    /// Unpacks a tar archive below a folder of the workspace, all of it or nothing. Answers how many bytes it had.
    ///
    /// # Errors
    /// `InvalidInput` (no archive), `PermissionDenied`, `StorageFull`, `Unavailable`.
    pub async fn upload<R>(&self, folder: &str, archive: R) -> Result<u64>
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        files::upload(self.calls.clone(), folder, archive).await
    }

    /// Packs a file or folder of the workspace as a tar archive. The reader ends without an error only when all of it
    /// arrived and its digest is right.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`, `Unavailable`.
    pub async fn download(&self, path: &str) -> Result<impl AsyncRead + Send + Unpin + 'static> {
        files::download(self.calls.clone(), path).await
    }

    /// Checks a repository out in the workspace, from there. Dropping the future ends it.
    ///
    /// # Errors
    /// `RepositoryNotFound`, `RevisionNotFound`, `Unauthenticated`, `StorageFull`, `Unsupported` (no git), `Unavailable`.
    pub async fn checkout(
        &self,
        source: &Source,
        credential: Option<&Credential>,
        mut progress: impl FnMut(&str) + Send,
    ) -> Result<CheckedOut> {
        let source = serde_json::to_string(source).map_err(|cause| {
            Error::new(ErrorKind::Internal, "the source cannot be written").because(cause)
        })?;
        let credential = credential.map(|credential| messages::Credential {
            username: credential.username.clone(),
            password: credential.password.expose().to_owned(),
        });
        let request = messages::CheckoutRequest { source, credential };
        let answers = self.calls.clone().checkout(request).await.map_err(|status| error_of(&status))?;
        let mut answers = answers.into_inner();
        loop {
            let answer = answers.message().await.map_err(|status| error_of(&status))?;
            match answer.ok_or_else(super::protocol::lost)?.message {
                Some(messages::checkout_response::Message::Progress(line)) => progress(&line),
                Some(messages::checkout_response::Message::Done(done)) => {
                    return Ok(CheckedOut { commit: done.commit, path: done.path });
                }
                None => return Err(broken_protocol()),
            }
        }
    }
}

impl AgentClient {
    /// Carries out what the project asks for: `devcontainer.json` or `.kled.yaml`. What is done already is not done
    /// again, so it can be called as often as the workspace is created or started. It takes as long as the project's commands
    /// take; dropping the future ends it.
    ///
    /// # Errors
    /// `InvalidInput` (a malformed file), `SetupFailed` (a command of the project), `CommandNotFound`, those of a checkout
    /// for dotfiles, `StorageFull`, `Unavailable`. The project's environment is in force nevertheless, unless its file
    /// is malformed.
    pub async fn set_up(
        &self,
        options: &SetupOptions,
        progress: impl FnMut(SetupProgress<'_>) + Send,
    ) -> Result<SetupSummary> {
        setup::set_up(self.calls.clone(), options, progress).await
    }
}

fn agent_status(answer: StatusResponse) -> Result<AgentStatus> {
    let time = |text: &str| text.parse::<Timestamp>().map_err(|_| broken_protocol());
    let usage = answer.usage.unwrap_or_default();
    Ok(AgentStatus {
        last_activity: time(&answer.last_activity)?,
        started: time(&answer.started)?,
        version: answer.version,
        commands: answer.commands,
        connections: answer.connections,
        idle: answer.idle_milliseconds.map(Duration::from_millis),
        usage: Usage {
            memory_bytes: usage.memory_bytes,
            memory_limit_bytes: usage.memory_limit_bytes,
            cpu: usage.cpu_microseconds.map(Duration::from_micros),
            processes: usage.processes,
            disk_used_bytes: usage.disk_used_bytes,
            disk_total_bytes: usage.disk_total_bytes,
        },
    })
}

/// The calls of a connection.
type Client = Calls<InterceptedService<Channel, Authentication>>;
