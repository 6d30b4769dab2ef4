//! Workspaces as containers of Docker or Podman.
//!
//! # What a workspace is made of
//!
//! | object | name | made when |
//! |---|---|---|
//! | volume | `kled-NAME` | first: it claims the name and holds the spec; it stays empty |
//! | volume | `kled-NAME-ATTEMPT` | the files, mounted at `/workspace` |
//! | container | `kled-NAME-ATTEMPT`, then `kled-NAME` | given its final name when it is complete |
//!
//! All carry the labels `kled.io/workspace`, `kled.io/id`, `kled.io/spec` and `app.kubernetes.io/managed-by=kled`, so
//! the engine is the only truth. Each attempt to create has a volume and a container of its own, and renaming the
//! container decides at the engine which attempt is the workspace: no lock has to be right for that.
//!
//! The repository is checked out on this machine, with the user's own git configuration, and unpacked in the volume
//! with the owner that the image's user is.
//!
//! # With the workspace agent
//!
//! A provider that is given [the agent's program](ContainerProviderBuilder::agent_program) makes containers whose first
//! process is [Kled's agent](crate::agent), under `/kled`. The image then needs nothing, not even a shell. The agent
//! is reached by `kled-agent connect`, run in the container through the engine, from any machine that may use the
//! engine; commands, copies and connections go over it, and what the project asks for (`devcontainer.json`, else
//! `.kled.yaml`) is carried out by it after the checkout and at each start.
//!
//! It ends an idle workspace, and one whose time to live is over. What is left of the latter, a stopped container and
//! its volumes, is removed by whoever looks at it next, on any machine: status, list, create, start, stop, exec. Until
//! then its files stay.
//!
//! A workspace keeps the agent that it was made with, and is reached by it whatever the provider was given; one that
//! was made without stays without. A condition `Agent` says which it is.
//!
//! # Limits
//!
//! - Disk limits are not kept, and events are not: a container engine has no record of them.
//! - Files below `/kled`, and all others outside of `/workspace`, are the container's: they survive a stop, and go with it.
//!
//! Without the agent:
//!
//! - Images need a POSIX `sh` and `sleep`, and commands pass through that `sh`: names of environment variables have
//!   letters, digits and `_` only.
//! - A command that a signal ended is seen as an exit with 128 plus the signal's number.
//! - Ending a command ends its session and everything that still has its environment. A process that has left both
//!   lives on until the workspace stops.
//! - There are no idle timeouts and times to live (a spec that asks for them is refused), no connections to ports, no
//!   copies, and no set-up of the project.

mod agent;
mod body;
mod builder;
mod create;
mod delete;
mod engine;
mod exec;
mod expiry;
mod lifecycle;
mod logs;
mod marks;
mod reach;
mod setup;
mod state;
mod under_way;
mod upload;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryFutureExt};
use jiff::Timestamp;
use kled_core::ports::SecretSource;
use kled_core::provider::{
    AgentStatus, ByteReader, ByteStream, Capabilities, ConnectRequest, CreateOptions, DeleteOptions,
    Deletion, DownloadRequest, Event, EventsOptions, ExecRequest, ExecSession, Faults, ListOptions, LogLine,
    LogsOptions, Progress, Provider, Severity, StartOptions, StatusOptions, StopOptions, UploadRequest,
};
use kled_core::workspace::{Operation, Workspace, WorkspaceSpec};
use kled_core::{Error, ErrorKind, ProviderName, Result, WorkspaceName};

pub use builder::ContainerProviderBuilder;
use engine::Engine;
use marks::Marks;
use under_way::UnderWay;

use crate::agent::Agents;
use crate::agent::delivery::AgentProgram;
use crate::personal::Personal;
use crate::within::within;

/// True when an engine is named in the environment or has one of the usual sockets.
pub(super) fn is_expected() -> bool {
    engine::default_address(|name| std::env::var(name).ok()).is_some()
}

/// A [`Provider`] whose workspaces are containers of Docker or Podman. See the [module](self).
///
/// ```no_run
/// use kled_core::WorkspaceName;
/// use kled_core::provider::ProviderExt;
/// use kled_core::workspace::WorkspaceSpec;
/// use kled_providers::local::container::ContainerProvider;
///
/// # async fn example() -> kled_core::Result<()> {
/// let provider = ContainerProvider::builder().build().await?;
/// let name = WorkspaceName::new("demo")?;
/// let spec = WorkspaceSpec::builder("https://github.com/org/app").image("debian:stable").memory("2Gi").build()?;
/// provider.create(&name, &spec).await?;
/// let output = provider.run(&name, ["ls"]).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ContainerProvider(Arc<Context>);

/// What every operation needs.
struct Context {
    name: ProviderName,
    capabilities: Capabilities,
    engine: Engine,
    under_way: UnderWay,
    default_image: Option<String>,
    faults: Faults,
    secrets: Arc<dyn SecretSource>,
    /// The first process of the workspaces that are made. Without it that is a shell.
    agent_program: Option<AgentProgram>,
    agents: Agents<Marks>,
    personal: Personal,
    /// When this machine was started, if the engine is on it.
    boot: Option<Timestamp>,
}

impl ContainerProvider {
    /// Begins a provider.
    #[must_use]
    pub fn builder() -> ContainerProviderBuilder {
        ContainerProviderBuilder::default()
    }

    /// Where its engine is.
    #[must_use]
    pub fn engine_address(&self) -> &str {
        &self.0.engine.address
    }
}

impl fmt::Debug for ContainerProvider {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ContainerProvider")
            .field("name", &self.0.name)
            .field("engine", &self.0.engine.address)
            .finish_non_exhaustive()
    }
}

/// Tells the progress of one operation.
#[derive(Clone)]
struct Reporter {
    progress: Progress,
    name: WorkspaceName,
    operation: Operation,
}

impl Reporter {
    fn new(progress: &Progress, name: &WorkspaceName, operation: Operation) -> Self {
        Self { progress: progress.clone(), name: name.clone(), operation }
    }

    fn say(&self, reason: &str, message: impl Into<String>) {
        self.tell(Severity::Normal, reason, message);
    }

    fn tell(&self, severity: Severity, reason: &str, message: impl Into<String>) {
        self.progress.report(Event {
            time: Timestamp::now(),
            workspace: self.name.clone(),
            operation: self.operation,
            severity,
            reason: reason.into(),
            message: message.into(),
            step: None,
        });
    }
}

#[async_trait]
impl Provider for ContainerProvider {
    fn name(&self) -> &ProviderName {
        &self.0.name
    }

    fn capabilities(&self) -> &Capabilities {
        &self.0.capabilities
    }

    fn capabilities_of(&self, _: &WorkspaceSpec) -> Capabilities {
        self.capabilities().clone()
    }

    async fn create_workspace(
        &self,
        name: &WorkspaceName,
        spec: &WorkspaceSpec,
        options: CreateOptions,
    ) -> Result<Workspace> {
        let reporter = Reporter::new(&options.progress, name, Operation::Create);
        let call = Box::pin(self.0.create(name, spec, &reporter));
        within(Operation::Create, name, options.timeout, call).await
    }

    async fn delete_workspace(&self, name: &WorkspaceName, options: DeleteOptions) -> Result<Deletion> {
        let reporter = Reporter::new(&options.progress, name, Operation::Delete);
        within(Operation::Delete, name, options.timeout, Box::pin(self.0.delete(name, &reporter))).await
    }

    async fn start_workspace(&self, name: &WorkspaceName, options: StartOptions) -> Result<Workspace> {
        let reporter = Reporter::new(&options.progress, name, Operation::Start);
        within(Operation::Start, name, options.timeout, Box::pin(self.0.start(name, &reporter))).await
    }

    async fn stop_workspace(&self, name: &WorkspaceName, options: StopOptions) -> Result<Workspace> {
        let reporter = Reporter::new(&options.progress, name, Operation::Stop);
        let call = Box::pin(self.0.stop(name, options.grace_period, &reporter));
        within(Operation::Stop, name, options.timeout, call).await
    }

    async fn workspace_status(&self, name: &WorkspaceName, options: StatusOptions) -> Result<Workspace> {
        within(Operation::Status, name, options.timeout, Box::pin(self.0.status(name))).await
    }

    fn list_workspaces(&self, options: ListOptions) -> BoxStream<'static, Result<Workspace>> {
        let context = Arc::clone(&self.0);
        let timeout = options.timeout;
        let list = async move {
            let limited = tokio::time::timeout(timeout, context.list(&options));
            let listed =
                limited.await.unwrap_or_else(|_| Err(Error::timeout(Operation::List.as_str(), timeout)));
            listed.unwrap_or_else(|error| vec![Err(error.during(Operation::List.as_str()))])
        };
        futures::stream::once(list).flat_map(futures::stream::iter).boxed()
    }

    async fn exec(&self, name: &WorkspaceName, request: ExecRequest) -> Result<ExecSession> {
        let timeout = request.start_timeout;
        within(Operation::Exec, name, timeout, Box::pin(self.0.exec(name, request.command))).await
    }

    async fn connect(&self, name: &WorkspaceName, request: ConnectRequest) -> Result<ByteStream> {
        const OPERATION: Operation = Operation::Connect;
        let connect = async {
            let client = self.0.reach(OPERATION, name).await?;
            self.0.unless_lost(OPERATION, name, client.connect_port(request.port.get()).await).await
        };
        within(OPERATION, name, request.timeout, Box::pin(connect)).await
    }

    async fn upload(&self, name: &WorkspaceName, request: UploadRequest) -> Result<u64> {
        const OPERATION: Operation = Operation::Upload;
        let timeout = request.timeout;
        let upload = async {
            let client = self.0.reach(OPERATION, name).await?;
            let uploaded = client.upload(&request.folder, request.archive).await;
            self.0.unless_lost(OPERATION, name, uploaded).await
        };
        within(OPERATION, name, timeout, Box::pin(upload)).await
    }

    async fn download(&self, name: &WorkspaceName, request: DownloadRequest) -> Result<ByteReader> {
        const OPERATION: Operation = Operation::Download;
        let download = async {
            let client = self.0.reach(OPERATION, name).await?;
            let archive = client.download(&request.path).await;
            Ok(Box::pin(self.0.unless_lost(OPERATION, name, archive).await?) as ByteReader)
        };
        within(OPERATION, name, request.timeout, Box::pin(download)).await
    }

    async fn agent_status(&self, name: &WorkspaceName, options: StatusOptions) -> Result<AgentStatus> {
        const OPERATION: Operation = Operation::AgentStatus;
        let ask = async {
            let status = self.0.reach(OPERATION, name).await?.status().await;
            self.0.unless_lost(OPERATION, name, status).await
        };
        within(OPERATION, name, options.timeout, Box::pin(ask)).await
    }

    async fn workspace_logs(
        &self,
        name: &WorkspaceName,
        options: LogsOptions,
    ) -> Result<BoxStream<'static, Result<LogLine>>> {
        within(Operation::Logs, name, options.timeout, Box::pin(self.0.logs(name, &options))).await
    }

    async fn workspace_events(
        &self,
        name: &WorkspaceName,
        options: EventsOptions,
    ) -> Result<BoxStream<'static, Result<Event>>> {
        let refused =
            Error::new(ErrorKind::Unsupported, "container engines keep no record of a workspace's events");
        let asked = self.0.faults.at(Operation::Events, "events").and_then(|()| async { Err(refused) });
        within(Operation::Events, name, options.timeout, asked).await
    }
}
