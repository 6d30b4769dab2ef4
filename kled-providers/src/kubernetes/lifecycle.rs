//! Starting and stopping.

use std::time::Duration;

use jiff::Timestamp;
use kled_core::setup::Phase;
use kled_core::workspace::{Decision, Operation, Workspace, WorkspaceStatus};
use kled_core::{Error, ErrorKind, Result, WorkspaceName};

use super::Context;
use super::client::{Claimed, Only};
use super::events::Reporter;
use super::marks::Change;
use super::reach::Reached;
use super::status::Observation;
use super::watch::overtaken;

impl Context {
    async fn found(&self, name: &WorkspaceName) -> Result<(Claimed, Observation)> {
        let claimed = self.cluster.claimed(name).await?.ok_or_else(|| Error::workspace_not_found(name))?;
        let observation = self.observed_of(&claimed).await?;
        Ok((claimed, observation))
    }

    pub(super) async fn start(&self, name: &WorkspaceName, reporter: &Reporter) -> Result<Workspace> {
        self.faults.at(Operation::Start, "look").await?;
        let (claimed, observation) = loop {
            let (claimed, observation) = self.found(name).await?;
            let status = observation.status(Timestamp::now());
            match status.decide(Operation::Start) {
                Decision::Satisfied => {
                    // One that Kubernetes brought up again, or whose start was cut short, is not set up yet.
                    reporter.attach(&claimed);
                    let Reached { marks, client } = self.agent_of(Operation::Start, name).await?;
                    self.set_up(&client, &marks.spec, Phase::Start, reporter).await?;
                    return self.status(name).await;
                }
                Decision::Refuse => return Err(status.refusal(Operation::Start, name)),
                Decision::Wait if matches!(status, WorkspaceStatus::Deleting) => {
                    self.until_gone(&claimed).await?;
                }
                Decision::Wait => self.until_settled(&claimed).await?,
                Decision::Act => break (claimed, observation),
            }
        };
        reporter.attach(&claimed);
        let uid = claimed.uid();
        self.faults.at(Operation::Start, "scale").await?;
        reporter.say("Starting", "waiting for the pod");
        if observation.has_pods() && observation.obstacle().is_some_and(|obstacle| obstacle.is_final) {
            // What stood in the way may be gone: a new pod finds out at once.
            self.cluster.end_pod(name, 0).await?;
        }
        let only = Only { uid, version: None };
        let change = Change::default().started();
        let marks = self.cluster.change(name, only, &change, Some(1)).await?.ok_or_else(overtaken)?.marks;
        self.faults.at(Operation::Start, "agent").await?;
        let token = self.cluster.token(name).await?;
        let client = self.until_reachable(name, uid, &token).await?;
        self.set_up(&client, &marks.spec, Phase::Start, reporter).await?;
        self.agents.keep(name, Reached { marks, client });
        reporter.say("Started", "the workspace is running");
        self.status(name).await
    }

    pub(super) async fn stop(
        &self,
        name: &WorkspaceName,
        grace: Duration,
        reporter: &Reporter,
    ) -> Result<Workspace> {
        self.agents.forget(name);
        self.faults.at(Operation::Stop, "look").await?;
        let (claimed, observation) = loop {
            let (claimed, observation) = self.found(name).await?;
            let status = observation.status(Timestamp::now());
            match status.decide(Operation::Stop) {
                Decision::Satisfied | Decision::Act => break (claimed, observation),
                Decision::Refuse => return Err(status.refusal(Operation::Stop, name)),
                Decision::Wait if matches!(status, WorkspaceStatus::Deleting) => {
                    self.until_gone(&claimed).await?;
                }
                Decision::Wait => self.until_settled(&claimed).await?,
            }
        };
        reporter.attach(&claimed);
        let was_running = observation.has_pods();
        if was_running {
            self.faults.at(Operation::Stop, "scale").await?;
            self.keep_log(&claimed).await;
            let only = Only { uid: claimed.uid(), version: None };
            let change = Change::default().stopped(Timestamp::now());
            self.cluster.change(name, only, &change, Some(0)).await?.ok_or_else(overtaken)?;
        }
        self.faults.at(Operation::Stop, "end").await?;
        // Stopped is what has no pod any more, also for whoever finds a stop that was cut short.
        if observation.pod.is_some() {
            let seconds = u32::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
            self.cluster.end_pod(name, seconds.max(1)).await?;
            let uid = observation.pod.as_ref().and_then(|pod| pod.metadata.uid.as_deref());
            self.until_no_pod(name, uid).await?;
        }
        if was_running {
            reporter.say("Stopped", "the workspace is stopped");
        }
        let (_, observation) = self.found(name).await?;
        if observation.has_pods() {
            return Err(Error::new(ErrorKind::Conflict, "the workspace was started meanwhile"));
        }
        Ok(self.workspace(&observation))
    }
}
