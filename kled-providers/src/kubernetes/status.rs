//! What is true of a workspace, from the objects of the cluster. Pure: it is given everything, the time included.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, PersistentVolumeClaim, Pod};
use kled_core::workspace::WorkspaceStatus;
use kled_core::{Error, ErrorKind};

use super::marks::Marks;
use super::objects::WORKSPACE_CONTAINER;

/// Everything that a status is decided from.
#[derive(Clone, Debug)]
pub(super) struct Observation {
    pub(super) marks: Marks,
    pub(super) set: StatefulSet,
    pub(super) pod: Option<Pod>,
    pub(super) claim: Option<PersistentVolumeClaim>,
    /// Warnings about the StatefulSet, the pod and the claim.
    pub(super) events: Vec<Event>,
    /// What the agent itself answered, where it was asked.
    pub(super) agent: Option<Answer>,
}

/// Whether the agent answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It did, and began then.
    Up { started: Timestamp },
    /// It did not, and why.
    Silent(String),
}

/// Why a pod does not run, by what can be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Obstacle {
    /// In CamelCase, as Kubernetes or its event names it.
    pub(super) reason: String,
    /// The message of Kubernetes.
    pub(super) message: String,
    pub(super) kind: ErrorKind,
    /// False for what often passes by itself.
    pub(super) is_final: bool,
}

impl Obstacle {
    pub(super) fn error(&self) -> Error {
        let message = match self.message.lines().next().filter(|line| !line.is_empty()) {
            Some(line) => format!("{}: {line}", self.reason),
            None => self.reason.clone(),
        };
        let error = Error::new(self.kind, message).with("reason", &self.reason);
        match self.kind {
            ErrorKind::ImageUnavailable => {
                error.hint("check the image's name, and that the nodes may pull it (image-pull-secrets)")
            }
            ErrorKind::QuotaExceeded => {
                error.hint("ask for less, delete other workspaces, or have the quota or the nodes raised")
            }
            _ => error,
        }
    }
}

impl Observation {
    /// How many pods are asked for.
    fn replicas(&self) -> i32 {
        self.set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    /// True while the StatefulSet is being deleted.
    pub(super) fn is_deleting(&self) -> bool {
        self.set.metadata.deletion_timestamp.is_some()
    }

    pub(super) fn status(&self, now: Timestamp) -> WorkspaceStatus {
        if self.is_deleting() {
            return WorkspaceStatus::Deleting;
        }
        let marks = &self.marks;
        if marks.commit.is_none() {
            return match marks.under_way.as_ref().filter(|under_way| under_way.is_fresh(now)) {
                Some(under_way) => WorkspaceStatus::Creating { step: under_way.step.clone() },
                None => WorkspaceStatus::Interrupted {
                    step: marks.under_way.as_ref().map_or_else(|| "create".into(), |last| last.step.clone()),
                    message: marks
                        .failure
                        .clone()
                        .or_else(|| self.obstacle().map(|obstacle| obstacle.message)),
                },
            };
        }
        if self.replicas() == 0 {
            let (reason, since) =
                marks.stop.clone().unwrap_or((kled_core::workspace::StopReason::Requested, marks.created));
            return WorkspaceStatus::Stopped { since, reason };
        }
        if let Some(Answer::Up { started }) = self.agent {
            return WorkspaceStatus::Running { since: started };
        }
        let obstacle = self.obstacle();
        match obstacle {
            Some(obstacle) if obstacle.is_final => {
                WorkspaceStatus::Failed { reason: obstacle.reason, message: obstacle.message }
            }
            _ if self.agent.is_none() && self.is_ready() => {
                WorkspaceStatus::Running { since: self.started().unwrap_or(marks.created) }
            }
            obstacle => WorkspaceStatus::Starting { message: self.waits_for(obstacle) },
        }
    }

    fn waits_for(&self, obstacle: Option<Obstacle>) -> String {
        if let Some(obstacle) = obstacle {
            return format!("{}: {}", obstacle.reason, obstacle.message);
        }
        match (&self.pod, &self.agent) {
            (None, _) => "the pod is not made yet".into(),
            (Some(pod), _) if pod.metadata.deletion_timestamp.is_some() => "the pod is being replaced".into(),
            (Some(_), Some(Answer::Silent(why))) => format!("the agent does not answer: {why}"),
            (Some(_), _) => "the pod is starting".into(),
        }
    }

    /// True when the kubelet says that the agent answers it.
    fn is_ready(&self) -> bool {
        let alive = |pod: &&Pod| pod.metadata.deletion_timestamp.is_none();
        let status = self.pod.as_ref().filter(alive).and_then(|pod| pod.status.as_ref());
        let conditions = status.and_then(|status| status.conditions.as_ref());
        conditions
            .into_iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    }

    /// True when the pod's workspace container runs, as far as the kubelet has said.
    pub(super) fn has_started(&self) -> bool {
        self.started().is_some()
    }

    /// The identity of a pod that is not on its way out.
    pub(super) fn pod_uid(&self) -> Option<&str> {
        let pod = self.pod.as_ref().filter(|pod| pod.metadata.deletion_timestamp.is_none())?;
        pod.metadata.uid.as_deref()
    }

    fn started(&self) -> Option<Timestamp> {
        let running = self.container(WORKSPACE_CONTAINER)?.state.as_ref()?.running.as_ref()?;
        running.started_at.as_ref().map(|time| time.0)
    }

    fn container(&self, name: &str) -> Option<&ContainerStatus> {
        self.containers().find(|container| container.name == name)
    }

    fn containers(&self) -> impl Iterator<Item = &ContainerStatus> {
        let status = self.pod.as_ref().and_then(|pod| pod.status.as_ref());
        let statuses = status.map(|status| (&status.init_container_statuses, &status.container_statuses));
        statuses.into_iter().flat_map(|(init, rest)| init.iter().chain(rest)).flatten()
    }

    /// What keeps the pod from running, if something does: what its containers say, then what the scheduler and the
    /// volume say, then what events say of a pod that is not even there.
    pub(super) fn obstacle(&self) -> Option<Obstacle> {
        self.containers()
            .find_map(container_obstacle)
            .or_else(|| self.pod_obstacle())
            .or_else(|| self.event_obstacle())
            .or_else(|| self.scheduling_obstacle())
    }

    fn pod_obstacle(&self) -> Option<Obstacle> {
        let status = self.pod.as_ref()?.status.as_ref()?;
        if status.phase.as_deref() != Some("Failed") {
            return None;
        }
        let reason = status.reason.clone().unwrap_or_else(|| "PodFailed".into());
        let kind = if reason == "Evicted" { ErrorKind::StorageFull } else { ErrorKind::Unavailable };
        // The StatefulSet makes another one.
        Some(Obstacle { reason, message: status.message.clone().unwrap_or_default(), kind, is_final: false })
    }

    fn scheduling_obstacle(&self) -> Option<Obstacle> {
        let status = self.pod.as_ref()?.status.as_ref()?;
        let scheduled =
            status.conditions.iter().flatten().find(|condition| condition.type_ == "PodScheduled")?;
        if scheduled.status != "False" {
            return None;
        }
        let message = scheduled.message.clone().unwrap_or_default();
        let unbound = message.contains("unbound immediate PersistentVolumeClaims");
        Some(Obstacle {
            reason: scheduled.reason.clone().unwrap_or_else(|| "Unschedulable".into()),
            kind: ErrorKind::QuotaExceeded,
            // A volume that is being made binds by itself, and says so in an event where it does not.
            is_final: !unbound && scheduled.reason.as_deref() == Some("Unschedulable"),
            message,
        })
    }

    /// What the controllers say in events, newest first, and only what is said of the objects of now.
    fn event_obstacle(&self) -> Option<Obstacle> {
        let bound = self
            .claim
            .as_ref()
            .and_then(|claim| claim.status.as_ref())
            .is_some_and(|status| status.phase.as_deref() == Some("Bound"));
        let mut events: Vec<_> = self.events.iter().filter(|event| self.concerns(event)).collect();
        events.sort_by_key(|event| std::cmp::Reverse(time(event)));
        events.into_iter().find_map(|event| {
            let message = event.message.clone().unwrap_or_default();
            let reason = event.reason.clone().unwrap_or_default();
            let (kind, is_final) = match reason.as_str() {
                "FailedCreate" if self.pod.is_none() && message.contains("exceeded quota") => {
                    (ErrorKind::QuotaExceeded, true)
                }
                "FailedCreate" if self.pod.is_none() => {
                    (ErrorKind::PermissionDenied, message.contains("forbidden"))
                }
                "ProvisioningFailed" if !bound => (ErrorKind::StorageFull, true),
                "FailedBinding" if !bound => (ErrorKind::StorageFull, true),
                "FailedMount" | "FailedAttachVolume" if !self.has_started() => {
                    (ErrorKind::StorageFull, false)
                }
                "FailedCreatePodSandBox" if !self.has_started() => (ErrorKind::Unavailable, false),
                _ => return None,
            };
            Some(Obstacle { reason, message, kind, is_final })
        })
    }

    fn concerns(&self, event: &Event) -> bool {
        let uids = [
            self.set.metadata.uid.as_deref(),
            self.pod.as_ref().and_then(|pod| pod.metadata.uid.as_deref()),
            self.claim.as_ref().and_then(|claim| claim.metadata.uid.as_deref()),
        ];
        uids.contains(&event.involved_object.uid.as_deref())
    }
}

/// When an event was last seen.
pub(super) fn time(event: &Event) -> Option<Timestamp> {
    let last = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
    last.map(|time| time.0)
        .or_else(|| event.last_timestamp.as_ref().map(|time| time.0))
        .or_else(|| event.event_time.as_ref().map(|time| time.0))
        .or_else(|| event.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

fn container_obstacle(container: &ContainerStatus) -> Option<Obstacle> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.clone().unwrap_or_default();
    let mut message = waiting.message.clone().unwrap_or_default();
    let kind = match reason.as_str() {
        "ErrImagePull"
        | "ImagePullBackOff"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "ErrImageInspect"
        | "RegistryUnavailable" => ErrorKind::ImageUnavailable,
        "CreateContainerConfigError" => ErrorKind::InvalidInput,
        "CreateContainerError" | "RunContainerError" => ErrorKind::Unavailable,
        "CrashLoopBackOff" => {
            // The back-off says nothing; how it ended before does.
            let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
            if let Some(ended) = ended {
                let why = ended.message.as_deref().or(ended.reason.as_deref()).unwrap_or("Error");
                message = format!("{} ended with exit code {}: {why}", container.name, ended.exit_code);
            }
            ErrorKind::Unavailable
        }
        _ => return None,
    };
    // A container runtime that is too slow for the kubelet, which then asks it again.
    let passes = ["deadline exceeded", "is reserved for"].iter().any(|sign| message.contains(sign));
    Some(Obstacle { reason, message, kind, is_final: !passes })
}

#[cfg(test)]
mod tests;
