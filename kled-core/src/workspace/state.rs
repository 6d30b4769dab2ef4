//! What is true of a workspace now.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Repository, WorkspaceSpec};
use crate::{Error, ErrorKind, ProviderName, WorkspaceId, WorkspaceName};

/// A workspace as its backend knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workspace {
    /// Its name, unique within one provider.
    pub name: WorkspaceName,
    /// Its identity, never used again.
    pub id: WorkspaceId,
    /// The provider that has it.
    pub provider: ProviderName,
    /// What was asked for.
    pub spec: WorkspaceSpec,
    /// What is true now.
    pub status: WorkspaceStatus,
    /// When its creation began.
    pub created: Timestamp,
    /// The files, once they are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkout: Option<Checkout>,
    /// What else is known: which limits are enforced, which sandbox holds it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

impl Workspace {
    /// The condition of this type, for example `Sandboxed`.
    #[must_use]
    pub fn condition(&self, condition_type: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.condition_type == condition_type)
    }

    /// The repository that it was made from.
    #[must_use]
    pub fn repository(&self) -> &Repository {
        &self.spec.source.repository
    }

    /// When it is to be deleted, where that was asked for.
    #[must_use]
    pub fn expires(&self) -> Option<Timestamp> {
        self.created.checked_add(self.spec.time_to_live?).ok()
    }
}

/// The files of a workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkout {
    /// Where commands find the files.
    pub path: String,
    /// The commit that was checked out at creation.
    pub commit: String,
}

/// Whether a [`Condition`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// The backend could not tell.
    Unknown,
}

/// An observation with a reason, in the form that Kubernetes conditions have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What is observed, in CamelCase: `Sandboxed`, `CpuLimited`, `MemoryLimited`, `DiskLimited`, `SetUp`.
    #[serde(rename = "type")]
    pub condition_type: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// Why, in CamelCase, for programs: `Bubblewrap`, `NoDelegatedCgroup`.
    pub reason: String,
    /// Why, in a sentence, for people.
    pub message: String,
}

impl Condition {
    /// A condition that holds or does not.
    pub fn new(
        condition_type: impl Into<String>,
        holds: bool,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            condition_type: condition_type.into(),
            status: if holds { ConditionStatus::True } else { ConditionStatus::False },
            reason: reason.into(),
            message: message.into(),
        }
    }
}

/// Why a workspace is stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
pub enum StopReason {
    /// Somebody asked for it.
    Requested,
    /// It was idle for as long as its idle timeout.
    Idle,
    /// What ran it ended by itself or was killed.
    Crashed {
        /// What is known of the end.
        message: String,
    },
    /// The machine was started anew since.
    HostRestarted,
}

impl fmt::Display for StopReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requested => formatter.write_str("requested"),
            Self::Idle => formatter.write_str("idle"),
            Self::Crashed { message } => write!(formatter, "crashed: {message}"),
            Self::HostRestarted => formatter.write_str("host restarted"),
        }
    }
}

/// The state machine of a workspace. Each variant says what is true.
///
/// ```text
///            create                     stop, idle, crash
/// (nothing) -------> Creating --> Running <------------> Stopped
///                       |                     start         |
///             cut short |                                   |
///                       v    create finishes it             |
///                  Interrupted ------------> Running        |
///                       |   a disturbed backend: Running --> Starting --> Running, or Failed
///                       +---- delete, from every state -----+--> Deleting --> (nothing)
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "state")]
#[non_exhaustive]
pub enum WorkspaceStatus {
    /// A create is under way.
    Creating {
        /// The step that it is at.
        step: String,
    },
    /// A create ended before it was done; nothing is running. The same create finishes it, a delete removes it.
    Interrupted {
        /// The step that was not finished.
        step: String,
        /// What is known of the cause.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// It is on its way to running: somebody starts it, or the backend does so by itself after a disturbance.
    Starting {
        /// What is waited for.
        message: String,
    },
    /// Commands can be run.
    Running {
        /// Since when.
        since: Timestamp,
    },
    /// Nothing is running; the data is kept.
    Stopped {
        /// Since when.
        since: Timestamp,
        /// Why.
        #[serde(flatten)]
        reason: StopReason,
    },
    /// The backend says that it cannot run, and why.
    Failed {
        /// Why, in CamelCase, for programs.
        reason: String,
        /// Why, for people.
        message: String,
    },
    /// A delete is under way or was cut short; delete again finishes it.
    Deleting,
}

/// What can be asked of a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// `create_workspace`.
    Create,
    /// `start_workspace`.
    Start,
    /// `stop_workspace`.
    Stop,
    /// `delete_workspace`.
    Delete,
    /// `workspace_status`.
    Status,
    /// `list_workspaces`.
    List,
    /// `exec`.
    Exec,
    /// `connect`.
    Connect,
    /// `upload`.
    Upload,
    /// `download`.
    Download,
    /// `agent_status`.
    AgentStatus,
    /// `workspace_logs`.
    Logs,
    /// `workspace_events`.
    Events,
}

impl Operation {
    /// The name of the trait's method, which errors carry.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create_workspace",
            Self::Start => "start_workspace",
            Self::Stop => "stop_workspace",
            Self::Delete => "delete_workspace",
            Self::Status => "workspace_status",
            Self::List => "list_workspaces",
            Self::Exec => "exec",
            Self::Connect => "connect",
            Self::Upload => "upload",
            Self::Download => "download",
            Self::AgentStatus => "agent_status",
            Self::Logs => "workspace_logs",
            Self::Events => "workspace_events",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// What an operation has to do in a given state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is true already: answer success and touch nothing.
    Satisfied,
    /// Act.
    Act,
    /// Another operation is under way: wait for it, then decide again.
    Wait,
    /// It has no meaning in this state: answer [`ErrorKind::InvalidState`].
    Refuse,
}

impl WorkspaceStatus {
    /// The state alone, as `kled workspace list` prints it.
    #[must_use]
    pub const fn state(&self) -> &'static str {
        match self {
            Self::Creating { .. } => "Creating",
            Self::Interrupted { .. } => "Interrupted",
            Self::Starting { .. } => "Starting",
            Self::Running { .. } => "Running",
            Self::Stopped { .. } => "Stopped",
            Self::Failed { .. } => "Failed",
            Self::Deleting => "Deleting",
        }
    }

    /// True when commands can be run.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }

    /// What `operation` has to do in this state. Every provider decides by this one table.
    #[must_use]
    pub const fn decide(&self, operation: Operation) -> Decision {
        use Decision::{Act, Refuse, Satisfied, Wait};
        match (operation, self) {
            (Operation::Delete, _) => Act,
            (Operation::Status | Operation::List | Operation::Logs | Operation::Events, _) => Satisfied,
            (_, Self::Deleting)
            | (Operation::Create | Operation::Start | Operation::Stop, Self::Creating { .. }) => Wait,
            (Operation::Create, Self::Interrupted { .. }) => Act,
            // A stopped workspace exists as asked for: create does not start what somebody stopped.
            (Operation::Create, Self::Running { .. } | Self::Stopped { .. }) => Satisfied,
            (Operation::Create | Operation::Start, Self::Failed { .. } | Self::Starting { .. }) => Act,
            (Operation::Start, Self::Running { .. }) => Satisfied,
            (Operation::Start, Self::Stopped { .. }) => Act,
            (Operation::Stop, Self::Running { .. } | Self::Failed { .. } | Self::Starting { .. }) => Act,
            (Operation::Stop, Self::Stopped { .. }) => Satisfied,
            (
                Operation::Exec
                | Operation::Connect
                | Operation::Upload
                | Operation::Download
                | Operation::AgentStatus,
                Self::Running { .. },
            ) => Satisfied,
            (Operation::Start | Operation::Stop, Self::Interrupted { .. }) => Refuse,
            (
                Operation::Exec
                | Operation::Connect
                | Operation::Upload
                | Operation::Download
                | Operation::AgentStatus,
                Self::Creating { .. }
                | Self::Interrupted { .. }
                | Self::Starting { .. }
                | Self::Stopped { .. }
                | Self::Failed { .. },
            ) => Refuse,
        }
    }

    /// The error of an operation that [`decide`](Self::decide) refuses, with what to do instead.
    #[must_use]
    pub fn refusal(&self, operation: Operation, name: &WorkspaceName) -> Error {
        let hint = match self {
            Self::Interrupted { .. } => "its creation was cut short: create it again to finish, or delete it",
            Self::Stopped { .. } => "start the workspace first",
            Self::Creating { .. } => "wait until its creation is done",
            Self::Starting { .. } => "wait until it runs, or look at its status for what it waits for",
            Self::Failed { .. } => "look at its status, then start it again or delete it",
            Self::Deleting => "it is being deleted",
            Self::Running { .. } => "stop the workspace first",
        };
        Error::new(ErrorKind::InvalidState, format!("the workspace is {}", self.state().to_lowercase()))
            .during(operation.as_str())
            .with("workspace", name)
            .hint(hint)
    }
}

impl fmt::Display for WorkspaceStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.state())?;
        match self {
            Self::Creating { step } => write!(formatter, " ({step})"),
            Self::Starting { message } => write!(formatter, " ({message})"),
            Self::Interrupted { step, message: Some(message) } => write!(formatter, " ({step}: {message})"),
            Self::Interrupted { step, message: None } => write!(formatter, " ({step})"),
            Self::Stopped { reason: StopReason::Requested, .. } => Ok(()),
            Self::Stopped { reason, .. } => write!(formatter, " ({reason})"),
            Self::Failed { reason, message } => write!(formatter, " ({reason}: {message})"),
            Self::Running { .. } | Self::Deleting => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_status() -> Vec<WorkspaceStatus> {
        let since = Timestamp::UNIX_EPOCH;
        vec![
            WorkspaceStatus::Creating { step: "clone".into() },
            WorkspaceStatus::Interrupted { step: "clone".into(), message: None },
            WorkspaceStatus::Starting { message: "waits for its node".into() },
            WorkspaceStatus::Running { since },
            WorkspaceStatus::Stopped { since, reason: StopReason::Idle },
            WorkspaceStatus::Stopped { since, reason: StopReason::Crashed { message: "killed".into() } },
            WorkspaceStatus::Failed { reason: "ImagePull".into(), message: "no such image".into() },
            WorkspaceStatus::Deleting,
        ]
    }

    #[test]
    fn delete_acts_in_every_state() {
        assert!(every_status().iter().all(|status| status.decide(Operation::Delete) == Decision::Act));
    }

    #[test]
    fn reading_is_possible_in_every_state() {
        for operation in [Operation::Status, Operation::List, Operation::Logs, Operation::Events] {
            assert!(every_status().iter().all(|status| status.decide(operation) == Decision::Satisfied));
        }
    }

    #[test]
    fn a_running_workspace_alone_is_reached() {
        for operation in [
            Operation::Exec,
            Operation::Connect,
            Operation::Upload,
            Operation::Download,
            Operation::AgentStatus,
        ] {
            for status in every_status() {
                assert_eq!(
                    status.decide(operation) == Decision::Satisfied,
                    status.is_running(),
                    "{operation} {status}"
                );
            }
        }
    }

    #[test]
    fn statuses_survive_serialisation() {
        for status in every_status() {
            let json = serde_json::to_string(&status).unwrap();
            assert_eq!(serde_json::from_str::<WorkspaceStatus>(&json).unwrap(), status, "{json}");
        }
    }
}
