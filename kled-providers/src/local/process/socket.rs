//! The socket by which the process inside a sandbox is reached.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kled_core::{Error, ErrorKind, Result};
use tokio::net::UnixStream;

use super::layout::{Folder, blocking, file_error, read_json, remove_file};
use crate::agent::{AgentClient, Token};

const NAME: &str = "agent.sock";

/// The kernel takes at most 108 bytes for the path of a socket. Through the descriptor of its folder the path is short
/// whatever the folder's own is.
fn short_path(folder: &Path) -> Result<(File, PathBuf)> {
    let opened = File::open(folder).map_err(|cause| file_error("cannot open", folder, cause))?;
    let path = if cfg!(target_os = "linux") {
        PathBuf::from(format!("/proc/self/fd/{}/{NAME}", opened.as_raw_fd()))
    } else {
        folder.join(NAME)
    };
    Ok((opened, path))
}

/// Listens in the run folder of a workspace. A socket of an earlier run is replaced.
pub(crate) fn listen(workspace: &Folder) -> Result<UnixListener> {
    let folder = &workspace.run();
    remove_file(&folder.join(NAME))?;
    let (_opened, path) = short_path(folder)?;
    UnixListener::bind(&path).map_err(|cause| file_error("cannot listen in", folder, cause))
}

/// Connects to the process inside of a workspace.
pub(crate) async fn connect(workspace: &Folder) -> Result<AgentClient> {
    let silent = || Error::new(ErrorKind::Unavailable, "the workspace does not answer");
    let (path, folder) = (workspace.token(), workspace.run());
    let token = blocking(move || read_json::<Token>(&path)).await?.ok_or_else(silent)?;
    let (_opened, path) = short_path(&folder)?;
    let stream = UnixStream::connect(&path).await.map_err(|cause| silent().because(cause))?;
    AgentClient::connect(stream, &token).await
}

/// Asks the process inside to end all commands, and itself. Returns when no command is left.
pub(crate) async fn shut_down(workspace: &Folder, grace: Duration) -> Result<()> {
    connect(workspace).await?.shut_down(grace).await
}
