//! What a sandboxed command may see: a list of what is allowed, so that what nobody thought of stays out.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::layout::Folder;

/// The system: programs, libraries, configuration. Read-only.
const SYSTEM: [&str; 12] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc",
    "/opt",
    "/nix/store",
    "/gnu/store",
    "/sys",
];

/// Where `/etc/resolv.conf` may lead. Read-only.
const NAME_RESOLUTION: [&str; 3] =
    ["/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager/resolv.conf"];

/// Credentials of the machine under `/etc`, which root could read.
const SYSTEM_CREDENTIALS: [&str; 14] = [
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/ssh",
    "/etc/ssl/private",
    "/etc/kubernetes",
    "/etc/rancher",
    "/etc/docker",
    "/etc/krb5.keytab",
    "/etc/wireguard",
    "/etc/NetworkManager/system-connections",
];

/// Toolchains in the home folder, without the folders beside them that hold credentials (`~/.cargo/credentials.toml`)
/// or that a build writes to (`~/.cargo/registry`). Read-only.
const TOOLCHAINS: [&str; 25] = [
    ".cargo/bin",
    ".cargo/env",
    ".rustup",
    ".nvm",
    ".fnm",
    ".local/share/fnm",
    ".volta",
    ".asdf",
    ".local/share/mise",
    ".pyenv",
    ".rbenv",
    ".sdkman",
    ".jenv",
    ".goenv",
    "go/bin",
    "sdk",
    ".local/bin",
    ".local/share/uv",
    ".local/lib",
    ".bun/bin",
    ".deno/bin",
    ".ghcup",
    ".juliaup",
    ".nix-profile",
    ".local/share/pnpm",
];

/// Everything that a sandbox needs to know, found outside and handed to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct View {
    /// Writable, at its own path.
    pub(crate) checkout: PathBuf,
    /// Writable: the home folder of the workspace.
    pub(crate) home: PathBuf,
    /// Writable: the temporary folder of the workspace.
    pub(crate) temporary: PathBuf,
    /// Writable, at its own path: what the agent inside remembers.
    pub(crate) state: PathBuf,
    /// The home folder of the user, which is not seen.
    pub(crate) user_home: PathBuf,
    /// Read-only: the system and the toolchains that are there.
    pub(crate) readable: Vec<PathBuf>,
    /// Not to be seen although they lie in `readable`.
    pub(crate) hidden: Vec<PathBuf>,
    /// The program that serves inside.
    pub(crate) program: PathBuf,
}

impl View {
    /// What a workspace in `folder` sees on this machine.
    pub(crate) fn of(folder: &Folder, user_home: &Path, program: &Path) -> Self {
        let system = SYSTEM.iter().chain(&NAME_RESOLUTION).map(PathBuf::from);
        let toolchains = TOOLCHAINS.iter().map(|toolchain| user_home.join(toolchain));
        Self {
            checkout: folder.checkout(),
            home: folder.home(),
            temporary: folder.temporary(),
            state: folder.state(),
            user_home: user_home.to_owned(),
            readable: system.chain(toolchains).filter(|path| path.exists()).collect(),
            hidden: SYSTEM_CREDENTIALS.iter().map(PathBuf::from).filter(|path| path.exists()).collect(),
            program: program.to_owned(),
        }
    }
}
