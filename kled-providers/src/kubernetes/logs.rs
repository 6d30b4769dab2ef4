//! The log of a workspace: what its agent writes, a line of JSON each, is the log of the pod's container.

use futures::stream::BoxStream;
use futures::{AsyncBufReadExt, StreamExt};
use jiff::Timestamp;
use kled_core::provider::{LogLine, LogStream, LogsOptions};
use kled_core::workspace::Operation;
use kled_core::{Error, ErrorKind, Result, WorkspaceName};
use kube::api::LogParams;

use super::Context;
use super::error::from_kube;
use super::marks::pod_name;
use super::objects::WORKSPACE_CONTAINER;

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
        let lines = match self.cluster.pods().log_stream(&pod_name(name), &parameters).await {
            Ok(lines) => lines,
            Err(error) => {
                return match from_kube(error) {
                    // No pod, or one whose container has not begun: nothing was written.
                    error if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => {
                        Ok(futures::stream::empty().boxed())
                    }
                    error => Err(error),
                };
            }
        };
        let lines = lines.lines().map(|line| match line {
            Ok(text) => Ok(parsed(text)),
            Err(cause) => Err(Error::new(ErrorKind::Unavailable, "the log was cut off").because(cause)),
        });
        Ok(lines.boxed())
    }
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
