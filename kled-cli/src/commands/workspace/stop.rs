//! `kled workspace stop`

use std::time::Duration;

use clap::Args;
use kled_core::provider::{Provider, StopOptions};

use super::{Named, print_workspace};
use crate::arguments::checked_duration;
use crate::output::Failure;
use crate::{Context, Exit};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kled workspace stop demo\n  kled workspace stop demo --grace-period 30s"
)]
pub(crate) struct StopArguments {
    #[command(flatten)]
    workspace: Named,
    /// How long commands have to end by themselves [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = checked_duration)]
    grace_period: Option<Duration>,
    /// The longest that it may take [default: 1m]
    #[arg(long, value_name = "DURATION", value_parser = checked_duration)]
    timeout: Option<Duration>,
}

impl StopArguments {
    pub(crate) async fn run(&self, context: &Context) -> Result<Exit, Failure> {
        let timeout = self.timeout.unwrap_or(context.settings.stop_timeout);
        let grace_period = self.grace_period.unwrap_or(StopOptions::default().grace_period);
        let provider = context.provider().await?;
        let stop = |progress| {
            provider.stop_workspace(&self.workspace.name, StopOptions { timeout, grace_period, progress })
        };
        let workspace = context.with_progress(stop).await?;
        print_workspace(context, &workspace)
    }
}
