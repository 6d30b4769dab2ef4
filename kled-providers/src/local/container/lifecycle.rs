//! Looking at workspaces, starting and stopping them.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use kled_core::provider::{Enforcement, ListOptions};
use kled_core::workspace::{Checkout, Condition, Decision, Operation, Workspace, WorkspaceStatus};
use kled_core::{Error, ErrorKind, Result, WorkspaceName};
use tokio::time::Instant;

use super::body::{END_NOW_SIGNAL, END_SIGNAL, working_folder};
use super::engine::Objects;
use super::marks::{Marks, WORKSPACE, object_name, of_all, of_workspace};
use super::state::Observation;
use super::{Context, Reporter};
use crate::agent::AgentClient;

/// How often the engine is asked again while something is waited for.
pub(super) const POLL: Duration = Duration::from_millis(100);

/// What a stop that was told to be at once may take before the container is killed.
const END_NOW: Duration = Duration::from_secs(2);

/// What an agent may take, beyond the grace period, to kill what is left and to end.
const AGENT_ENDS: Duration = Duration::from_secs(10);

/// How long a start looks for the agent of a container that is said to run.
const AGENT_BEGINS: Duration = Duration::from_secs(30);

/// How many workspaces a list asks for at once.
const LOOKS: usize = 4;

/// What an operation found and has to do.
struct Decided {
    workspace: Workspace,
    decision: Decision,
    has_agent: bool,
}

/// True for an error that says nothing of the set-up: the container may have been stopped meanwhile.
fn is_of_connection(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::InvalidState | ErrorKind::Conflict)
}

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
        let checkout = commit.map(|commit| Checkout { path: working_folder(&marks.spec), commit });
        let mut status = self.status_of(name, observation).await;
        if let WorkspaceStatus::Interrupted { message: message @ None, .. } = &mut status
            && let Some(attempt) = observation.attempt()
        {
            *message = self.noted_failure(attempt).await;
        }
        Ok(Workspace {
            status,
            conditions: self.conditions(&marks, observation),
            name: marks.name,
            id: marks.id,
            provider: self.name.clone(),
            spec: marks.spec,
            created: marks.created,
            checkout,
        })
    }

    fn conditions(&self, marks: &Marks, observation: &Observation) -> Vec<Condition> {
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
        let agent = observation.finished().map(|_| {
            if observation.has_agent() {
                Condition::new("Agent", true, "FirstProcess", "its first process is the workspace agent")
            } else {
                Condition::new("Agent", false, "NotGiven", "it was made without the agent's program")
            }
        });
        let sandboxed = Condition::new("Sandboxed", true, "Container", "its processes run in a container");
        std::iter::once(sandboxed).chain(agent).chain(limited).collect()
    }

    pub(super) async fn status(&self, name: &WorkspaceName) -> Result<Workspace> {
        self.faults.at(Operation::Status, "look").await?;
        let observation = self.look(name).await?;
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
            let observation = self.look(&name).await?;
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
    async fn decide(&self, name: &WorkspaceName, operation: Operation) -> Result<Decided> {
        loop {
            let observation = self.look(name).await?;
            let workspace = self.workspace(name, &observation).await?;
            match workspace.status.decide(operation) {
                Decision::Wait => tokio::time::sleep(POLL).await,
                Decision::Refuse => return Err(workspace.status.refusal(operation, name)),
                decision => {
                    return Ok(Decided { workspace, decision, has_agent: observation.has_agent() });
                }
            }
        }
    }

    pub(super) async fn start(&self, name: &WorkspaceName, reporter: &Reporter) -> Result<Workspace> {
        self.faults.at(Operation::Start, "look").await?;
        let mut decided = self.decide(name, Operation::Start).await?;
        let deadline = Instant::now() + AGENT_BEGINS;
        loop {
            if decided.decision == Decision::Act {
                self.faults.at(Operation::Start, "start").await?;
                reporter.say("Starting", "starting the container");
                self.engine.start_container(&object_name(name)).await?;
            } else if !decided.has_agent {
                break;
            } else {
                match self.prepare_started(name, &decided.workspace, reporter).await {
                    Ok(()) => break,
                    // While a stop is under way the container still is said to run.
                    Err(error) if is_of_connection(&error) && Instant::now() < deadline => {
                        tracing::debug!(workspace = %name, %error, "looking for the agent again");
                        self.agents.forget(name);
                        tokio::time::sleep(POLL).await;
                    }
                    Err(error) => return Err(error),
                }
            }
            // A stop beside it may have come in between; then it is started again.
            decided = self.decide(name, Operation::Start).await?;
        }
        reporter.say("Started", "the workspace is running");
        Ok(decided.workspace)
    }

    pub(super) async fn stop(
        &self,
        name: &WorkspaceName,
        grace_period: Duration,
        reporter: &Reporter,
    ) -> Result<Workspace> {
        self.faults.at(Operation::Stop, "look").await?;
        let mut decided = self.decide(name, Operation::Stop).await?;
        while decided.decision == Decision::Act {
            self.faults.at(Operation::Stop, "stop").await?;
            reporter.say("Stopping", "ending what runs in the container");
            self.end(name, grace_period, decided.has_agent).await?;
            decided = self.decide(name, Operation::Stop).await?;
        }
        self.agents.forget(name);
        reporter.say("Stopped", "the workspace is stopped");
        Ok(decided.workspace)
    }

    /// Ends the container: asks, then has its main process end the rest by force, then kills that too.
    async fn end(&self, name: &WorkspaceName, grace_period: Duration, has_agent: bool) -> Result<()> {
        let container = object_name(name);
        let known = self.agents.forget(name);
        if has_agent && self.end_by_agent(&container, known, grace_period).await? {
            return Ok(());
        }
        for (signal, patience) in [(END_SIGNAL, grace_period), (END_NOW_SIGNAL, END_NOW)] {
            self.engine.signal_container(&container, signal).await?;
            if self.ends_within(&container, patience).await? {
                return Ok(());
            }
        }
        self.engine.stop_container(&container).await
    }

    /// Has the agent end all commands within the grace period, and itself. False when it does not.
    async fn end_by_agent(
        &self,
        container: &str,
        known: Option<AgentClient>,
        grace_period: Duration,
    ) -> Result<bool> {
        let ask = async {
            let client = match known.filter(|client| !client.is_closed()) {
                Some(client) => client,
                None => self.connect_agent(container).await?,
            };
            client.shut_down(grace_period).await
        };
        // What does not answer is told by signals.
        match tokio::time::timeout(grace_period + AGENT_ENDS, ask).await {
            Ok(Ok(())) => self.ends_within(container, AGENT_ENDS).await,
            _ => Ok(false),
        }
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
