//! The reference implementation of [`Provider`]: workspaces in memory, with a few built-in programs.

mod backend;
mod builder;
mod journal;
mod lease;
mod program;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryFutureExt};
use jiff::Timestamp;

pub use backend::MemoryBackend;
use backend::{Found, Record};
pub use builder::MemoryProviderBuilder;
use lease::{Context, DeleteLease, Step};
use program::Surroundings;

use super::deadline::within;
use super::{
    Capabilities, Command, CommandCapabilities, CreateOptions, DeleteOptions, Deletion, Event, EventsOptions,
    ExecRequest, ExecSession, Faults, ListOptions, LogLine, LogsOptions, Progress, Provider, StartOptions,
    StatusOptions, StopOptions,
};
use crate::ports::SecretSource;
use crate::workspace::{Isolation, Operation, Workspace, WorkspaceSpec};
use crate::{Error, ErrorKind, ProviderName, Result, WorkspaceId, WorkspaceName};
use journal::Journal;

/// Where a [`MemoryProvider`] has its times from. It must not call the provider.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Workspaces in memory: the reference implementation, for tests and examples.
///
/// It keeps every promise of [`Provider`] and checks nothing out. Its commands are built in and touch nothing outside:
/// `echo`, `cat`, `tee`, `head -c`, `env`, `pwd`, `sleep`, `true` and `false`; `/dev/zero` can be read. The files that
/// they write belong to the workspace. By default its clock counts from the Unix epoch, one second at each reading, so
/// that what it answers is the same in every run.
///
/// ```
/// use kled_core::WorkspaceName;
/// use kled_core::provider::{MemoryProvider, ProviderExt};
/// use kled_core::workspace::WorkspaceSpec;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kled_core::Result<()> {
/// let provider = MemoryProvider::new();
/// let name = WorkspaceName::new("demo")?;
/// let spec = WorkspaceSpec::builder("https://github.com/org/app").environment("LEVEL", "info").build()?;
/// provider.create(&name, &spec).await?;
/// assert_eq!(provider.run(&name, ["env"]).await?.stdout, b"LEVEL=info\n");
///
/// provider.stop(&name).await?;
/// assert!(provider.run(&name, ["env"]).await.is_err());
/// # Ok(())
/// # }
/// ```
pub struct MemoryProvider {
    name: ProviderName,
    capabilities: Capabilities,
    backend: MemoryBackend,
    faults: Faults,
    clock: Clock,
    secrets: Arc<dyn SecretSource>,
}

fn capabilities() -> Capabilities {
    Capabilities {
        isolations: vec![Isolation::Default, Isolation::None],
        commands: CommandCapabilities { exec: true, ..CommandCapabilities::default() },
        logs: true,
        events: true,
        ..Capabilities::default()
    }
}

impl Default for MemoryProvider {
    fn default() -> Self {
        Self::new()
    }
}

/// The steps of an operation, in order, with the reasons of their events.
const fn numbered<const TOTAL: usize>(names: [(&'static str, &'static str); TOTAL]) -> [Step; TOTAL] {
    let mut steps = [Step { name: "", reason: "", number: 0, total: TOTAL as u32 }; TOTAL];
    let mut index = 0;
    while index < TOTAL {
        steps[index].name = names[index].0;
        steps[index].reason = names[index].1;
        steps[index].number = index as u32 + 1;
        index += 1;
    }
    steps
}

/// Asked of the backend before anything else.
const INSPECT: &str = "inspect";

const CREATE_STEPS: [Step; 3] =
    numbered([("checkout", "CheckingOut"), ("start", "Starting"), ("ready", "Ready")]);
const START_STEPS: [Step; 2] = numbered([("start", "Starting"), ("ready", "Ready")]);
const STOP_STEPS: [Step; 2] = numbered([("end-commands", "EndingCommands"), ("stop", "Stopped")]);
const DELETE_STEPS: [Step; 2] = numbered([("stop", "Stopping"), ("remove", "Removing")]);

impl MemoryProvider {
    /// A provider named `memory` on a backend of its own.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Begins a provider with other settings.
    pub fn builder() -> MemoryProviderBuilder {
        MemoryProviderBuilder::new()
    }

    fn context(&self, operation: Operation, name: &WorkspaceName, progress: Progress) -> Context {
        Context {
            backend: self.backend.clone(),
            provider: self.name.clone(),
            name: name.clone(),
            operation,
            progress,
            faults: self.faults.clone(),
            clock: Arc::clone(&self.clock),
        }
    }

    /// Looks until no other call is in the way.
    async fn settle(
        &self,
        mut look: impl FnMut(Option<WorkspaceId>) -> Result<Found> + Send,
    ) -> Result<Found> {
        let mut joined = None;
        // Subscribed before the first look, so that no change is missed between a look and the wait.
        let mut changes = self.backend.changes();
        loop {
            match look(joined)? {
                Found::Busy(creating) => joined = joined.or(creating),
                found => return Ok(found),
            }
            if changes.changed().await.is_err() {
                return Err(Error::new(ErrorKind::Internal, "the memory backend is gone"));
            }
        }
    }

    async fn create(&self, context: Context, spec: &WorkspaceSpec) -> Result<Workspace> {
        self.check(spec)?;
        self.faults.at(Operation::Create, "reserve").await?;
        let found = self.settle(|joined| self.backend.find_or_reserve(&context, spec, joined)).await?;
        let mut lease = match found {
            Found::Claimed(lease) => lease,
            Found::Satisfied(workspace) => return Ok(*workspace),
            Found::Busy(_) => return Err(unsettled()),
        };
        let [checkout, start, ready] = CREATE_STEPS;
        lease.step(checkout, |record, _| record.files.clear()).await?;
        lease.step(start, |record, now| record.log(now, "starting")).await?;
        lease.step(ready, Record::run).await?;
        lease.finish()
    }

    /// What this backend cannot do is refused before anything is made.
    fn check(&self, spec: &WorkspaceSpec) -> Result<()> {
        let unsupported = |message: &str| Err(Error::new(ErrorKind::Unsupported, message));
        if spec.image.is_some() {
            return unsupported("workspaces in memory have no image");
        }
        if !self.capabilities.isolations.contains(&spec.isolation) {
            return unsupported("workspaces in memory have no such isolation");
        }
        spec.resources.refuse_extended()
    }

    async fn start(&self, context: Context) -> Result<Workspace> {
        self.faults.at(Operation::Start, INSPECT).await?;
        let mut lease = match self.settle(|_| self.backend.find(&context)).await? {
            Found::Claimed(lease) => lease,
            Found::Satisfied(workspace) => return Ok(*workspace),
            Found::Busy(_) => return Err(unsettled()),
        };
        let [start, ready] = START_STEPS;
        lease.step(start, |record, now| record.log(now, "starting")).await?;
        lease.step(ready, Record::run).await?;
        lease.finish()
    }

    async fn stop(&self, context: Context) -> Result<Workspace> {
        self.faults.at(Operation::Stop, INSPECT).await?;
        let mut lease = match self.settle(|_| self.backend.find(&context)).await? {
            Found::Claimed(lease) => lease,
            Found::Satisfied(workspace) => return Ok(*workspace),
            Found::Busy(_) => return Err(unsettled()),
        };
        let [end_commands, stop] = STOP_STEPS;
        lease.step(end_commands, Record::end_commands).await?;
        lease.step(stop, Record::stop).await?;
        lease.finish()
    }

    async fn delete(&self, context: Context) -> Result<Deletion> {
        self.faults.at(Operation::Delete, INSPECT).await?;
        self.faults.at(Operation::Delete, "mark").await?;
        let Some(lease) = DeleteLease::take_over(context) else { return Ok(Deletion::default()) };
        let [stop, remove] = DELETE_STEPS;
        lease.step(stop, |record, _| record.halt()).await?;
        lease.step(remove, |_, _| {}).await?;
        Ok(lease.remove())
    }

    async fn start_command(&self, context: Context, command: Command) -> Result<ExecSession> {
        if command.terminal.is_some() || command.detached {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "commands in memory have no terminal and cannot be detached",
            )
            .during(Operation::Exec.as_str()));
        }
        self.faults.at(Operation::Exec, INSPECT).await?;
        let Found::Satisfied(workspace) = self.settle(|_| self.backend.find(&context)).await? else {
            return Err(unsettled());
        };
        let environment = self.environment(&workspace.spec, &command).await?;
        self.faults.at(Operation::Exec, "spawn").await?;
        let run = self.backend.read(&context.name, workspace.id, |record| record.run.clone()).flatten();
        let run = run.ok_or_else(|| {
            // It was stopped or deleted since the look above.
            Error::new(ErrorKind::InvalidState, "the workspace is stopped").with("workspace", &context.name)
        })?;
        program::start(&command, Surroundings::new(&self.backend, &workspace, environment), &run)
    }

    async fn environment(&self, spec: &WorkspaceSpec, command: &Command) -> Result<BTreeMap<String, String>> {
        let plain = spec.environment.iter().map(|(name, value)| (name.to_string(), value.clone()));
        let mut environment: BTreeMap<_, _> = plain.collect();
        for (name, reference) in &spec.secrets {
            environment.insert(name.to_string(), self.secrets.secret(reference).await?.expose().to_owned());
        }
        environment.extend(command.environment.0.clone());
        Ok(environment)
    }

    /// The entries of a journal from `position` on; goes on with new ones while `follow` says so.
    fn entries<T: Clone + Send + 'static>(
        &self,
        workspace: &Workspace,
        position: u64,
        journal: fn(&Record) -> &Journal<T>,
        follow: fn(&Record) -> bool,
    ) -> BoxStream<'static, Result<T>> {
        let (backend, name, id) = (self.backend.clone(), workspace.name.clone(), workspace.id);
        let changes = backend.changes();
        let read = move |position| {
            backend.read(&name, id, |record| (journal(record).since(position), follow(record)))
        };
        futures::stream::unfold((position, changes, true), move |(position, mut changes, more)| {
            let read = read.clone();
            async move {
                let mut more = more;
                while more {
                    let ((entries, next), goes_on) = read(position)?;
                    if !entries.is_empty() {
                        return Some((
                            futures::stream::iter(entries.into_iter().map(Ok)),
                            (next, changes, goes_on),
                        ));
                    }
                    more = goes_on && changes.changed().await.is_ok();
                }
                None
            }
        })
        .flatten()
        .boxed()
    }

    async fn inspect(&self, operation: Operation, name: &WorkspaceName) -> Result<Workspace> {
        self.faults.at(operation, INSPECT).await?;
        let records = self.backend.records();
        let record =
            records.get(name).ok_or_else(|| Error::workspace_not_found(name).during(operation.as_str()))?;
        Ok(record.workspace(name, &self.name))
    }
}

fn unsettled() -> Error {
    Error::new(ErrorKind::Internal, "the workspace is in an unexpected state")
}

#[async_trait]
impl Provider for MemoryProvider {
    fn name(&self) -> &ProviderName {
        &self.name
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
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
        let context = self.context(Operation::Create, name, options.progress);
        within(Operation::Create, options.timeout, self.create(context, spec)).await
    }

    async fn delete_workspace(&self, name: &WorkspaceName, options: DeleteOptions) -> Result<Deletion> {
        let context = self.context(Operation::Delete, name, options.progress);
        within(Operation::Delete, options.timeout, self.delete(context)).await
    }

    async fn start_workspace(&self, name: &WorkspaceName, options: StartOptions) -> Result<Workspace> {
        let context = self.context(Operation::Start, name, options.progress);
        within(Operation::Start, options.timeout, self.start(context)).await
    }

    async fn stop_workspace(&self, name: &WorkspaceName, options: StopOptions) -> Result<Workspace> {
        let context = self.context(Operation::Stop, name, options.progress);
        within(Operation::Stop, options.timeout, self.stop(context)).await
    }

    async fn workspace_status(&self, name: &WorkspaceName, options: StatusOptions) -> Result<Workspace> {
        within(Operation::Status, options.timeout, self.inspect(Operation::Status, name)).await
    }

    fn list_workspaces(&self, options: ListOptions) -> BoxStream<'static, Result<Workspace>> {
        let (backend, provider, faults) = (self.backend.clone(), self.name.clone(), self.faults.clone());
        let timeout = options.timeout;
        let list = async move {
            faults.at(Operation::List, INSPECT).await?;
            let records = backend.records();
            let workspaces = records.iter().map(|(name, record)| record.workspace(name, &provider));
            let matching: Vec<_> =
                workspaces.filter(|workspace| options.matches(workspace)).map(Ok).collect();
            Ok(futures::stream::iter(matching))
        };
        within(Operation::List, timeout, list).try_flatten_stream().boxed()
    }

    async fn exec(&self, name: &WorkspaceName, request: ExecRequest) -> Result<ExecSession> {
        let context = self.context(Operation::Exec, name, Progress::none());
        within(Operation::Exec, request.start_timeout, self.start_command(context, request.command)).await
    }

    async fn workspace_logs(
        &self,
        name: &WorkspaceName,
        options: LogsOptions,
    ) -> Result<BoxStream<'static, Result<LogLine>>> {
        let workspace = within(Operation::Logs, options.timeout, self.inspect(Operation::Logs, name)).await?;
        let tail = |record: &Record| options.tail.map_or(0, |count| record.logs.tail(count));
        let position = self.backend.read(name, workspace.id, tail).unwrap_or_default();
        let follow = if options.follow { |record: &Record| record.run.is_some() } else { |_: &Record| false };
        Ok(self.entries(&workspace, position, |record| &record.logs, follow))
    }

    async fn workspace_events(
        &self,
        name: &WorkspaceName,
        options: EventsOptions,
    ) -> Result<BoxStream<'static, Result<Event>>> {
        let workspace =
            within(Operation::Events, options.timeout, self.inspect(Operation::Events, name)).await?;
        let follow = if options.follow { |_: &Record| true } else { |_: &Record| false };
        Ok(self.entries(&workspace, 0, |record| &record.events, follow))
    }
}

impl fmt::Debug for MemoryProvider {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MemoryProvider")
            .field("name", &self.name)
            .field("backend", &self.backend)
            .finish_non_exhaustive()
    }
}
