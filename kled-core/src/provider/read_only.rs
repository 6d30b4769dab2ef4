//! A wrapper that changes nothing.

use async_trait::async_trait;
use futures::stream::BoxStream;

use super::{
    AgentStatus, ByteReader, ByteStream, Capabilities, CommandCapabilities, ConnectRequest, CreateOptions,
    DeleteOptions, Deletion, DownloadRequest, Event, EventsOptions, ExecRequest, ExecSession, ListOptions,
    LogLine, LogsOptions, Provider, StartOptions, StatusOptions, StopOptions, UploadRequest,
};
use crate::workspace::{Operation, Workspace, WorkspaceSpec};
use crate::{Error, ErrorKind, ProviderName, Result, WorkspaceName};

/// Lets status, list, logs and events through and refuses everything that changes a workspace. A command may change
/// anything, so commands are refused as well, and the capabilities say so.
#[derive(Debug)]
pub struct ReadOnlyProvider<P> {
    inner: P,
    capabilities: Capabilities,
}

impl<P: Provider> ReadOnlyProvider<P> {
    /// Wraps `inner`.
    pub fn new(inner: P) -> Self {
        let capabilities = without_commands(inner.capabilities().clone());
        Self { inner, capabilities }
    }
}

fn without_commands(capabilities: Capabilities) -> Capabilities {
    Capabilities { commands: CommandCapabilities::default(), ..capabilities }
}

fn refused(operation: Operation, name: &WorkspaceName) -> Error {
    Error::new(ErrorKind::PermissionDenied, "this provider is read-only")
        .during(operation.as_str())
        .with("workspace", name)
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<P: Provider> Provider for ReadOnlyProvider<P> {
    fn name(&self) -> &ProviderName {
        self.inner.name()
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn capabilities_of(&self, spec: &WorkspaceSpec) -> Capabilities {
        without_commands(self.inner.capabilities_of(spec))
    }

    async fn create_workspace(
        &self,
        name: &WorkspaceName,
        _: &WorkspaceSpec,
        _: CreateOptions,
    ) -> Result<Workspace> {
        Err(refused(Operation::Create, name))
    }

    async fn delete_workspace(&self, name: &WorkspaceName, _: DeleteOptions) -> Result<Deletion> {
        Err(refused(Operation::Delete, name))
    }

    async fn start_workspace(&self, name: &WorkspaceName, _: StartOptions) -> Result<Workspace> {
        Err(refused(Operation::Start, name))
    }

    async fn stop_workspace(&self, name: &WorkspaceName, _: StopOptions) -> Result<Workspace> {
        Err(refused(Operation::Stop, name))
    }

    async fn workspace_status(&self, name: &WorkspaceName, options: StatusOptions) -> Result<Workspace> {
        self.inner.workspace_status(name, options).await
    }

    fn list_workspaces(&self, options: ListOptions) -> BoxStream<'static, Result<Workspace>> {
        self.inner.list_workspaces(options)
    }

    async fn exec(&self, name: &WorkspaceName, _: ExecRequest) -> Result<ExecSession> {
        Err(refused(Operation::Exec, name))
    }

    async fn connect(&self, name: &WorkspaceName, _: ConnectRequest) -> Result<ByteStream> {
        Err(refused(Operation::Connect, name))
    }

    async fn upload(&self, name: &WorkspaceName, _: UploadRequest) -> Result<u64> {
        Err(refused(Operation::Upload, name))
    }

    async fn download(&self, name: &WorkspaceName, request: DownloadRequest) -> Result<ByteReader> {
        self.inner.download(name, request).await
    }

    async fn agent_status(&self, name: &WorkspaceName, options: StatusOptions) -> Result<AgentStatus> {
        self.inner.agent_status(name, options).await
    }

    async fn workspace_logs(
        &self,
        name: &WorkspaceName,
        options: LogsOptions,
    ) -> Result<BoxStream<'static, Result<LogLine>>> {
        self.inner.workspace_logs(name, options).await
    }

    async fn workspace_events(
        &self,
        name: &WorkspaceName,
        options: EventsOptions,
    ) -> Result<BoxStream<'static, Result<Event>>> {
        self.inner.workspace_events(name, options).await
    }
}
