//! Lines of a workspace's log.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Who wrote a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogStream {
    /// What supervises the workspace.
    Supervisor,
    /// The standard output of a detached command.
    Stdout,
    /// The standard error of a detached command.
    Stderr,
}

/// One line of a workspace's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogLine {
    /// When it was written.
    pub time: Timestamp,
    /// Who wrote it.
    pub stream: LogStream,
    /// Which command, where one wrote it: its program and number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The line without its end. Bytes that are not UTF-8 are replaced.
    pub line: String,
}
