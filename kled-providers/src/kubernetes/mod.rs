//! Workspaces on a Kubernetes cluster.
//!
//! A workspace is a StatefulSet of one pod and what belongs to it, all in one namespace and all owned by the
//! StatefulSet, whose annotations hold the spec: the cluster is the only truth, `kubectl delete statefulset NAME` removes
//! everything, and nothing has to be installed in the cluster before. The table of objects is in the source of
//! `objects.rs`.
//!
//! In the pod, the container `workspace` runs the user's image with [Kled's agent](crate::agent) as its first process.
//! It is reached by a port-forward through the API server, so nothing listens on the network and the cluster's own
//! rules say who may: `create` on `pods/portforward` and `get` on the workspace's Secret. Over that one connection go
//! commands, copies and ports, in HTTP/2: an output that was cut off is an error here, never an end.
//!
//! Pods satisfy the Pod Security Standard `restricted`. What [`KubernetesProviderBuilder`] can loosen says what it
//! gives away.
//!
//! # Limits
//!
//! - The image needs `git` for the checkout; any image will do for all else.
//! - What detached commands wrote is the pod's log. A stop keeps its end (256 KiB); a pod that goes by itself, or is
//!   stopped for being idle, takes it along.
//! - Events are kept by the cluster for as long as it keeps events, an hour by default.

mod builder;
mod client;
mod connection;
mod create;
mod credential;
mod delete;
mod error;
mod events;
mod forward;
mod lifecycle;
mod logs;
mod marks;
mod objects;
mod reach;
mod settings;
mod status;
mod watch;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use kled_core::ports::SecretSource;
use kled_core::provider::{
    AgentStatus, ByteReader, ByteStream, Capabilities, ConnectRequest, CreateOptions, DeleteOptions,
    Deletion, DownloadRequest, Event, EventsOptions, ExecRequest, ExecSession, Faults, ListOptions, LogLine,
    LogsOptions, Provider, StartOptions, StatusOptions, StopOptions, UploadRequest,
};
use kled_core::workspace::{Operation, Workspace, WorkspaceSpec};
use kled_core::{Error, ProviderName, Result, WorkspaceName};

pub use builder::KubernetesProviderBuilder;
pub use settings::{AGENT_IMAGE, AccessMode, DEFAULT_IMAGE};

use crate::agent::Agents;
use crate::personal::Personal;
use crate::within::within;
use client::Cluster;
use events::Reporter;
use marks::Marks;
use settings::PodSettings;

/// A [`Provider`] whose workspaces are pods of a Kubernetes cluster. See the [module](self).
///
/// ```no_run
/// use kled_core::WorkspaceName;
/// use kled_core::provider::ProviderExt;
/// use kled_core::workspace::WorkspaceSpec;
/// use kled_providers::kubernetes::KubernetesProvider;
///
/// # async fn example() -> kled_core::Result<()> {
/// let provider = KubernetesProvider::builder().namespace("workspaces").build().await?;
/// let name = WorkspaceName::new("demo")?;
/// let spec = WorkspaceSpec::builder("https://github.com/org/app")
///     .image("mcr.microsoft.com/devcontainers/base:debian")
///     .memory("4Gi")
///     .resource("nvidia.com/gpu", "1")
///     .build()?;
/// provider.create(&name, &spec).await?;
/// let output = provider.run(&name, ["nvidia-smi"]).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct KubernetesProvider(Arc<Context>);

/// What every operation needs.
struct Context {
    name: ProviderName,
    capabilities: Capabilities,
    cluster: Cluster,
    settings: PodSettings,
    forward_credentials: bool,
    personal: Personal,
    secrets: Arc<dyn SecretSource>,
    faults: Faults,
    agents: Agents<Marks>,
}

impl KubernetesProvider {
    /// Begins a provider.
    #[must_use]
    pub fn builder() -> KubernetesProviderBuilder {
        KubernetesProviderBuilder::default()
    }

    /// The namespace of its workspaces.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.0.cluster.namespace()
    }
}

impl fmt::Debug for KubernetesProvider {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("KubernetesProvider")
            .field("name", &self.0.name)
            .field("namespace", &self.0.cluster.namespace())
            .finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Provider for KubernetesProvider {
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
        let reporter = Reporter::new(&self.0.cluster, &options.progress, name, Operation::Create);
        let call = Box::pin(self.0.create(name, spec, &reporter));
        let result = within(Operation::Create, name, options.timeout, call).await;
        reporter.finish(result.as_ref().err()).await;
        result
    }

    async fn delete_workspace(&self, name: &WorkspaceName, options: DeleteOptions) -> Result<Deletion> {
        within(Operation::Delete, name, options.timeout, Box::pin(self.0.delete(name))).await
    }

    async fn start_workspace(&self, name: &WorkspaceName, options: StartOptions) -> Result<Workspace> {
        let reporter = Reporter::new(&self.0.cluster, &options.progress, name, Operation::Start);
        let call = Box::pin(self.0.start(name, &reporter));
        let result = within(Operation::Start, name, options.timeout, call).await;
        reporter.finish(result.as_ref().err()).await;
        result
    }

    async fn stop_workspace(&self, name: &WorkspaceName, options: StopOptions) -> Result<Workspace> {
        let reporter = Reporter::new(&self.0.cluster, &options.progress, name, Operation::Stop);
        let call = Box::pin(self.0.stop(name, options.grace_period, &reporter));
        let result = within(Operation::Stop, name, options.timeout, call).await;
        reporter.finish(result.as_ref().err()).await;
        result
    }

    async fn workspace_status(&self, name: &WorkspaceName, options: StatusOptions) -> Result<Workspace> {
        within(Operation::Status, name, options.timeout, Box::pin(self.0.status(name))).await
    }

    fn list_workspaces(&self, options: ListOptions) -> BoxStream<'static, Result<Workspace>> {
        let context = Arc::clone(&self.0);
        let timeout = options.timeout;
        let list = async move {
            let limited = tokio::time::timeout(timeout, context.list(&options)).await;
            limited
                .unwrap_or_else(|_| Err(Error::timeout(Operation::List.as_str(), timeout)))
                .unwrap_or_else(|error| vec![Err(error.during(Operation::List.as_str()))])
        };
        futures::stream::once(list).flat_map(futures::stream::iter).boxed()
    }

    async fn exec(&self, name: &WorkspaceName, request: ExecRequest) -> Result<ExecSession> {
        let timeout = request.start_timeout;
        within(Operation::Exec, name, timeout, Box::pin(self.0.exec(name, request.command))).await
    }

    async fn connect(&self, name: &WorkspaceName, request: ConnectRequest) -> Result<ByteStream> {
        let connect = async {
            self.0.reach(Operation::Connect, name).await?.client.connect_port(request.port.get()).await
        };
        within(Operation::Connect, name, request.timeout, Box::pin(connect)).await
    }

    async fn upload(&self, name: &WorkspaceName, request: UploadRequest) -> Result<u64> {
        let timeout = request.timeout;
        let upload = async {
            let reached = self.0.reach(Operation::Upload, name).await?;
            reached.client.upload(&request.folder, request.archive).await
        };
        within(Operation::Upload, name, timeout, Box::pin(upload)).await
    }

    async fn download(&self, name: &WorkspaceName, request: DownloadRequest) -> Result<ByteReader> {
        let download = async {
            let reached = self.0.reach(Operation::Download, name).await?;
            Ok(Box::pin(reached.client.download(&request.path).await?) as ByteReader)
        };
        within(Operation::Download, name, request.timeout, Box::pin(download)).await
    }

    async fn agent_status(&self, name: &WorkspaceName, options: StatusOptions) -> Result<AgentStatus> {
        let ask = async { self.0.reach(Operation::AgentStatus, name).await?.client.status().await };
        within(Operation::AgentStatus, name, options.timeout, Box::pin(ask)).await
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
        within(Operation::Events, name, options.timeout, Box::pin(self.0.events(name, options.follow))).await
    }
}
