//! A wrapper that ends every call in time.

use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::{
    AgentStatus, ByteReader, ByteStream, Capabilities, ConnectRequest, CreateOptions, DeleteOptions,
    Deletion, DownloadRequest, Event, EventsOptions, ExecRequest, ExecSession, ListOptions, LogLine,
    LogsOptions, Provider, StartOptions, StatusOptions, StopOptions, UploadRequest,
};
use crate::workspace::{Operation, Workspace, WorkspaceSpec};
use crate::{Error, ProviderName, Result, WorkspaceName};

/// Ends every call of the inner provider at its timeout, even if the inner one does not, and lets no timeout be longer
/// than a maximum.
#[derive(Debug)]
pub struct DeadlineProvider<P> {
    inner: P,
    maximum: Duration,
}

impl<P: Provider> DeadlineProvider<P> {
    /// Wraps `inner`; no call takes longer than `maximum`, or than its own timeout if that is shorter.
    pub const fn new(inner: P, maximum: Duration) -> Self {
        Self { inner, maximum }
    }

    async fn within<T>(
        &self,
        operation: Operation,
        timeout: Duration,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        within(operation, timeout.min(self.maximum), call).await
    }
}

/// Ends `call` after `timeout`.
pub(super) async fn within<T>(
    operation: Operation,
    timeout: Duration,
    call: impl Future<Output = Result<T>> + Send,
) -> Result<T> {
    match tokio::time::timeout(timeout, call).await {
        Ok(result) => result,
        Err(_) => Err(Error::timeout(operation.as_str(), timeout)),
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<P: Provider> Provider for DeadlineProvider<P> {
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
        self.within(Operation::Create, options.timeout, self.inner.create_workspace(name, spec, options))
            .await
    }

    async fn delete_workspace(&self, name: &WorkspaceName, options: DeleteOptions) -> Result<Deletion> {
        self.within(Operation::Delete, options.timeout, self.inner.delete_workspace(name, options)).await
    }

    async fn start_workspace(&self, name: &WorkspaceName, options: StartOptions) -> Result<Workspace> {
        self.within(Operation::Start, options.timeout, self.inner.start_workspace(name, options)).await
    }

    async fn stop_workspace(&self, name: &WorkspaceName, options: StopOptions) -> Result<Workspace> {
        self.within(Operation::Stop, options.timeout, self.inner.stop_workspace(name, options)).await
    }

    async fn workspace_status(&self, name: &WorkspaceName, options: StatusOptions) -> Result<Workspace> {
        self.within(Operation::Status, options.timeout, self.inner.workspace_status(name, options)).await
    }

    fn list_workspaces(&self, options: ListOptions) -> BoxStream<'static, Result<Workspace>> {
        let timeout = options.timeout.min(self.maximum);
        let deadline = tokio::time::Instant::now() + timeout;
        let inner = self.inner.list_workspaces(options);
        // `Some(inner)` while items come; a passed deadline gives one error and ends the stream.
        futures::stream::unfold(Some(inner), move |inner| async move {
            let mut inner = inner?;
            match tokio::time::timeout_at(deadline, inner.next()).await {
                Ok(item) => item.map(|item| (item, Some(inner))),
                Err(_) => Some((Err(Error::timeout(Operation::List.as_str(), timeout)), None)),
            }
        })
        .boxed()
    }

    async fn exec(&self, name: &WorkspaceName, request: ExecRequest) -> Result<ExecSession> {
        self.within(Operation::Exec, request.start_timeout, self.inner.exec(name, request)).await
    }

    async fn connect(&self, name: &WorkspaceName, request: ConnectRequest) -> Result<ByteStream> {
        self.within(Operation::Connect, request.timeout, self.inner.connect(name, request)).await
    }

    async fn upload(&self, name: &WorkspaceName, request: UploadRequest) -> Result<u64> {
        self.within(Operation::Upload, request.timeout, self.inner.upload(name, request)).await
    }

    async fn download(&self, name: &WorkspaceName, request: DownloadRequest) -> Result<ByteReader> {
        self.within(Operation::Download, request.timeout, self.inner.download(name, request)).await
    }

    async fn agent_status(&self, name: &WorkspaceName, options: StatusOptions) -> Result<AgentStatus> {
        self.within(Operation::AgentStatus, options.timeout, self.inner.agent_status(name, options)).await
    }

    async fn workspace_logs(
        &self,
        name: &WorkspaceName,
        options: LogsOptions,
    ) -> Result<BoxStream<'static, Result<LogLine>>> {
        self.within(Operation::Logs, options.timeout, self.inner.workspace_logs(name, options)).await
    }

    async fn workspace_events(
        &self,
        name: &WorkspaceName,
        options: EventsOptions,
    ) -> Result<BoxStream<'static, Result<Event>>> {
        self.within(Operation::Events, options.timeout, self.inner.workspace_events(name, options)).await
    }
}
