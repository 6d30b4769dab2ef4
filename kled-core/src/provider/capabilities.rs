//! What a backend can do, as data.

use serde::{Deserialize, Serialize};

use crate::workspace::Isolation;

/// What a backend can do here, on this machine or in this account. What differs from workspace to workspace stands in
/// its conditions as well.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// The isolations that a spec can ask for, the default one first.
    pub isolations: Vec<Isolation>,
    /// A repository is really checked out.
    pub checkout: bool,
    /// What the project asks for in its `devcontainer.json` or `.kled.yaml` is carried out: see
    /// [`setup`](crate::setup).
    #[serde(default)]
    pub setup: bool,
    /// A spec may name an image.
    pub images: bool,
    /// Workspaces outlive the process that made them.
    pub durable: bool,
    /// Commands.
    pub commands: CommandCapabilities,
    /// Ports of a workspace can be connected to.
    #[serde(default)]
    pub connect: bool,
    /// Files can be copied in and out.
    #[serde(default)]
    pub copy: bool,
    /// What goes on in a workspace, and what it uses, can be asked for.
    #[serde(default)]
    pub agent: bool,
    /// What the supervisor and detached commands write can be read.
    pub logs: bool,
    /// What happened can be read.
    pub events: bool,
    /// Idle timeouts are kept.
    pub idle_timeout: bool,
    /// Times to live are kept.
    pub time_to_live: bool,
    /// Which limits are enforced.
    pub limits: LimitCapabilities,
    /// What a workspace is kept from.
    pub sandbox: SandboxCapabilities,
}

/// What can be done with commands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommandCapabilities {
    /// Commands can be run at all.
    pub exec: bool,
    /// There is a POSIX `sh`.
    pub shell: bool,
    /// A terminal can be attached and resized.
    pub terminal: bool,
    /// Signals can be sent, and an end by a signal is told apart from an exit.
    pub signals: bool,
    /// A command can outlive its session.
    pub detach: bool,
}

/// Whether a limit is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "enforcement")]
pub enum Enforcement {
    /// It is kept.
    Enforced,
    /// It is accepted, stored and not kept.
    NotEnforced {
        /// Why, for people.
        reason: String,
    },
}

impl Enforcement {
    /// True when the limit is kept.
    #[must_use]
    pub const fn is_enforced(&self) -> bool {
        matches!(self, Self::Enforced)
    }
}

impl Default for Enforcement {
    fn default() -> Self {
        Self::NotEnforced { reason: "this backend has no such limit".into() }
    }
}

/// Which limits of [`Resources`](crate::workspace::Resources) are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitCapabilities {
    /// Processors.
    pub cpu: Enforcement,
    /// Memory.
    pub memory: Enforcement,
    /// Disk.
    pub disk: Enforcement,
}

/// What a workspace of the default isolation is kept from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxCapabilities {
    /// It can write only to its own folders and does not see the user's credentials or other workspaces' files.
    pub files: bool,
    /// It does not see the processes of others.
    pub processes: bool,
}
