//! Looking at workspaces, starting and stopping them.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use kled_core::provider::{Enforcement, ListOptions};
use kled_core::workspace::{Checkout, Condition, Decision, Operation, Workspace, WorkspaceStatus};
use kled_core::{Error, ErrorKind, Result, WorkspaceName};
use tokio::time::Instant;

use super::body::{END_NOW_SIGNAL, END_SIGNAL, WORKSPACE_PATH};
use super::engine::Objects;
use super::marks::{Marks, WORKSPACE, object_name, of_all, of_workspace};
use super::state::Observation;
use super::{Context, Reporter};

/// How often the engine is asked again while something is waited for.
pub(super) const POLL: Duration = Duration::from_millis(100);

/// What a stop that was told to be at once may take before the container is killed.
const END_NOW: Duration = Duration::from_secs(2);

/// How many workspaces a list asks for at once.
const LOOKS: usize = 4;

impl Context {
    pub(super) async fn observe(&self, name: &WorkspaceName) -> Result<Observation> {
        let (object, label) = (object_name(name), of_workspace(name));
        // The volumes last: a claim is made before and removed before all else, so what is seen without a claim here
        // has none any more, and is not of a create that begins just now.
        let container = self.engine.container(&object).await?;
        let containers = self.engine.list(Objects::Containers, &label).await?;
        let volumes = self.engine.list(Objects::Volumes, &label).await?;
        let claim = volumes.iter().find(|volume| volume.name == object).map(|volume| volume.labels.clone());
        Ok(Observation { claim, containers, volumes, container })
    }

    pub(super) async fn status_of(&self, name: &WorkspaceName, observation: &Observation) -> WorkspaceStatus {
        let is_busy = self.under_way.is_busy(name).await;
        observation.status(is_busy, self.boot)
    }

    /// The workspace of an observation.
    pub(super) async fn workspace(
        &self,
        name: &WorkspaceName,
        observation: &Observation,
    ) -> Result<Workspace> {
        let labels = observation.labels().ok_or_else(|| Error::workspace_not_found(name))?;
        let marks = Marks::read(labels).map_err(|error| error.with("workspace", name))?;
        let finished =
            observation.finished().and_then(|container| container.config.as_ref()?.labels.as_ref());
        let commit = finished.and_then(|labels| Marks::read(labels).ok()?.commit);
        Ok(Workspace {
            status: self.status_of(name, observation).await,
            conditions: self.conditions(&marks),
            name: marks.name,
            id: marks.id,
            provider: self.name.clone(),
            spec: marks.spec,
            created: marks.created,
            checkout: commit.map(|commit| Checkout { path: WORKSPACE_PATH.into(), commit }),
        })
    }

    fn conditions(&self, marks: &Marks) -> Vec<Condition> {
        let resources = &marks.spec.resources;
        let limits = &self.capabilities.limits;
        let asked = [
            ("CpuLimited", resources.cpu.is_some(), &limits.cpu),
            ("MemoryLimited", resources.memory.is_some(), &limits.memory),
            ("DiskLimited", resources.disk.is_some(), &limits.disk),
        ];
        let limited = asked.into_iter().filter(|(_, asked, _)| *asked).map(|(kind, _, limit)| match limit {
            Enforcement::Enforced => {
                Condition::new(kind, true, "ControlGroup", "the container engine keeps it")
            }
            Enforcement::NotEnforced { reason } => Condition::new(kind, false, "NotEnforced", reason),
        });
        let sandboxed = Condition::new("Sandboxed", true, "Container", "its processes run in a container");
        std::iter::once(sandboxed).chain(limited).collect()
    }

    pub(super) async fn status(&self, name: &WorkspaceName) -> Result<Workspace> {
        self.faults.at(Operation::Status, "look").await?;
        let observation = self.observe(name).await?;
        self.workspace(name, &observation).await
    }

    pub(super) async fn list(&self, options: &ListOptions) -> Result<Vec<Result<Workspace>>> {
        self.faults.at(Operation::List, "look").await?;
        let label = of_all();
        let containers = self.engine.list(Objects::Containers, &label).await?;
        let volumes = self.engine.list(Objects::Volumes, &label).await?;
        // A label that is no name was not made by a workspace.
        let name = |listed: &super::engine::Listed| listed.labels.get(WORKSPACE)?.parse().ok();
        let names: BTreeSet<WorkspaceName> = containers.iter().chain(&volumes).filter_map(name).collect();
        let looked = stream::iter(names).map(|name| async move {
            let observation = self.observe(&name).await?;
            self.workspace(&name, &observation).await
        });
        let found: Vec<_> = looked.buffered(LOOKS).collect().await;
        Ok(found
            .into_iter()
            .filter(|result| match result {
                Ok(workspace) => options.matches(workspace),
                // Deleted since the names were listed.
                Err(error) => error.kind() != ErrorKind::NotFound,
            })
            .collect())
    }

    /// Looks until the state lets `operation` decide.
    async fn decide(&self, name: &WorkspaceName, operation: Operation) -> Result<(Workspace, Decision)> {
        loop {
            let observation = self.observe(name).await?;
            let workspace = self.workspace(name, &observation).await?;
            match workspace.status.decide(operation) {
                Decision::Wait => tokio::time::sleep(POLL).await,
                Decision::Refuse => return Err(workspace.status.refusal(operation, name)),
                decision => return Ok((workspace, decision)),
            }
        }
    }

    pub(super) async fn start(&self, name: &WorkspaceName, reporter: &Reporter) -> Result<Workspace> {
        self.faults.at(Operation::Start, "look").await?;
        let (mut workspace, mut decision) = self.decide(name, Operation::Start).await?;
        while decision == Decision::Act {
            self.faults.at(Operation::Start, "start").await?;
            reporter.say("Starting", "starting the container");
            self.engine.start_container(&object_name(name)).await?;
            // A stop beside it may have come in between; then it is started again.
            (workspace, decision) = self.decide(name, Operation::Start).await?;
        }
        reporter.say("Started", "the workspace is running");
        Ok(workspace)
    }

    pub(super) async fn stop(
        &self,
        name: &WorkspaceName,
        grace_period: Duration,
        reporter: &Reporter,
    ) -> Result<Workspace> {
        self.faults.at(Operation::Stop, "look").await?;
        let (mut workspace, mut decision) = self.decide(name, Operation::Stop).await?;
        while decision == Decision::Act {
            self.faults.at(Operation::Stop, "stop").await?;
            reporter.say("Stopping", "ending what runs in the container");
            self.end(name, grace_period).await?;
            (workspace, decision) = self.decide(name, Operation::Stop).await?;
        }
        reporter.say("Stopped", "the workspace is stopped");
        Ok(workspace)
    }

    /// Ends the container: asks, then has its main process end the rest by force, then kills that too.
    async fn end(&self, name: &WorkspaceName, grace_period: Duration) -> Result<()> {
        let container = object_name(name);
        for (signal, patience) in [(END_SIGNAL, grace_period), (END_NOW_SIGNAL, END_NOW)] {
            self.engine.signal_container(&container, signal).await?;
            if self.ends_within(&container, patience).await? {
                return Ok(());
            }
        }
        self.engine.stop_container(&container).await
    }

    async fn ends_within(&self, container: &str, patience: Duration) -> Result<bool> {
        let deadline = Instant::now() + patience;
        loop {
            let state = self.engine.container(container).await?.and_then(|container| container.state);
            if !state.and_then(|state| state.running).unwrap_or(false) {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(POLL.min(deadline - Instant::now())).await;
        }
    }
}
