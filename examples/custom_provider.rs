//! Rebuilds the program `kled` with a provider and a command of its own.
//!
//! The provider `acme` is the local one with a house rule: every workspace needs a memory limit and gets a label.
//!
//! ```sh
//! cargo run --example custom_provider -- workspace create demo --repo . --memory 1Gi
//! cargo run --example custom_provider -- summary
//! cargo run --example custom_provider -- workspace delete demo
//! ```

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use kled_cli::{Context, CustomCommand, Exit, Failure, Runner, Supervisor, clap};
use kled_core::provider::*; // The trait and its whole vocabulary.
use kled_core::workspace::{Workspace, WorkspaceSpec};
use kled_core::{Error, ErrorKind, LabelKey, LabelValue, ProviderName, Result, WorkspaceName};
use kled_providers::local::LocalProvider;

type Items<T> = BoxStream<'static, Result<T>>;

#[derive(Debug)]
struct HouseRule<P> {
    inner: P,
    team: LabelValue,
}

/// All but `create_workspace` is the inner provider's.
#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<P: Provider> Provider for HouseRule<P> {
    async fn create_workspace(
        &self,
        name: &WorkspaceName,
        spec: &WorkspaceSpec,
        options: CreateOptions,
    ) -> Result<Workspace> {
        if spec.resources.memory.is_none() {
            return Err(Error::new(ErrorKind::InvalidInput, "a workspace needs a memory limit")
                .hint("add --memory 1Gi"));
        }
        let mut spec = spec.clone();
        spec.labels.insert(LabelKey::new("acme.example/team")?, self.team.clone());
        self.inner.create_workspace(name, &spec, options).await
    }

    fn name(&self) -> &ProviderName {
        self.inner.name()
    }
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn capabilities_of(&self, spec: &WorkspaceSpec) -> Capabilities {
        self.inner.capabilities_of(spec)
    }
    async fn delete_workspace(&self, name: &WorkspaceName, options: DeleteOptions) -> Result<Deletion> {
        self.inner.delete_workspace(name, options).await
    }
    async fn start_workspace(&self, name: &WorkspaceName, options: StartOptions) -> Result<Workspace> {
        self.inner.start_workspace(name, options).await
    }
    async fn stop_workspace(&self, name: &WorkspaceName, options: StopOptions) -> Result<Workspace> {
        self.inner.stop_workspace(name, options).await
    }
    async fn workspace_status(&self, name: &WorkspaceName, options: StatusOptions) -> Result<Workspace> {
        self.inner.workspace_status(name, options).await
    }
    fn list_workspaces(&self, options: ListOptions) -> Items<Workspace> {
        self.inner.list_workspaces(options)
    }
    async fn exec(&self, name: &WorkspaceName, request: ExecRequest) -> Result<ExecSession> {
        self.inner.exec(name, request).await
    }
    async fn connect(&self, name: &WorkspaceName, request: ConnectRequest) -> Result<ByteStream> {
        self.inner.connect(name, request).await
    }
    async fn upload(&self, name: &WorkspaceName, request: UploadRequest) -> Result<u64> {
        self.inner.upload(name, request).await
    }
    async fn download(&self, name: &WorkspaceName, request: DownloadRequest) -> Result<ByteReader> {
        self.inner.download(name, request).await
    }
    async fn agent_status(&self, name: &WorkspaceName, options: StatusOptions) -> Result<AgentStatus> {
        self.inner.agent_status(name, options).await
    }
    async fn workspace_logs(&self, name: &WorkspaceName, options: LogsOptions) -> Result<Items<LogLine>> {
        self.inner.workspace_logs(name, options).await
    }
    async fn workspace_events(&self, name: &WorkspaceName, options: EventsOptions) -> Result<Items<Event>> {
        self.inner.workspace_events(name, options).await
    }
}

/// `acme summary`: how many workspaces are in which state.
struct Summary;

#[async_trait]
impl CustomCommand for Summary {
    fn definition(&self) -> clap::Command {
        clap::Command::new("summary").about("Count workspaces by state")
    }

    async fn run(&self, context: &Context, _matches: &clap::ArgMatches) -> Result<Exit, Failure> {
        let mut counts = BTreeMap::<_, usize>::new();
        for workspace in context.provider().await?.list().await? {
            *counts.entry(workspace.status.state()).or_default() += 1;
        }
        context.print(&counts, |_| {
            counts.iter().map(|(state, count)| format!("{state}: {count}\n")).collect()
        })?;
        Ok(Exit::SUCCESS)
    }
}

async fn acme(supervisor: Supervisor, mut settings: ProviderSettings) -> Result<Arc<dyn Provider>> {
    // `[providers.acme] team = "…"` in the configuration file.
    let team = LabelValue::new(settings.take("team").unwrap_or_else(|| "platform".into()))?;
    settings.finish()?;
    let inner = LocalProvider::builder().name("acme").supervisor(supervisor).build().await?;
    Ok(Arc::new(HouseRule { inner, team }))
}

fn main() -> ExitCode {
    let supervisor = Supervisor::this_program();
    Runner::new(supervisor.clone())
        .program("acme")
        .provider("acme", move |settings| acme(supervisor.clone(), settings))
        .default_provider("acme")
        .command(Summary)
        .run(std::env::args_os())
}
