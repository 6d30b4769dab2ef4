//! The environment of commands: what a toolchain needs, and nothing that somebody's shell happened to hold.

use std::path::Path;

use kled_core::provider::Variables;
use kled_core::{WorkspaceId, WorkspaceName};

use super::sandbox::{Sandbox, View};
use super::serve::WORKSPACE_ID;

/// Taken over from whoever starts the workspace. A list of what is allowed: tokens live in variables of any name.
const INHERITED: [&str; 24] = [
    "PATH",
    "LANG",
    "LANGUAGE",
    "TZ",
    "USER",
    "LOGNAME",
    "SHELL",
    "RUSTUP_HOME",
    "PYENV_ROOT",
    "NVM_DIR",
    "NVM_BIN",
    "SDKMAN_DIR",
    "JAVA_HOME",
    "GOROOT",
    "GOPROXY",
    "GOFLAGS",
    "VOLTA_HOME",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "NO_PROXY",
];

/// What every command of a workspace has in its environment.
pub(super) fn of_commands(name: &WorkspaceName, id: WorkspaceId, sandbox: Sandbox, view: &View) -> Variables {
    let mut environment = Variables::default();
    let inherited =
        std::env::vars().filter(|(name, _)| INHERITED.contains(&name.as_str()) || name.starts_with("LC_"));
    environment.0.extend(inherited);
    let text = |path: &Path| path.display().to_string();
    let mut set = |name: &str, value: String| environment.0.insert(name.to_owned(), value);
    set("HOME", text(sandbox.home(view)));
    set("TMPDIR", text(&sandbox.temporary(view)));
    set("KLED_WORKSPACE", name.to_string());
    set(WORKSPACE_ID, id.to_string());
    let rustup = view.user_home.join(".rustup");
    if !std::env::vars_os().any(|(name, _)| name == "RUSTUP_HOME") && rustup.is_dir() {
        // Its proxies look below HOME otherwise, which without mounts is another folder.
        set("RUSTUP_HOME", text(&rustup));
    }
    environment
}
