//! What a project asks for after its checkout: environment, tools, ports and commands.
//!
//! A repository says it in a `devcontainer.json` ([`parse_devcontainer`]) or, where there is none, in a
//! [`.kled.yaml`](ProjectFile). Both become one [`Setup`]; [`plan`] says which of its steps have to be run.
//!
//! # `devcontainer.json`
//!
//! JSON with comments and trailing commas, at one of the [places](choose) of the specification (containers.dev).
//!
//! | field | what it does |
//! |---|---|
//! | `image` | reported; a workspace gets its image when it is created |
//! | `containerEnv`, `remoteEnv` | environment of every command; `remoteEnv` wins, and `null` in it removes a variable |
//! | `remoteUser`, else `containerUser` | the user that commands run as |
//! | `workspaceFolder` | where commands run, if it is in the checkout |
//! | `forwardPorts`, `portsAttributes.*.label` | ports that the workspace serves, with their names |
//! | `onCreateCommand`, `updateContentCommand`, `postCreateCommand` | run once, in this order |
//! | `postStartCommand` | run at every start |
//! | `postAttachCommand` | run at every attach |
//! | `waitFor` | the last step that has to be done before the workspace counts as ready |
//! | `name`, `$schema` | nothing |
//!
//! Each other field is listed in [`Setup::ignored`] with its line and the reason, never dropped in silence.
//!
//! ```jsonc
#![doc = include_str!("example/devcontainer.json")]
//! ```
//!
//! # Use
//!
//! ```
//! use kled_core::setup::{Done, Phase, StepKind, parse_devcontainer, plan};
//!
//! let setup = parse_devcontainer(
//!     ".devcontainer/devcontainer.json",
//!     r#"{
//!         "containerEnv": {"CACHE": "${containerWorkspaceFolder}/.cache"}, // a comment
//!         "forwardPorts": [3000],
//!         "postCreateCommand": {"web": "npm ci", "api": ["go", "mod", "download"]},
//!         "features": {"ghcr.io/devcontainers/features/node:1": {}},
//!     }"#,
//! )?;
//! let steps = plan(&setup, Phase::Create, &Done::default());
//! assert_eq!(steps.iter().map(|step| step.kind).collect::<Vec<_>>(), [StepKind::PostCreate]);
//! assert_eq!(setup.ignored[0].to_string(), "features (line 5): features are not installed; use an image that has them");
//! # Ok::<_, kled_core::Error>(())
//! ```

mod command;
mod devcontainer;
mod dotfiles;
mod git_identity;
mod ignored;
mod place;
mod plan;
mod port;
mod project_file;
mod resolve;
mod variables;

pub use command::{CommandSet, SetupCommand};
pub use devcontainer::parse_devcontainer;
pub use dotfiles::{DOTFILES_SCRIPTS, Dotfiles, DotfilesInstall};
pub use git_identity::GitIdentity;
pub use ignored::{IgnoredField, IgnoredReason};
pub use place::{PROJECT_FILE, Place, choose};
pub use plan::{Action, Done, Phase, Step, StepKind, plan};
pub use port::ForwardedPort;
pub use project_file::{ProjectFile, ProjectPort, ProjectSetup};
pub use resolve::Resolved;
pub use variables::{Scope, devcontainer_id};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, VariableName};

/// What a project asks for, as its file says it: variables such as `${localEnv:HOME}` are still in it. Since their
/// values are not, it can be printed, stored and sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Setup {
    /// The file that says it, relative to the checkout. Nothing where the project has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The container image that it wants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The user that commands run as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Where commands run; the checkout where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// Environment of the workspace.
    #[serde(default)]
    pub container_environment: BTreeMap<VariableName, String>,
    /// Environment of the commands, over that of the workspace. A variable without a value is removed.
    #[serde(default)]
    pub remote_environment: BTreeMap<VariableName, Option<String>>,
    /// Folders that come first on `PATH`: absolute, `~/…`, or relative to the checkout.
    #[serde(default)]
    pub tools: Vec<String>,
    /// Ports on which the project serves.
    #[serde(default)]
    pub ports: Vec<ForwardedPort>,
    /// The commands of each step.
    #[serde(default)]
    pub commands: BTreeMap<StepKind, CommandSet>,
    /// The user's own files, which no project file can ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dotfiles: Option<Dotfiles>,
    /// The last step before the workspace counts as ready.
    #[serde(default)]
    pub wait_for: Option<StepKind>,
    /// What the file says and Kled does not do.
    #[serde(default)]
    pub ignored: Vec<IgnoredField>,
}

/// An error in a project's file: what is wrong, where, and what to do.
///
/// ```
/// let error = kled_core::setup::malformed(".kled.yaml", Some(3), "ports", "it is not a port");
/// assert_eq!(error.to_string(), "malformed set-up: it is not a port (file: .kled.yaml, line: 3, field: ports)");
/// ```
#[must_use]
pub fn malformed(file: &str, line: Option<u64>, field: &str, why: &str) -> Error {
    let mut error =
        Error::new(ErrorKind::InvalidInput, format!("malformed set-up: {why}")).with("file", file);
    if let Some(line) = line {
        error = error.with("line", line);
    }
    if field.is_empty() { error } else { error.with("field", field) }
}
