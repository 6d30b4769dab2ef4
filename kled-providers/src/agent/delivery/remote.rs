//! What a backend has to offer, and questions to programs there.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kled_core::provider::{ExecSession, Output};
use kled_core::{Error, ErrorKind, Result};

/// More than any answer has; what is longer is no answer.
const ANSWER_MAX: usize = 16 << 10;

/// A running container, as a backend reaches into it.
#[async_trait]
pub trait Remote: Send + Sync {
    /// Runs a program with its standard input open. No shell reads the arguments.
    ///
    /// # Errors
    /// `CommandNotFound`, `PermissionDenied` (also where programs may not be run from its folder), `Unavailable`.
    async fn run(&self, arguments: &[&str]) -> Result<ExecSession>;

    /// Writes a file through the engine itself, all of it or nothing, where the engine can: otherwise it goes through a
    /// shell, which is what the default asks for.
    ///
    /// # Errors
    /// `Unsupported` where the engine cannot, before anything is sent. `NotFound` when there is no such folder,
    /// `PermissionDenied`, `StorageFull`, `Unavailable`.
    async fn put_file(&self, path: &str, content: Bytes, mode: u32) -> Result<()> {
        let _unsent = (path, content, mode);
        Err(Error::new(ErrorKind::Unsupported, "the engine takes no files"))
    }
}

/// How a program answered.
#[derive(Debug)]
pub(super) enum Answer {
    /// It was not started.
    NotStarted(Error),
    /// It ran to its end.
    Ended(Output),
}

impl Answer {
    /// True when the program ended well and said exactly that.
    pub(super) fn says(&self, text: &str) -> bool {
        matches!(self, Self::Ended(output) if output.status.is_success() && output.stdout.trim_ascii() == text.as_bytes())
    }
}

/// Runs a program that needs no input. Errors are those of the connection; what is about the program is an answer.
pub(super) async fn ask(remote: &dyn Remote, arguments: &[&str], limit: Duration) -> Result<Answer> {
    let question = async {
        match remote.run(arguments).await {
            Ok(session) => session.output(ANSWER_MAX).await.map(Answer::Ended),
            Err(error) => Err(error),
        }
    };
    let late = |_| Err(Error::timeout("deliver_agent", limit));
    match tokio::time::timeout(limit, question).await.unwrap_or_else(late) {
        Err(error) if !is_of_connection(&error) => Ok(Answer::NotStarted(error)),
        result => result,
    }
}

/// True when nothing is known about the container: no other folder would be better.
pub(super) fn is_of_connection(error: &Error) -> bool {
    use ErrorKind::{Cancelled, InvalidState, Timeout, Unauthenticated, Unavailable};
    matches!(error.kind(), Cancelled | InvalidState | Timeout | Unauthenticated | Unavailable)
}
