//! `kled config`

use clap::Subcommand;

use crate::output::{Failure, Table};
use crate::{Context, Exit};

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show every setting with its value and where that came from
    #[command(after_help = "\
Examples:
  kled config view
  KLED_PROVIDER=local kled config view -o json")]
    View,
}

impl ConfigCommand {
    pub(crate) fn run(&self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::View => view(context),
        }
    }
}

fn view(context: &Context) -> Result<Exit, Failure> {
    let entries = context.settings.entries();
    context.print(&entries, |look| {
        let mut table = Table::new(["KEY", "VALUE", "ORIGIN"]);
        for entry in &entries {
            table.row([entry.key.clone(), entry.value.clone().unwrap_or_default(), entry.origin.to_string()]);
        }
        table.to_text(look.color)
    })?;
    Ok(Exit::SUCCESS)
}
