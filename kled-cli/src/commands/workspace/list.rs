//! `kled workspace list`

use std::collections::BTreeMap;

use clap::Args;
use futures::StreamExt;
use kled_core::provider::{ListOptions, Provider};
use kled_core::{LabelKey, LabelValue, Result};

use crate::arguments::key_and_value;
use crate::output::{Failure, workspace_table};
use crate::{Context, Exit};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kled workspace list
  kled workspace list -l team=a -l kled.io/stage=review
  kled workspace list -o json")]
pub(crate) struct ListArguments {
    /// Only workspaces with this label; may be repeated, then all have to match
    #[arg(short = 'l', long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
}

impl ListArguments {
    pub(crate) async fn run(&self, context: &Context) -> Result<Exit, Failure> {
        let options = ListOptions { labels: labels(&self.labels)?, ..ListOptions::default() };
        let provider = context.provider().await?;
        let (mut workspaces, mut errors) = (Vec::new(), Vec::new());
        let mut items = provider.list_workspaces(options);
        while let Some(item) = items.next().await {
            match item {
                Ok(workspace) => workspaces.push(workspace),
                Err(error) => errors.push(error),
            }
        }
        workspaces.sort_by(|one, other| one.name.cmp(&other.name));
        context.print(&workspaces, |look| {
            if workspaces.is_empty() && errors.is_empty() {
                context.note("no workspaces");
                return String::new();
            }
            workspace_table(&workspaces, look)
        })?;
        // What could be read is shown even when something could not.
        if errors.is_empty() { Ok(Exit::SUCCESS) } else { Err(Failure::Errors(errors)) }
    }
}

fn labels(texts: &[String]) -> Result<BTreeMap<LabelKey, LabelValue>> {
    let pair = |text: &String| {
        let (key, value) = key_and_value("--label", text)?;
        Ok((key.parse()?, value.parse()?))
    };
    texts.iter().map(pair).collect()
}
