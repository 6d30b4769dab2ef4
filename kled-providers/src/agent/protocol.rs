//! The protocol's messages, and how they and the values of the core become one another.

use std::num::{NonZeroU16, TryFromIntError};

use kled_core::provider::{Command, ExitStatus, Signal, StandardInput, TerminalSize, Variables};
use kled_core::setup::{ForwardedPort, IgnoredField};
use kled_core::{Error, ErrorKind};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// What is generated from `proto/agent.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated; the definition is documented")]
pub(crate) mod messages {
    tonic::include_proto!("kled.agent.v1");
}

/// The metadata that names the kind of an error.
const ERROR_KIND: &str = "kled-error-kind";

/// The metadata that says what to do about an error, in UTF-8, and how long it may be: metadata is not for texts.
const ERROR_HINT: &str = "kled-error-hint-bin";
const ERROR_HINT_MAX: usize = 1 << 10;

/// What is read of a stream at once, and so the largest chunk of a message.
pub(crate) const CHUNK: usize = 64 << 10;

const fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::InvalidInput => Code::InvalidArgument,
        ErrorKind::NotFound
        | ErrorKind::RepositoryNotFound
        | ErrorKind::RevisionNotFound
        | ErrorKind::CommandNotFound => Code::NotFound,
        ErrorKind::Conflict => Code::Aborted,
        ErrorKind::InvalidState | ErrorKind::SetupFailed => Code::FailedPrecondition,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Code::ResourceExhausted,
        ErrorKind::Unsupported => Code::Unimplemented,
        ErrorKind::Timeout => Code::DeadlineExceeded,
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::Unavailable | ErrorKind::ImageUnavailable => Code::Unavailable,
        _ => Code::Internal,
    }
}

/// An error on its way out of the agent: kind, one line and what to do, without context or cause.
pub(crate) fn status_of(error: &Error) -> Status {
    let mut status = Status::new(code(error.kind()), error.message());
    if let Ok(value) = MetadataValue::try_from(error.kind().as_str()) {
        status.metadata_mut().insert(ERROR_KIND, value);
    }
    if let Some(hint) = error.hint_text().filter(|hint| hint.len() <= ERROR_HINT_MAX) {
        status.metadata_mut().insert_bin(ERROR_HINT, MetadataValue::from_bytes(hint.as_bytes()));
    }
    status
}

/// An error as the driver sees it. Without a kind of ours it is the transport's, and the connection is lost.
pub(crate) fn error_of(status: &Status) -> Error {
    let kind = status.metadata().get(ERROR_KIND).and_then(|value| value.to_str().ok());
    let kind = kind.and_then(|kind| {
        serde_json::from_value::<ErrorKind>(serde_json::Value::String(kind.to_owned())).ok()
    });
    match kind {
        Some(kind) => {
            let hint = status.metadata().get_bin(ERROR_HINT).and_then(|value| value.to_bytes().ok());
            let hint = hint.and_then(|bytes| String::from_utf8(bytes.into()).ok());
            let error = Error::new(kind, status.message());
            hint.into_iter().fold(error, Error::hint)
        }
        None => lost().because(std::io::Error::other(format!("{:?}: {}", status.code(), status.message()))),
    }
}

/// The connection broke before the answer was complete.
pub(crate) fn lost() -> Error {
    Error::new(ErrorKind::Unavailable, "the workspace stopped, or its connection was lost, before the end")
}

/// The other side said what it must not say there.
pub(crate) fn broken_protocol() -> Error {
    Error::new(ErrorKind::Internal, "the other side broke the agent's protocol")
}

fn out_of_range(_: TryFromIntError) -> Error {
    Error::new(ErrorKind::InvalidInput, "the size of a terminal is at most 65535")
}

impl From<TerminalSize> for messages::TerminalSize {
    fn from(size: TerminalSize) -> Self {
        Self { rows: size.rows.into(), columns: size.columns.into() }
    }
}

impl TryFrom<messages::TerminalSize> for TerminalSize {
    type Error = Error;

    fn try_from(size: messages::TerminalSize) -> Result<Self, Error> {
        Ok(Self {
            rows: size.rows.try_into().map_err(out_of_range)?,
            columns: size.columns.try_into().map_err(out_of_range)?,
        })
    }
}

impl From<Command> for messages::Command {
    fn from(command: Command) -> Self {
        Self {
            arguments: command.arguments,
            working_directory: command.working_directory,
            environment: command.environment.0.into_iter().collect(),
            piped_stdin: command.stdin == StandardInput::Piped,
            terminal: command.terminal.map(Into::into),
            detached: command.detached,
        }
    }
}

impl TryFrom<messages::Command> for Command {
    type Error = Error;

    fn try_from(command: messages::Command) -> Result<Self, Error> {
        Ok(Self {
            arguments: command.arguments,
            working_directory: command.working_directory,
            environment: Variables(command.environment.into_iter().collect()),
            stdin: if command.piped_stdin { StandardInput::Piped } else { StandardInput::Empty },
            terminal: command.terminal.map(TryInto::try_into).transpose()?,
            detached: command.detached,
        })
    }
}

impl From<ExitStatus> for messages::ExitStatus {
    fn from(status: ExitStatus) -> Self {
        use messages::exit_status::Status;
        Self {
            status: Some(match status {
                ExitStatus::Exited(code) => Status::Code(code),
                ExitStatus::Signaled(signal) => Status::Signal(signal),
            }),
        }
    }
}

impl TryFrom<messages::ExitStatus> for ExitStatus {
    type Error = Error;

    fn try_from(status: messages::ExitStatus) -> Result<Self, Error> {
        use messages::exit_status::Status;
        match status.status {
            Some(Status::Code(code)) => Ok(Self::Exited(code)),
            Some(Status::Signal(signal)) => Ok(Self::Signaled(signal)),
            None => Err(broken_protocol()),
        }
    }
}

impl From<ForwardedPort> for messages::ForwardedPort {
    fn from(port: ForwardedPort) -> Self {
        Self { host: port.host, number: u16::from(port.number).into(), label: port.label }
    }
}

impl TryFrom<messages::ForwardedPort> for ForwardedPort {
    type Error = Error;

    fn try_from(port: messages::ForwardedPort) -> Result<Self, Error> {
        let number = u16::try_from(port.number).ok().and_then(NonZeroU16::new);
        Ok(Self { host: port.host, number: number.ok_or_else(broken_protocol)?, label: port.label })
    }
}

impl From<IgnoredField> for messages::IgnoredField {
    fn from(ignored: IgnoredField) -> Self {
        let reason = serde_json::to_value(ignored.reason).ok();
        let reason = reason.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
        Self { field: ignored.field, line: ignored.line, reason }
    }
}

impl TryFrom<messages::IgnoredField> for IgnoredField {
    type Error = Error;

    fn try_from(ignored: messages::IgnoredField) -> Result<Self, Error> {
        let reason = serde_json::from_value(serde_json::Value::String(ignored.reason));
        Ok(Self::new(ignored.field, ignored.line, reason.map_err(|_| broken_protocol())?))
    }
}

/// The POSIX name of a signal, as it travels.
pub(crate) const fn signal_name(signal: Signal) -> &'static str {
    match signal {
        Signal::Hup => "HUP",
        Signal::Int => "INT",
        Signal::Quit => "QUIT",
        Signal::Kill => "KILL",
        _ => "TERM",
    }
}

/// A signal by its POSIX name.
pub(crate) fn signal_of(name: &str) -> Result<Signal, Error> {
    serde_json::from_value(serde_json::Value::String(name.to_owned())).map_err(|_| {
        Error::new(ErrorKind::InvalidInput, "unknown signal").with("signal", format!("{name:?}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_error_survives() {
        let kinds = [
            ErrorKind::InvalidInput,
            ErrorKind::NotFound,
            ErrorKind::Conflict,
            ErrorKind::InvalidState,
            ErrorKind::Unauthenticated,
            ErrorKind::PermissionDenied,
            ErrorKind::RepositoryNotFound,
            ErrorKind::RevisionNotFound,
            ErrorKind::CommandNotFound,
            ErrorKind::SetupFailed,
            ErrorKind::StorageFull,
            ErrorKind::QuotaExceeded,
            ErrorKind::ImageUnavailable,
            ErrorKind::Unsupported,
            ErrorKind::Timeout,
            ErrorKind::Cancelled,
            ErrorKind::Unavailable,
            ErrorKind::Internal,
        ];
        for kind in kinds {
            let error = error_of(&status_of(&Error::new(kind, "why")));
            assert_eq!((error.kind(), error.message(), error.hint_text()), (kind, "why", None));
            let error = error_of(&status_of(&Error::new(kind, "why").hint("do “this”")));
            assert_eq!((error.kind(), error.hint_text()), (kind, Some("do “this”")));
        }
        assert_eq!(error_of(&Status::new(Code::NotFound, "no")).kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn every_signal_survives() {
        for signal in [Signal::Hup, Signal::Int, Signal::Quit, Signal::Term, Signal::Kill] {
            assert_eq!(signal_of(signal_name(signal)).unwrap(), signal);
        }
        assert!(signal_of("SEGV").is_err());
    }
}
