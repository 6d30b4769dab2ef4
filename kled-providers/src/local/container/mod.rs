//! Workspaces as containers of Docker or Podman.
//!
//! # What a workspace is made of
//!
//! | object | name | made when |
//! |---|---|---|
//! | volume | `kled-NAME` | first: it claims the name and holds the spec; it stays empty |
//! | volume | `kled-NAME-ATTEMPT` | the files, mounted at `/workspace` |
//! | container | `kled-NAME-ATTEMPT`, then `kled-NAME` | given its final name when the files are complete |
//!
//! All carry the labels `kled.io/workspace`, `kled.io/id`, `kled.io/spec` and `app.kubernetes.io/managed-by=kled`, so
//! the engine is the only truth. Each attempt to create has a volume and a container of its own, and renaming the
//! container decides at the engine which attempt is the workspace: no lock has to be right for that.
//!
//! The repository is checked out on this machine, with the user's own git configuration, and unpacked in the volume
//! with the owner that the image's user is.
//!
//! # Limits
//!
//! - Images need a POSIX `sh` and `sleep`, and commands pass through that `sh`: names of environment variables have
//!   letters, digits and `_` only.
//! - A command that a signal ended is seen as an exit with 128 plus the signal's number.
//! - Ending a command ends its session and everything that still has its environment. A process that has left both
//!   lives on until the workspace stops.
//! - Idle timeouts, times to live and disk limits are not kept; a spec that asks for the first two is refused.

mod body;
mod builder;
mod create;
mod delete;
mod engine;
mod exec;
mod lifecycle;
mod logs;
mod marks;
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
    Capabilities, CreateOptions, DeleteOptions, Deletion, Event, EventsOptions, ExecRequest, ExecSession,
    Faults, ListOptions, LogLine, LogsOptions, Progress, Provider, Severity, StartOptions, StatusOptions,
    StopOptions,
};
use kled_core::workspace::{Operation, Workspace, WorkspaceSpec};
use kled_core::{Error, ErrorKind, ProviderName, Result, WorkspaceName};

pub use builder::ContainerProviderBuilder;
use engine::Engine;
use under_way::UnderWay;

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
        self.progress.report(Event {
            time: Timestamp::now(),
            workspace: self.name.clone(),
            operation: self.operation,
            severity: Severity::Normal,
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
        within(Operation::Exec, name, timeout, Box::pin(Arc::clone(&self.0).exec(name, request.command)))
            .await
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
