//! The commands, one file each.

mod agent;
mod background;
mod completions;
mod config;
#[cfg(feature = "image")]
mod image;
mod provider;
mod session;
mod signals;
#[cfg(feature = "ssh")]
mod ssh;
mod version;
mod workspace;

use std::fmt::Write as _;

use async_trait::async_trait;
use clap::{ArgMatches, Subcommand};

pub(crate) use signals::Signals;

use crate::output::Failure;
use crate::{Context, Exit};

/// A command that an embedder adds.
///
/// ```
/// use kled_cli::{Context, CustomCommand, Exit, Failure, clap};
///
/// struct Greet;
///
/// #[async_trait::async_trait]
/// impl CustomCommand for Greet {
///     fn definition(&self) -> clap::Command {
///         clap::Command::new("greet").about("Say hello").arg(clap::Arg::new("name").required(true))
///     }
///
///     async fn run(&self, context: &Context, matches: &clap::ArgMatches) -> Result<Exit, Failure> {
///         let name: &String = matches.get_one("name").ok_or_else(|| {
///             kled_core::Error::new(kled_core::ErrorKind::Internal, "clap let a required value pass")
///         })?;
///         context.print(&serde_json::json!({ "hello": name }), |_| format!("hello {name}\n"))?;
///         Ok(Exit::SUCCESS)
///     }
/// }
/// ```
#[async_trait]
pub trait CustomCommand: Send + Sync + 'static {
    /// Its name, arguments and help. The global options are there without it.
    fn definition(&self) -> clap::Command;

    /// Runs it. Ctrl-C drops the future.
    async fn run(&self, context: &Context, matches: &ArgMatches) -> Result<Exit, Failure>;
}

/// The program's own commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make, use and remove workspaces
    #[command(subcommand, visible_alias = "ws")]
    Workspace(workspace::WorkspaceCommand),
    /// Ask the agents of workspaces
    #[command(subcommand)]
    Agent(agent::AgentCommand),
    /// Make entries for ssh and for editors that use it
    #[cfg(feature = "ssh")]
    SshConfig(ssh::ConfigArguments),
    /// Speak SSH on standard input and output: what ssh starts
    #[cfg(feature = "ssh")]
    #[command(hide = true)]
    SshProxy(ssh::ProxyArguments),
    /// See which providers there are and what they can do
    #[command(subcommand)]
    Provider(provider::ProviderCommand),
    /// Get Kled's own container images
    #[cfg(feature = "image")]
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// See the configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print the completions of a shell
    Completions(completions::CompletionsArguments),
    /// Print the version
    Version(version::VersionArguments),
}

impl Command {
    /// True for commands that pass signals on instead of being ended by them.
    pub(crate) const fn takes_signals(&self) -> bool {
        match self {
            Self::Workspace(command) => command.takes_signals(),
            // It is ended by ssh with a signal, about which nobody wants to hear.
            #[cfg(feature = "ssh")]
            Self::SshProxy(_) => true,
            _ => false,
        }
    }

    pub(crate) async fn run(&self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Workspace(command) => command.run(context).await,
            Self::Agent(command) => command.run(context).await,
            #[cfg(feature = "ssh")]
            Self::SshConfig(arguments) => arguments.run(context).await,
            #[cfg(feature = "ssh")]
            Self::SshProxy(arguments) => arguments.run(context).await,
            Self::Provider(command) => command.run(context).await,
            #[cfg(feature = "image")]
            Self::Image(command) => command.run(context).await,
            Self::Config(command) => command.run(context),
            Self::Completions(arguments) => arguments.run(context),
            Self::Version(arguments) => arguments.run(context),
        }
    }
}

/// Below the short help.
pub(crate) const AFTER_HELP: &str = "\
Examples:
  kled workspace create demo --repo https://github.com/org/app
  kled workspace exec demo -- cargo test
  kled workspace list -o json
  kled workspace delete demo

Exit codes and configuration: kled --help";

/// Below the long help: the exit codes come from the one place that has them.
pub(crate) fn after_long_help() -> String {
    let mut text = String::from(
        "\
Examples:
  kled workspace create demo --repo https://github.com/org/app
  kled workspace exec demo -- cargo test
  kled workspace list -o json
  kled workspace delete demo

Configuration: a flag goes before an environment variable (KLED_PROVIDER, KLED_OUTPUT, …), that before the file \
$XDG_CONFIG_HOME/kled/config.toml, that before the default. `kled config view` shows where each value came from.

Exit codes:
",
    );
    for (exit, meaning) in Exit::TABLE {
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "  {:>3}  {meaning}", exit.code());
    }
    text.push_str(
        "\n`exec` and `shell` pass the exit code of the command through, 128 plus the number of a signal.",
    );
    text
}
