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
//! See [`SupervisorProgram`] for the one line that a program needs in its `main`.

mod builder;
mod checkout;
#[cfg(feature = "local-container")]
pub mod container;
mod process;
mod secrets;

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use kled_core::provider::{
    Capabilities, CreateOptions, DeleteOptions, Deletion, Event, EventsOptions, ExecRequest, ExecSession,
    ListOptions, LogLine, LogsOptions, Provider, StartOptions, StatusOptions, StopOptions,
};
use kled_core::workspace::{Isolation, Operation, Workspace, WorkspaceSpec};
use kled_core::{Error, ErrorKind, ProviderName, Result, WorkspaceName};

pub use builder::LocalProviderBuilder;
use process::ProcessProvider;
pub use process::{Sandbox, SupervisorProgram};
pub use secrets::EnvironmentAndFileSecrets;

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
    /// Where an engine answered when this was built.
    container: Option<Arc<dyn Provider>>,
    capabilities: Capabilities,
}

impl LocalProvider {
    /// Begins a provider.
    pub fn builder() -> LocalProviderBuilder {
        LocalProviderBuilder::default()
    }

    fn new(process: ProcessProvider, container: Option<Arc<dyn Provider>>) -> Self {
        let mut capabilities = process.capabilities().clone();
        if container.is_some() {
            capabilities.isolations.insert(2, Isolation::Container);
            capabilities.images = true;
        }
        Self { process, container, capabilities }
    }

    /// The backend that makes what `spec` asks for: an image needs a container, all else is a process.
    fn maker(&self, spec: &WorkspaceSpec) -> Result<&dyn Provider> {
        let container = match spec.isolation {
            Isolation::Container => true,
            Isolation::Default => spec.image.is_some(),
            Isolation::Process | Isolation::None => false,
        };
        if !container {
            return Ok(&self.process);
        }
        self.container.as_deref().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "no container engine answers")
                .during(Operation::Create.as_str())
                .hint("start Docker or Podman, or leave the image out and ask for isolation process")
        })
    }

    /// The backend that has the workspace. Where none has it, the one that says so.
    async fn owner(&self, name: &WorkspaceName) -> Result<&dyn Provider> {
        match &self.container {
            Some(container) if !self.process.has(name).await? => Ok(container.as_ref()),
            _ => Ok(&self.process),
        }
    }

    /// A name belongs to one workspace, whichever backend has it.
    async fn check_other(&self, maker: &dyn Provider, name: &WorkspaceName) -> Result<()> {
        let made_by_process = std::ptr::addr_eq(std::ptr::from_ref(maker), std::ptr::from_ref(&self.process));
        let other: &dyn Provider = match &self.container {
            Some(container) if made_by_process => container.as_ref(),
            Some(_) => &self.process,
            None => return Ok(()),
        };
        match other.workspace_status(name, StatusOptions::default()).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(_) => {
                Err(Error::new(ErrorKind::Conflict, "a workspace of this name exists with another isolation")
                    .during(Operation::Create.as_str())
                    .with("workspace", name)
                    .hint("choose another name, or delete the workspace first"))
            }
        }
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

    async fn create_workspace(
        &self,
        name: &WorkspaceName,
        spec: &WorkspaceSpec,
        options: CreateOptions,
    ) -> Result<Workspace> {
        let maker = self.maker(spec)?;
        self.check_other(maker, name).await?;
        maker.create_workspace(name, spec, options).await
    }

    async fn delete_workspace(&self, name: &WorkspaceName, options: DeleteOptions) -> Result<Deletion> {
        let mut deletion = self.process.delete_workspace(name, options.clone()).await?;
        if let Some(container) = &self.container {
            let other = container.delete_workspace(name, options).await?;
            deletion.existed |= other.existed;
            deletion.removed.extend(other.removed);
        }
        Ok(deletion)
    }

    async fn start_workspace(&self, name: &WorkspaceName, options: StartOptions) -> Result<Workspace> {
        self.owner(name).await?.start_workspace(name, options).await
    }

    async fn stop_workspace(&self, name: &WorkspaceName, options: StopOptions) -> Result<Workspace> {
        self.owner(name).await?.stop_workspace(name, options).await
    }

    async fn workspace_status(&self, name: &WorkspaceName, options: StatusOptions) -> Result<Workspace> {
        self.owner(name).await?.workspace_status(name, options).await
    }

    fn list_workspaces(&self, options: ListOptions) -> BoxStream<'static, Result<Workspace>> {
        let processes = self.process.list_workspaces(options.clone());
        match &self.container {
            Some(container) => processes.chain(container.list_workspaces(options)).boxed(),
            None => processes,
        }
    }

    async fn exec(&self, name: &WorkspaceName, request: ExecRequest) -> Result<ExecSession> {
        self.owner(name).await?.exec(name, request).await
    }

    async fn workspace_logs(
        &self,
        name: &WorkspaceName,
        options: LogsOptions,
    ) -> Result<BoxStream<'static, Result<LogLine>>> {
        self.owner(name).await?.workspace_logs(name, options).await
    }

    async fn workspace_events(
        &self,
        name: &WorkspaceName,
        options: EventsOptions,
    ) -> Result<BoxStream<'static, Result<Event>>> {
        self.owner(name).await?.workspace_events(name, options).await
    }
}
