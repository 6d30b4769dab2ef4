//! What Kled keeps for ssh: for each workspace an entry, a host key and a file of known hosts.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use kled_core::{Error, ErrorKind, Result, WorkspaceName};
use kled_providers::ssh::HostKey;

use super::host;

/// The folder `ssh` of the data directory. Each workspace has files of its own, so that writers do not meet.
pub(super) struct Files(PathBuf);

const ENTRY: &str = "conf";
const KEY: &str = "key";
const KNOWN_HOSTS: &str = "known_hosts";

impl Files {
    pub(super) fn at(data_directory: PathBuf) -> Self {
        Self(data_directory.join("ssh"))
    }

    fn path(&self, name: &WorkspaceName, kind: &str) -> PathBuf {
        self.0.join(format!("{name}.{kind}"))
    }

    /// The line that includes all entries.
    pub(super) fn include(&self) -> String {
        format!("Include \"{}\"", self.0.join(format!("*.{ENTRY}")).display())
    }

    /// The key of a workspace, made when it is first asked for.
    pub(super) fn host_key(&self, name: &WorkspaceName) -> Result<HostKey> {
        let path = self.path(name, KEY);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.0)
            .map_err(failed("make the folder", &self.0))?;
        if !path.exists() {
            let key = HostKey::random().to_openssh()?;
            let written = || -> io::Result<()> {
                // Readable by its owner only, from the first moment on.
                let mut file = tempfile::NamedTempFile::new_in(&self.0)?;
                file.write_all(key.expose().as_bytes())?;
                match file.persist_noclobber(&path) {
                    // Another process has made it meanwhile.
                    Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                    result => result.map(drop).map_err(|error| error.error),
                }
            };
            written().map_err(failed("write", &path))?;
        }
        let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
        HostKey::from_openssh(&text).map_err(|error| error.with("path", path.display()))
    }

    /// Writes the entry of a workspace with the command by which ssh reaches it.
    pub(super) fn write(&self, name: &WorkspaceName, proxy_command: &str) -> Result<()> {
        let (host, key) = (host(name), self.host_key(name)?);
        let known = self.path(name, KNOWN_HOSTS);
        replace(&known, &format!("{host} {}\n", key.public()?))?;
        let entry = format!(
            "\
Host {host}
  ProxyCommand {proxy_command}
  HostKeyAlias {host}
  HostKeyAlgorithms ssh-ed25519
  UserKnownHostsFile \"{}\"
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  CheckHostIP no
",
            known.display()
        );
        replace(&self.path(name, ENTRY), &entry)
    }

    /// Removes what there is of a workspace, or of all.
    pub(super) fn remove(&self, name: Option<&WorkspaceName>) -> Result<Vec<WorkspaceName>> {
        let mut names = self.names()?;
        names.retain(|one| name.is_none_or(|name| one == name));
        for name in &names {
            for kind in [ENTRY, KNOWN_HOSTS, KEY] {
                let path = self.path(name, kind);
                match fs::remove_file(&path) {
                    Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                        return Err(failed("remove", &path)(cause));
                    }
                    _ => {}
                }
            }
        }
        Ok(names)
    }

    pub(super) fn is_empty(&self) -> Result<bool> {
        Ok(self.names()?.is_empty())
    }

    /// The workspaces that have an entry.
    fn names(&self) -> Result<Vec<WorkspaceName>> {
        let entries = match fs::read_dir(&self.0) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => {
                entries.and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(failed("read", &self.0))?
            }
        };
        let name = |entry: fs::DirEntry| {
            let file = entry.file_name().into_string().ok()?;
            WorkspaceName::new(file.strip_suffix(ENTRY)?.strip_suffix('.')?).ok()
        };
        let mut names: Vec<_> = entries.into_iter().filter_map(name).collect();
        names.sort();
        Ok(names)
    }
}

/// Puts a new file in the place of an old one, at once. Its mode is kept; a new one is for its owner only.
pub(super) fn replace(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let written = || -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        if let Ok(metadata) = fs::metadata(path) {
            file.as_file().set_permissions(Permissions::from_mode(metadata.permissions().mode() & 0o7777))?;
        }
        file.as_file().sync_all()?;
        file.persist(path).map(drop).map_err(|error| error.error)
    };
    written().map_err(failed("write", path))
}

/// An error of a file.
pub(super) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |cause| {
        let kind = match cause.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                ErrorKind::PermissionDenied
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
            _ => ErrorKind::Internal,
        };
        Error::new(kind, format!("cannot {what}")).with("path", path.display()).because(cause)
    }
}
