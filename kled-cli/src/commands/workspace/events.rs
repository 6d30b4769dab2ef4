//! `kled workspace events`

use clap::Args;
use futures::{StreamExt, TryStreamExt};
use kled_core::provider::{EventsOptions, Provider};

use super::Named;
use crate::output::Failure;
use crate::{Context, Exit};

#[derive(Debug, Args)]
#[command(after_help = "\
With -f, -o json prints one object a line.

Examples:
  kled workspace events demo
  kled workspace events demo -f -o json")]
pub(crate) struct EventsArguments {
    #[command(flatten)]
    workspace: Named,
    /// Go on with new events until the workspace is deleted
    #[arg(short, long)]
    follow: bool,
}

impl EventsArguments {
    pub(crate) async fn run(&self, context: &Context) -> Result<Exit, Failure> {
        let options = EventsOptions { follow: self.follow, ..EventsOptions::default() };
        let provider = context.provider().await?;
        let mut events = provider.workspace_events(&self.workspace.name, options).await?;
        if self.follow {
            while let Some(event) = events.next().await.transpose()? {
                context.print_item(&event, |_| Context::event_line(&event))?;
            }
        } else {
            let events: Vec<_> = events.try_collect().await?;
            context.print(&events, |_| events.iter().map(Context::event_line).collect())?;
        }
        Ok(Exit::SUCCESS)
    }
}
