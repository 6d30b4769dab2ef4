//! A wrapper that traces.

use async_trait::async_trait;
use futures::stream::BoxStream;
use tracing::{Instrument, Span};

use super::{
    AgentStatus, ByteReader, ByteStream, Capabilities, ConnectRequest, CreateOptions, DeleteOptions,
    Deletion, DownloadRequest, Event, EventsOptions, ExecRequest, ExecSession, ListOptions, LogLine,
    LogsOptions, Provider, StartOptions, StatusOptions, StopOptions, UploadRequest,
};
use crate::workspace::{Operation, Workspace, WorkspaceSpec};
use crate::{ProviderName, Result, WorkspaceName};

/// Runs every call of the inner provider in a span of [`tracing`] with the operation, provider and workspace, and
/// records failures. Arguments of commands and environments are not recorded, since they may hold secrets.
#[derive(Debug)]
pub struct TracedProvider<P> {
    inner: P,
}

impl<P: Provider> TracedProvider<P> {
    /// Wraps `inner`.
    pub const fn new(inner: P) -> Self {
        Self { inner }
    }

    fn span(&self, operation: Operation, name: &WorkspaceName) -> Span {
        tracing::info_span!("provider", operation = operation.as_str(), provider = %self.inner.name(), workspace = %name)
    }
}

async fn traced<T>(span: Span, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
    async {
        tracing::debug!("started");
        let result = call.await;
        match &result {
            Ok(_) => tracing::debug!("done"),
            Err(error) => tracing::warn!(kind = %error.kind(), %error, "failed"),
        }
        result
    }
    .instrument(span)
    .await
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<P: Provider> Provider for TracedProvider<P> {
    fn name(&self) -> &ProviderName {
        self.inner.name()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn capabilities_of(&self, spec: &WorkspaceSpec) -> Capabilities {
        self.inner.capabilities_of(spec)
    }

    async fn create_workspace(
        &self,
        name: &WorkspaceName,
        spec: &WorkspaceSpec,
        options: CreateOptions,
    ) -> Result<Workspace> {
        traced(self.span(Operation::Create, name), self.inner.create_workspace(name, spec, options)).await
    }

    async fn delete_workspace(&self, name: &WorkspaceName, options: DeleteOptions) -> Result<Deletion> {
        traced(self.span(Operation::Delete, name), self.inner.delete_workspace(name, options)).await
    }

    async fn start_workspace(&self, name: &WorkspaceName, options: StartOptions) -> Result<Workspace> {
        traced(self.span(Operation::Start, name), self.inner.start_workspace(name, options)).await
    }

    async fn stop_workspace(&self, name: &WorkspaceName, options: StopOptions) -> Result<Workspace> {
        traced(self.span(Operation::Stop, name), self.inner.stop_workspace(name, options)).await
    }

    async fn workspace_status(&self, name: &WorkspaceName, options: StatusOptions) -> Result<Workspace> {
        traced(self.span(Operation::Status, name), self.inner.workspace_status(name, options)).await
    }

    fn list_workspaces(&self, options: ListOptions) -> BoxStream<'static, Result<Workspace>> {
        tracing::debug!(operation = Operation::List.as_str(), provider = %self.inner.name(), "started");
        self.inner.list_workspaces(options)
    }

    async fn exec(&self, name: &WorkspaceName, request: ExecRequest) -> Result<ExecSession> {
        traced(self.span(Operation::Exec, name), self.inner.exec(name, request)).await
    }

    async fn connect(&self, name: &WorkspaceName, request: ConnectRequest) -> Result<ByteStream> {
        traced(self.span(Operation::Connect, name), self.inner.connect(name, request)).await
    }

    async fn upload(&self, name: &WorkspaceName, request: UploadRequest) -> Result<u64> {
        traced(self.span(Operation::Upload, name), self.inner.upload(name, request)).await
    }

    async fn download(&self, name: &WorkspaceName, request: DownloadRequest) -> Result<ByteReader> {
        traced(self.span(Operation::Download, name), self.inner.download(name, request)).await
    }

    async fn agent_status(&self, name: &WorkspaceName, options: StatusOptions) -> Result<AgentStatus> {
        traced(self.span(Operation::AgentStatus, name), self.inner.agent_status(name, options)).await
    }

    async fn workspace_logs(
        &self,
        name: &WorkspaceName,
        options: LogsOptions,
    ) -> Result<BoxStream<'static, Result<LogLine>>> {
        traced(self.span(Operation::Logs, name), self.inner.workspace_logs(name, options)).await
    }

    async fn workspace_events(
        &self,
        name: &WorkspaceName,
        options: EventsOptions,
    ) -> Result<BoxStream<'static, Result<Event>>> {
        traced(self.span(Operation::Events, name), self.inner.workspace_events(name, options)).await
    }
}
