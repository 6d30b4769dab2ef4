//! `kled workspace status`

use clap::Args;
use kled_core::provider::{Provider, StatusOptions};

use super::Named;
use crate::output::{Failure, workspace_details};
use crate::{Context, Exit};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kled workspace status demo
  kled workspace status demo -o json | jq -r .status.state")]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    workspace: Named,
}

impl StatusArguments {
    pub(crate) async fn run(&self, context: &Context) -> Result<Exit, Failure> {
        let provider = context.provider().await?;
        let workspace = provider.workspace_status(&self.workspace.name, StatusOptions::default()).await?;
        context.print(&workspace, |look| workspace_details(&workspace, look))?;
        Ok(Exit::SUCCESS)
    }
}
