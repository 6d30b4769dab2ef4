//! `kled workspace start`

use std::time::Duration;

use clap::Args;
use kled_core::provider::{Provider, StartOptions};

use super::{Named, print_workspace};
use crate::arguments::checked_duration;
use crate::output::Failure;
use crate::{Context, Exit};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kled workspace start demo\n  kled workspace start demo --timeout 5m")]
pub(crate) struct StartArguments {
    #[command(flatten)]
    workspace: Named,
    /// The longest that it may take [default: 2m]
    #[arg(long, value_name = "DURATION", value_parser = checked_duration)]
    timeout: Option<Duration>,
}

impl StartArguments {
    pub(crate) async fn run(&self, context: &Context) -> Result<Exit, Failure> {
        let timeout = self.timeout.unwrap_or(context.settings.start_timeout);
        let provider = context.provider().await?;
        let start =
            |progress| provider.start_workspace(&self.workspace.name, StartOptions { timeout, progress });
        let workspace = context.with_progress(start).await?;
        print_workspace(context, &workspace)
    }
}
