//! What is true of a workspace, decided from what the engine shows.
//!
//! | claim (volume `kled-NAME`) | container `kled-NAME` of the same identity | status |
//! |---|---|---|
//! | there | none | `Creating` while a create is at it, else `Interrupted`; in the set-up where an attempt was started |
//! | there | never started | the same |
//! | there | running | `Running` |
//! | there | ended | `Stopped` |
//! | none | anything that is marked with the name | `Deleting` |
//! | none | nothing is marked | no such workspace |

use bollard::models::{ContainerInspectResponse, ContainerState, ContainerStateStatusEnum};
use jiff::Timestamp;
use kled_core::workspace::{StopReason, WorkspaceStatus};

use super::agent;
use super::engine::{Labels, Listed};
use super::marks::identity;
use crate::agent::ending;

/// Exit code of a process that signal 9 ended, as engines give it.
const KILLED: i64 = 137;

/// Exit code of an agent that ended an idle workspace.
const IDLE: i64 = ending::IDLE as i64;

/// What the engine shows of one workspace.
#[derive(Clone, Debug, Default)]
pub(super) struct Observation {
    /// The labels of the claim.
    pub(super) claim: Option<Labels>,
    /// Everything that is marked with the name, the claim included.
    pub(super) containers: Vec<Listed>,
    pub(super) volumes: Vec<Listed>,
    /// The finished container.
    pub(super) container: Option<ContainerInspectResponse>,
}

impl Observation {
    pub(super) fn is_nothing(&self) -> bool {
        self.claim.is_none() && self.containers.is_empty() && self.volumes.is_empty()
    }

    /// Labels from which the workspace can be told, the claim's first.
    pub(super) fn labels(&self) -> Option<&Labels> {
        let marked = self.containers.iter().chain(&self.volumes).map(|listed| &listed.labels);
        self.claim.iter().chain(marked).next()
    }

    /// The finished container, if it belongs to the claim.
    pub(super) fn finished(&self) -> Option<&ContainerInspectResponse> {
        let labels = self.container.as_ref()?.config.as_ref()?.labels.as_ref()?;
        let same = identity(labels).is_some() && identity(labels) == identity(self.claim.as_ref()?);
        same.then_some(self.container.as_ref()).flatten()
    }

    /// An unfinished container of the claim whose files are complete: its agent was started, and sets the project up.
    pub(super) fn attempt(&self) -> Option<&str> {
        let claim = self.claim.as_ref().and_then(|labels| identity(labels))?;
        let is_attempt = |listed: &&Listed| {
            listed.was_started && agent::is_in(&listed.labels) && identity(&listed.labels) == Some(claim)
        };
        self.containers.iter().find(is_attempt).map(|listed| listed.name.as_str())
    }

    /// True when the agent ended the workspace at the end of its time to live.
    pub(super) fn ended_by_expiry(&self) -> bool {
        let state =
            self.finished().filter(|_| self.has_agent()).and_then(|container| container.state.as_ref());
        state.is_some_and(|state| {
            state.status == Some(ContainerStateStatusEnum::EXITED)
                && state.exit_code == Some(i64::from(ending::EXPIRED))
        })
    }

    /// The status. `under_way` says whether a create is at it now, `boot` when the engine's machine was started.
    pub(super) fn status(&self, under_way: bool, boot: Option<Timestamp>) -> WorkspaceStatus {
        if self.claim.is_none() {
            return WorkspaceStatus::Deleting;
        }
        let unfinished = |step: &str, message: Option<String>| {
            if under_way {
                WorkspaceStatus::Creating { step: step.into() }
            } else {
                WorkspaceStatus::Interrupted { step: step.into(), message }
            }
        };
        let Some(container) = self.finished() else {
            let step = if self.attempt().is_some() { "set-up" } else { "checkout" };
            return unfinished(step, None);
        };
        let state = container.state.clone().unwrap_or_default();
        match state.status {
            Some(ContainerStateStatusEnum::RUNNING) => {
                WorkspaceStatus::Running { since: time(state.started_at.as_deref()).unwrap_or_default() }
            }
            Some(ContainerStateStatusEnum::EXITED | ContainerStateStatusEnum::STOPPING) => {
                WorkspaceStatus::Stopped {
                    since: time(state.finished_at.as_deref()).unwrap_or_default(),
                    reason: stop_reason(&state, boot, self.has_agent()),
                }
            }
            Some(ContainerStateStatusEnum::PAUSED) => WorkspaceStatus::Failed {
                reason: "Paused".into(),
                message: "its container was paused by someone else".into(),
            },
            Some(ContainerStateStatusEnum::REMOVING | ContainerStateStatusEnum::DEAD) => {
                WorkspaceStatus::Deleting
            }
            _ => unfinished("start", state.error.filter(|message| !message.is_empty())),
        }
    }
}

/// A time of the engine; it has one of the year 1 for what never was.
fn time(text: Option<&str>) -> Option<Timestamp> {
    text?.parse().ok().filter(|time| *time > Timestamp::UNIX_EPOCH)
}

fn stop_reason(state: &ContainerState, boot: Option<Timestamp>, has_agent: bool) -> StopReason {
    let code = state.exit_code.unwrap_or_default();
    let started = time(state.started_at.as_deref());
    let finished = time(state.finished_at.as_deref());
    let ran_before_boot = boot.zip(started).is_some_and(|(boot, started)| started < boot);
    let ended_before_boot = boot.zip(finished).is_some_and(|(boot, finished)| finished < boot);
    // It ran when the machine went down, and the engine noticed its end only afterwards.
    if ran_before_boot && !ended_before_boot {
        return StopReason::HostRestarted;
    }
    match code {
        // The main process ends by itself only when it is told to.
        0 => StopReason::Requested,
        IDLE if has_agent => StopReason::Idle,
        _ if state.oom_killed == Some(true) => {
            StopReason::Crashed { message: "it used up its memory".into() }
        }
        KILLED => StopReason::Crashed { message: "it was killed".into() },
        code => StopReason::Crashed { message: format!("it exited with code {code}") },
    }
}

/// When this machine was started.
pub(super) fn boot_time() -> Option<Timestamp> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let seconds = text.lines().find_map(|line| line.strip_prefix("btime "))?;
    Timestamp::from_second(seconds.trim().parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::ContainerConfig;

    fn labels(id: &str) -> Labels {
        Labels::from([(super::super::marks::ID.to_owned(), id.to_owned())])
    }

    fn observed(id: &str, state: ContainerState) -> Observation {
        let config = ContainerConfig { labels: Some(labels(id)), ..ContainerConfig::default() };
        let container = ContainerInspectResponse {
            config: Some(config),
            state: Some(state),
            ..ContainerInspectResponse::default()
        };
        Observation { claim: Some(labels("one")), container: Some(container), ..Observation::default() }
    }

    fn ended(code: i64, started: &str, finished: &str) -> ContainerState {
        ContainerState {
            status: Some(ContainerStateStatusEnum::EXITED),
            exit_code: Some(code),
            started_at: Some(started.into()),
            finished_at: Some(finished.into()),
            ..ContainerState::default()
        }
    }

    #[test]
    fn what_has_no_claim_is_being_deleted() {
        let observation = Observation { claim: None, ..observed("one", ContainerState::default()) };
        assert_eq!(observation.status(true, None), WorkspaceStatus::Deleting);
    }

    #[test]
    fn a_container_of_another_identity_is_not_the_workspace() {
        let running =
            ContainerState { status: Some(ContainerStateStatusEnum::RUNNING), ..ContainerState::default() };
        assert!(observed("one", running.clone()).status(false, None).is_running());
        let other = observed("two", running).status(false, None);
        assert_eq!(other, WorkspaceStatus::Interrupted { step: "checkout".into(), message: None });
    }

    #[test]
    fn an_agent_says_why_it_ended() {
        let time = "2026-01-01T00:00:00Z";
        let ended = |code, with_agent: bool| {
            let mut observation = observed("one", ended(code, time, time));
            if let Some(config) =
                observation.container.as_mut().and_then(|container| container.config.as_mut())
                && with_agent
            {
                config.labels.as_mut().unwrap().insert(agent::AGENT.into(), "digest".into());
            }
            observation
        };
        let reason = |observation: &Observation| match observation.status(false, None) {
            WorkspaceStatus::Stopped { reason, .. } => reason,
            other => panic!("{other}"),
        };
        assert_eq!(reason(&ended(80, true)), StopReason::Idle);
        assert_eq!(reason(&ended(0, true)), StopReason::Requested);
        // Without an agent these codes mean nothing.
        assert!(matches!(reason(&ended(80, false)), StopReason::Crashed { .. }));
        assert!(ended(81, true).ended_by_expiry());
        assert!(!ended(81, false).ended_by_expiry() && !ended(80, true).ended_by_expiry());
    }

    #[test]
    fn a_started_attempt_is_in_its_set_up() {
        let mut labels = labels("one");
        labels.insert(agent::AGENT.into(), "digest".into());
        let attempt = Listed { name: "kled-demo-1".into(), labels: labels.clone(), was_started: true };
        let of = |containers: Vec<Listed>| Observation {
            claim: Some(self::labels("one")),
            containers,
            ..Observation::default()
        };
        let status = of(vec![attempt.clone()]).status(true, None);
        assert_eq!(status, WorkspaceStatus::Creating { step: "set-up".into() });
        let unstarted = Listed { was_started: false, ..attempt.clone() };
        assert_eq!(of(vec![unstarted]).attempt(), None);
        labels.insert(super::super::marks::ID.to_owned(), "two".into());
        assert_eq!(of(vec![Listed { labels, ..attempt }]).attempt(), None);
    }

    #[test]
    fn an_end_has_its_reason() {
        let boot: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let (before, after) = ("2026-01-01T00:00:00Z", "2026-01-03T00:00:00.5+01:00");
        let reason = |code, started, finished| match observed("one", ended(code, started, finished))
            .status(false, Some(boot))
        {
            WorkspaceStatus::Stopped { reason, .. } => reason,
            other => panic!("{other}"),
        };
        assert_eq!(reason(0, after, after), StopReason::Requested);
        assert_eq!(reason(0, before, before), StopReason::Requested);
        assert_eq!(reason(137, after, after), StopReason::Crashed { message: "it was killed".into() });
        assert_eq!(reason(255, before, after), StopReason::HostRestarted);
        assert_eq!(reason(255, before, "0001-01-01T00:00:00Z"), StopReason::HostRestarted);
    }
}
