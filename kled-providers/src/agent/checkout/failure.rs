//! What git's messages mean.

use std::fmt;

use kled_core::workspace::Source;
use kled_core::{Error, ErrorKind};

/// What git said, without credentials; the cause behind an error of a checkout.
#[derive(Debug)]
pub(super) struct GitMessages(pub(super) String);

impl fmt::Display for GitMessages {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = self.0.lines().map(str::trim).filter(|line| !line.is_empty());
        formatter.write_str(lines.next().unwrap_or("git said nothing"))?;
        lines.try_for_each(|line| write!(formatter, "; {line}"))
    }
}

impl std::error::Error for GitMessages {}

/// One row of the table: what git prints (any of them, in lower case), and what it means.
struct Meaning {
    texts: &'static [&'static str],
    kind: ErrorKind,
    message: &'static str,
    hint: Option<&'static str>,
    /// The same call may succeed later although its kind says otherwise.
    temporary: bool,
}

const fn meaning(kind: ErrorKind, message: &'static str, texts: &'static [&'static str]) -> Meaning {
    Meaning { texts, kind, message, hint: None, temporary: false }
}

impl Meaning {
    const fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    const fn temporary(mut self) -> Self {
        self.temporary = true;
        self
    }
}

const NO_SPACE: &str = "no space is left for the checkout";

/// The error of a full disk that git did not name.
pub(super) fn storage_full() -> Error {
    Error::new(ErrorKind::StorageFull, NO_SPACE)
}

/// From the most to the least specific: the first row with a text that git printed counts. The order matters, because
/// git adds general lines ("could not read from remote repository") to most failures.
const MEANINGS: [Meaning; 14] = [
    meaning(
        ErrorKind::StorageFull,
        NO_SPACE,
        &["no space left on device", "disk quota exceeded"],
    ),
    meaning(
        ErrorKind::PermissionDenied,
        "the local repository belongs to another user",
        &["detected dubious ownership"],
    )
    .hint("if you trust it, add it to git's safe.directory: git config --global --add safe.directory PATH"),
    meaning(
        ErrorKind::Unauthenticated,
        "the host's key is not known",
        &["host key verification failed", "remote host identification has changed"],
    )
    .hint("connect to the host once with ssh and check its key"),
    meaning(
        ErrorKind::Unauthenticated,
        "the login was refused",
        &[
            "authentication failed",
            "could not read username",
            "could not read password",
            "invalid username or password",
            "permission denied (",
            "permission denied, please try again",
            "requested url returned error: 401",
            "requested url returned error: 403",
            "http basic: access denied",
        ],
    )
    .hint("check git's credential helper or the SSH agent; a server may ask for a login for repositories it lacks"),
    meaning(
        ErrorKind::RevisionNotFound,
        "the repository has no such revision",
        &[
            "not found in upstream",
            "couldn't find remote ref",
            "no such remote ref",
            "not our ref",
            "needed a single revision",
            "unknown revision",
            "is ambiguous",
            "reference is not a tree",
            "is not a commit",
            "non-commit",
            "unable to read tree",
            "remote did not send all necessary objects",
        ],
    ),
    meaning(
        ErrorKind::InvalidInput,
        "the repository's protocol is not allowed",
        &["' not allowed", "remote helper for"],
    )
    .hint("https, http, ssh, git and file are allowed, as far as GIT_ALLOW_PROTOCOL leaves them"),
    meaning(
        ErrorKind::RepositoryNotFound,
        "the address is not that of a repository",
        &[
            "does not appear to be a git repository",
            "repository not found",
            "requested url returned error: 404",
            "requested url returned error: 410",
            "not valid: is this a git repository",
            "access denied or repository not exported",
            "service not enabled",
            "unable to redirect",
            "not a git repository",
            "the project you were looking for could not be found",
        ],
    ),
    meaning(ErrorKind::RepositoryNotFound, "the address is not that of a repository", &["' not found"]),
    meaning(
        ErrorKind::RepositoryNotFound,
        "the repository's host does not answer",
        &[
            "could not resolve host",
            "couldn't resolve host",
            "unable to look up",
            "name or service not known",
            "connection refused",
            "failed to connect to",
            "couldn't connect to server",
            "no route to host",
        ],
    )
    .hint("check the address and the network")
    .temporary(),
    meaning(
        ErrorKind::Unavailable,
        "the server's certificate was refused",
        &["certificate", "ssl_error", "tls connect error"],
    )
    .hint("check git's http.sslCAInfo and the machine's certificates"),
    meaning(
        ErrorKind::Unavailable,
        "the connection to the repository failed",
        &[
            "requested url returned error: 5",
            "requested url returned error: 429",
            "timed out",
            "network is unreachable",
            "connection reset",
            "early eof",
            "rpc failed",
            "remote end hung up",
            "unexpected disconnect",
            "connection closed by",
        ],
    ),
    meaning(
        ErrorKind::PermissionDenied,
        "the checkout's folder cannot be written",
        &["permission denied", "read-only file system", "operation not permitted"],
    ),
    meaning(
        ErrorKind::Cancelled,
        "the checkout's folder was removed",
        &["unable to read current working directory", "cannot get cwd", "unable to get current working directory"],
    ),
    // What is left of a failure of the transport that gave no better reason.
    meaning(
        ErrorKind::RepositoryNotFound,
        "the repository cannot be read",
        &["could not read from remote repository"],
    ),
];

/// The error of a git command that printed `stderr`.
pub(super) fn classify(stderr: &str, source: &Source) -> Error {
    let lower = stderr.to_lowercase();
    let found = MEANINGS.iter().find(|meaning| meaning.texts.iter().any(|text| lower.contains(text)));
    let error = match found {
        None => Error::new(ErrorKind::Internal, "git failed"),
        Some(found) => {
            let error = Error::new(found.kind, found.message);
            let error = found.hint.into_iter().fold(error, Error::hint);
            if found.temporary { error.temporary() } else { error }
        }
    };
    located(error, source).because(GitMessages(stderr.to_owned()))
}

/// Adds where it was looked for.
pub(super) fn located(error: Error, source: &Source) -> Error {
    let error = error.with("repository", &source.repository);
    if error.kind() == ErrorKind::RevisionNotFound { error.with("revision", &source.revision) } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_servers_that_no_test_can_start() {
        let cases = [
            (
                "git@example.com: Permission denied (publickey).\nfatal: Could not read from remote repository.",
                ErrorKind::Unauthenticated,
            ),
            (
                "ERROR: Repository not found.\nfatal: Could not read from remote repository.",
                ErrorKind::RepositoryNotFound,
            ),
            (
                "Host key verification failed.\nfatal: Could not read from remote repository.",
                ErrorKind::Unauthenticated,
            ),
            (
                "fatal: unable to access 'https://x/': The requested URL returned error: 403",
                ErrorKind::Unauthenticated,
            ),
            (
                "fatal: unable to access 'https://x/': The requested URL returned error: 502",
                ErrorKind::Unavailable,
            ),
            (
                "fatal: unable to access 'https://x/': Could not resolve host: x",
                ErrorKind::RepositoryNotFound,
            ),
            (
                "fatal: unable to access 'https://x/': SSL certificate problem: self-signed certificate",
                ErrorKind::Unavailable,
            ),
            ("fatal: repository 'https://x/y/' not found", ErrorKind::RepositoryNotFound),
            ("fatal: detected dubious ownership in repository at '/x'", ErrorKind::PermissionDenied),
            ("fatal: transport 'ext' not allowed", ErrorKind::InvalidInput),
            ("error: RPC failed; curl 56 Recv failure\nfatal: early EOF", ErrorKind::Unavailable),
            ("fatal: write error: No space left on device\nfatal: early EOF", ErrorKind::StorageFull),
            ("fatal: something new", ErrorKind::Internal),
        ];
        let source = Source::new("https://example.com/app".parse().unwrap());
        for (text, kind) in cases {
            assert_eq!(classify(text, &source).kind(), kind, "{text}");
        }
    }

    #[test]
    fn a_host_that_does_not_answer_may_answer_later() {
        let source = Source::new("https://example.com/app".parse().unwrap());
        assert!(classify("Could not resolve host: x", &source).is_retryable());
        assert!(!classify("repository 'x' not found", &source).is_retryable());
    }

    #[test]
    fn the_cause_is_one_line() {
        assert_eq!(GitMessages("one \n\n two".into()).to_string(), "one; two");
    }
}
