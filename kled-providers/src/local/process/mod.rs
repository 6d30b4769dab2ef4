//! Workspaces as processes of this machine.
//!
//! ```text
//! ProcessProvider --starts--> supervisor --starts--> sandbox [ serve --starts--> commands ]
//!        |                        |                              |
//!        +-- record.json          +-- lock, run.json, log        +-- agent.sock  <-- exec --
//! ```

mod cgroup;
mod create;
mod environment;
mod journal;
mod launch;
mod layout;
mod lifecycle;
mod record;
mod removal;
mod sandbox;
mod serve;
mod set_up;
mod socket;
mod supervisor;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use kled_core::ports::SecretSource;
use kled_core::provider::{
    AgentStatus, ByteReader, ByteStream, Capabilities, CommandCapabilities, ConnectRequest, CreateOptions,
    DeleteOptions, Deletion, DownloadRequest, Enforcement, Event, EventsOptions, ExecRequest, ExecSession,
    Faults, LimitCapabilities, ListOptions, LogLine, LogsOptions, Provider, SandboxCapabilities,
    StartOptions, StatusOptions, StopOptions, UploadRequest,
};
use kled_core::workspace::{Decision, Isolation, Operation, Workspace, WorkspaceSpec};
use kled_core::{Error, ProviderName, Result, WorkspaceName};

pub use launch::SupervisorProgram;

use crate::agent::AgentClient;
use crate::personal::Personal;
use crate::variables;
use crate::within::within;
use cgroup::Hierarchy;
use layout::{Folder, Lock, Root, blocking, read_json};
use record::{Observed, Record};
pub use sandbox::Sandbox;

/// Workspaces as processes of this machine, sandboxed unless the spec asks for none.
#[derive(Clone, Debug)]
pub(crate) struct ProcessProvider(Arc<Inner>);

/// What all handles of one provider share.
#[derive(Debug)]
struct Inner {
    name: ProviderName,
    root: Root,
    user_home: PathBuf,
    supervisor: Option<SupervisorProgram>,
    secrets: Arc<dyn SecretSource>,
    faults: Faults,
    hierarchy: Hierarchy,
    /// Found when it is first needed: the look starts a process.
    strongest: OnceLock<Option<Sandbox>>,
    preferred: Option<Sandbox>,
    personal: Personal,
    set_up_without_sandbox: bool,
    capabilities: Capabilities,
}

/// What a [`ProcessProvider`] is made from.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) name: ProviderName,
    pub(crate) root: PathBuf,
    pub(crate) user_home: PathBuf,
    pub(crate) supervisor: Option<SupervisorProgram>,
    pub(crate) secrets: Arc<dyn SecretSource>,
    pub(crate) faults: Faults,
    /// Taken instead of the strongest, where it works.
    pub(crate) sandbox: Option<Sandbox>,
    pub(crate) personal: Personal,
    pub(crate) set_up_without_sandbox: bool,
}

impl ProcessProvider {
    pub(crate) fn new(settings: Settings) -> Self {
        let hierarchy = Hierarchy::detect();
        let capabilities = capabilities(&hierarchy);
        Self(Arc::new(Inner {
            name: settings.name,
            root: Root::new(settings.root),
            user_home: settings.user_home,
            supervisor: settings.supervisor,
            secrets: settings.secrets,
            faults: settings.faults,
            hierarchy,
            strongest: OnceLock::new(),
            preferred: settings.sandbox,
            personal: settings.personal,
            set_up_without_sandbox: settings.set_up_without_sandbox,
            capabilities,
        }))
    }

    /// The record of a workspace and what is observed of it. `None` when there is no such workspace.
    async fn look(&self, name: &WorkspaceName) -> Result<Option<(Record, Observed)>> {
        let folder = self.0.root.folder(name);
        blocking(move || observe(&folder)).await
    }

    /// True when it has a workspace of this name.
    pub(crate) async fn has(&self, name: &WorkspaceName) -> Result<bool> {
        Ok(self.look(name).await?.is_some())
    }

    async fn found(&self, name: &WorkspaceName) -> Result<(Record, Observed)> {
        self.look(name).await?.ok_or_else(|| Error::workspace_not_found(name))
    }

    fn workspace(&self, (record, observed): &(Record, Observed)) -> Workspace {
        record.workspace(&self.0.name, observed)
    }

    async fn status(&self, name: &WorkspaceName) -> Result<Workspace> {
        self.0.faults.at(Operation::Status, "read").await?;
        Ok(self.workspace(&self.found(name).await?))
    }

    async fn list(&self, options: &ListOptions) -> Result<Vec<Result<Workspace>>> {
        self.0.faults.at(Operation::List, "read").await?;
        let inner = Arc::clone(&self.0);
        let looked = blocking(move || {
            let folders = layout::entries(&inner.root.workspaces())?;
            Ok(folders.into_iter().map(|path| observe(&Folder::at(path))).collect::<Vec<_>>())
        })
        .await?;
        let shown = looked
            .into_iter()
            .filter_map(|looked| looked.transpose())
            .map(|looked| Ok(self.workspace(&looked?)));
        Ok(shown
            .filter(|workspace| workspace.as_ref().map_or(true, |workspace| options.matches(workspace)))
            .collect())
    }

    /// The record of a workspace that `operation` can reach.
    async fn reached(&self, operation: Operation, name: &WorkspaceName) -> Result<Record> {
        self.0.faults.at(operation, "look").await?;
        let (record, observed) = self.found(name).await?;
        let status = record.status(&observed);
        if status.decide(operation) != Decision::Satisfied {
            return Err(status.refusal(operation, name));
        }
        Ok(record)
    }

    async fn agent(&self, operation: Operation, name: &WorkspaceName) -> Result<AgentClient> {
        self.reached(operation, name).await?;
        socket::connect(&self.0.root.folder(name)).await
    }

    async fn start_command(&self, name: &WorkspaceName, request: ExecRequest) -> Result<ExecSession> {
        let record = self.reached(Operation::Exec, name).await?;
        let mut command = request.command;
        variables::give(&mut command, &record.spec, self.0.secrets.as_ref()).await?;
        self.0.faults.at(Operation::Exec, "start").await?;
        socket::connect(&self.0.root.folder(name)).await?.exec(command).await
    }

    /// True when nothing more will be written to the logs of a run: for those who follow them.
    fn run_ended(folder: &Folder) -> bool {
        observe(folder).ok().flatten().is_none_or(|(_, observed)| observed.running().is_none())
    }
}

/// Reads what is stored of a workspace and looks at what is true. `None` when there is no record: a folder without one
/// is a create that was cut short before it was anything.
fn observe(folder: &Folder) -> Result<Option<(Record, Observed)>> {
    // The locks first: an operation that ends meanwhile has written its record before it gave its lock back.
    let operation = Lock::is_held(&folder.operation_lock())?;
    let supervised = Lock::is_held(&folder.supervisor_lock())?;
    let Some(record) = read_json::<Record>(&folder.record())? else { return Ok(None) };
    let run = read_json(&folder.run_record())?;
    let stop = read_json(&folder.stop_record())?;
    let unprepared = read_json(&folder.unprepared_record())?;
    let boot = crate::local::process_id::boot();
    Ok(Some((record, Observed { operation, supervised, run, stop, unprepared, boot })))
}

fn capabilities(hierarchy: &Hierarchy) -> Capabilities {
    let (cpu, memory) = hierarchy.enforcement();
    let disk = Enforcement::NotEnforced { reason: "folders of this machine have no quota".into() };
    Capabilities {
        isolations: vec![Isolation::Default, Isolation::Process, Isolation::None],
        checkout: true,
        setup: true,
        images: false,
        durable: true,
        commands: CommandCapabilities {
            exec: true,
            shell: true,
            terminal: true,
            signals: true,
            detach: true,
        },
        connect: true,
        copy: true,
        agent: true,
        logs: true,
        events: true,
        idle_timeout: true,
        time_to_live: true,
        limits: LimitCapabilities { cpu, memory, disk },
        sandbox: SandboxCapabilities {
            files: cfg!(target_os = "linux"),
            processes: cfg!(target_os = "linux"),
        },
    }
}

#[async_trait]
impl Provider for ProcessProvider {
    fn name(&self) -> &ProviderName {
        &self.0.name
    }

    fn capabilities(&self) -> &Capabilities {
        &self.0.capabilities
    }

    fn capabilities_of(&self, spec: &WorkspaceSpec) -> Capabilities {
        let setup = spec.isolation != Isolation::None || self.0.set_up_without_sandbox;
        Capabilities { setup, ..self.capabilities().clone() }
    }

    async fn create_workspace(
        &self,
        name: &WorkspaceName,
        spec: &WorkspaceSpec,
        options: CreateOptions,
    ) -> Result<Workspace> {
        let timeout = options.timeout;
        within(Operation::Create, name, timeout, self.create(name, spec, options.progress)).await
    }

    async fn delete_workspace(&self, name: &WorkspaceName, options: DeleteOptions) -> Result<Deletion> {
        within(Operation::Delete, name, options.timeout, self.delete(name, &options.progress)).await
    }

    async fn start_workspace(&self, name: &WorkspaceName, options: StartOptions) -> Result<Workspace> {
        within(Operation::Start, name, options.timeout, self.start(name, &options.progress)).await
    }

    async fn stop_workspace(&self, name: &WorkspaceName, options: StopOptions) -> Result<Workspace> {
        let stop = self.stop(name, options.grace_period, &options.progress);
        within(Operation::Stop, name, options.timeout, stop).await
    }

    async fn workspace_status(&self, name: &WorkspaceName, options: StatusOptions) -> Result<Workspace> {
        within(Operation::Status, name, options.timeout, self.status(name)).await
    }

    fn list_workspaces(&self, options: ListOptions) -> BoxStream<'static, Result<Workspace>> {
        let provider = self.clone();
        let listed = async move {
            let timeout = options.timeout;
            let listed = tokio::time::timeout(timeout, provider.list(&options)).await;
            listed
                .unwrap_or_else(|_| Err(Error::timeout(Operation::List.as_str(), timeout)))
                .unwrap_or_else(|error| vec![Err(error.during(Operation::List.as_str()))])
        };
        futures::stream::once(listed).flat_map(futures::stream::iter).boxed()
    }

    async fn exec(&self, name: &WorkspaceName, request: ExecRequest) -> Result<ExecSession> {
        let timeout = request.start_timeout;
        within(Operation::Exec, name, timeout, self.start_command(name, request)).await
    }

    async fn connect(&self, name: &WorkspaceName, request: ConnectRequest) -> Result<ByteStream> {
        let connect =
            async { self.agent(Operation::Connect, name).await?.connect_port(request.port.get()).await };
        within(Operation::Connect, name, request.timeout, connect).await
    }

    async fn upload(&self, name: &WorkspaceName, request: UploadRequest) -> Result<u64> {
        let timeout = request.timeout;
        let upload = async {
            self.agent(Operation::Upload, name).await?.upload(&request.folder, request.archive).await
        };
        within(Operation::Upload, name, timeout, upload).await
    }

    async fn download(&self, name: &WorkspaceName, request: DownloadRequest) -> Result<ByteReader> {
        let download = async {
            let archive = self.agent(Operation::Download, name).await?.download(&request.path).await?;
            Ok(Box::pin(archive) as ByteReader)
        };
        within(Operation::Download, name, request.timeout, download).await
    }

    async fn agent_status(&self, name: &WorkspaceName, options: StatusOptions) -> Result<AgentStatus> {
        let ask = async { self.agent(Operation::AgentStatus, name).await?.status().await };
        within(Operation::AgentStatus, name, options.timeout, ask).await
    }

    async fn workspace_logs(
        &self,
        name: &WorkspaceName,
        options: LogsOptions,
    ) -> Result<BoxStream<'static, Result<LogLine>>> {
        let read = async {
            self.0.faults.at(Operation::Logs, "read").await?;
            self.found(name).await?;
            let folder = self.0.root.folder(name);
            let log = folder.log();
            let ended = move || Self::run_ended(&folder);
            journal::read(log, options.tail, options.follow.then_some(ended)).await
        };
        within(Operation::Logs, name, options.timeout, read).await
    }

    async fn workspace_events(
        &self,
        name: &WorkspaceName,
        options: EventsOptions,
    ) -> Result<BoxStream<'static, Result<Event>>> {
        let read = async {
            self.0.faults.at(Operation::Events, "read").await?;
            self.found(name).await?;
            let folder = self.0.root.folder(name);
            let events = folder.events();
            let ended = move || !folder.record().exists();
            journal::read(events, None, options.follow.then_some(ended)).await
        };
        within(Operation::Events, name, options.timeout, read).await
    }
}
