//! The log of a container: what its main process says, and what detached commands write.

use std::collections::VecDeque;

use bollard::container::LogOutput;
use bollard::errors::Error as ApiError;
use bollard::query_parameters::LogsOptionsBuilder;
use bytes::BytesMut;
use futures::stream::{BoxStream, try_unfold};
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use kled_core::provider::{LogLine, LogStream, LogsOptions};
use kled_core::workspace::Operation;
use kled_core::{Error, Result, WorkspaceName};

use super::Context;
use super::body::{STARTED, STOPPING};
use super::engine::{Engine, Failed};
use super::marks::object_name;

/// A longer line is given in parts.
const LINE_MAX: usize = 64 << 10;

impl Context {
    pub(super) async fn logs(
        &self,
        name: &WorkspaceName,
        options: &LogsOptions,
    ) -> Result<BoxStream<'static, Result<LogLine>>> {
        self.faults.at(Operation::Logs, "look").await?;
        let observation = self.look(name).await?;
        if observation.is_nothing() {
            return Err(Error::workspace_not_found(name));
        }
        if observation.finished().is_none() {
            return Ok(futures::stream::empty().boxed());
        }
        Ok(lines_of(&self.engine, &object_name(name), options, observation.has_agent()))
    }
}

/// The log of a container. An agent writes its lines as JSON.
pub(super) fn lines_of(
    engine: &Engine,
    container: &str,
    options: &LogsOptions,
    by_agent: bool,
) -> BoxStream<'static, Result<LogLine>> {
    let tail = options.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
    let asked = LogsOptionsBuilder::new()
        .follow(options.follow)
        .stdout(true)
        .stderr(true)
        .timestamps(true)
        .tail(&tail)
        .build();
    let lines = lines(engine.docker.logs(container, Some(asked)).boxed());
    if by_agent { lines.map_ok(said_by_agent).boxed() } else { lines }
}

/// What is no line of the agent was written by something else on its output, and is kept as it is.
fn said_by_agent(line: LogLine) -> LogLine {
    serde_json::from_str(&line.line).unwrap_or(LogLine { stream: LogStream::Supervisor, ..line })
}

/// What has arrived of the two streams, and the lines that are whole.
#[derive(Default)]
struct Lines {
    stdout: BytesMut,
    stderr: BytesMut,
    ready: VecDeque<LogLine>,
}

impl Lines {
    fn take(&mut self, piece: &LogOutput) {
        let (stream, buffer) = match piece {
            LogOutput::StdErr { .. } => (LogStream::Stderr, &mut self.stderr),
            _ => (LogStream::Stdout, &mut self.stdout),
        };
        buffer.extend_from_slice(piece.as_ref());
        while let Some(end) = end_of_line(buffer) {
            self.ready.push_back(line(stream, &buffer.split_to(end)));
        }
    }

    fn finish(&mut self) {
        for (stream, buffer) in [(LogStream::Stdout, &mut self.stdout), (LogStream::Stderr, &mut self.stderr)]
        {
            if !buffer.is_empty() {
                self.ready.push_back(line(stream, &buffer.split()));
            }
        }
    }
}

fn end_of_line(buffer: &[u8]) -> Option<usize> {
    let end = buffer.iter().position(|byte| *byte == b'\n').map(|end| end + 1);
    end.or((buffer.len() >= LINE_MAX).then_some(LINE_MAX))
}

/// Reads `TIME TEXT`. A part of a long line has no time of its own.
fn line(stream: LogStream, bytes: &[u8]) -> LogLine {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches(['\n', '\r']);
    let timed = text.split_once(' ').and_then(|(time, rest)| Some((time.parse::<Timestamp>().ok()?, rest)));
    let (time, text) = timed.unwrap_or_else(|| (Timestamp::now(), text));
    let is_own = stream == LogStream::Stdout && (text == STARTED || text == STOPPING);
    let stream = if is_own { LogStream::Supervisor } else { stream };
    LogLine { time, stream, command: None, line: text.to_owned() }
}

fn lines(
    pieces: BoxStream<'static, std::result::Result<LogOutput, ApiError>>,
) -> BoxStream<'static, Result<LogLine>> {
    try_unfold((Some(pieces), Lines::default()), |(mut pieces, mut lines)| async move {
        loop {
            if let Some(line) = lines.ready.pop_front() {
                return Ok(Some((line, (pieces, lines))));
            }
            let Some(open) = &mut pieces else { return Ok(None) };
            match open.next().await {
                Some(piece) => lines.take(&piece.map_err(Failed::plain)?),
                None => {
                    pieces = None;
                    lines.finish();
                }
            }
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_agent_says_whose_it_is() {
        let said = |text: &str| LogLine {
            time: Timestamp::UNIX_EPOCH,
            stream: LogStream::Stdout,
            command: None,
            line: text.into(),
        };
        let own = LogLine { command: Some("make[7]".into()), ..said("built") };
        assert_eq!(said_by_agent(said(&serde_json::to_string(&own).unwrap())), own);
        assert_eq!(
            said_by_agent(said("panicked")),
            LogLine { stream: LogStream::Supervisor, ..said("panicked") }
        );
    }

    #[tokio::test]
    async fn pieces_become_lines() {
        let out = |text: &'static str| Ok(LogOutput::StdOut { message: text.into() });
        let err = |text: &'static str| Ok(LogOutput::StdErr { message: text.into() });
        let pieces = vec![
            out("2026-01-01T00:00:00.5Z kled: workspace started\n2026-01-01T00:00:01+00:00 o"),
            err("2026-01-01T00:00:02Z error\n"),
            out("ne\n2026-01-01T00:00:03Z last"),
        ];
        let lines: Vec<_> = lines(futures::stream::iter(pieces).boxed()).try_collect().await.unwrap();
        let seen: Vec<_> = lines.iter().map(|line| (line.stream, line.line.as_str())).collect();
        assert_eq!(
            seen,
            [
                (LogStream::Supervisor, STARTED),
                (LogStream::Stderr, "error"),
                (LogStream::Stdout, "one"),
                (LogStream::Stdout, "last"),
            ]
        );
        assert_eq!(lines[2].time, "2026-01-01T00:00:01Z".parse().unwrap());
    }
}
