//! Workspaces of the local provider for tests: repositories to make them from, and what is left of them, found without
//! the provider.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use kled_core::provider::conformance::{Fixture, Project};
use kled_core::provider::{Faults, Provider};
use kled_core::workspace::{Isolation, WorkspaceSpec};
use kled_core::{Secret, SecretReference, WorkspaceName};
use kled_providers::local::{LocalProvider, Sandbox, SupervisorProgram};
use tempfile::TempDir;

/// A file of every repository that is made here, and what is in it.
pub const FILE: (&str, &str) = ("README.md", "a repository of the tests\n");

/// Makes a git repository with one commit: [`FILE`] and `files` more, a hundred in each folder.
///
/// # Errors
/// When git fails.
pub fn repository(folder: &Path, files: usize) -> Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join(FILE.0), FILE.1)?;
    for number in 0..files {
        let path = folder.join(format!("source/{:03}/{number:05}.txt", number / 100));
        fs::create_dir_all(path.parent().context("a file has a folder")?)?;
        fs::write(path, format!("file {number}\n").repeat(64))?;
    }
    git(folder, &["init", "--quiet", "--initial-branch=main"])?;
    git(folder, &["add", "--all"])?;
    git(folder, &["commit", "--quiet", "--message=first"])
}

/// Makes a repository of each project of the conformance suite, under its name.
///
/// # Errors
/// When git fails.
pub fn projects(folder: &Path) -> Result<()> {
    for project in Project::ALL {
        let (repository_folder, (file, text)) = (folder.join(project.name()), project.file());
        let path = repository_folder.join(file);
        fs::create_dir_all(path.parent().context("a file has a folder")?)?;
        fs::write(path, text)?;
        repository(&repository_folder, 0)?;
    }
    Ok(())
}

/// Runs git with an identity of its own and without the user's configuration.
///
/// # Errors
/// When it cannot be started or fails.
pub fn git(folder: &Path, arguments: &[&str]) -> Result<()> {
    let status = std::process::Command::new("git")
        .args(["-c", "user.name=Kled", "-c", "user.email=tests@kled.invalid", "-c", "commit.gpgsign=false"])
        .args(arguments)
        .current_dir(folder)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .status()
        .context("start git")?;
    ensure!(status.success(), "git {arguments:?} ended with {status}");
    Ok(())
}

/// A fixture of the conformance suite for processes of this machine.
pub struct Processes {
    folder: TempDir,
    supervisor: SupervisorProgram,
    sandbox: Sandbox,
    spec: WorkspaceSpec,
    other_spec: WorkspaceSpec,
}

impl Processes {
    /// A new data folder, and two repositories.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn new(supervisor: SupervisorProgram, sandbox: Sandbox) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("kled-processes-").tempdir()?;
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        repository(&one, 20)?;
        repository(&other, 0)?;
        projects(folder.path())?;
        let (spec, other_spec) = (spec(&one, sandbox)?, spec(&other, sandbox)?);
        Ok(Self { folder, supervisor, sandbox, spec, other_spec })
    }

    /// The data folder of the provider.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A provider on the data folder.
    ///
    /// # Errors
    /// When it cannot be built.
    pub async fn open(&self, faults: Faults) -> kled_core::Result<LocalProvider> {
        let builder =
            LocalProvider::builder().root(self.root()).supervisor(self.supervisor.clone()).faults(faults);
        let builder = match self.sandbox {
            Sandbox::None => builder.set_up_without_sandbox(true),
            sandbox => builder.sandbox(sandbox),
        };
        builder.build().await
    }
}

fn spec(repository: &Path, sandbox: Sandbox) -> kled_core::Result<WorkspaceSpec> {
    let isolation = if sandbox == Sandbox::None { Isolation::None } else { Isolation::Process };
    WorkspaceSpec::builder(repository.display().to_string()).isolation(isolation).build()
}

#[async_trait]
impl Fixture for Processes {
    async fn provider(&self, faults: Faults) -> kled_core::Result<Arc<dyn Provider>> {
        Ok(Arc::new(self.open(faults).await?))
    }

    fn spec(&self) -> WorkspaceSpec {
        self.spec.clone()
    }

    fn other_spec(&self) -> WorkspaceSpec {
        self.other_spec.clone()
    }

    async fn residue(&self, name: &WorkspaceName) -> kled_core::Result<Vec<String>> {
        Ok(residue(&self.root(), name))
    }

    fn expected_file(&self) -> Option<(String, Vec<u8>)> {
        Some((FILE.0.into(), FILE.1.into()))
    }

    fn project_spec(&self, project: Project) -> Option<WorkspaceSpec> {
        spec(&self.folder.path().join(project.name()), self.sandbox).ok()
    }

    fn secret(&self) -> Option<(SecretReference, Secret)> {
        let path = self.folder.path().join("secret");
        fs::write(&path, "a-secret-of-the-tests").ok()?;
        let reference = format!("file:{}", path.display()).parse().ok()?;
        Some((reference, Secret::new("a-secret-of-the-tests")))
    }
}

/// What is left of a workspace in a data folder of the local provider: folders, and processes that have one of them
/// open, are in one of them, or carry its name.
#[must_use]
pub fn residue(root: &Path, name: &WorkspaceName) -> Vec<String> {
    let workspace = root.join("workspaces").join(name.as_str());
    let trashed = format!("{name}.");
    let in_trash = fs::read_dir(root.join("trash")).into_iter().flatten().flatten().map(|entry| entry.path());
    let in_trash = in_trash
        .filter(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&trashed)));
    let folders: Vec<PathBuf> = in_trash.chain(workspace.exists().then(|| workspace.clone())).collect();
    let trash = root.join("trash").join(&trashed);
    let users = processes(|path| path.starts_with(&workspace) || starts_with_text(path, &trash), name);
    let folders = folders.into_iter().map(|path| format!("folder {}", path.display()));
    folders.chain(users.into_iter().map(|process| format!("process {process}"))).collect()
}

/// This process, and for a moment between fork and exec what it starts: such a child has all files of its parent open.
fn is_this_program(number: u32) -> bool {
    let line = |process: &str| fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    line(&number.to_string()) == line("self")
}

fn starts_with_text(path: &Path, prefix: &Path) -> bool {
    path.to_string_lossy().starts_with(prefix.to_string_lossy().as_ref())
}

fn processes(is_of_workspace: impl Fn(&Path) -> bool, name: &WorkspaceName) -> BTreeSet<u32> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers
        .filter(|number| !is_this_program(*number))
        .filter(|number| {
            let process = PathBuf::from(format!("/proc/{number}"));
            let open =
                fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|entry| entry.path());
            let mut paths = open
                .chain([process.join("cwd"), process.join("root")])
                .filter_map(|link| fs::read_link(link).ok());
            let variable = format!("KLED_WORKSPACE={name}");
            let environment = fs::read(process.join("environ")).unwrap_or_default();
            paths.any(|path| is_of_workspace(&path))
                || environment.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes())
        })
        .collect()
}

/// The control groups that local workspaces have now, on either version of the hierarchy.
#[must_use]
pub fn control_groups() -> BTreeSet<PathBuf> {
    let mount = Path::new("/sys/fs/cgroup");
    let parents = ["kled", "cpu/kled", "memory/kled"].map(|parent| mount.join(parent));
    let groups = parents.iter().flat_map(|parent| fs::read_dir(parent).into_iter().flatten().flatten());
    groups.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}
