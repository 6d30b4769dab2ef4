//! The one error type of Kled.

use std::error::Error as StdError;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by what the caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// A value given by the caller is malformed. Correct it.
    InvalidInput,
    /// The backend itself said that there is no such thing. Never used for a failed look-up.
    NotFound,
    /// The name is taken by a workspace with another spec, or another operation changed it meanwhile.
    Conflict,
    /// The workspace is in a state in which this operation has no meaning (a command in a stopped workspace).
    InvalidState,
    /// Who the caller is could not be established: a login was refused or is missing.
    Unauthenticated,
    /// The caller is known and may not do this.
    PermissionDenied,
    /// The repository's address answers, but not with a repository, or does not answer at all.
    RepositoryNotFound,
    /// The repository has no such branch, tag, commit or path.
    RevisionNotFound,
    /// The command to run does not exist in the workspace.
    CommandNotFound,
    /// A command of the project's own set-up failed.
    SetupFailed,
    /// No space is left where the data has to go.
    StorageFull,
    /// A quota or the capacity of the backend is used up.
    QuotaExceeded,
    /// The image cannot be had.
    ImageUnavailable,
    /// This backend cannot do it; see [`Capabilities`](crate::provider::Capabilities).
    Unsupported,
    /// The deadline passed first.
    Timeout,
    /// The caller gave up, or another call (a delete) ended this one.
    Cancelled,
    /// The backend, or something it needs, does not answer just now.
    Unavailable,
    /// Anything else: a defect, or a backend that broke its own contract.
    Internal,
}

impl ErrorKind {
    /// The kind in kebab case, as `-o json` prints it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid-input",
            Self::NotFound => "not-found",
            Self::Conflict => "conflict",
            Self::InvalidState => "invalid-state",
            Self::Unauthenticated => "unauthenticated",
            Self::PermissionDenied => "permission-denied",
            Self::RepositoryNotFound => "repository-not-found",
            Self::RevisionNotFound => "revision-not-found",
            Self::CommandNotFound => "command-not-found",
            Self::SetupFailed => "setup-failed",
            Self::StorageFull => "storage-full",
            Self::QuotaExceeded => "quota-exceeded",
            Self::ImageUnavailable => "image-unavailable",
            Self::Unsupported => "unsupported",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    const fn default_status(self) -> ErrorStatus {
        match self {
            Self::Timeout | Self::Cancelled | Self::Unavailable => ErrorStatus::Temporary,
            _ => ErrorStatus::Permanent,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Whether the same call can succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorStatus {
    /// The same call fails again until something is changed.
    Permanent,
    /// The same call may succeed when it is tried again.
    Temporary,
    /// It looked temporary and was tried again until the attempts were used up.
    Persistent,
}

/// The error of every Kled operation.
///
/// It says what the caller can do ([`ErrorKind`]), whether trying again can help ([`ErrorStatus`]), which operation
/// failed, on what (context pairs) and why (source). Backend errors convert at the edge of a backend and stay private
/// behind [`std::error::Error::source`].
///
/// ```
/// use kled_core::{Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::NotFound, "workspace does not exist")
///     .during("workspace_status")
///     .with("workspace", "demo");
/// assert_eq!(error.to_string(), "workspace_status: workspace does not exist (workspace: demo)");
/// assert!(!error.is_retryable());
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    status: ErrorStatus,
    operation: Option<&'static str>,
    message: String,
    hint: Option<String>,
    context: Vec<(&'static str, String)>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `message` is one lower-case line without a full stop and without the cause.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            status: kind.default_status(),
            operation: None,
            message: message.into(),
            hint: None,
            context: Vec::new(),
            source: None,
        }))
    }

    /// Names the operation that failed. The innermost name stays.
    #[must_use]
    pub fn during(mut self, operation: &'static str) -> Self {
        self.0.operation.get_or_insert(operation);
        self
    }

    /// Adds a context pair. A key that is already there keeps its first value.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        if !self.0.context.iter().any(|(known, _)| *known == key) {
            self.0.context.push((key, value.to_string()));
        }
        self
    }

    /// Says what to do about it, in one line. The innermost hint stays.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Keeps the cause; it is printed by whoever walks [`std::error::Error::source`], not by `Display`.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Marks the error as worth another try.
    #[must_use]
    pub fn temporary(mut self) -> Self {
        self.0.status = ErrorStatus::Temporary;
        self
    }

    /// Marks a temporary error whose attempts are used up. A permanent one stays permanent.
    #[must_use]
    pub fn persistent(mut self) -> Self {
        if self.0.status == ErrorStatus::Temporary {
            self.0.status = ErrorStatus::Persistent;
        }
        self
    }

    /// What the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call can succeed later.
    #[must_use]
    pub fn status(&self) -> ErrorStatus {
        self.0.status
    }

    /// True when the same call may succeed when it is tried again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.status == ErrorStatus::Temporary
    }

    /// The operation that failed, when it is known.
    #[must_use]
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// The message alone, without operation and context.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do about it, when the place that failed knows.
    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The context pairs in the order in which they were added.
    pub fn context(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.context.iter().map(|(key, value)| (*key, value.as_str()))
    }

    /// A [`ErrorKind::Timeout`] of `operation` after `after`.
    #[must_use]
    pub fn timeout(operation: &'static str, after: std::time::Duration) -> Self {
        Self::new(ErrorKind::Timeout, "the deadline passed")
            .during(operation)
            .with("after", format!("{after:?}"))
    }

    /// A [`ErrorKind::NotFound`] of a workspace.
    #[must_use]
    pub fn workspace_not_found(name: &crate::WorkspaceName) -> Self {
        Self::new(ErrorKind::NotFound, "workspace does not exist").with("workspace", name)
    }
}

/// An error as it is stored or sent: its kind and one line, without cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// What the caller can do about it.
    pub kind: ErrorKind,
    /// One line.
    pub message: String,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::new(failure.kind, failure.message)
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self { kind: error.kind(), message: error.to_string() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(operation) = self.0.operation {
            write!(formatter, "{operation}: ")?;
        }
        formatter.write_str(&self.0.message)?;
        for (index, (key, value)) in self.0.context.iter().enumerate() {
            let separator = if index == 0 { " (" } else { ", " };
            write!(formatter, "{separator}{key}: {value}")?;
        }
        if self.0.context.is_empty() { Ok(()) } else { formatter.write_str(")") }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("status", &self.0.status)
            .field("message", &self.to_string())
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_not_part_of_the_line() {
        let error = Error::new(ErrorKind::Unavailable, "engine does not answer")
            .because(std::io::Error::other("connection refused"));
        assert_eq!(error.to_string(), "engine does not answer");
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("connection refused"));
    }

    #[test]
    fn the_innermost_operation_hint_and_context_stay() {
        let error = Error::new(ErrorKind::Internal, "broken")
            .during("clone")
            .hint("first")
            .with("path", "a")
            .during("create_workspace")
            .hint("second")
            .with("path", "b");
        assert_eq!(error.to_string(), "clone: broken (path: a)");
        assert_eq!(error.hint_text(), Some("first"));
    }

    #[test]
    fn only_temporary_errors_become_persistent() {
        assert_eq!(Error::new(ErrorKind::Unavailable, "down").persistent().status(), ErrorStatus::Persistent);
        assert_eq!(Error::new(ErrorKind::NotFound, "gone").persistent().status(), ErrorStatus::Permanent);
    }
}
