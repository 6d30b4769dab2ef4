//! `kled provider`

use clap::Subcommand;
use kled_core::provider::{Capabilities, Enforcement};
use kled_core::{ErrorKind, ProviderName};
use serde::Serialize;

use crate::output::{Failure, Table};
use crate::{Context, Exit};

#[derive(Debug, Subcommand)]
pub(crate) enum ProviderCommand {
    /// List the providers with what they can do here
    #[command(after_help = "\
Examples:
  kled provider list
  kled provider list -o json")]
    List,
}

impl ProviderCommand {
    pub(crate) async fn run(&self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::List => list(context).await,
        }
    }
}

/// A provider, or why it cannot be used.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    name: ProviderName,
    default: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    capabilities: Option<Capabilities>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Problem>,
}

#[derive(Serialize)]
struct Problem {
    kind: ErrorKind,
    message: String,
}

async fn list(context: &Context) -> Result<Exit, Failure> {
    let mut listed = Vec::new();
    for name in context.registry.names() {
        // One that cannot be opened is part of the answer: that is what this command is asked about.
        let (capabilities, error) = match context.open(name).await {
            Ok(provider) => (Some(provider.capabilities().clone()), None),
            Err(error) => (None, Some(Problem { kind: error.kind(), message: error.to_string() })),
        };
        let default = *name == context.settings.provider;
        listed.push(Listed { name: name.clone(), default, capabilities, error });
    }
    context.print(&listed, |look| {
        let mut table = Table::new([
            "NAME",
            "DEFAULT",
            "ISOLATIONS",
            "SANDBOX",
            "CPU",
            "MEMORY",
            "DISK",
            "COMMANDS",
            "PROBLEM",
        ]);
        listed.iter().for_each(|provider| table.row(cells(provider)));
        table.to_text(look.color)
    })?;
    Ok(Exit::SUCCESS)
}

fn cells(provider: &Listed) -> Vec<String> {
    let default = if provider.default { "yes" } else { "" };
    let mut cells = vec![provider.name.to_string(), default.to_owned()];
    let unknown = Capabilities::default();
    let capabilities = provider.capabilities.as_ref().unwrap_or(&unknown);
    let enforced = |limit: &Enforcement| if limit.is_enforced() { "enforced" } else { "" }.to_owned();
    let (sandbox, commands) = (&capabilities.sandbox, &capabilities.commands);
    cells.push(capabilities.isolations.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
    cells.push(chosen([("files", sandbox.files), ("processes", sandbox.processes)]));
    cells.extend(
        [&capabilities.limits.cpu, &capabilities.limits.memory, &capabilities.limits.disk].map(enforced),
    );
    cells.push(chosen([
        ("exec", commands.exec),
        ("terminal", commands.terminal),
        ("signals", commands.signals),
        ("detach", commands.detach),
    ]));
    cells.push(provider.error.as_ref().map(|problem| problem.message.clone()).unwrap_or_default());
    cells
}

fn chosen<const COUNT: usize>(names: [(&str, bool); COUNT]) -> String {
    let names: Vec<_> = names.into_iter().filter_map(|(name, there)| there.then_some(name)).collect();
    names.join(",")
}
