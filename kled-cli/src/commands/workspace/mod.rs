//! `kled workspace`

mod copy;
mod create;
mod delete;
mod events;
mod exec;
mod list;
mod logs;
mod port_forward;
mod shell;
mod start;
mod status;
mod stop;

use clap::{Args, Subcommand};
use kled_core::WorkspaceName;
use kled_core::workspace::Workspace;

use crate::arguments::checked;
use crate::output::{Failure, workspace_table};
use crate::{Context, Exit};

#[derive(Debug, Subcommand)]
pub(crate) enum WorkspaceCommand {
    /// Make a workspace from a git repository and start it
    Create(Box<create::CreateArguments>),
    /// List workspaces
    #[command(visible_alias = "ls")]
    List(list::ListArguments),
    /// Show everything about a workspace
    Status(status::StatusArguments),
    /// Start a stopped workspace with the data that it had
    Start(start::StartArguments),
    /// End everything that runs in a workspace and keep its data
    Stop(stop::StopArguments),
    /// Remove workspaces with their data
    #[command(visible_alias = "rm")]
    Delete(delete::DeleteArguments),
    /// Run a command in a workspace
    Exec(exec::ExecArguments),
    /// Print what the supervisor and detached commands wrote
    Logs(logs::LogsArguments),
    /// Open a shell in a workspace
    Shell(shell::ShellArguments),
    /// Copy files and folders into a workspace and out of it
    #[command(name = "cp", visible_alias = "copy")]
    Copy(copy::CopyArguments),
    /// Connect ports of this machine to ports of a workspace
    #[command(visible_alias = "forward")]
    PortForward(port_forward::PortForwardArguments),
    /// Print what happened to a workspace
    Events(events::EventsArguments),
}

impl WorkspaceCommand {
    pub(crate) const fn takes_signals(&self) -> bool {
        matches!(self, Self::Exec(_) | Self::Shell(_) | Self::PortForward(_))
    }

    pub(crate) async fn run(&self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Create(arguments) => arguments.run(context).await,
            Self::List(arguments) => arguments.run(context).await,
            Self::Status(arguments) => arguments.run(context).await,
            Self::Start(arguments) => arguments.run(context).await,
            Self::Stop(arguments) => arguments.run(context).await,
            Self::Delete(arguments) => arguments.run(context).await,
            Self::Exec(arguments) => arguments.run(context).await,
            Self::Logs(arguments) => arguments.run(context).await,
            Self::Shell(arguments) => arguments.run(context).await,
            Self::Copy(arguments) => arguments.run(context).await,
            Self::PortForward(arguments) => arguments.run(context).await,
            Self::Events(arguments) => arguments.run(context).await,
        }
    }
}

/// Which workspace.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The workspace's name
    #[arg(value_parser = checked::<WorkspaceName>)]
    pub(crate) name: WorkspaceName,
}

/// Prints the workspace that an operation answered with.
fn print_workspace(context: &Context, workspace: &Workspace) -> Result<Exit, Failure> {
    context.print(workspace, |look| workspace_table(std::slice::from_ref(workspace), look))?;
    Ok(Exit::SUCCESS)
}
