//! Putting the agent as a file into a container that runs already, where a backend has no sidecar.
//!
//! ```text
//! ask in every folder     FOLDER/kled-agent-DIGEST digest   the right one is there: nothing is sent
//! send beside the place   by the engine's upload, else by a shell's `cat`
//! install                 TEMPORARY take-place DIGEST PLACE the program checks itself and takes its place
//! ```
//!
//! The place is named after the digest, and only a program that found its own digest right renames itself to it: what
//! is there is whole, however often a transfer was cut, and never changes under an agent that runs. Where the engine
//! takes files, no shell, `tar`, `curl` or root is needed in the container.

mod failure;
mod installed;
mod remote;
mod shell;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use kled_core::provider::ExitStatus;
use kled_core::{Error, ErrorKind, Result};
use sha2::{Digest as _, Sha256};

pub use installed::answer;
pub use remote::Remote;

use self::failure::Failures;
use self::remote::{Answer, ask};

/// Where an agent is put unless the backend knows better: folders of programs first, then those that are writable in
/// containers whose own file system is not.
pub const FOLDERS: [&str; 5] = ["/usr/local/bin", "/run", "/var/tmp", "/tmp", "/dev/shm"];

/// Of the digest, what a name has: enough that no two versions share it.
const NAME_DIGITS: usize = 16;

/// For one question, which is answered in milliseconds or not at all.
const QUESTION_LIMIT: Duration = Duration::from_secs(20);

/// The exit code of an installation whose program is not the one that was sent.
const DAMAGED: u8 = 75;

/// The program that is delivered: static, and for the container's architecture.
#[derive(Clone)]
pub struct AgentProgram {
    content: Bytes,
    /// Made when it is first asked for: not whoever has a program puts it anywhere.
    digest: Arc<OnceLock<String>>,
}

impl AgentProgram {
    /// A program of these bytes.
    pub fn new(content: impl Into<Bytes>) -> Self {
        Self { content: content.into(), digest: Arc::default() }
    }

    /// The program in a file. Blocks: call it on a thread that may.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none; [`ErrorKind::PermissionDenied`] when it may not be read.
    pub fn read(file: &Path) -> Result<Self> {
        let content = std::fs::read(file).map_err(|cause| {
            let kind = match cause.kind() {
                std::io::ErrorKind::NotFound => ErrorKind::NotFound,
                std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
                _ => ErrorKind::Internal,
            };
            Error::new(kind, "the agent's program cannot be read").with("file", file.display()).because(cause)
        })?;
        Ok(Self::new(content))
    }

    /// The SHA-256 of its bytes, in hexadecimal.
    #[must_use]
    pub fn digest(&self) -> &str {
        self.digest.get_or_init(|| hex::encode(Sha256::digest(&self.content)))
    }

    /// Its bytes.
    #[cfg(feature = "local-container")]
    pub(crate) fn content(&self) -> &[u8] {
        &self.content
    }

    fn place(&self, folder: &str) -> String {
        format!("{}/kled-agent-{}", folder.trim_end_matches('/'), &self.digest()[..NAME_DIGITS])
    }

    /// Beside the place, so that a rename within one file system leads there; unlike that of any other delivery.
    fn temporary(&self, folder: &str) -> String {
        let delivery = uuid::Uuid::new_v4().simple().to_string();
        format!("{}/.kled-agent-{delivery}", folder.trim_end_matches('/'))
    }
}

impl std::fmt::Debug for AgentProgram {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = formatter.debug_struct("AgentProgram");
        debug.field("digest", &self.digest()).field("size", &self.content.len()).finish()
    }
}

/// Where the agent is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivered {
    /// Its path in the container.
    pub path: String,
    /// False when the right one was there already.
    pub sent: bool,
}

/// Puts the agent into the first of the folders that takes it, unless the right one is in one of them already. `limit`
/// is for all of it. Dropping the future may leave a temporary file, and never a half agent in its place.
///
/// Whoever may write to the folders is trusted as the workspace itself: the agent serves nobody else.
///
/// # Errors
/// `PermissionDenied` where each folder is on a read-only file system, on one that programs may not be run from
/// (`noexec`), or not writable; `StorageFull`; `Unsupported` where the container has no shell and the engine no upload,
/// or the program is for another architecture. All name each folder with its cause. `Unavailable` (temporary) when the
/// connection is lost or what arrived is damaged: the same call may succeed.
pub async fn deliver(
    remote: &dyn Remote,
    agent: &AgentProgram,
    folders: &[&str],
    limit: Duration,
) -> Result<Delivered> {
    let delivery = async {
        if let Some(path) = find(remote, agent, folders).await? {
            return Ok(Delivered { path, sent: false });
        }
        let mut failures = Failures::default();
        for folder in folders {
            match put(remote, agent, folder).await {
                Ok(path) => return Ok(Delivered { path, sent: true }),
                Err(error) => failures.add(folder, error)?,
            }
        }
        Err(failures.into_error())
    };
    let late = |_| Err(Error::timeout("deliver_agent", limit));
    tokio::time::timeout(limit, delivery)
        .await
        .unwrap_or_else(late)
        .map_err(|error| error.during("deliver_agent"))
}

/// Where the right agent is already.
async fn find(remote: &dyn Remote, agent: &AgentProgram, folders: &[&str]) -> Result<Option<String>> {
    for folder in folders {
        let place = agent.place(folder);
        if ask(remote, &[&place, "digest"], QUESTION_LIMIT).await?.says(agent.digest()) {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

async fn put(remote: &dyn Remote, agent: &AgentProgram, folder: &str) -> Result<String> {
    let (place, temporary) = (agent.place(folder), agent.temporary(folder));
    send(remote, agent, &temporary).await?;
    let installed = ask(remote, &[&temporary, "take-place", agent.digest(), &place], QUESTION_LIMIT).await?;
    if installed.says(agent.digest()) {
        return Ok(place);
    }
    // What can't be removed is never run: no other delivery has its name.
    let _left = ask(remote, &["rm", "-f", &temporary], QUESTION_LIMIT).await;
    Err(not_installed(installed))
}

async fn send(remote: &dyn Remote, agent: &AgentProgram, temporary: &str) -> Result<()> {
    match remote.put_file(temporary, agent.content.clone(), 0o755).await {
        Err(error) if error.kind() == ErrorKind::Unsupported => shell::send(remote, agent, temporary).await,
        result => result,
    }
}

/// Why a program that is there did not take its place.
fn not_installed(answer: Answer) -> Error {
    match answer {
        Answer::NotStarted(cause) if cause.kind() == ErrorKind::PermissionDenied => {
            not_executable().because(cause)
        }
        Answer::NotStarted(cause) => not_runnable().because(cause),
        Answer::Ended(output) => match output.status {
            ExitStatus::Exited(126) => not_executable(),
            ExitStatus::Exited(code) if code == i32::from(DAMAGED) => damaged(),
            // The end of a program that is cut short where its first pages are whole.
            ExitStatus::Signaled(_) => damaged(),
            status => {
                not_runnable().with("exit code", status.code()).with("output", failure::excerpt(&output))
            }
        },
    }
}

fn not_executable() -> Error {
    Error::new(ErrorKind::PermissionDenied, "programs may not be run from there (noexec)")
}

fn not_runnable() -> Error {
    Error::new(ErrorKind::Unsupported, "the agent cannot be run there")
        .hint("give the agent's program for the container's architecture")
}

fn damaged() -> Error {
    Error::new(ErrorKind::Unavailable, "the agent arrived damaged").hint("deliver it again")
}
