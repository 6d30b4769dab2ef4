//! Builds a [`ContainerProvider`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use etcetera::BaseStrategy;
use kled_core::ports::SecretSource;
use kled_core::provider::{
    Capabilities, CommandCapabilities, Enforcement, Faults, LimitCapabilities, SandboxCapabilities,
};
use kled_core::setup::{Dotfiles, GitIdentity};
use kled_core::workspace::Isolation;
use kled_core::{Error, ErrorKind, ProviderName, Result};

use super::engine::{Engine, default_address};
use super::state::boot_time;
use super::under_way::UnderWay;
use super::{ContainerProvider, Context};
use crate::agent::delivery::AgentProgram;
use crate::personal::Personal;
use crate::secrets::EnvironmentAndFileSecrets;

/// An engine on the same machine answers in milliseconds; one that does not answer in this time is as good as absent.
const PROBE: Duration = Duration::from_secs(3);

/// Builds a [`ContainerProvider`]. Setters never fail; [`build`](Self::build) may.
#[derive(Debug, Default)]
pub struct ContainerProviderBuilder {
    name: Option<String>,
    address: Option<String>,
    state_root: Option<PathBuf>,
    default_image: Option<String>,
    faults: Faults,
    secrets: Option<Arc<dyn SecretSource>>,
    probe: Option<Duration>,
    agent_program: Option<AgentProgram>,
    personal: Personal,
}

impl ContainerProviderBuilder {
    /// The name under which it answers. Default: `container`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The engine's socket. Default: `DOCKER_HOST`, else the first of Docker's, the user's Podman's and the system's
    /// Podman's sockets that exists.
    #[must_use]
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.address = Some(format!("unix://{}", path.into().display()));
        self
    }

    /// The engine's address: `unix://PATH`, `tcp://HOST:PORT` or `http://HOST:PORT`, without TLS.
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Where checkouts are kept until they are in their volumes. Nothing in it is needed to find a workspace again.
    /// Default: a folder of Kled in the user's cache folder.
    #[must_use]
    pub fn state_root(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_root = Some(path.into());
        self
    }

    /// The image of workspaces whose spec names none. Without it such a spec is refused.
    #[must_use]
    pub fn default_image(mut self, image: impl Into<String>) -> Self {
        self.default_image = Some(image.into());
        self
    }

    /// Faults at the steps of operations, for tests.
    #[must_use]
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// Where secrets come from. Default: the environment and files.
    #[must_use]
    pub fn secret_source(mut self, secrets: Arc<dyn SecretSource>) -> Self {
        self.secrets = Some(secrets);
        self
    }

    /// The program of the workspace agent, static and for the engine's architecture: `kled-agent`. Workspaces are made
    /// with it as their first process. Without it they have no idle timeout and time to live, no connections to ports,
    /// no copies, and no set-up of the project: see the [module](super).
    #[must_use]
    pub fn agent_program(mut self, program: AgentProgram) -> Self {
        self.agent_program = Some(program);
        self
    }

    /// The user's own files, brought into every workspace that is made. Default: none.
    #[must_use]
    pub fn dotfiles(mut self, dotfiles: Dotfiles) -> Self {
        self.personal.dotfiles = Some(dotfiles);
        self
    }

    /// Who commits in workspaces. Default: nobody is set.
    #[must_use]
    pub fn git_identity(mut self, identity: GitIdentity) -> Self {
        self.personal.git_identity = Some(identity);
        self
    }

    /// What a project may know of this machine's environment, as `${localEnv:NAME}`. Default: nothing.
    #[must_use]
    pub fn local_environment(
        mut self,
        variables: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
    ) -> Self {
        self.personal.tell_projects(variables);
        self
    }

    /// All of it at once.
    #[must_use]
    pub(crate) fn personal(mut self, personal: Personal) -> Self {
        self.personal = personal;
        self
    }

    /// How long the engine may take to answer the first time. Default: 3 seconds.
    #[must_use]
    pub fn probe_timeout(mut self, timeout: Duration) -> Self {
        self.probe = Some(timeout);
        self
    }

    /// Connects to the engine and asks what it can do.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when no engine is found, [`ErrorKind::Timeout`] when it does not answer in time,
    /// [`ErrorKind::PermissionDenied`] when its socket is closed to this user, [`ErrorKind::InvalidInput`] for a
    /// malformed name.
    pub async fn build(self) -> Result<ContainerProvider> {
        let name = ProviderName::new(self.name.unwrap_or_else(|| "container".into()))?;
        let address =
            self.address.or_else(|| default_address(|name| std::env::var(name).ok())).ok_or_else(|| {
                Error::new(ErrorKind::Unavailable, "no container engine was found")
                    .hint("start Docker or Podman's service, or name its socket")
            })?;
        let probe = self.probe.unwrap_or(PROBE);
        let engine = Engine::connect(&address, probe).await?;
        let info = tokio::time::timeout(probe, engine.info())
            .await
            .unwrap_or_else(|_| Err(Error::timeout("connect", probe)))
            .map_err(|error| error.with("engine", &address))?;
        let cpu = info.cpu_cfs_quota.unwrap_or(true);
        let capabilities = capabilities(cpu, info.memory_limit.unwrap_or(true), self.agent_program.is_some());
        let state_root = self.state_root.map_or_else(default_state_root, Ok)?;
        let boot = if engine.is_local() { boot_time() } else { None };
        Ok(ContainerProvider(Arc::new(Context {
            name,
            capabilities,
            under_way: UnderWay::new(&state_root, &engine.address),
            engine,
            default_image: self.default_image,
            faults: self.faults,
            secrets: self.secrets.unwrap_or_else(|| Arc::new(EnvironmentAndFileSecrets)),
            agent_program: self.agent_program,
            agents: crate::agent::Agents::default(),
            personal: self.personal,
            boot,
        })))
    }
}

fn default_state_root() -> Result<PathBuf> {
    let strategy = etcetera::choose_base_strategy().map_err(|cause| {
        Error::new(ErrorKind::Unavailable, "the user's home folder is not known")
            .hint("set HOME, or name a state root")
            .because(cause)
    })?;
    Ok(strategy.cache_dir().join("kled").join("container"))
}

fn capabilities(cpu: bool, memory: bool, has_agent: bool) -> Capabilities {
    let enforced = |kept: bool, what: &str| match kept {
        true => Enforcement::Enforced,
        false => Enforcement::NotEnforced {
            reason: format!("the container engine has no control group for {what}"),
        },
    };
    Capabilities {
        isolations: vec![Isolation::Container],
        checkout: true,
        setup: has_agent,
        images: true,
        durable: true,
        // Without an agent an engine gives 128 plus the signal as the exit code, which an exit can have as well.
        commands: CommandCapabilities {
            exec: true,
            shell: true,
            terminal: true,
            signals: has_agent,
            detach: true,
        },
        connect: has_agent,
        copy: has_agent,
        agent: has_agent,
        logs: true,
        // Docker keeps the last 256 events of all containers in memory, which is no record of a workspace.
        events: false,
        idle_timeout: has_agent,
        time_to_live: has_agent,
        limits: LimitCapabilities {
            cpu: enforced(cpu, "processors"),
            memory: enforced(memory, "memory"),
            disk: Enforcement::NotEnforced {
                reason: "volumes of container engines have no size limit".into(),
            },
        },
        sandbox: SandboxCapabilities { files: true, processes: true },
    }
}
