//! `kled workspace logs`

use clap::Args;
use futures::{StreamExt, TryStreamExt};
use kled_core::provider::{LogLine, LogStream, LogsOptions, Provider};

use super::Named;
use crate::output::Failure;
use crate::{Context, Exit};

#[derive(Debug, Args)]
#[command(after_help = "\
With -f, -o json prints one object a line.

Examples:
  kled workspace logs demo
  kled workspace logs demo -f --tail 20")]
pub(crate) struct LogsArguments {
    #[command(flatten)]
    workspace: Named,
    /// Go on with new lines until the workspace stops
    #[arg(short, long)]
    follow: bool,
    /// Only the last so many lines of what is there
    #[arg(long, value_name = "LINES")]
    tail: Option<usize>,
}

impl LogsArguments {
    pub(crate) async fn run(&self, context: &Context) -> Result<Exit, Failure> {
        let options = LogsOptions { follow: self.follow, tail: self.tail, ..LogsOptions::default() };
        let provider = context.provider().await?;
        let mut lines = provider.workspace_logs(&self.workspace.name, options).await?;
        if self.follow {
            while let Some(line) = lines.next().await.transpose()? {
                context.print_item(&line, |_| text(&line))?;
            }
        } else {
            let lines: Vec<_> = lines.try_collect().await?;
            context.print(&lines, |_| lines.iter().map(text).collect())?;
        }
        Ok(Exit::SUCCESS)
    }
}

/// Who wrote it, then the line as it was written.
fn text(line: &LogLine) -> String {
    let stream = match line.stream {
        LogStream::Supervisor => "supervisor",
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
    };
    format!("{} | {}\n", line.command.as_deref().unwrap_or(stream), line.line)
}
