//! The socket by which the process inside a sandbox is reached.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use kled_core::agent::{AgentMessage, ClientMessage, FrameCodec, Token};
use kled_core::{Error, ErrorKind, Result};
use tokio::net::UnixStream;
use tokio_util::codec::Framed;

use super::layout::{Folder, blocking, file_error, read_json, remove_file};

const NAME: &str = "agent.sock";

/// A connection to the process inside.
pub(crate) type Connection = Framed<UnixStream, FrameCodec<AgentMessage>>;

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

/// Connects to the process inside of a workspace, with its token as the first message.
pub(crate) async fn connect(workspace: &Folder) -> Result<Connection> {
    let silent = || Error::new(ErrorKind::Unavailable, "the workspace does not answer");
    let (path, folder) = (workspace.token(), workspace.run());
    let token = blocking(move || read_json::<Token>(&path)).await?.ok_or_else(silent)?;
    let (_opened, path) = short_path(&folder)?;
    let stream = UnixStream::connect(&path).await.map_err(|cause| silent().because(cause))?;
    let mut connection = Framed::new(stream, FrameCodec::new());
    // Sent with the request that follows.
    connection.feed(ClientMessage::Authenticate(token)).await?;
    Ok(connection)
}

/// Asks the process inside to end all commands, and itself. Returns when no command is left.
pub(crate) async fn shut_down(workspace: &Folder, grace: Duration) -> Result<()> {
    let mut connection = connect(workspace).await?;
    let grace_milliseconds = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
    connection.send(ClientMessage::Shutdown { grace_milliseconds }).await?;
    match connection.next().await {
        Some(Ok(AgentMessage::Status(_))) => Ok(()),
        Some(Ok(AgentMessage::Failed(failure))) => Err(failure.into()),
        Some(Err(error)) => Err(error.into()),
        Some(Ok(_)) | None => Err(Error::new(ErrorKind::Unavailable, "the workspace broke the connection")),
    }
}
