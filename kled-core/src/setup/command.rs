//! The commands of a step.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Scope;

/// One command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SetupCommand {
    /// A text for `/bin/sh -c`.
    Shell(String),
    /// A program and its arguments, without a shell.
    Arguments(Vec<String>),
}

impl SetupCommand {
    /// The program and its arguments.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        match self {
            Self::Shell(text) => vec!["/bin/sh".into(), "-c".into(), text.clone()],
            Self::Arguments(arguments) => arguments.clone(),
        }
    }

    /// True where there is nothing to run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Shell(text) => text.trim().is_empty(),
            Self::Arguments(arguments) => arguments.is_empty(),
        }
    }

    fn substituted(&self, scope: &Scope) -> Self {
        match self {
            Self::Shell(text) => Self::Shell(scope.substitute(text)),
            Self::Arguments(arguments) => {
                Self::Arguments(arguments.iter().map(|argument| scope.substitute(argument)).collect())
            }
        }
    }
}

/// What a step runs, and where the file says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommandSet {
    /// The field, such as `postCreateCommand` or `setup.create`.
    pub field: String,
    /// The line of the field, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// By name; they run at the same time. A single command has an empty name.
    pub commands: BTreeMap<String, SetupCommand>,
}

impl CommandSet {
    /// A set of `commands` without the empty ones. Nothing where nothing is left.
    pub(super) fn new(
        field: impl Into<String>,
        line: Option<u64>,
        mut commands: BTreeMap<String, SetupCommand>,
    ) -> Option<Self> {
        commands.retain(|_, command| !command.is_empty());
        (!commands.is_empty()).then(|| Self { field: field.into(), line, commands })
    }

    /// The same with the values of variables.
    #[must_use]
    pub fn substituted(&self, scope: &Scope) -> Self {
        let commands =
            self.commands.iter().map(|(name, command)| (name.clone(), command.substituted(scope))).collect();
        Self { commands, ..self.clone() }
    }
}
