//! What a project's file says and Kled does not do.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A field that has no effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IgnoredField {
    /// Its path, such as `build` or `portsAttributes.3000.onAutoForward`. For a file, its path.
    pub field: String,
    /// Its line, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// Why.
    pub reason: IgnoredReason,
}

impl IgnoredField {
    /// A field, its line and the reason.
    pub fn new(field: impl Into<String>, line: Option<u64>, reason: IgnoredReason) -> Self {
        Self { field: field.into(), line, reason }
    }
}

impl fmt::Display for IgnoredField {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.field)?;
        if let Some(line) = self.line {
            write!(formatter, " (line {line})")?;
        }
        write!(formatter, ": {}", self.reason)
    }
}

/// Why a field has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum IgnoredReason {
    /// It builds an image.
    Build,
    /// It asks for other containers.
    Compose,
    /// It installs features.
    Features,
    /// It changes the container itself: mounts, privileges, arguments of an engine.
    Container,
    /// It runs something on the user's machine.
    Host,
    /// It asks for a size of machine.
    Resources,
    /// It asks for secrets.
    Secrets,
    /// It is for an editor.
    Editor,
    /// It picks ports by an expression.
    Expression,
    /// The specification has no such field.
    Unknown,
    /// The same field comes again further down.
    Repeated,
    /// Another field has precedence.
    Overridden,
    /// The folder is not in the checkout.
    OutsideCheckout,
    /// Another file was chosen.
    NotChosen,
    /// The workspace runs another image.
    OtherImage,
    /// Commands cannot be run as that user here.
    OtherUser,
    /// The home folder has a file of this name.
    Exists,
}

impl fmt::Display for IgnoredReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Build => "no image is built; build it and name it when the workspace is created",
            Self::Compose => "a workspace is one container; compose files are not read",
            Self::Features => "features are not installed; use an image that has them",
            Self::Container => "the container is made by the provider, not by the project",
            Self::Host => "nothing is run on the user's machine",
            Self::Resources => "resources are given when the workspace is created",
            Self::Secrets => "secrets are given when the workspace is created",
            Self::Editor => "it is for editors",
            Self::Expression => "ports are matched by number, range or host:port only",
            Self::Unknown => "the specification has no such field",
            Self::Repeated => "the same field comes again further down",
            Self::Overridden => "another field has precedence",
            Self::OutsideCheckout => "it is not in the checkout, which is where commands run",
            Self::NotChosen => "another file was chosen",
            Self::OtherImage => "an image is given when the workspace is created",
            Self::OtherUser => "commands cannot be run as that user here",
            Self::Exists => "the home folder has a file of this name, which was kept",
        })
    }
}
