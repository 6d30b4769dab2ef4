//! The way to the agent: a port-forward through the API server, kept open for the calls that follow.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kled_core::provider::{Command, ExecSession, ListOptions};
use kled_core::workspace::{
    Checkout, Condition, ConditionStatus, Decision, Operation, Workspace, WorkspaceStatus,
};
use kled_core::{Error, ErrorKind, Result, WorkspaceName};
use kube::api::ListParams;

use super::Context;
use super::client::Claimed;
use super::error::from_kube;
use super::forward::Forward;
use super::marks::{COMPONENT, MANAGED_BY, Marks, pod_name};
use super::objects::{AGENT_PORT, CHECKOUT};
use super::status::{Answer, Observation};
use crate::agent::{AgentClient, Token};
use crate::variables;

/// How long an agent may take to answer when only its state is asked for.
const PING_LIMIT: Duration = Duration::from_millis(1500);

/// A workspace whose agent answers.
pub(super) type Reached = crate::agent::Reached<Marks>;

impl Context {
    /// Opens a connection to the agent and asks it once, so that it is known to be the right one.
    pub(super) async fn connect_agent(
        &self,
        name: &WorkspaceName,
        token: &Token,
    ) -> Result<(AgentClient, Answer)> {
        let forward = self.cluster.forward(&pod_name(name), AGENT_PORT).await?;
        shake_hands(forward, token).await
    }

    /// The agent of a workspace that `operation` can reach.
    pub(super) async fn reach(&self, operation: Operation, name: &WorkspaceName) -> Result<Reached> {
        self.faults.at(operation, "look").await?;
        self.agent_of(operation, name).await
    }

    /// The same as a part of an operation.
    pub(super) async fn agent_of(&self, operation: Operation, name: &WorkspaceName) -> Result<Reached> {
        if let Some(reached) = self.agents.get(name) {
            return Ok(reached);
        }
        // All at once: most of the time the workspace runs.
        let (claimed, agent) = tokio::join!(self.cluster.claimed(name), self.connect(name));
        let Claimed { marks, set } = claimed?.ok_or_else(|| Error::workspace_not_found(name))?;
        let answer = match &agent {
            Ok((_, answer)) => answer.clone(),
            Err(error) => Answer::Silent(error.to_string()),
        };
        let (pod, claim, events) = (None, None, Vec::new());
        let observation = Observation { marks, set, pod, claim, events, agent: Some(answer) };
        let status = observation.status(Timestamp::now());
        let client = match agent {
            Ok((client, _)) if status.decide(operation) == Decision::Satisfied => client,
            Err(error) if observation.has_pods() => {
                let status = self.observed(name).await?.status(Timestamp::now());
                if !status.is_running() {
                    return Err(status.refusal(operation, name).because(error));
                }
                // It came up between the two looks, or the kubelet does not know yet that it is gone.
                self.connect(name).await?.0
            }
            _ => return Err(status.refusal(operation, name)),
        };
        let reached = Reached { marks: observation.marks, client };
        self.agents.keep(name, reached.clone());
        Ok(reached)
    }

    /// Opens a connection to the agent with the token that the cluster has.
    async fn connect(&self, name: &WorkspaceName) -> Result<(AgentClient, Answer)> {
        let pod = pod_name(name);
        let asked = tokio::try_join!(self.cluster.token(name), self.cluster.forward(&pod, AGENT_PORT));
        let (token, forward) = asked?;
        shake_hands(forward, &token).await
    }

    pub(super) async fn exec(&self, name: &WorkspaceName, mut command: Command) -> Result<ExecSession> {
        let Reached { marks, client } = self.reach(Operation::Exec, name).await?;
        variables::give(&mut command, &marks.spec, self.secrets.as_ref()).await?;
        self.faults.at(Operation::Exec, "start").await?;
        client.exec(command).await
    }

    /// What the cluster shows of a workspace, without asking its agent.
    async fn observed(&self, name: &WorkspaceName) -> Result<Observation> {
        let (claimed, pod, claim) = tokio::try_join!(
            self.cluster.claimed(name),
            self.cluster.pod(name),
            self.cluster.volume_claim(name)
        )?;
        self.explained(claimed.ok_or_else(|| Error::workspace_not_found(name))?, pod, claim).await
    }

    /// What the cluster shows of a StatefulSet that was just read.
    pub(super) async fn observed_of(&self, claimed: &Claimed) -> Result<Observation> {
        let name = &claimed.marks.name;
        let (pod, claim) = tokio::try_join!(self.cluster.pod(name), self.cluster.volume_claim(name))?;
        self.explained(claimed.clone(), pod, claim).await
    }

    /// Adds the warnings, where something does not run that should.
    async fn explained(
        &self,
        Claimed { marks, set }: Claimed,
        pod: Option<Pod>,
        claim: Option<PersistentVolumeClaim>,
    ) -> Result<Observation> {
        let mut observation = Observation { marks, set, pod, claim, events: Vec::new(), agent: None };
        if observation.has_pods() && !observation.has_started() {
            observation.events = self.warnings(&observation.marks.name).await?;
        }
        Ok(observation)
    }

    pub(super) async fn status(&self, name: &WorkspaceName) -> Result<Workspace> {
        self.faults.at(Operation::Status, "read").await?;
        let mut observation = self.observed(name).await?;
        if observation.has_node() {
            observation.agent = self.ping(name).await?;
        }
        Ok(self.workspace(&observation))
    }

    /// Whether the agent answers now: what the kubelet last said may be old. `None` when the caller may not ask it.
    async fn ping(&self, name: &WorkspaceName) -> Result<Option<Answer>> {
        let known = async {
            let status = self.agents.get(name)?.client.status().await.ok()?;
            Some(Answer::Up { started: status.started })
        };
        if let Ok(Some(answer)) = tokio::time::timeout(PING_LIMIT, known).await {
            return Ok(Some(answer));
        }
        // That the API server does not give the token says nothing of the agent.
        let token = match self.cluster.token(name).await {
            Ok(token) => token,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(None),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Some(Answer::Silent(error.message().to_owned())));
            }
            Err(error) => return Err(error),
        };
        let answer = match tokio::time::timeout(PING_LIMIT, self.connect_agent(name, &token)).await {
            Ok(Ok((_, answer))) => answer,
            Ok(Err(error)) => Answer::Silent(error.message().to_owned()),
            Err(_) => Answer::Silent("it did not in time".into()),
        };
        Ok(Some(answer))
    }

    pub(super) async fn list(&self, options: &ListOptions) -> Result<Vec<Result<Workspace>>> {
        self.faults.at(Operation::List, "read").await?;
        let mut selector = format!("{}={},{}={}", MANAGED_BY.0, MANAGED_BY.1, COMPONENT.0, COMPONENT.1);
        for (key, value) in &options.labels {
            selector.push_str(&format!(",{key}={value}"));
        }
        let parameters = ListParams::default().labels(&selector);
        let (sets, pods) = (self.cluster.sets(), self.cluster.pods());
        let (sets, pods) =
            tokio::try_join!(sets.list(&parameters), pods.list(&parameters)).map_err(from_kube)?;
        let mut pods: HashMap<String, _> =
            pods.items.into_iter().filter_map(|pod| Some((pod.metadata.name.clone()?, pod))).collect();
        let read = sets.items.into_iter().filter_map(|set| {
            let marks = match Marks::read(&set.metadata).transpose()? {
                Ok(marks) => marks,
                Err(error) => return Some(Err(error)),
            };
            let pod = pods.remove(&pod_name(&marks.name));
            let (claim, events, agent) = (None, Vec::new(), None);
            Some(Ok(self.workspace(&Observation { marks, set, pod, claim, events, agent })))
        });
        Ok(read.collect())
    }

    /// What is told of a workspace.
    pub(super) fn workspace(&self, observation: &Observation) -> Workspace {
        let marks = &observation.marks;
        let status = observation.status(Timestamp::now());
        let path = marks.spec.source.folder(CHECKOUT);
        let checkout = marks.commit.clone().map(|commit| Checkout { path, commit });
        let mut conditions = conditions(observation);
        if let Some(answer) = &observation.agent {
            let (holds, reason, message) = match answer {
                Answer::Up { started } => (true, "Answers", format!("it answers and began at {started}")),
                Answer::Silent(why) => (false, "Silent", why.clone()),
            };
            conditions.push(Condition::new("AgentReachable", holds, reason, message));
        }
        if matches!(status, WorkspaceStatus::Running { .. } | WorkspaceStatus::Starting { .. }) {
            let resources = &marks.spec.resources;
            for (limit, asked) in [("CpuLimited", &resources.cpu), ("MemoryLimited", &resources.memory)] {
                if let Some(asked) = asked {
                    conditions.push(Condition::new(
                        limit,
                        true,
                        "Pod",
                        format!("requested and limited: {asked}"),
                    ));
                }
            }
        }
        Workspace {
            name: marks.name.clone(),
            id: marks.id,
            provider: self.name.clone(),
            spec: marks.spec.clone(),
            status,
            created: marks.created,
            checkout,
            conditions,
        }
    }
}

/// Asks the agent at the other end once, so that it is known to be the right one.
async fn shake_hands(forward: Forward, token: &Token) -> Result<(AgentClient, Answer)> {
    let client = AgentClient::connect_far(forward.stream, token).await?;
    let refused = async {
        match forward.refused.await {
            // The first line says it; the rest repeats it.
            Ok(said) => said.lines().next().unwrap_or_default().to_owned(),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        status = client.status() => Ok((client.clone(), Answer::Up { started: status?.started })),
        why = refused => {
            let silent = Error::new(ErrorKind::Unavailable, "the agent of the workspace does not answer");
            Err(silent.because(std::io::Error::other(why)))
        }
    }
}

impl Observation {
    /// True when a pod is asked for and nothing is being deleted.
    pub(super) fn has_pods(&self) -> bool {
        !self.is_deleting() && self.set.spec.as_ref().and_then(|spec| spec.replicas) != Some(0)
    }
}

/// The pod's own conditions, by their names in Kubernetes, the agent's among them.
fn conditions(observation: &Observation) -> Vec<Condition> {
    let status = observation.pod.as_ref().and_then(|pod| pod.status.as_ref());
    let conditions = status.and_then(|status| status.conditions.as_ref());
    let told = conditions.into_iter().flatten().map(|condition| Condition {
        condition_type: condition.type_.clone(),
        status: match condition.status.as_str() {
            "True" => ConditionStatus::True,
            "False" => ConditionStatus::False,
            _ => ConditionStatus::Unknown,
        },
        reason: condition.reason.clone().unwrap_or_default(),
        message: condition.message.clone().unwrap_or_default(),
    });
    told.collect()
}
