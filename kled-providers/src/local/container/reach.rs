//! The way to a workspace's agent: a program in its container, run through the engine, kept for the calls that follow.

use std::time::Duration;

use futures::TryStreamExt;
use kled_core::provider::{Command, ExecSession, LogsOptions};
use kled_core::workspace::{Decision, Operation};
use kled_core::{Error, ErrorKind, Result, WorkspaceName};

use super::Context;
use super::agent;
use super::exec::bridge;
use super::logs::lines_of;
use super::marks::{Marks, object_name};
use super::state::Observation;
use crate::agent::AgentClient;
use crate::variables;

/// What an agent may take to answer for the first time. It listens milliseconds after its start.
const AGENT_LIMIT: Duration = Duration::from_secs(30);

/// A workspace whose agent answers.
pub(super) type Reached = crate::agent::Reached<Marks>;

/// How a workspace that runs is worked in.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// Through its agent.
    Agent(Box<Reached>),
    /// Through its shell: it was made without an agent.
    Shell(Box<Marks>),
}

impl Context {
    /// How `operation` gets into a workspace that runs.
    pub(super) async fn way(&self, operation: Operation, name: &WorkspaceName) -> Result<Way> {
        self.faults.at(operation, "look").await?;
        if let Some(reached) = self.agents.get(name) {
            return Ok(Way::Agent(Box::new(reached)));
        }
        let object = object_name(name);
        let claim = self.engine.volume(&object).await?;
        let container = self.engine.container(&object).await?;
        let mut observation = Observation { claim, container, ..Observation::default() };
        if !observation.status(false, self.boot).is_running() {
            observation = self.look(name).await?;
        }
        let labels = observation.labels().ok_or_else(|| Error::workspace_not_found(name))?;
        let status = self.status_of(name, &observation).await;
        if status.decide(operation) != Decision::Satisfied {
            return Err(status.refusal(operation, name));
        }
        let marks = Marks::read(labels)?;
        if !observation.has_agent() {
            return Ok(Way::Shell(Box::new(marks)));
        }
        let client = self.unless_lost(operation, name, self.connect_agent(&object).await).await?;
        let reached = Reached { marks, client };
        self.agents.keep(name, reached.clone());
        Ok(Way::Agent(Box::new(reached)))
    }

    /// The agent of a workspace that `operation` needs.
    pub(super) async fn reach(&self, operation: Operation, name: &WorkspaceName) -> Result<AgentClient> {
        match self.way(operation, name).await? {
            Way::Agent(reached) => Ok(reached.client),
            Way::Shell(_) => {
                Err(Error::new(ErrorKind::Unsupported, "the workspace was made without an agent")
                    .hint("give the provider the agent's program, and create the workspace anew"))
            }
        }
    }

    /// What is true of a workspace whose connection was lost: stopped or gone, where the engine says so.
    pub(super) async fn instead_of_lost(
        &self,
        operation: Operation,
        name: &WorkspaceName,
        error: Error,
    ) -> Error {
        if !matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Conflict) {
            return error;
        }
        match self.look(name).await {
            Ok(observation) if observation.is_nothing() => Error::workspace_not_found(name).because(error),
            Ok(observation) => {
                let status = self.status_of(name, &observation).await;
                match status.decide(operation) {
                    Decision::Satisfied => error,
                    _ => status.refusal(operation, name).because(error),
                }
            }
            Err(_) => error,
        }
    }

    /// The result of a call to an agent, or what is true where its connection was lost.
    pub(super) async fn unless_lost<T>(
        &self,
        operation: Operation,
        name: &WorkspaceName,
        result: Result<T>,
    ) -> Result<T> {
        match result {
            Ok(value) => Ok(value),
            Err(error) => Err(self.instead_of_lost(operation, name, error).await),
        }
    }

    /// Opens a connection to the agent of a container and asks it once.
    pub(super) async fn connect_agent(&self, container: &str) -> Result<AgentClient> {
        let connect = async {
            let (stream, token) = bridge::open(&self.engine, container).await?;
            let client = AgentClient::connect_far(stream, &token).await?;
            client.status().await.map(|_| client)
        };
        let late = |_| {
            Err(Error::new(ErrorKind::Unavailable, "the agent of the workspace does not answer").temporary())
        };
        tokio::time::timeout(AGENT_LIMIT, connect).await.unwrap_or_else(late)
    }

    /// The agent of a container that was just started.
    pub(super) async fn connect_started(&self, container: &str) -> Result<AgentClient> {
        match self.connect_agent(container).await {
            Ok(client) => Ok(client),
            Err(error) => {
                let failed = Error::new(ErrorKind::Unavailable, "the agent of the workspace did not start")
                    .hint("the agent's program has to be static and for the engine's architecture");
                let last = self.last_line(container).await;
                let failed = last.into_iter().fold(failed, |failed, line| failed.with("log", line));
                Err(failed.because(error))
            }
        }
    }

    /// What the container said last. Best effort.
    async fn last_line(&self, container: &str) -> Option<String> {
        let options = LogsOptions { tail: Some(1), ..LogsOptions::default() };
        let lines = lines_of(&self.engine, container, &options, true);
        let lines = tokio::time::timeout(AGENT_LIMIT, lines.try_collect::<Vec<_>>()).await;
        lines.ok()?.ok()?.pop().map(|line| line.line)
    }

    pub(super) async fn exec_by_agent(
        &self,
        name: &WorkspaceName,
        reached: Reached,
        mut command: Command,
    ) -> Result<ExecSession> {
        let Reached { marks, client } = reached;
        variables::give(&mut command, &marks.spec, self.secrets.as_ref()).await?;
        self.faults.at(Operation::Exec, "start").await?;
        self.unless_lost(Operation::Exec, name, client.exec(command).await).await
    }
}

impl Observation {
    /// True when the finished container has an agent.
    pub(super) fn has_agent(&self) -> bool {
        let labels = self.finished().and_then(|container| container.config.as_ref()?.labels.as_ref());
        labels.is_some_and(agent::is_in)
    }
}
