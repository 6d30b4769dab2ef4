//! Errors for people and programs.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::io;

use anstyle::{AnsiColor, Style};
use kled_core::{Error, ErrorKind, ErrorStatus};
use serde::Serialize;

use super::hint::hint;
use super::{Format, printable};
use crate::Exit;

/// Why a command did not work.
#[derive(Debug)]
pub enum Failure {
    /// Errors, at least one; the first decides the exit code.
    Errors(Vec<Error>),
    /// An error that has an exit code of its own.
    WithExit(Error, Exit),
    /// Whoever read standard output is gone: no reason to say anything.
    OutputClosed(Exit),
    /// The error stands on standard error already.
    Reported(Exit),
}

impl Failure {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Errors(errors) => errors.first().map_or(Exit::FAILURE, Exit::of_error),
            Self::WithExit(_, exit) | Self::OutputClosed(exit) | Self::Reported(exit) => *exit,
        }
    }

    /// The errors to print.
    pub(crate) fn errors(&self) -> &[Error] {
        match self {
            Self::Errors(errors) => errors,
            Self::WithExit(error, _) => std::slice::from_ref(error),
            Self::OutputClosed(_) | Self::Reported(_) => &[],
        }
    }

    /// Writing a result failed.
    pub(crate) fn of_output(cause: io::Error) -> Self {
        match cause.kind() {
            // `kled … | head` has what it wanted.
            io::ErrorKind::BrokenPipe => Self::OutputClosed(Exit::SUCCESS),
            _ => Error::new(ErrorKind::Internal, "the result cannot be written").because(cause).into(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Errors(vec![error])
    }
}

/// The causes of an error, outermost first. Many libraries repeat a cause in their own text: what was said is left out.
fn causes(error: &Error) -> Vec<String> {
    let mut said = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !text.is_empty() && !said.iter().any(|earlier| earlier.contains(&text)) {
            said.push(text);
        }
        source = cause.source();
    }
    said.split_off(1)
}

#[derive(Serialize)]
struct Document<'a> {
    error: Fields<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    kind: ErrorKind,
    status: ErrorStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<&'static str>,
    message: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    context: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    causes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    exit_code: u8,
}

/// An error as standard error gets it.
pub(crate) fn report(error: &Error, exit: Exit, program: &str, format: Format, color: bool) -> String {
    let hint = hint(error, program);
    let document = Document {
        error: Fields {
            kind: error.kind(),
            status: error.status(),
            operation: error.operation(),
            message: error.message(),
            context: error.context().collect(),
            causes: causes(error),
            hint: hint.as_deref(),
            exit_code: exit.code(),
        },
    };
    // An error that cannot be serialised is still an error to show.
    match format.document(&document) {
        Ok(Some(text)) => text,
        Ok(None) | Err(_) => lines(error, hint.as_deref(), color),
    }
}

fn lines(error: &Error, hint: Option<&str>, color: bool) -> String {
    let red = AnsiColor::Red.on_default().bold();
    let mut text = labelled("error:", red, &error.to_string(), color);
    for cause in causes(error) {
        text.push_str(&labelled("caused by:", Style::new().bold(), &cause, color));
    }
    if let Some(hint) = hint {
        text.push_str(&labelled("hint:", AnsiColor::Cyan.on_default().bold(), hint, color));
    }
    text
}

fn labelled(label: &str, style: Style, text: &str, color: bool) -> String {
    // Further lines are indented, so that a line without a label never looks like one of ours.
    let text = printable(text.trim_end()).replace('\n', "\n  ");
    if color { format!("{style}{label}{style:#} {text}\n") } else { format!("{label} {text}\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> Error {
        let inner = io::Error::other("connection refused");
        let middle =
            Error::new(ErrorKind::Unavailable, "engine does not answer: connection refused").because(inner);
        Error::new(ErrorKind::Unavailable, "the workspace cannot be reached")
            .during("workspace_status")
            .with("workspace", "demo")
            .with("last words", "one\ntwo\u{1b}[2J")
            .hint("look whether the engine is running")
            .because(middle)
    }

    #[test]
    fn each_cause_stands_once() {
        insta::assert_snapshot!(report(&error(), Exit::TEMPORARY, "kled", Format::Table, false), @r#"
        error: workspace_status: the workspace cannot be reached (workspace: demo, last words: one
          two\u{1b}[2J)
        caused by: engine does not answer: connection refused
        hint: look whether the engine is running
        "#);
    }

    #[test]
    fn programs_get_an_object() {
        insta::assert_snapshot!(report(&error(), Exit::TEMPORARY, "kled", Format::Json, false), @r#"
        {
          "error": {
            "kind": "unavailable",
            "status": "temporary",
            "operation": "workspace_status",
            "message": "the workspace cannot be reached",
            "context": {
              "last words": "one\ntwo\u001b[2J",
              "workspace": "demo"
            },
            "causes": [
              "engine does not answer: connection refused"
            ],
            "hint": "look whether the engine is running",
            "exitCode": 6
          }
        }
        "#);
        insta::assert_snapshot!(report(&error(), Exit::TEMPORARY, "kled", Format::Yaml, false), @r#"
        error:
          kind: unavailable
          status: temporary
          operation: workspace_status
          message: the workspace cannot be reached
          context:
            last words: "one\ntwo\e[2J"
            workspace: demo
          causes:
          - "engine does not answer: connection refused"
          hint: look whether the engine is running
          exitCode: 6
        "#);
    }

    #[test]
    fn the_first_error_decides_the_exit_code() {
        let failure =
            Failure::Errors(vec![Error::new(ErrorKind::Conflict, "a"), Error::new(ErrorKind::NotFound, "b")]);
        assert_eq!(failure.exit(), Exit::CONFLICT);
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        let closed = Failure::of_output(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(closed.errors().is_empty() && closed.exit() == Exit::SUCCESS);
        let full = Failure::of_output(io::Error::from(io::ErrorKind::StorageFull));
        assert!(full.errors().len() == 1 && full.exit() == Exit::FAILURE);
    }
}
