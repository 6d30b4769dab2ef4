//! The process inside the sandbox: the agent of one workspace, on a socket.
//!
//! It gets the listening socket as its standard input, its configuration in one environment variable, and tells the
//! supervisor outside what happens as lines of JSON on its standard output.

use std::os::fd::AsFd;
use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kled_core::provider::{LogLine, Variables};
use kled_core::workspace::StopReason;
use kled_core::{Error, ErrorKind, Failure, Result, WorkspaceId, WorkspaceName};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

use super::sandbox::{Sandbox, View};
use crate::agent::Token;
use crate::agent::server::{self, Agent};

/// The environment variable that holds the [`Configuration`]. Commands do not get it.
pub(crate) const CONFIGURATION: &str = "KLED_SERVE";

pub(crate) use crate::agent::server::WORKSPACE_ID;

/// How long commands may take to end when nobody asked them to before.
const GRACE_PERIOD: Duration = Duration::from_secs(1);

/// What the process inside has to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Configuration {
    pub(crate) name: WorkspaceName,
    pub(crate) id: WorkspaceId,
    pub(crate) sandbox: Sandbox,
    pub(crate) view: View,
    /// The folder in which commands begin: the checkout, or the sub-path of it.
    pub(crate) working_directory: PathBuf,
    /// What every command has in its environment, and this process.
    pub(crate) environment: Variables,
    /// What the spec adds for commands. It is not for what prepares the sandbox outside of it.
    pub(crate) variables: Variables,
    /// False where the project is not set up.
    pub(crate) sets_up: bool,
    pub(crate) idle_timeout: Option<Duration>,
    /// What a client has to say.
    pub(crate) token: Token,
}

/// What the process inside tells the supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "report")]
pub(crate) enum Report {
    /// The socket is served.
    Ready,
    /// The sandbox could not be entered.
    Failed(Failure),
    /// A line for the log.
    Log(LogLine),
    /// It ends, and why.
    Ending {
        #[serde(flatten)]
        reason: StopReason,
    },
}

/// Serves until it is told to end. Returns the exit code of the process.
pub(crate) fn main() -> u8 {
    match serve() {
        Ok(()) => 0,
        Err(error) => {
            report(&Report::Failed(Failure::from(&error)));
            1
        }
    }
}

fn serve() -> Result<()> {
    let internal =
        |cause: std::io::Error| Error::new(ErrorKind::Internal, "cannot serve the workspace").because(cause);
    let text = std::env::var(CONFIGURATION)
        .map_err(|cause| Error::new(ErrorKind::Internal, "the configuration is missing").because(cause))?;
    let configuration: Configuration = serde_json::from_str(&text)
        .map_err(|cause| Error::new(ErrorKind::Internal, "malformed configuration").because(cause))?;
    let listener = StdListener::from(std::io::stdin().as_fd().try_clone_to_owned().map_err(internal)?);
    listener.set_nonblocking(true).map_err(internal)?;
    stay_with_parent(configuration.sandbox).map_err(internal)?;
    // Before the runtime: Landlock holds for the calling thread and what it starts.
    configuration.sandbox.enter(&configuration.view)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(internal)?;
    runtime.block_on(run(configuration, listener)).map_err(internal)
}

/// Where the sandbox has no process numbers of its own, orphans come here instead of escaping to the machine's first
/// process, and the supervisor's end is this one's.
fn stay_with_parent(sandbox: Sandbox) -> std::io::Result<()> {
    if sandbox.has_own_processes() {
        return Ok(());
    }
    let parent = rustix::process::getppid();
    #[cfg(target_os = "linux")]
    {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    }
    // The parent may have ended before the signal was asked for.
    if rustix::process::getppid() == parent {
        Ok(())
    } else {
        Err(std::io::Error::other("the supervisor has ended"))
    }
}

async fn run(configuration: Configuration, listener: StdListener) -> std::io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let mut environment = configuration.environment;
    environment.0.extend(configuration.variables.0);
    let agent = Agent::new(server::Configuration {
        id: configuration.id,
        token: configuration.token,
        checkout: None,
        state: configuration.sets_up.then_some(configuration.view.state),
        working_directory: configuration.working_directory,
        environment,
        idle_timeout: configuration.idle_timeout,
        has_own_processes: configuration.sandbox.has_own_processes(),
        drivers_are_far: false,
        log: Arc::new(|line| report(&Report::Log(line))),
    });
    report(&Report::Ready);
    let reason = agent.run(listener, GRACE_PERIOD).await?;
    report(&Report::Ending { reason });
    Ok(())
}

/// Tells the supervisor. When it is gone this process is about to end as well.
fn report(report: &Report) {
    use std::io::Write;
    let Ok(mut line) = serde_json::to_vec(report) else { return };
    line.push(b'\n');
    let mut output = std::io::stdout().lock();
    let _supervisor_gone = output.write_all(&line).and_then(|()| output.flush());
}
