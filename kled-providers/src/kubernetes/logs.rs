//! The log of a workspace: what its agent writes, a line of JSON each, is the log of the pod's container. It goes with
//! the pod, so the end of it is kept in a Secret (commands may write anything) when the workspace is stopped.

use std::time::Duration;

use futures::stream::BoxStream;
use futures::{AsyncBufReadExt, StreamExt};
use jiff::Timestamp;
use kled_core::provider::{LogLine, LogStream, LogsOptions};
use kled_core::workspace::Operation;
use kled_core::{Error, ErrorKind, Result, WorkspaceName};
use kube::api::LogParams;

use super::Context;
use super::client::Claimed;
use super::error::from_kube;
use super::marks::pod_name;
use super::objects::{WORKSPACE_CONTAINER, kept_log};

/// What is kept of a log, far below what Kubernetes takes for an object.
const KEPT_MAX: usize = 256 << 10;
const KEPT_LINES: i64 = 2000;

/// How long keeping it may take.
const KEEP_LIMIT: Duration = Duration::from_secs(5);

impl Context {
    pub(super) async fn logs(
        &self,
        name: &WorkspaceName,
        options: &LogsOptions,
    ) -> Result<BoxStream<'static, Result<LogLine>>> {
        self.faults.at(Operation::Logs, "read").await?;
        self.cluster.claimed(name).await?.ok_or_else(|| Error::workspace_not_found(name))?;
        let parameters = LogParams {
            container: Some(WORKSPACE_CONTAINER.into()),
            follow: options.follow,
            tail_lines: options.tail.map(|lines| i64::try_from(lines).unwrap_or(i64::MAX)),
            ..LogParams::default()
        };
        let mut kept: Vec<_> = self.cluster.kept_log(name).await?.lines().map(str::to_owned).collect();
        let lines = match self.cluster.pods().log_stream(&pod_name(name), &parameters).await {
            Ok(lines) => lines,
            Err(error) => {
                return match from_kube(error) {
                    // No pod, or one whose container has not begun: nothing was written since.
                    error if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => {
                        let first = kept.len().saturating_sub(options.tail.unwrap_or(usize::MAX));
                        let kept = kept.split_off(first).into_iter().map(|text| Ok(parsed(text)));
                        Ok(futures::stream::iter(kept).boxed())
                    }
                    error => Err(error),
                };
            }
        };
        if options.tail.is_some() {
            kept.clear();
        }
        let kept = futures::stream::iter(kept.into_iter().map(|text| Ok(parsed(text))));
        let lines = lines.lines().map(|line| match line {
            Ok(text) => Ok(parsed(text)),
            Err(cause) => Err(Error::new(ErrorKind::Unavailable, "the log was cut off").because(cause)),
        });
        Ok(kept.chain(lines).boxed())
    }

    /// Keeps the end of the pod's log. That it cannot be kept is no reason not to stop.
    pub(super) async fn keep_log(&self, claimed: &Claimed) {
        let name = &claimed.marks.name;
        let parameters = LogParams {
            container: Some(WORKSPACE_CONTAINER.into()),
            tail_lines: Some(KEPT_LINES),
            limit_bytes: Some(KEPT_MAX as i64),
            ..LogParams::default()
        };
        let keep = async {
            let written = self.cluster.pods().logs(&pod_name(name), &parameters).await.map_err(from_kube)?;
            let mut log = self.cluster.kept_log(name).await?;
            log.push_str(&written);
            self.cluster.apply(&kept_log(&claimed.marks, claimed.uid(), last_lines(&log, KEPT_MAX))).await
        };
        match tokio::time::timeout(KEEP_LIMIT, keep).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(workspace = %name, %error, "the log is not kept"),
            Err(_) => tracing::warn!(workspace = %name, "the log is not kept: the cluster is too slow"),
        }
    }
}

/// The end of a text, of at most so many bytes, from the beginning of a line.
fn last_lines(text: &str, limit: usize) -> &str {
    let Some(mut start) = text.len().checked_sub(limit).filter(|start| *start > 0) else { return text };
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].split_once('\n').map_or("", |(_, rest)| rest)
}

/// What is no line of the agent was written by something else on its output, and is kept as it is.
fn parsed(text: String) -> LogLine {
    serde_json::from_str(&text).unwrap_or_else(|_| LogLine {
        time: Timestamp::now(),
        stream: LogStream::Supervisor,
        command: None,
        line: text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_is_cut_between_lines_and_characters() {
        assert_eq!(last_lines("one\ntwo\n", 100), "one\ntwo\n");
        assert_eq!(last_lines("one\ntwo\nthree\n", 8), "three\n");
        assert_eq!(last_lines("\u{e9}\u{e9}\nb\n", 5), "b\n");
        assert_eq!(last_lines("no end of a line", 5), "");
    }
}
