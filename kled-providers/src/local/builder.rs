//! Builds a [`LocalProvider`].

use std::path::PathBuf;
use std::sync::Arc;

use etcetera::BaseStrategy;
use kled_core::ports::SecretSource;
use kled_core::provider::Faults;
use kled_core::{Error, ErrorKind, ProviderName, Result};

use crate::agent::delivery::AgentProgram;

use super::process::{ProcessProvider, Settings};
use super::{ContainerEngine, EnvironmentAndFileSecrets, LocalProvider, Sandbox, SupervisorProgram};

/// Builds a [`LocalProvider`]. Setters never fail.
#[derive(Debug)]
#[must_use]
pub struct LocalProviderBuilder {
    name: String,
    root: Option<PathBuf>,
    home: Option<PathBuf>,
    supervisor: Option<SupervisorProgram>,
    secrets: Arc<dyn SecretSource>,
    faults: Faults,
    sandbox: Option<Sandbox>,
    engine: ContainerEngine,
    agent_program: Option<AgentProgram>,
}

impl Default for LocalProviderBuilder {
    fn default() -> Self {
        Self {
            name: "local".into(),
            root: None,
            home: None,
            supervisor: None,
            secrets: Arc::new(EnvironmentAndFileSecrets),
            faults: Faults::none(),
            sandbox: None,
            engine: ContainerEngine::default(),
            agent_program: None,
        }
    }
}

impl LocalProviderBuilder {
    /// The name that stands in its workspaces. Default: `local`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The folder that holds the workspaces. Default: `kled` in the user's data folder (`$XDG_DATA_HOME`, else
    /// `~/.local/share`).
    pub fn root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = Some(root.into());
        self
    }

    /// The home folder of the user: commands see the toolchains in it and nothing else. Default: `$HOME`.
    pub fn home(mut self, home: impl Into<PathBuf>) -> Self {
        self.home = Some(home.into());
        self
    }

    /// The program that supervises workspaces. Without one, workspaces can be looked at and deleted only.
    pub fn supervisor(mut self, supervisor: SupervisorProgram) -> Self {
        self.supervisor = Some(supervisor);
        self
    }

    /// Where secret references are resolved. Default: [`EnvironmentAndFileSecrets`].
    pub fn secret_source(mut self, secrets: Arc<dyn SecretSource>) -> Self {
        self.secrets = secrets;
        self
    }

    /// The sandbox of processes, where it works. Default: the strongest one that works.
    pub fn sandbox(mut self, sandbox: Sandbox) -> Self {
        self.sandbox = Some(sandbox);
        self
    }

    /// Which container engine is used. Default: the one that answers. Requires the feature `local-container`.
    pub fn container_engine(mut self, engine: ContainerEngine) -> Self {
        self.engine = engine;
        self
    }

    /// The program of the workspace agent for containers: static, and for the engine's architecture. Without it containers
    /// can do less than processes, as their capabilities say. Requires the feature `local-container`.
    pub fn agent_program(mut self, program: AgentProgram) -> Self {
        self.agent_program = Some(program);
        self
    }

    /// For tests: breaks operations at their steps.
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// Makes the provider. Nothing is made on disk before the first workspace is.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a malformed name or a relative root, [`ErrorKind::Unsupported`] where the user
    /// has no home folder, what the container engine answers if one was named.
    pub async fn build(self) -> Result<LocalProvider> {
        let folders = etcetera::base_strategy::Xdg::new().map_err(|cause| {
            Error::new(ErrorKind::Unsupported, "the user has no home folder").because(cause).hint("set HOME")
        })?;
        let root = self.root.unwrap_or_else(|| folders.data_dir().join("kled"));
        if !root.is_absolute() {
            return Err(Error::new(ErrorKind::InvalidInput, "the data folder is a relative path")
                .with("path", root.display()));
        }
        let name = ProviderName::new(self.name)?;
        let containers =
            super::engine::find(self.engine, &name, &root, &self.secrets, &self.faults, self.agent_program)
                .await?;
        let process = ProcessProvider::new(Settings {
            name,
            root,
            user_home: self.home.unwrap_or_else(|| folders.home_dir().to_owned()),
            supervisor: self.supervisor,
            secrets: self.secrets,
            faults: self.faults,
            sandbox: self.sandbox,
        });
        Ok(LocalProvider::new(process, containers))
    }
}
