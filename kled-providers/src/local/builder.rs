//! Builds a [`LocalProvider`].

use std::path::PathBuf;
use std::sync::Arc;

use etcetera::BaseStrategy;
use kled_core::ports::SecretSource;
use kled_core::provider::{Faults, ProviderSettings};
use kled_core::setup::{Dotfiles, GitIdentity};
use kled_core::{Error, ErrorKind, ProviderName, Result};

use super::process::{ProcessProvider, Settings};
use super::{ContainerEngine, EnvironmentAndFileSecrets, LocalProvider, Sandbox, SupervisorProgram};
use crate::agent::delivery::AgentProgram;
use crate::personal::{self, Personal};

/// The setting that names the agent for containers.
const AGENT_PROGRAM: &str = "agent-program";

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
    agent_program_file: Option<PathBuf>,
    personal: Personal,
    set_up_without_sandbox: bool,
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
            agent_program_file: None,
            personal: Personal::default(),
            set_up_without_sandbox: false,
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

    /// The user's own files, brought into every workspace that is made. Default: none.
    pub fn dotfiles(mut self, dotfiles: Dotfiles) -> Self {
        self.personal.dotfiles = Some(dotfiles);
        self
    }

    /// Who commits in workspaces. Default: nobody is set.
    pub fn git_identity(mut self, identity: GitIdentity) -> Self {
        self.personal.git_identity = Some(identity);
        self
    }

    /// What a project may know of this machine's environment, as `${localEnv:NAME}`. Default: nothing.
    pub fn local_environment(
        mut self,
        variables: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
    ) -> Self {
        self.personal.tell_projects(variables);
        self
    }

    /// Whether projects are set up with isolation `none`, too. **Their commands then run with all rights of the user**,
    /// as soon as a workspace is made of them. Default: false; events and the condition `SetUp` say that it was left
    /// out. In a sandbox projects are always set up.
    pub fn set_up_without_sandbox(mut self, set_up: bool) -> Self {
        self.set_up_without_sandbox = set_up;
        self
    }

    /// For tests: breaks operations at their steps.
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// Takes settings as text, by the names that the configuration file has.
    ///
    /// | key | what it is |
    /// |---|---|
    /// | `data-directory` | the folder that holds the workspaces |
    /// | `engine` | the container engine: the path of a socket, an address, or `none` |
    /// | `agent-program` | the path of the workspace agent for containers |
    /// | `dotfiles`, `dotfiles-install-command` | a repository, and what installs it |
    /// | `git-name`, `git-email` | who commits |
    /// | `local-environment` | variables of this process that a project may know as `${localEnv:NAME}`; names with commas between |
    /// | `set-up-without-sandbox` | `true`: projects are set up with isolation `none`, too, with all rights of the user |
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] naming the setting.
    pub fn settings(mut self, mut settings: ProviderSettings) -> Result<Self> {
        self.root = settings.take("data-directory").map(PathBuf::from).or(self.root);
        match settings.take("engine") {
            None => {}
            Some(none) if none == "none" => self.engine = ContainerEngine::None,
            Some(path) if path.starts_with('/') => {
                self.engine = ContainerEngine::At(format!("unix://{path}"))
            }
            Some(address) => self.engine = ContainerEngine::At(address),
        }
        self.agent_program_file = settings.take(AGENT_PROGRAM).map(PathBuf::from).or(self.agent_program_file);
        self.personal.take(&mut settings, personal::variable)?;
        if let Some(text) = settings.take("set-up-without-sandbox") {
            self.set_up_without_sandbox = text.parse().map_err(|cause| {
                Error::new(ErrorKind::InvalidInput, "malformed provider setting")
                    .with("setting", "set-up-without-sandbox")
                    .because(cause)
                    .hint("write true or false")
            })?;
        }
        settings.finish()?;
        Ok(self)
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
        let agent_program = match self.agent_program_file {
            Some(file) => {
                let read = tokio::task::spawn_blocking(move || AgentProgram::read(&file));
                let read = read.await.unwrap_or_else(|cause| {
                    Err(Error::new(ErrorKind::Internal, "the agent's program cannot be read").because(cause))
                });
                Some(read.map_err(|error| error.with("setting", AGENT_PROGRAM))?)
            }
            None => self.agent_program,
        };
        let containers = super::engine::find(
            self.engine,
            &name,
            &root,
            &self.secrets,
            &self.faults,
            agent_program,
            &self.personal,
        )
        .await?;
        let process = ProcessProvider::new(Settings {
            name,
            root,
            user_home: self.home.unwrap_or_else(|| folders.home_dir().to_owned()),
            supervisor: self.supervisor,
            secrets: self.secrets,
            faults: self.faults,
            sandbox: self.sandbox,
            personal: self.personal,
            set_up_without_sandbox: self.set_up_without_sandbox,
        });
        Ok(LocalProvider::new(process, containers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pairs: &[(&str, &str)]) -> Result<LocalProviderBuilder> {
        LocalProviderBuilder::default().settings(pairs.iter().copied().collect())
    }

    #[test]
    fn settings_are_taken_by_their_names() {
        let builder = told(&[
            ("data-directory", "/data"),
            ("engine", "/run/engine.sock"),
            ("set-up-without-sandbox", "true"),
            ("git-name", "A"),
            ("git-email", "a@example.com"),
        ])
        .unwrap();
        assert_eq!(builder.root.as_deref(), Some(std::path::Path::new("/data")));
        assert!(
            matches!(&builder.engine, ContainerEngine::At(address) if address == "unix:///run/engine.sock")
        );
        assert!(builder.set_up_without_sandbox && builder.personal.git_identity.is_some());
        assert!(!told(&[]).unwrap().set_up_without_sandbox);
        assert!(matches!(told(&[("engine", "none")]).unwrap().engine, ContainerEngine::None));
    }

    #[test]
    fn what_is_malformed_or_unknown_is_named() {
        for (key, value) in [("set-up-without-sandbox", "yes"), ("set-up-without-sandbx", "true")] {
            let error = told(&[(key, value)]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(key), "{error}");
        }
    }
}
