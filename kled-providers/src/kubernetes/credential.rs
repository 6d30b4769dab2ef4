//! The login that this machine has for a repository, asked of the user's own git.

use std::process::Stdio;
use std::time::Duration;

use kled_core::Secret;
use kled_core::workspace::Repository;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::agent::Credential;

/// How long a credential helper may take. One that asks in a window of its own is not waited for longer.
const LIMIT: Duration = Duration::from_secs(20);

/// The login, if git has one without asking on the terminal.
pub(super) async fn git_credential(repository: &Repository) -> Option<Credential> {
    let Repository::Url(url) = repository else { return None };
    if !matches!(url.scheme(), "http" | "https") {
        return None;
    }
    let host = match url.port() {
        Some(port) => format!("{}:{port}", url.host_str()?),
        None => url.host_str()?.to_owned(),
    };
    let mut question =
        format!("protocol={}\nhost={host}\npath={}\n", url.scheme(), url.path().trim_start_matches('/'));
    if !url.username().is_empty() {
        question.push_str(&format!("username={}\n", url.username()));
    }
    let answer = tokio::time::timeout(LIMIT, ask(question)).await.ok()??;
    let field = |name: &str| {
        answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    };
    Some(Credential { username: field("username")?, password: Secret::new(field("password")?) })
}

async fn ask(question: String) -> Option<String> {
    let mut git = Command::new("git")
        .args(["credential", "fill"])
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_ASKPASS", "")
        .env("SSH_ASKPASS", "")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .ok()?;
    git.stdin.take()?.write_all(format!("{question}\n").as_bytes()).await.ok()?;
    let output = git.wait_with_output().await.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
