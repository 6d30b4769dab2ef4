//! Workspaces on this machine.
//!
//! A workspace is a checkout of a git repository with a home and a temporary folder of its own, and the processes that
//! run in it. On Linux they are sandboxed: they write only to these folders, see no other workspace and none of the
//! user's credentials, while toolchains installed in the home folder stay usable, read-only.
//!
//! | isolation | what it is | needs |
//! |---|---|---|
//! | `process` (default) | processes under a supervisor that outlives this one, in bubblewrap, else in Landlock | git |
//! | `container` (default where the spec names an image) | a container and a volume of Docker or Podman | an engine |
//! | `none` | processes without a sandbox; for trusted repositories only | git |
//!
//! Containers have all that processes have, but for events, where the provider is given the agent's program:
//! [`LocalProviderBuilder::agent_program`].
//!
//! What a project asks for in its `devcontainer.json` or `.kled.yaml` ([`kled_core::setup`]) is carried out in the
//! sandbox of processes, and in containers by the agent, after the checkout and at every start. With isolation `none` it is left out unless
//! [`LocalProviderBuilder::set_up_without_sandbox`] says otherwise. [`Provider::capabilities_of`] a spec says whether it
//! is done.
//!
//! See [`SupervisorProgram`] for the one line that a program needs in its `main`.

mod builder;
#[cfg(feature = "local-container")]
pub mod container;
mod engine;
mod process;
mod process_id;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use kled_core::provider::{
    AgentStatus, ByteReader, ByteStream, Capabilities, ConnectRequest, CreateOptions, DeleteOptions,
    Deletion, DownloadRequest, Event, EventsOptions, ExecRequest, ExecSession, ListOptions, LogLine,
    LogsOptions, Provider, StartOptions, StatusOptions, StopOptions, UploadRequest,
};
use kled_core::workspace::{Isolation, Operation, Workspace, WorkspaceSpec};
use kled_core::{Error, ErrorKind, ProviderName, Result, WorkspaceName};

pub use crate::secrets::EnvironmentAndFileSecrets;
pub use builder::LocalProviderBuilder;
pub use engine::ContainerEngine;
use engine::Containers;
use process::ProcessProvider;
pub use process::{Sandbox, SupervisorProgram};

/// Workspaces on this machine: processes, and containers where an engine answers. See the [module](self).
///
/// ```no_run
/// use kled_core::WorkspaceName;
/// use kled_core::provider::ProviderExt;
/// use kled_core::workspace::WorkspaceSpec;
/// use kled_providers::local::{LocalProvider, SupervisorProgram};
///
/// fn main() -> kled_core::Result<()> {
///     let supervisor = SupervisorProgram::this_program();
///     let runtime = tokio::runtime::Runtime::new().expect("a runtime");
///     runtime.block_on(async {
///         let provider = LocalProvider::builder().supervisor(supervisor).build().await?;
///         let name = WorkspaceName::new("demo")?;
///         let spec = WorkspaceSpec::builder("https://github.com/org/app").memory("2Gi").build()?;
///         provider.create(&name, &spec).await?;
///         let output = provider.run(&name, ["git", "log", "-1"]).await?;
///         println!("{}", String::from_utf8_lossy(&output.stdout));
///         provider.delete(&name).await?;
///         Ok(())
///     })
/// }
/// ```
#[derive(Clone, Debug)]
pub struct LocalProvider {
    process: ProcessProvider,
    containers: Containers,
    capabilities: Capabilities,
}

impl LocalProvider {
    /// Begins a provider.
    pub fn builder() -> LocalProviderBuilder {
        LocalProviderBuilder::default()
    }

    fn new(process: ProcessProvider, containers: Containers) -> Self {
        let mut capabilities = process.capabilities().clone();
        if let Containers::Available(_) = containers {
            capabilities.isolations.insert(2, Isolation::Container);
            capabilities.images = true;
        }
        Self { process, containers, capabilities }
    }

    fn container(&self) -> Result<&dyn Provider> {
        match &self.containers {
            Containers::Available(container) => Ok(container.as_ref()),
            missing => Err(missing.missing()),
        }
    }

    /// The backend that has the workspace. Where none has it, the one that says so.
    async fn owner(&self, operation: Operation, name: &WorkspaceName) -> Result<&dyn Provider> {
        match &self.containers {
            _ if self.process.has(name).await? => Ok(&self.process),
            Containers::Absent => Ok(&self.process),
            // Absence has to be proved: an engine that is silent may have it.
            Containers::Available(_) | Containers::Silent(_) => {
                self.container().map_err(|error| error.during(operation.as_str()).with("workspace", name))
            }
        }
    }

    /// A name belongs to one workspace, whichever backend has it.
    async fn check_taken_elsewhere(&self, in_container: bool, name: &WorkspaceName) -> Result<()> {
        let taken = match &self.containers {
            _ if in_container => self.process.has(name).await?,
            Containers::Available(container) => {
                match container.workspace_status(name, StatusOptions::default()).await {
                    Ok(_) => true,
                    Err(error) if error.kind() == ErrorKind::NotFound => false,
                    Err(error) => return Err(error),
                }
            }
            Containers::Absent | Containers::Silent(_) => false,
        };
        if !taken {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Conflict, "a workspace of this name exists with another isolation")
            .with("workspace", name)
            .hint("choose another name, or delete the workspace first"))
    }
}

/// An image needs a container; all else is a process unless it asks for one.
fn wants_container(spec: &WorkspaceSpec) -> bool {
    match spec.isolation {
        Isolation::Container => true,
        Isolation::Default => spec.image.is_some(),
        Isolation::Process | Isolation::None => false,
    }
}

#[async_trait]
impl Provider for LocalProvider {
    fn name(&self) -> &ProviderName {
        self.process.name()
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn capabilities_of(&self, spec: &WorkspaceSpec) -> Capabilities {
        match &self.containers {
            Containers::Available(container) if wants_container(spec) => container.capabilities_of(spec),
            _ => self.process.capabilities_of(spec),
        }
    }

    async fn create_workspace(
        &self,
        name: &WorkspaceName,
        spec: &WorkspaceSpec,
        options: CreateOptions,
    ) -> Result<Workspace> {
        let in_container = wants_container(spec);
        let during = |error: Error| error.during(Operation::Create.as_str());
        spec.resources.refuse_extended().map_err(during)?;
        let maker = if in_container { self.container().map_err(during)? } else { &self.process };
        self.check_taken_elsewhere(in_container, name).await.map_err(during)?;
        maker.create_workspace(name, spec, options).await
    }

    async fn delete_workspace(&self, name: &WorkspaceName, options: DeleteOptions) -> Result<Deletion> {
        let mut deletion = self.process.delete_workspace(name, options.clone()).await?;
        match &self.containers {
            Containers::Available(container) => {
                let other = container.delete_workspace(name, options).await?;
                deletion.existed |= other.existed;
                deletion.removed.extend(other.removed);
                Ok(deletion)
            }
            // That nothing is left is not known.
            Containers::Silent(_) if !deletion.existed => {
                Err(self.containers.missing().during(Operation::Delete.as_str()).with("workspace", name))
            }
            Containers::Absent | Containers::Silent(_) => Ok(deletion),
        }
    }

    async fn start_workspace(&self, name: &WorkspaceName, options: StartOptions) -> Result<Workspace> {
        self.owner(Operation::Start, name).await?.start_workspace(name, options).await
    }

    async fn stop_workspace(&self, name: &WorkspaceName, options: StopOptions) -> Result<Workspace> {
        self.owner(Operation::Stop, name).await?.stop_workspace(name, options).await
    }

    async fn workspace_status(&self, name: &WorkspaceName, options: StatusOptions) -> Result<Workspace> {
        self.owner(Operation::Status, name).await?.workspace_status(name, options).await
    }

    fn list_workspaces(&self, options: ListOptions) -> BoxStream<'static, Result<Workspace>> {
        let processes = self.process.list_workspaces(options.clone());
        match &self.containers {
            Containers::Available(container) => processes.chain(container.list_workspaces(options)).boxed(),
            Containers::Absent => processes,
            Containers::Silent(_) => {
                let missing = self.containers.missing().during(Operation::List.as_str());
                processes.chain(futures::stream::iter([Err(missing)])).boxed()
            }
        }
    }

    async fn exec(&self, name: &WorkspaceName, request: ExecRequest) -> Result<ExecSession> {
        self.owner(Operation::Exec, name).await?.exec(name, request).await
    }

    async fn connect(&self, name: &WorkspaceName, request: ConnectRequest) -> Result<ByteStream> {
        self.owner(Operation::Connect, name).await?.connect(name, request).await
    }

    async fn upload(&self, name: &WorkspaceName, request: UploadRequest) -> Result<u64> {
        self.owner(Operation::Upload, name).await?.upload(name, request).await
    }

    async fn download(&self, name: &WorkspaceName, request: DownloadRequest) -> Result<ByteReader> {
        self.owner(Operation::Download, name).await?.download(name, request).await
    }

    async fn agent_status(&self, name: &WorkspaceName, options: StatusOptions) -> Result<AgentStatus> {
        self.owner(Operation::AgentStatus, name).await?.agent_status(name, options).await
    }

    async fn workspace_logs(
        &self,
        name: &WorkspaceName,
        options: LogsOptions,
    ) -> Result<BoxStream<'static, Result<LogLine>>> {
        self.owner(Operation::Logs, name).await?.workspace_logs(name, options).await
    }

    async fn workspace_events(
        &self,
        name: &WorkspaceName,
        options: EventsOptions,
    ) -> Result<BoxStream<'static, Result<Event>>> {
        self.owner(Operation::Events, name).await?.workspace_events(name, options).await
    }
}
