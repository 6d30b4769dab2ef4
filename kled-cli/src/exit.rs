//! The exit codes: this file is the only place that knows them.

use kled_core::{Error, ErrorKind};

/// How a run of the program ends. The codes are stable: a new one may come, none changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(u8);

impl Exit {
    /// It worked.
    pub const SUCCESS: Self = Self(0);
    /// Anything that has no code of its own: a defect, a full disk, a quota.
    pub const FAILURE: Self = Self(1);
    /// The command line, the configuration or a value in them is malformed.
    pub const USAGE: Self = Self(2);
    /// There is no such workspace, provider, repository, revision or image.
    pub const NOT_FOUND: Self = Self(3);
    /// The name is taken by a workspace with another spec, or the workspace's state does not allow it.
    pub const CONFLICT: Self = Self(4);
    /// A login is missing or refused, or a permission is missing.
    pub const DENIED: Self = Self(5);
    /// Trying again may help: it is unavailable, the deadline passed, or somebody cancelled it.
    pub const TEMPORARY: Self = Self(6);
    /// The provider cannot do it.
    pub const UNSUPPORTED: Self = Self(7);
    /// `exec`: the command exists and cannot be run.
    pub const CANNOT_EXECUTE: Self = Self(126);
    /// `exec`: the command does not exist in the workspace.
    pub const COMMAND_NOT_FOUND: Self = Self(127);
    /// Interrupted by Ctrl-C.
    pub const INTERRUPTED: Self = Self(130);

    /// Every code with its meaning, as the help shows it.
    pub const TABLE: [(Self, &'static str); 11] = [
        (Self::SUCCESS, "success"),
        (Self::FAILURE, "any other failure: internal error, disk full, quota used up"),
        (Self::USAGE, "usage: malformed command line, configuration or value"),
        (Self::NOT_FOUND, "not found: workspace, provider, repository, revision, image"),
        (Self::CONFLICT, "conflict: the name is taken, or the workspace's state forbids it"),
        (Self::DENIED, "denied: login missing or refused, permission missing"),
        (Self::TEMPORARY, "temporary: unavailable, deadline passed, cancelled; try again"),
        (Self::UNSUPPORTED, "the provider cannot do it"),
        (Self::CANNOT_EXECUTE, "exec: the command cannot be run"),
        (Self::COMMAND_NOT_FOUND, "exec: the command does not exist in the workspace"),
        (Self::INTERRUPTED, "interrupted by Ctrl-C"),
    ];

    /// The code of an error of this kind.
    #[must_use]
    pub const fn of_kind(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidInput => Self::USAGE,
            ErrorKind::NotFound
            | ErrorKind::RepositoryNotFound
            | ErrorKind::RevisionNotFound
            | ErrorKind::ImageUnavailable => Self::NOT_FOUND,
            ErrorKind::Conflict | ErrorKind::InvalidState => Self::CONFLICT,
            ErrorKind::Unauthenticated | ErrorKind::PermissionDenied => Self::DENIED,
            ErrorKind::Timeout | ErrorKind::Cancelled | ErrorKind::Unavailable => Self::TEMPORARY,
            ErrorKind::Unsupported => Self::UNSUPPORTED,
            ErrorKind::CommandNotFound => Self::COMMAND_NOT_FOUND,
            // Waiting does not empty a disk, so these are not temporary.
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::Internal => Self::FAILURE,
            // The kinds are an open list.
            _ => Self::FAILURE,
        }
    }

    /// The code of an error.
    #[must_use]
    pub fn of_error(error: &Error) -> Self {
        Self::of_kind(error.kind())
    }

    /// The code of an error of `exec`: a command that may not be run is told apart from a refused login.
    #[must_use]
    pub fn of_exec_error(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::PermissionDenied => Self::CANNOT_EXECUTE,
            kind => Self::of_kind(kind),
        }
    }

    /// The exit code that a command in a workspace had, passed through. What does not fit a byte becomes 255, as a
    /// code of 256 would otherwise look like success.
    #[must_use]
    pub fn of_command(code: i32) -> Self {
        Self(u8::try_from(code).unwrap_or(u8::MAX))
    }

    /// The code after a signal: 128 plus its number, as shells have it.
    #[must_use]
    pub const fn of_signal(signal: i32) -> Self {
        // Signal numbers are at most 64.
        Self(128 + (signal & 0x7f) as u8)
    }

    /// The code itself.
    #[must_use]
    pub const fn code(self) -> u8 {
        self.0
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All kinds, from the one place that lists them whatever is added: what deserialising an unknown one says.
    fn every_kind() -> Vec<ErrorKind> {
        let message = serde_json::from_str::<ErrorKind>("\"?\"").unwrap_err().to_string();
        let (_, list) = message.split_once("expected one of ").unwrap();
        let names = list.split('`').skip(1).step_by(2);
        names.map(|name| serde_json::from_str(&format!("\"{name}\"")).unwrap()).collect()
    }

    #[test]
    fn every_kind_has_its_documented_code() {
        let codes: Vec<_> =
            every_kind().into_iter().map(|kind| format!("{kind}: {}", Exit::of_kind(kind).code())).collect();
        insta::assert_snapshot!(codes.join("\n"), @r#"
        invalid-input: 2
        not-found: 3
        conflict: 4
        invalid-state: 4
        unauthenticated: 5
        permission-denied: 5
        repository-not-found: 3
        revision-not-found: 3
        command-not-found: 127
        setup-failed: 1
        storage-full: 1
        quota-exceeded: 1
        image-unavailable: 3
        unsupported: 7
        timeout: 6
        cancelled: 6
        unavailable: 6
        internal: 1
        "#);
    }

    #[test]
    fn only_a_missing_permission_differs_in_exec() {
        for kind in every_kind() {
            let in_exec = Exit::of_exec_error(&Error::new(kind, "x"));
            match kind {
                ErrorKind::PermissionDenied => assert_eq!(in_exec, Exit::CANNOT_EXECUTE),
                _ => assert_eq!(in_exec, Exit::of_kind(kind)),
            }
        }
    }

    #[test]
    fn the_exit_code_of_a_command_never_becomes_success() {
        assert_eq!(Exit::of_command(42).code(), 42);
        assert_eq!(Exit::of_command(256).code(), 255);
        assert_eq!(Exit::of_command(-1).code(), 255);
        assert_eq!(Exit::of_signal(2), Exit::INTERRUPTED);
    }

    #[test]
    fn the_readme_lists_every_code() {
        let readme = include_str!("../README.md");
        for (exit, meaning) in Exit::TABLE {
            let row = format!("| {} | {meaning} |", exit.code());
            assert!(readme.contains(&row), "README.md lacks: {row}");
        }
    }
}
