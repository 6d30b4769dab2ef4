//! A user's home folder with credentials and toolchains in it, and workspaces of that user.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use kled_core::WorkspaceName;
use kled_core::provider::{Output, ProviderExt as _};
use kled_core::workspace::{Isolation, Workspace, WorkspaceSpec, WorkspaceSpecBuilder};
use kled_providers::local::{LocalProvider, LocalProviderBuilder, Sandbox, SupervisorProgram};
use kled_tests::suite::Suite;
use kled_tests::workspaces::{repository, residue};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// What no workspace may read, below the home folder.
pub(crate) const CREDENTIALS: [&str; 6] = [
    ".ssh/id_ed25519",
    ".aws/credentials",
    ".cargo/credentials.toml",
    ".config/gcloud/credentials.db",
    ".git-credentials",
    ".kube/config",
];

static SCENES: AtomicU32 = AtomicU32::new(0);

/// Adds a case in a sandbox, which is skipped where that does not work.
pub(crate) fn add_case<Body, Ending>(
    suite: Suite,
    name: &str,
    case: &str,
    sandbox: Sandbox,
    body: Body,
) -> Suite
where
    Body: FnOnce() -> Ending + Send + 'static,
    Ending: Future<Output = Result<()>> + Send + 'static,
{
    let label = format!("{name}/{case}");
    if sandbox.works() {
        suite.case(label, body)
    } else {
        suite.skip(label, format!("{name} does not work on this machine"))
    }
}

pub(crate) struct Scene {
    folder: TempDir,
    pub(crate) provider: LocalProvider,
    isolation: Isolation,
    number: u32,
}

/// A case that failed has not deleted its workspaces.
impl Drop for Scene {
    fn drop(&mut self) {
        let workspaces = fs::read_dir(self.root().join("workspaces")).into_iter().flatten().flatten();
        for lock in workspaces.map(|entry| entry.path().join("run/supervisor.lock")) {
            let number = fs::read_to_string(lock).ok().and_then(|text| supervisor(&text));
            let _gone = number.map(|process| kill_process(process, Signal::KILL));
        }
    }
}

/// The process that a supervisor has written into its lock.
pub(crate) fn supervisor(lock: &str) -> Option<Pid> {
    let process: serde_json::Value = serde_json::from_str(lock).ok()?;
    process["number"].as_i64().and_then(|number| i32::try_from(number).ok()).and_then(Pid::from_raw)
}

impl Scene {
    pub(crate) async fn new(supervisor: SupervisorProgram, sandbox: Sandbox) -> Result<Self> {
        Self::with(supervisor, sandbox, &[], |builder| builder).await
    }

    /// A scene whose repository has these files as well, and a provider that is told more.
    pub(crate) async fn with(
        supervisor: SupervisorProgram,
        sandbox: Sandbox,
        files: &[(&str, &str)],
        configure: impl FnOnce(LocalProviderBuilder) -> LocalProviderBuilder,
    ) -> Result<Self> {
        // Not below /tmp: a sandbox has a folder of its own there, and what is hidden by chance proves nothing.
        let folder = tempfile::Builder::new().prefix("kled-scene-").tempdir_in("/var/tmp")?;
        let home = folder.path().join("home");
        for credential in CREDENTIALS {
            write(&home.join(credential), "a-credential\n", 0o600)?;
        }
        write(&home.join(".cargo/bin/tool"), "#!/bin/sh\necho a tool of the home folder\n", 0o755)?;
        for (file, text) in files {
            write(&folder.path().join("repository").join(file), text, 0o644)?;
        }
        repository(&folder.path().join("repository"), 1)?;
        let builder =
            LocalProvider::builder().root(home.join(".local/share/kled")).home(&home).supervisor(supervisor);
        let isolation = if sandbox == Sandbox::None { Isolation::None } else { Isolation::Process };
        let builder = if sandbox == Sandbox::None { builder } else { builder.sandbox(sandbox) };
        let number = SCENES.fetch_add(1, Ordering::Relaxed);
        Ok(Self { provider: configure(builder).build().await?, folder, isolation, number })
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.home().join(".local/share/kled")
    }

    pub(crate) fn spec(&self) -> WorkspaceSpecBuilder {
        let repository = self.folder.path().join("repository");
        WorkspaceSpec::builder(repository.display().to_string()).isolation(self.isolation)
    }

    pub(crate) async fn create(&self, name: &str) -> Result<(WorkspaceName, Workspace)> {
        // The name of another scene's workspace would be taken for this one's when leftovers are looked for.
        let name = WorkspaceName::new(format!("{name}-{}", self.number))?;
        let workspace = self.provider.create(&name, &self.spec().build()?).await?;
        Ok((name, workspace))
    }

    pub(crate) async fn shell(&self, name: &WorkspaceName, script: &str) -> Result<Output> {
        self.provider.run(name, ["sh", "-c", script]).await.context("run a shell")
    }

    /// Runs a script that must succeed and gives what it wrote.
    pub(crate) async fn succeeds(&self, name: &WorkspaceName, script: &str) -> Result<String> {
        let output = self.shell(name, script).await?;
        ensure!(output.status.is_success(), "{script:?} failed: {output:?}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a script that must fail.
    pub(crate) async fn fails(&self, name: &WorkspaceName, script: &str) -> Result<()> {
        let output = self.shell(name, script).await?;
        ensure!(!output.status.is_success(), "{script:?} succeeded: {output:?}");
        Ok(())
    }

    pub(crate) async fn delete(&self, name: &WorkspaceName) -> Result<()> {
        self.provider.delete(name).await?;
        let left = residue(&self.root(), name);
        ensure!(left.is_empty(), "{left:?} is left of {name}");
        Ok(())
    }
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    fs::create_dir_all(path.parent().context("a file has a folder")?)?;
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(())
}
