//! The log of a container: what its main process says, and what detached commands write.

use std::collections::VecDeque;

use bollard::container::LogOutput;
use bollard::errors::Error as ApiError;
use bollard::query_parameters::LogsOptionsBuilder;
use bytes::BytesMut;
use futures::StreamExt;
use futures::stream::{BoxStream, try_unfold};
use jiff::Timestamp;
use kled_core::provider::{LogLine, LogStream, LogsOptions};
use kled_core::workspace::Operation;
use kled_core::{Error, Result, WorkspaceName};

use super::Context;
use super::body::{STARTED, STOPPING};
use super::engine::Failed;
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
        let observation = self.observe(name).await?;
        if observation.is_nothing() {
            return Err(Error::workspace_not_found(name));
        }
        if observation.finished().is_none() {
            return Ok(futures::stream::empty().boxed());
        }
        let tail = options.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
        let asked = LogsOptionsBuilder::new()
            .follow(options.follow)
            .stdout(true)
            .stderr(true)
            .timestamps(true)
            .tail(&tail)
            .build();
        let pieces = self.engine.docker.logs(&object_name(name), Some(asked)).boxed();
        Ok(lines(pieces))
    }
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
    use futures::TryStreamExt;

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
