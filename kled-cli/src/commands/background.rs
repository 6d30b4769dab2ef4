//! `create --no-wait`: the creation goes on in a child of its own, this process returns once the workspace exists.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::process::Stdio;
use std::time::Duration;

use kled_core::provider::{Provider, StatusOptions};
use kled_core::workspace::{Workspace, WorkspaceSpec, WorkspaceStatus};
use kled_core::{Error, ErrorKind, Result, WorkspaceName};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::output::{Failure, workspace_table};
use crate::{Context, Exit};

/// Tells the child what it is. No option, because completions would offer one.
const IN_BACKGROUND: &str = "KLED_IN_BACKGROUND";

/// Between two looks: a workspace is marked before anything slow is done, so few are needed.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Until the workspace exists. Marking one is quick; a slow backend gets its time.
const APPEARANCE: Duration = Duration::from_secs(60);

/// Starts the creation and waits until the workspace exists or the creation has failed.
pub(super) async fn create(
    context: &Context,
    provider: &dyn Provider,
    name: &WorkspaceName,
    spec: &WorkspaceSpec,
) -> Result<Exit, Failure> {
    if !provider.capabilities().durable {
        let error =
            Error::new(ErrorKind::Unsupported, "workspaces of this provider do not outlive the process")
                .with("provider", provider.name())
                .hint("leave --no-wait out");
        return Err(error.into());
    }
    let (mut child, output) = spawn(context)?;
    let deadline = Instant::now() + APPEARANCE;
    loop {
        tokio::select! {
            ended = child.wait() => {
                let status = ended.map_err(lost)?;
                return finished(context, provider, name, status, output).await;
            }
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
        if let Some(workspace) = creating(provider, name).await? {
            if let Some(conflict) = spec.conflict_with(name, &workspace.spec) {
                return Err(conflict.into());
            }
            context.print(&workspace, |look| workspace_table(std::slice::from_ref(&workspace), look))?;
            let program = &context.program;
            context.note(&format!(
                "the creation goes on in the background; follow it with: {program} workspace events {name} -f"
            ));
            return Ok(Exit::SUCCESS);
        }
        if Instant::now() >= deadline {
            return Err(Error::timeout("create_workspace", APPEARANCE).with("workspace", name).into());
        }
    }
}

/// The workspace while it is created. In any other state it is what an earlier create left: whether that is what is
/// asked for now is for the creation to say, and then it ends at once.
async fn creating(provider: &dyn Provider, name: &WorkspaceName) -> Result<Option<Workspace>> {
    match provider.workspace_status(name, StatusOptions::default()).await {
        Ok(workspace) => {
            Ok(matches!(workspace.status, WorkspaceStatus::Creating { .. }).then_some(workspace))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The creation has ended already: with a workspace, or with an error that it has printed in the right form.
async fn finished(
    context: &Context,
    provider: &dyn Provider,
    name: &WorkspaceName,
    status: std::process::ExitStatus,
    mut output: File,
) -> Result<Exit, Failure> {
    if status.success() {
        let workspace = provider.workspace_status(name, StatusOptions::default()).await?;
        context.print(&workspace, |look| workspace_table(std::slice::from_ref(&workspace), look))?;
        return Ok(Exit::SUCCESS);
    }
    let mut text = Vec::new();
    output.rewind().and_then(|()| output.read_to_end(&mut text)).map_err(lost)?;
    // Nobody reads it: the exit code still tells.
    drop(context.surroundings.stderr.write(&text));
    Err(Failure::Reported(Exit::of_command(status.code().unwrap_or(i32::from(Exit::FAILURE.code())))))
}

fn lost(cause: std::io::Error) -> Error {
    Error::new(ErrorKind::Internal, "the creation in the background was lost").because(cause)
}

/// Runs this program again without `--no-wait`. Its errors go to a file without a name, which is gone with the last
/// process that has it open: a pipe would end the creation once this process is gone.
fn spawn(context: &Context) -> Result<(Child, File)> {
    let failed =
        |cause| Error::new(ErrorKind::Internal, "the creation cannot go on in the background").because(cause);
    let program = std::env::current_exe().map_err(failed)?;
    let output = tempfile::tempfile().map_err(failed)?;
    let child = Command::new(program)
        .args(arguments(&context.arguments))
        .env(IN_BACKGROUND, "1")
        .current_dir(&context.surroundings.working_directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output.try_clone().map_err(failed)?)
        .kill_on_drop(false)
        .spawn()
        .map_err(failed)?;
    Ok((child, output))
}

/// The same line without `--no-wait`, and quiet: only an error is of interest.
fn arguments(line: &[OsString]) -> Vec<OsString> {
    let own = line.iter().filter(|argument| *argument != "--no-wait").cloned();
    own.chain(["--quiet".into()]).collect()
}

/// In the child: leaves the terminal's session, so that neither its end nor Ctrl-C in it ends the creation.
pub(super) fn leave_session(context: &Context) {
    if context.surroundings.variable(IN_BACKGROUND).is_some()
        && let Err(error) = rustix::process::setsid()
    {
        // It leads a group of its own already, so nobody's Ctrl-C reaches it.
        tracing::debug!(%error, "no session of its own");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_child_gets_the_same_line() {
        let line = ["workspace", "create", "demo", "--no-wait", "--repo", "."].map(OsString::from);
        let expected = ["workspace", "create", "demo", "--repo", ".", "--quiet"];
        assert_eq!(arguments(&line), expected.map(OsString::from));
    }
}
