//! Runs the commands of a step.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use kled_core::provider::{Command, ExitStatus, LogStream, StandardInput, Variables};
use kled_core::setup::{CommandSet, SetupCommand};
use kled_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::{Progress, reworded};
use crate::agent::checkout::redact;
use crate::agent::server::command::{self, Running, SILENCE};
use crate::agent::server::commands::Commands;

/// Longer lines are cut.
const LINE_MAX: usize = 8 << 10;

/// How long output is waited for after the end of a command: what it left running may never be silent.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// How many of the last lines of output an error has, and how long each may be there.
const LAST_LINES: usize = 5;
const LAST_LINE_MAX: usize = 200;

/// Where commands run, and what they have in their environment besides the workspace's own.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) folder: &'a Path,
    pub(super) environment: &'a Variables,
}

/// Runs all commands of a set at the same time and waits for all of them.
pub(super) async fn run(
    commands: &Arc<Commands>,
    set: &CommandSet,
    file: Option<&str>,
    place: Place<'_>,
    progress: &Progress,
) -> Result<()> {
    let runs = set.commands.iter().map(|(name, command)| async move {
        let label = if name.is_empty() { set.field.clone() } else { format!("{}.{name}", set.field) };
        let failed = |error: Error| located(&error, &label, file, set.line);
        one(commands, &label, name, command, place, progress).await.map_err(failed)
    });
    join_all(runs).await.into_iter().collect()
}

/// The protocol carries kind and message alone, so the place is in the message.
fn located(error: &Error, label: &str, file: Option<&str>, line: Option<u64>) -> Error {
    let place = match (file, line) {
        (Some(file), Some(line)) => format!(" of {file}, line {line},"),
        (Some(file), None) => format!(" of {file}"),
        (None, _) => String::new(),
    };
    reworded(error, format!("{label}{place} {}", error.message()))
}

async fn one(
    commands: &Arc<Commands>,
    label: &str,
    name: &str,
    command: &SetupCommand,
    place: Place<'_>,
    progress: &Progress,
) -> Result<()> {
    let command = Command {
        arguments: command.arguments(),
        working_directory: Some(place.folder.display().to_string()),
        environment: place.environment.clone(),
        stdin: StandardInput::Empty,
        terminal: None,
        detached: false,
    };
    let mut running = command::start(commands, &command)
        .map_err(|error| Error::new(error.kind(), format!("cannot be started: {}", error.message())))?;
    let mut output = Output::new(name);
    let ended = tokio::select! {
        ended = follow(commands, &mut running, &mut output, progress) => ended,
        () = progress.abandoned() => Err(abandoned()),
    };
    if ended.is_err() {
        running.kill().await;
    } else {
        go_on_in_the_log(commands, &mut running, label);
    }
    commands.ended(running.process);
    match ended? {
        status if status.is_success() => Ok(()),
        status => Err(failure(status, &output.last)),
    }
}

pub(super) fn abandoned() -> Error {
    Error::new(ErrorKind::Cancelled, "was ended, because nobody waits for it any more")
}

fn failure(status: ExitStatus, last: &VecDeque<String>) -> Error {
    let how = match status {
        ExitStatus::Exited(code) => format!("failed with exit code {code}"),
        ExitStatus::Signaled(signal) => format!("was ended by signal {signal}"),
    };
    let lines: Vec<&str> = last.iter().map(String::as_str).collect();
    let output = if lines.is_empty() { "it wrote nothing".into() } else { lines.join(" | ") };
    Error::new(ErrorKind::SetupFailed, format!("{how}: {output}"))
        .hint("correct it, then create the workspace again: what is done is not repeated")
}

/// Reports the output until the command has ended and nothing more comes.
async fn follow(
    commands: &Commands,
    running: &mut Running,
    output: &mut Output,
    progress: &Progress,
) -> Result<ExitStatus> {
    let mut status = None;
    let mut limit = None;
    while running.stdout.is_some() || running.stderr.is_some() || status.is_none() {
        let lines = tokio::select! {
            chunk = command::read(&mut running.stdout) => output.take(Stream::Out, chunk, &mut running.stdout),
            chunk = command::read(&mut running.stderr) => output.take(Stream::Error, chunk, &mut running.stderr),
            ended = running.child.wait(), if status.is_none() => {
                status = Some(command::exit_status(ended));
                limit = Some(Instant::now() + DRAIN_LIMIT);
                continue;
            }
            // What it left running may hold the output open.
            () = tokio::time::sleep(SILENCE), if status.is_some() => break,
        };
        commands.touch();
        for line in lines {
            progress.line(line).await;
        }
        if limit.is_some_and(|limit| limit < Instant::now()) {
            break;
        }
    }
    for line in output.rest() {
        progress.line(line).await;
    }
    status.unwrap_or_else(|| Err(Error::new(ErrorKind::Internal, "the end of the command is not known")))
}

/// What a command left running goes on; its output goes to the workspace's log. A closed pipe would end it.
fn go_on_in_the_log(commands: &Arc<Commands>, running: &mut Running, label: &str) {
    for (reader, stream) in
        [(running.stdout.take(), LogStream::Stdout), (running.stderr.take(), LogStream::Stderr)]
    {
        if let Some(reader) = reader {
            let (commands, label) = (Arc::clone(commands), label.to_owned());
            tokio::spawn(async move {
                crate::agent::server::detached::copy(&commands, Some(reader), stream, &label).await;
            });
        }
    }
}

#[derive(Clone, Copy)]
enum Stream {
    Out,
    Error,
}

/// Cuts output into lines.
struct Output {
    prefix: String,
    pending: [Vec<u8>; 2],
    last: VecDeque<String>,
}

impl Output {
    fn new(name: &str) -> Self {
        let prefix = if name.is_empty() { String::new() } else { format!("{name}: ") };
        Self { prefix, pending: [Vec::new(), Vec::new()], last: VecDeque::new() }
    }

    /// The lines that are complete with `chunk`; the end of the output ends its reader.
    fn take<R>(&mut self, stream: Stream, chunk: Option<Bytes>, reader: &mut Option<R>) -> Vec<String> {
        let Some(chunk) = chunk else {
            *reader = None;
            return Vec::new();
        };
        let mut lines = Vec::new();
        for byte in chunk {
            let pending = &mut self.pending[stream as usize];
            match byte {
                b'\n' => {
                    let line = std::mem::take(pending);
                    lines.extend(self.line(&line));
                }
                _ if pending.len() < LINE_MAX => pending.push(byte),
                _ => {}
            }
        }
        lines
    }

    /// What was written without a line break at the end.
    fn rest(&mut self) -> Vec<String> {
        let rest = std::mem::take(&mut self.pending);
        rest.iter().filter_map(|line| self.line(line)).collect()
    }

    /// Of what a program writes over itself, the last counts.
    fn line(&mut self, bytes: &[u8]) -> Option<String> {
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default();
        let printable = |character: &char| !character.is_control() || *character == '\t';
        let text: String = redact(text).chars().filter(printable).collect();
        if text.trim().is_empty() {
            return None;
        }
        self.last.push_back(text.chars().take(LAST_LINE_MAX).collect());
        if self.last.len() > LAST_LINES {
            self.last.pop_front();
        }
        Some(format!("{}{text}", self.prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(output: &mut Output, text: &str) -> Vec<String> {
        output.take(Stream::Out, Some(Bytes::copy_from_slice(text.as_bytes())), &mut Some(()))
    }

    #[test]
    fn output_is_cut_into_lines_wherever_it_arrives() {
        let mut output = Output::new("web");
        assert_eq!(lines(&mut output, "on"), [""; 0]);
        assert_eq!(
            lines(&mut output, "e\ntwo\r\n\n10%\r50%\r100%\nrest"),
            ["web: one", "web: two", "web: 100%"]
        );
        assert_eq!(output.rest(), ["web: rest"]);
        assert_eq!(output.last, ["one", "two", "100%", "rest"]);
        let mut end = Some(());
        assert!(output.take(Stream::Out, None, &mut end).is_empty() && end.is_none());
    }

    #[test]
    fn lines_are_bounded_and_without_credentials() {
        let mut output = Output::new("");
        let line = format!("{}\n", "x".repeat(3 * LINE_MAX));
        assert_eq!(lines(&mut output, &line)[0].len(), LINE_MAX);
        assert_eq!(output.last[0].len(), LAST_LINE_MAX);
        assert_eq!(
            lines(&mut output, "get https://me:hunter2@h/x\u{1b}[0m\n"),
            ["get https://[redacted]@h/x[0m"]
        );
        for _ in 0..20 {
            lines(&mut output, "y\n");
        }
        assert_eq!(output.last.len(), LAST_LINES);
    }
}
