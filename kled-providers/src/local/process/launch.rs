//! Starting the supervisor: the program that is running now, once more.

use std::path::PathBuf;
use std::process::Stdio;

use kled_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use super::record::Run;
use super::supervisor::{Answer, Assignment};
use super::{serve, supervisor};

/// The first argument of a process that is to supervise or to serve.
pub(crate) const MARK: &str = "__kled-workspace";

/// The program that supervises workspaces when whoever made them has ended.
///
/// There is no second program to install: the one that is running is started again. It must therefore say so, first
/// of all, in its `main`:
///
/// ```no_run
/// use kled_providers::local::{LocalProvider, SupervisorProgram};
///
/// fn main() {
///     // In a process that was started to supervise, this never returns.
///     let supervisor = SupervisorProgram::this_program();
///     let builder = LocalProvider::builder().supervisor(supervisor);
///     # drop(builder);
/// }
/// ```
///
/// That a value of this type exists is the proof that it was said, so a provider can never start a program that would
/// take the start for one by a user.
#[derive(Clone, Debug)]
pub struct SupervisorProgram(PathBuf);

impl SupervisorProgram {
    /// Serves as supervisor if this process was started to; then it never returns. Otherwise this program may be
    /// started as one.
    ///
    /// Call it before anything else in `main`, above all before threads are started.
    #[must_use]
    pub fn this_program() -> Self {
        let mut arguments = std::env::args_os().skip(1);
        if arguments.next().is_some_and(|first| first == MARK) {
            let code = match arguments.next() {
                Some(role) if role == "supervise" => supervisor::main(),
                Some(role) if role == "serve" => serve::main(),
                _ => 2,
            };
            std::process::exit(i32::from(code));
        }
        // Where the path is not known the start fails, with the system's own message.
        Self(std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe")))
    }

    /// Another program that says [`this_program`](Self::this_program) first in its `main`, for example the `kled`
    /// command beside a service.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        &self.0
    }

    /// Starts a supervisor and waits until the workspace runs. The caller bounds the wait.
    pub(crate) async fn launch(&self, assignment: &Assignment) -> Result<Run> {
        let failed = |cause: std::io::Error| {
            Error::new(ErrorKind::Internal, "cannot start the supervisor")
                .with("program", self.0.display())
                .because(cause)
        };
        let mut child = Command::new(&self.0)
            .args([MARK, "supervise"])
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let text = serde_json::to_vec(assignment).map_err(|cause| {
            Error::new(ErrorKind::Internal, "cannot encode the assignment").because(cause)
        })?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(&text).await.map_err(failed)?;
        }
        let mut answer = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut answer).await.map_err(failed)?;
        }
        // From here on the supervisor is on its own; the runtime reaps it when it ends before this process does.
        match serde_json::from_str(&answer) {
            Ok(Answer::Ready(run)) => Ok(run),
            Ok(Answer::Failed(failure)) => Err(failure.into()),
            Err(_) => Err(Error::new(ErrorKind::Internal, "the supervisor ended without a word")
                .with("program", self.0.display())
                .hint("call SupervisorProgram::this_program() first in the main function of this program")),
        }
    }
}
