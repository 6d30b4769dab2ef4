//! What the two sides say.

use std::fmt;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::provider::{Command, ExitStatus, Signal, TerminalSize};
use crate::{Error, ErrorKind};

/// What a driver has to know to be served. Whoever can reach the agent's socket may not be able to read the file that
/// holds it: some sandboxes keep paths from being read and still let sockets be connected to.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(String);

impl Token {
    /// A token from its text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text. Each call is a place to check in review.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token([redacted])")
    }
}

/// What the driver says to the agent. The first message is the token, the second a request; the rest belong to a
/// running command.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientMessage {
    /// Proves that the driver may be served.
    Authenticate(Token),
    /// Run a command.
    Exec(Command),
    /// What runs here?
    Status,
    /// End all commands, then the agent.
    Shutdown {
        /// Between the request to end and the kill, in milliseconds.
        grace_milliseconds: u64,
    },
    /// Bytes for the command's standard input.
    Stdin(Bytes),
    /// The end of its standard input.
    StdinEnd,
    /// A new size of its terminal.
    Resize(TerminalSize),
    /// A signal for its process group.
    Signal(Signal),
}

/// What the agent says to the driver.
#[derive(Clone, Debug, PartialEq)]
pub enum AgentMessage {
    /// The command was started.
    Started {
        /// Its process, as the workspace numbers it.
        process: u32,
    },
    /// Bytes of its standard output or terminal.
    Stdout(Bytes),
    /// Bytes of its standard error.
    Stderr(Bytes),
    /// It ended, and all of its output was sent before. The last message.
    Exited(ExitStatus),
    /// The request failed. The last message.
    Failed(Failure),
    /// The answer to [`ClientMessage::Status`].
    Status(AgentStatus),
}

/// Why a request failed.
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

/// What runs in a workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    /// The version of the agent.
    pub version: String,
    /// Commands that run now, detached ones included.
    pub commands: u32,
    /// When a command last began or ended.
    pub last_activity: Timestamp,
}
