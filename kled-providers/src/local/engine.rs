//! Whether there are containers beside the processes.

use std::sync::Arc;

use kled_core::provider::Provider;
use kled_core::{Error, ErrorKind};

/// Which container engine a [`LocalProvider`](super::LocalProvider) uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ContainerEngine {
    /// The one that answers, if one does: at `DOCKER_HOST`, else at the usual sockets of Docker and Podman.
    #[default]
    Detected,
    /// The one at this address (`unix://PATH`, `tcp://HOST:PORT`). It has to answer.
    At(String),
    /// None: workspaces are processes.
    None,
}

/// What was found when the provider was built.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "local-container"), expect(dead_code, reason = "no engine is looked for"))]
pub(super) enum Containers {
    /// An engine answers.
    Available(Arc<dyn Provider>),
    /// There is none that this user could have made a workspace with.
    Absent,
    /// There is one, and it does not answer: which workspaces it has is not known.
    Silent(String),
}

impl Containers {
    /// The error of who asks for a container where there is none.
    pub(super) fn missing(&self) -> Error {
        let error = match self {
            Self::Silent(why) => {
                Error::new(ErrorKind::Unavailable, "the container engine does not answer").with("reason", why)
            }
            Self::Available(_) | Self::Absent if cfg!(feature = "local-container") => {
                Error::new(ErrorKind::Unsupported, "no container engine was found")
            }
            Self::Available(_) | Self::Absent => {
                Error::new(ErrorKind::Unsupported, "this program was built without containers")
            }
        };
        error.hint("start Docker or Podman, or leave the image out and ask for isolation process")
    }
}

#[cfg(feature = "local-container")]
pub(super) use detection::find;

/// Without containers there is nothing to look for; an engine that was named cannot be used.
#[cfg(not(feature = "local-container"))]
pub(super) async fn find(
    engine: ContainerEngine,
    _: &kled_core::ProviderName,
    _: &std::path::Path,
    _: &Arc<dyn kled_core::ports::SecretSource>,
    _: &kled_core::provider::Faults,
    _: Option<crate::agent::delivery::AgentProgram>,
    _: &crate::personal::Personal,
) -> kled_core::Result<Containers> {
    match engine {
        ContainerEngine::Detected | ContainerEngine::None => Ok(Containers::Absent),
        ContainerEngine::At(address) => Err(Containers::Absent.missing().with("engine", address)),
    }
}

#[cfg(feature = "local-container")]
mod detection {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use kled_core::ports::SecretSource;
    use kled_core::provider::Faults;
    use kled_core::{ErrorKind, ProviderName, Result};

    use super::super::container::{self, ContainerProvider, ContainerProviderBuilder};
    use super::{ContainerEngine, Containers};
    use crate::agent::delivery::AgentProgram;
    use crate::personal::Personal;

    /// A look that every command line pays for; an engine of this machine answers in milliseconds.
    const PROBE: Duration = Duration::from_secs(1);

    /// Looks for the engine. One that was named has to answer.
    pub(in crate::local) async fn find(
        engine: ContainerEngine,
        name: &ProviderName,
        root: &Path,
        secrets: &Arc<dyn SecretSource>,
        faults: &Faults,
        agent_program: Option<AgentProgram>,
        personal: &Personal,
    ) -> Result<Containers> {
        let builder = ContainerProvider::builder()
            .name(name.as_str())
            .state_root(root.join("containers"))
            .secret_source(Arc::clone(secrets))
            .faults(faults.clone())
            .personal(personal.clone());
        let builder = agent_program.into_iter().fold(builder, ContainerProviderBuilder::agent_program);
        let provider = match engine {
            ContainerEngine::None => return Ok(Containers::Absent),
            ContainerEngine::At(address) => return Ok(available(builder.address(address).build().await?)),
            ContainerEngine::Detected if !container::is_expected() => return Ok(Containers::Absent),
            ContainerEngine::Detected => builder.probe_timeout(PROBE).build().await,
        };
        match provider {
            Ok(provider) => Ok(available(provider)),
            // Whose socket is closed to this user has no workspaces of this user.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(Containers::Absent),
            Err(error) => Ok(Containers::Silent(error.to_string())),
        }
    }

    fn available(provider: ContainerProvider) -> Containers {
        Containers::Available(Arc::new(provider))
    }
}
