//! What is stored of a workspace, and the status that follows from it and from what is observed. Pure.

use jiff::Timestamp;
use kled_core::workspace::{Checkout, Condition, StopReason, Workspace, WorkspaceSpec, WorkspaceStatus};
use kled_core::{Failure, ProviderName, WorkspaceId, WorkspaceName};
use serde::{Deserialize, Serialize};

use crate::local::process_id::ProcessId;

/// `record.json`: what was asked for and how far creation came.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) name: WorkspaceName,
    pub(crate) id: WorkspaceId,
    pub(crate) created: Timestamp,
    pub(crate) spec: WorkspaceSpec,
    pub(crate) phase: Phase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checkout: Option<Checkout>,
}

/// How far creation came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "phase")]
pub(crate) enum Phase {
    Creating {
        step: String,
        /// The failure that ended the last attempt.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<Failure>,
    },
    Ready,
}

/// `run.json`: the run that is, or the last that was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Run {
    pub(crate) supervisor: ProcessId,
    pub(crate) boot: String,
    pub(crate) since: Timestamp,
    pub(crate) conditions: Vec<Condition>,
}

/// `stop.json`: how a run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Stop {
    /// The run that ended; of another run it says nothing.
    pub(crate) supervisor: ProcessId,
    pub(crate) since: Timestamp,
    pub(crate) reason: StopReason,
}

/// `unprepared.json`: the set-up of the last start is not done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Unprepared {
    /// Why, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<Failure>,
}

impl Unprepared {
    fn condition(&self, is_under_way: bool) -> Condition {
        let (reason, message) = match &self.failure {
            _ if is_under_way => ("UnderWay", "the set-up of the start is under way".into()),
            Some(failure) => ("Failed", failure.message.clone()),
            None => ("Interrupted", "the set-up of the start was cut short; start it again".into()),
        };
        Condition::new("SetUp", false, reason, message)
    }
}

/// What was found besides the record.
#[derive(Clone, Debug)]
pub(crate) struct Observed {
    /// A create, start or stop is under way.
    pub(crate) operation: bool,
    /// The supervisor's lock is held.
    pub(crate) supervised: bool,
    pub(crate) run: Option<Run>,
    pub(crate) stop: Option<Stop>,
    pub(crate) unprepared: Option<Unprepared>,
    pub(crate) boot: String,
}

impl Observed {
    /// The run, if its supervisor lives and is ready.
    pub(crate) fn running(&self) -> Option<&Run> {
        self.run.as_ref().filter(|run| self.supervised && run.boot == self.boot && run.supervisor.is_alive())
    }
}

impl Record {
    pub(crate) fn status(&self, observed: &Observed) -> WorkspaceStatus {
        match &self.phase {
            Phase::Creating { step, .. } if observed.operation => {
                WorkspaceStatus::Creating { step: step.clone() }
            }
            Phase::Creating { step, failure } => {
                let message = failure.as_ref().map(|failure| failure.message.clone());
                WorkspaceStatus::Interrupted { step: step.clone(), message }
            }
            Phase::Ready => match observed.running() {
                Some(run) => WorkspaceStatus::Running { since: run.since },
                None => self.stopped(observed),
            },
        }
    }

    fn stopped(&self, observed: &Observed) -> WorkspaceStatus {
        let Some(run) = &observed.run else {
            return WorkspaceStatus::Stopped { since: self.created, reason: StopReason::Requested };
        };
        if let Some(stop) = observed.stop.as_ref().filter(|stop| stop.supervisor == run.supervisor) {
            return WorkspaceStatus::Stopped { since: stop.since, reason: stop.reason.clone() };
        }
        let reason = if run.boot == observed.boot {
            StopReason::Crashed { message: "its supervisor was killed".into() }
        } else {
            StopReason::HostRestarted
        };
        // When an unrecorded end came is not known; its beginning is.
        WorkspaceStatus::Stopped { since: run.since, reason }
    }

    pub(crate) fn workspace(&self, provider: &ProviderName, observed: &Observed) -> Workspace {
        let status = self.status(observed);
        let mut conditions = observed.run.as_ref().map(|run| run.conditions.clone()).unwrap_or_default();
        let unprepared = observed.unprepared.as_ref().filter(|_| status.is_running());
        conditions.extend(unprepared.map(|unprepared| unprepared.condition(observed.operation)));
        Workspace {
            name: self.name.clone(),
            id: self.id,
            provider: provider.clone(),
            spec: self.spec.clone(),
            status,
            created: self.created,
            checkout: self.checkout.clone(),
            conditions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(phase: Phase) -> Record {
        Record {
            name: WorkspaceName::new("demo").unwrap(),
            id: WorkspaceId::random(),
            created: Timestamp::UNIX_EPOCH,
            spec: WorkspaceSpec::builder(".").build().unwrap(),
            phase,
            checkout: None,
        }
    }

    fn run(supervisor: ProcessId, boot: &str) -> Run {
        Run { supervisor, boot: boot.into(), since: Timestamp::UNIX_EPOCH, conditions: Vec::new() }
    }

    fn observed(run: Option<Run>) -> Observed {
        Observed { operation: false, supervised: true, run, stop: None, unprepared: None, boot: "now".into() }
    }

    #[test]
    fn a_create_that_nobody_carries_on_is_interrupted() {
        let record = record(Phase::Creating { step: "checkout".into(), failure: None });
        assert_eq!(record.status(&observed(None)).state(), "Interrupted");
        assert_eq!(record.status(&Observed { operation: true, ..observed(None) }).state(), "Creating");
    }

    #[test]
    fn a_live_supervisor_is_running() {
        let observed = observed(Some(run(ProcessId::own(), "now")));
        assert!(record(Phase::Ready).status(&observed).is_running());
    }

    #[test]
    fn a_running_workspace_says_that_its_set_up_is_not_done() {
        let failure = Failure::from(&kled_core::Error::new(kled_core::ErrorKind::SetupFailed, "it failed"));
        let mut observed = observed(Some(run(ProcessId::own(), "now")));
        let record = record(Phase::Ready);
        let reason = |observed: &Observed| {
            let workspace = record.workspace(&ProviderName::new("local").unwrap(), observed);
            workspace.condition("SetUp").map(|condition| condition.reason.clone())
        };
        assert_eq!(reason(&observed), None);
        observed.unprepared = Some(Unprepared::default());
        assert_eq!(reason(&observed).as_deref(), Some("Interrupted"));
        observed.unprepared = Some(Unprepared { failure: Some(failure) });
        assert_eq!(reason(&observed).as_deref(), Some("Failed"));
        observed.operation = true;
        assert_eq!(reason(&observed).as_deref(), Some("UnderWay"));
        observed.supervised = false;
        assert_eq!(reason(&observed), None, "of one that does not run nothing is expected");
    }

    #[test]
    fn a_number_that_another_process_has_now_is_not_running() {
        let own = ProcessId::own();
        let reused = ProcessId { start_time: own.start_time + 1, ..own };
        let status = record(Phase::Ready).status(&observed(Some(run(reused, "now"))));
        assert!(
            matches!(status, WorkspaceStatus::Stopped { reason: StopReason::Crashed { .. }, .. }),
            "{status}"
        );
    }

    #[test]
    fn another_boot_is_a_restart_of_the_host() {
        let status = record(Phase::Ready).status(&observed(Some(run(ProcessId::own(), "before"))));
        assert!(
            matches!(status, WorkspaceStatus::Stopped { reason: StopReason::HostRestarted, .. }),
            "{status}"
        );
    }

    #[test]
    fn a_recorded_stop_counts_for_its_own_run_only() {
        let own = ProcessId::own();
        let stop = |supervisor| Stop { supervisor, since: Timestamp::UNIX_EPOCH, reason: StopReason::Idle };
        let other = ProcessId { number: 1, start_time: 0 };
        let ended = |supervisor| Observed {
            supervised: false,
            stop: Some(stop(supervisor)),
            ..observed(Some(run(own, "now")))
        };
        let status = record(Phase::Ready).status(&ended(own));
        assert!(matches!(status, WorkspaceStatus::Stopped { reason: StopReason::Idle, .. }), "{status}");
        let status = record(Phase::Ready).status(&ended(other));
        assert!(
            matches!(status, WorkspaceStatus::Stopped { reason: StopReason::Crashed { .. }, .. }),
            "{status}"
        );
    }
}
