//! Workspaces in containers for tests: a real engine with an image, and what is left of a workspace in it, found
//! without the provider.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use kled_core::provider::conformance::{Fixture, Project};
use kled_core::provider::{Faults, Provider};
use kled_core::workspace::{WorkspaceSpec, WorkspaceSpecBuilder};
use kled_core::{Error, ErrorKind, Secret, SecretReference, WorkspaceName};
use kled_providers::agent::delivery::AgentProgram;
use kled_providers::local::{ContainerEngine, LocalProvider, LocalProviderBuilder};
use tempfile::TempDir;

use crate::agent;
use crate::image::Image;
use crate::podman::PodmanService;
use crate::workspaces::{FILE, projects, repository};

/// The image of the workspaces: busybox, as root.
pub const IMAGE: &str = "localhost/kled-workspace:1";

/// The same as `nobody`.
pub const USER_IMAGE: &str = "localhost/kled-workspace-user:1";

const SECRET: &str = "a-secret-of-the-tests";

/// A Podman service with [`IMAGE`] and [`USER_IMAGE`], the agent's program, two repositories, and a state folder.
pub struct Containers {
    podman: PodmanService,
    agent: AgentProgram,
    folder: TempDir,
    one: WorkspaceSpec,
    other: WorkspaceSpec,
}

impl Containers {
    /// Starts all of it.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start() -> Result<Self> {
        let agent =
            tokio::task::spawn_blocking(|| Ok::<_, anyhow::Error>(AgentProgram::read(&agent::program()?)?));
        let agent = agent.await.context("build the agent")??;
        let podman = PodmanService::start().await?;
        let folder = tempfile::Builder::new().prefix("kled-containers-").tempdir()?;
        repository(&folder.path().join("one"), 20)?;
        repository(&folder.path().join("other"), 0)?;
        projects(folder.path())?;
        std::fs::write(folder.path().join("secret"), SECRET)?;
        for (name, image) in
            [("root", Image::busybox(IMAGE)?), ("user", Image::busybox(USER_IMAGE)?.user("nobody"))]
        {
            // The suite writes files with it.
            let image = image.link("bin/tee", "busybox");
            let archive = folder.path().join(format!("{name}.tar"));
            image.write(&archive)?;
            podman.load_image(&archive).await?;
        }
        let spec = |repository| builder(&folder, repository).build();
        let (one, other) = (spec("one")?, spec("other")?);
        Ok(Self { podman, agent, folder, one, other })
    }

    /// Why it cannot run here, in one line; `None` if it can.
    #[must_use]
    pub fn missing() -> Option<String> {
        PodmanService::missing().or_else(agent::missing)
    }

    /// The engine.
    #[must_use]
    pub const fn podman(&self) -> &PodmanService {
        &self.podman
    }

    /// The folder of the repositories.
    #[must_use]
    pub fn repositories(&self) -> &Path {
        self.folder.path()
    }

    /// The folder in which the provider keeps checkouts that are under way.
    #[must_use]
    pub fn state_root(&self) -> PathBuf {
        self.folder.path().join("containers")
    }

    /// A local provider with this engine and the agent: what its users have.
    ///
    /// # Errors
    /// When it cannot be built.
    pub async fn open(&self, faults: Faults) -> kled_core::Result<LocalProvider> {
        self.provider(faults).agent_program(self.agent.clone()).build().await
    }

    /// The same without the agent.
    ///
    /// # Errors
    /// When it cannot be built.
    pub async fn open_plain(&self, faults: Faults) -> kled_core::Result<LocalProvider> {
        self.provider(faults).build().await
    }

    fn provider(&self, faults: Faults) -> LocalProviderBuilder {
        let engine = ContainerEngine::At(format!("unix://{}", self.podman.socket().display()));
        LocalProvider::builder().root(self.folder.path()).container_engine(engine).faults(faults)
    }

    /// A spec of one of the two repositories, `one` or `other`.
    #[must_use]
    pub fn builder(&self, repository: &str) -> WorkspaceSpecBuilder {
        builder(&self.folder, repository)
    }

    /// Containers, volumes and folders that are left of a workspace.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    pub async fn left(&self, name: &WorkspaceName) -> Result<Vec<String>> {
        let mut left = Vec::new();
        let label = format!("label=kled.io/workspace={name}");
        let questions: [(&str, &[&str]); 2] = [
            ("container", &["ps", "--all", "--format", "{{.Names}}", "--filter", &label]),
            ("volume", &["volume", "ls", "--format", "{{.Name}}", "--filter", &label]),
        ];
        for (kind, question) in questions {
            let listed = self.podman.podman(question).await?;
            left.extend(listed.lines().map(|line| format!("{kind} {line}")));
        }
        for engine in std::fs::read_dir(self.state_root()).into_iter().flatten() {
            let engine = engine.context("read the state folder")?.path();
            for entry in [name.to_string(), format!("{name}.lock")] {
                let path = engine.join(entry);
                if path.exists() {
                    left.push(format!("file {}", path.display()));
                }
            }
        }
        Ok(left)
    }
}

fn builder(folder: &TempDir, repository: &str) -> WorkspaceSpecBuilder {
    let path = folder.path().join(repository);
    WorkspaceSpec::builder(path.display().to_string()).image(IMAGE)
}

#[async_trait]
impl Fixture for Containers {
    async fn provider(&self, faults: Faults) -> kled_core::Result<Arc<dyn Provider>> {
        Ok(Arc::new(self.open(faults).await?))
    }

    fn spec(&self) -> WorkspaceSpec {
        self.one.clone()
    }

    fn other_spec(&self) -> WorkspaceSpec {
        self.other.clone()
    }

    async fn residue(&self, name: &WorkspaceName) -> kled_core::Result<Vec<String>> {
        self.left(name).await.map_err(|cause| {
            Error::new(ErrorKind::Internal, "the engine cannot be asked")
                .because(std::io::Error::other(format!("{cause:#}")))
        })
    }

    async fn wipe_local_state(&self) -> kled_core::Result<()> {
        match std::fs::remove_dir_all(self.state_root()) {
            Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::new(ErrorKind::Internal, "the state folder cannot be removed").because(cause))
            }
            _ => Ok(()),
        }
    }

    fn expected_file(&self) -> Option<(String, Vec<u8>)> {
        Some((FILE.0.into(), FILE.1.into()))
    }

    fn project_spec(&self, project: Project) -> Option<WorkspaceSpec> {
        self.builder(project.name()).build().ok()
    }

    fn secret(&self) -> Option<(SecretReference, Secret)> {
        let reference = format!("file:{}", self.folder.path().join("secret").display()).parse().ok()?;
        Some((reference, Secret::new(SECRET)))
    }
}

/// The same fixture, whose provider has no agent.
pub struct PlainContainers(pub Arc<Containers>);

#[async_trait]
impl Fixture for PlainContainers {
    async fn provider(&self, faults: Faults) -> kled_core::Result<Arc<dyn Provider>> {
        Ok(Arc::new(self.0.open_plain(faults).await?))
    }

    fn spec(&self) -> WorkspaceSpec {
        Fixture::spec(self.0.as_ref())
    }

    fn other_spec(&self) -> WorkspaceSpec {
        self.0.other_spec()
    }

    async fn residue(&self, name: &WorkspaceName) -> kled_core::Result<Vec<String>> {
        self.0.residue(name).await
    }

    async fn wipe_local_state(&self) -> kled_core::Result<()> {
        self.0.wipe_local_state().await
    }

    fn expected_file(&self) -> Option<(String, Vec<u8>)> {
        self.0.expected_file()
    }

    fn project_spec(&self, project: Project) -> Option<WorkspaceSpec> {
        self.0.project_spec(project)
    }

    fn secret(&self) -> Option<(SecretReference, Secret)> {
        self.0.secret()
    }
}
