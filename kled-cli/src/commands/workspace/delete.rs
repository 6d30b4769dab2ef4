//! `kled workspace delete`

use std::time::Duration;

use clap::Args;
use kled_core::provider::{DeleteOptions, Deletion, Provider};
use kled_core::{ProviderName, WorkspaceName};
use serde::Serialize;

use crate::arguments::{checked, checked_duration};
use crate::output::{Failure, Table};
use crate::{Context, Exit};

#[derive(Debug, Args)]
#[command(after_help = "\
Deleting what is gone is a success.

Examples:
  kled workspace delete demo
  kled workspace delete one two three")]
pub(crate) struct DeleteArguments {
    /// The workspaces' names
    #[arg(required = true, value_name = "NAME", value_parser = checked::<WorkspaceName>)]
    names: Vec<WorkspaceName>,
    /// The longest that each may take [default: 2m]
    #[arg(long, value_name = "DURATION", value_parser = checked_duration)]
    timeout: Option<Duration>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Deleted {
    name: WorkspaceName,
    provider: ProviderName,
    #[serde(flatten)]
    deletion: Deletion,
}

impl DeleteArguments {
    pub(crate) async fn run(&self, context: &Context) -> Result<Exit, Failure> {
        let timeout = self.timeout.unwrap_or(context.settings.delete_timeout);
        let provider = context.provider().await?;
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for name in &self.names {
            let delete = |progress| provider.delete_workspace(name, DeleteOptions { timeout, progress });
            match context.with_progress(delete).await {
                Ok(deletion) => {
                    deleted.push(Deleted { name: name.clone(), provider: provider.name().clone(), deletion });
                }
                // The others are deleted all the same.
                Err(error) => errors.push(error.with("workspace", name)),
            }
        }
        context.print(&deleted, |look| table(&deleted).to_text(look.color))?;
        if errors.is_empty() { Ok(Exit::SUCCESS) } else { Err(Failure::Errors(errors)) }
    }
}

/// What was removed in detail stands in the events, which standard error has shown, and in the other formats.
fn table(deleted: &[Deleted]) -> Table {
    let mut table = Table::new(["NAME", "RESULT", "PROVIDER"]);
    for Deleted { name, provider, deletion } in deleted {
        let result = if deletion.existed { "deleted" } else { "was absent" };
        table.row([name.to_string(), result.to_owned(), provider.to_string()]);
    }
    table
}
